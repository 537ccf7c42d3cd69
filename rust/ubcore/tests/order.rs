// SPDX-License-Identifier: GPL-2.0

//! Checks the cost that the design promises, in exact counts of lower I/O, and the layout of a map.

use sim::disk::{Counts, Random, SimDisk};
use sim::oracle::{content, Oracle, ROOT};
use sim::union::{format, load, SimUnion};
use ubcore::alloc::Denied;
use ubcore::error::{Area, Error};
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

fn fresh(g: Geometry) -> (SimDisk, SimUnion) {
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, u)
}

/// Returns 1 GiB of root and 64 MiB of leaf with 64 KiB slabs.
fn usual() -> Geometry {
    Geometry::new(2_097_152, 2_097_152, 262_144, 128, 64).unwrap()
}

fn since(disk: &SimDisk, before: Counts) -> Counts {
    let c = disk.counts();
    Counts {
        reads: c.reads - before.reads,
        writes: c.writes - before.writes,
        flush_fua_writes: c.flush_fua_writes - before.flush_fua_writes,
        fua_writes: c.fua_writes - before.fua_writes,
        flushes: c.flushes - before.flushes,
        blocks_written: c.blocks_written - before.blocks_written,
    }
}

#[test]
fn a_thousand_first_writes_are_one_commit_of_two_blocks() {
    let g = Geometry::new(67_108_864, 67_108_864, 4_194_304, 128, 64).unwrap();
    let (disk, mut u) = fresh(g);
    let mut random = Random(7);
    let mut o = Oracle::default();
    let before = disk.counts();
    for _ in 0..1000 {
        let at = random.below(g.union_sectors() / 8) * 8;
        let tag = o.new_tag();
        u.write(at, 8, tag, true).unwrap();
    }
    assert_eq!(since(&disk, before).writes, 1000);
    let before = disk.counts();
    u.flush().unwrap();
    let expected = Counts {
        flush_fua_writes: 1,
        blocks_written: 2,
        ..Counts::default()
    };
    assert_eq!(since(&disk, before), expected);
    // If nothing is dirty: one flush, no metadata.
    let before = disk.counts();
    u.flush().unwrap();
    assert_eq!(
        since(&disk, before),
        Counts {
            flushes: 1,
            ..Counts::default()
        }
    );
}

/// A block holds 500 runs if slabs have two of them.
#[test]
fn runs_that_open_no_slab_cost_what_others_do() {
    let (disk, mut u) = fresh(usual());
    for slab in 0..900u32 {
        u.map.assign(slab, LeafSlab(slab)).unwrap();
        assert!(u.map.map_sectors(u64::from(slab) * 128, 1).unwrap());
        assert!(u.map.map_sectors(u64::from(slab) * 128 + 64, 1).unwrap());
    }
    let before = disk.counts();
    u.flush().unwrap();
    assert_eq!(since(&disk, before).blocks_written, 4);
}

/// No slab costs more than twice its bits, however many runs it is in: here 258 words of 508.
#[test]
fn slabs_in_many_runs_are_recorded_in_words() {
    let g = Geometry::new(2_097_152, 2_097_152, 262_144, 8192, 64).unwrap();
    let (disk, mut u) = fresh(g);
    for slab in 0..10u32 {
        u.map.assign(slab, LeafSlab(slab)).unwrap();
        for at in (0..8192).step_by(2) {
            assert!(u.map.map_sectors(u64::from(slab) * 8192 + at, 1).unwrap());
        }
    }
    let before = disk.counts();
    u.flush().unwrap();
    let did = since(&disk, before);
    assert_eq!(u.committer.counters().commits, 1);
    assert!(did.blocks_written <= 10, "{did:?}");
    // A slab that changes is recorded again; its neighbours are not.
    assert!(u.map.map_sectors(3 * 8192 + 1, 1).unwrap());
    let before = disk.counts();
    u.flush().unwrap();
    assert_eq!(since(&disk, before).blocks_written, 1);
}

