// SPDX-License-Identifier: GPL-2.0

//! Tests what a reclaim frees when there is little to free, and which sizes an attach refuses.

use sim::disk::SimDisk;
use sim::reclaim::{begin_reclaim, clear_reclaimable, end_reclaim};
use sim::union::{format, SimUnion};
use ubcore::alloc::Denied;
use ubcore::attach;
use ubcore::error::{Broken, Error};
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Base, Emptied};

fn fresh(g: Geometry) -> (SimDisk, SimUnion) {
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, u)
}

fn wide() -> Geometry {
    // Two pages of the table.
    Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap()
}

fn states(u: &SimUnion, slabs: [u32; 2]) -> [Emptied; 2] {
    slabs.map(|s| u.map.entry(s).emptied)
}

/// A root slab that never had a leaf slab has none to free, but it waits for its reclaim anyway.
/// Until then it cannot get a leaf slab.
#[test]
fn of_slabs_that_had_no_leaf_slab() {
    let (_, mut u) = fresh(wide());
    assert!(!begin_reclaim(&mut u.allocator, &u.map, true));
    u.empty(5..6, Base::Zero).unwrap();
    assert!(u.allocator.any_emptied(&u.map));
    assert_eq!(
        u.allocator.allocate_range(&u.map, 160, 1),
        Err(Denied::Later)
    );
    u.flush().unwrap();
    assert!(!u.allocator.any_emptied(&u.map));
    assert_eq!(u.allocator.allocate_range(&u.map, 160, 1), Ok(()));
}

/// The same on two pages of the table, with no space to free.
#[test]
fn of_slabs_without_leaf_slabs_on_two_pages() {
    let (_, mut u) = fresh(wide());
    for slab in [3, 1500] {
        u.empty(slab..slab + 1, Base::Zero).unwrap();
    }
    u.flush().unwrap();
    assert_eq!(states(&u, [3, 1500]), [Emptied::No; 2]);
}

/// Slabs whose entries lie on two pages, and a reclaim with no entry to advance.
#[test]
fn of_slabs_on_two_pages() {
    let (_, mut u) = fresh(wide());
    let slabs = [3, 1500];
    for slab in slabs {
        u.write(u64::from(slab) * 32, 1, 1, true).unwrap();
    }
    u.flush().unwrap();
    for slab in slabs {
        u.empty(slab..slab + 1, Base::Below).unwrap();
    }
    assert_eq!(states(&u, slabs), [Emptied::Pending; 2]);
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert_eq!(states(&u, slabs), [Emptied::Durable; 2]);
    assert!(begin_reclaim(&mut u.allocator, &u.map, true));
    assert_eq!(states(&u, slabs), [Emptied::Waiting; 2]);
    // Only one reclaim runs at a time.
    assert!(!begin_reclaim(&mut u.allocator, &u.map, true));
    end_reclaim(&mut u.allocator, &u.map);
    assert_eq!(states(&u, slabs), [Emptied::No; 2]);
    assert!(!begin_reclaim(&mut u.allocator, &u.map, true));
    assert_eq!(u.allocator.used(), 0);
}

/// A slab leaves while a reclaim runs, and the reclaim holds up the commit of that slab. The slab
/// is not forgotten when its entry has waited long enough, because its leaf slab has not.
#[test]
fn of_a_slab_that_left_beside_another_reclaim() {
    let (_, mut u) = fresh(wide());
    for slab in [3, 4] {
        u.write(slab * 32, 1, 1, true).unwrap();
    }
    u.flush().unwrap();
    u.empty(3..4, Base::Zero).unwrap();
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert!(begin_reclaim(&mut u.allocator, &u.map, true));
    u.empty(4..5, Base::Zero).unwrap();
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    end_reclaim(&mut u.allocator, &u.map);
    // By now another request waits for a commit.
    assert!(begin_reclaim(&mut u.allocator, &u.map, false));
    end_reclaim(&mut u.allocator, &u.map);
    assert_eq!(states(&u, [3, 4]), [Emptied::No; 2]);
    assert_eq!(u.allocator.used(), 1);
    assert!(u.allocator.any_emptied(&u.map));
    u.flush().unwrap();
    assert!(!u.allocator.any_emptied(&u.map));
    assert_eq!(u.allocator.used(), 0);
}

