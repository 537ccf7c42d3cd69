#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Plans the comparison of layers for a guest, makes figures of what it measured, and puts them
into bench/results.

    bench/layers.py plan --env uml1|tcg1 [--quick] [--kinds KIND,KIND] DIR
    bench/layers.py figures --env uml1|tcg1 DIR FILE
    bench/layers.py report --commit C --cpu C --quiet yes|no [--quick] --results DIR FILE...

A kind is a way to put one image over others: unions on layers, chains of dm-snapshots, overlayfs,
chains of qcow2 images behind qemu-nbd. The guest makes each with some numbers of layers below the
device that is measured (guest/layers).
"""

import argparse
import datetime
import json
import os

import plan
import report
from lib import collect, layers as page

MIB = 1 << 20
# The numbers of layers of each kind.
COUNTS = {
    "union": [1, 8, 32, 128, 254],
    "snapshot": [1, 8, 32, 128],
    "overlayfs": [1, 8, 32, 128],
    # With none it is a raw image: what qemu-nbd costs alone.
    "qcow2": [0, 1, 8, 32, 128],
}
# What is measured of each kind: case, and depth.
CASES = {
    "union": [("read-leaf", "batch"), ("read-layer", "batch"), ("read-spread", "batch"),
              ("read-mixed", "batch"), ("read-bottom", "batch"), ("read-leaf", "qd1"),
              ("read-layer", "qd1"), ("firstwrite", "batch")],
    "snapshot": [("read-layer", "batch"), ("read-bottom", "batch"), ("firstwrite", "batch")],
    "overlayfs": [("read-layer", "batch"), ("firstwrite", "batch")],
    "qcow2": [("read-layer", "batch"), ("firstwrite", "batch")],
}
# qemu-nbd waits for the host at every step in User-Mode Linux, so it is only counted.
KINDS = {"uml1": ["union", "snapshot", "overlayfs"], "tcg1": list(COUNTS)}
# The areas of the disk, in MiB: where each lies, and its size if that is not the unit.
HEAD = 32
AREAS = {
    "read-mixed": (0, 2),
    "read-spread": (2, 16),
    "read-bottom": (HEAD, None),
    "read-layer": (HEAD, None),
    "firstwrite": (HEAD, None),
    "read-leaf": (HEAD, None),
}
PLACES = {"read-bottom": 0, "read-layer": 1, "firstwrite": 1, "read-leaf": 2}
# Files of 64 KiB, of which each first write copies one up.
FILES = 256


class Plan:
    """Collects job files and steps."""

    def __init__(self, args):
        self.out = args.folder
        self.exact = args.env == "tcg1"
        self.kinds = [k for k in KINDS[args.env] if not args.kinds or k in args.kinds.split(",")]
        self.unit = 32 if self.exact else 96
        self.reps = 1 if self.exact else 3 if args.quick else 10
        self.steps = []

    def area(self, case):
        """Returns offset and size in bytes."""
        start, size = AREAS[case]
        start += PLACES.get(case, 0) * self.unit
        return start * MIB, (size or self.unit) * MIB

    def where(self, kind, case, device, rep):
        """Returns the lines of a section that say where it reads or writes, and how much."""
        start, size = self.area(case)
        if kind == "overlayfs":
            tree = "/mnt/plain" if device == "raw" else "/mnt/measured"
            if case == "firstwrite":
                each = FILES // self.reps
                return [f"directory={tree}/files{rep}", "filename_format=$filenum", f"nrfiles={each}",
                        "filesize=64k", "file_service_type=roundrobin", f"number_ios={each}", "overwrite=1"]
            return [f"filename={tree}/low", f"size={size}", "time_based=1", f"runtime={self.ms()}ms"]
        lines = ["filename=" + ("/dev/lraw" if device == "raw" else "/dev/bench/measured")]
        if case == "firstwrite":
            # Each repetition writes another part for the first time.
            part = size // self.reps // 4096 * 4096
            return lines + [f"offset={start + rep * part}", f"size={part}", f"number_ios={part // 4096}"]
        return lines + [f"offset={start}", f"size={size}", "time_based=1", f"runtime={self.ms()}ms"]

    def ms(self):
        """Returns how many ms a read lasts. On the counted clock, 1,000 are a billion
        instructions. fio rounds to ms, so it then knows an operation to 15 instructions."""
        return 1000 if self.exact else 200

    def job(self, kind, layers, case, depth):
        """Plans all repetitions of one case: raw and the device by turns, raw at both ends."""
        lines = ["[global]"] + plan.lines_of("common") + plan.lines_of(depth)
        lines += ["rw=randwrite" if case == "firstwrite" else "rw=randread", "bs=4k"]
        if case != "firstwrite":
            lines.append("norandommap=1")
        for rep in range(self.reps):
            devices = ["raw", kind, "raw"]
            # Counts are the same each time, so raw is counted once.
            if self.exact:
                devices = ["raw", kind] if layers == COUNTS[kind][0] else [kind]
            for n, device in enumerate(devices):
                lines += [f"[{rep:02}.{n:02}.{device}]", "stonewall"] + self.where(kind, case, device, rep)
        name = f"{kind}.{layers}.{case}.{depth}.1.0"
        self.write(name, lines)
        self.steps.append(f"fio {name}")

    def write(self, name, lines):
        with open(os.path.join(self.out, name + ".fio"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")

    def all(self):
        # Every 4 KiB of the leaf's area once, in random order.
        start, size = self.area("read-leaf")
        self.write("prepare-leaf", ["[global]"] + plan.lines_of("common") + plan.lines_of("prepare-mapped")
                   + [f"offset={start}", f"size={size}", "[leaf]", "filename=/dev/bench/measured"])
        for kind in self.kinds:
            self.steps.append(f"layers {kind} begin")
            for layers in COUNTS[kind]:
                self.steps.append(f"layers {kind} make {layers}")
                if kind == "union":
                    self.steps.append("fio prepare-leaf")
                for case, depth in CASES[kind]:
                    self.job(kind, layers, case, depth)
                self.steps.append(f"layers {kind} gone")
            self.steps.append(f"layers {kind} end")
        self.steps.append("kernel")
        sizes = {"SIZE_MIB": HEAD + 3 * self.unit, "HEAD_MIB": HEAD, "UNIT_MIB": self.unit,
                 "REPS": self.reps, "FILES": FILES // self.reps, "CPUS": 1}
        with open(os.path.join(self.out, "sizes"), "w", encoding="utf-8") as f:
            f.write("".join(f"{name}={value}\n" for name, value in sizes.items()))
        with open(os.path.join(self.out, "steps"), "w", encoding="utf-8") as f:
            f.write("\n".join(self.steps) + "\n")


def runs_of(folder, name, cpu):
    with open(os.path.join(folder, name), encoding="utf-8") as f:
        text = f.read()
    jobs = json.loads(text[text.index("{"):])["jobs"]
    runs = [collect.Run(job, name, {}, cpu) for job in jobs]
    return [run for run in runs if run.rate]


def figures(env, folder):
    """Returns a figure for each kind, number of layers and case."""
    cpu = collect.Cpu(os.path.join(folder, "cpu"))
    found, raw = [], {}
    for kind, counts in COUNTS.items():
        for case, depth in CASES[kind]:
            for layers in counts:
                name = f"{kind}.{layers}.{case}.{depth}.1.0.json"
                if not os.path.exists(os.path.join(folder, name)):
                    continue
                figure = {"env": env, "kind": kind, "layers": layers, "case": case, "depth": depth}
                runs = runs_of(folder, name, cpu)
                mine = [r for r in runs if r.device == kind]
                beside = [r for r in runs if r.device == "raw"]
                if env == "tcg1":
                    if beside:
                        raw[kind, case, depth] = round(1e9 / beside[0].rate)
                    figure |= {"per_io": round(1e9 / mine[0].rate), "raw": raw[kind, case, depth]}
                else:
                    ratios = collect.pair(runs, lambda r: r.rate)[kind]
                    costs = collect.pair(runs, lambda r: 1 / r.cpu_us)[kind] if all(r.cpu_us for r in runs) else None
                    figure |= {"cpu_ratio": costs and round(collect.median(costs), 4), "ratio": round(collect.median(ratios), 4),
                               "p25": round(collect.quantile(ratios, 0.25), 4),
                               "p75": round(collect.quantile(ratios, 0.75), 4),
                               "iops": round(collect.median([r.rate for r in mine]))}
                found.append(figure)
    return found


def write_report(args):
    """Writes the figures, the plot, and the page again. The figures of other environments stay, with
    the commit that they are of."""
    result = report.unpack(args.results, "layers.json.zst")
    # Figures of an earlier form of the file do not say which commit they are of.
    if not result or "runs" not in result:
        result = {"runs": {}, "figures": []}
    for path in args.files:
        with open(path, encoding="utf-8") as f:
            part = json.load(f)
        env = part["env"]
        result["runs"][env] = {"kernel": part["kernel"], "cpu": args.cpu, "commit": args.commit,
                               "date": datetime.date.today().isoformat(), "quiet": args.quiet == "yes",
                               "reps": 3 if args.quick else 10}
        result["figures"] = [f for f in result["figures"] if f["env"] != env] + part["figures"]
    found = result["figures"]
    result["targets"] = page.judge(found)
    os.makedirs(args.results, exist_ok=True)
    report.pack(args.results, "layers.json.zst", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if any(f["env"] == "tcg1" for f in found):
        report.write(args.results, "layers.svg", page.plot(found))
    report.render(args.results)
    missed = [row for row in result["targets"] if not row["holds"]]
    for row in missed:
        print(f"MISSES {row['target']}: {row['measured']} ({row['wanted']})")
    print(f"{len(found)} figures of layers, {len(missed)} of {len(result['targets'])} goals missed: {args.results}/README.md, layers.json.zst, layers.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    planned, figured = commands.add_parser("plan"), commands.add_parser("figures")
    for command in (planned, figured):
        command.add_argument("--env", required=True, choices=list(KINDS))
    planned.add_argument("--quick", action="store_true")
    planned.add_argument("--kinds", metavar="KIND,KIND", help="these kinds alone")
    planned.add_argument("folder")
    figured.add_argument("folder")
    figured.add_argument("file")
    reported = commands.add_parser("report")
    for name in ("--commit", "--cpu", "--quiet", "--results"):
        reported.add_argument(name, required=True)
    reported.add_argument("--quick", action="store_true")
    reported.add_argument("files", nargs="+")
    args = parser.parse_args()
    if args.what == "plan":
        for kind in (args.kinds or "").split(","):
            if kind and kind not in COUNTS:
                parser.error(f"no kind {kind}: {' '.join(COUNTS)}")
        os.makedirs(args.folder, exist_ok=True)
        Plan(args).all()
    elif args.what == "figures":
        with open(os.path.join(args.folder, "facts"), encoding="utf-8") as f:
            kernel = f.readline().split()[1]
        with open(args.file, "w", encoding="utf-8") as f:
            part = {"env": args.env, "kernel": kernel, "figures": figures(args.env, args.folder)}
            json.dump(part, f, indent=1)
    else:
        write_report(args)


if __name__ == "__main__":
    main()
