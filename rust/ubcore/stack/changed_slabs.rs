// SPDX-License-Identifier: GPL-2.0

//! Which slabs of a leaf have changed since its map was merged into a stack map, and the merge of
//! these alone.
//!
//! A merge of a whole map takes long, so requests run meanwhile and change the map. The committer
//! takes each mark of a change off the map, and notes in [`ChangedSlabs`] which it was. The content
//! of a slab changes in two ways: a sector of its leaf slab becomes mapped, which puts that leaf
//! slab on the committer's list of dirty slabs; or the slab is emptied, which puts its page of the
//! slab table on the list of pending pages. So a slab that has changed is the present owner of a
//! leaf slab noted here, or lies on a page noted here, or still has a mark on the map.

use core::ops::{DerefMut, Range};

use super::super::bits::{self, Bitmap};
use super::super::error::{Broken, Checked, Result};
use super::super::geometry::{Geometry, LeafSlab};
use super::super::map::{words_for, Map, Marks, Memory};
use super::super::num::{next, u32_as_usize};
use super::super::sync::Ordering;
use super::build::{Builder, Built};
use super::extent::ExtentAlignment;
use super::leaf_extents::LeafExtents;
use super::map::{offset_in_slab, StackMemory};
use super::source::StackLookup;
use super::word::SLAB_SECTORS;

/// The slabs of a leaf that have changed.
pub struct ChangedSlabs<B> {
    leaf_slabs: Bitmap<B>,
    /// Pages of the slab table. Any slab of them may have been emptied.
    pages: Bitmap<B>,
}

impl<B: DerefMut<Target = [u64]>> ChangedSlabs<B> {
    /// Returns the numbers of words of the two bitmaps that [`ChangedSlabs::new`] takes.
    pub fn bitmap_words(g: &Geometry) -> [usize; 2] {
        [words_for(g.leaf_slabs()), words_for(g.table_pages())]
    }

    /// Returns the empty set. The bitmaps are zero.
    pub fn new(bitmaps: [B; 2]) -> Self {
        let [leaf_slabs, pages] = bitmaps.map(Bitmap::new);
        ChangedSlabs { leaf_slabs, pages }
    }

    /// Adds the leaf slabs of a mask whose lowest bit is leaf slab `first`, a multiple of 64.
    pub fn add_leaf_slabs(&mut self, first: LeafSlab, slabs: u64) -> Checked {
        self.leaf_slabs.insert_word(first.0 / 64, slabs)
    }

    /// Adds a page of the slab table.
    pub fn add_page(&mut self, page: u32) -> Checked {
        self.pages.insert(page).map(|_| ())
    }

    /// Adds the slabs and pages that have a mark on the map, and leaves the marks. If no request
    /// runs, these are all changes that no commit has taken.
    pub fn add_marked<M: Memory>(&mut self, map: &Map<M>) -> Checked {
        let mut from = 0;
        while let Some(at) = bits::next(map.memory().marks(Marks::DirtyWords), from) {
            let slabs = map.memory().marks(Marks::Dirty).get(u32_as_usize(at));
            let slabs = slabs.ok_or(Broken)?.load(Ordering::Acquire);
            self.leaf_slabs.insert_word(at, slabs)?;
            from = next(at);
        }
        let mut from = 0;
        while let Some(page) = bits::next(map.memory().marks(Marks::Pending), from) {
            self.add_page(page)?;
            from = next(page);
        }
        Ok(())
    }

    /// Merges the changed slabs of a leaf again into the builder of a stack whose highest layer is
    /// this leaf, and empties the set. `below` has the other layers. Calls `give_way` after each
    /// slab, or page of slabs.
    ///
    /// Returns the builder, the number of slabs of the stack that were merged, and the largest
    /// block that no extent of them cuts. Process context.
    pub fn merge<N: StackMemory, M: Memory>(
        &mut self,
        mut builder: Builder<N>,
        below: impl StackLookup,
        map: &Map<M>,
        mut give_way: impl FnMut() -> Result,
    ) -> Built<MergedSlabs<N>> {
        let (mut count, mut block_sectors) = (0u64, ExtentAlignment::<()>::LARGEST);
        let mut at = SetPosition::default();
        while let Some(range) = self.take(map, &mut at) {
            // The range has whole slabs.
            let sectors = range.end.wrapping_sub(range.start);
            let slabs = sectors.div_ceil(u64::from(SLAB_SECTORS));
            let extents = LeafExtents::within(map, range.clone(), || Ok(()));
            let mut extents = ExtentAlignment::new(extents);
            builder = builder.replace_top(&below, range, &mut extents)?;
            block_sectors = block_sectors.min(extents.block_sectors());
            count = count.saturating_add(slabs);
            give_way()?;
        }
        Ok(MergedSlabs {
            builder,
            count,
            block_sectors,
        })
    }

    /// Takes the next page or slab out of the set. Returns its sectors in the union, from the start
    /// of a stack slab to the end of one.
    fn take<M: Memory>(&mut self, map: &Map<M>, at: &mut SetPosition) -> Option<Range<u64>> {
        let g = map.geometry();
        if let Some(page) = self.pages.next(at.page) {
            at.page = next(page);
            self.pages.remove(page);
            return Some(whole_slabs(g, g.root_slabs_of(page)));
        }
        while let Some(leaf_slab) = self.leaf_slabs.next(at.leaf_slab) {
            at.leaf_slab = next(leaf_slab);
            self.leaf_slabs.remove(leaf_slab);
            // Without an owner it was emptied, and its old owner lies on a page of the set.
            if let Some(slab) = map.owner(LeafSlab(leaf_slab)) {
                return Some(whole_slabs(g, slab..next(slab)));
            }
        }
        None
    }
}

/// How far a walk of the set has come.
#[derive(Default)]
struct SetPosition {
    page: u32,
    leaf_slab: u32,
}

/// What [`ChangedSlabs::merge`] returns.
pub struct MergedSlabs<N> {
    /// The builder.
    pub builder: Builder<N>,
    /// The number of slabs of the stack that were merged. A page counts with all its slabs.
    pub count: u64,
    /// The largest block that none of their extents cuts, in sectors.
    pub block_sectors: u32,
}

/// Returns the sectors of all stack slabs that some root slabs touch.
fn whole_slabs(g: &Geometry, slabs: Range<u32>) -> Range<u64> {
    let slab = u64::from(SLAB_SECTORS);
    let start = g.slab_start(slabs.start);
    // A union has fewer than 2^63 sectors, so one slab more fits.
    let end = g.slab_start(slabs.end).div_ceil(slab).wrapping_mul(slab);
    start.wrapping_sub(u64::from(offset_in_slab(start)))..end
}
