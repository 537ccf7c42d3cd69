// SPDX-License-Identifier: GPL-2.0

//! The map in memory: which sectors live in the leaf, and where.
//!
//! Two arrays, in pages that come into being on first use. The *slab table* has an entry for each
//! root slab: nothing, or a leaf slab, and what lies below it. The *sector bits* have a bit for
//! each data sector of the leaf: set if it was written. A third, the *owners*, is the table's
//! inverse and never on disk.
//!
//! Who may do what:
//!
//! - Look-ups take no lock, run in any context and against everything else.
//! - [`Map::mark`] runs in any context, also in interrupts, against everything else.
//! - [`Map::assign`] runs under the lock of the allocator that it is given.
//! - [`Map::take_dirty`], [`Map::take_fresh`] and [`Map::take_pending`] belong to the one committer.
//!
//! Ordering: an entry is published after its bits were cleared, a bit after its data is written, a
//! dirty mark after the bits. Each change counts itself twice: before its first bit, and when its
//! dirty marks are in place. Each of these is a release, each look-up an acquire. So a committer
//! that finds both counts equal, and then takes the marks, misses no change up to that count; and
//! whoever sees a bit, and then the first count equal to what is durable, sees a durable bit; and
//! whoever sees a bit, and then a change under way, makes the dirty mark of that bit once more.

pub use super::entry::{Base, Emptied, Entry};

use super::bits;
use super::error::{Area, Error, Result};
use super::geometry::{Geometry, BITS_SECTORS, BITS_WORDS, TABLE_ENTRIES};
use super::num::{index, mask, narrow, usize_of};
use super::sync::{AtomicU32, AtomicU64, Ordering};

/// A page of the slab table or of the owners.
pub type TablePage = [AtomicU32; TABLE_ENTRIES as usize];
/// A page of sector bits.
pub type BitsPage = [AtomicU64; BITS_WORDS as usize];

/// The memory of a map. Pages, once there, stay; new ones are zero.
pub trait Memory {
    /// Page `page` of the slab table, if it is there.
    fn table(&self, page: u32) -> Option<&TablePage>;
    /// Page `page` of the sector bits, if it is there.
    fn bits(&self, page: u32) -> Option<&BitsPage>;
    /// Page `page` of the owners, if it is there.
    fn owners(&self, page: u32) -> Option<&TablePage>;
    /// Makes a page of the slab table. May sleep, must not start I/O.
    fn grow_table(&self, page: u32) -> Result;
    /// Makes a page of sector bits. May sleep, must not start I/O.
    fn grow_bits(&self, page: u32) -> Result;
    /// Makes a page of owners. May sleep, must not start I/O.
    fn grow_owners(&self, page: u32) -> Result;
    /// One bit for each leaf slab: its bits have changed since the last commit.
    fn dirty(&self) -> &[AtomicU64];
    /// One bit for each word of [`Memory::dirty`]: it is not zero.
    fn dirty_words(&self) -> &[AtomicU64];
    /// One bit for each leaf slab: its assignment is not durable.
    fn fresh(&self) -> &[AtomicU64];
    /// One bit for each page of the slab table: slabs of it were emptied.
    fn emptied(&self) -> &[AtomicU64];
    /// One bit for each page of the slab table: slabs of it were emptied since the last commit.
    fn pending(&self) -> &[AtomicU64];
}

/// 64-bit words for one bit each of `bits`.
pub const fn words_for(bits: u32) -> usize {
    bits.div_ceil(64) as usize
}

/// Sets bits of a word: whether any was not set before.
fn set_bits(word: &AtomicU64, bits: u64) -> bool {
    if cfg!(mutant = "bits-race") {
        let old = word.load(Ordering::Acquire);
        word.store(old | bits, Ordering::Release);
        return old & bits != bits;
    }
    word.fetch_or(bits, Ordering::AcqRel) & bits != bits
}

