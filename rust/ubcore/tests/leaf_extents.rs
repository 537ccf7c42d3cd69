// SPDX-License-Identifier: GPL-2.0

//! Tests that the extents of a leaf lead to what each sector of its union was last written with.

use std::cell::Cell;

use sim::disk::{Random, SimDisk};
use sim::layers::{random_leaf, run_workload};
use sim::memory::{MemoryAccess, SimMemory, Watch, Watched};
use sim::oracle::{content, ROOT, ZERO};
use sim::union::{format, load, SimUnion};
use ubcore::error::{Area, Error, Result};
use ubcore::geometry::{Geometry, LeafSlab, TABLE_ENTRIES};
use ubcore::map::{Base, Emptied, Entry, Map, Memory};
use ubcore::stack::extent::{Content, Extent, Extents};
use ubcore::stack::leaf_extents::LeafExtents;

fn try_all<M: Memory>(map: &Map<M>) -> Result<Vec<Extent>> {
    let mut extents = LeafExtents::new(map, || Ok(()));
    let mut all = Vec::new();
    while let Some(e) = extents.next()? {
        all.push(e);
    }
    Ok(all)
}

/// Returns the extents of a map, which must be in order and as long as they can be.
fn all<M: Memory>(map: &Map<M>) -> Vec<Extent> {
    let all = try_all(map).unwrap();
    assert!(all.iter().all(|e| e.sectors > 0));
    for pair in all.windows(2) {
        assert!(pair[0].first + pair[0].sectors <= pair[1].first, "{pair:?}");
        assert!(!pair[0].is_continued_by(&pair[1]), "{pair:?}");
    }
    let end = all.last().map_or(0, |e| e.first + e.sectors);
    assert!(end <= map.geometry().union_sectors());
    all
}

fn check(u: &SimUnion, tags: &[u64]) -> usize {
    let extents = all(&u.map);
    let mut found = vec![ROOT; tags.len()];
    for e in &extents {
        for n in 0..e.sectors {
            let sector = e.first + n;
            let tag = tags[sector as usize];
            match e.content {
                Content::Zero => assert_eq!(tag, ZERO, "sector {sector}"),
                Content::Data(from) => {
                    let data = u.disk.read_sector(from + n);
                    assert_eq!(data, content(tag, sector), "sector {sector}");
                }
            }
            found[sector as usize] = tag;
        }
    }
    assert!(
        found == tags,
        "a sector is mapped that was not, or the reverse"
    );
    extents.len()
}

#[test]
fn random_workloads() {
    let mut random = Random(31);
    let mut extents = 0;
    for _ in 0..30 {
        let (disk, mut u) = random_leaf(&mut random, 12_000);
        let g = *u.map.geometry();
        assert_eq!(all(&u.map), []);
        let steps = random.below(60);
        let tags = run_workload(&mut u, &mut random, steps, 1);
        extents += check(&u, &tags);
        u.detach().unwrap();
        let loaded = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        check(&loaded, &tags);
    }
    assert!(extents > 300, "{extents} extents in all");
}

fn small() -> SimUnion {
    let g = Geometry::new(128_000, 128_000, 1 << 18, 128, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    SimUnion::attach_to(&disk, &g).unwrap()
}

/// An entry that no leaf at rest has is an error, at any slab. It must not be taken for a hole.
#[test]
fn a_slab_whose_content_is_not_known() {
    let damaged = |u: &SimUnion| {
        let found = try_all(&u.map);
        assert!(
            matches!(found, Err(Error::Damaged(Area::Map, _))),
            "{found:?}"
        );
    };
    let mut u = small();
    u.write(0, 300, 1, true).unwrap();
    for slab in [0, 1, 7, 999] {
        let was = u.map.entry(slab);
        let outside = Entry::allocated(LeafSlab(u.map.geometry().leaf_slabs()), Base::Below);
        for entry in [Entry::LOST, outside] {
            u.map.set_entry(slab, entry).unwrap();
            damaged(&u);
        }
        u.map.set_entry(slab, was).unwrap();
        assert_eq!(all(&u.map).len(), 1);
    }
    // A slab that was emptied reads as its base, also before its leaf slab is free.
    u.empty(1..2, Base::Zero).unwrap();
    let found = all(&u.map);
    assert_eq!(found.len(), 3);
    for emptied in [Emptied::Pending, Emptied::Durable, Emptied::Waiting] {
        let entry = Entry::unallocated(Base::Zero, emptied);
        u.map.set_entry(1, entry).unwrap();
        assert_eq!(all(&u.map), found);
    }
    u.flush().unwrap();
    assert_eq!(all(&u.map).len(), 3);
}

/// A leaf slab without a page of bits breaks an invariant.
#[test]
fn a_leaf_slab_without_bits() {
    let g = *small().map.geometry();
    let map = Map::new(g, SimMemory::new(&g));
    let entry = Entry::allocated(LeafSlab(3), Base::Zero);
    map.set_entry(5, entry).unwrap();
    assert_eq!(try_all(&map), Err(Error::Internal));
}

struct Count(Cell<u32>);

impl Watch for Count {
    fn before(&self, _: MemoryAccess) {
        self.0.set(self.0.get() + 1);
    }
}

/// A page of the table that does not exist costs one look, and only the others give way.
#[test]
fn pages_that_do_not_exist_are_skipped() {
    let pages = 500;
    let size = u64::from(pages * TABLE_ENTRIES) * 32;
    let g = Geometry::new(size, size, 1 << 18, 32, 32).unwrap();
    let map = Map::new(g, Watched::new(&g, Count(Cell::new(0))));
    for page in [3, 4, 499] {
        let slab = page * TABLE_ENTRIES + 10;
        let entry = Entry::unallocated(Base::Zero, Emptied::No);
        map.set_entry(slab, entry).unwrap();
    }
    map.memory().watch.0.set(0);
    let mut gave_way = 0;
    let mut extents = LeafExtents::new(&map, || {
        gave_way += 1;
        Ok(())
    });
    let mut found = 0;
    while extents.next().unwrap().is_some() {
        found += 1;
    }
    assert_eq!((found, gave_way), (3, 3));
    assert!(map.memory().watch.0.get() <= pages + 3 * TABLE_ENTRIES);

    let mut extents = LeafExtents::new(&map, || Err(Error::Os(4)));
    assert_eq!(extents.next(), Err(Error::Os(4)));
}
