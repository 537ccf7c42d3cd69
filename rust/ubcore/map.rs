// SPDX-License-Identifier: GPL-2.0

//! The map in memory: which sectors are mapped, and where they are on the leaf.
//!
//! Three arrays, whose pages are allocated on first use. The *slab table* has an entry for each
//! root slab: the leaf slab assigned to it, if any, and what lies below. The *sector bits* have a
//! bit for each data sector of the leaf, which is set if the sector is mapped. The *owners* are
//! the inverse of the slab table. They are never on disk.
//!
//! Contexts and locks:
//!
//! - Look-ups take no lock. They run in any context, concurrently with everything else.
//! - [`Map::map_sectors`] runs in any context, interrupts included, concurrently with everything
//!   else.
//! - [`Map::assign`] and [`Map::empty`] run under the allocator's lock.
//! - [`Map::take_dirty`], [`Map::take_fresh`] and [`Map::take_pending`] are for the one committer.
//!
//! `Documentation/design.rst` says in which order the stores are made, and what follows from it.
//! Each of these stores is a release, each look-up an acquire.

mod emptying;

pub use super::entry::{Base, Emptied, Emptying, Entry};

use super::bits;
use super::error::{Area, Broken, Checked, Error, Result};
use super::geometry::{Geometry, LeafSlab, MapPage, BITS_SECTORS, BITS_WORDS, TABLE_ENTRIES};
use super::num::{mask, next, saturating_u32, u32_as_usize, u64_as_usize};
use super::slot::Slot;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A page of the slab table or of the owners.
pub type TablePage = [AtomicU32; TABLE_ENTRIES as usize];
/// A page of sector bits.
pub type BitsPage = [AtomicU64; BITS_WORDS as usize];

/// What the pages of a map hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The slab table.
    Table,
    /// The sector bits.
    Bits,
    /// The owners.
    Owners,
}

/// The bitmaps of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// One bit for each leaf slab, set if its bits have changed since the last commit.
    Dirty,
    /// One bit for each word of [`Marks::Dirty`]. If it is clear, the word is zero.
    DirtyWords,
    /// One bit for each leaf slab, set if its assignment is not durable.
    Fresh,
    /// One bit for each page of the slab table, set if slabs of it were emptied.
    Emptied,
    /// The same, set if slabs of the page were emptied since the last commit.
    Pending,
}

impl Marks {
    /// The number of bitmaps.
    pub const COUNT: usize = 5;
    /// All bitmaps, in the order of their numbers.
    pub const ALL: [Marks; Self::COUNT] = [
        Marks::Dirty,
        Marks::DirtyWords,
        Marks::Fresh,
        Marks::Emptied,
        Marks::Pending,
    ];

    /// Returns the number of 64-bit words that the bitmap of a map over `g` has.
    pub fn words(self, g: &Geometry) -> usize {
        let slabs = words_for(g.leaf_slabs());
        match self {
            Marks::Dirty | Marks::Fresh => slabs,
            Marks::DirtyWords => slabs.div_ceil(64),
            Marks::Emptied | Marks::Pending => words_for(g.table_pages()),
        }
    }
}

/// The memory of a map. A page, once it exists, stays. A new page is zero.
pub trait Memory {
    /// Returns page `page` of the slab table, if it exists.
    fn table(&self, page: u32) -> Option<&TablePage>;
    /// Returns page `page` of the sector bits, if it exists.
    fn bits(&self, page: u32) -> Option<&BitsPage>;
    /// Returns page `page` of the owners, if it exists.
    fn owners(&self, page: u32) -> Option<&TablePage>;
    /// Allocates a page, if it does not exist. Fails with `NoMemory`. After attach the caller holds
    /// the allocator's lock, a spinlock, so this must not sleep.
    fn grow(&self, pages: Pages, page: u32) -> Result;
    /// Returns a bitmap, which has [`Marks::words`].
    fn marks(&self, marks: Marks) -> &[AtomicU64];
}

