#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares what the pages say of this tree with the tree.

    scripts/check-docs.py [DIR]    (default: this tree)

- A path of this tree that a page names exists.
- design.rst names each file of the driver, and testing.rst each test of the core.
- A function that design.rst names with its file, in a table of *Lives, function by function*, is in that file.
- testing.rst has the stages of tests/run.sh, in their order.
- The invariants of design.rst have consecutive numbers, the code cites each of them, and cites no
  other.
- troubleshooting.rst has each word that ubctl gives as the reason of an error, and each message of
  the driver to the kernel's log.
- admin.rst has each kind of finding of "ubctl check", and no other.
- MAINTAINERS covers each directory and each file at the top.

Prints "file:line: what" for each breach and fails if there is one.
"""
import glob
import os
import re
import subprocess
import sys

ROOTS = ("rust/", "tests/", "tools/", "scripts/", "include/", "bench/", "Documentation/", ".ci/")
# The kernel's tree has these, not ours.
KERNELS = re.compile(r"Documentation/(?!ABI/)[a-z-]+/|rust/kernel$|scripts/sign-file$")
# A path can be short for one of these.
BELOW = ("", "rust/ubcore/", "tools/ubctl/")
# A word that stands for another: PART.sh, NNN.
STANDS_FOR = re.compile(r"(?:^|/)[A-Z]{3,}(?:[./]|$)")
# The root of each part, which only lists the files.
PARTS = ("rust/unionblk_main.rs", "rust/ubcore/mod.rs", "rust/blk/mod.rs", "rust/sys/mod.rs")


def names(path):
    """Returns the names that a file may have in the tables of modules."""
    folder, name = os.path.split(path)
    folder = os.path.basename(folder)
    if name == "mod.rs":
        return f"{folder}/", f"{folder}/{name}"
    stem = name[:-len(".rs")]
    return stem, name, f"{folder}/{stem}", f"{folder}/{name}"


def breaches():
    pages = sorted(glob.glob("Documentation/*.rst")) + ["README.md", "CONTRIBUTING.md"]
    for page in pages:
        with open(page, encoding="utf-8") as f:
            lines = f.read().split("\n")
        for n, line in enumerate(lines, 1):
            for literal in re.findall(r"``([^`]+)``" if page.endswith(".rst") else r"`([^`]+)`", line):
                path = literal.split(" ")[0].rstrip(",:")
                if not path.startswith(ROOTS) or KERNELS.match(path) or STANDS_FOR.search(path):
                    continue
                if not any(glob.glob(folder + path) for folder in BELOW):
                    yield f"{page}:{n}: there is no {path}"

    design = text("Documentation/design.rst")
    design = design[:design.find("\nThe map\n===")]
    files = glob.glob("rust/*.rs") + glob.glob("rust/*/*.rs") + glob.glob("rust/ubcore/*/mod.rs")
    for path in sorted(files):
        if path not in PARTS and not any(f"``{name}``" in design for name in names(path)):
            yield f"Documentation/design.rst:1: Source layout does not name {path}"

    for n, line in enumerate(text("Documentation/design.rst").split("\n"), 1):
        hop = re.match(r"``(\w+)`` +``(\S+\.(?:rs|c))``", line)
        if hop and not defines("rust/" + hop.group(2), hop.group(1)):
            yield f"Documentation/design.rst:{n}: no function {hop.group(1)} in rust/{hop.group(2)}"

    testing = text("Documentation/testing.rst")
    for path in sorted(glob.glob("rust/ubcore/tests/*.rs")):
        if not path.endswith("/suite.rs") and f"``tests/{os.path.basename(path)}``" not in testing:
            yield f"Documentation/testing.rst:1: no word of {path}"
    stages = re.findall(r"(?m)^(?:host|guests)=\((.*)\)$", text("tests/run.sh"))
    if len(stages) != 2 or any(f"``{names}``" not in re.sub(r"\s+", " ", testing) for names in stages):
        yield "Documentation/testing.rst:1: other stages than in tests/run.sh"
    for path in sorted(glob.glob("rust/ubcore/tests/*.rs") + glob.glob("tools/ubctl/tests/*.rs")):
        folder, name = os.path.split(path)
        if name != "suite.rs" and f"mod {name[:-3]};" not in text(f"{folder}/suite.rs"):
            yield f"{folder}/suite.rs:1: no module {name[:-3]}, so its tests do not run"
    yield from invariants()
    yield from reasons()
    yield from messages()
    yield from kinds()
    yield from maintained()


def invariants():
    """Compares the list of invariants with the code that cites them."""
    listed = []
    for n, line in enumerate(text("Documentation/design.rst").split("\n"), 1):
        found = re.match(r":I(\d+):", line)
        if found:
            listed.append(int(found.group(1)))
            if listed[-1] != len(listed):
                yield f"Documentation/design.rst:{n}: I{len(listed)} is missing"
    cited = set()
    for path in sorted(glob.glob("rust/**/*.rs", recursive=True)):
        for n, line in enumerate(text(path).split("\n"), 1):
            for group in re.findall(r"\((I\d+(?:, I\d+)*)\)", line):
                numbers = {int(number) for number in re.findall(r"\d+", group)}
                cited |= numbers
                for number in sorted(numbers - set(listed)):
                    yield f"{path}:{n}: there is no I{number} in design.rst"
    for number in sorted(set(listed) - cited):
        yield f"Documentation/design.rst:1: no code cites I{number}"


def reasons():
    """Compares the words that ubctl gives as reasons with the page that explains them."""
    page = text("Documentation/troubleshooting.rst")
    for path in sorted(glob.glob("tools/ubctl/src/**/*.rs", recursive=True)):
        source = text(path)
        for found in re.finditer(r'\bFail::new\(\s*[\w:]+,\s*"(\w+)"', source):
            if f"``{found.group(1)}``" not in page:
                line = source.count("\n", 0, found.start()) + 1
                yield f"{path}:{line}: troubleshooting.rst does not explain {found.group(1)}"


def messages():
    """Compares the driver's messages to the kernel's log with the page that explains them."""
    page = " ".join(text("Documentation/troubleshooting.rst").split())
    for path in sorted(glob.glob("rust/**/*.rs", recursive=True)):
        source = text(path)
        for found in re.finditer(r'\bpr_\w+!\(\s*"((?:[^"\\]|\\.)*)"', source, re.S):
            message = re.sub(r"\\\n\s*", "", found.group(1)).removesuffix("\\n")
            for part in re.split(r"\{[^}]*\}", message):
                if part.strip() not in page:
                    line = source.count("\n", 0, found.start()) + 1
                    yield f"{path}:{line}: troubleshooting.rst does not explain: {part.strip()}"


def kinds():
    """Compares the kinds of findings with the table that explains them."""
    check = "tools/ubctl/src/commands/check"
    kind = re.search(r"(?s)pub fn kind\(.*?\n}\n", text(f"{check}/text.rs")).group(0)
    given = set(re.findall(r'=> "(\w+)"', kind))
    given |= set(re.findall(r'(?:kind:|WRONG_ROOT: &str =) "(\w+)"', text(f"{check}.rs")))
    page = text("Documentation/admin.rst")
    table = page[page.find("\nKinds of findings\n---"):].split("\n\n")[1]
    listed = set(re.findall(r"(?m)^``(\w+)`` +(?:note|minor|damage) ", table))
    for word in sorted(given ^ listed):
        where = "does not explain" if word in given else "explains another kind:"
        yield f"Documentation/admin.rst:1: Kinds of findings {where} {word}"


def maintained():
    """Compares the F: lines of MAINTAINERS with the top of the tree."""
    patterns = re.findall(r"(?m)^F:\t(.*)$", text("MAINTAINERS"))
    for pattern in patterns:
        if not glob.glob(pattern):
            yield f"MAINTAINERS:1: there is no {pattern}"
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files"], capture_output=True, text=True, check=True)
    for path in sorted({path.split("/")[0] + "/" * ("/" in path) for path in listed.stdout.split()}):
        if path not in patterns and (path.endswith("/") or "*" not in patterns):
            yield f"MAINTAINERS:1: no F: covers {path}"


def defines(path, function):
    """Returns whether a file of Rust or C defines a function."""
    if not os.path.exists(path):
        return False
    before = r"\bfn " if path.endswith(".rs") else r"(?m)^\w[\w *]*\b"
    return re.search(before + function + r"[<(]", text(path)) is not None


def text(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
    found = list(breaches())
    for breach in found:
        print(breach)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
