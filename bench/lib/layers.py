# SPDX-License-Identifier: GPL-2.0
"""The comparison of layers: a part of the page, a plot as SVG, and limits."""

import math

from lib.plot import STYLE, shape
from lib.table import grid

NAMES = {
    "union": "unionblk", "snapshot": "dm-snapshot 4K", "overlayfs": "overlayfs", "qcow2": "qcow2, qemu-nbd",
}
WORDS = {
    "read-leaf": "read of the leaf", "read-layer": "read of the lowest layer",
    "read-spread": "read of many layers", "read-mixed": "read of mixed slabs",
    "read-bottom": "read of the bottom", "firstwrite": "first write",
}
DEPTHS = {"batch": "", "qd1": ", depth 1"}
MARKS = {"union": ("#d1342f", "circle"), "snapshot": ("#b07cc6", "up"), "overlayfs": ("#3f8fd2", "diamond"),
         "qcow2": ("#d98e04", "square")}
PLOTTED = {"read-layer": "", "firstwrite": "5 4"}
LEFT, WIDE, RIGHT, TOP, HIGH = 90, 620, 190, 78, 420


def rows_of(figures, env):
    """Returns the figures of one environment: (kind, case, depth) -> layers -> figure."""
    rows = {}
    for f in figures:
        if f["env"] == env:
            rows.setdefault((f["kind"], f["case"], f["depth"]), {})[f["layers"]] = f
    return rows


def lines_of(rows, first, cell):
    """Returns a table with a row for each kind and case, and a column for each number of layers."""
    numbers = sorted({n for row in rows.values() for n in row})
    lines = []
    for (kind, case, depth), row in rows.items():
        line = [NAMES[kind], WORDS[case] + DEPTHS[depth]] + first[1](row)
        lines.append(line + [cell(row[n]) if n in row else "" for n in numbers])
    return grid(["", "4 KiB"] + first[0] + [str(n) for n in numbers], lines)


def page(result):
    """Returns the lines of the part of the page."""
    out = ["## Layers", ""]

    def about(env):
        run = result["runs"][env]
        return [f"Kernel {run['kernel']}, commit {run['commit']}, CPU: {run['cpu']}, {run['date']}.", ""]

    counts, times = (rows_of(result["figures"], env) for env in ("tcg1", "uml1"))
    if counts:
        out += about("tcg1") + ["![instructions over layers](layers.svg)", "",
                "Instructions for an operation over so many layers, fio's among them; *raw* is the disk below,",
                "or the file system below overlayfs. A first write of overlayfs opens a file of 64 KiB and copies",
                "it up. With no layers qemu-nbd has a raw image.", ""]
        raw = (["raw"], lambda row: [str(next(iter(row.values()))["raw"])])
        out += lines_of(counts, raw, lambda f: str(f["per_io"])) + [""]
    if result["targets"]:
        out += ["Goals for unions, in instructions:", ""]
        out += grid(["goal", "wanted", "measured", ""], [
            [row["target"], row["wanted"], row["measured"], "holds" if row["holds"] else "**misses**"]
            for row in result["targets"]]) + [""]
    if times:
        run = result["runs"]["uml1"]
        out += about("uml1")
        out += [f"Raw's processor time over that of an operation, and below it the ratio to raw of {run['reps']}",
                "repetitions, with quartiles, in User-Mode Linux with one processor.", ""]
        if not run["quiet"]:
            out += ["**The machine was not quiet: the ratios are noisy. The processor times are less so.**", ""]

        def cell(f):
            cost = f"{f['cpu_ratio']:.2f}" if f["cpu_ratio"] else "–"
            return f"{cost} <sub>{f['ratio']:.2f}, {f['p25']:.2f}–{f['p75']:.2f}</sub>"

        out += lines_of(times, ([], lambda row: []), cell) + [""]
    return out


def plot(figures):
    """Returns a plot: instructions of an operation over the number of layers, both logarithmic."""
    rows = {k: row for k, row in rows_of(figures, "tcg1").items() if k[1] in PLOTTED and k[2] == "batch"}
    values = [f["per_io"] for row in rows.values() for f in row.values()]
    numbers = sorted({n for row in rows.values() for n in row if n})
    low, high = (math.log10(v) for v in (min(values) / 1.2, max(values) * 1.2))
    right = math.log2(max(max(numbers), 2))

    def x(n):
        return LEFT + WIDE * math.log2(n) / right

    def y(v):
        return TOP + HIGH * (high - math.log10(v)) / (high - low)

    width, height = LEFT + WIDE + RIGHT, TOP + HIGH + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
           f'height="{height}" role="img">', f"<style>{STYLE}</style>",
           f'<rect width="{width}" height="{height}" class="bg"/>',
           '<text x="14" y="26" class="fg title">Instructions for 4 KiB: lower is cheaper</text>',
           '<text x="14" y="48" class="dim">over the number of layers; stock kernel, emulated; '
           "line: read of the lowest layer, dashed: first write</text>"]
    for n in numbers:
        out += [f'<line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{TOP}" y2="{TOP + HIGH}" class="grid"/>',
                f'<text x="{x(n):.1f}" y="{TOP + HIGH + 22}" text-anchor="middle" class="dim">{n}</text>']
    for power in range(math.ceil(low), math.floor(high) + 1):
        for v in (10 ** power, 3 * 10 ** power):
            if low <= math.log10(v) <= high:
                out += [f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{y(v):.1f}" y2="{y(v):.1f}" class="grid"/>',
                        f'<text x="{LEFT - 10}" y="{y(v) + 4:.1f}" text-anchor="end" class="dim">{v:,}</text>']
    taken = []
    for (kind, case, _), row in sorted(rows.items(), key=lambda r: -max(r[1].items())[1]["per_io"]):
        colour, mark = MARKS[kind]
        points = [(x(n), y(f["per_io"]), n, f["per_io"]) for n, f in sorted(row.items()) if n]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                   f'stroke-dasharray="{PLOTTED[case]}"/>')
        for a, b, n, v in points:
            out.append(f"<g><title>{NAMES[kind]}, {WORDS[case]}, {n} layers: {v:,}</title>{shape(mark, a, b, colour)}</g>")
        # Labels beside the last points, one below the other.
        at = max([points[-1][1] + 4] + [t + 16 for t in taken])
        taken.append(at)
        out.append(f'<text x="{LEFT + WIDE + 14}" y="{at:.1f}" class="fg">{NAMES[kind]}, '
                   f'{"read" if case == "read-layer" else "first write"}</text>')
    return "\n".join(out + ["</svg>", ""])


# What a read of a layer may cost above one of the leaf on the same union, in instructions.
ABOVE_LEAF = 60
# By how much the cost of the same read may differ with 1 and with 254 layers.
FLAT = 60


def limits(figures):
    """Yields what is limited, the value, and the limit."""
    rows = rows_of(figures, "tcg1")
    for depth, words in DEPTHS.items():
        layer, leaf = (rows.get(("union", case, depth), {}) for case in ("read-layer", "read-leaf"))
        for n, figure in sorted(layer.items()):
            yield f"layer over leaf{words}, {n} layers", figure["per_io"] - leaf[n]["per_io"], ABOVE_LEAF
        if layer:
            costs = [figure["per_io"] for figure in layer.values()]
            yield f"layer{words}, most over least", max(costs) - min(costs), FLAT


def judge(figures):
    """Returns a row for each goal: what, wanted, measured, held."""
    return [{"target": what, "wanted": f"≤ {limit}", "measured": f"{value:+}", "holds": value <= limit}
            for what, value, limit in limits(figures)]