/// A range of a leaf slab whose sectors are all mapped, or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRun {
    /// Whether they are mapped.
    pub mapped: bool,
    /// Its length.
    pub sectors: u32,
}

/// Returns the number of 64-bit words that hold `bits` bits.
pub const fn words_for(bits: u32) -> usize {
    bits.div_ceil(64) as usize
}

/// Sets bits of a word. Returns whether any of them was not set before.
fn set_bits(word: &AtomicU64, bits: u64) -> bool {
    word.fetch_or(bits, Ordering::AcqRel) & bits != bits
}

/// The map of one union.
pub struct Map<M> {
    geometry: Geometry,
    memory: M,
    begun: AtomicU64,
    ended: AtomicU64,
    /// The number of bits of [`Marks::Emptied`] that are set. The allocator's lock guards both.
    emptied: AtomicU32,
    /// The number of bits of [`Marks::Pending`] that are set, or were set a moment ago.
    pending: AtomicU32,
    /// A change has failed half-way, or the allocator contradicts the map, see [`Map::check`].
    broken: AtomicBool,
}

impl<M: Memory> Map<M> {
    /// Returns a map in which every sector reads what lies below the leaf.
    pub fn new(geometry: Geometry, memory: M) -> Self {
        Map {
            geometry,
            memory,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            emptied: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Returns the layout of the union.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Returns the memory that the map was made with.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the count of begun changes: calls of [`Map::map_sectors`] or [`Map::empty`] that
    /// change it.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Returns the count of changes if none is under way. A commit that starts now covers them all.
    pub fn quiescent_changes(&self) -> Option<u64> {
        // `ended` is read first, because the counts only grow, and `begun` is never behind `ended`.
        let ended = self.ended.load(Ordering::SeqCst);
        Some(ended).filter(|&n| n == self.changes())
    }

    /// Returns whether a change is under way besides `own` changes of the caller. If a thread has
    /// seen a bit and this then returns false, the dirty mark of that bit is in place.
    fn is_busy(&self, own: u64) -> bool {
        // The counts are read in the same order as above.
        let ended = self.ended.load(Ordering::SeqCst);
        self.changes() != ended.wrapping_add(own)
    }

    /// Notes that the allocator contradicts the map, which is a bug. [`Map::check`] fails from now
    /// on. Any context.
    pub fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// Fails if a change has failed half-way. Bits or entries may then have changed that no mark
    /// tells the committer of, so nothing may be called durable any more. Fails also after
    /// [`Map::set_broken`].
    pub fn check(&self) -> Result {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Internal);
        }
        Ok(())
    }

    /// Returns the word that holds the entry of a root slab.
    fn entry_word(&self, slab: u32) -> Option<&AtomicU32> {
        self.memory
            .table(slab / TABLE_ENTRIES)?
            .get(u32_as_usize(slab % TABLE_ENTRIES))
    }

    /// Returns the entry of a root slab.
    #[inline]
    pub fn entry(&self, slab: u32) -> Entry {
        Entry::decode(
            self.entry_word(slab)
                .map_or(0, |e| e.load(Ordering::Acquire)),
        )
    }

    /// Returns the entry of a root slab that is about to change. A lost entry never changes (I14).
    fn known_entry(&self, slab: u32) -> Result<Entry> {
        let page = MapPage::table(slab / TABLE_ENTRIES);
        let block = self.geometry.page_block(page, Slot::A);
        let entry = Some(self.entry(slab)).filter(|e| !e.lost);
        entry.ok_or(Error::Damaged(Area::Map, block))
    }

    /// Sets an entry, and grows the table. For replay and for the holder of the allocator's lock.
    pub fn set_entry(&self, slab: u32, entry: Entry) -> Result {
        let page = slab / TABLE_ENTRIES;
        if self.memory.table(page).is_none() {
            if entry.encode() == 0 {
                return Ok(());
            }
            self.memory.grow(Pages::Table, page)?;
        }
        self.entry_word(slab)
            .ok_or(Error::Internal)?
            .store(entry.encode(), Ordering::Release);
        Ok(())
    }

