// SPDX-License-Identifier: GPL-2.0

//! What is left of a leaf whose metadata is damaged, and what is lost.
//!
//! If a map page fails its checksum, or cannot be read, it is not known. If this happens to a
//! directory block, all its pages are not known. With a page of the slab table all its root slabs
//! are lost. With a page of sector bits all root slabs that own one of its leaf slabs are lost.
//! The map marks these root slabs as lost ([`Entry::LOST`]). Every other slab is as if nothing had
//! happened, because no page and no record of another slab says anything about it.
//!
//! Damage that cannot be narrowed down in this way is still refused: damage of the journal, of both
//! superblocks, and of metadata that contradicts itself under a right checksum.

use core::fmt;
use core::ops::{DerefMut, Range};

use super::error::{Area, Error, Result};
use super::geometry::MapPage;
use super::leaf_block::LeafBlock;
use super::map::{Entry, Map, Memory};
use super::num::next;
use super::pages::{bits_page_of, PageSet};

/// A metadata block that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The area that the block belongs to.
    pub area: Area,
    /// Its position on the leaf, in blocks of 4096 bytes.
    pub block: LeafBlock,
    /// Why attach refuses it: damaged, or an I/O error.
    pub error: Error,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.error {
            Error::Io(..) => "cannot be read",
            _ => "is damaged",
        };
        write!(f, "{} at block {} {what}", self.area.name(), self.block)
    }
}

/// Decides what becomes of map pages that are not known.
pub trait Losses {
    /// Loses map pages, which are not known because of `damage`. If it fails, the caller must stop.
    fn lose(&mut self, pages: Range<MapPage>, damage: Damage) -> Result;

    /// Returns whether a map page is not known.
    fn is_lost(&self, page: MapPage) -> bool;

    /// Returns the error of the first damage, if there was any.
    fn first(&self) -> Option<Error>;
}

/// Allows no loss: the first damage is an error.
pub struct NoLoss;

impl Losses for NoLoss {
    fn lose(&mut self, _: Range<MapPage>, damage: Damage) -> Result {
        Err(damage.error)
    }

    fn is_lost(&self, _: MapPage) -> bool {
        false
    }

    fn first(&self) -> Option<Error> {
        None
    }
}

/// The number of damages that a [`Lost`] keeps one by one.
pub const DAMAGES_KEPT: usize = 8;

/// The largest number of map pages that may be lost, which are 64 MiB of memory. A leaf that has
/// lost more is refused, because otherwise its superblock alone could lose any number of them.
pub const PAGES_MAX: u32 = 32 * 512;

/// What a salvage had to give up. `B` has a bit for each map page.
pub struct Lost<B> {
    pages: PageSet<B>,
    kept: [Option<Damage>; DAMAGES_KEPT],
    blocks: u32,
}

impl<B: DerefMut<Target = [u64]>> Lost<B> {
    /// Returns a value that has lost nothing yet. `pages` is empty.
    pub fn new(pages: PageSet<B>) -> Self {
        Lost {
            pages,
            kept: [None; DAMAGES_KEPT],
            blocks: 0,
        }
    }

    /// Returns the number of metadata blocks that cannot be used.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns the first of them.
    pub fn kept(&self) -> [Option<Damage>; DAMAGES_KEPT] {
        self.kept
    }
}

impl<B: DerefMut<Target = [u64]>> Losses for Lost<B> {
    fn lose(&mut self, pages: Range<MapPage>, damage: Damage) -> Result {
        for page in MapPage::each(pages) {
            self.pages.insert(page)?;
        }
        if self.pages.len() > PAGES_MAX {
            return Err(damage.error);
        }
        if let Some(free) = self.kept.iter_mut().find(|kept| kept.is_none()) {
            *free = Some(damage);
        }
        // At most one for each page.
        self.blocks = self.blocks.wrapping_add(1);
        Ok(())
    }

    fn is_lost(&self, page: MapPage) -> bool {
        self.pages.has(page)
    }

    fn first(&self) -> Option<Error> {
        self.kept.iter().flatten().next().map(|d| d.error)
    }
}

/// Marks in the map all slabs that are lost with pages. To be called after the replay and after all
/// checks of the map, because from here on the map has no entry for these slabs. May need memory.
/// It calls `give_way` between pages. An error of `give_way` ends it.
pub fn mark_lost<M: Memory>(
    map: &Map<M>,
    lost: &impl Losses,
    give_way: impl FnMut() -> Result,
) -> Result {
    if lost.first().is_none() {
        return Ok(());
    }
    each_lost_range(
        map,
        |page| lost.is_lost(page),
        give_way,
        |mut slabs| slabs.try_for_each(|slab| map.set_entry(slab, Entry::LOST)),
    )
}

/// Calls `f` with each range of union sectors that is lost, first and count. A slab is lost if
/// the map says so, or if it would say so without the pages that `is_lost` names. The ranges
/// come in order, and no two of them touch. It calls `give_way` between pages, and fails only with
/// an error of `give_way`.
pub fn lost_ranges<M: Memory>(
    map: &Map<M>,
    is_lost: impl Fn(MapPage) -> bool,
    give_way: impl FnMut() -> Result,
    mut f: impl FnMut(u64, u64),
) -> Result {
    let g = map.geometry();
    each_lost_range(map, is_lost, give_way, |slabs| {
        let first = g.slab_start(slabs.start);
        let end = g.slab_start(slabs.end).min(g.union_sectors());
        f(first, end.wrapping_sub(first));
        Ok(())
    })
}

/// Calls `f` with each range of root slabs that are lost, as [`lost_ranges`] does with sectors.
fn each_lost_range<M: Memory>(
    map: &Map<M>,
    is_lost: impl Fn(MapPage) -> bool,
    mut give_way: impl FnMut() -> Result,
    mut f: impl FnMut(Range<u32>) -> Result,
) -> Result {
    let g = map.geometry();
    let mut held: Range<u32> = 0..0;
    for page in 0..g.table_pages() {
        let whole = is_lost(MapPage::table(page));
        // A page that does not exist names nothing.
        if !whole && map.memory().table(page).is_none() {
            continue;
        }
        give_way()?;
        let all = g.root_slabs_of(page);
        for slab in all.start..all.end.min(g.root_slabs()) {
            let unmapped = |leaf_slab| is_lost(bits_page_of(map, leaf_slab));
            let of_entry = |e: Entry| e.lost || e.leaf_slab.is_some_and(unmapped);
            if !(whole || of_entry(map.entry(slab))) {
                continue;
            }
            if held.end != slab && !held.is_empty() {
                f(held)?;
                held = 0..0;
            }
            if held.is_empty() {
                held.start = slab;
            }
            held.end = next(slab);
        }
    }
    if held.is_empty() {
        Ok(())
    } else {
        f(held)
    }
}
