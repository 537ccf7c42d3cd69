// SPDX-License-Identifier: GPL-2.0

//! The parts of a union, as an attach loads them from a leaf.

use ubcore::alloc::{bitmap_words, Allocator};
use ubcore::attach::{self, Probe};
use ubcore::disk::Disk;
use ubcore::error::Result;
use ubcore::format::directory::PageEntry;
use ubcore::geometry::Geometry;
use ubcore::map::{words_for, Map, Memory};
use ubcore::pages::PageSet;
use ubcore::salvage::{Losses, NoLoss};

/// The committer, with its memory in vectors.
pub type SimCommitter = ubcore::commit::Committer<Vec<u64>, Vec<PageEntry>>;

/// The parts of a union that are not its disk.
pub struct Parts<M> {
    pub map: Map<M>,
    pub allocator: Allocator<Vec<u64>>,
    pub committer: SimCommitter,
}

/// Returns an empty set of a leaf's map pages.
pub fn page_set(g: &Geometry) -> PageSet<Vec<u64>> {
    PageSet::new(vec![0; words_for(g.pages())])
}

/// Returns an allocator to which all leaf slabs are free.
pub fn allocator(g: &Geometry) -> Allocator<Vec<u64>> {
    let bitmaps = bitmap_words(g.leaf_slabs()).map(|n| vec![0; n]);
    Allocator::new(bitmaps, g.leaf_slabs())
}

/// Fills an empty map from a leaf. The next checkpoint also writes the pages `changed`.
pub fn fill<D: Disk, M: Memory, L: Losses>(
    disk: &mut D,
    probe: Probe,
    map: &Map<M>,
    changed: PageSet<Vec<u64>>,
    lost: &mut L,
) -> Result<(Allocator<Vec<u64>>, SimCommitter)> {
    let g = *map.geometry();
    let mut allocator = allocator(&g);
    let entries = vec![PageEntry::EMPTY; g.pages() as usize];
    let (a, sets) = (&mut allocator, [changed, page_set(&g)]);
    let committer = attach::salvage(disk, probe, map, a, entries, sets, lost)?;
    Ok((allocator, committer))
}

/// Does the part of an attach that only reads. `memory` makes the map's memory. A damaged leaf
/// loses what `lost` takes.
pub fn salvage<D: Disk, M: Memory, L: Losses>(
    disk: &mut D,
    root_sectors: u64,
    leaf_sectors: u64,
    memory: impl FnOnce(&Geometry) -> M,
    lost: &mut L,
) -> Result<Parts<M>> {
    let probe = attach::probe(disk, root_sectors, leaf_sectors)?;
    let g = probe.superblock.geometry;
    let map = Map::new(g, memory(&g));
    let (allocator, committer) = fill(disk, probe, &map, page_set(&g), lost)?;
    Ok(Parts {
        map,
        allocator,
        committer,
    })
}

/// Does the same, and refuses any damage.
pub fn load<D: Disk, M: Memory>(
    disk: &mut D,
    root_sectors: u64,
    leaf_sectors: u64,
    memory: impl FnOnce(&Geometry) -> M,
) -> Result<Parts<M>> {
    salvage(disk, root_sectors, leaf_sectors, memory, &mut NoLoss)
}
