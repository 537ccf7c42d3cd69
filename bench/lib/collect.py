# SPDX-License-Identifier: GPL-2.0
"""Makes cells from the output of fio and the kernel's counters."""

import array
import bisect
import json
import os
import re

from . import functions

# Fields of /sys/block/*/stat, from 0.
READS, READ_SECTORS, WRITES, WRITE_SECTORS, DISCARDS, FLUSHES = 0, 2, 4, 6, 11, 15
CASE_ORDER = ["randread-unmapped", "randread-mapped", "randread-mixed", "firstwrite", "overwrite",
              "rw7030", "firstwrite-512", "fsync1", "fsync64", "seqread-1m", "seqwrite-1m",
              "seqread-4k", "seqwrite-4k"]
DEVICES = ["raw", "linear", "snap4", "snap16", "thin64", "clone4", "unionblk"]


def quantile(values, q):
    """Returns a quantile, linear between the two nearest values, as most tools do."""
    values = sorted(values)
    at = (len(values) - 1) * q
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def median(values):
    return quantile(values, 0.5)


def read_stats(path):
    """Returns the counters around each section, summed over the lower devices."""
    stats, now = {}, None
    with open(path, encoding="ascii") as f:
        for line in f:
            if line.startswith("= "):
                name, when = re.fullmatch(r"= (.*)\.(prerun|postrun)\.txt\n", line).groups()
                # If there are several jobs, a separate section carries the counters.
                if name.endswith(".before"):
                    name, when = name[:-7], "prerun"
                elif name.endswith(".after"):
                    name, when = name[:-6], "postrun"
                now = stats.setdefault(name, {}).setdefault(when, [0] * 17)
            else:
                for i, n in enumerate(line.split()):
                    now[i] += int(n)
    return stats


def lower(stat, ios):
    """Returns the lower I/O of a section, for each operation asked of the device."""
    d = [after - before for before, after in zip(stat["prerun"], stat["postrun"])]
    return {
        "reads": d[READS] / ios,
        "writes": d[WRITES] / ios,
        "flushes": d[FLUSHES] / ios,
        "bytes": (d[READ_SECTORS] + d[WRITE_SECTORS]) * 512 / ios,
    }


def p99_us(job, case):
    """Returns the 99th percentile of the latency that the case waits for, in microseconds."""
    def of(part):
        found = job[part]["lat_ns"].get("percentile", {})
        return found.get("99.000000", 0) / 1000
    if case.startswith("fsync"):
        return of("sync")
    return max(of("read"), of("write"))


class Cpu:
    """The record of bench/cpu.py: processor time over the time of day."""

    def __init__(self, path):
        self.at, self.used = array.array("q"), array.array("q")
        if os.path.exists(path):
            with open(path, encoding="ascii") as f:
                for line in f:
                    at, used = line.split()
                    self.at.append(int(at))
                    self.used.append(int(used))

    def until(self, t):
        """Returns the time used until `t`, interpolated between two samples."""
        i = bisect.bisect_left(self.at, t)
        if i == 0 or i == len(self.at):
            return None
        share = (t - self.at[i - 1]) / (self.at[i] - self.at[i - 1])
        return self.used[i - 1] + share * (self.used[i] - self.used[i - 1])

    def between(self, start, end):
        first, last = self.until(start), self.until(end)
        return None if first is None or last is None else last - first


class Run:
    """One section of fio."""

    def __init__(self, job, case, stats, cpu):
        self.rep, self.place, self.device = job["jobname"].split(".")
        if job["error"]:
            raise ValueError(f"fio's section {job['jobname']} of {case}: error {job['error']}")
        read, write = job["read"], job["write"]
        self.ios = read["total_ios"] + write["total_ios"]
        # Both sides of a mix run at the same time.
        ms = max(read["runtime"], write["runtime"])
        if not self.ios or not ms:
            # On a very busy machine the time can be over before the first I/O.
            self.rate = 0
            return
        self.rate = self.ios * 1000 / ms
        self.p99 = p99_us(job, case)
        start = job["job_start"] * 1000000
        used = cpu.between(start, start + ms * 1000000)
        self.cpu_us = used and used / self.ios / 1000
        counted = stats.get(job["jobname"])
        self.lower = counted and lower(counted, self.ios)


