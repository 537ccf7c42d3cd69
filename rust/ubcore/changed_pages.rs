// SPDX-License-Identifier: GPL-2.0

//! Which pages of the map the next checkpoint writes, and to which slot each.

use core::ops::{DerefMut, Range};

use super::error::{Error, Result};
use super::format::directory::{self, PageEntry};
use super::geometry::MapPage;
use super::num::u32_as_usize;
use super::pages::{self, PageSet};
use super::slot::Slot;

/// The changed pages of a map, and the directory in memory. They belong to the committer.
///
/// If a page was stored since the last checkpoint, the directory in memory has its new slot. The
/// directory on the leaf names the old slot until the checkpoint.
pub struct ChangedPages<B, E> {
    entries: E,
    changed: PageSet<B>,
    stored: PageSet<B>,
    /// The number of pages of both sets that are empty on the leaf, according to the directory
    /// there.
    filled: u32,
}

impl<B, E> ChangedPages<B, E>
where
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
{
    /// Takes the directory as it is on the leaf, the pages that changed since, and an empty set.
    pub fn new(entries: E, [changed, stored]: [PageSet<B>; 2]) -> Result<Self> {
        let mut pages = ChangedPages {
            entries,
            changed,
            stored,
            filled: 0,
        };
        let mut from = MapPage(0);
        while let Some(page) = pages.changed.next(from) {
            pages.count_filled(page)?;
            from = page.next();
        }
        Ok(pages)
    }

    /// Returns how many pages that are empty on the leaf the ring has filled.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Returns the number of pages that have changed and were not stored since.
    pub fn changed(&self) -> u32 {
        self.changed.len()
    }

    /// Returns the first changed page at or after `from`.
    pub fn next(&self, from: MapPage) -> Option<MapPage> {
        self.changed.next(from)
    }

    /// Returns the first page at or after `from` that was stored since the last checkpoint.
    pub fn next_stored(&self, from: MapPage) -> Option<MapPage> {
        self.stored.next(from)
    }

    /// Returns the entries of some pages. The entries of stored pages have their new slots.
    pub fn entries(&self, range: Range<usize>) -> Result<&[PageEntry]> {
        self.entries.get(range).ok_or(Error::Internal)
    }

    /// Notes that a page has changed.
    pub fn add(&mut self, page: MapPage) -> Result {
        if self.changed.insert(page)? && !self.stored.has(page) {
            self.count_filled(page)?;
        }
        Ok(())
    }

    fn count_filled(&mut self, page: MapPage) -> Result {
        let empty = pages::is_empty(&directory::entry(&self.entries, page)?);
        // At most once for each page.
        self.filled = self.filled.wrapping_add(u32::from(empty));
        Ok(())
    }

    /// Returns the slot to write a page to: the one that the directory on the leaf does not name.
    pub fn slot_for(&self, page: MapPage) -> Result<Slot> {
        let named = directory::entry(&self.entries, page)?.slot;
        if self.stored.has(page) {
            return named.ok_or(Error::Internal);
        }
        Ok(Slot::inactive(named))
    }

    /// Notes that a page is about to be in `slot`, with this checksum.
    pub fn note_stored(&mut self, page: MapPage, slot: Slot, crc: u32) -> Result {
        let entry = self
            .entries
            .get_mut(u32_as_usize(page.0))
            .ok_or(Error::Internal)?;
        self.stored.insert(page)?;
        self.changed.remove(page);
        let slot = Some(slot);
        *entry = PageEntry { slot, crc };
        Ok(())
    }

    /// Notes that a checkpoint has written everything. The directory on the leaf is now that in
    /// memory.
    pub fn checkpointed(&mut self) {
        self.stored.clear();
        self.filled = 0;
    }
}
