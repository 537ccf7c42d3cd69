#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Shows in which functions a device takes more instructions for an operation than the raw disk.

    bench/functions.py [--case CASE] [--device DEVICE] [--lines N] [DIR]

DIR is what bench/run.sh leaves of the environment tcg1: build/bench/raw-tcg1. For each case:
instructions and indirect calls of an operation; the instructions more than on raw, by part of the
work; and, by function, the instructions more, the calls more, and the module. c++filt makes names of Rust readable.
"""

import argparse

from lib import collect, functions


def table(section, raw, lines):
    """Yields the lines of one case."""
    yield (f"  raw {raw.total():,.1f}, over raw {section.total() - raw.total():+,.1f}, own {section.own():,.1f}; "
           f"indirect calls {section.branches:.1f}, raw {raw.branches:.1f}")
    rows = functions.differences(section, raw)
    for part, instructions in functions.parts(rows).items():
        yield f"{instructions:+12,.1f}           {part}"
    yield "  by function:"
    for (name, module), cost in rows[:lines]:
        yield f"{cost.instructions:+12,.1f} {cost.calls:+8.2f}  {name}{f' [{module}]' if module else ''}"
    rest = sum(cost.instructions for _, cost in rows[lines:])
    yield f"{rest:+12,.1f}           in {len(rows[lines:]):,} others"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", help="this case alone")
    parser.add_argument("--device", default="unionblk")
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("folder", nargs="?", default="build/bench/raw-tcg1")
    args = parser.parse_args()
    found = functions.measured(args.folder)
    for key in sorted(found, key=collect.count_order):
        cache, case, depth, device = key
        if device != args.device or args.case not in (None, case):
            continue
        print(f"{case}, {depth}, cache {cache}: {device}")
        for line in table(found[key], found[cache, case, depth, "raw"], args.lines):
            print(line)


if __name__ == "__main__":
    main()
