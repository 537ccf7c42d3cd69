// SPDX-License-Identifier: GPL-2.0

//! Bugs that other projects shipped, each with a scenario that shows it. tests/crash/mutants.sh
//! makes each bug in this core and requires that its test fails. The seventh, a race, is in
//! tests/races.

use sim::disk::{DiskState, SimDisk};
use sim::oracle::{content, ROOT};
use sim::union::{format, SimUnion};
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::{Error, Result, Role};
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;

fn geometry() -> Geometry {
    Geometry::new(1280, 1280, 2048 + 24 * 32, 32, 16).unwrap()
}

fn fresh() -> (SimDisk, SimUnion) {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    (disk, u)
}

/// Fails the power, so that nothing lands that was not flushed.
fn recovered(disk: &SimDisk) -> Result<SimUnion> {
    let durable = disk.state.borrow().moment().durable;
    SimUnion::attach_to(&SimDisk::with(DiskState::restored(durable)), &geometry())
}

/// dm-thin, dm-clone, dm-snapshot-merge: metadata was committed while data was in a volatile cache.
#[test]
fn a_commit_flushes_the_data_that_it_names() {
    let (disk, mut u) = fresh();
    u.write(40, 8, 1, true).unwrap();
    u.flush().unwrap();
    let u = recovered(&disk).unwrap();
    assert!((40..48).all(|s| u.read(s) == content(1, s)));
}

/// A disk whose cache can no longer be flushed; other writes succeed.
struct Unflushable(SimDisk);

impl Disk for Unflushable {
    fn buffer(&mut self) -> &mut Buffer {
        self.0.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.0.read(block, count)
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        match order {
            Order::FlushFua => Err(Error::Io(Role::Leaf, 0)),
            order => self.0.write(block, count, order),
        }
    }
    fn flush(&mut self) -> Result {
        Err(Error::Io(Role::Leaf, 0))
    }
}

/// persistent-data: the superblock was written although the flush before it had failed.
#[test]
fn a_superblock_is_not_written_when_the_flush_before_it_fails() {
    let (disk, mut u) = fresh();
    u.write(40, 8, 1, true).unwrap();
    u.flush().unwrap();
    u.write(80, 8, 2, true).unwrap();
    let done = u
        .committer
        .checkpoint(&u.map, &mut Unflushable(disk.clone()));
    assert!(done.is_err(), "a checkpoint without a flush");
    assert!(u.flush().is_err(), "a flush after what was lost");
    let u = recovered(&disk).unwrap();
    assert!(u.read(40) == content(1, 40) && u.read(80) == content(ROOT, 80));
}

/// dm-era: the last committed transaction was not loaded after a crash.
#[test]
fn the_last_transaction_is_loaded_again() {
    let (disk, mut u) = fresh();
    for n in 0..3 {
        u.write(n * 100, 1, n + 1, true).unwrap();
        u.flush().unwrap();
        let u = recovered(&disk).unwrap();
        assert!((0..=n).all(|n| u.read(n * 100) == content(n + 1, n * 100)));
    }
}

/// dm-snapshot: two writers of metadata shared one buffer.
#[test]
fn what_goes_out_together_does_not_share_a_buffer() {
    let (disk, mut u) = fresh();
    u.write(40, 8, 1, true).unwrap();
    let before = disk.counts().writes;
    u.checkpoint().unwrap();
    // A page of the table and one of bits in one write, and the directory.
    assert_eq!(disk.counts().writes - before, 2);
    let u = recovered(&disk).unwrap();
    assert!(u.read(40) == content(1, 40) && u.read(48) == content(ROOT, 48));
}

/// dm-snapshot, CVE-2013-4299: after a reload, space in use was allocated again.
#[test]
fn what_is_in_use_is_not_free_after_a_reload() {
    let (disk, mut u) = fresh();
    u.write(40, 8, 1, true).unwrap();
    u.committer.detach(&u.map, &mut u.disk).unwrap();
    let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    for n in 0..23 {
        u.write((n + 2) * 32 + 8, 8, 2, true).unwrap();
    }
    assert!((40..48).all(|s| u.read(s) == content(1, s)));
    u.flush().unwrap();
    let u = recovered(&disk).unwrap();
    assert!((40..48).all(|s| u.read(s) == content(1, s)));
}

/// FreeBSD's gunion: bits were set although the write failed.
#[test]
fn a_write_that_fails_maps_nothing() {
    let (disk, mut u) = fresh();
    u.write(40, 8, 1, true).unwrap();
    // Two writes get their leaf slabs and fail on the leaf, so their sectors are not mapped.
    for (at, n) in [(44, 8), (100, 60)] {
        u.allocator.allocate_range(&u.map, at, n).unwrap();
    }
    let holds = |u: &SimUnion| {
        (40..48).all(|s| u.read(s) == content(1, s))
            && (48..160).all(|s| u.read(s) == content(ROOT, s))
    };
    assert!(holds(&u));
    u.flush().unwrap();
    assert!(holds(&u) && holds(&recovered(&disk).unwrap()));
}
