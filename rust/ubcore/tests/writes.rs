// SPDX-License-Identifier: GPL-2.0

//! Checks which metadata is written where, and in which order. Power failures alone do not show
//! this, because the order guards against rot and torn sectors, or because the critical time is too
//! short to be hit.

use std::cell::RefCell;
use std::rc::Rc;

use sim::disk::{Random, SimDisk};
use sim::memory::SimMemory;
use sim::oracle::content;
use sim::parts::{self, SimCommitter};
use sim::union::{format, SimUnion};
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::Result;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Map;
use ubcore::slot::Slot;

/// A disk that records the writes that it gets: block, count, order.
#[derive(Clone)]
struct Recorder {
    disk: SimDisk,
    log: Rc<RefCell<Vec<(u64, usize, Order)>>>,
}

impl Recorder {
    fn new(disk: &SimDisk) -> Self {
        Recorder {
            disk: disk.clone(),
            log: Rc::default(),
        }
    }

    fn take(&self) -> Vec<(u64, usize, Order)> {
        self.log.take()
    }
}

impl Disk for Recorder {
    fn buffer(&mut self) -> &mut Buffer {
        self.disk.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.disk.read(block, count)
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        self.log.borrow_mut().push((block.0, count, order));
        self.disk.write(block, count, order)
    }
    fn flush(&mut self) -> Result {
        self.disk.flush()
    }
}

fn load(disk: &mut Recorder, g: &Geometry) -> (Map<SimMemory>, SimCommitter) {
    let (root, leaf) = (g.root_sectors(), g.leaf_sectors());
    let parts = parts::load(disk, root, leaf, SimMemory::new).unwrap();
    (parts.map, parts.committer)
}

fn geometry() -> Geometry {
    Geometry::new(1280, 1280, 2048 + 24 * 32, 32, 16).unwrap()
}

/// Makes a leaf with records in its journal and content in its pages.
fn used() -> (SimDisk, Geometry) {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    u.write(0, 8, 1, true).unwrap();
    u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
    u.write(100, 8, 2, true).unwrap();
    u.flush().unwrap();
    (disk, g)
}

fn slot(disk: &SimDisk, at: u64) -> Result<Superblock> {
    Superblock::decode(&disk.read_sector(at * 8), LeafBlock(at))
}

/// Pages and directory are plain writes to inactive slots. Then comes the superblock
/// that makes them active, behind a flush, and then the other superblock, against rot.
#[test]
fn a_checkpoint_writes_pages_then_one_superblock_then_the_other() {
    let (disk, g) = used();
    let mut recorder = Recorder::new(&disk);
    let (map, mut committer) = load(&mut recorder, &g);
    let before = committer.superblock().clone();
    assert!(recorder.take().is_empty());
    committer.checkpoint(&map, &mut recorder).unwrap();
    let log = recorder.take();
    let (supers, rest): (Vec<_>, Vec<_>) = log.iter().partition(|w| w.0 < 2);
    assert!(rest.len() >= 2 && log[..rest.len()] == rest[..], "{log:?}");
    assert!(rest.iter().all(|w| w.2 == Order::Plain));
    assert_eq!(
        (supers[0].2, supers[1].2, supers.len()),
        (Order::FlushFua, Order::Fua, 2)
    );
    assert_eq!(supers[0].0 + supers[1].0, 1);
    // The directory is in the slot that was inactive before and is active now.
    let was = before.directory_slot(0).unwrap();
    let is = committer.superblock().directory_slot(0).unwrap();
    assert_eq!(is, Some(Slot::inactive(was)));
    let block = g.directory_block(0, is.unwrap()).0;
    assert!(rest.iter().any(|w| w.0 == block));
    // Both slots are the same, with the next generation.
    let (a, b) = (slot(&disk, 0).unwrap(), slot(&disk, 1).unwrap());
    assert_eq!(a, b);
    assert_eq!(a, *committer.superblock());
    assert_eq!(a.generation, before.generation + 1);
    assert!(a.journal_sequence > before.journal_sequence);
}

/// If either superblock rots after a checkpoint, the other says the same.
#[test]
fn either_superblock_may_rot() {
    for rot in 0..2 {
        let (disk, g) = used();
        let mut u = SimUnion::attach_to(&disk, &g).unwrap();
        for n in 0..40 {
            u.write(n * 15, 1, 10 + n, true).unwrap();
            u.flush().unwrap();
        }
        u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
        drop(u);
        disk.rot(rot * 8, 77);
        assert!(slot(&disk, rot).is_err() && slot(&disk, 1 - rot).is_ok());
        let u = SimUnion::attach_to(&disk, &g).unwrap();
        for n in 0..40 {
            assert!(u.read(n * 15) == content(10 + n, n * 15), "{n}");
        }
        // The attach has repaired the slot.
        assert!(slot(&disk, rot).is_ok());
    }
}

/// The power fails between the two superblocks, so only one slot refers to the active pages.
/// The next checkpoint overwrites the other slot first. If that write tears its sector, one slot is
/// still whole.
#[test]
fn the_active_superblock_is_not_overwritten_first() {
    for rotten in [false, true] {
        let met = (0..40).filter(|&seed| fail_between(rotten, seed)).count();
        assert!(met > 5, "{met}");
    }
}

