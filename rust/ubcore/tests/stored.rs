// SPDX-License-Identifier: GPL-2.0

//! Tests pages that are stored for a checkpoint in steps, with writes and commits between the
//! steps.

use sim::disk::{DiskState, Random, SimDisk};
use sim::oracle::{content, Oracle};
use sim::union::{format, load, SimUnion};
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, MapPage, TABLE_ENTRIES};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;
use ubcore::replay_limit::filled_max;

const SLAB: u64 = 32;

/// Returns six pages of the slab table and four of sector bits.
fn small() -> Geometry {
    Geometry::new(
        6000 * SLAB,
        6000 * SLAB,
        8192 + 4000 * SLAB,
        SLAB as u32,
        16,
    )
    .unwrap()
}

fn fresh(g: Geometry) -> (SimDisk, SimUnion) {
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, u)
}

/// Returns what a power failure leaves: a disk with everything that was sent, and a disk with only
/// what was flushed.
fn after_power_failure(disk: &SimDisk) -> [SimDisk; 2] {
    let durable = disk.state.borrow().moment().durable;
    [disk.clone(), SimDisk::with(DiskState::restored(durable))]
}

/// Stores what has changed, one write at a time, and returns how many writes.
fn store(u: &mut SimUnion) -> u32 {
    let before = u.disk.counts().writes;
    let mut next = Some(MapPage(0));
    while let Some(from) = next {
        next = u.committer.store_some(&u.map, &mut u.disk, from).unwrap();
    }
    (u.disk.counts().writes - before) as u32
}

/// Does random writes, commits and steps; the power fails after each commit, and the map is whole.
#[test]
fn a_page_that_changes_after_its_step_is_stored_again_in_the_same_slot() {
    let g = small();
    let (disk, mut u) = fresh(g);
    let mut random = Random(11);
    let mut oracle = Oracle::default();
    let mut written = Vec::new();
    let mut twice = 0;
    for round in 0..60 {
        for _ in 0..3 {
            let at = random.below(g.union_sectors() / 97) * 97;
            let tag = oracle.new_tag();
            if u.write(at, 1, tag, true).is_ok() {
                written.retain(|&(s, _)| s != at);
                written.push((at, tag));
            }
        }
        u.allocator.begin_commit();
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        twice += u32::from(store(&mut u) > 0 && round > 0);
        let holds = |u: &SimUnion| written.iter().all(|&(s, tag)| u.read(s) == content(tag, s));
        for disk in after_power_failure(&disk) {
            let after = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
            assert!(holds(&after), "round {round}");
        }
        if round % 16 == 15 {
            store(&mut u);
            u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
            assert_eq!(u.committer.journal_used(), 0);
            for disk in after_power_failure(&disk) {
                let after = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
                assert!(holds(&after), "round {round}, from the pages alone");
            }
        }
    }
    assert!(twice > 40, "hardly a page was stored twice");
}

/// A checkpoint in steps writes the same as a checkpoint at once.
#[test]
fn steps_cost_no_write() {
    let writes = |steps: bool| {
        let g = Geometry::new(1 << 26, 1 << 26, 1 << 20, 128, 64).unwrap();
        let (disk, mut u) = fresh(g);
        for slab in 0..40 {
            u.write(slab * 128 * u64::from(TABLE_ENTRIES) / 4, 8, slab, true)
                .unwrap();
        }
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        let before = disk.counts();
        assert!(!steps || store(&mut u) > 1);
        u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
        let after = disk.counts();
        (
            after.writes - before.writes,
            after.blocks_written - before.blocks_written,
        )
    };
    assert_eq!(writes(true), writes(false));
}

/// A checkpoint writes up to eight directory blocks that lie together in one write, each with its
/// own pages.
#[test]
fn directory_blocks_that_lie_together_are_written_together() {
    let slabs = 12 * 508 * TABLE_ENTRIES;
    let sectors = u64::from(slabs) * SLAB;
    let g = Geometry::new(sectors, sectors, 1 << 18, SLAB as u32, 16).unwrap();
    let (disk, mut u) = fresh(g);
    let slab_of = |block: u32| block * 508 * TABLE_ENTRIES;
    // Blocks 2 and 3 are in the other slot by the third checkpoint.
    for (n, blocks, writes) in [(0, 0..11, 2), (1, 2..4, 1), (2, 0..11, 3)] {
        for slab in blocks.clone().map(slab_of) {
            u.empty(slab + n..slab + n + 1, Base::Zero).unwrap();
        }
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        store(&mut u);
        let before = u.disk.counts();
        u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
        let after = u.disk.counts();
        assert_eq!(after.writes - before.writes, writes, "checkpoint {n}");
        // And the two superblocks.
        let blocks = after.blocks_written - before.blocks_written - 2;
        assert_eq!(blocks, [11, 2, 11][n as usize]);
        let leaf = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        for slab in (0..11).map(slab_of).flat_map(|s| s..s + 3) {
            assert_eq!(leaf.map.entry(slab).base, u.map.entry(slab).base);
        }
    }
}