    /// Returns the root slab that owns a leaf slab.
    pub fn owner(&self, leaf_slab: LeafSlab) -> Option<u32> {
        let page = self.memory.owners(leaf_slab.0 / TABLE_ENTRIES)?;
        let owner = page.get(u32_as_usize(leaf_slab.0 % TABLE_ENTRIES))?;
        owner.load(Ordering::Acquire).checked_sub(1)
    }

    /// Records the owner of a leaf slab. Slab numbers stay below 2^31, so one more fits.
    pub fn set_owner(&self, leaf_slab: LeafSlab, slab: Option<u32>) -> Result {
        let page = leaf_slab.0 / TABLE_ENTRIES;
        if self.memory.owners(page).is_none() {
            if slab.is_none() {
                return Ok(());
            }
            self.memory.grow(Pages::Owners, page)?;
        }
        self.memory
            .owners(page)
            .and_then(|p| p.get(u32_as_usize(leaf_slab.0 % TABLE_ENTRIES)))
            .ok_or(Error::Internal)?
            .store(slab.map_or(0, |s| s.wrapping_add(1)), Ordering::Release);
        Ok(())
    }

    /// Returns the word that holds the bit of data sector `bit`.
    #[inline]
    fn bits_word(&self, bit: u64) -> Option<&AtomicU64> {
        let page = self.memory.bits(u32::try_from(bit / BITS_SECTORS).ok()?)?;
        page.get(u64_as_usize((bit % BITS_SECTORS) / 64))
    }

    /// Returns the run that sector `offset` of a leaf slab begins, of `limit` sectors at most. The
    /// `limit` must not reach beyond the slab, and the page of its bits must exist.
    pub fn mapped_run(&self, leaf_slab: LeafSlab, offset: u32, limit: u32) -> Checked<MappedRun> {
        let start = self.geometry.data_sector(leaf_slab, offset);
        let mut mapped = false;
        let mut sectors = 0u32;
        while sectors < limit {
            let bit = start.wrapping_add(u64::from(sectors));
            let word = self.bits_word(bit).ok_or(Broken)?.load(Ordering::Acquire);
            let shifted = word.wrapping_shr(saturating_u32(bit % 64));
            let left = 64u32.wrapping_sub(saturating_u32(bit % 64));
            if sectors == 0 {
                mapped = shifted & 1 == 1;
            }
            let same = if mapped {
                shifted.trailing_ones()
            } else {
                shifted.trailing_zeros()
            };
            sectors = sectors.wrapping_add(same.min(left));
            if same < left {
                break;
            }
        }
        Ok(MappedRun {
            mapped,
            sectors: sectors.min(limit),
        })
    }

    /// Returns the word that holds the bits of a few data sectors, and the mask of those bits.
    /// Returns `None` if no single word holds them all, or if the word does not exist.
    #[inline]
    fn one_word(&self, bit: u64, count: u32) -> Option<(&AtomicU64, u64)> {
        let from = saturating_u32(bit % 64);
        if count == 0 || count > 64u32.wrapping_sub(from) {
            return None;
        }
        let mask = u64::MAX.wrapping_shr(64u32.wrapping_sub(count));
        Some((self.bits_word(bit)?, mask.wrapping_shl(from)))
    }

    /// Returns whether a few data sectors from `sector` are all mapped, or all not mapped. Returns
    /// `None` if they differ, or if a look at one word cannot tell.
    #[inline]
    pub fn are_all_mapped(&self, sector: u64, count: u32) -> Option<bool> {
        let (word, mask) = self.one_word(sector, count)?;
        match word.load(Ordering::Acquire) & mask {
            0 => Some(false),
            same if same == mask => Some(true),
            _ => None,
        }
    }

    /// Returns whether any sector of a leaf slab is mapped. The page of its bits must exist.
    pub fn is_mapped(&self, leaf_slab: LeafSlab) -> Checked<bool> {
        let sectors = self.geometry.slab_sectors();
        let run = self.mapped_run(leaf_slab, 0, sectors)?;
        Ok(run.mapped || run.sectors < sectors)
    }