def pair(runs, value):
    """Returns the ratios of a value to the raw run beside each. The ratios of raw are to the other
    raw runs of its repetition, and show how much is noise."""
    ratios = {}
    for i, run in enumerate(runs):
        if run.device == "raw":
            others = [value(r) for r in runs
                      if r.device == "raw" and r.rep == run.rep and r is not run]
            if not others:
                continue
            ratio = value(run) / median(others)
        else:
            beside = [r for r in runs[max(i - 1, 0):i + 2] if r.device == "raw" and r.rep == run.rep]
            if not beside:
                continue
            ratio = value(run) / value(beside[0])
        ratios.setdefault(run.device, []).append(ratio)
    return ratios


def cells_of(env, folder):
    """Returns all cells of one environment."""
    groups = {}
    cpu = Cpu(os.path.join(folder, "cpu"))
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".json"):
            continue
        cache, case, depth, jobs, _ = name[:-5].rsplit(".", 4)
        stats = read_stats(os.path.join(folder, name[:-5] + ".stat"))
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            text = f.read()
        # fio may print something before its JSON.
        said = json.loads(text[text.index("{"):])
        runs = [Run(job, case, stats, cpu) for job in said["jobs"]
                if not job["jobname"].endswith((".before", ".after"))]
        groups.setdefault((cache, case, depth, int(jobs)), []).extend(r for r in runs if r.rate)
    cells = []
    for (cache, case, depth, jobs), runs in groups.items():
        runs.sort(key=lambda r: (r.rep, r.place))
        ratios = pair(runs, lambda r: r.rate)
        costs = pair(runs, lambda r: 1 / r.cpu_us) if all(r.cpu_us for r in runs) else None
        raw = max(r.rate for r in runs if r.device == "raw")
        for device in DEVICES:
            mine = [r for r in runs if r.device == device]
            counted = [r.lower for r in mine if r.lower]
            cells.append({
                "env": env, "cache": cache, "case": case, "depth": depth, "jobs": jobs,
                "device": device,
                "ratio": round(median(ratios[device]), 4),
                "p25": round(quantile(ratios[device], 0.25), 4),
                "p75": round(quantile(ratios[device], 0.75), 4),
                # The best run over raw's best run, which is least affected by noise.
                "best": round(max(r.rate for r in mine) / raw, 4),
                "iops": round(median([r.rate for r in mine])),
                "p99_us": round(median([r.p99 for r in mine]), 1),
                # The processor time of an operation, and raw's over it.
                "cpu_us": costs and round(median([r.cpu_us for r in mine]), 3),
                "cpu_ratio": costs and round(median(costs[device]), 4),
                "reps": len(mine),
                "lower": {k: round(median([n[k] for n in counted]), 4) for k in counted[0]},
            })
    return cells


def count_order(key):
    """The order of cases, depths and devices for a reader."""
    _, case, depth, device = key
    return CASE_ORDER.index(case), depth, DEVICES.index(device)


def instructions(folder):
    """Returns the processor's instructions for one operation, with those of fio, those of the
    driver, and the indirect calls, as the counter in QEMU has counted them."""
    found = functions.measured(folder)
    return [{"cache": key[0], "case": key[1], "depth": key[2], "device": key[3],
             "per_io": round(found[key].total()), "own": round(found[key].own()),
             "indirect": round(found[key].branches, 1)} for key in sorted(found, key=count_order)]


def sort_cells(cells):
    """Sorts cells for a reader: by environment, then by case, then by device."""
    envs, caches = ["uml1", "uml2", "tcg2"], ["none", "fua", "nofua"]
    cells.sort(key=lambda c: (envs.index(c["env"]), caches.index(c["cache"]),
                              CASE_ORDER.index(c["case"]), c["depth"], c["jobs"],
                              DEVICES.index(c["device"])))
