// SPDX-License-Identifier: GPL-2.0

//! The checkpoint after a replay contains what the replay found. A page that a replay changes
//! without a note of the change is lost with the ring. Each test has one kind of record, over a
//! slab that is on disk already.

use sim::disk::{DiskState, SimDisk};
use sim::oracle::{content, ROOT};
use sim::union::{format, SimUnion};
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Base, MappedRun};

/// 64 KiB slabs: a slab with more than two runs is recorded as words.
fn geometry() -> Geometry {
    Geometry::new(2560, 2560, 2048 + 12 * 128, 128, 16).unwrap()
}

fn again(disk: &SimDisk) -> (SimDisk, SimUnion) {
    let durable = disk.state.borrow().moment().durable;
    let disk = SimDisk::with(DiskState::restored(durable));
    let u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    (disk, u)
}

/// Sector 5 is written and in a checkpoint; then only `change` is in the journal.
fn twice(change: impl Fn(&mut SimUnion), holds: impl Fn(&SimUnion) -> bool) {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    u.write(5, 1, 1, true).unwrap();
    u.checkpoint().unwrap();
    change(&mut u);
    let checkpoints = u.committer.counters().checkpoints;
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert_eq!(u.committer.counters().checkpoints, checkpoints);
    assert!(holds(&u), "running");
    let (disk, u) = again(&disk);
    assert!(holds(&u), "replayed");
    let (_, u) = again(&disk);
    assert!(holds(&u), "from the pages alone");
}

#[test]
fn a_new_leaf_slab() {
    let holds = |u: &SimUnion| u.read(600) == content(2, 600) && u.read(601) == content(ROOT, 601);
    twice(|u| u.write(600, 1, 2, true).unwrap(), holds);
}

#[test]
fn more_of_a_slab() {
    let holds = |u: &SimUnion| u.read(9) == content(2, 9) && u.read(5) == content(1, 5);
    twice(|u| u.write(9, 1, 2, true).unwrap(), holds);
}

#[test]
fn a_slab_in_many_runs() {
    let teeth = || (10..120).step_by(2);
    twice(
        |u| teeth().for_each(|at| u.write(at, 1, 2, true).unwrap()),
        |u| {
            teeth()
                .all(|at| u.read(at) == content(2, at) && u.read(at + 1) == content(ROOT, at + 1))
                && u.read(5) == content(1, 5)
        },
    );
}

#[test]
fn an_emptied_slab() {
    for (base, tag) in [(Base::Zero, 0), (Base::Below, ROOT)] {
        twice(
            |u| assert_eq!(u.empty(0..1, base), Ok(true)),
            |u| u.read(5) == content(tag, 5) && u.read(6) == content(tag, 6),
        );
    }
}

/// Neighbours are emptied in both ways in one transaction.
#[test]
fn slabs_emptied_in_two_ways() {
    let tag = |base| if base == Base::Zero { 0 } else { ROOT };
    for (one, other) in [(Base::Zero, Base::Below), (Base::Below, Base::Zero)] {
        twice(
            |u| {
                u.write(130, 1, 2, true).unwrap();
                assert_eq!(u.empty(0..1, one), Ok(true));
                assert_eq!(u.empty(1..2, other), Ok(true));
            },
            |u| u.read(5) == content(tag(one), 5) && u.read(130) == content(tag(other), 130),
        );
    }
}

/// A checkpoint without a commit before it contains all that is mapped, wherever on the leaf.
#[test]
fn what_no_commit_has_recorded() {
    let g = Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let slabs = || (0..1900).step_by(60);
    for slab in slabs() {
        u.map.assign(slab, LeafSlab(slab)).unwrap();
        assert!(u.map.map_sectors(u64::from(slab) * 32 + 3, 2).unwrap());
    }
    u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
    let durable = disk.state.borrow().moment().durable;
    let disk = SimDisk::with(DiskState::restored(durable));
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    for slab in slabs() {
        assert_eq!(u.map.entry(slab).leaf_slab, Some(LeafSlab(slab)));
        assert_eq!(
            u.map.mapped_run(LeafSlab(slab), 3, 29).unwrap(),
            MappedRun {
                mapped: true,
                sectors: 2
            },
            "{slab}"
        );
    }
}
