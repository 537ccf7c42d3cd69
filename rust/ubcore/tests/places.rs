// SPDX-License-Identifier: GPL-2.0

//! Tests where a slab goes if a place other than the first free one continues its neighbours.

use sim::disk::SimDisk;
use sim::union::{format, SimUnion};
use ubcore::geometry::Geometry;
use ubcore::map::Base;

const GROUP: u32 = 16;

/// Makes a leaf whose first five groups are groups 5, 9, 20, 30 and 40 of the root. Two of those
/// are free again.
fn gaps() -> SimUnion {
    let g = Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for (n, group) in (0..).zip([5, 9, 20, 30, 40]) {
        assert_eq!(leaf_slab(&mut u, group * GROUP + 2), n * GROUP + 2);
    }
    for group in [9, 30] {
        u.empty(group * GROUP..(group + 1) * GROUP, Base::Below)
            .unwrap();
    }
    u.flush().unwrap();
    assert_eq!(u.allocator.used(), 3);
    u
}

fn leaf_slab(u: &mut SimUnion, slab: u32) -> u32 {
    u.write(u64::from(slab) * 32, 1, 1, true).unwrap();
    u.map.entry(slab).leaf_slab.unwrap().0
}

#[test]
fn behind_the_group_before() {
    let mut u = gaps();
    assert_eq!(leaf_slab(&mut u, 41 * GROUP + 7), 5 * GROUP + 7);
}

#[test]
fn before_the_group_behind() {
    let mut u = gaps();
    assert_eq!(leaf_slab(&mut u, 39 * GROUP + 7), 3 * GROUP + 7);
}

#[test]
fn the_first_free_group_otherwise() {
    let mut u = gaps();
    assert_eq!(leaf_slab(&mut u, 60 * GROUP + 7), GROUP + 7);
    // The group after group 5 is partly in use by now.
    assert_eq!(leaf_slab(&mut u, 6 * GROUP), 3 * GROUP);
}
