// SPDX-License-Identifier: GPL-2.0

//! Tests a union that is larger than its root. Beyond the root it reads as zeroes, whatever happens
//! to the slabs there. The slab in which the root ends belongs to both parts.

use sim::disk::{Random, Sector, SimDisk};
use sim::oracle::{content, ROOT};
use sim::union::{format, SimUnion};
use ubcore::error::{Error, Role};
use ubcore::geometry::Geometry;
use ubcore::map::Base;
use ubcore::plan::{self, Run, Source};
use ubcore::stack::source::NoLayers;

const SLAB: u64 = 32;
/// The root ends within slab 3, after 5 of its sectors.
const END: u64 = 3 * SLAB + 5;
const SIZE: u64 = 10 * SLAB - 7;

fn geometry() -> Geometry {
    Geometry::new(END, SIZE, 2048 + 24 * SLAB, SLAB as u32, 16).unwrap()
}

fn union() -> (SimDisk, SimUnion) {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, u)
}

/// Returns what an unwritten sector reads as.
fn below(sector: u64) -> Sector {
    if sector < END {
        content(ROOT, sector)
    } else {
        [0; 512]
    }
}

fn runs(u: &SimUnion, sector: u64, sectors: u64) -> Vec<(Source, u32)> {
    plan::read(&u.map, NoLayers, sector, sectors as u32)
        .map(|Run { source, sectors }| (source, sectors))
        .collect()
}

#[test]
fn the_root_is_never_read_beyond_its_end() {
    let (_, mut u) = union();
    assert_eq!(u.map.geometry().root_slabs(), 10);
    let root = (Source::Root(0), END as u32);
    let rest = (Source::Zero, (SIZE - END) as u32);
    assert_eq!(runs(&u, 0, SIZE), [root, rest]);
    assert_eq!(
        runs(&u, END - 1, 2),
        [(Source::Root(END - 1), 1), (Source::Zero, 1)]
    );
    assert_eq!(runs(&u, END, 1), [(Source::Zero, 1)]);

    // A first write across the end leaves the surrounding sectors of the slab unchanged.
    u.write(END - 2, 4, 1, true).unwrap();
    let leaf = u
        .map
        .geometry()
        .leaf_slab_start(u.map.entry(3).leaf_slab.unwrap());
    assert_eq!(
        runs(&u, 3 * SLAB, SLAB),
        [
            (Source::Root(3 * SLAB), 3),
            (Source::Leaf(leaf + 3), 4),
            (Source::Zero, SLAB as u32 - 7),
        ]
    );
    u.write(SIZE - 3, 3, 2, true).unwrap();
    for s in 0..SIZE {
        let expected = match s {
            _ if (END - 2..END + 2).contains(&s) => content(1, s),
            _ if s >= SIZE - 3 => content(2, s),
            _ => below(s),
        };
        assert!(u.read(s) == expected, "sector {s}");
    }
}

#[test]
fn an_emptied_slab_shows_what_lies_below_it() {
    let (disk, mut u) = union();
    for slab in [2, 3, 4, 9] {
        let sectors = SLAB.min(SIZE - slab * SLAB);
        u.write(slab * SLAB, sectors, slab, true).unwrap();
    }
    u.flush().unwrap();
    assert_eq!(u.empty(2..10, Base::Below), Ok(true));
    assert!((2 * SLAB..SIZE).all(|s| u.read(s) == below(s)));
    u.flush().unwrap();
    u.detach().unwrap();
    let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    assert!((0..SIZE).all(|s| u.read(s) == below(s)));
    assert_eq!(u.allocator.used(), 0);
    // A reused leaf slab is full of the previous owner's bytes, and none of them may show.
    u.write(3 * SLAB + 8, 1, 7, true).unwrap();
    assert_eq!(u.empty(2..3, Base::Zero), Ok(true));
    for s in 0..SIZE {
        let expected = match s {
            _ if s == 3 * SLAB + 8 => content(7, s),
            _ if s / SLAB == 2 => [0; 512],
            _ => below(s),
        };
        assert!(u.read(s) == expected, "sector {s}");
    }
}

#[test]
fn whole_slabs_are_counted_to_the_unions_end() {
    let g = geometry();
    let whole = |sector, sectors| g.whole_slabs(sector, sectors);
    assert_eq!(whole(3 * SLAB, SLAB as u32), 3..4);
    assert_eq!(whole(9 * SLAB, (SLAB - 7) as u32), 9..10);
    assert!(whole(9 * SLAB, (SLAB - 8) as u32).is_empty());
}

#[test]
fn the_root_is_recognised_by_its_own_size() {
    let (disk, u) = union();
    drop(u);
    for wrong in [SIZE, END - 1, END + 1] {
        let e = SimUnion::attach(&disk, wrong, geometry().leaf_sectors()).err();
        assert_eq!(e, Some(Error::RootSize(END, wrong)));
    }
    let small = Geometry::new(END, END - 1, 2048 + 24 * SLAB, SLAB as u32, 16);
    assert_eq!(small, Err(Error::TooLarge(Role::Root, END)));
}

/// Runs random workloads over the root's end, with attaches between. No sector may ever be stale.
#[test]
fn random_workloads() {
    let mut random = Random(8);
    for _ in 0..200 {
        let (disk, mut u) = union();
        let mut model: Vec<Sector> = (0..SIZE).map(below).collect();
        for tag in 1..40 {
            match random.below(8) {
                0 => {
                    let (base, slab) = (random.chance(2), 1 + random.below(6));
                    let base = if base { Base::Zero } else { Base::Below };
                    let slabs = slab as u32..(slab + 1 + random.below(3)) as u32;
                    for s in u64::from(slabs.start) * SLAB..u64::from(slabs.end) * SLAB {
                        model[s as usize] = match base {
                            Base::Zero => [0; 512],
                            Base::Below => below(s),
                        };
                    }
                    u.empty(slabs, base).unwrap();
                    u.flush().unwrap();
                }
                1 => {
                    u.detach().unwrap();
                    u = SimUnion::attach_to(&disk, &geometry()).unwrap();
                }
                2 => {
                    u.flush().unwrap();
                    // The power fails: only the leaf's bytes are left.
                    u = SimUnion::attach_to(&disk, &geometry()).unwrap();
                }
                _ => {
                    let sectors = 1 + random.below(20);
                    let sector = random.below(SIZE - sectors + 1);
                    u.write(sector, sectors, tag, true).unwrap();
                    for s in sector..sector + sectors {
                        model[s as usize] = content(tag, s);
                    }
                }
            }
            let wrong = (0..SIZE).find(|&s| u.read(s) != model[s as usize]);
            assert_eq!(wrong, None);
        }
    }
}