/// The first and the last slab of a large leaf. No call under the lock looks through all between.
#[test]
fn of_two_slabs_that_lie_far_apart() {
    const SLABS: u32 = 1 << 20;
    const STEP: u32 = 64 * 4096 + 8192;
    let sectors = (u64::from(SLABS) + 1000) * 32;
    let (_, mut u) = fresh(Geometry::new(sectors, sectors, sectors, 32, 32).unwrap());
    let last = u.map.geometry().leaf_slabs() - 1;
    u.write(0, 1, 1, true).unwrap();
    for leaf in 1..last {
        assert!(u.allocator.mark_used(LeafSlab(leaf)).unwrap());
    }
    u.write(5 * 32, 1, 1, true).unwrap();
    assert_eq!(u.map.entry(5).leaf_slab, Some(LeafSlab(last)));
    for slab in [0, 5] {
        u.empty(slab..slab + 1, Base::Zero).unwrap();
    }
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert!(begin_reclaim(&mut u.allocator, &u.map, true));
    let (mut from, mut found) = (LeafSlab(0), Vec::new());
    while let Some(range) = u.allocator.reclaimable(from) {
        assert!(
            range.end > from && range.end.steps_from(from) <= STEP,
            "{from} {range:?}"
        );
        from = range.end;
        found.extend(LeafSlab::each(range));
    }
    assert_eq!(found, [LeafSlab(0), LeafSlab(last)]);
    clear_reclaimable(&u.allocator, &u.map);
    let (mut calls, mut freed) = (0, Vec::new());
    let mut note = |slabs| freed.extend(LeafSlab::each(slabs));
    while u.allocator.end_reclaim(&u.map, &mut note).unwrap() {
        calls += 1;
    }
    assert_eq!(freed, found);
    assert!(calls >= last / STEP, "{calls} calls");
    assert_eq!(u.allocator.used(), last - 1);
}

/// The allocator has a leaf slab as free that the map has given to a root slab.
#[test]
fn a_slab_that_is_free_already_is_a_bug() {
    let (_, mut u) = fresh(wide());
    u.map.assign(0, LeafSlab(3)).unwrap();
    u.empty(0..1, Base::Zero).unwrap();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert!(begin_reclaim(&mut u.allocator, &u.map, true));
    clear_reclaimable(&u.allocator, &u.map);
    let mut freed = 0;
    let done = u.allocator.end_reclaim(&u.map, |_| freed += 1);
    assert_eq!((done, freed), (Err(Broken), 0));
    // The reclaim work tells the committer so.
    u.map.set_broken();
    assert_eq!(
        u.committer.commit(&u.map, &mut u.disk),
        Err(Error::Internal)
    );
}

/// A leaf device may be larger than its leaf, never smaller; a root must have exactly its old size.
#[test]
fn devices_of_other_sizes() {
    let g = wide();
    let (mut disk, u) = fresh(g);
    drop(u);
    let (root, leaf) = (g.root_sectors(), g.leaf_sectors());
    let refused = |disk: &mut SimDisk, root, leaf| attach::probe(disk, root, leaf).err();
    assert_eq!(refused(&mut disk, root, leaf), None);
    assert_eq!(refused(&mut disk, root, leaf + 8), None);
    let small = Error::LeafSize(leaf, leaf - 1);
    assert_eq!(refused(&mut disk, root, leaf - 1), Some(small));
    for other in [root - 1, root + 1] {
        let wrong = Error::RootSize(root, other);
        assert_eq!(refused(&mut disk, other, leaf), Some(wrong));
    }
}
