// SPDX-License-Identifier: GPL-2.0

//! What a leaf maps, as extents, from its map in memory.

use core::ops::Range;

use super::super::error::{Area, Error, Result};
use super::super::geometry::TABLE_ENTRIES;
use super::super::map::{Base, Entry, Map, MappedRun, Memory};
use super::super::num::{next, saturating_u32};
use super::super::pages::table_page_of;
use super::super::slot::Slot;
use super::extent::{Content, Extent, Extents, Joined};

/// The extents of a leaf. No two of them could be one.
///
/// A union may write to the leaf meanwhile. Where it does, an extent may be of content that the
/// leaf never had, but all extents are in order, and none is cut finer than by the leaf's writes.
pub struct LeafExtents<'a, M, P>(Joined<SlabExtents<'a, M, P>>);

impl<'a, M: Memory, P: FnMut() -> Result> LeafExtents<'a, M, P> {
    /// Returns the extents of a leaf. It calls `give_way` before each page of the slab table that
    /// exists. An error of `give_way` ends it.
    pub fn new(map: &'a Map<M>, give_way: P) -> Self {
        Self::within(map, 0..u64::MAX, give_way)
    }

    /// Does the same for a range of the union.
    pub fn within(map: &'a Map<M>, range: Range<u64>, give_way: P) -> Self {
        LeafExtents(Joined::new(SlabExtents {
            map,
            at: range.start,
            end: range.end.min(map.geometry().union_sectors()),
            give_way,
        }))
    }
}

impl<M: Memory, P: FnMut() -> Result> Extents for LeafExtents<'_, M, P> {
    fn next(&mut self) -> Result<Option<Extent>> {
        self.0.next()
    }
}

/// The same, cut where slabs end.
struct SlabExtents<'a, M, P> {
    map: &'a Map<M>,
    /// The first sector of the union that was not looked at, and the end.
    at: u64,
    end: u64,
    give_way: P,
}

impl<M: Memory, P: FnMut() -> Result> SlabExtents<'_, M, P> {
    /// Returns the entry of a root slab. It is not known what a lost slab reads as. A slab that was
    /// emptied reads as its base.
    fn entry(&self, slab: u32) -> Result<Entry> {
        let g = self.map.geometry();
        let entry = self.map.entry(slab).at_rest();
        let known = entry.filter(|e| e.leaf_slab.is_none_or(|l| g.has_leaf_slab(l)));
        let block = g.page_block(table_page_of(slab), Slot::A);
        known.ok_or(Error::Damaged(Area::Map, block))
    }
}

impl<M: Memory, P: FnMut() -> Result> Extents for SlabExtents<'_, M, P> {
    /// Returns the next range of one slab that is mapped.
    fn next(&mut self) -> Result<Option<Extent>> {
        let g = self.map.geometry();
        while self.at < self.end {
            let first = self.at;
            let slab = g.slab_of(first);
            let offset = g.offset_in_slab(first);
            if offset == 0 && slab % TABLE_ENTRIES == 0 {
                let page = slab / TABLE_ENTRIES;
                if self.map.memory().table(page).is_none() {
                    self.at = g.slab_start(g.root_slabs_of(page).end);
                    continue;
                }
                (self.give_way)()?;
            }
            let entry = self.entry(slab)?;
            let end = g.slab_start(next(slab)).min(self.end);
            // Within a slab, so it fits 32 bits.
            let limit = saturating_u32(end.wrapping_sub(first));
            let run = match entry.leaf_slab {
                Some(leaf_slab) => self.map.mapped_run(leaf_slab, offset, limit)?,
                None => MappedRun {
                    mapped: false,
                    sectors: limit,
                },
            };
            self.at = first.wrapping_add(u64::from(run.sectors));
            let content = match entry.leaf_slab.filter(|_| run.mapped) {
                Some(l) => Content::Data(g.leaf_slab_start(l).wrapping_add(u64::from(offset))),
                None if entry.base == Base::Zero => Content::Zero,
                None => continue,
            };
            return Ok(Some(Extent {
                first,
                sectors: u64::from(run.sectors),
                content,
            }));
        }
        Ok(None)
    }
}
