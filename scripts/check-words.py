#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Holds prose to the word list of Documentation/guidelines.rst.

    scripts/check-words.py [FOLDER]    (default: this tree)

Looks at comments of Rust, C and shell, at the text of .rst and .md, and at nothing else. Prints
"file:line: word: use ..." for each breach and fails if there is one.
"""
import os
import re
import subprocess
import sys

# What is not written, and what is written instead.
WORDS = {
    r"nobody|somebody|anybody|whoever": "name the actor",
    r"those that": "name the thing",
    r"(is|are) told": "learns, receives, is notified",
    r"goes on|go on": "continues",
    r"of (its|their) own": "its own, private",
    r"(cuts? of power|power cuts?)": "power failure",
    r"by and by": "say when",
    r"all the same": "anyway, or leave it out",
}
PATTERNS = [(re.compile(rf"\b(?:{p})\b", re.I), use) for p, use in WORDS.items()]


def comments(lines, mark):
    """The comment of each line, if it has one."""
    for n, line in enumerate(lines, 1):
        # A mark in a string is none; one behind a colon is an address.
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
        found = re.search(mark, bare)
        if found:
            yield n, bare[found.end():]


def block_comments(text):
    """The lines of C's comments."""
    for found in re.finditer(r"/\*.*?\*/", text, re.S):
        first = text.count("\n", 0, found.start()) + 1
        for n, line in enumerate(found.group().split("\n"), first):
            yield n, line


def paragraphs(lines):
    """Text without literal blocks, inline literals and quoted messages."""
    literal = None
    quoted = False
    for n, line in enumerate(lines, 1):
        indent = len(line) - len(line.lstrip())
        if line.strip() and literal is not None:
            if indent > literal:
                continue
            literal = None
        if line.rstrip().endswith("::"):
            literal = indent
        text = re.sub(r"``.*?``|`[^`]*`", "", line)
        # A message is in asterisks, over several lines if it is long.
        parts = re.split(r"(?<!\*)\*(?!\*)", text)
        kept = []
        for k, part in enumerate(parts):
            if k > 0:
                quoted = not quoted
            if not quoted:
                kept.append(part)
        if not line.strip():
            quoted = False
        yield n, " ".join(kept)


def prose(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    lines = text.split("\n")
    if path.endswith(".rs"):
        return comments(lines, r"(?<!:)//")
    if path.endswith((".c", ".h")):
        return block_comments(text)
    if path.endswith((".rst", ".md")):
        return paragraphs(lines)
    if lines[0].startswith("#!/bin/") or (len(lines) > 1 and "shellcheck shell=" in "".join(lines[1:4])):
        return comments(lines, r"(?:^|\s)#(?![!{])")
    return ()


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"],
        capture_output=True, text=True, check=True)
    breaches = 0
    for path in listed.stdout.split("\n"):
        if not path or path.startswith(("LICENSES/", "bench/results/")) or not os.path.isfile(path):
            continue
        try:
            found = list(prose(path))
        except UnicodeDecodeError:
            continue
        for n, text in found:
            for pattern, use in PATTERNS:
                for hit in pattern.finditer(text):
                    print(f"{path}:{n}: {hit.group()}: {use}")
                    breaches += 1
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