/// The map of one union.
pub struct Map<M> {
    geometry: Geometry,
    memory: M,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many bits of [`Memory::pending`] are set, or were a moment ago.
    pending: AtomicU32,
}

impl<M: Memory> Map<M> {
    /// A map where every sector is the root's.
    pub fn new(geometry: Geometry, memory: M) -> Self {
        Map {
            geometry,
            memory,
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            pending: AtomicU32::new(0),
        }
    }

    /// The layout it maps over.
    #[inline]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The memory it was made with.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Counts the changes that have begun: calls of [`Map::mark`] that map something.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// The count of changes, if none is under way: a commit that starts now covers them all.
    pub fn quiescent_changes(&self) -> Option<u64> {
        // In this order: counts only grow, and the first is never behind the second.
        let ended = self.ended.load(Ordering::SeqCst);
        Some(ended).filter(|&n| n == self.changes())
    }

    /// Whether a change is under way beside `own` of the caller's. Whoever has seen a bit and then
    /// hears that none is finds the dirty mark of that bit in place.
    fn is_busy(&self, own: u64) -> bool {
        // In this order, as above.
        let ended = self.ended.load(Ordering::SeqCst);
        self.changes() != ended.wrapping_add(own)
    }

    fn table_slot(&self, slab: u32) -> Option<&AtomicU32> {
        self.memory
            .table(slab / TABLE_ENTRIES)?
            .get(index(slab % TABLE_ENTRIES))
    }

    /// The entry of a root slab.
    #[inline]
    pub fn entry(&self, slab: u32) -> Entry {
        Entry::decode(
            self.table_slot(slab)
                .map_or(0, |e| e.load(Ordering::Acquire)),
        )
    }

    /// The entry of a root slab that is about to change: one that is lost must not.
    fn known_entry(&self, slab: u32) -> Result<Entry> {
        let block = self.geometry.page_block(slab / TABLE_ENTRIES, 0);
        let entry = Some(self.entry(slab)).filter(|e| !e.lost);
        entry.ok_or(Error::Damaged(Area::Map, block))
    }

    /// Sets an entry, growing the table; for replay and for the holder of the allocator's lock.
    pub fn set_entry(&self, slab: u32, entry: Entry) -> Result {
        let page = slab / TABLE_ENTRIES;
        if self.memory.table(page).is_none() {
            if entry.encode() == 0 {
                return Ok(());
            }
            self.memory.grow_table(page)?;
        }
        self.table_slot(slab)
            .ok_or(Error::Internal)?
            .store(entry.encode(), Ordering::Release);
        Ok(())
    }

    /// The root slab that a leaf slab belongs to.
    pub fn owner(&self, leaf: u32) -> Option<u32> {
        let page = self.memory.owners(leaf / TABLE_ENTRIES)?;
        let slot = page.get(index(leaf % TABLE_ENTRIES))?;
        slot.load(Ordering::Acquire).checked_sub(1)
    }

    /// Records a leaf slab's owner; slab numbers stay below 2^31, so one more fits.
    pub fn set_owner(&self, leaf: u32, slab: Option<u32>) -> Result {
        let page = leaf / TABLE_ENTRIES;
        if self.memory.owners(page).is_none() {
            if slab.is_none() {
                return Ok(());
            }
            self.memory.grow_owners(page)?;
        }
        self.memory
            .owners(page)
            .and_then(|p| p.get(index(leaf % TABLE_ENTRIES)))
            .ok_or(Error::Internal)?
            .store(slab.map_or(0, |s| s.wrapping_add(1)), Ordering::Release);
        Ok(())
    }

    /// The first bit of a leaf slab, as a data sector of the leaf.
    fn first_bit(&self, leaf: u32) -> u64 {
        u64::from(leaf).wrapping_shl(self.geometry.slab_shift())
    }

    /// The word that holds the bit of data sector `bit`.
    #[inline]
    fn bits_word(&self, bit: u64) -> Option<&AtomicU64> {
        let page = self.memory.bits(narrow(bit / BITS_SECTORS))?;
        page.get(usize_of((bit % BITS_SECTORS) / 64))
    }