    /// Calls `f` with each word of sectors `offset..offset + count` of a leaf slab, and with the
    /// mask of those sectors. The pages must exist.
    fn each_word(
        &self,
        leaf_slab: LeafSlab,
        offset: u32,
        count: u32,
        mut f: impl FnMut(&AtomicU64, u64),
    ) -> Checked {
        let mut bit = self.geometry.data_sector(leaf_slab, offset);
        let end = bit.wrapping_add(u64::from(count));
        while bit < end {
            let from = saturating_u32(bit % 64);
            let to = saturating_u32(end.wrapping_sub(bit).wrapping_add(u64::from(from)).min(64));
            f(self.bits_word(bit).ok_or(Broken)?, mask(from, to));
            bit = bit.wrapping_add(u64::from(to.wrapping_sub(from)));
        }
        Ok(())
    }

    /// Sets bits without marking anything dirty, and grows the sector bits. For replay.
    pub fn set_bits(&self, leaf_slab: LeafSlab, offset: u32, count: u32) -> Result {
        self.grow_for(leaf_slab)?;
        self.each_word(leaf_slab, offset, count, |w, m| {
            w.fetch_or(m, Ordering::Release);
        })?;
        Ok(())
    }

    /// Returns the 64 bits of a leaf slab from its sector `64 word`. A slab of 32 sectors has the
    /// low half. The page must exist.
    pub fn word(&self, leaf_slab: LeafSlab, word: u32) -> Checked<u64> {
        let bit = self
            .geometry
            .first_data_sector(leaf_slab)
            .wrapping_add(u64::from(word).wrapping_mul(64));
        let bits = self.bits_word(bit).ok_or(Broken)?.load(Ordering::Acquire);
        Ok(bits.wrapping_shr(saturating_u32(bit % 64)) & mask(0, self.geometry.slab_sectors()))
    }

    /// Adds bits in the form that [`Map::word`] returns, and grows the sector bits. For replay.
    pub fn add_word(&self, leaf_slab: LeafSlab, word: u32, bits: u64) -> Result {
        self.grow_for(leaf_slab)?;
        let bit = self
            .geometry
            .first_data_sector(leaf_slab)
            .wrapping_add(u64::from(word).wrapping_mul(64));
        let bits = bits & mask(0, self.geometry.slab_sectors());
        let w = self.bits_word(bit).ok_or(Error::Internal)?;
        w.fetch_or(
            bits.wrapping_shl(saturating_u32(bit % 64)),
            Ordering::Release,
        );
        Ok(())
    }

    fn grow_for(&self, leaf_slab: LeafSlab) -> Result {
        let page = saturating_u32(self.geometry.first_data_sector(leaf_slab) / BITS_SECTORS);
        match self.memory.bits(page) {
            Some(_) => Ok(()),
            None => self.memory.grow(Pages::Bits, page),
        }
    }

    /// Clears all bits of a leaf slab, and allocates their page if it does not exist. For replay.
    pub fn clear_slab(&self, leaf_slab: LeafSlab) -> Result {
        self.grow_for(leaf_slab)?;
        self.each_word(leaf_slab, 0, self.geometry.slab_sectors(), |w, m| {
            w.fetch_and(!m, Ordering::Release);
        })?;
        Ok(())
    }

