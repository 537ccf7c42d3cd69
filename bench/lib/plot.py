# SPDX-License-Identifier: GPL-2.0
"""Plots as SVG, without a library: a line for each case, a mark for each device
at its ratio to raw, whiskers at the quartiles. The plot is light or dark as the
reader's browser asks."""

from lib.table import CACHES, ENVS, label

MARKS = {
    "linear": ("#7a7a7a", "square", "dm-linear"),
    "snap4": ("#b07cc6", "up", "dm-snapshot 4K"),
    "snap16": ("#7b4fa3", "down", "dm-snapshot 16K"),
    "thin64": ("#3f8fd2", "diamond", "dm-thin 64K"),
    "clone4": ("#d98e04", "cross", "dm-clone 4K"),
    "unionblk": ("#d1342f", "circle", "unionblk"),
}
STYLE = """
svg { color-scheme: light dark }
.bg { fill: #ffffff } .fg { fill: #1c1c1c } .dim { fill: #6a6a6a }
.grid { stroke: #dddddd } .one { stroke: #8a8a8a; stroke-dasharray: 4 3 }
text { font: 13px system-ui, sans-serif } .title { font-weight: 600; font-size: 15px }
@media (prefers-color-scheme: dark) {
  .bg { fill: #14171a } .fg { fill: #e8e8e8 } .dim { fill: #a0a6ad }
  .grid { stroke: #2c3238 } .one { stroke: #7d858d }
}
"""
LEFT, WIDE, RIGHT, ROW, TOP = 210, 640, 30, 66, 112


def shape(kind, x, y, colour):
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{colour}"/>'
    if kind == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    if kind == "cross":
        return (f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8" stroke="{colour}" '
                'stroke-width="2.4" fill="none"/>')
    path = {"up": "m0 -5l5 9h-10z", "down": "m0 5l5 -9h-10z", "diamond": "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"}
    return f'<path d="M{x:.1f} {y:.1f}{path[kind]}" fill="{colour}"/>'


def axis(most, height):
    """Returns lines at each fifth, or further apart if the axis is long."""
    step = 0.2 if most <= 2 else 1 if most <= 8 else 5
    out, tick = [], 0.0
    while tick <= most + 1e-9:
        x = LEFT + WIDE * tick / most
        kind = "one" if abs(tick - 1) < 1e-9 else "grid"
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{height - 34}" class="{kind}"/>')
        out.append(f'<text x="{x:.1f}" y="{height - 16}" text-anchor="middle" class="dim">{tick:g}</text>')
        tick += step
    return out


def legend():
    out = []
    for n, (colour, kind, name) in enumerate(MARKS.values()):
        x = 20 + n * 144
        out.append(shape(kind, x, 76, colour))
        out.append(f'<text x="{x + 11}" y="80" class="fg">{name}</text>')
    return out


def row(key, cells, y, scale):
    out = [f'<line x1="{LEFT}" x2="{LEFT + WIDE}" y1="{y + 33}" y2="{y + 33}" class="grid"/>',
           f'<text x="{LEFT - 14}" y="{y + 4}" text-anchor="end" class="fg">{label(key)}</text>']
    for n, (device, (colour, kind, name)) in enumerate(MARKS.items()):
        c = cells[device]
        at = y - 20 + n * 8
        low, mid, high = (scale(c[k]) for k in ("p25", "ratio", "p75"))
        out.append(f'<g><title>{name}: {c["ratio"]:.2f} ({c["p25"]:.2f} to {c["p75"]:.2f})</title>')
        out.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{at}" y2="{at}" stroke="{colour}" stroke-width="2"/>')
        out.append(shape(kind, mid, at, colour) + "</g>")
    return out


def plot(env, cache, rows):
    """Returns the SVG text of one environment and kind of cache."""
    height = TOP + ROW * len(rows) + 40
    width = LEFT + WIDE + RIGHT
    most = max(c["p75"] for cells in rows.values() for d, c in cells.items() if d in MARKS)
    step = 0.2 if most <= 2 else 1 if most <= 8 else 5
    most = max(1.2, step * (int(most / step) + 1))

    def scale(ratio):
        return LEFT + WIDE * ratio / most

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" role="img">',
           f"<style>{STYLE}</style>", f'<rect width="{width}" height="{height}" class="bg"/>',
           f'<text x="14" y="26" class="fg title">Ratio to the raw leaf: to the right is faster</text>',
           f'<text x="14" y="48" class="dim">{ENVS[env]}; {CACHES[cache]}; whiskers: quartiles</text>']
    out += legend() + axis(most, height)
    for n, (key, cells) in enumerate(sorted(rows.items())):
        out += row(key, cells, TOP + n * ROW + 22, scale)
    return "\n".join(out + ["</svg>", ""])
