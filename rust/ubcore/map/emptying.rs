// SPDX-License-Identifier: GPL-2.0

//! How root slabs lose their leaf slabs, and how far each emptying has come: see [`Emptied`].

use super::super::bits;
use super::super::error::Result;
use super::super::geometry::TABLE_ENTRIES;
use super::super::sync::{AtomicU32, Ordering};
use super::{Base, Emptied, Emptying, Entry, Map, Marks, Memory, Pages};

impl<M: Memory> Map<M> {
    /// Takes away the leaf slab of a root slab, if it has one. The root slab reads as `base` from
    /// now on. Its former leaf slab has no owner, and must not be used before a commit and a grace
    /// period.
    ///
    /// Under the allocator's lock. Fails with `NoMemory` before any change.
    pub fn empty(&self, slab: u32, base: Base) -> Result<Emptying> {
        let entry = self.known_entry(slab)?;
        if entry.leaf_slab.is_none() && entry.base == base {
            return Ok(Emptying::Unchanged);
        }
        let page = slab / TABLE_ENTRIES;
        if self.memory.table(page).is_none() {
            self.memory.grow(Pages::Table, page)?;
        }
        self.change(|| {
            // The owner is cleared last (I8), so a committer that finds none finds an emptied slab.
            self.set_entry(slab, Entry::unallocated(base, Emptied::Pending))?;
            if !bits::set(self.memory.marks(Marks::Emptied), page)? {
                self.emptied.fetch_add(1, Ordering::Relaxed);
            }
            if !bits::set(self.memory.marks(Marks::Pending), page)? {
                self.pending.fetch_add(1, Ordering::Relaxed);
            }
            let Some(leaf_slab) = entry.leaf_slab else {
                return Ok(Emptying::NoLeafSlab);
            };
            self.set_owner(leaf_slab, None)?;
            Ok(Emptying::LeafSlab(leaf_slab))
        })
    }

    /// Returns whether any page of the slab table has emptied slabs, without a search. Under the
    /// allocator's lock.
    pub fn any_emptied(&self) -> bool {
        self.emptied.load(Ordering::Relaxed) > 0
    }

    /// Returns the first page of the slab table, from `from` on, that has emptied slabs.
    pub fn emptied_page(&self, from: u32) -> Option<u32> {
        bits::next(self.memory.marks(Marks::Emptied), from)
    }

    /// Takes the first page of the slab table, from `from` on, off the list of pages with slabs
    /// that were emptied since the last commit. For the one committer.
    ///
    /// If a slab of the page is emptied meanwhile, the page is on the list again.
    pub fn take_pending(&self, from: u32) -> Option<u32> {
        let page = bits::next(self.memory.marks(Marks::Pending), from)?;
        // Cleared before the entries are read, so a thread that empties a slab later sets it again.
        if bits::clear(self.memory.marks(Marks::Pending), page) {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
        Some(page)
    }

    /// Returns how many pages of the slab table [`Map::take_pending`] would find. The next commit
    /// has to look through them. The number is an estimate while another thread empties slabs.
    pub fn pending_pages(&self) -> u32 {
        // A thread may take a page before another thread has counted it.
        let pages = self.pending.load(Ordering::Relaxed);
        if pages > self.geometry.table_pages() {
            0
        } else {
            pages
        }
    }

    /// Moves all slabs of a page of the table that are in the state `from` to the state `to`. Calls
    /// `f` with each of them and its base, in their order.
    pub fn advance_emptied(
        &self,
        page: u32,
        from: Emptied,
        to: Emptied,
        mut f: impl FnMut(u32, Base),
    ) {
        let words = self.memory.table(page).into_iter().flatten();
        for (slab, word) in self.geometry.root_slabs_of(page).zip(words) {
            // Another thread that empties the slab again meanwhile may change its base.
            let moved = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                let entry = Entry::decode(bits);
                (entry.emptied == from).then(|| Entry::unallocated(entry.base, to).encode())
            });
            if let Ok(bits) = moved {
                f(slab, Entry::decode(bits).base);
            }
        }
    }

    /// Moves all slabs of a page of the table from one state to another, as
    /// [`Map::advance_emptied`] does, and clears the page's mark if no slab of it is emptied any
    /// more. Returns how many slabs it moved. Under the allocator's lock.
    pub fn advance_page(&self, page: u32, from: Emptied, to: Emptied) -> u32 {
        let mut moved = 0u32;
        // At most the slabs of a page.
        self.advance_emptied(page, from, to, |_, _| moved = moved.wrapping_add(1));
        let mut words = self.memory.table(page).into_iter().flatten();
        let is_emptied =
            |word: &AtomicU32| Entry::decode(word.load(Ordering::Acquire)).emptied != Emptied::No;
        if !words.any(is_emptied) && bits::clear(self.memory.marks(Marks::Emptied), page) {
            self.emptied.fetch_sub(1, Ordering::Relaxed);
        }
        moved
    }
}