    /// Whether sector `offset` of leaf slab `leaf` is mapped, and for how many sectors from there,
    /// `limit` at most, that stays so.
    pub fn mapped_run(&self, leaf: u32, offset: u32, limit: u32) -> (bool, u32) {
        let start = self.first_bit(leaf).wrapping_add(u64::from(offset));
        let mut mapped = false;
        let mut len = 0u32;
        while len < limit {
            let bit = start.wrapping_add(u64::from(len));
            let word = self.bits_word(bit).map_or(0, |w| w.load(Ordering::Acquire));
            let shifted = word.wrapping_shr(narrow(bit % 64));
            let left = narrow(64u64.saturating_sub(bit % 64));
            if len == 0 {
                mapped = shifted & 1 == 1;
            }
            let same = if mapped {
                shifted.trailing_ones()
            } else {
                shifted.trailing_zeros()
            };
            len = len.saturating_add(same.min(left));
            if same < left {
                break;
            }
        }
        (mapped, len.min(limit))
    }

    /// The word of bits that holds all of a few sectors of a leaf slab, and which they are; `None` if
    /// no single word does, or it is not there.
    #[inline]
    fn one_word(&self, leaf: u32, offset: u32, count: u32) -> Option<(&AtomicU64, u64)> {
        let bit = self.first_bit(leaf).wrapping_add(u64::from(offset));
        let from = narrow(bit % 64);
        if count == 0 || count > 64u32.wrapping_sub(from) {
            return None;
        }
        let mask = u64::MAX.wrapping_shr(64u32.wrapping_sub(count));
        Some((self.bits_word(bit)?, mask.wrapping_shl(from)))
    }

    /// Whether all of a few sectors of a leaf slab are mapped, or none is; `None` if it is neither, or
    /// if one look does not tell.
    #[inline]
    pub fn are_all_mapped(&self, leaf: u32, offset: u32, count: u32) -> Option<bool> {
        let (word, mask) = self.one_word(leaf, offset, count)?;
        match word.load(Ordering::Acquire) & mask {
            0 => Some(false),
            same if same == mask => Some(true),
            _ => None,
        }
    }

    /// Whether any sector of a leaf slab is mapped.
    pub fn is_mapped(&self, leaf: u32) -> bool {
        let sectors = self.geometry.slab_sectors();
        self.mapped_run(leaf, 0, sectors) != (false, sectors)
    }

    /// Applies `f` to each word of sectors `offset..offset + count` of a leaf slab, with the mask of
    /// those sectors. The pages must be there.
    fn each_word(
        &self,
        leaf: u32,
        offset: u32,
        count: u32,
        mut f: impl FnMut(&AtomicU64, u64),
    ) -> Result {
        let mut bit = self.first_bit(leaf).wrapping_add(u64::from(offset));
        let end = bit.wrapping_add(u64::from(count));
        while bit < end {
            let from = narrow(bit % 64);
            let to = narrow(
                end.saturating_sub(bit)
                    .saturating_add(u64::from(from))
                    .min(64),
            );
            f(self.bits_word(bit).ok_or(Error::Internal)?, mask(from, to));
            bit = bit.wrapping_add(u64::from(to.wrapping_sub(from)));
        }
        Ok(())
    }

    /// Sets bits without marking anything dirty, growing the bits: for replay.
    pub fn set_bits(&self, leaf: u32, offset: u32, count: u32) -> Result {
        self.grow_for(leaf)?;
        self.each_word(leaf, offset, count, |w, m| {
            w.fetch_or(m, Ordering::Release);
        })
    }

    /// The 64 bits of a leaf slab from its sector `64 word`; a slab of 32 sectors has the low half.
    pub fn word(&self, leaf: u32, word: u32) -> u64 {
        let bit = self
            .first_bit(leaf)
            .wrapping_add(u64::from(word).wrapping_mul(64));
        let bits = self.bits_word(bit).map_or(0, |w| w.load(Ordering::Acquire));
        bits.wrapping_shr(narrow(bit % 64)) & mask(0, self.geometry.slab_sectors())
    }