/// An attach after a detach reads superblocks, directory, one block of the ring, and the pages,
/// eight at a time.
#[test]
fn an_attach_reads_what_lies_together_at_once() {
    let (disk, u) = fresh(usual());
    let g = *u.map.geometry();
    assert_eq!((g.table_pages(), g.bits_pages()), (16, 8));
    for n in 0..16 {
        u.map.assign(n * 1024, LeafSlab(n * 120)).unwrap();
        assert!(u.map.map_sectors(u64::from(n) * 1024 * 128, 1).unwrap());
    }
    u.detach().unwrap();
    let before = disk.counts();
    let u = load(&disk, 2_097_152, 262_144).unwrap();
    assert_eq!(since(&disk, before).reads, 1 + 1 + 1 + 24 / 8);
    assert_eq!(u.map.entry(15 * 1024).leaf_slab, Some(LeafSlab(15 * 120)));
}

#[test]
fn an_overwrite_touches_no_metadata() {
    let (disk, mut u) = fresh(usual());
    u.write(1000, 300, 1, true).unwrap();
    u.flush().unwrap();
    let changes = u.map.changes();
    u.write(1100, 100, 2, true).unwrap();
    assert_eq!(u.map.changes(), changes);
    let before = disk.counts();
    u.flush().unwrap();
    assert_eq!(
        since(&disk, before),
        Counts {
            flushes: 1,
            ..Counts::default()
        }
    );
}

#[test]
fn runs_are_cut_where_the_source_changes_and_nowhere_else() {
    let (_, mut u) = fresh(usual());
    // Slab by slab, backwards. Neighbours must still lie side by side.
    for slab in (0..16).rev() {
        u.write(slab * 128, 128, 1, true).unwrap();
    }
    let runs: Vec<_> = plan::read(&u.map, NoLayers, 0, 2048).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].sectors, 2048);
    assert_eq!(plan::write(&u.map, 5, 2000).count(), 1);
    let runs: Vec<_> = plan::read(&u.map, NoLayers, 2040, 30).collect();
    assert!(matches!(runs[0].source, Source::Leaf(_)) && runs[0].sectors == 8);
    assert_eq!(runs[1].source, Source::Root(2048));
    assert_eq!((runs[1].sectors, runs.len()), (22, 2));
    u.write(10_000, 3, 2, true).unwrap();
    let lens: Vec<_> = plan::read(&u.map, NoLayers, 9_990, 20)
        .map(|r| r.sectors)
        .collect();
    assert_eq!(lens, [10, 3, 7]);
    assert!(u.read(10_001) == content(2, 10_001) && u.read(10_003) == content(ROOT, 10_003));
}

#[test]
fn a_random_order_of_first_writes_leaves_large_runs() {
    let (_, mut u) = fresh(usual());
    let mut random = Random(3);
    let mut slabs: Vec<u64> = (0..800).collect();
    for n in (1..slabs.len()).rev() {
        slabs.swap(n, random.below(n as u64 + 1) as usize);
    }
    for s in slabs {
        u.write(s * 128, 128, 1, true).unwrap();
    }
    // At most one run for each MiB.
    let runs = plan::read(&u.map, NoLayers, 0, 800 * 128).count();
    assert!(runs <= 50, "{runs} runs");
}

#[test]
fn every_slab_of_the_leaf_can_be_used_and_then_it_is_full() {
    let g = Geometry::new(2_000_000, 2_000_000, 2048 * 9, 128, 16).unwrap();
    let (_, mut u) = fresh(g);
    let n = u64::from(g.leaf_slabs());
    for i in 0..n {
        // The slabs are far apart, so each takes a group until none is left.
        u.write(i * 128 * 37 % 1_900_000, 1, i + 1, true).unwrap();
    }
    assert_eq!(u64::from(u.allocator.used()), n);
    assert_eq!(u.write(1_999_000, 1, 9, true), Err(Error::Full.into()));
    u.write(0, 64, 77, true).unwrap();
    assert!(u.read(3) == content(77, 3) && u.read(1_999_000) == content(ROOT, 1_999_000));
    u.flush().unwrap();
}

