# SPDX-License-Identifier: GPL-2.0
"""Runs the mutants that cargo-mutants lists, in one program instead of one program each.

  core-mutants.py LIST TREE    LIST: as cargo-mutants writes it; TREE: a copy of the sources

Each function has its body once for each of its mutants, and the environment selects one. So all are
compiled once, and a mutant costs no more than its tests. A mutant that does not compile in this form
is built separately; if it does not compile then either, it is not counted.
"""

import json
import os
import re
import resource
import selectors
import shutil
import subprocess
import sys
import time

SWITCH = """
/// Which mutant this process is of; 0: none.
pub mod which {
    extern crate std;
    static WHICH: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    /// Its number.
    pub fn mutant() -> u32 {
        *WHICH.get_or_init(|| {
            let number = std::env::var("CORE_MUTANT");
            number.map_or(0, |n| n.parse().unwrap_or(u32::MAX))
        })
    }
}
"""
MEMORY = 4 << 30
COMPILER_SECONDS = 600
TEST_SECONDS = 1800
ROOM = "rust/ubcore/mod.rs"
UNVIABLE = "does not compile"


def offset(text, at):
    """Converts a line and a column, from 1, to an offset."""
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: at["line"] - 1]) + at["column"] - 1


class Mutant:
    def __init__(self, number, entry, text):
        self.number = number
        self.file = entry["file"]
        self.start, self.end = (offset(text, entry["span"][k]) for k in ("start", "end"))
        self.by = entry["replacement"]
        self.function = None
        f = entry["function"]
        was = re.sub(r"\s+", " ", text[self.start : self.end])
        if entry["genre"] == "FnValue":
            what = f"replace by {self.by or '()'}"
        elif entry["genre"] == "MatchArm":
            what = f"delete arm {was}"
        else:
            what = f"{was} by {self.by or 'nothing'}"
        where = re.sub(r"<impl .* for \W*(\w+).*>::", r"\1::", f["function_name"]) if f else "constant"
        where = re.sub(r"<[^<>]*>", "", where)
        at = entry["span"]["start"]
        self.name = f"{self.file.removeprefix('rust/ubcore/')}:{at['line']}:{at['column']}: {where}: {what}"
        if f:
            begin = offset(text, f["span"]["start"])
            end = offset(text, f["span"]["end"])
            fn = re.search(r"\bfn\b", text[begin:end]).start() + begin
            body = text.index("{", fn)
            head = text[begin:body]
            # Two opaque types with different bodies are two types, and a constant reads no
            # environment.
            if not re.search(r"->\s*impl\b|\bconst\s+fn\b", head) and body < self.start:
                self.function = (body, end)

    def applied(self, text):
        return text[: self.start] + self.by + " " + text[self.end :]


def read(list_file, tree):
    with open(list_file) as f:
        entries = json.load(f)
    texts = {}
    for t in entries:
        if t["file"] not in texts:
            with open(os.path.join(tree, t["file"])) as f:
                texts[t["file"]] = f.read()
    mutants = [Mutant(n, t, texts[t["file"]]) for n, t in enumerate(entries, 1)]
    # Functions that only unit tests call are not part of the core. cargo-mutants knows only a plain
    # cfg(test).
    tests = {f: m.start() for f, text in texts.items() if (m := re.search(r"^mod tests \{", text, re.M))}
    return [m for m in mutants if m.start < tests.get(m.file, m.start + 1)], texts


def merged(text, mutants):
    """Returns a file with all of its mutants, and the first and last line of each."""
    functions = {}
    for m in mutants:
        functions.setdefault(m.function, []).append(m)
    for (begin, end), ms in sorted(functions.items(), reverse=True):
        arms = []
        for m in ms:
            body = text[begin : m.start] + m.by + " " + text[m.end : end]
            arms.append(f"//<{m.number}\n{m.number} => {body}\n//>{m.number}\n")
        text = f"{text[:begin]}{{ match crate::which::mutant() {{\n{''.join(arms)}_ => {text[begin:end]} }} }}{text[end:]}"
    lines = {}
    for n, line in enumerate(text.split("\n"), 1):
        mark = re.match(r"//([<>])(\d+)$", line)
        if mark:
            lines.setdefault(int(mark[2]), []).append(n)
    return text, lines


