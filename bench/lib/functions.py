# SPDX-License-Identifier: GPL-2.0
"""Attributes the instructions that bench/plugin/counter.c counted to functions of the kernel."""

import bisect
import collections
import json
import os
import re

# The last symbol before an address is not its function if it is further away.
FAR = 1 << 20
USER = ("programs", "")
UNKNOWN = ("no function", "")
# What the kernel calls instead of a branch to an address in a register, if the processor needs it.
THUNK = re.compile(r"__x86_indirect_\w*thunk")

# The part of the work of a function, by how its name begins: the first that fits.
OWN = "the driver"
PARTS = [
    ("a request is allocated", ("blk_mq_alloc_request", "__blk_mq_alloc_request", "blk_mq_get_tag", "__blk_mq_get_tag",
                                "sbitmap_get", "sbitmap_find", "_find_next_zero_bit", "__sbitmap_queue_get",
                                "blk_mq_rq_ctx_init", "blk_mq_rq_late_init", "blk_queue_enter", "blk_mq_submit_bio")),
    ("its segments are counted", ("blk_recalc_rq_segments", "bvec_split_segs", "bio_split", "__bio_split")),
    ("it is inserted and started", ("blk_insert_cloned", "blk_mq_request_issue", "__blk_mq_issue", "blk_mq_get_budget",
                                    "blk_mq_start_request", "blk_add_timer", "blk_mq_dispatch", "blk_add_rq_to_plug",
                                    "blk_mq_flush_plug", "__blk_flush_plug", "blk_mq_try_issue")),
    ("it ends and is freed", ("blk_update_request", "blk_mq_end", "__blk_mq_end", "blk_mq_free", "__blk_mq_free",
                              "blk_mq_finish", "blk_mq_put_tag", "blk_mq_complete", "sbitmap_queue", "blk_queue_exit")),
    ("I/O accounting", ("blk_account_io", "update_io_ticks", "bdev_start_io", "bdev_end_io", "ktime_get")),
    ("writeback throttling", ("wbt_", "rq_qos", "__rq_qos", "bio_to_wbt", "blk_stat")),
    ("bios, and their cgroup", ("bio_", "__bio_", "blkg_", "submit_bio", "__submit_bio")),
    ("RCU and SRCU", ("__rcu_read", "__srcu_read")),
]
OTHER = "others"

# Of one function or one section: how many instructions for an operation, and how many calls.
Cost = collections.namedtuple("Cost", "instructions calls")


class Symbols:
    """The functions of kernel and modules, from lines of /proc/kallsyms."""

    def __init__(self, lines):
        found = {}
        for line in lines:
            address, kind, name, *module = line.split()
            # __pfx_ is the padding before a function.
            if kind not in "tTwW" or name.startswith("__pfx_"):
                continue
            entry = (name, module[0].strip("[]") if module else "")
            # Of several names of an address, a plain one.
            found.setdefault(int(address, 16), []).append(entry)
        self.addresses = sorted(found)
        self.entries = [min(found[a], key=lambda e: (len(e[0]) - len(e[0].lstrip("_")), len(e[0]), e[0]))
                        for a in self.addresses]

    def at(self, address):
        """Returns name and module of the function at an address, and whether it begins there."""
        i = bisect.bisect_right(self.addresses, address) - 1
        if i < 0 or address - self.addresses[i] >= FAR:
            return UNKNOWN, False
        return self.entries[i], address == self.addresses[i]


class Section:
    """What one section of fio executed, by function, for each of its operations."""

    def __init__(self, ios):
        self.ios = ios
        self.functions = collections.defaultdict(lambda: Cost(0, 0))
        self.branches = 0

    def add(self, function, count, call, indirect):
        """Adds an instruction of a function that was executed `count` times."""
        old = self.functions[function]
        self.functions[function] = Cost(old.instructions + count / self.ios,
                                        old.calls + (count / self.ios if call else 0))
        # A thunk ends in an indirect branch or in a return, so its calls count.
        thunk = THUNK.match(function[0])
        if call if thunk else indirect:
            self.branches += count / self.ios

    def total(self):
        return sum(cost.instructions for cost in self.functions.values())

    def own(self):
        """Returns the instructions of the driver, with the kernel's functions that stand for
        inline functions in Rust. No other code here is in Rust."""
        return sum(cost.instructions for function, cost in self.functions.items() if part_of(function) == OWN)


def sections(lines, symbols, ios):
    """Yields a Section for each one in the counter's file; `ios` are their operations, in order."""
    now = None
    for line in lines:
        word, *rest = line.split()
        if word == "section":
            if now:
                yield now
            now = Section(ios[int(rest[0]) - 1])
        elif word == "user":
            now.add(USER, int(rest[0]), False, False)
        else:
            function, call = symbols.at(int(word, 16))
            now.add(function, int(rest[0]), call, rest[1:] == ["indirect"])
    if now:
        yield now


def differences(section, base):
    """Returns the functions in which two sections differ, with how much, the largest first."""
    names = set(section.functions) | set(base.functions)
    rows = []
    for name in names:
        a, b = section.functions.get(name, Cost(0, 0)), base.functions.get(name, Cost(0, 0))
        rows.append((name, Cost(a.instructions - b.instructions, a.calls - b.calls)))
    return sorted(rows, key=lambda row: (-abs(row[1].instructions), row[0]))


def part_of(function):
    name, module = function
    if module == "unionblk" or name.startswith("rust_helper_"):
        return OWN
    return next((part for part, heads in PARTS if name.startswith(heads)), OTHER)


def parts(rows):
    """Returns the sum of each part, from differences."""
    sums = dict.fromkeys([OWN] + [part for part, _ in PARTS] + [OTHER], 0)
    for function, cost in rows:
        sums[part_of(function)] += cost.instructions
    return sums


def planned(folder):
    """Returns the sections in the order in which they ran: (cache, case, depth, device) and operations."""
    found = []
    with open(os.path.join(folder, "order"), encoding="ascii") as f:
        names = f.read().split()
    for name in names:
        cache, case, depth, _, _ = name.rsplit(".", 4)
        with open(os.path.join(folder, name + ".json"), encoding="utf-8") as f:
            text = f.read()
        # fio may print something before its JSON.
        for job in json.loads(text[text.index("{"):])["jobs"]:
            if job["error"]:
                raise ValueError(f"fio's section {job['jobname']} of {name}: error {job['error']}")
            device = job["jobname"].split(".")[2]
            found.append(((cache, case, depth, device), job["read"]["total_ios"] + job["write"]["total_ios"]))
    return found


def measured(folder):
    """Returns a Section for each (cache, case, depth, device): of several, the median one."""
    with open(os.path.join(folder, "kallsyms"), encoding="ascii") as f:
        symbols = Symbols(f)
    plan = planned(folder)
    groups = {}
    with open(os.path.join(folder, "counts"), encoding="ascii") as f:
        found = list(sections(f, symbols, [ios for _, ios in plan]))
    if len(found) != len(plan):
        raise ValueError(f"{len(plan)} sections ran, and {len(found)} were counted")
    for (key, _), section in zip(plan, found):
        groups.setdefault(key, []).append(section)
    return {key: sorted(group, key=Section.total)[(len(group) - 1) // 2] for key, group in groups.items()}
