#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes bench/results from the guests' measurements: README.md, two plots, and the
figures for programs in latest.json.zst. The figures of layers.py stay there."""

import argparse
import datetime
import json
import os
import subprocess

from lib import collect, layers, plot, table, targets

# The environments and kinds of lower cache of which there is a plot.
PLOTTED = [("uml1", "none"), ("uml1", "fua")]


def kernel_of(folders):
    """Returns the kernels, each once."""
    found = []
    for folder in folders:
        with open(os.path.join(folder, "facts"), encoding="utf-8") as f:
            release = f.readline().split()[1]
        if release not in found:
            found.append(release)
    return ", ".join(found)


def read_scenes(work):
    path = os.path.join(work, "scenes.json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def write(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        f.write(text)


def pack(folder, name, text):
    """Writes a file that zstd has compressed."""
    path = os.path.join(folder, name)
    subprocess.run(["zstd", "-q", "-19", "-f", "-o", path], input=text.encode(), check=True)


def unpack(folder, name):
    """Returns what a packed file of JSON holds, or None without it."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    text = subprocess.run(["zstd", "-q", "-dc", path], stdout=subprocess.PIPE, check=True).stdout
    return json.loads(text)


def render(folder):
    """Writes the page and the plots from the packed figures."""
    result, below = unpack(folder, "latest.json.zst"), unpack(folder, "layers.json.zst")
    plots, lines = {}, []
    if result:
        for (env, cache), rows in table.groups(result["cells"]).items():
            if (env, cache) in PLOTTED:
                plots[env, cache] = f"{env}-{cache}.svg"
                write(folder, plots[env, cache], plot.plot(env, cache, rows))
        lines = table.page(result, plots)
    if below:
        lines += layers.page(below)
    write(folder, "README.md", "\n".join(lines))
    return plots


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--commit", "--cpu", "--quiet", "--work", "--results"):
        parser.add_argument(name, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("envs", nargs="+")
    args = parser.parse_args()
    folders = {env: os.path.join(args.work, "raw-" + env) for env in args.envs}
    cells, counts = [], []
    for env, folder in folders.items():
        # If the clock counts instructions, there are no times.
        if env == "tcg1":
            counts = collect.instructions(folder)
        else:
            cells += collect.cells_of(env, folder)
    collect.sort_cells(cells)
    scenes = read_scenes(args.work)
    reps = [c["reps"] for c in cells if c["device"] == "unionblk"] or [1]
    result = {
        "kernel": kernel_of(folders.values()), "cpu": args.cpu, "commit": args.commit,
        "date": datetime.date.today().isoformat(),
        "quiet": args.quiet == "yes", "quick": args.quick,
        "reps": str(min(reps)) if min(reps) == max(reps) else f"{min(reps)} to {max(reps)}",
        "targets": targets.judge(cells, scenes), "scenes": scenes, "instructions": counts,
        "cells": cells,
    }
    os.makedirs(args.results, exist_ok=True)
    pack(args.results, "latest.json.zst", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    plots = render(args.results)
    for row in result["targets"]:
        print(f"{'holds ' if row['holds'] else 'MISSES'} {row['target']}: {row['measured']} ({row['wanted']})")
    print(f"{len(cells)} cells: {args.results}/README.md, latest.json.zst and {len(plots)} plots")


if __name__ == "__main__":
    main()