def cargo(tree, *args):
    """Runs cargo; returns whether it succeeded, and its output. The compiler ends a constant that
    never ends."""
    limit = (COMPILER_SECONDS, COMPILER_SECONDS)
    done = subprocess.run(
        ["cargo", *args, "-q", "--locked", "--message-format=json"], cwd=tree, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, limit))
    return done.returncode == 0, [json.loads(line) for line in done.stdout.splitlines()]


def errors(tree):
    """Returns file and line of each compile error."""
    done, messages = cargo(tree, "check", "-p", "ubcore", "--lib")
    found = []
    for line in messages:
        m = line.get("message")
        if m and m["level"] == "error":
            found += [(s["file_name"], s["line_start"]) for s in m["spans"] if s["is_primary"]]
    if not done and not found:
        found.append(("no line", 0))
    return found


def write(tree, file, text):
    with open(os.path.join(tree, file), "w") as f:
        f.write(text)


def make(mutants, texts, tree):
    """Puts all mutants that compile in this form into one tree, and returns them."""
    together = [m for m in mutants if m.function]
    with open(os.path.join(tree, ROOM), "a") as f:
        f.write(SWITCH)
    while True:
        lines = {}
        for file, text in texts.items():
            text, lines[file] = merged(text, [m for m in together if m.file == file])
            write(tree, file, text)
        found = errors(tree)
        if not found:
            print(f"{len(together)} of {len(mutants)} mutants in one program", flush=True)
            return together
        bad = set()
        for file, line in found:
            hit = [n for n, (a, b) in lines.get(file, {}).items() if a <= line <= b]
            if not hit:
                sys.exit(f"{file}:{line}: an error outside of any mutant")
            bad.update(hit)
        together = [m for m in together if m.number not in bad]


def run(program, cwd, args, patience, **env):
    """Runs tests one after the other until the first fails. Returns its name, or None if none
    fails, and the longest time without output. If that is longer than `patience`, a test hangs."""

    def limits():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (TEST_SECONDS, TEST_SECONDS))

    child = subprocess.Popen(
        [program, "--test-threads", "1", *args], cwd=cwd, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=limits)
    longest, since = 0, time.monotonic()
    test = "before any test"
    out = ""
    with selectors.DefaultSelector() as ready, child:
        ready.register(child.stdout, selectors.EVENT_READ)
        try:
            while ready.select(patience):
                now = time.monotonic()
                longest, since = max(longest, now - since), now
                got = os.read(child.stdout.fileno(), 65536).decode(errors="replace")
                if not got:
                    return None if child.wait() == 0 else f"{test} (crash)", longest
                out = (out + got)[-65536:]
                failed = re.search(r"^test (\S+) \.\.\. .*FAILED$", out, re.M)
                if failed or "\ntest result: FAILED" in out:
                    return failed[1] if failed else test, longest
                begun = re.findall(r"^test (\S+) \.\.\.", out, re.M)
                test = begun[-1] if begun else test
            return f"{test} (hang)", patience
        finally:
            child.kill()


SLOW = ["rot_is_named_and_never_followed", "torn::", "campaign::", "check_workloads::"]
# The checks of a mutant, the cheapest first: arguments, and environment.
LOOKS = [
    ("unit tests", [], {}),
    ("quick tests", [a for s in SLOW for a in ("--skip", s)], {"WORKLOADS": "40"}),
    ("all tests", [], {}),
    ("models of races", [], {"SCHEDULES": "1000", "SEED": "1"}),
]
# The program of each check, as cargo builds it.
WHAT = [
    ["-p", "ubcore", "--lib"],
    ["-p", "ubcore", "--test", "suite"],
    ["-p", "ubcore", "--test", "suite"],
    ["-p", "races", "--features", "model", "--test", "marks"],
]


