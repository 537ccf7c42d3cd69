// SPDX-License-Identifier: GPL-2.0

//! Growth of union and leaf: that it changes nothing that is there, that what is new reads as
//! zeroes and can be used, and that a leaf made to do harm does not grow out of its bounds.

use sim::disk::{Counts, Random, Sector, SimDisk};
use sim::inspect::workloads::*;
use sim::inspect::{edit_slots, look};
use sim::oracle::content as tagged;
use sim::union::{format, load, SimUnion};
use ubcore::attach::read_superblock;
use ubcore::error::{Area, Error, Result, Role};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::Geometry;
use ubcore::grow::{grow, Sizes};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;
use ubcore::stack::chain::Seal;

/// Five pages of the slab table in place of three, and three pages of bits in place of one.
const MORE: Sizes = Sizes {
    union_sectors: 5000 * SLAB + 3,
    leaf_sectors: 2 * 32_768 + 100,
};
/// What the leaf of the workloads has pages for anyway.
const LITTLE: Sizes = Sizes {
    union_sectors: 3000 * SLAB,
    leaf_sectors: LEAF + 9 * SLAB,
};

fn roomy() -> Geometry {
    let g = geometry();
    let roomy = g.with_room_for(MORE.union_sectors, MORE.leaf_sectors);
    roomy.unwrap()
}

fn at_rest(disk: &SimDisk, sizes: Sizes) -> Result<Superblock> {
    let mut disk = disk.clone();
    let probe = read_superblock(&mut disk)?;
    grow(&mut disk, &probe, sizes)
}

/// Attaches to a device that is as large as the leaf can grow.
fn attach_large(disk: &SimDisk) -> Result<SimUnion> {
    SimUnion::attach(disk, ROOT, MORE.leaf_sectors)
}

/// The size of a union, and the content of the sectors that workloads use.
type Before = (u64, Vec<(u64, Sector)>);

/// Returns the sectors that workloads use, and some at the ends of table pages and of the union.
fn places(end: u64) -> impl Iterator<Item = u64> {
    let slabs = [
        0, 1, 2, 3, 4, 5, 6, 7, 9, 900, 901, 1023, 1024, 1025, 1500, 2047, 2048, 2499, 2500, 2598,
        2599, 2600, 3071, 3072, 4095, 4096,
    ];
    let all = slabs.into_iter().flat_map(|s| s * SLAB..(s + 1) * SLAB);
    all.filter(move |&s| s < end).chain(end - 40..end)
}

/// Reads a leaf without an attach.
fn read(disk: &SimDisk) -> Before {
    let u = load(disk, ROOT, MORE.leaf_sectors).unwrap();
    let end = u.map.geometry().union_sectors();
    (end, places(end).map(|s| (s, u.read(s))).collect())
}

/// Checks that a union reads as before up to its old size, and as zeroes from there on.
fn only_zeroes_are_new((end, before): &Before, disk: &SimDisk, sectors: u64) {
    let u = load(disk, ROOT, MORE.leaf_sectors).unwrap();
    assert_eq!(u.map.geometry().union_sectors(), sectors);
    for (s, data) in before {
        assert!(u.read(*s) == *data, "growth changed sector {s}");
    }
    for s in places(sectors).filter(|s| s >= end) {
        assert!(u.read(s) == [0; 512], "new sector {s}");
    }
}

#[test]
fn what_is_new_reads_as_zeroes_and_can_be_used() {
    let mut disk = SimDisk::new();
    format(&mut disk, roomy());
    let mut u = attach_large(&disk).unwrap();
    assert_eq!(u.allocator.slabs(), 40);
    for at in [0, 1, 1024, 2599] {
        u.write(at * SLAB, 3, at + 1, true).unwrap();
    }
    // The slab in which the union ended.
    u.empty(2599..2600, Base::Below).unwrap();
    u.flush().unwrap();
    u.write(UNION - 4, 4, 9, true).unwrap();
    u.flush().unwrap();
    drop(u);
    let before = read(&disk);
    let sb = at_rest(&disk, MORE).unwrap();
    only_zeroes_are_new(&before, &disk, MORE.union_sectors);
    assert!(worst_is_note(&look(&disk).unwrap()));
    assert!(!sb.clean, "there is a journal to replay");

    let mut u = attach_large(&disk).unwrap();
    assert_eq!(u.allocator.slabs(), sb.geometry.leaf_slabs());
    assert_eq!(u.allocator.slabs(), (65_636 - 2048) / 32);
    // All of the new space, in all of the new union.
    let last = u64::from(sb.geometry.root_slabs()) - 1;
    let free = u.allocator.slabs() - u.allocator.used();
    for n in 0..u64::from(free) {
        let slab = last - 2 * n;
        u.write(slab * SLAB, 3, 100 + n, true).unwrap();
    }
    assert!(u.write(7 * SLAB, 1, 1, true).is_err(), "the leaf is full");
    u.flush().unwrap();
    u.checkpoint().unwrap();
    u.detach().unwrap();
    let u = attach_large(&disk).unwrap();
    for n in 0..u64::from(free) {
        let at = (last - 2 * n) * SLAB;
        assert!(u.read(at) == tagged(100 + n, at), "slab {n}");
    }
    assert!(u.read(UNION - 1) == tagged(9, UNION - 1));
    assert!(worst_is_note(&look(&disk).unwrap()));
}

