// SPDX-License-Identifier: GPL-2.0

//! The memory that the metadata of a leaf is read into.

use crate::{
    memory::{
        MapMemory,
        Reserve, //
    },
    ubcore::{
        alloc::{
            bitmap_words,
            Allocator, //
        },
        error::{
            Error,
            Result, //
        },
        format::directory::PageEntry,
        geometry::Geometry,
        map::{
            words_for,
            Map, //
        },
        num::u32_as_usize,
        pages::PageSet,
        stack::changed_slabs::ChangedSlabs, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// An empty map, and what else an attach fills.
pub(super) struct Empty {
    pub(super) map: Map<MapMemory>,
    pub(super) allocator: Allocator<KVVec<u64>>,
    pub(super) entries: KVVec<PageEntry>,
    pub(super) sets: [PageSet<KVVec<u64>>; 2],
}

impl Empty {
    /// Returns the memory for a leaf of this layout.
    pub(super) fn new(g: &Geometry, reserve: &Arc<Reserve>) -> Result<Self> {
        let [used, unowned, reclaimable] = bitmap_words(g.leaf_slabs()).map(|n| zeroed(n, 0));
        Ok(Empty {
            map: Map::new(*g, MapMemory::new(g, reserve.clone())?),
            allocator: Allocator::new([used?, unowned?, reclaimable?], g.leaf_slabs()),
            entries: zeroed(u32_as_usize(g.pages()), PageEntry::EMPTY)?,
            sets: [page_set(g)?, page_set(g)?],
        })
    }
}

/// Returns an empty set of map pages.
pub(super) fn page_set(g: &Geometry) -> Result<PageSet<KVVec<u64>>> {
    zeroed(words_for(g.pages()), 0).map(PageSet::new)
}

/// Returns an empty set of changed slabs.
pub(super) fn changed_slabs(g: &Geometry) -> Result<ChangedSlabs<KVVec<u64>>> {
    let words = ChangedSlabs::<KVVec<u64>>::bitmap_words(g);
    let [leaf_slabs, pages] = words.map(|n| zeroed(n, 0));
    Ok(ChangedSlabs::new([leaf_slabs?, pages?]))
}

fn zeroed<T: Copy>(n: usize, zero: T) -> Result<KVVec<T>> {
    KVVec::from_elem(zero, n, GFP_KERNEL).map_err(|_| Error::NoMemory)
}
