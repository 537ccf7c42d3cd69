// SPDX-License-Identifier: GPL-2.0

//! Promise 4: a full leaf fails each request that needs space, and loses no space by that.

use sim::disk::{Random, SimDisk};
use sim::oracle::{content, ROOT};
use sim::reclaim::{begin_reclaim, end_reclaim};
use sim::union::{format, SimUnion};
use ubcore::alloc::Denied;
use ubcore::error::Error;
use ubcore::geometry::Geometry;
use ubcore::map::Base;

const SLAB: u64 = 32;

/// Makes a leaf of 20 slabs under a root of 100.
fn small() -> (SimDisk, SimUnion) {
    let g = Geometry::new(100 * SLAB, 100 * SLAB, 2048 + 20 * SLAB, SLAB as u32, 16).unwrap();
    assert_eq!(g.leaf_slabs(), 20);
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, u)
}

#[test]
fn a_write_that_does_not_fit_as_a_whole_takes_nothing() {
    let (_, mut u) = small();
    for slab in 0..17 {
        u.write(slab * 5 * SLAB, 1, slab + 1, true).unwrap();
    }
    // Three slabs are free. The request needs four, beside one that has a leaf slab.
    let r = u
        .allocator
        .allocate_range(&u.map, 5 * SLAB, 5 * SLAB as u32);
    assert_eq!(r, Err(Error::Full.into()));
    assert_eq!(u.allocator.used(), 17);
    assert!((6..10).all(|s| u.map.entry(s).leaf_slab.is_none()));
    // So three requests that need one slab each still fit, and a fourth does not.
    for slab in [6, 8, 99] {
        assert_eq!(u.allocator.allocate_range(&u.map, slab * SLAB, 3), Ok(()));
    }
    assert_eq!((u.allocator.used(), u.allocator.slabs()), (20, 20));
    assert_eq!(
        u.allocator.allocate_range(&u.map, 7 * SLAB, 1),
        Err(Error::Full.into())
    );
    // A request that needs no slab still succeeds.
    assert_eq!(u.allocator.allocate_range(&u.map, 5 * SLAB + 30, 4), Ok(()));
    assert_eq!(u.allocator.allocate_range(&u.map, 0, 0), Ok(()));
}

#[test]
fn a_write_that_fits_exactly_fits() {
    let (_, mut u) = small();
    u.write(0, 1, 1, true).unwrap();
    let all = 20 * SLAB as u32;
    assert_eq!(u.allocator.allocate_range(&u.map, 0, all), Ok(()));
    assert_eq!(u.allocator.used(), 20);
    assert!((0..20).all(|s| u.map.entry(s).leaf_slab.is_some()));
}

/// A leaf slab whose write never completed is in no map on disk, so it is free at the next attach.
#[test]
fn a_leaf_slab_without_a_write_is_free_again_after_an_attach() {
    let (disk, mut u) = small();
    let g = *u.map.geometry();
    u.write(SLAB, 4, 7, true).unwrap();
    u.allocator.allocate_range(&u.map, 10 * SLAB, 64).unwrap();
    assert_eq!(u.allocator.used(), 3);
    u.detach().unwrap();
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    assert_eq!(u.allocator.used(), 1);
    assert!(u.read(SLAB) == content(7, SLAB) && u.read(10 * SLAB) == content(ROOT, 10 * SLAB));
}

/// A full leaf survives a power failure with everything that was flushed, and is still full.
#[test]
fn full_is_full_after_a_power_failure() {
    let (disk, mut u) = small();
    let g = *u.map.geometry();
    for slab in 0..20 {
        u.write(slab * 3 * SLAB, 2, slab + 1, true).unwrap();
    }
    u.flush().unwrap();
    assert_eq!(u.write(99 * SLAB, 1, 50, true), Err(Error::Full.into()));
    disk.state.borrow_mut().crash(&mut Random(5));
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    assert_eq!(u.allocator.used(), 20);
    assert_eq!(u.write(99 * SLAB, 1, 50, true), Err(Error::Full.into()));
    u.write(3 * SLAB + 1, 5, 60, true).unwrap();
    u.flush().unwrap();
    for slab in 0..20 {
        let at = slab * 3 * SLAB;
        assert!(u.read(at) == content(slab + 1, at));
    }
    assert!(u.read(3 * SLAB + 4) == content(60, 3 * SLAB + 4));
}

/// A request waits for space that a discard is about to give back, however far the discard has
/// come.
#[test]
fn full_is_not_full_while_a_slab_leaves() {
    let (_, mut u) = small();
    u.write(0, 20 * SLAB, 1, true).unwrap();
    u.flush().unwrap();
    let far = 50 * SLAB;
    assert_eq!(
        u.allocator.allocate_range(&u.map, far, 1),
        Err(Error::Full.into())
    );
    u.empty(7..8, Base::Zero).unwrap();
    assert_eq!(
        u.allocator.allocate_range(&u.map, far, 1),
        Err(Denied::Later)
    );
    u.allocator.begin_commit();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert_eq!(
        u.allocator.allocate_range(&u.map, far, 1),
        Err(Denied::Later)
    );
    assert!(begin_reclaim(&mut u.allocator, &u.map, true));
    assert_eq!(
        u.allocator.allocate_range(&u.map, far, 1),
        Err(Denied::Later)
    );
    end_reclaim(&mut u.allocator, &u.map);
    assert_eq!(u.allocator.allocate_range(&u.map, far, 1), Ok(()));
    let next = u.allocator.allocate_range(&u.map, far + SLAB, 1);
    assert_eq!(next, Err(Error::Full.into()));
}
