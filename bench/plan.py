#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Writes the plan for a guest: fio job files, and the steps that use them.

    bench/plan.py --env uml1|uml2|tcg2|tcg1 [--quick] [--reps N] [--cases NAME,NAME] DIR

A repetition is one fio process whose sections run one after another. A raw run
is beside the run of each other device, so that a slow change of the machine
affects both.
"""

import argparse
import os

JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jobs")
PEERS = ["linear", "snap4", "snap16", "thin64", "clone4", "unionblk"]
COW = PEERS[1:]
MIB = 1 << 20

# The areas in which a case works. The first three areas stay as they are. Each repetition uses up a
# part of "fresh", until the devices are made anew.
AREAS = ["unmapped", "mapped", "mixed", "fresh"]
CASES = {
    "randread-unmapped": "unmapped",
    "randread-mapped": "mapped",
    "randread-mixed": "mixed",
    "overwrite": "mapped",
    "seqread-1m": "mapped",
    "seqwrite-1m": "mapped",
    "seqread-4k": "mapped",
    "seqwrite-4k": "mapped",
    "firstwrite": "fresh",
    "rw7030": "fresh",
    "firstwrite-512": "fresh",
    "fsync1": "fresh",
    "fsync64": "fresh",
}
# Cases of which only the instructions matter.
COUNTED_ONLY = ["seqread-4k", "seqwrite-4k"]
# Cases that a volatile cache below can change.
WRITES = ["overwrite", "firstwrite", "rw7030", "firstwrite-512", "fsync1", "fsync64", "seqwrite-1m"]
# The cases on two processors: batches by one job and by two, one case also one by one, and the
# cases that wait for flushes if there are flushes.
SHARED = [(case, "batch", jobs) for case in CASES
          if "1m" not in case and "fsync" not in case and case not in COUNTED_ONLY for jobs in (1, 2)]
SHARED += [("randread-mapped", "qd1", 1), ("randread-mapped", "qd1", 2),
           ("seqread-1m", "batch", 1), ("seqwrite-1m", "batch", 1)]
# Emulation is slow, and only checks that the same cases run with the same lower I/O.
EMULATED = {
    "none": [(case, "batch", 1) for case in ("randread-unmapped", "randread-mapped", "overwrite", "firstwrite",
                                             "seqread-1m")],
    "fua": [("fsync1", "qd1", 1)],
}
# Cases whose instructions are counted.
COUNTED = {
    "none": EMULATED["none"] + [("randread-mapped", "qd1", 1), ("overwrite", "qd1", 1),
                                ("randread-mixed", "batch", 1)] + [(case, "batch", 1) for case in COUNTED_ONLY],
    "fua": EMULATED["fua"],
}
TWO = {"none": SHARED, "fua": [("fsync1", "qd1", 1), ("fsync64", "qd1", 64)]}
# The cases of a run of six minutes, by processors and lower cache: those of the goals.
QUICK = {
    1: {
        "none": [("randread-unmapped", "batch", 1), ("randread-mapped", "batch", 1), ("randread-mapped", "qd1", 1),
                 ("overwrite", "batch", 1), ("seqread-1m", "batch", 1), ("firstwrite", "batch", 1),
                 ("firstwrite-512", "batch", 1), ("fsync1", "qd1", 1)],
        "fua": [("fsync1", "qd1", 1), ("fsync64", "qd1", 64)],
        "nofua": [("fsync1", "qd1", 1)],
    },
    2: {"none": [(case, "batch", jobs) for case in ("randread-mapped", "overwrite", "firstwrite") for jobs in (1, 2)]},
}
# The number of parts of "fresh", each as large as another area.
PARTS = 3


def lines_of(name):
    """Returns a fragment's options, without its comments."""
    with open(os.path.join(JOBS, name + ".fio"), encoding="utf-8") as f:
        return [line.strip() for line in f if line.strip() and line[0] not in ";#"]


