#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Compares what a union adds to its raw disks, in instructions for one operation,
with limits. The counts are exact on any machine, however busy.

    bench/count.py latest.json.zst

Prints a line for each case; exit status 1 if one adds too much or is missing.
"""

import json
import subprocess
import sys

# Limits of what a union may add, by case and depth. dm-linear adds about 1,800, and
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
    """Yields a row for each limit: case, depth, raw, dm-linear's addition, the union's, the limit."""
    per_io = {(c["case"], c["depth"], c["device"]): c["per_io"] for c in counts}
    for (case, depth), limit in LIMITS.items():
        raw, linear, union = (per_io.get((case, depth, d)) for d in ("raw", "linear", "unionblk"))
        if raw is None or linear is None or union is None:
            yield case, depth, None, None, None, limit
        else:
            yield case, depth, raw, linear - raw, union - raw, limit


def main():
    text = subprocess.run(["zstd", "-q", "-dc", sys.argv[1]], stdout=subprocess.PIPE, check=True).stdout
    counts = json.loads(text)["instructions"]
    over = 0
    for case, depth, raw, linear, union, limit in judge(counts):
        name = f"{case}, {depth}"
        if raw is None:
            print(f"{name:26} not measured")
            over += 1
            continue
        held = union <= limit
        over += not held
        print(f"{name:26} raw {raw:7,}   dm-linear {linear:+7,}   union {union:+7,}   "
              f"limit {limit:+7,}   {'ok' if held else 'TOO MUCH'}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