/// Returns whether the second superblock was lost, as it should be here. If `rotten`, slot A is
/// written first.
fn fail_between(rotten: bool, seed: u64) -> bool {
    let (disk, g) = used();
    if rotten {
        disk.rot(0, 77);
    }
    let mut recorder = Recorder::new(&disk);
    let (map, mut committer) = load(&mut recorder, &g);
    let ios = {
        let (disk, _) = used();
        let mut dry = Recorder::new(&disk);
        let (map, mut committer) = load(&mut dry, &g);
        committer.checkpoint(&map, &mut dry).unwrap();
        dry.take().len() as u64
    };
    disk.state.borrow_mut().power_fails_in = Some(ios - 1);
    assert!(committer.checkpoint(&map, &mut recorder).is_err());
    let first = recorder.take().iter().find(|w| w.0 < 2).unwrap().0;
    assert_eq!(first, 1 - u64::from(rotten), "the slot that was not read");
    disk.state.borrow_mut().crash(&mut Random(seed));
    if slot(&disk, 1 - first) == slot(&disk, first) {
        return false;
    }
    let (map, mut committer) = load(&mut recorder, &g);
    committer.checkpoint(&map, &mut recorder).unwrap();
    let second = recorder.take().iter().find(|w| w.0 < 2).unwrap().0;
    assert_eq!(second, 1 - first, "the older slot goes first");
    true
}

/// All writes of a transaction but the last are plain; the last carries the flush. No write
/// runs over the end of the ring.
#[test]
fn a_transaction_ends_with_one_flush_and_stays_within_the_ring() {
    let g = Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let recorder = Recorder::new(&disk);
    let mut transactions = Vec::new();
    for round in 0..12u64 {
        // Each slab is in several runs, which takes three words.
        for n in 0..(round * 300 % 1900) {
            u.write(n * 32 + round, 1, round + 1, true).unwrap();
            u.write(n * 32 + round + 16, 1, round + 1, true).unwrap();
        }
        u.committer.commit(&u.map, &mut recorder.clone()).unwrap();
        let log = recorder.take();
        if log.iter().any(|w| w.0 < 2) {
            continue; // The ring was full, so this was a checkpoint.
        }
        let ring = g.journal_block(0).0..g.journal_block(g.journal_blocks()).0;
        for (n, w) in log.iter().enumerate() {
            assert!(ring.contains(&w.0) && w.0 + w.1 as u64 <= ring.end, "{w:?}");
            let last = n + 1 == log.len();
            let order = if last { Order::FlushFua } else { Order::Plain };
            assert_eq!(w.2, order, "{log:?}");
        }
        transactions.push(log.len());
    }
    assert!(transactions.iter().any(|&n| n > 1), "{transactions:?}");
}

/// At each place of the ring, a transaction of twelve blocks of sixteen ends before the blocks
/// that the last checkpoint needs, or a checkpoint takes its place. No write runs over the end.
#[test]
fn a_transaction_takes_only_what_is_free_of_the_ring() {
    let g = Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 16).unwrap();
    let ring = g.journal_block(0).0..g.journal_block(16).0;
    for (head, freed) in (0..15u32).flat_map(|n| [(n, false), (n, true)]) {
        let mut disk = SimDisk::new();
        format(&mut disk, g);
        let mut u = SimUnion::attach_to(&disk, &g).unwrap();
        let recorder = Recorder::new(&disk);
        for slab in 0..head {
            u.map.assign(slab, LeafSlab(slab)).unwrap();
            assert!(u.map.map_sectors(u64::from(slab) * 32, 1).unwrap());
            u.committer.commit(&u.map, &mut u.disk).unwrap();
        }
        if freed {
            u.checkpoint().unwrap();
        }
        let room = 16 - u.committer.journal_used();
        // Each slab is in two runs, which takes three words.
        for slab in 20..1990 {
            u.map.assign(slab, LeafSlab(slab)).unwrap();
            assert!(u.map.map_sectors(u64::from(slab) * 32, 1).unwrap());
            assert!(u.map.map_sectors(u64::from(slab) * 32 + 7, 1).unwrap());
        }
        u.committer.commit(&u.map, &mut recorder.clone()).unwrap();
        let log = recorder.take();
        let transaction = log.iter().take_while(|w| ring.contains(&w.0));
        let blocks: usize = transaction.clone().map(|w| w.1).sum();
        assert!(transaction.clone().all(|w| w.0 + w.1 as u64 <= ring.end));
        assert!(blocks <= room as usize, "{blocks} of {room}");
        let whole = log.len() == transaction.count();
        assert_eq!((whole, blocks == 12), (room >= 12, room >= 12), "{log:?}");
    }
}

/// A record gives how far its leaf slab lies behind the previous record's. If the distance does not
/// fit, another record gives it.
#[test]
fn every_distance_between_leaf_slabs_is_recorded() {
    let g = Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap();
    for step in (1..=130).chain([1000, 1999]) {
        let mut disk = SimDisk::new();
        format(&mut disk, g);
        let mut u = SimUnion::attach_to(&disk, &g).unwrap();
        for (slab, leaf) in [(5, 0), (1700, step)] {
            u.map.assign(slab, LeafSlab(leaf)).unwrap();
            assert!(u.map.map_sectors(u64::from(slab) * 32 + 7, 3).unwrap());
        }
        u.flush().unwrap();
        let u = SimUnion::attach_to(&disk, &g).unwrap();
        let found = [5, 1700].map(|slab| u.map.entry(slab).leaf_slab);
        assert_eq!(found, [0, step].map(|leaf_slab| Some(LeafSlab(leaf_slab))));
    }
}