/// A leaf that is written for a task which gets a fatal signal after so many yields.
struct Signalled<'a>(&'a mut SimDisk, u32);

const SIGNAL: Error = Error::Os(4);

impl Disk for Signalled<'_> {
    fn buffer(&mut self) -> &mut Buffer {
        self.0.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.0.read(block, count)
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        self.0.write(block, count, order)
    }
    fn flush(&mut self) -> Result {
        self.0.flush()
    }
    fn give_way(&mut self) -> Result {
        self.1 = self.1.checked_sub(1).ok_or(SIGNAL)?;
        Ok(())
    }
}

/// A signal ends the checkpoint of an attach between any two writes, and the leaf is unchanged.
#[test]
fn a_signal_ends_the_checkpoint_of_an_attach() {
    let g = small();
    let (disk, mut u) = fresh(g);
    for slab in (0..3000).step_by(50) {
        u.write(slab * SLAB, 1, slab, true).unwrap();
    }
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    let mut ended = 0;
    while {
        let mut leaf = Signalled(&mut u.disk, ended);
        let done = u.committer.checkpoint_in_steps(&u.map, &mut leaf);
        assert!(done == Ok(()) || done == Err(SIGNAL), "{done:?}");
        let after = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        let holds = |s: u64| after.read(s * SLAB) == content(s, s * SLAB);
        assert!((0..3000).step_by(50).all(holds), "after {ended}");
        done == Err(SIGNAL)
    } {
        ended += 1;
    }
    assert!(ended > 1 && u.committer.counters().checkpoints == 2);
}

/// Commits after a step. The buffer then holds pages, not the previous block of the journal.
#[test]
fn a_commit_after_a_step_zeroes_its_whole_block() {
    let (disk, mut u) = fresh(small());
    let g = *u.map.geometry();
    for slab in 0..8 {
        // These lie at the end of a table page, which is the first page that a step stores.
        u.write((1016 + slab) * SLAB, 1, slab, true).unwrap();
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        let next = u.committer.store_some(&u.map, &mut u.disk, MapPage(0));
        assert!(next.unwrap().is_some());
    }
    let used = u64::from(u.committer.journal_used());
    assert_eq!(used, 8);
    for block in 0..used {
        let mut copy = disk.clone();
        copy.read(g.journal_block(block as u32), 1).unwrap();
        let rest = &copy.block()[1024..];
        assert!(rest.iter().all(|&b| b == 0), "block {block} of the journal");
    }
}

/// Stored pages still count for what a replay may fill, so attach accepts the leaf.
#[test]
fn a_ring_fills_no_more_pages_for_being_stored_in_steps() {
    let pages = filled_max(&small()) + 200;
    let slabs = u64::from(pages * TABLE_ENTRIES);
    let g = Geometry::new(slabs * SLAB, slabs * SLAB, 1 << 18, SLAB as u32, 16).unwrap();
    assert_eq!(filled_max(&g), filled_max(&small()));
    let (disk, mut u) = fresh(g);
    for page in 0..pages {
        let first = page * TABLE_ENTRIES;
        u.empty(first..first + 1, Base::Zero).unwrap();
        if page % 200 == 199 {
            u.committer.commit(&u.map, &mut u.disk).unwrap();
            store(&mut u);
        }
    }
    assert!(u.committer.counters().checkpoints > 1);
    let after = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
    assert_eq!(after.map.entry(0).base, Base::Zero);
}

/// A commit that finds the ring full becomes a checkpoint. The checkpoint also covers the emptied
/// slabs whose pages the commit did not reach. Their space is free afterwards, and they can be
/// written.
#[test]
fn a_commit_without_space_leaves_no_emptied_slab_behind() {
    for dirty in [false, true] {
        let (_, mut u) = fresh(small());
        let page = u64::from(TABLE_ENTRIES) * SLAB;
        for n in 0..3 {
            u.write(n * page, 1, n, true).unwrap();
        }
        let mut n = 0;
        while u.committer.journal_used() < 16 {
            u.write(SLAB + n, 1, n, true).unwrap();
            u.committer.commit(&u.map, &mut u.disk).unwrap();
            n += 1;
        }
        for page in 0..3 {
            let slab = page * TABLE_ENTRIES;
            assert_eq!(u.empty(slab..slab + 1, Base::Zero), Ok(true));
        }
        if dirty {
            u.write(SLAB + n, 1, n, true).unwrap();
        }
        u.allocator.begin_commit();
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        assert_eq!(u.committer.journal_used(), 0);
        assert_eq!(u.map.pending_pages(), 0);
        u.discard_and_free().unwrap();
        for n in 0..3 {
            u.write(n * page, 1, 77, true).unwrap();
        }
    }
}
