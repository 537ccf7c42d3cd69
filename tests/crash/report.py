#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Runs parts of the crash campaigns, and adds up what they report.

  report.py PART...    with SIZE and SEED, as in run.sh

A part prints KTAP documents, one after another: its guests' and its own. The diagnostic lines of a
case come before its result. A diagnostic line "NAME: NUMBER" with one of the names below is a
count. A case that a plan announces and that has no result counts as failed: the guest died. Other
lines are of no document, for example of a compiler.

Shows failed cases with their diagnostic lines; V=1 shows everything. The last line is the sum of
the counts and of the failures. Exits 1 if there was a failure.
"""
import collections
import os
import re
import signal
import subprocess
import sys
import time

# The counts of the last line, in this order, and those of the line before it.
LAST = ["states", "points", "power-failures", "kills", "mutants"]
BESIDES = ["schedules", "rules", "injections", "checks", "mounts"]

HERE = os.path.dirname(os.path.abspath(__file__))
LOGS = os.path.join(HERE, "../../build/log")
PLAN = re.compile(r"1\.\.(\d+)")
RESULT = re.compile(r"(not )?ok \d+ - (.*)")
COUNT = re.compile(rf"# ({'|'.join(LAST + BESIDES)}): (\d+)(?:/(\d+))?")


class Sum:
    """Counts of a name; the second number is 0 where a count has no whole."""

    def __init__(self):
        self.counts = {}
        self.failures = 0

    def add(self, name, number, whole):
        old = self.counts.get(name, (0, 0))
        self.counts[name] = (old[0] + number, old[1] + whole)

    def text(self, name):
        number, whole = self.counts[name]
        return f"{name}={number}/{whole}" if whole else f"{name}={number}"

    def tell(self):
        more = [self.text(name) for name in BESIDES if name in self.counts]
        if more:
            print("other counts: " + " ".join(more))
        last = [self.text(name) if name in self.counts else f"{name}=-" for name in LAST]
        print(f"crash: {' '.join(last)} failures={self.failures}", flush=True)


class Part:
    """The report of one part, read line by line."""

    def __init__(self, name, total):
        self.name = name
        self.total = total
        self.sum = Sum()
        self.ran = self.missing = 0
        self.notes = []
        self.recent = collections.deque(maxlen=20)

    def fails(self, what, why):
        self.sum.failures += 1
        print(f"   FAILED: crash/{self.name}: {what}")
        for line in why:
            print(f"   {line}")
        sys.stdout.flush()

    def ends_document(self):
        if self.missing:
            self.fails(f"{self.missing} cases of a plan have no result; the last lines:", self.recent)
        self.missing = 0
        self.notes = []

    def line(self, text):
        self.recent.append(text)
        if text == "KTAP version 1":
            self.ends_document()
        elif plan := PLAN.fullmatch(text):
            self.missing += int(plan[1])
        elif result := RESULT.fullmatch(text):
            self.ran += 1
            self.missing -= 1
            if result[1]:
                self.fails(result[2], self.notes)
            self.notes = []
        elif text.startswith("# "):
            self.notes.append(text)
            if count := COUNT.fullmatch(text):
                self.sum.add(count[1], int(count[2]), int(count[3] or 0))

    def end(self, status, seconds):
        self.ends_document()
        if not self.sum.failures and (status or not self.ran):
            self.fails(f"status {status}, {self.ran} cases; the last lines:", self.recent)
        counts = "".join(self.sum.text(name) + " " for name in self.sum.counts)
        failures = self.sum.failures
        print(f"{'FAILED' if failures else 'passed'}: crash/{self.name}: "
              f"{counts}failures={failures} ({seconds:.0f} s)", flush=True)
        for name, count in self.sum.counts.items():
            self.total.add(name, *count)
        self.total.failures += failures


def run_part(name, size, seed, total):
    print(f">> crash/{name} ({size}, seed {seed})", flush=True)
    # A soak repeats the full size. The full sequences of states are the same with every
    # seed, so a soak omits them.
    part_size = "full" if size == "soak" and name != "states" else size
    started = time.monotonic()
    part = Part(name, total)
    command = subprocess.Popen([f"{HERE}/{name}.sh"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, "SIZE": part_size, "SEED": str(seed)})
    with open(f"{LOGS}/crash-{name}.log", "wb") as log:
        # The output of a guest need not be text.
        for line in command.stdout:
            log.write(line)
            log.flush()
            text = line.decode(errors="replace").rstrip("\r\n")
            if os.environ.get("V"):
                print(text, flush=True)
            part.line(text)
    part.end(command.wait(), time.monotonic() - started)


def main(names):
    size, seed = os.environ["SIZE"], int(os.environ["SEED"])
    total = Sum()

    def stop(*_):
        total.tell()
        sys.exit(130)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    while True:
        for name in names:
            run_part(name, size, seed, total)
        total.tell()
        if size != "soak" or total.failures:
            break
        seed += 1
    sys.exit(1 if total.failures else 0)


main(sys.argv[1:])
