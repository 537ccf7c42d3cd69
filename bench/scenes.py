#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes tables and goals from the measurements of the scenes.

    bench/scenes.py OUTPUT FILE
"""

import json
import sys

from lib.collect import DEVICES, median


def read(path):
    """Returns a map: scene -> device -> what -> values."""
    found = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if len(words) == 5 and words[0] == "scene" and words[2] != "ended":
                scene, device, what, value = words[1:]
                found.setdefault(scene, {}).setdefault(device, {}).setdefault(what, []).append(float(value))
    return found


def files(scene):
    whats = {"install_package": "dpkg -i", "all_read": "tar of /usr", "remove_package": "dpkg --purge",
             "big_file": "dd, 64 MiB new", "rewrite": "dd, again"}
    rows = []
    for what, words in whats.items():
        values = {d: median(scene[d][what]) for d in DEVICES}
        rows.append([words] + [f"{values[d]:.3f}" for d in DEVICES])
    return {"title": "File work on ext4, in seconds (median of three)", "head": ["work"] + DEVICES, "rows": rows,
            "note": "A package of some thousand small files, unpacked, purged; a large file; all with fsync, "
                    "with nothing cached before, on disks with a volatile cache and FUA."}


def change(scene):
    rows = [[d, f"{scene[d]['seconds'][0] * 1000:.1f} ms", f"{scene[d]['written_kib'][0]:.0f} KiB"]
            for d in ("unionblk", "overlayfs")]
    return {"title": "4 KiB changed in a file of 1 GiB", "head": ["", "time", "written below"], "rows": rows,
            "note": "With fsync; ext4 on the union, or overlayfs over ext4, which copies the file up first."}


def many(scene):
    rows = []
    for d in ("unionblk", "snap4", "thin64"):
        rows.append([d] + [f"{scene[d][f'{unit}_each_of_{n}'][0]:.1f}" for unit in ("ms", "kib") for n in (1, 100, 1000)])
    head = ["each, of", "1: ms", "100: ms", "1,000: ms", "1: KiB", "100: KiB", "1,000: KiB"]
    return {"title": "Many on one root: time to create, memory while idle", "head": head, "rows": rows,
            "note": "One process of ubctl for each union, one or two of dmsetup for each of the others. Leaves are "
                    "formatted, and slices of one disk made, beforehand."}


def large_mib(s):
    """Returns the memory that the driver reports, or the memory that is gone, whichever is more."""
    return max(s["attach_kib"][0], s["map_kib"][0]) / 1024


def large(scene):
    s = scene["unionblk"]
    rows = [[f"{s['slabs'][0]:.0f}", f"{s['attach_s'][0]:.2f} s", f"{large_mib(s):.1f} MiB"]]
    return {"title": "Attach of a leaf of 64 GiB, every slab of 64 KiB in use",
            "head": ["slabs", "time", "memory"], "rows": rows}


LAYERS = {"frozen": "frozen leaves, disks", "sealed": "sealed layers, disks",
          "frozen-image": "frozen leaves, images", "sealed-image": "sealed layers, images"}


def layers(scene):
    rows = [[words] + [f"{median(scene[d][what]):.2f} s" for what in ("attach_s", "detach_s")]
            + [f"{scene[d]['map_kib'][0]:.0f} KiB"] for d, words in LAYERS.items()]
    return {"title": "Attach on 128 layers (median of three)", "head": ["layers", "attach", "detach", "map"],
            "rows": rows, "note": "By ubctl; images lie on tmpfs, each below a loop device."}


def main():
    found = read(sys.argv[1])
    tables = [make(found[name]) for name, make in
              (("files", files), ("change", change), ("many", many), ("large", large),
               ("layers", layers)) if name in found]
    goals = []
    if "many" in found:
        s = found["many"]["unionblk"]
        goals.append(["1,000 unions on one root: ms to create each, with ubctl", "≤ 20", s["ms_each_of_1000"][0], 20])
        goals.append(["1,000 unions on one root: KiB each, idle", "≤ 256", s["kib_each_of_1000"][0], 256])
    if "large" in found:
        s = found["large"]["unionblk"]
        goals.append(["attach of 64 GiB, fully mapped: seconds", "≤ 1", round(s["attach_s"][0], 2), 1])
        goals.append(["attach of 64 GiB, fully mapped: MiB", "≤ 32", round(large_mib(s), 1), 32])
    if "layers" in found:
        goals += [[f"attach on 128 layers, {words}: seconds", "≤ 0.5",
                   round(median(found["layers"][d]["attach_s"]), 2), 0.5] for d, words in LAYERS.items()]
    with open(sys.argv[2], "w", encoding="utf-8") as f:
        json.dump({"tables": tables, "targets": goals}, f, indent=1, ensure_ascii=False)
        f.write("\n")


if __name__ == "__main__":
    main()
