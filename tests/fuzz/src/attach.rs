// SPDX-License-Identifier: GPL-2.0

//! Attaches a whole leaf as the driver does it.

use std::ops::Range;

use sim::parts::{fill, page_set, Parts};
use ubcore::attach::{self, fits_blocks};
use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, MapPage};
use ubcore::map::{Map, Memory};
use ubcore::pages::PageSet;
use ubcore::salvage::{lost_ranges, Damage, Losses, Lost, NoLoss};

use crate::check::look;
use crate::leaf::Leaf;
use crate::make;
use crate::memory::{bounded, Bounded};

/// A union without its disk, in bounded memory.
pub type Found = Parts<Bounded>;

/// Passes losses on, and raises the limit on work for each page that may be lost.
struct Allowed<'a, L>(&'a mut L, &'a Bounded);

impl<L: Losses> Losses for Allowed<'_, L> {
    fn lose(&mut self, pages: Range<MapPage>, damage: Damage) -> Result {
        let count = MapPage::each(pages.clone()).count() as u64;
        self.0.lose(pages, damage)?;
        self.1.watch.allow_for_lost(count);
        Ok(())
    }
    fn is_lost(&self, page: MapPage) -> bool {
        self.0.is_lost(page)
    }
    fn first(&self) -> Option<Error> {
        self.0.first()
    }
}

/// Returns the layout that a leaf claims, if it is small enough to be tried.
pub fn geometry(leaf: &Leaf, data: &[u8]) -> Result<Option<Geometry>> {
    let g = attach::read_superblock(&mut leaf.clone())?
        .superblock
        .geometry;
    Ok(Some(g).filter(|g| !make::is_too_large(g, data)))
}

/// Reads a leaf; `changed` are pages that the next checkpoint writes anyway.
pub fn read(
    leaf: &mut Leaf,
    g: &Geometry,
    changed: Option<PageSet<Vec<u64>>>,
    lost: &mut impl Losses,
) -> Result<Found> {
    let before = leaf.reads;
    let probe = attach::probe(leaf, g.root_sectors(), leaf.sectors)?;
    let map = Map::new(*g, bounded(g, leaf));
    let changed = changed.unwrap_or_else(|| page_set(g));
    let mut lost = Allowed(lost, map.memory());
    let done = fill(leaf, probe, &map, changed, &mut lost);
    // Each block of the ring is read at most three times, each other block once, and once more
    // alone.
    let most = 1 + g.directory_blocks() + 2 * g.pages() + 3 * g.journal_blocks() + 2;
    assert!(leaf.reads - before <= u64::from(most));
    let (allocator, committer) = done?;
    Ok(Found {
        map,
        allocator,
        committer,
    })
}

pub fn load(leaf: &mut Leaf, g: &Geometry) -> Result<Found> {
    read(leaf, g, None, &mut NoLoss)
}

/// Calls `f` with each page of the table that at least one of two maps has.
fn each_page(a: &Map<Bounded>, b: &Map<Bounded>, mut f: impl FnMut(u32)) {
    for page in 0..a.geometry().table_pages() {
        if a.memory().table(page).is_some() || b.memory().table(page).is_some() {
            f(page);
        }
    }
}

/// Returns what a root slab reads as: its leaf slab, if sectors are mapped there, its base, and the
/// bits.
fn reads_as(map: &Map<Bounded>, slab: u32) -> (Option<u32>, bool, Vec<u64>) {
    let g = map.geometry();
    let entry = map.entry(slab);
    let words = g.slab_sectors().div_ceil(64);
    let left = g.union_sectors().saturating_sub(g.slab_start(slab));
    let word = |leaf, n: u32| {
        let left = left.saturating_sub(u64::from(n) * 64).min(64) as u32;
        map.word(leaf, n).unwrap() & ubcore::num::low_bits(left)
    };
    let bits: Vec<u64> = match entry.leaf_slab {
        Some(leaf) => (0..words).map(|n| word(leaf, n)).collect(),
        None => Vec::new(),
    };
    let mapped = bits.iter().any(|&w| w != 0);
    let base = entry.base == ubcore::map::Base::Zero;
    (
        entry.leaf_slab.map(|leaf| leaf.0).filter(|_| mapped),
        base,
        if mapped { bits } else { Vec::new() },
    )
}

