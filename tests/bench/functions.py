#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests how bench/ attributes counted instructions to functions, and how it judges them."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import count  # noqa: E402
from lib import functions  # noqa: E402

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81000100 t __pfx_submit_bio
ffffffff81000110 T submit_bio
ffffffff81000200 T __memcpy
ffffffff81000200 W memcpy
ffffffff81000300 T __x86_indirect_thunk_array
ffffffff81000300 T __x86_indirect_thunk_rax
ffffffff81000400 D data
ffffffff81000500 T rust_helper_mb
ffffffffc0000000 t queue_rq\t[unionblk]
"""
RAW = """\
section 1
ffffffff81000110 8
ffffffff81000114 8 indirect
ffffffff81000200 16
ffffffff81000300 24
ffffffff81000303 24 indirect
user 100
section 2
ffffffff81000110 16
ffffffff81000300 16
ffffffff81000500 4
ffffffffc0000000 4
ffffffffc0000004 40
ffffffffc0000008 4 indirect
ffffffffd0000000 12
user 50
"""


class Symbols(unittest.TestCase):
    def setUp(self):
        self.symbols = functions.Symbols(KALLSYMS.splitlines())

    def test_an_address_belongs_to_the_function_before_it(self):
        self.assertEqual(self.symbols.at(0xffffffff81000110), (("submit_bio", ""), True))
        self.assertEqual(self.symbols.at(0xffffffff810001ff), (("submit_bio", ""), False))
        self.assertEqual(self.symbols.at(0xffffffffc0000004), (("queue_rq", "unionblk"), False))

    def test_data_and_padding_are_no_functions(self):
        self.assertEqual(self.symbols.at(0xffffffff81000100), (("_text", ""), False))
        self.assertEqual(self.symbols.at(0xffffffff81000400), (("__x86_indirect_thunk_rax", ""), False))

    def test_of_several_names_the_plain_one(self):
        self.assertEqual(self.symbols.at(0xffffffff81000200), (("memcpy", ""), True))

    def test_an_address_before_or_far_behind_all_functions_has_none(self):
        for address in 0xffffffff80ffffff, 0xffffffffc0000000 + functions.FAR:
            self.assertEqual(self.symbols.at(address), (functions.UNKNOWN, False))


class Sections(unittest.TestCase):
    def setUp(self):
        symbols = functions.Symbols(KALLSYMS.splitlines())
        self.raw, self.union = functions.sections(RAW.splitlines(), symbols, [8, 4])

    def test_instructions_and_calls_are_of_one_operation(self):
        self.assertEqual(self.raw.functions["submit_bio", ""], functions.Cost(2, 1))
        self.assertEqual(self.raw.functions[functions.USER], functions.Cost(12.5, 0))
        self.assertEqual(self.raw.total(), 22.5)
        self.assertEqual(self.union.functions["queue_rq", "unionblk"], functions.Cost(12, 1))
        self.assertEqual(self.union.functions[functions.UNKNOWN], functions.Cost(3, 0))

    def test_own_is_the_module_with_the_helpers_of_rust(self):
        self.assertEqual(self.raw.own(), 0)
        self.assertEqual(self.union.own(), 13)

    def test_a_thunk_is_one_indirect_call(self):
        self.assertEqual(self.raw.branches, 4)
        self.assertEqual(self.union.branches, 5)

    def test_differences_are_sorted_and_add_up(self):
        rows = functions.differences(self.union, self.raw)
        self.assertEqual(rows[0], (("queue_rq", "unionblk"), functions.Cost(12, 1)))
        self.assertIn((("memcpy", ""), functions.Cost(-2, -2)), rows)
        self.assertAlmostEqual(sum(cost.instructions for _, cost in rows), self.union.total() - self.raw.total())


    def test_parts_add_up(self):
        rows = functions.differences(self.union, self.raw)
        sums = functions.parts(rows)
        self.assertEqual(sums[functions.OWN], 13)
        self.assertEqual(sums["bios, and their cgroup"], 2)
        self.assertAlmostEqual(sum(sums.values()), self.union.total() - self.raw.total())


class Measured(unittest.TestCase):
    def folder(self, totals):
        """Returns a folder as a guest and the counter leave it, with a raw section for each total."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        name = "none.overwrite.batch.1.0"
        devices = ["raw"] * len(totals)
        jobs = [{"jobname": f"00.{n:02}.{device}", "error": 0, "read": {"total_ios": 0}, "write": {"total_ios": 10}}
                for n, device in enumerate(devices)]
        counts = "".join(f"section {n}\nuser {total}\n" for n, total in enumerate(totals, 1))
        for path, text in (("order", name + "\n"), (name + ".json", "fio said this\n" + json.dumps({"jobs": jobs})),
                           ("kallsyms", KALLSYMS), ("counts", counts)):
            with open(os.path.join(folder.name, path), "w", encoding="ascii") as f:
                f.write(text)
        return folder.name

    def test_of_several_sections_the_median_one(self):
        for totals in [30, 10, 20], [40, 20, 30, 10], [20]:
            found = functions.measured(self.folder(totals))
            self.assertEqual(found["none", "overwrite", "batch", "raw"].total(), 2)

    def test_a_section_that_was_not_counted_is_noticed(self):
        folder = self.folder([10, 20])
        with open(os.path.join(folder, "counts"), "w", encoding="ascii") as f:
            f.write("section 1\nuser 10\n")
        with self.assertRaises(ValueError):
            functions.measured(folder)


class Goals(unittest.TestCase):
    def judge(self, union, drop=None):
        """Returns how many goals are missed if the union adds its goal and `union` more."""
        counts = []
        for (case, depth), limit in count.LIMITS.items():
            for device, per_io in ("raw", 10000), ("linear", 11800), ("unionblk", 10000 + limit + union):
                if (case, device) != drop:
                    counts.append({"case": case, "depth": depth, "device": device, "per_io": per_io,
                                   "own": 400, "indirect": 10.0})
        with contextlib.redirect_stdout(io.StringIO()):
            return count.cases(counts)

    def test_a_goal_is_met_to_the_instruction(self):
        self.assertEqual(self.judge(0), 0)
        self.assertEqual(self.judge(1), len(count.LIMITS))

    def test_a_case_that_was_not_measured_misses_its_goal(self):
        self.assertEqual(self.judge(0, drop=("firstwrite", "unionblk")), 1)


if __name__ == "__main__":
    unittest.main()
