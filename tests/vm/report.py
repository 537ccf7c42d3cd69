#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Shows the operator what tests/vm/check reports in KTAP, from standard input, or from the files
that the arguments name: one for each guest, all read at the same time.

Prints a line for each test as it ends, and below it the test's measurements, or why it failed. The
last line is "N passed, N failed[, N skipped]". A test that the plan announces and that has no
result counts as failed: the guest died, or its time was over. Exits 1 if a test failed, or if a
guest ran none.
"""
import re
import sys
import threading

RESULT = re.compile(r"(not )?ok (\d+) - (\S+)(?: # SKIP ?(.*))?$")
NOTE = "# "


class Report:
    def __init__(self):
        self.version = False
        self.planned = None
        self.ended = 0
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures = []
        self.notes = []
        self.faults = []

    def fault(self, text):
        """Something that KTAP does not allow, or that ends the run."""
        print(text, flush=True)
        self.faults.append(text)

    def line(self, text):
        if result := RESULT.match(text):
            self.result(*result.groups())
        elif text.startswith(NOTE):
            self.notes.append(text.removeprefix(NOTE))
        elif text == "KTAP version 1" and not self.version:
            self.version = True
        elif (plan := re.fullmatch(r"1\.\.(\d+)", text)) and self.planned is None:
            self.planned = int(plan[1])
        elif text.startswith("Bail out!"):
            self.fault(text)
        elif text.strip():
            # A word of the guest's, for example of a program that is missing.
            print(text, flush=True)

    def result(self, bad, number, name, skipped):
        self.ended += 1
        if int(number) != self.ended or not self.version or self.planned is None:
            self.fault(f"result {number} of {name} is not the next of a plan")
        what, time, rest = "", "", []
        for note in self.notes:
            if note.startswith(f"{name}: ") and not what:
                what = note.removeprefix(f"{name}: ")
            elif note.startswith("time: ") and not time:
                time = note.removeprefix("time: ")
            else:
                rest.append(note)
        self.notes = []
        verdict = "failed" if bad else "skipped" if skipped is not None else "passed"
        self.counts[verdict] += 1
        if bad:
            self.failures.append(name)
        behind = skipped.strip() if skipped is not None else time
        print(f"{name:14} ({what}) [{verdict}]" + (f"  {behind}" if behind else ""))
        for note in rest:
            print(f"    {note}")
        sys.stdout.flush()

    def end(self):
        """Prints what is left; whether all is well."""
        if self.notes:
            print(f"begun, and without a result: {self.notes[0]}")
        for note in self.notes[1:]:
            print(f"    {note}")
        if self.planned is None:
            self.fault("the guest reported no plan")
        missing = max((self.planned or 0) - self.ended, 0)
        if missing:
            print(f"{missing} of {self.planned} tests have no result")
        self.counts["failed"] += missing
        if self.faults and not self.counts["failed"]:
            self.counts["failed"] = 1
        return self.counts["failed"] == 0 and self.ended > 0


def read(stream, report, lock):
    """Gives a guest's lines to its report. The lock keeps the lines of a test together."""
    # The output of a test and the kernel's log need not be text.
    for line in stream:
        with lock:
            report.line(line.decode(errors="replace").rstrip("\r\n"))


def main():
    streams = [open(path, "rb") for path in sys.argv[1:]] or [sys.stdin.buffer]
    reports = [Report() for _ in streams]
    lock = threading.Lock()
    readers = [threading.Thread(target=read, args=(stream, report, lock))
               for stream, report in zip(streams, reports)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    well = [report.end() for report in reports]
    failures = [name for report in reports for name in report.failures]
    if failures:
        print("failed: " + " ".join(failures))
    passed, failed, skipped = (sum(report.counts[what] for report in reports)
                               for what in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""),
          flush=True)
    sys.exit(0 if all(well) else 1)


main()