    /// Adds bits as [`Map::word`] gave them, growing the bits: for replay.
    pub fn add_word(&self, leaf: u32, word: u32, bits: u64) -> Result {
        self.grow_for(leaf)?;
        let bit = self
            .first_bit(leaf)
            .wrapping_add(u64::from(word).wrapping_mul(64));
        let bits = bits & mask(0, self.geometry.slab_sectors());
        let w = self.bits_word(bit).ok_or(Error::Internal)?;
        w.fetch_or(bits.wrapping_shl(narrow(bit % 64)), Ordering::Release);
        Ok(())
    }

    fn grow_for(&self, leaf: u32) -> Result {
        let page = narrow(self.first_bit(leaf) / BITS_SECTORS);
        match self.memory.bits(page) {
            Some(_) => Ok(()),
            None => self.memory.grow_bits(page),
        }
    }

    /// Clears all bits of a leaf slab and makes their page: before an assignment is published.
    pub fn clear_slab(&self, leaf: u32) -> Result {
        self.grow_for(leaf)?;
        self.each_word(leaf, 0, self.geometry.slab_sectors(), |w, m| {
            w.fetch_and(!m, Ordering::Release);
        })
    }

    /// Makes leaf slab `leaf` the home of root slab `slab`, none of its sectors mapped.
    ///
    /// Under the allocator's lock; may sleep for memory. On an error nothing has changed.
    /// `Internal` if the leaf slab is not as [`Map::clear_unowned`] leaves it: a commit could take its marks
    /// for those of the new owner.
    pub fn assign(&self, slab: u32, leaf: u32) -> Result {
        let base = self.known_entry(slab)?.base;
        self.grow_for(leaf)?;
        if self.has_marks(leaf) || self.is_mapped(leaf) {
            return Err(Error::Internal);
        }
        self.set_owner(leaf, Some(slab))?;
        bits::set(self.memory.fresh(), leaf);
        let done = self.set_entry(slab, Entry::home(leaf, base));
        if done.is_err() {
            bits::clear(self.memory.fresh(), leaf);
            self.set_owner(leaf, None)?;
        }
        done
    }

    /// Maps union sectors whose data is on the leaf; their slabs are assigned.
    ///
    /// Any context. Returns whether it counts as a change: something was not mapped before.
    pub fn mark(&self, sector: u64, count: u32) -> bool {
        let offset = self.geometry.offset_in_slab(sector);
        if count <= self.geometry.slab_sectors().wrapping_sub(offset) {
            let leaf = self.entry(self.geometry.slab_of(sector)).leaf;
            let word = leaf.and_then(|l| Some((l, self.one_word(l, offset, count)?)));
            if let Some((leaf, (word, mask))) = word {
                return self.mark_word(leaf, word, mask);
            }
        }
        // An overwrite, the usual case, stores nothing and shares no cache line.
        let mut missing = false;
        self.each_home(sector, count, |leaf, offset, n| {
            missing |= self.mapped_run(leaf, offset, n) != (true, n);
        });
        // Another's change that set our bits may not have come to its dirty marks, and its caller has
        // not completed: ours does, so then they are for us to make.
        if !missing && !self.is_busy(0) {
            return false;
        }
        self.change(|| {
            self.each_home(sector, count, |leaf, offset, n| {
                if self.mark_in_slab(leaf, offset, n) || self.is_busy(1) {
                    self.mark_dirty(leaf);
                }
            });
        });
        true
    }

    /// The same, for sectors of one leaf slab whose bits are in one word.
    fn mark_word(&self, leaf: u32, word: &AtomicU64, mask: u64) -> bool {
        if word.load(Ordering::Acquire) & mask == mask && !self.is_busy(0) {
            return false;
        }
        self.change(|| {
            if set_bits(word, mask) || self.is_busy(1) {
                self.mark_dirty(leaf);
            }
        });
        true
    }

