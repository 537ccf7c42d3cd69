# SPDX-License-Identifier: GPL-2.0
"""The goals set for the driver, and whether the cells meet them."""

COW = ["snap4", "snap16", "thin64", "clone4"]


class Cells:
    """The cells by their names."""

    def __init__(self, cells):
        self.by = {(c["env"], c["cache"], c["case"], c["depth"], c["jobs"], c["device"]): c
                   for c in cells}

    def get(self, env, cache, case, depth, jobs, device="unionblk"):
        return self.by.get((env, cache, case, depth, jobs, device))

    def ratio(self, *name):
        cell = self.get(*name)
        return cell and cell["ratio"]


class Judge:
    """Collects goals: what, wanted, measured, held."""

    def __init__(self, cells):
        self.cells = Cells(cells)
        self.rows = []

    def row(self, what, wanted, got, held):
        self.rows.append({"target": what, "wanted": wanted, "measured": got, "holds": held})

    def at_least(self, what, got, goal, of=""):
        if got is not None:
            self.row(what, f"≥ {goal:g}{of}", f"{got:.2f}", got >= goal)

    def over(self, what, name, others, goal, of):
        """Returns the union's ratio over the best of some peers."""
        mine = self.cells.ratio(*name)
        theirs = [r for r in (self.cells.ratio(*name, d) for d in others) if r]
        if mine and theirs:
            self.at_least(what, mine / max(theirs), goal, of)

    def small(self, env):
        for case, words in (("randread-unmapped", "unmapped 4 KiB read"),
                            ("randread-mapped", "mapped 4 KiB read"),
                            ("overwrite", "4 KiB overwrite")):
            name = (env, "none", case, "batch", 1)
            self.at_least(f"{env}: {words}", self.cells.ratio(*name), 0.80, " of raw")
            self.over(f"{env}: {words}", name, ["linear"], 1.15, " × dm-linear")
            if "read" in words:
                self.over(f"{env}: {words}", name, COW, 1.3, " × the best CoW peer")
        first = (env, "none", "firstwrite", "batch", 1)
        mine, own = self.cells.ratio(*first), self.cells.ratio(env, "none", "overwrite", "batch", 1)
        if mine and own:
            self.at_least(f"{env}: 4 KiB first write", mine / own, 0.95, " × own overwrite")
        self.over(f"{env}: 4 KiB first write", first, ["snap4", "snap16"], 2.5, " × dm-snapshot")
        for case in ("randread-unmapped", "randread-mapped"):
            self.at_least(f"{env}: {case}, depth 1", self.cells.ratio(env, "none", case, "qd1", 1),
                          0.88, " of raw")
        name = (env, "none", "seqread-1m", "batch", 1)
        self.at_least(f"{env}: 1 MiB read, leaf filled in random order", self.cells.ratio(*name),
                      0.95, " of raw")

    def fsync(self, env):
        for cache in ("none", "fua", "nofua"):
            name = (env, cache, "fsync1", "qd1", 1)
            for peer in ("clone4", "thin64"):
                self.over(f"{env}, {cache}: write + fsync", name, [peer], 2, f" × {peer}")
        one = self.cells.get(env, "fua", "fsync1", "qd1", 1)
        if one:
            low = one["lower"]
            held = abs(low["flushes"] - 1) < 0.02 and abs(low["writes"] - 2) < 0.04 and not low["reads"]
            self.row(f"{env}, fua: lower I/O of write + fsync", "1 data write, 1 FUA write, 1 flush",
                     f"{low['writes']:.2f} writes, {low['flushes']:.2f} flushes", held)
        many = self.cells.get(env, "fua", "fsync64", "qd1", 64)
        if many:
            flushes = many["lower"]["flushes"]
            self.row(f"{env}, fua: 64 jobs share commits", "≤ 0.1 flushes an operation",
                     f"{flushes:.3f}", flushes <= 0.1)

    def scaling(self):
        for case in ("randread-mapped", "overwrite", "firstwrite"):
            n = {(d, j): self.cells.get("uml2", "none", case, "batch", j, d)
                 for d in ("raw", "unionblk") for j in (1, 2)}
            if all(n.values()):
                mine, raw = (n[d, 2]["iops"] / n[d, 1]["iops"] for d in ("unionblk", "raw"))
                self.row(f"uml2: {case}, 1 → 2 jobs", f"raw's own {raw:.2f} or more (less 0.05)",
                         f"{mine:.2f}", mine >= raw - 0.05)


def judge(cells, scenes):
    """Returns every goal for which there is a measurement."""
    judge_ = Judge(cells)
    for env in ("uml1", "uml2"):
        judge_.small(env)
        judge_.fsync(env)
    judge_.scaling()
    for what, wanted, got, goal in scenes.get("targets", []):
        judge_.row(what, wanted, f"{got:g}", got <= goal)
    return judge_.rows
