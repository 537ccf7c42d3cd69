# SPDX-License-Identifier: GPL-2.0
"""The results as a Markdown page."""

from lib.collect import CASE_ORDER, DEVICES

ENVS = {
    "uml1": "User-Mode Linux, 1 CPU",
    "uml2": "User-Mode Linux, 2 CPUs",
    "tcg2": "stock kernel in QEMU, emulated, 2 CPUs",
}
CACHES = {
    "none": "lower disks without a volatile cache",
    "fua": "lower disks with a volatile cache and FUA",
    "nofua": "lower disks with a volatile cache, without FUA",
}


def grid(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def number(n):
    """Returns a number with as many digits as are significant."""
    if n == 0:
        return "0"
    return f"{n:.3f}" if n < 0.1 else f"{n:.2f}" if n < 100 else f"{n:.0f}"


def groups(cells):
    """Returns the cells by environment and cache, in order; in each by case, depth, jobs."""
    out = {}
    for c in cells:
        case = (CASE_ORDER.index(c["case"]), c["depth"], c["jobs"])
        out.setdefault((c["env"], c["cache"]), {}).setdefault(case, {})[c["device"]] = c
    return out


def label(key):
    case, depth, jobs = CASE_ORDER[key[0]], key[1], key[2]
    return f"{case}, {depth}" + (f", {jobs} jobs" if jobs > 1 else "")


def ratios(rows):
    lines = []
    for key, row in sorted(rows.items()):
        line = [label(key), str(row["raw"]["iops"])]
        for d in DEVICES:
            c = row[d]
            words = f"{c['ratio']:.2f} <sub>{c['p25']:.2f}–{c['p75']:.2f}</sub>"
            line.append(f"**{words}**" if d == "unionblk" else words)
        lines.append(line)
    return grid(["case", "raw IOPS"] + DEVICES, lines)


def costs(rows):
    """Returns the processor times, which other programs on a busy machine change little."""
    lines = []
    for key, row in sorted(rows.items()):
        if row["raw"]["cpu_ratio"]:
            lines.append([label(key), number(row["raw"]["cpu_us"])]
                         + [number(row[d]["cpu_ratio"]) for d in DEVICES[1:]])
    return grid(["raw's processor time over that of", "raw, µs"] + DEVICES[1:], lines) if lines else []


def latencies(rows):
    lines = [[label(key)] + [number(row[d]["p99_us"]) for d in DEVICES]
             for key, row in sorted(rows.items())]
    return grid(["p99, µs"] + DEVICES, lines)


def lowers(rows):
    lines = []
    for key, row in sorted(rows.items()):
        line = [label(key)]
        for d in DEVICES:
            low = row[d]["lower"]
            line.append(f"{number(low['reads'])} / {number(low['writes'])} / "
                        f"{number(low['flushes'])} / {low['bytes'] / 1024:.1f}")
        lines.append(line)
    return grid(["lower reads / writes / flushes / KiB"] + DEVICES, lines)


def instructions(counts):
    """Returns the instructions of an operation, and how many of them raw does not need."""
    rows = {}
    for c in counts:
        rows.setdefault((c["case"], c["depth"]), {})[c["device"]] = c["per_io"]
    lines = []
    for (case, depth), row in rows.items():
        line = [f"{case}, {depth}", str(row["raw"])]
        lines.append(line + [f"+{row[d] - row['raw']} <sub>{row['raw'] / row[d]:.2f}</sub>" if d in row else ""
                             for d in DEVICES[1:]])
    return grid(["instructions", "raw"] + DEVICES[1:], lines)


def targets(rows):
    lines = [[r["target"], r["wanted"], r["measured"], "holds" if r["holds"] else "**misses**"]
             for r in rows]
    return grid(["what", "goal", "measured", ""], lines)


def page(result, plots):
    """Returns the lines of the page."""
    out = ["<!-- SPDX-License-Identifier: GPL-2.0 -->", "# Benchmark results", "",
           "Written by `make bench`; [performance.rst](../../Documentation/performance.rst) says how",
           "to read it.", "",
           f"Kernel {result['kernel']}, commit {result['commit']}, CPU: {result['cpu']}, {result['date']}.",
           "", "Ratios are to the raw leaf, each run paired with the raw run beside it: median and",
           f"quartiles of {result['reps']} repetitions. The ratio of raw is to the other raw runs, so its",
           "quartiles are the noise.", ""]
    if not result["quiet"]:
        out += ["**The machine was not quiet: these figures are noisy.**", ""]
    if result["targets"]:
        out += ["## Goals", ""] + targets(result["targets"]) + [""]
    if result.get("scenes"):
        out += ["## Scenes", ""]
        for scene in result["scenes"]["tables"]:
            out += [f"### {scene['title']}", ""] + grid(scene["head"], scene["rows"]) + [""]
            out += [scene["note"], ""] if scene.get("note") else []
    if result.get("instructions"):
        out += ["## Instructions for an operation", "",
                "Instructions of the stock kernel and of fio, emulated with one processor. Below each",
                "device: what it adds to raw, and the ratio of raw to it.", ""]
        out += instructions(result["instructions"]) + [""]
    for (env, cache), rows in groups(result["cells"]).items():
        out += [f"## {ENVS[env]}; {CACHES[cache]}", ""]
        if (env, cache) in plots:
            out += [f"![ratio to raw]({plots[env, cache]})", ""]
        for part in (ratios, costs, latencies, lowers):
            out += part(rows) + [""]
    return out