#[test]
fn nothing_changes_in_any_workload() {
    let mut random = Random(81);
    let (mut replayed, mut grown) = (0, 0);
    for n in 0..workloads() {
        let mut disk = SimDisk::new();
        format(&mut disk, if n % 2 == 0 { roomy() } else { geometry() });
        let mut sizes = Sizes {
            union_sectors: UNION,
            leaf_sectors: LEAF,
        };
        for _ in 0..4 {
            disk.state.borrow_mut().power_fails_in = Some(random.below(60));
            disk.state.borrow_mut().random = Some(random.clone());
            let _ = attach_large(&disk).and_then(|mut u| {
                for tag in 0..random.below(30) {
                    step(&mut u, &mut random, tag + 1)?;
                }
                u.detach()
            });
            disk.state.borrow_mut().crash(&mut random);
            let before = read(&disk);
            replayed += u32::from(look(&disk).unwrap().totals.to_replay > 0);
            let old = read_superblock(&mut disk.clone()).unwrap().superblock;
            let most = (
                old.geometry.union_sectors_max(),
                old.geometry.leaf_sectors_max().min(MORE.leaf_sectors),
            );
            sizes.union_sectors += random.below(most.0 - sizes.union_sectors + 1);
            sizes.leaf_sectors += random.below(most.1 - sizes.leaf_sectors + 1);
            let new = at_rest(&disk, sizes).unwrap();
            grown += u32::from(new.geometry != old.geometry);
            let same = Superblock {
                generation: old.generation,
                geometry: old.geometry,
                ..new
            };
            assert!(same == old, "growth changes something else");
            only_zeroes_are_new(&before, &disk, sizes.union_sectors);
            let l = look(&disk).unwrap();
            assert!(worst_is_note(&l), "{:?}", l.findings);
        }
    }
    assert!(replayed > 10 && grown > 10, "{replayed}, {grown}");
}

/// Growth is two writes. Whatever lands of them, the leaf holds what it held, and has the old sizes
/// or the new ones.
#[test]
fn a_power_failure_leaves_the_old_sizes_or_the_new_ones() {
    let wanted = Counts {
        reads: 1,
        flush_fua_writes: 1,
        fua_writes: 1,
        blocks_written: 2,
        ..Counts::default()
    };
    let mut seen = [0; 2];
    for seed in 0..60 {
        let (disk, _) = committed();
        let before = read(&disk);
        let mut random = Random(seed);
        disk.state.borrow_mut().counts = Counts::default();
        disk.state.borrow_mut().power_fails_in = Some(seed % 4);
        disk.state.borrow_mut().random = Some(random.clone());
        let done = at_rest(&disk, LITTLE);
        if done.is_ok() {
            assert_eq!(disk.counts(), wanted);
        }
        disk.state.borrow_mut().crash(&mut random);
        let found = read_superblock(&mut disk.clone()).unwrap().superblock;
        let is_new = found.geometry.leaf_sectors() == LITTLE.leaf_sectors;
        let union = if is_new { LITTLE.union_sectors } else { UNION };
        only_zeroes_are_new(&before, &disk, union);
        assert!(is_new || done.is_err(), "an answered growth is gone");
        seen[usize::from(is_new)] += 1;
        attach_large(&disk).unwrap().detach().unwrap();
        only_zeroes_are_new(&before, &disk, union);
    }
    assert!(seen.iter().all(|&n| n > 5), "{seen:?}");
}

#[test]
fn a_refused_growth_writes_nothing() {
    let (disk, _) = used();
    let before = disk.image();
    let max = geometry().union_sectors_max();
    for (sizes, e) in [
        (
            Sizes {
                union_sectors: UNION - 1,
                ..LITTLE
            },
            Error::Shrink(Role::Root, UNION),
        ),
        (
            Sizes {
                leaf_sectors: LEAF - 1,
                ..LITTLE
            },
            Error::Shrink(Role::Leaf, LEAF),
        ),
        (MORE, Error::NoRoom(Role::Root, max)),
        (
            Sizes {
                leaf_sectors: 32_769,
                ..LITTLE
            },
            Error::NoRoom(Role::Leaf, 32_768),
        ),
    ] {
        assert_eq!(at_rest(&disk, sizes).err(), Some(e));
        assert!(disk.image() == before);
    }
    let mut u = load(&disk, ROOT, LEAF).unwrap();
    u.committer
        .freeze(&u.map, &mut u.disk, Seal([1; 16]))
        .unwrap();
    let before = disk.image();
    assert_eq!(at_rest(&disk, LITTLE).err(), Some(Error::Frozen));
    assert!(disk.image() == before);
}

/// A leaf that claims more room than its areas have is damaged, and one that claims more slabs than
/// its device has is refused.
#[test]
fn the_sizes_of_a_leaf_are_not_trusted() {
    let with = |at: usize, bytes: &[u8]| {
        let (disk, _) = used();
        edit_slots(&disk, &[0, 1], |block| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        });
        load(&disk, ROOT, LEAF).err()
    };
    let damaged = Some(Error::Damaged(Area::Superblock, LeafBlock(0)));
    assert_eq!(with(504, &[0; 8]), None);
    assert_eq!(with(504, &[0xff; 8]), damaged);
    assert_eq!(with(504, &[0xff; 4]), damaged);
    assert_eq!(with(508, &[0xff; 4]), damaged);
    // More pages than fit before the data, and more than the format has.
    assert_eq!(with(508, &4000u32.to_le_bytes()), damaged);
    assert_eq!(with(504, &503_936u32.to_le_bytes()), damaged);
    assert_eq!(
        with(88, &(LEAF + 1).to_le_bytes()),
        Some(Error::LeafSize(LEAF + 1, LEAF))
    );
}
