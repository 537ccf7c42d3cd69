#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Holds prose to the word list of Documentation/guidelines.rst.

    scripts/check-words.py [DIR]    (default: this tree)

Looks at comments and string literals of Rust, C and Python, at the whole text of shell scripts,
pages, fio jobs and make files, and at comments of .toml and configurations. Prints
"file:line: word: use ..." for each breach and fails if there is one.
"""
import io
import os
import re
import subprocess
import sys
import tokenize

# The words that are not used, and the words to use instead.
WORDS = {
    r"nobody|somebody|anybody|whoever": "name the actor",
    r"those that": "name the thing",
    r"(is|are|was|were|be|been) told": "learns, receives, is notified",
    r"goes on|go on|went on": "continues",
    r"of (its|their) own": "its own, private",
    r"(cuts? of power|power cuts?)": "power failure",
    r"by and by": "say when",
    r"all the same": "anyway, or leave it out",
    r"mend(s|ed|ing|able)?": "repair",
    r"(slot|page|block|superblock|one) (that|which) (counts|does not count)": "active, inactive",
    r"homeless": "without a leaf slab",
    r"stretch(es)?": "range",
}
PATTERNS = [(re.compile(rf"\b(?:{p})\b", re.I), use) for p, use in WORDS.items()]

# The words of the tests, see Documentation/testing.rst. Names in the code of the core's tests have
# them too.
TEST_WORDS = {
    r"life|lives": "workload",
    r"scenes?": "scenario",
    r"lawful(ly)?": "valid",
}
TESTS = ("rust/ubcore/tests/", "tests/sim/", "tests/crash/", "tests/races/", "tests/fuzz/")
TEST_PATTERNS = [(re.compile(rf"(?<![a-z])(?:{p})(?![a-z])", re.I), use) for p, use in TEST_WORDS.items()]

# These pages quote the words.
QUOTES = {
    "scripts/check-words.py": WORDS,
    "Documentation/guidelines.rst": [r"^ *before: ", "``"],
    "scripts/initramfs.sh": ["nobody:x:"],
    "tests/strata.sh": ["^word "],
}

RUST = re.compile(
    r"""(?P<line>//[^\n]*)
      | (?P<block>/\*.*?\*/)
      | (?P<raw>\bb?c?r(?P<fence>\#*)".*?"(?P=fence))
      | (?P<text>"(?:[^"\\]|\\.)*")
      | '(?:[^'\\\n]|\\[^\n]+?)'""",
    re.S | re.X)
C = re.compile(r"""(?P<block>/\*.*?\*/)|(?P<text>"(?:[^"\\\n]|\\.)*")|'(?:[^'\\\n]|\\.)+'""", re.S)


def tokens(pattern, text):
    """Yields the lines of each comment and string of a C or Rust file."""
    for found in pattern.finditer(text):
        if found.lastgroup is None:
            continue
        first = text.count("\n", 0, found.start()) + 1
        for n, line in enumerate(found.group().split("\n"), first):
            yield n, line


def python(text):
    """Yields the lines of each comment and string of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            for n, line in enumerate(token.string.split("\n"), token.start[0]):
                yield n, line


def hashes(text):
    """Yields the comment of each line that has one."""
    for n, line in enumerate(text.split("\n"), 1):
        found = re.search(r"(?:^|\s)#", line)
        if found:
            yield n, line[found.start():]


def prose(path, text):
    """Yields number and text of each line to look at."""
    name = os.path.basename(path)
    start = "".join(text.split("\n")[:4])
    if path.endswith(".rs"):
        return tokens(RUST, text)
    if path.endswith((".c", ".h")):
        return tokens(C, text)
    if path.endswith(".py") or start.startswith("#!/usr/bin/env python3"):
        return python(text)
    if path.endswith((".toml", ".config", ".lds")):
        return hashes(text)
    if path.endswith((".rst", ".md", ".fio", ".sh", ".patch", ".rules", ".service", ".out")):
        return enumerate(text.split("\n"), 1)
    if name in ("Makefile", "Kbuild", "MAINTAINERS") or start.startswith("#!") or "shellcheck" in start:
        return enumerate(text.split("\n"), 1)
    if path.startswith("Documentation/ABI/"):
        return enumerate(text.split("\n"), 1)
    return ()


def is_quote(path, line):
    """Returns whether the file may have the words on this line."""
    return any(re.search(quote, line) for quote in QUOTES.get(path, ()))


def breaches(path):
    """Yields line, word and advice of each breach in a file."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    lines = text.split("\n")
    if path.endswith(".rs"):
        # The names of functions are sentences too.
        for n, line in enumerate(lines, 1):
            for name in re.findall(r"\bfn (\w+)", line):
                for pattern, use in PATTERNS:
                    for hit in pattern.finditer(name.replace("_", " ")):
                        yield n, hit.group(), use
    if path.startswith(TESTS):
        for n, line in enumerate(lines, 1):
            for pattern, use in TEST_PATTERNS:
                for hit in pattern.finditer(line):
                    yield n, hit.group(), use
    before = ""
    for n, line in prose(path, text):
        for pattern, use in PATTERNS:
            for hit in pattern.finditer(line):
                if not is_quote(path, lines[n - 1]):
                    yield n, hit.group(), use
        # A phrase can be on two lines.
        tail, head = before.split()[-2:], line.strip(" /!*#").split()[:2]
        for pattern, use in PATTERNS:
            for hit in pattern.finditer(" ".join(tail + head)):
                first = len(" ".join(tail))
                if hit.start() < first < hit.end() and not is_quote(path, lines[n - 1]):
                    yield n, hit.group(), use
        before = line


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        capture_output=True, text=True, check=True)
    failed = False
    for path in listed.stdout.split("\n"):
        if path.startswith(("LICENSES/", "bench/results/")) or not os.path.isfile(path):
            continue
        try:
            for n, word, use in breaches(path):
                print(f"{path}:{n}: {word}: {use}")
                failed = True
        except UnicodeDecodeError:
            continue
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