#[test]
fn all_slab_sizes_and_fragmented_slabs_survive_a_replay_and_a_checkpoint() {
    for shift in 5..=13 {
        let slab = 1u32 << shift;
        let g = Geometry::new(50_000, 50_000, 200_000, slab, 64).unwrap();
        let (disk, mut u) = fresh(g);
        let mut o = Oracle::default();
        for at in (0..u64::from(slab) * 2).step_by(2) {
            let tag = o.new_tag();
            u.write(at, 1, tag, true).unwrap();
            o.begun(at, 1, tag);
        }
        for at in [u64::from(slab) * 3 - 1, 40_000, 49_999] {
            let tag = o.new_tag();
            u.write(at, 1, tag, true).unwrap();
            o.begun(at, 1, tag);
        }
        u.flush().unwrap();
        o.flushed();
        drop(u);
        let u = load(&disk, 50_000, 200_000).unwrap();
        u.verify_running(&o);
        let u = SimUnion::attach_to(&disk, &g).unwrap();
        u.detach().unwrap();
        SimUnion::attach_to(&disk, &g).unwrap().verify_running(&o);
    }
}

#[test]
fn a_union_larger_than_its_root_reads_zeroes_behind_it() {
    let g = Geometry::new(1000, 5000, 262_144, 128, 16).unwrap();
    let (_, mut u) = fresh(g);
    let runs: Vec<_> = plan::read(&u.map, NoLayers, 900, 300).collect();
    assert_eq!(runs[0].source, Source::Root(900));
    assert_eq!(
        (runs[0].sectors, runs[1].source, runs[1].sectors),
        (100, Source::Zero, 200)
    );
    u.write(1010, 1, 5, true).unwrap();
    assert!(u.read(1010) == content(5, 1010) && u.read(1011) == [0; 512]);
}

#[test]
fn a_clean_detach_leaves_nothing_to_replay_and_loading_writes_nothing() {
    let (disk, mut u) = fresh(usual());
    u.write(0, 500, 1, true).unwrap();
    u.detach().unwrap();
    let before = disk.counts();
    let u = load(&disk, 2_097_152, 262_144).unwrap();
    let did = since(&disk, before);
    assert_eq!(
        (
            did.writes,
            did.flush_fua_writes,
            did.fua_writes,
            did.flushes
        ),
        (0, 0, 0, 0)
    );
    assert!(u.committer.superblock().clean);
    assert_eq!(u.committer.journal_used(), 0);
    assert!(u.read(499) == content(1, 499));
}

#[test]
fn the_wrong_sizes_are_refused() {
    let (disk, u) = fresh(usual());
    u.detach().unwrap();
    let image = disk.image();
    let err = |r, l| load(&disk, r, l).err();
    assert_eq!(
        err(2_097_151, 262_144),
        Some(Error::RootSize(2_097_152, 2_097_151))
    );
    assert_eq!(
        err(2_097_152, 262_143),
        Some(Error::LeafSize(262_144, 262_143))
    );
    assert_eq!(load(&SimDisk::new(), 1, 1).err(), Some(Error::NotFormatted));
    assert!(disk.image() == image);
}

/// Rots each metadata block in use, in turn. Attach must name it, or (if there is a copy) not need
/// it.
#[test]
fn rot_is_named_and_never_followed() {
    let g = Geometry::new(8000, 8000, 32_768, 32, 64).unwrap();
    let (disk, mut u) = fresh(g);
    let mut o = Oracle::default();
    for n in 0..40 {
        let tag = o.new_tag();
        u.write(n * 190, 3, tag, true).unwrap();
        o.begun(n * 190, 3, tag);
        u.flush().unwrap();
        o.flushed();
        if n == 20 {
            u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
        }
    }
    drop(u);
    let meta = g.data_start() / 8;
    let mut named = 0;
    for block in 0..meta {
        for sector in 0..8 {
            let at = block * 8 + sector;
            disk.rot(at, 100);
            match load(&disk, 8000, 32_768) {
                Err(Error::Damaged(area, b)) => {
                    assert_eq!(b.0, block, "{area:?}");
                    named += 1;
                }
                Err(e) => panic!("block {block}: {e}"),
                // The last journal block looks like a torn block, which it may be.
                Ok(u) if block == g.journal_block(39).0 => drop(u),
                Ok(u) => u.verify_running(&o),
            }
            disk.rot(at, 100);
        }
    }
    assert!(named > 100, "{named}");
    assert_eq!(Error::Damaged(Area::Page, LeafBlock(1)).to_wire().0, 4);
}

