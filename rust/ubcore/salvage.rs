// SPDX-License-Identifier: GPL-2.0

//! What is left of a leaf whose metadata is damaged, and what is lost.
//!
//! A map page that fails its checksum, or cannot be read, is not known; nor are the pages of a
//! directory block of which that is so. A page of the slab table loses its root slabs, a page of
//! sector bits all root slabs whose home is among its leaf slabs. They say so in the map
//! ([`Entry::LOST`]), and every other slab is as if nothing had happened, for no page and no record
//! of another slab tells anything of it.
//!
//! What cannot be narrowed down in this way stays a refusal: the journal, both superblocks, and
//! whatever contradicts itself under a right checksum.

use core::fmt;
use core::ops::{DerefMut, Range};

use super::error::{Area, Error, Result};
use super::geometry::TABLE_ENTRIES;
use super::map::{Entry, Map, Memory};
use super::pages::{bits_page_of, table_page_of, PageSet};

/// A metadata block that is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What it is a block of.
    pub area: Area,
    /// Its position on the leaf, in blocks of 4096 bytes.
    pub block: u64,
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

/// What becomes of map pages that are not known.
pub trait Losses {
    /// So many pages are not known, because of `damage`. An error: it is not to be gone on.
    fn lose(&mut self, pages: Range<u32>, damage: Damage) -> Result;

    /// Whether a map page is not known.
    fn is_lost(&self, page: u32) -> bool;

    /// What was damaged first, if anything was.
    fn first(&self) -> Option<Error>;
}

/// Nothing may be lost: the first damage is an error.
pub struct Nothing;

impl Losses for Nothing {
    fn lose(&mut self, _: Range<u32>, damage: Damage) -> Result {
        Err(damage.error)
    }

    fn is_lost(&self, _: u32) -> bool {
        false
    }

    fn first(&self) -> Option<Error> {
        None
    }
}

/// Damages that a [`Lost`] keeps one by one.
pub const DAMAGES_KEPT: usize = 8;

/// Most map pages that may be lost: what lies behind 32 directory blocks, in 64 MiB of memory. A leaf
/// that has lost more is refused, or its superblock alone could claim any number of them.
pub const PAGES_MAX: u32 = 32 * 512;

/// What a salvage had to give up. `B` has a bit for each map page.
pub struct Lost<B> {
    pages: PageSet<B>,
    kept: [Option<Damage>; DAMAGES_KEPT],
    blocks: u32,
}

impl<B: DerefMut<Target = [u64]>> Lost<B> {
    /// Nothing yet: `pages` is empty.
    pub fn new(pages: PageSet<B>) -> Self {
        Lost {
            pages,
            kept: [None; DAMAGES_KEPT],
            blocks: 0,
        }
    }

    /// Blocks of metadata that are of no use.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The first of them.
    pub fn kept(&self) -> [Option<Damage>; DAMAGES_KEPT] {
        self.kept
    }
}

impl<B: DerefMut<Target = [u64]>> Losses for Lost<B> {
    fn lose(&mut self, pages: Range<u32>, damage: Damage) -> Result {
        pages.for_each(|page| self.pages.add(page));
        if self.pages.len() > PAGES_MAX {
            return Err(damage.error);
        }
        if let Some(free) = self.kept.iter_mut().find(|kept| kept.is_none()) {
            *free = Some(damage);
        }
        self.blocks = self.blocks.saturating_add(1);
        Ok(())
    }

    fn is_lost(&self, page: u32) -> bool {
        self.pages.has(page)
    }

    fn first(&self) -> Option<Error> {
        self.kept.iter().flatten().next().map(|d| d.error)
    }
}

/// Says so in the map of all slabs that are lost with pages. After the replay and all that judges
/// the map: from here on it has no entry for them. May need memory. Between pages it calls `pause`,
/// whose error ends it.
pub fn mark<M: Memory>(map: &Map<M>, lost: &impl Losses, pause: impl FnMut() -> Result) -> Result {
    if lost.first().is_none() {
        return Ok(());
    }
    slabs(
        map,
        |page| lost.is_lost(page),
        pause,
        |mut slabs| slabs.try_for_each(|slab| map.set_entry(slab, Entry::LOST)),
    )
}

/// Calls `f` with each stretch of union sectors that is lost, first and count, as the map says or
/// would if the pages that `is_lost` names were not known. In order; none touches the next. Between
/// pages it calls `pause`, and fails only with what that fails with.
pub fn stretches<M: Memory>(
    map: &Map<M>,
    is_lost: impl Fn(u32) -> bool,
    pause: impl FnMut() -> Result,
    mut f: impl FnMut(u64, u64),
) -> Result {
    let g = map.geometry();
    slabs(map, is_lost, pause, |slabs| {
        let first = g.slab_start(slabs.start);
        let end = g.slab_start(slabs.end).min(g.union_sectors());
        f(first, end.saturating_sub(first));
        Ok(())
    })
}

/// The same in root slabs.
fn slabs<M: Memory>(
    map: &Map<M>,
    is_lost: impl Fn(u32) -> bool,
    mut pause: impl FnMut() -> Result,
    mut f: impl FnMut(Range<u32>) -> Result,
) -> Result {
    let g = map.geometry();
    let mut held: Range<u32> = 0..0;
    for page in 0..g.table_pages() {
        let first = page.saturating_mul(TABLE_ENTRIES);
        let whole = is_lost(table_page_of(first));
        // A page that is not there names nothing.
        if !whole && map.memory().table(page).is_none() {
            continue;
        }
        pause()?;
        for slab in first..first.saturating_add(TABLE_ENTRIES).min(g.root_slabs()) {
            let unmapped = |leaf| is_lost(bits_page_of(map, leaf));
            let of_entry = |e: Entry| e.lost || e.leaf.is_some_and(unmapped);
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
            held.end = slab.saturating_add(1);
        }
    }
    if held.is_empty() {
        Ok(())
    } else {
        f(held)
    }
}