class Plan:
    """Collects job files and steps."""

    def __init__(self, args):
        self.out = args.folder
        self.tcg = args.env.startswith("tcg")
        self.exact = args.env == "tcg1"
        self.cpus = int(args.env[-1])
        self.quick = args.quick
        self.cases = args.cases.split(",") if args.cases else list(CASES)
        self.peers = args.peers.split(",") if args.peers else PEERS
        self.reps = args.reps or (1 if self.exact else 3 if self.tcg or args.quick else 10)
        # Emulation takes ten times as long to write as much. If instructions are counted, the
        # timer's and those of a section's start must be few for each operation.
        self.unit = (32 if self.exact else 8 if self.tcg else 64 if self.quick else 128) * MIB
        # The instructions are the same each time, and take long to count.
        self.ms = 100 if self.exact else 500 if self.tcg else 200
        self.size = (3 + PARTS) * self.unit
        # Lower I/O is the same in all repetitions, and the shell that reads its counters takes as
        # long as a section. So only the first of three repetitions counts it. The counter of
        # instructions needs it: the commands that read the counters mark a section.
        self.counts = self.reps if self.exact else -(-self.reps // 3)
        self.steps = ["make"]
        self.sections = 0

    def area(self, name):
        return AREAS.index(name) * self.unit

    def write_job(self, name, lines):
        with open(os.path.join(self.out, name + ".fio"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")

    def prepare(self):
        """Maps "mapped" and half of "mixed", on each device that maps."""
        for area in ("mapped", "mixed"):
            lines = ["[global]"] + lines_of("common") + lines_of("prepare-" + area)
            lines += [f"offset={self.area(area)}", f"size={self.unit}"]
            if area == "mixed":
                lines.append(f"number_ios={self.unit // 8192}")
            for device in [d for d in self.peers if d in COW]:
                lines += [f"[{device}]", "stonewall", f"filename=/dev/bench/{device}"]
            self.write_job("prepare-" + area, lines)

    def order(self, rep):
        """Returns the order raw, two others, raw, two others, raw: each has a raw run beside it."""
        turn = rep % len(self.peers)
        peers = self.peers[turn:] + self.peers[:turn]
        order = ["raw"]
        for i in range(0, len(peers), 2):
            order += peers[i:i + 2] + ["raw"]
        return order

    def where(self, case, depth, jobs, part):
        """Returns which part of the disk a section reads or writes, and how much."""
        if CASES[case] != "fresh" and case != "overwrite":
            lines = [f"offset={self.area(CASES[case])}", f"size={self.unit}"]
            return lines + ["time_based=1", f"runtime={self.ms}ms"]
        # An overwrite is the same job as a first write. They differ only in whether the place was
        # written before.
        share = self.unit // jobs
        start = self.area(CASES[case]) + part * self.unit
        lines = [f"offset={start}", f"size={share}"]
        if jobs > 1:
            lines.append(f"offset_increment={share}")
        blocks = share // 4096
        if case == "fsync1":
            blocks = min(blocks, 128 if self.tcg and not self.exact else 512)
        elif case == "fsync64":
            blocks = min(blocks, 32 if self.quick else 64)
        elif depth == "qd1":
            # One by one, a quarter of the blocks takes as long.
            blocks //= 4
        return lines + [f"number_ios={blocks}"]

    def section(self, name, device, case, depth, jobs, part):
        """Returns the section of one measured run."""
        lines = [f"[{name}]", "stonewall", f"filename=/dev/bench/{device}", f"numjobs={jobs}"]
        return lines + self.where(case, depth, jobs, part)

    def counted(self, name, device, case, depth, jobs, part):
        """Returns a section with the lower devices' counters before and after.

        fio runs such a command once for each job, so beside several jobs it has
        a separate section."""
        root = "broot" if device == "unionblk" else "proot"
        stats = f"cat /sys/block/{root}/stat /sys/block/l{device}/stat"
        if device in ("thin64", "clone4"):
            stats += f" /sys/block/m{device}/stat"
        mark = ["stonewall", "ioengine=null", "numjobs=1", "bs=512", "size=512", "filename=none",
                "iodepth=1", "fsync=0"]
        lines = self.section(name, device, case, depth, jobs, part)
        if jobs > 1:
            before = [f"[{name}.before]", f"exec_postrun={stats}"] + mark
            return before + lines + [f"[{name}.after]", f"exec_prerun={stats}"] + mark
        return lines + [f"exec_prerun={stats}", f"exec_postrun={stats}"]

    def case(self, case, depth, jobs, cache):
        """Plans all repetitions of one case, in as many processes as they need."""
        depth_file = "batch-1m" if depth == "batch" and case.endswith("1m") else depth
        head = ["[global]"] + lines_of("common") + lines_of(depth_file) + lines_of(case)
        fresh = CASES[case] == "fresh"
        at_once = PARTS if fresh else self.reps
        for first in range(0, self.reps, at_once):
            if fresh:
                self.steps.append("reset")
            lines = list(head)
            for rep in range(first, min(first + at_once, self.reps)):
                for n, device in enumerate(self.order(rep)):
                    name = f"{rep:02}.{n:02}.{device}"
                    part = rep - first if fresh else 0
                    how = self.counted if rep < self.counts else self.section
                    lines += how(name, device, case, depth, jobs, part)
                    self.sections += 1
            name = f"{cache}.{case}.{depth}.{jobs}.{first}"
            self.write_job(name, lines)
            self.steps.append(f"fio {name}")

    def profile(self, case, depth, seconds, only):
        """Plans one case with a section for each device, of `seconds` each, or for `only` one device."""
        lines = ["[global]"] + lines_of("common") + lines_of(depth) + lines_of(case)
        lines += [line for line in self.where(case, depth, 1, 0) if "runtime" not in line and "number_ios" not in line]
        lines += ["time_based=1", f"runtime={seconds}s"]
        if only:
            on = "/sys/kernel/tracing/tracing_on"
            # A separate shell, because fio sends the command's output to a file.
            lines += [f"exec_prerun=sh -c 'echo 1 >{on}'", f"exec_postrun=sh -c 'echo 0 >{on}'"]
        for device in [only] if only else ["raw"] + PEERS:
            lines += [f"[{device}]", "stonewall", f"filename=/dev/bench/{device}"]
        self.write_job(case, lines)

    def wanted(self, cache):
        """Returns the runs with one kind of lower cache: case, depth, jobs."""
        return [run for run in self.all_of(cache) if run[0] in self.cases]

    def all_of(self, cache):
        if self.tcg or self.quick:
            return (COUNTED if self.exact else EMULATED if self.tcg else QUICK[self.cpus]).get(cache, [])
        if self.cpus == 2:
            return TWO.get(cache, [])
        runs = []
        for case in [c for c in CASES if c not in COUNTED_ONLY] if cache == "none" else WRITES:
            if case.startswith("fsync"):
                runs.append((case, "qd1", 64 if case == "fsync64" else 1))
            else:
                runs += [(case, "batch", 1), (case, "qd1", 1)]
        return runs

    def caches(self):
        return [cache for cache in ("none", "fua", "nofua") if self.wanted(cache)]

    def all(self):
        self.prepare()
        for cache in self.caches():
            runs = self.wanted(cache)
            # Cases that leave the devices as they are come first.
            runs = sorted(runs, key=lambda run: CASES[run[0]] == "fresh")
            self.steps += [f"cache {cache}", "reset"]
            if CASES[runs[0][0]] != "fresh":
                self.steps += ["fio prepare-mapped", "fio prepare-mixed"]
            for case, depth, jobs in runs:
                self.case(case, depth, jobs, cache)
        self.steps.append("end")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", required=True, choices=["uml1", "uml2", "tcg2", "tcg1"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reps", type=int)
    parser.add_argument("--cases", metavar="NAME,NAME", help="these cases alone")
    parser.add_argument("--peers", metavar="DEVICE,DEVICE", help="these devices alone, beside raw")
    parser.add_argument("--profile", metavar="CASE", help="this case alone, for bench/profile.sh")
    parser.add_argument("--depth", default="batch")
    parser.add_argument("--only", metavar="DEVICE", help="of a profile, for bench/flame.sh")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("folder")
    args = parser.parse_args()
    for name in (args.cases or "").split(","):
        if name and name not in CASES:
            parser.error(f"no case {name}: {' '.join(CASES)}")
    for name in (args.peers or "").split(","):
        if name and name not in PEERS:
            parser.error(f"no device {name}: {' '.join(PEERS)}")
    os.makedirs(args.folder, exist_ok=True)
    plan = Plan(args)
    if args.profile:
        plan.prepare()
        plan.profile(args.profile, args.depth, args.seconds, args.only)
    else:
        plan.all()
    with open(os.path.join(args.folder, "steps"), "w", encoding="utf-8") as f:
        f.write("\n".join(plan.steps) + "\n")
    with open(os.path.join(args.folder, "sizes"), "w", encoding="utf-8") as f:
        f.write(f"SIZE_MIB={plan.size // MIB}\nCPUS={plan.cpus}\nDEVICES='{' '.join(['raw'] + plan.peers)}'\n")
    print(f"{args.env}: {plan.sections} runs of fio's sections, {plan.reps} repetitions")


if __name__ == "__main__":
    main()