/// Checks that both maps read the same.
pub fn same(a: &Map<Bounded>, b: &Map<Bounded>) {
    each_page(a, b, |page| {
        for slab in page * 1024..((page + 1) * 1024).min(a.geometry().root_slabs()) {
            assert_eq!(reads_as(a, slab), reads_as(b, slab), "slab {slab}");
        }
    });
}

/// Loads and salvages a leaf, writes to it if it loaded, and loads it again.
pub fn run(data: &[u8]) {
    let mut leaf = make::leaf(data);
    let Ok(Some(g)) = geometry(&leaf, data) else {
        return;
    };
    let loaded = load(&mut leaf, &g);
    let mut lost = Lost::new(page_set(&g));
    let salvaged = read(&mut leaf, &g, None, &mut lost);
    assert_eq!(leaf.writes, 0);
    if let Ok(found) = &salvaged {
        let mut sectors = 0;
        let walked = lost_ranges(
            &found.map,
            |_| false,
            || Ok(()),
            |_, count| sectors += count,
        );
        assert!(walked.is_ok() && sectors <= g.union_sectors());
        for block in [8, 64] {
            assert!(fits_blocks(&mut leaf, &found.map, block).is_ok());
        }
    }
    let mut found = match (loaded, salvaged) {
        (Err(e), Ok(s)) => {
            assert_eq!(lost.first(), Some(e), "lost");
            assert!(s.committer.failed().is_some());
            return refuses_writes(&mut leaf, s);
        }
        (Err(_), Err(_)) => return,
        (Ok(_), Err(e)) => panic!("loaded, and not to be salvaged: {e}"),
        (Ok(a), Ok(b)) => {
            assert!(lost.first().is_none() && lost.blocks() == 0);
            assert_eq!(a.allocator.used(), b.allocator.used());
            same(&a.map, &b.map);
            if a.committer.failed().is_some() {
                // These are features that only a reader may ignore.
                return refuses_writes(&mut leaf, a);
            }
            a
        }
    };
    // A leaf may contradict itself in places that attach does not read. `check` reports such a
    // leaf.
    let looked = look(&mut leaf).expect("a superblock is valid");
    if !looked.is_damaged() {
        live(&mut leaf, &g, &mut found);
    }
}

fn refuses_writes(leaf: &mut Leaf, mut found: Found) {
    let Found { map, committer, .. } = &mut found;
    let e = committer.failed();
    assert!(e.is_some());
    assert_eq!(committer.checkpoint(map, leaf).err(), e);
    assert_eq!(committer.commit(map, leaf).err(), e);
    assert_eq!(leaf.writes, 0);
}

/// Makes the checkpoint of attach, a first write to each slab with room, a commit, and another
/// attach.
fn live(leaf: &mut Leaf, g: &Geometry, found: &mut Found) {
    let Found {
        map,
        allocator,
        committer,
    } = found;
    assert_eq!(committer.checkpoint(map, leaf), Ok(()));
    for slab in [0, g.root_slabs() / 2, g.root_slabs() - 1] {
        let sector = g.slab_start(slab);
        match allocator.allocate_range(map, sector, 1) {
            Ok(()) => {
                map.map_sectors(sector, 1).unwrap();
                let bits = map
                    .entry(slab)
                    .leaf_slab
                    .map(|leaf| map.word(leaf, 0).unwrap());
                assert!(bits.is_some_and(|bits| bits & 1 == 1), "slab {slab}");
            }
            Err(e) => assert_eq!(e, Error::Full.into()),
        }
    }
    assert_eq!(committer.commit(map, leaf), Ok(()));
    let again = load(leaf, g);
    let again = again.unwrap_or_else(|e| panic!("refused after an attach: {e}"));
    // A leaf slab without mapped sectors goes as soon as its page of bits is empty.
    let mut empty = 0;
    each_page(map, map, |page| {
        let leaf_slabs =
            (page * 1024..(page + 1) * 1024).filter_map(|slab| map.entry(slab).leaf_slab);
        empty += leaf_slabs
            .filter(|&leaf| !map.is_mapped(leaf).unwrap())
            .count() as u32;
    });
    let used = allocator.used();
    assert!((used - empty..=used).contains(&again.allocator.used()));
    same(map, &again.map);
}