class Asked:
    """The test programs, and how long a test of each may print nothing."""

    def __init__(self, tree, work):
        self.tree, self.work = tree, work
        self.patience = [600] * len(LOOKS)

    def build(self, n):
        """Builds the program of a check and moves it away from the next build; returns whether it
        could."""
        done, messages = cargo(self.tree, "test", "--no-run", *WHAT[n])
        if not done:
            return False
        program = next(m["executable"] for m in messages if m.get("executable"))
        shutil.copy(program, os.path.join(self.work, f"look{n}"))
        return True

    def look(self, n, mutant):
        """Returns the test that catches a mutant, or None, and how long it printed nothing."""
        _, args, env = LOOKS[n]
        program = os.path.join(self.work, f"look{n}")
        where = os.path.join(self.tree, "rust/ubcore")
        return run(program, where, args, self.patience[n], CORE_MUTANT=str(mutant), **env)

    def baseline(self):
        for n, (what, _, _) in enumerate(LOOKS):
            if not self.build(n):
                sys.exit(f"{what} do not compile")
            begin = time.monotonic()
            bad, silent = self.look(n, 0)
            if bad:
                sys.exit(f"without a mutant {bad} fails")
            self.patience[n] = max(10, 5 * silent)
            print(f"{what}: {time.monotonic() - begin:.1f} s without a mutant", flush=True)

    def alone(self):
        """Returns the test that catches the one mutant in the tree."""
        if errors(self.tree):
            return UNVIABLE
        for n in range(len(LOOKS)):
            if not self.build(n):
                return UNVIABLE
            if found := self.look(n, 0)[0]:
                return found
        return None


class Results:
    """The results up to now, in a file: for each mutant None, the test that caught it, or
    UNVIABLE."""

    def __init__(self, work):
        self.file = os.path.join(work, "results.json")
        self.of = {}
        if os.path.exists(self.file):
            with open(self.file) as f:
                self.of = json.load(f)

    def told(self, name, found, begin):
        self.of[name] = found
        with open(self.file, "w") as f:
            json.dump(self.of, f, indent=0)
        print(f"{time.monotonic() - begin:.1f} s: {name}: {found or 'MISSED'}", flush=True)


def judge(list_file, tree):
    """Tests every mutant that no earlier call has caught."""
    work = os.path.dirname(list_file)
    mutants, texts = read(list_file, tree)
    results = Results(work)
    together = make(mutants, texts, tree)
    asked = Asked(tree, work)
    asked.baseline()
    for n, (what, _, _) in enumerate(LOOKS):
        left = [m for m in together if results.of.get(m.name) is None]
        print(f"{what}: {len(left)} mutants", flush=True)
        for m in left:
            begin = time.monotonic()
            results.told(m.name, asked.look(n, m.number)[0], begin)
    for file, text in texts.items():
        write(tree, file, text)
    left = [m for m in mutants if m not in together and results.of.get(m.name) is None]
    print(f"each by itself: {len(left)} mutants", flush=True)
    for m in left:
        begin = time.monotonic()
        write(tree, m.file, m.applied(texts[m.file]))
        results.told(m.name, asked.alone(), begin)
        write(tree, m.file, texts[m.file])
    report(mutants, results, work)


def report(mutants, results, work):
    """Prints a line for each file, the mutants that survived, and the sum."""
    caught, of = 0, 0
    for file in sorted({m.file for m in mutants}):
        found = [results.of[m.name] for m in mutants if m.file == file and results.of[m.name] != UNVIABLE]
        here = sum(f is not None for f in found)
        hangs = sum(f is not None and f.endswith("(hang)") for f in found)
        print(f"{file.removeprefix('rust/ubcore/')}: mutants={len(found)} caught={here} hangs={hangs}")
        caught, of = caught + here, of + len(found)
    with open(os.path.join(work, "missed.txt"), "w") as f:
        f.writelines(f"{m.name}\n" for m in mutants if results.of[m.name] is None)
    print(f"caught={caught} of={of}")


if __name__ == "__main__":
    judge(*sys.argv[1:])
