// SPDX-License-Identifier: GPL-2.0

//! Tests positions that 32 bits do not hold: a root and a leaf of several tebibytes.

use sim::disk::{DiskState, SimDisk};
use sim::oracle::{content, ROOT};
use sim::union::{format, SimUnion};
use ubcore::geometry::{Geometry, LeafSlab};

const TIB: u64 = 1 << 31;
const SLAB: u64 = 8192;

fn geometry() -> Geometry {
    Geometry::new(6 * TIB, 6 * TIB, 4 * TIB, SLAB as u32, 64).unwrap()
}

fn again(disk: &SimDisk) -> (SimDisk, SimUnion) {
    let durable = disk.state.borrow().moment().durable;
    let disk = SimDisk::with(DiskState::restored(durable));
    let u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    (disk, u)
}

/// The slab is recorded as runs, or as words because it is in many runs. It is replayed, and read
/// from the pages.
#[test]
fn a_slab_far_out() {
    let start = 5 * TIB + 3 * SLAB;
    let leaf_slab = 3 * TIB / SLAB + 7;
    for runs in [3, 200] {
        let mut disk = SimDisk::new();
        format(&mut disk, geometry());
        let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
        let slab = (start / SLAB) as u32;
        u.map.assign(slab, LeafSlab(leaf_slab as u32)).unwrap();
        let written = |at: u64| at >= 37 && (at - 37) % 3 == 0 && (at - 37) / 3 < runs;
        for at in (0..SLAB).filter(|&at| written(at)) {
            u.write(start + at, 1, at, true).unwrap();
        }
        let to = u.map.geometry().leaf_slab_start(LeafSlab(leaf_slab as u32)) + 37;
        assert!(to > 3 * TIB && disk.read_sector(to) == content(37, start + 37));
        let holds = |u: &SimUnion| {
            (0..SLAB).all(|at| {
                let tag = if written(at) { at } else { ROOT };
                u.read(start + at) == content(tag, start + at)
            })
        };
        u.flush().unwrap();
        assert!(holds(&u), "{runs}: running");
        let (disk, u) = again(&disk);
        assert!(holds(&u), "{runs}: replayed");
        assert_eq!(
            u.map.entry(slab).leaf_slab,
            Some(LeafSlab(leaf_slab as u32))
        );
        let (_, u) = again(&disk);
        assert!(holds(&u), "{runs}: from the pages alone");
    }
}

/// If one slab of many thousands has changed, or two, a commit finds it, wherever it is on the
/// leaf.
#[test]
fn a_change_anywhere_on_the_leaf() {
    let slabs = 40_000;
    let sectors = (slabs + 1000) * 32;
    let g = Geometry::new(sectors, sectors, sectors, 32, 64).unwrap();
    assert!(u64::from(g.leaf_slabs()) > slabs - 2000);
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let places = [0, 63, 64, 4095, 4096, 8191, 12_288, 20_000, 36_863, 37_000];
    for (n, leaf) in places.into_iter().enumerate() {
        u.map.assign(leaf, LeafSlab(leaf)).unwrap();
        for (sector, other) in [(1, leaf), (4, leaf), (7, places[n / 2])] {
            for slab in [leaf, other] {
                u.map
                    .map_sectors(u64::from(slab) * 32 + sector + n as u64, 1)
                    .unwrap();
            }
            u.committer.commit(&u.map, &mut u.disk).unwrap();
        }
    }
    let durable = disk.state.borrow().moment().durable;
    let disk = SimDisk::with(DiskState::restored(durable));
    let found = SimUnion::attach_to(&disk, &g).unwrap();
    for leaf in places {
        assert_eq!(found.map.entry(leaf).leaf_slab, Some(LeafSlab(leaf)));
        assert_eq!(
            found.map.word(LeafSlab(leaf), 0).unwrap(),
            u.map.word(LeafSlab(leaf), 0).unwrap(),
            "{leaf}"
        );
    }
}