    /// Counts what `f` does as one change.
    fn change<R>(&self, f: impl FnOnce() -> R) -> R {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let done = f();
        self.ended.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Takes a root slab's home away, if it has one: it reads as `base` from now on. The leaf slab
    /// that it had is nobody's, and must not be used before a commit and a grace period.
    ///
    /// Under the allocator's lock; may sleep for memory. `Ok(None)` if nothing changed, else the
    /// home it had.
    pub fn empty(&self, slab: u32, base: Base) -> Result<Option<Option<u32>>> {
        let entry = self.known_entry(slab)?;
        if entry.leaf.is_none() && entry.base == base {
            return Ok(None);
        }
        let page = slab / TABLE_ENTRIES;
        if self.memory.table(page).is_none() {
            self.memory.grow_table(page)?;
        }
        self.change(|| {
            // The owner last: a committer that misses the slab for want of it finds it emptied.
            self.set_entry(slab, Entry::none(base, Emptied::Pending))?;
            bits::set(self.memory.emptied(), page);
            if !bits::set(self.memory.pending(), page) {
                self.pending.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(leaf) = entry.leaf {
                self.set_owner(leaf, None)?;
            }
            Ok(Some(entry.leaf))
        })
    }

    /// The first page of the slab table, from `from` on, with emptied slabs.
    pub fn emptied_page(&self, from: u32) -> Option<u32> {
        bits::next(self.memory.emptied(), from)
    }

    /// Takes the first page of the slab table, from `from` on, with slabs that were emptied since the
    /// last commit off the list. For the one committer.
    ///
    /// A page of which slabs are emptied meanwhile is on the list again.
    pub fn take_pending(&self, from: u32) -> Option<u32> {
        let page = bits::next(self.memory.pending(), from)?;
        // Cleared before the entries are read: a thread that empties a slab later sets it again.
        if bits::clear(self.memory.pending(), page) {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
        Some(page)
    }

    /// How many pages of the slab table [`Map::take_pending`] would find: what the next commit has to
    /// look through. An estimate, while another thread empties slabs.
    pub fn pending_pages(&self) -> u32 {
        // One thread may take a page before the other has counted it.
        let pages = self.pending.load(Ordering::Relaxed);
        if pages > self.geometry.table_pages() {
            0
        } else {
            pages
        }
    }

    /// Moves all slabs of a page of the table that are in the state `from` on to the state `to`, and
    /// calls `f` with each and its base, in their order.
    pub fn advance_emptied(
        &self,
        page: u32,
        from: Emptied,
        to: Emptied,
        mut f: impl FnMut(u32, Base),
    ) {
        let first = page.saturating_mul(TABLE_ENTRIES);
        let slots = self.memory.table(page).into_iter().flatten();
        for (slab, slot) in (first..).zip(slots) {
            // Another thread that empties it anew meanwhile may change its base.
            let moved = slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
                let entry = Entry::decode(bits);
                (entry.emptied == from).then(|| Entry::none(entry.base, to).encode())
            });
            if let Ok(bits) = moved {
                f(slab, Entry::decode(bits).base);
            }
        }
    }

    /// The same under the allocator's lock: how many there were. A page where no slab is emptied any
    /// more is forgotten.
    pub fn advance_page(&self, page: u32, from: Emptied, to: Emptied) -> u32 {
        let mut moved = 0u32;
        self.advance_emptied(page, from, to, |_, _| moved = moved.saturating_add(1));
        let mut slots = self.memory.table(page).into_iter().flatten();
        let is_emptied =
            |slot: &AtomicU32| Entry::decode(slot.load(Ordering::Acquire)).emptied != Emptied::No;
        if !slots.any(is_emptied) {
            bits::clear(self.memory.emptied(), page);
        }
        moved
    }

    /// The parts of a range that have a home: leaf slab, offset in it, sectors.
    fn each_home(&self, sector: u64, count: u32, mut f: impl FnMut(u32, u32, u32)) {
        let mut at = sector;
        let mut left = count;
        while left > 0 {
            let offset = self.geometry.offset_in_slab(at);
            let n = left.min(self.geometry.slab_sectors().wrapping_sub(offset));
            if let Some(leaf) = self.entry(self.geometry.slab_of(at)).leaf {
                f(leaf, offset, n);
            }
            at = at.wrapping_add(u64::from(n));
            left = left.wrapping_sub(n);
        }
    }

    fn mark_in_slab(&self, leaf: u32, offset: u32, count: u32) -> bool {
        let mut changed = false;
        // The pages are there: an assignment made them.
        let _ = self.each_word(leaf, offset, count, |w, m| {
            changed |= set_bits(w, m);
        });
        changed
    }

    /// Puts a leaf slab on the next commit's list.
    pub fn mark_dirty(&self, leaf: u32) {
        // The word's bit is set even where the slab's already was: whoever set that may not have
        // come to this line yet, and our caller's write must be found once it is counted.
        bits::set(self.memory.dirty(), leaf);
        bits::set(self.memory.dirty_words(), leaf / 64);
    }

    /// Takes up to 64 dirty leaf slabs off the list: the number of the first, and a mask.
    ///
    /// `from` is a word of the list, 0 at first and then the last result's slab / 64 + 1. A slab
    /// that becomes dirty again meanwhile is on the list again.
    pub fn take_dirty(&self, from: u32) -> Option<(u32, u64)> {
        let mut word = from;
        while let Some(summary) = self.memory.dirty_words().get(index(word / 64)) {
            let ahead = summary.load(Ordering::Acquire).wrapping_shr(word % 64);
            if ahead == 0 {
                word = (word / 64).wrapping_add(1).wrapping_mul(64);
                continue;
            }
            word = word.wrapping_add(ahead.trailing_zeros());
            // Cleared before the word is read: who sets a bit later sets it again.
            bits::clear(self.memory.dirty_words(), word);
            let slabs = self
                .memory
                .dirty()
                .get(index(word))
                .map_or(0, |w| w.swap(0, Ordering::AcqRel));
            if slabs != 0 {
                return Some((word.wrapping_mul(64), slabs));
            }
            word = word.wrapping_add(1);
        }
        None
    }

    /// Clears the bits and the marks of a leaf slab that has no owner, so that it can be free.
    ///
    /// Any context. The caller knows that no request can mark the slab any more: all that began
    /// before the slab lost its owner have ended. A commit that runs meanwhile may still have the
    /// slab on its list, so the slab must not get an owner before that commit has ended.
    pub fn clear_unowned(&self, leaf: u32) {
        let sectors = self.geometry.slab_sectors();
        // Without a page there is no bit to clear.
        let _ = self.each_word(leaf, 0, sectors, |w, m| {
            if w.load(Ordering::Acquire) & m != 0 {
                w.fetch_and(!m, Ordering::AcqRel);
            }
        });
        for marks in [self.memory.dirty(), self.memory.fresh()] {
            if bits::is_set(marks, leaf) {
                bits::clear(marks, leaf);
            }
        }
    }

    /// Whether a leaf slab is on the next commit's list, or its assignment is not durable.
    fn has_marks(&self, leaf: u32) -> bool {
        bits::is_set(self.memory.dirty(), leaf) || self.is_fresh(leaf)
    }

    /// Whether the assignment of a leaf slab is not durable yet; from now on it counts as such.
    pub fn take_fresh(&self, leaf: u32) -> bool {
        bits::clear(self.memory.fresh(), leaf)
    }

    /// Whether the assignment of a leaf slab is not durable yet.
    pub fn is_fresh(&self, leaf: u32) -> bool {
        bits::is_set(self.memory.fresh(), leaf)
    }
}