    /// Assigns a leaf slab to a root slab. None of its sectors is mapped.
    ///
    /// Under the allocator's lock. Fails with `NoMemory`, or with `Internal` if the leaf slab has
    /// bits or marks (I1), because a commit could take them for those of the new owner. If it
    /// fails, no assignment has changed. It stores the entry last (I4).
    pub fn assign(&self, slab: u32, leaf_slab: LeafSlab) -> Result {
        let base = self.known_entry(slab)?.base;
        self.grow_for(leaf_slab)?;
        if self.has_marks(leaf_slab) || self.is_mapped(leaf_slab)? {
            return Err(Error::Internal);
        }
        self.set_owner(leaf_slab, Some(slab))?;
        let fresh = bits::set(self.memory.marks(Marks::Fresh), leaf_slab.0);
        let done = fresh
            .map_err(Error::from)
            .and_then(|_| self.set_entry(slab, Entry::allocated(leaf_slab, base)));
        if done.is_err() {
            bits::clear(self.memory.marks(Marks::Fresh), leaf_slab.0);
            self.set_owner(leaf_slab, None)?;
        }
        done
    }

    /// Maps union sectors whose data is on the leaf, except in root slabs that were emptied since
    /// and have no leaf slab.
    ///
    /// Any context. Returns whether it is a change: a sector was not mapped before, or another
    /// change ran.
    /// If it fails, the write must fail, and no commit succeeds any more, see [`Map::check`].
    #[inline(always)]
    pub fn map_sectors(&self, sector: u64, count: u32) -> Checked<bool> {
        let offset = self.geometry.offset_in_slab(sector);
        if count <= self.geometry.slab_sectors().wrapping_sub(offset) {
            if let Some(leaf_slab) = self.entry(self.geometry.slab_of(sector)).leaf_slab {
                let bit = self.geometry.data_sector(leaf_slab, offset);
                if let Some((word, mask)) = self.one_word(bit, count) {
                    // An overwrite, the usual case, stores nothing, so CPUs do not contend for a
                    // cache line.
                    if word.load(Ordering::Acquire) & mask == mask && !self.is_busy(0) {
                        return Ok(false);
                    }
                    return self.map_word(leaf_slab, word, mask);
                }
            }
        }
        self.map_words(sector, count)
    }

    /// Maps sectors whose bits are in several words, as [`Map::map_sectors`] does.
    #[inline(never)]
    fn map_words(&self, sector: u64, count: u32) -> Checked<bool> {
        let mut missing = false;
        self.each_leaf_slab(sector, count, |leaf_slab, offset, n| {
            // If their page does not exist, the change below fails.
            let run = self.mapped_run(leaf_slab, offset, n);
            missing |= !run.is_ok_and(|run| run.mapped && run.sectors == n);
            Ok(())
        })?;
        // Another request's change may have set our bits, but not its dirty marks yet. That request
        // has not completed, but ours does, so this call must set the marks.
        if !missing && !self.is_busy(0) {
            return Ok(false);
        }
        self.change(|| {
            self.each_leaf_slab(sector, count, |leaf_slab, offset, n| {
                if self.map_in_slab(leaf_slab, offset, n)? || self.is_busy(1) {
                    self.mark_dirty(leaf_slab)?;
                }
                Ok(())
            })
        })?;
        Ok(true)
    }

    /// Maps sectors of one leaf slab whose bits are in one word. Returns true.
    #[inline(never)]
    fn map_word(&self, leaf_slab: LeafSlab, word: &AtomicU64, mask: u64) -> Checked<bool> {
        self.change(|| {
            if set_bits(word, mask) || self.is_busy(1) {
                self.mark_dirty(leaf_slab)?;
            }
            Ok(true)
        })
    }

