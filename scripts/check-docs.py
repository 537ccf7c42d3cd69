#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares what the pages say of this tree with the tree.

    scripts/check-docs.py [FOLDER]    (default: this tree)

- A path of this tree that a page names exists.
- design.rst names each file of the driver, and testing.rst each test of the core.
- testing.rst has the stages of tests/run.sh, in their order.

Prints "file:line: what" for each breach and fails if there is one.
"""
import glob
import os
import re
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


def rooms(path):
    """Returns the names that a file may have in the tables of rooms."""
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
        if path not in PARTS and not any(f"``{name}``" in design for name in rooms(path)):
            yield f"Documentation/design.rst:1: Source layout does not name {path}"

    testing = text("Documentation/testing.rst")
    for path in sorted(glob.glob("rust/ubcore/tests/*.rs")):
        if f"``tests/{os.path.basename(path)}``" not in testing:
            yield f"Documentation/testing.rst:1: no word of {path}"
    stages = re.search(r"(?m)^stages=\((.*)\)$", text("tests/run.sh"))
    if stages and f"``{stages.group(1)}``" not in re.sub(r"\s+", " ", testing):
        yield "Documentation/testing.rst:1: other stages than in tests/run.sh"


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
