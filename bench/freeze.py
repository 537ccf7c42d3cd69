#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes the table of the pauses of a freeze, and prints it.

    bench/freeze.py OUTPUT FILE
"""

import json
import sys

from lib.collect import median

LIMIT_MS = 10


def read(path):
    """Returns a map: slabs -> what -> values."""
    found = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if len(words) == 5 and words[0] == "freeze":
                slabs, _, what, value = words[1:]
                found.setdefault(int(slabs), {}).setdefault(what, []).append(float(value))
    return found


def fresh(s):
    """Returns how much of the writes before the freeze mapped a slab, in per cent, for each run."""
    return [100 * (used - filled) / writes
            for used, filled, writes in zip(s["used"], s["filled"], s["before_writes"])]


def main():
    rows = []
    goals = []
    for slabs, s in sorted(read(sys.argv[1]).items()):
        rows.append([f"{slabs:,}", f"{median(s['used']):,.0f}", f"{median(fresh(s)):.0f} %"]
                    + [f"{median(s[what]):.0f}" for what in ("before_ms", "pause_ms")]
                    + [f"{max(s['pause_ms']):.0f}", f"{median(s['command_ms']):.0f}"])
        if slabs == 16384:
            what = "freeze of 16,384 mapped slabs under load: ms without a completed write"
            goals.append([f"{what}, median", f"≤ {LIMIT_MS}", median(s["pause_ms"]), LIMIT_MS])
            goals.append([f"{what}, of any run", f"≤ {LIMIT_MS}", max(s["pause_ms"]), LIMIT_MS])
    table = {"title": "The longest time without a completed write, in ms",
             "head": ["slabs", "in use", "first writes", "before", "at the freeze", "at most", "ubctl freeze"],
             "rows": rows,
             "note": "fio, random writes of 4 KiB at depth 64. Slabs in use just before the freeze; the share of the "
                     "writes until then that mapped a slab. Medians of the runs. fio's log has whole milliseconds."}
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        json.dump({"tables": [table], "targets": goals}, f, indent=1, ensure_ascii=False)
        f.write("\n")
    for row in [table["head"]] + rows:
        print("  ".join(f"{cell:>14}" for cell in row))


if __name__ == "__main__":
    main()
