// SPDX-License-Identifier: GPL-2.0

//! A reclaim in one step, for tests in which nothing else runs.

use std::ops::DerefMut;

use ubcore::alloc::Allocator;
use ubcore::geometry::LeafSlab;
use ubcore::map::{Map, Memory};

/// Begins a reclaim and picks what it frees; returns whether there is anything to free.
pub fn begin_reclaim<M: Memory, B: DerefMut<Target = [u64]>>(
    allocator: &mut Allocator<B>,
    map: &Map<M>,
    durable: bool,
) -> bool {
    if !allocator.begin_reclaim(durable) {
        return false;
    }
    let mut page = Some(0);
    while let Some(from) = page {
        page = allocator.advance_reclaim(map, from);
    }
    allocator.is_reclaiming()
}

/// Frees everything that a reclaim picked.
pub fn end_reclaim<M: Memory, B: DerefMut<Target = [u64]>>(
    allocator: &mut Allocator<B>,
    map: &Map<M>,
) {
    clear_reclaimable(allocator, map);
    while allocator.end_reclaim(map, |_| ()).expect("a whole bitmap") {}
    assert!(!allocator.is_reclaiming());
}

/// Clears what the map has of the leaf slabs that are about to be freed.
pub fn clear_reclaimable<M: Memory, B: DerefMut<Target = [u64]>>(
    allocator: &Allocator<B>,
    map: &Map<M>,
) {
    let mut from = LeafSlab(0);
    while let Some(range) = allocator.reclaimable(from) {
        from = range.end;
        LeafSlab::each(range).for_each(|leaf_slab| map.clear_unowned(leaf_slab));
    }
}