    /// Counts what `f` does as one change (I6).
    fn change<R, E>(
        &self,
        f: impl FnOnce() -> core::result::Result<R, E>,
    ) -> core::result::Result<R, E> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let done = f();
        if done.is_err() {
            // Before the change ends, so a commit that covers it finds this.
            self.broken.store(true, Ordering::Release);
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Calls `f` with each part of a range that has a leaf slab: leaf slab, offset in it, sectors.
    fn each_leaf_slab(
        &self,
        sector: u64,
        count: u32,
        mut f: impl FnMut(LeafSlab, u32, u32) -> Checked,
    ) -> Checked {
        let mut at = sector;
        let mut left = count;
        while left > 0 {
            let offset = self.geometry.offset_in_slab(at);
            let n = left.min(self.geometry.slab_sectors().wrapping_sub(offset));
            if let Some(leaf_slab) = self.entry(self.geometry.slab_of(at)).leaf_slab {
                f(leaf_slab, offset, n)?;
            }
            at = at.wrapping_add(u64::from(n));
            left = left.wrapping_sub(n);
        }
        Ok(())
    }

    fn map_in_slab(&self, leaf_slab: LeafSlab, offset: u32, count: u32) -> Checked<bool> {
        let mut changed = false;
        self.each_word(leaf_slab, offset, count, |w, m| {
            changed |= set_bits(w, m);
        })?;
        Ok(changed)
    }

    /// Puts a leaf slab on the next commit's list.
    fn mark_dirty(&self, leaf_slab: LeafSlab) -> Checked {
        // The word's bit is set even if the slab's bit was set before. The thread that set the
        // slab's bit may not have set the word's bit yet, and a commit must find our caller's write
        // once it is counted.
        bits::set(self.memory.marks(Marks::Dirty), leaf_slab.0)?;
        bits::set(self.memory.marks(Marks::DirtyWords), leaf_slab.0 / 64)?;
        Ok(())
    }

    /// Takes up to 64 dirty leaf slabs off the list: the slab of a mask's bit 0, and the mask.
    ///
    /// `from` is a word of the list: 0 at first, and then the last result's slab / 64 + 1. If a
    /// slab becomes dirty again meanwhile, it is on the list again.
    pub fn take_dirty(&self, mut from: u32) -> Checked<Option<(LeafSlab, u64)>> {
        while let Some(word) = bits::next(self.memory.marks(Marks::DirtyWords), from) {
            // Cleared before the word is read, so a thread that sets a bit later sets it again.
            bits::clear(self.memory.marks(Marks::DirtyWords), word);
            let slabs = self.memory.marks(Marks::Dirty).get(u32_as_usize(word));
            let slabs = slabs.ok_or(Broken)?.swap(0, Ordering::AcqRel);
            if slabs != 0 {
                return Ok(Some((LeafSlab(word.wrapping_mul(64)), slabs)));
            }
            from = next(word);
        }
        Ok(None)
    }

    /// Clears the bits and the marks of a leaf slab without an owner, so that it can be freed (I1).
    ///
    /// Any context. The caller makes sure that no request can mark the slab any more: all requests
    /// that began before the slab lost its owner have ended. A commit that runs meanwhile may still
    /// have the slab on its list, so the slab must not get an owner before that commit has ended.
    pub fn clear_unowned(&self, leaf_slab: LeafSlab) {
        let sectors = self.geometry.slab_sectors();
        // It fails only if the page does not exist. Then there is no bit to clear.
        let _ = self.each_word(leaf_slab, 0, sectors, |w, m| {
            if w.load(Ordering::Acquire) & m != 0 {
                w.fetch_and(!m, Ordering::AcqRel);
            }
        });
        for marks in [
            self.memory.marks(Marks::Dirty),
            self.memory.marks(Marks::Fresh),
        ] {
            if bits::is_set(marks, leaf_slab.0) {
                bits::clear(marks, leaf_slab.0);
            }
        }
    }

    /// Returns whether a leaf slab is on the next commit's list, or its assignment is not durable.
    fn has_marks(&self, leaf_slab: LeafSlab) -> bool {
        bits::is_set(self.memory.marks(Marks::Dirty), leaf_slab.0) || self.is_fresh(leaf_slab)
    }

    /// Marks the assignment of a leaf slab durable. Returns whether it was not durable before.
    pub fn take_fresh(&self, leaf_slab: LeafSlab) -> bool {
        bits::clear(self.memory.marks(Marks::Fresh), leaf_slab.0)
    }

    /// Returns whether the assignment of a leaf slab is not durable yet.
    pub fn is_fresh(&self, leaf_slab: LeafSlab) -> bool {
        bits::is_set(self.memory.marks(Marks::Fresh), leaf_slab.0)
    }
}
