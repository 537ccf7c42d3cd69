// SPDX-License-Identifier: GPL-2.0

//! A leaf whose map is finer than the blocks of a device is distinguished from one whose map is
//! not, in each state that a leaf goes through.

use sim::disk::SimDisk;
use sim::union::{format, SimUnion};
use ubcore::attach::fits_blocks;
use ubcore::geometry::Geometry;
use ubcore::map::Base;

const SLAB: u64 = 64;

fn union() -> SimUnion {
    let g = Geometry::new(20 * SLAB, 20 * SLAB, 2048 + 30 * SLAB, SLAB as u32, 16).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    SimUnion::attach_to(&disk, &g).unwrap()
}

/// Returns whether blocks of 8 sectors fit. Blocks of 1 sector always fit.
fn fits(u: &SimUnion) -> bool {
    let mut disk = u.disk.clone();
    assert_eq!(fits_blocks(&mut disk, &u.map, 1), Ok(true));
    fits_blocks(&mut disk, &u.map, 8).unwrap()
}

#[test]
fn every_place_of_a_part_is_seen() {
    assert!(fits(&union()));
    for first in 0..SLAB {
        for count in [1, 7, 8, 9, 16, SLAB] {
            let mut u = union();
            let sector = 5 * SLAB + first;
            u.write(sector, count, 1, true).unwrap();
            assert_eq!(
                fits(&u),
                first % 8 == 0 && count % 8 == 0,
                "{first} {count}"
            );
        }
    }
}

#[test]
fn a_part_that_is_filled_or_emptied_is_none() {
    let mut u = union();
    u.write(3 * SLAB + 8, 3, 1, true).unwrap();
    assert!(!fits(&u));
    u.write(3 * SLAB + 11, 5, 2, true).unwrap();
    assert!(fits(&u));
    u.write(7 * SLAB + 1, 1, 3, true).unwrap();
    assert!(!fits(&u));
    u.empty(7..8, Base::Zero).unwrap();
    assert!(fits(&u));
    // The former leaf slab still holds a part of a block, but no one reads it.
    u.flush().unwrap();
    assert!(fits(&u));
}
