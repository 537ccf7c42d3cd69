#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Folds the stacks of a trace: prints one line for each, callers first, and how often it was seen.

    bench/flame.py FILE
"""

import collections
import re
import sys

# The part of the stack that belongs to the interrupt itself: its handler, and
# the way to it.
INTERRUPT = re.compile(r"^(asm_)?(sysvec_apic_timer|common)_interrupt$")
FRAME = re.compile(r"^ => (\S+?)(\+0x\S+)?$")


def stacks(lines):
    """Yields the functions of each stack, the innermost first."""
    stack = None
    for line in lines:
        line = line.rstrip("\n")
        if "<stack trace>" in line:
            if stack:
                yield stack
            stack = []
            continue
        found = FRAME.match(line)
        if found and stack is not None:
            stack.append(found.group(1))
        elif stack:
            yield stack
            stack = None
    if stack:
        yield stack


def interrupted(stack):
    """Returns the stack without the interrupt; nothing is left if it interrupted a program."""
    last = max((i for i, name in enumerate(stack) if INTERRUPT.match(name)), default=-1)
    return stack[last + 1:]


def main():
    counts = collections.Counter()
    with open(sys.argv[1], encoding="utf-8", errors="replace") as f:
        for stack in stacks(f):
            names = [name.replace(";", ":") for name in interrupted(stack)]
            counts[";".join(reversed(names)) or "fio"] += 1
    for stack, n in sorted(counts.items()):
        print(stack, n)


if __name__ == "__main__":
    main()
