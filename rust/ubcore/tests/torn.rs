// SPDX-License-Identifier: GPL-2.0

//! The device may land the journal's blocks in any way: each write whole, in part or not at all,
//! early or late. The records of a finished transaction hold, the records of an unfinished one do
//! not, and neither is taken for damage. This is also true when later transactions overwrite the
//! ring.

use std::ops::Range;

use sim::disk::{Random, Sector, SimDisk, SECTOR};
use sim::oracle::{self, Oracle};
use sim::union::{format, SimUnion};
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;

/// A disk on which plain journal writes land at once, block by block as `plain` says. The power
/// fails in the write that ends a transaction: in the flush before it, or after that, when the
/// blocks of `last` land.
struct Tearing {
    disk: SimDisk,
    ring: Range<u64>,
    plain: u32,
    last: Option<u32>,
}

impl Disk for Tearing {
    fn buffer(&mut self) -> &mut Buffer {
        self.disk.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.disk.read(block, count)
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        if !self.ring.contains(&block.0) {
            return self.disk.write(block, count, order);
        }
        let land = match order {
            Order::Plain => self.plain,
            _ => {
                if self.last.is_some() {
                    self.disk.flush()?;
                }
                self.last.unwrap_or(0)
            }
        };
        for n in (0..count).filter(|n| land & (1 << n) != 0) {
            let bytes = &self.disk.buffer()[n];
            let data: Vec<Sector> = bytes
                .chunks(SECTOR)
                .map(|c| c.try_into().unwrap())
                .collect();
            let at = (block.0 + n as u64) * 8;
            self.disk.state.borrow_mut().write(at, &data, Order::Fua)?;
        }
        if order == Order::Plain {
            return Ok(());
        }
        self.disk.state.borrow_mut().dead = true;
        Err(Error::Os(0))
    }
    fn flush(&mut self) -> Result {
        self.disk.flush()
    }
}

fn geometry() -> Geometry {
    Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap()
}

struct Workload {
    disk: SimDisk,
    oracle: Oracle,
    union: SimUnion,
    random: Random,
}

impl Workload {
    fn new(seed: u64) -> Workload {
        let mut disk = SimDisk::new();
        format(&mut disk, geometry());
        let union = SimUnion::attach_to(&disk, &geometry()).unwrap();
        Workload {
            disk,
            oracle: Oracle::default(),
            union,
            random: Random(seed),
        }
    }

    /// Writes two runs of each of so many slabs, at places of the random generator's.
    fn write(&mut self, slabs: u64) {
        let first = self.random.below(2000);
        for n in 0..slabs {
            let slab = (first + n) % 2000;
            for half in 0..2 {
                let at = slab * 32 + half * 16 + self.random.below(12);
                let tag = self.oracle.new_tag();
                self.oracle.begun(at, 2, tag);
                self.union.write(at, 2, tag, true).unwrap();
            }
        }
    }

    fn flush(&mut self) {
        self.union.flush().unwrap();
        self.oracle.flushed();
    }

    /// Makes a commit that a power failure tears.
    fn torn_commit(&mut self, plain: u32, last: Option<u32>) {
        let g = geometry();
        let mut disk = Tearing {
            disk: self.disk.clone(),
            ring: g.journal_block(0).0..g.journal_block(g.journal_blocks()).0,
            plain,
            last,
        };
        let u = &mut self.union;
        assert!(u.committer.commit(&u.map, &mut disk).is_err());
    }

    /// Fails the power and attaches again; each sector must hold valid content.
    fn fail_power(&mut self, what: &str) {
        self.disk.state.borrow_mut().crash(&mut self.random);
        self.union = match SimUnion::attach_to(&self.disk, &geometry()) {
            Ok(u) => u,
            Err(e) => panic!("{what}: {e}"),
        };
        for s in 0..geometry().union_sectors() {
            let tag = oracle::tag(&self.union.read(s), s);
            let valid = tag.is_some_and(|t| self.oracle.after_power_failure(s, t));
            assert!(valid, "{what}: sector {s} holds {tag:?}");
        }
    }

    /// Continues after the torn transaction: transactions of one block and of more overwrite what
    /// it left.
    fn proceed(&mut self, what: &str) {
        for slabs in [3, 200, 1] {
            self.write(slabs);
            self.flush();
            self.fail_power(what);
        }
    }
}

#[test]
fn a_transaction_of_one_torn_write() {
    for mask in 0..8 {
        let mut workload = Workload::new(u64::from(mask) * 77 + 5);
        workload.write(100);
        workload.flush();
        workload.write(450);
        workload.torn_commit(0, Some(mask));
        let what = format!("blocks {mask:03b}");
        workload.fail_power(&what);
        workload.proceed(&what);
    }
}

#[test]
fn a_long_transaction_that_never_ended() {
    for (plain, last) in [
        (0xff, None),
        (0x7f, None),
        (0xff, Some(0)),
        (0xfe, Some(0)),
        (0xaa, Some(0)),
        (0xff, Some(0xe)),
        (0xff, Some(0x1)),
    ] {
        for seed in 1..4 {
            let mut workload = Workload::new(seed);
            workload.write(30);
            workload.flush();
            workload.write(1900);
            workload.torn_commit(plain, last);
            let what = format!("plain {plain:#x}, last {last:x?}, seed {seed}");
            workload.fail_power(&what);
            workload.proceed(&what);
        }
    }
}

/// A long transaction landed completely, but the commit was never acknowledged. Replay applies it,
/// so everything is there.
#[test]
fn a_transaction_that_landed_unheard() {
    let mut workload = Workload::new(9);
    workload.write(1900);
    workload.torn_commit(0xff, Some(0xff));
    let before = workload.oracle.clone();
    workload.fail_power("all");
    for slab in 0..2000 {
        let mapped = workload.union.map.entry(slab).leaf_slab.is_some();
        let written = (0..32).any(|n| before.current(u64::from(slab) * 32 + n) != oracle::ROOT);
        assert_eq!(mapped, written, "slab {slab}");
    }
    workload.proceed("all");
}

/// A transaction is torn twice without a write after the first power failure. Then the workload
/// continues.
#[test]
fn torn_twice_in_a_row() {
    for mask in [0b110, 0b101, 0b100] {
        let mut workload = Workload::new(u64::from(mask));
        for _ in 0..2 {
            workload.write(450);
            workload.torn_commit(0, Some(mask));
            workload.fail_power("torn");
        }
        workload.proceed("torn twice");
    }
}
