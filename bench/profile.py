#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Counts a profile's samples by function and by part of the kernel.

    bench/profile.py DIR

Addresses are those of the guest kernel, whose list of symbols has the module's too.
"""

import bisect
import collections
import json
import os
import sys

# Samples outside of the guest's kernel. Most are system calls: with more than
# one processor built in, User-Mode Linux masks a signal by a system call of the
# host where a kernel would clear the interrupt flag by one instruction.
#
# The group of a function, by how its name begins: the first that fits.
OUTSIDE = "[the host's kernel and library]"
HOST = "the host, and signals masked for interrupts"
PARTS = [
    (HOST, ("__local_ipi_set", "um_set_signals", "block_signals", "unblock_signals", "os_local_ipi")),
    ("io_uring and fio's system calls", ("io_", "__io_", "do_syscall", "sys_", "__se_sys", "handle_syscall",
                                         "import_", "rw_", "blkdev_", "__blkdev", "bdev_")),
    ("null_blk and its copying", ("null_", "__null", "copy_", "memcpy", "__memcpy", "radix_tree", "__radix", "xas_", "xa_",
                                  "memset", "__memset")),
    ("device-mapper", ("dm_", "__dm", "linear_", "snapshot_", "clone_", "thin_", "__map_bio", "__split")),
    ("block layer", ("blk_", "__blk", "bio_", "__bio", "submit_bio", "__submit", "sbitmap", "__sbitmap",
                     "update_io", "part_", "disk_", "rq_", "mempool", "elv_", "bvec")),
    ("interrupts, locks, RCU, time", ("um_", "uml_", "__local", "_raw", "raw_", "rcu", "__rcu", "__srcu", "srcu",
                                      "ktime", "timekeeping", "timer", "do_IRQ", "irq", "handle_", "local_", "preempt",
                                      "sig_", "signal", "os_", "softirq")),
    ("memory", ("kmem", "kmalloc", "kfree", "__kmalloc", "slab", "__slab", "___slab", "page_", "get_user", "gup_")),
]


def symbols(folder):
    """Returns addresses and names, in order; those of the module are marked."""
    found = {}
    with open(os.path.join(folder, "nm"), encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if len(words) == 3 and words[1] in "tTwW":
                found[int(words[0], 16)] = (words[2], False)
    with open(os.path.join(folder, "host", "kallsyms"), encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if words[1] in "tT" and len(words) == 4:
                found[int(words[0], 16)] = (words[2], words[3] == "[unionblk]")
    return sorted(found.items())


def part_of(name, own):
    if own:
        return "unionblk"
    for part, heads in PARTS:
        if name.startswith(heads):
            return part
    return HOST if name == OUTSIDE else "other"


def main():
    folder = sys.argv[1]
    table = symbols(folder)
    at = [address for address, _ in table]
    functions, parts, total = collections.Counter(), collections.Counter(), 0
    with open(os.path.join(folder, "ips"), encoding="ascii") as f:
        for line in f:
            if not line.strip():
                continue
            ip = int(line.split()[0], 16)
            i = bisect.bisect_right(at, ip) - 1
            # An address beyond the last symbol belongs to the machine's kernel,
            # or to a library.
            name, own = table[i][1] if i >= 0 and ip - at[i] < 1 << 20 else (OUTSIDE, False)
            functions[(name, part_of(name, own))] += 1
            parts[part_of(name, own)] += 1
            total += 1
    with open(os.path.join(folder, "host", "fio.json"), encoding="utf-8") as f:
        text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    iops = job["read"]["iops"] + job["write"]["iops"]
    print(f"{total} samples; {iops:.0f} IOPS on the clock")
    for part, n in parts.most_common():
        print(f"{100 * n / total:6.2f} %  {part}")
    print()
    for (name, part), n in functions.most_common(60):
        print(f"{100 * n / total:6.2f} %  {name}  ({part})")


if __name__ == "__main__":
    main()
