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


def main():
    rows = []
    goals = []
    for slabs, s in sorted(read(sys.argv[1]).items()):
        rows.append([f"{slabs:,}"] + [f"{median(s[what]):.0f}" for what in ("before_ms", "pause_ms")]
                    + [f"{max(s['pause_ms']):.0f}", f"{median(s['command_ms']):.0f}"])
        if slabs == 16384:
            goals.append(["freeze of 16,384 mapped slabs under load: ms without a completed write", "≤ 10",
                          median(s["pause_ms"]), LIMIT_MS])
    table = {"title": "The longest time without a completed write, in ms",
             "head": ["slabs mapped", "before", "at the freeze", "at most", "ubctl freeze"], "rows": rows,
             "note": "fio, random writes of 4 KiB at depth 64, half of them to slabs that are not mapped. Medians of "
                     "the runs. fio's log has whole milliseconds."}
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        json.dump({"tables": [table], "targets": goals}, f, indent=1, ensure_ascii=False)
        f.write("\n")
    for row in [table["head"]] + rows:
        print("  ".join(f"{cell:>14}" for cell in row))


if __name__ == "__main__":
    main()
