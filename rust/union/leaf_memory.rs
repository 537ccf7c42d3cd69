// SPDX-License-Identifier: GPL-2.0

//! The memory that the metadata of a leaf is read into.

use super::metadata_disk::{
    MetadataDisk,
    UnionCommitter, //
};
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
        attach::{
            self,
            Probe, //
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
        salvage::Losses,
        stack::changed_slabs::ChangedSlabs, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The empty memory that a leaf's metadata is read into.
struct LeafMemory {
    map: Map<MapMemory>,
    allocator: Allocator<KVVec<u64>>,
    entries: KVVec<PageEntry>,
    sets: [PageSet<KVVec<u64>>; 2],
}

impl LeafMemory {
    /// Returns the memory for a leaf of this layout.
    fn new(g: &Geometry, reserve: &Arc<Reserve>) -> Result<Self> {
        let [used, unowned, reclaimable] = bitmap_words(g.leaf_slabs()).map(|n| zeroed(n, 0));
        Ok(LeafMemory {
            map: Map::new(*g, MapMemory::new(g, reserve.clone())?),
            allocator: Allocator::new([used?, unowned?, reclaimable?], g.leaf_slabs()),
            entries: zeroed(u32_as_usize(g.pages()), PageEntry::EMPTY)?,
            sets: [page_set(g)?, page_set(g)?],
        })
    }
}

/// The metadata of a leaf, as the committer and the look-ups need it.
pub(super) struct FilledLeaf {
    pub(super) map: Map<MapMemory>,
    pub(super) allocator: Allocator<KVVec<u64>>,
    pub(super) committer: UnionCommitter,
}

/// Reads a leaf's metadata into new memory. Passes each damaged page to `losses`, which accepts the
/// loss or fails the attach.
///
/// Process context.
#[inline(never)]
pub(super) fn load_leaf<L: Losses>(
    disk: &mut MetadataDisk<'_>,
    probe: KBox<Probe>,
    losses: &mut L,
    reserve: &Arc<Reserve>,
) -> Result<KBox<FilledLeaf>> {
    let LeafMemory {
        map,
        mut allocator,
        entries,
        sets,
    } = LeafMemory::new(&probe.superblock.geometry, reserve)?;
    let probe = KBox::into_inner(probe);
    let committer = attach::salvage(disk, probe, &map, &mut allocator, entries, sets, losses)?;
    let filled = FilledLeaf {
        map,
        allocator,
        committer,
    };
    KBox::new(filled, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

/// Returns the metadata of a leaf as it is after the reset of its committer.
///
/// Process context.
#[inline(never)]
pub(super) fn empty_leaf(
    committer: &UnionCommitter,
    reserve: &Arc<Reserve>,
) -> Result<KBox<FilledLeaf>> {
    let LeafMemory {
        map,
        mut allocator,
        entries,
        sets,
    } = LeafMemory::new(&committer.superblock().geometry, reserve)?;
    allocator.set_limit(committer.superblock().features.limit());
    let committer = committer.after_reset(&map, entries, sets)?;
    let filled = FilledLeaf {
        map,
        allocator,
        committer,
    };
    KBox::new(filled, GFP_KERNEL).map_err(|_| Error::NoMemory)
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