#[test]
fn a_failed_commit_is_for_ever() {
    let (disk, mut u) = fresh(usual());
    u.write(0, 8, 1, true).unwrap();
    disk.state.borrow_mut().power_fails_in = Some(0);
    assert!(u.flush().is_err());
    disk.state.borrow_mut().dead = false;
    disk.state.borrow_mut().power_fails_in = None;
    assert!(u.flush().is_err());
    assert!(u.committer.failed().is_some());
    assert!(u.detach().is_err());
}

#[test]
fn a_ring_that_cannot_hold_a_commit_makes_it_a_checkpoint() {
    let g = Geometry::new(4_000_000, 4_000_000, 2_000_000, 32, 16).unwrap();
    let (disk, mut u) = fresh(g);
    let mut o = Oracle::default();
    for n in 0..20_000 {
        u.write(n * 199, 1, n + 1, true).unwrap();
        o.begun(n * 199, 1, n + 1);
    }
    u.flush().unwrap();
    o.flushed();
    assert_eq!(u.committer.counters().commits, 0);
    assert_eq!(u.committer.counters().checkpoints, 2);
    assert!(u.committer.is_committed(&u.map));
    let mut random = Random(1);
    disk.state.borrow_mut().crash(&mut random);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    for n in 0..20_000 {
        assert!(u.read(n * 199) == content(n + 1, n * 199), "{n}");
    }
}

#[test]
fn zeroing_a_gibibyte_writes_no_data_and_two_journal_blocks() {
    let g = Geometry::new(4_194_304, 4_194_304, 262_144, 128, 64).unwrap();
    let (disk, mut u) = fresh(g);
    u.write(1000, 3000, 1, true).unwrap();
    u.flush().unwrap();
    let used = u.allocator.used();
    let before = disk.counts();
    u.empty(0..16_384, Base::Zero).unwrap();
    assert_eq!(since(&disk, before), Counts::default());
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    let did = since(&disk, before);
    // One record for each page of the slab table that it covers, 16 of them, and the block of the
    // empty transaction that follows.
    assert_eq!((did.flush_fua_writes, did.blocks_written), (2, 2));
    assert_eq!(plan::read(&u.map, NoLayers, 0, 2_097_152).count(), 1);
    assert_eq!(
        plan::read(&u.map, NoLayers, 0, 9).next().unwrap().source,
        Source::Zero
    );
    // The space is free only after a commit and a grace period.
    assert_eq!(u.allocator.used(), used);
    assert_eq!(u.allocate_range(1000, 1), Err(Denied::Later));
    u.flush().unwrap();
    assert_eq!(u.allocator.used(), 0);
    u.write(1000, 1, 2, true).unwrap();
    assert!(u.read(1000) == content(2, 1000) && u.read(1001) == [0; 512]);
    u.flush().unwrap();
    drop(u);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    assert!(u.read(1000) == content(2, 1000) && u.read(1001) == [0; 512]);
    assert!(u.read(2_000_000) == [0; 512] && u.read(2_100_000) == content(ROOT, 2_100_000));
}

#[test]
fn what_was_never_written_costs_nothing_to_reveal() {
    let (disk, mut u) = fresh(usual());
    assert_eq!(
        u.empty(0..u.map.geometry().root_slabs(), Base::Below),
        Ok(false)
    );
    assert!(u.committer.is_committed(&u.map));
    u.write(128, 128, 1, true).unwrap();
    assert_eq!(u.empty(0..10, Base::Below), Ok(true));
    assert!(u.read(130) == content(ROOT, 130));
    u.flush().unwrap();
    drop(u);
    assert!(SimUnion::attach_to(&disk, &usual()).unwrap().read(130) == content(ROOT, 130));
}
