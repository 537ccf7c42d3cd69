#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares what a union adds to its raw disks, and a layer to a leaf, in instructions
for one operation, with goals. Other load on the machine does not change the counts. Those of
the cases are of bench/plugin/counter.c, those of layers are of the clock, good to about 15.

    bench/count.py [latest.json.zst] [layers.json.zst]

Prints a line for each case; exit status 1 if one adds too much or is missing.
"""

import json
import subprocess
import sys

from lib import layers

# Goals for what a union may add, by case and depth. dm-linear adds about 1,800, and
# maps nothing.
LIMITS = {
    ("randread-mapped", "batch"): 1500,
    ("randread-unmapped", "batch"): 1500,
    ("randread-mixed", "batch"): 1550,
    ("overwrite", "batch"): 1650,
    ("firstwrite", "batch"): 1950,
    ("randread-mapped", "qd1"): 1730,
    ("overwrite", "qd1"): 1900,
    ("seqread-4k", "batch"): 1800,
    ("seqwrite-4k", "batch"): 1900,
    ("fsync1", "qd1"): 42000,
}


def judge(counts):
    """Yields a row for each goal: case, depth, the goal, and the counts of raw, dm-linear and the
    union, or None."""
    found = {(c["case"], c["depth"], c["device"]): c for c in counts}
    for (case, depth), limit in LIMITS.items():
        row = [found.get((case, depth, d)) for d in ("raw", "linear", "unionblk")]
        yield case, depth, limit, row if all(row) else None


def cases(counts):
    """Prints the cases, and returns how many miss their goals or are missing."""
    over = 0
    for case, depth, limit, row in judge(counts):
        name = f"{case}, {depth}"
        if row is None:
            print(f"{name:22} not measured")
            over += 1
            continue
        raw, linear, union = row
        added = union["per_io"] - raw["per_io"]
        over += added > limit
        print(f"{name:22} raw {raw['per_io']:6,}   dm-linear {linear['per_io'] - raw['per_io']:+6,}   "
              f"union {added:+7,}, own {union['own']:6,}   indirect calls {raw['indirect']:.1f} "
              f"{union['indirect'] - raw['indirect']:+.1f}   "
              f"goal {limit:+7,}   {'TOO MUCH' if added > limit else 'ok'}")
    return over


def over_layers(figures):
    """Does the same for layers."""
    over, found = 0, False
    for name, value, limit in layers.limits(figures):
        found = True
        over += value > limit
        print(f"{name:38} {value:+7,}   goal {limit:+7,}   {'ok' if value <= limit else 'TOO MUCH'}")
    if not found:
        print("layers: not measured")
    return over + (not found)


def main():
    over = 0
    for path in sys.argv[1:]:
        text = subprocess.run(["zstd", "-q", "-dc", path], stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(text)
        over += over_layers(result["figures"]) if "figures" in result else cases(result["instructions"])
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
