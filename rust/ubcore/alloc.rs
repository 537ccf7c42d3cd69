// SPDX-License-Identifier: GPL-2.0

//! Chooses the leaf slab that a root slab gets.
//!
//! Neighbours on the root should be neighbours on the leaf, whatever the order in which they are
//! first written, so that a large I/O is not split. Root slabs form *groups* of 16. The first slab
//! of a group gets a free group of the leaf, at the position that it has in its own group. The
//! other slabs of the group get the leaf slabs of their positions. If no group is free any more,
//! any free slab will do. No space is held back.

use core::num::NonZeroU32;
use core::ops::{DerefMut, Range};

use super::bits::Bitmap;
use super::error::{Broken, Checked, Error, Result};
use super::geometry::LeafSlab;
use super::map::{words_for, Base, Emptied, Emptying, Map, Memory};
use super::num::{mask, usize_as_u64};
use super::plan;
use super::slab_bitmap::{words_for_used, UsedSlabs};

/// The number of slabs of a group: 1 MiB of 64 KiB slabs.
const GROUP: u32 = 16;

/// The maximum number of pages of the slab table that one call looks through, so that the lock is
/// not held for long.
const STEP_PAGES: u32 = 4;
/// The number of leaf slabs after which one call frees no more, for the same reason.
const STEP_SLABS: u32 = 8192;
/// The maximum number of words of a bitmap that one search for a free group reads.
const STEP_WORDS: u32 = 4096;
/// The maximum number of bits that one search for reclaimable slabs reads.
const STEP_BITS: u32 = 64 * STEP_WORDS;

/// Returns the numbers of words of the three bitmaps that an allocator of `slabs` slabs needs.
pub const fn bitmap_words(slabs: u32) -> [usize; 3] {
    let flags = words_for(slabs);
    [words_for_used(slabs), flags, flags]
}

/// Why an allocation gives no leaf slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The root slab was emptied a moment ago, or the leaf is full and slabs without an owner are
    /// about to become free. The caller tries again after the next reclaim.
    Later,
    /// Another reason. With [`Error::NoMemory`] there is no page for the map at once.
    Failed(Error),
}

impl From<Error> for Denied {
    fn from(e: Error) -> Self {
        Denied::Failed(e)
    }
}

impl From<Broken> for Denied {
    fn from(e: Broken) -> Self {
        Denied::Failed(e.into())
    }
}

/// What [`Allocator::advance_pages`] did.
struct Advanced {
    /// Some entries were moved.
    any: bool,
    /// The page to continue with; `None` at the end.
    next: Option<u32>,
}

/// The result of an allocation.
pub type Allocated<T = ()> = core::result::Result<T, Denied>;

/// The leaf's free slabs. One lock guards them and all changes of the slab table.
///
/// `B` is the words of a bitmap, see [`bitmap_words`].
pub struct Allocator<B> {
    /// Slabs that are not free. Unowned slabs are among them until a reclaim frees them.
    used: UsedSlabs<B>,
    /// The number of slabs that may be in use. More can be, because a limit may be set below the
    /// number in use.
    limit: u32,
    /// Unowned slabs: the root slab that had each of them was emptied, which a commit may not have
    /// covered yet.
    unowned: Bitmap<B>,
    /// Unowned slabs that a commit covers. They are freed after it and a grace period.
    reclaimable: Bitmap<B>,
    any_unowned: bool,
    any_reclaimable: bool,
    /// A reclaim runs, for exactly the reclaimable slabs and the waiting entries.
    reclaiming: bool,
    /// Entries wait for the end of the reclaim, from this page of the slab table on.
    any_waiting: bool,
    waiting_from: u32,
    /// No slab before this one is reclaimable.
    reclaimable_from: LeafSlab,
    /// No group is free. A search found this, and it is true until a slab is freed.
    no_group: bool,
    /// Words of `used` below this one hold no free group. A search starts here.
    group_hint: u32,
}

impl<B: DerefMut<Target = [u64]>> Allocator<B> {
    /// Returns an allocator of `slabs` free slabs. The three bitmaps are zero, and have
    /// [`bitmap_words`].
    pub fn new(bitmaps: [B; 3], slabs: u32) -> Self {
        let [used, unowned, reclaimable] = bitmaps;
        let [unowned, reclaimable] = [unowned, reclaimable].map(Bitmap::new);
        Allocator {
            used: UsedSlabs::new(used, slabs),
            limit: slabs,
            unowned,
            reclaimable,
            any_unowned: false,
            any_reclaimable: false,
            reclaiming: false,
            any_waiting: false,
            waiting_from: 0,
            reclaimable_from: LeafSlab(0),
            no_group: false,
            group_hint: 0,
        }
    }

    /// Returns the number of slabs in use.
    pub fn used(&self) -> u32 {
        self.used.count()
    }

    /// Returns the number of all slabs.
    pub fn slabs(&self) -> u32 {
        self.used.slabs()
    }

    /// Returns the number of slabs that may be in use.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Sets the number of slabs that may be in use, at most all. `None`: all. Under the lock.
    pub fn set_limit(&mut self, limit: Option<NonZeroU32>) {
        let slabs = self.slabs();
        self.limit = limit.map_or(slabs, |n| n.get().min(slabs));
    }

    /// Returns how many slabs may still be allocated.
    fn left(&self) -> u32 {
        self.limit.saturating_sub(self.used())
    }

    /// Returns whether a leaf slab is free.
    pub fn is_free(&self, leaf_slab: LeafSlab) -> bool {
        self.used.is_free(leaf_slab)
    }

    /// Marks a slab as used: one that the map on disk names, or that [`Allocator::allocate`] has
    /// chosen. Returns false if it is used already or does not exist.
    pub fn mark_used(&mut self, leaf_slab: LeafSlab) -> Checked<bool> {
        self.used.mark_used(leaf_slab)
    }

    /// Frees a slab that is in use.
    fn free(&mut self, leaf_slab: LeafSlab) -> Checked {
        if !self.used.free(leaf_slab)? {
            return Err(Broken);
        }
        self.no_group = false;
        self.group_hint = self.group_hint.min(leaf_slab.0 / 64);
        Ok(())
    }

    /// Allocates a leaf slab for root slab `slab`, if it has none. Returns the leaf slab.
    ///
    /// Under the lock. Fails with `Full` if no slab is free or the limit is reached, with `Later`
    /// if the root slab was emptied and may not get a new leaf slab yet, and with `NoMemory` if
    /// there is no page for the map at once.
    pub fn allocate<M: Memory>(&mut self, map: &Map<M>, slab: u32) -> Allocated<LeafSlab> {
        let entry = map.entry(slab);
        if let Some(leaf_slab) = entry.leaf_slab {
            return Ok(leaf_slab);
        }
        // No record of the slab may precede the one that empties it (I9).
        if entry.emptied != Emptied::No {
            return Err(Denied::Later);
        }
        if self.left() == 0 {
            return Err(Error::Full.into());
        }
        let leaf_slab = self.choose(map, slab)?.ok_or(Error::Full)?;
        // Marked before it is assigned, because a slab with an owner must never be free.
        if !self.mark_used(leaf_slab)? {
            return Err(Error::Internal.into());
        }
        if let Err(e) = map.assign(slab, leaf_slab) {
            self.free(leaf_slab)?;
            return Err(e.into());
        }
        Ok(leaf_slab)
    }

    /// Allocates a leaf slab for every slab of a range of union sectors. If the free slabs do not
    /// suffice, it allocates none, because a leaf slab that its write never reached would stay in
    /// use until the next attach. If slabs are about to become free, it fails with `Later`, not
    /// `Full`.
    ///
    /// Like [`Allocator::allocate`] otherwise. If memory runs out, slabs that have a leaf slab by
    /// then keep it.
    pub fn allocate_range<M: Memory>(
        &mut self,
        map: &Map<M>,
        sector: u64,
        sectors: u32,
    ) -> Allocated {
        self.allocate_ranges(map, [(sector, sectors)])
    }

    /// Allocates a leaf slab for every slab of several ranges, or for none of them, as
    /// [`Allocator::allocate_range`] does for one. The ranges lie in different slabs.
    pub fn allocate_ranges<M: Memory, const N: usize>(
        &mut self,
        map: &Map<M>,
        ranges: [(u64, u32); N],
    ) -> Allocated {
        let unallocated = || {
            ranges
                .into_iter()
                .flat_map(|(at, n)| plan::unallocated(map, at, n))
        };
        if unallocated().any(|slab| map.entry(slab).emptied != Emptied::No) {
            return Err(Denied::Later);
        }
        let missing = usize_as_u64(unallocated().count());
        if missing > u64::from(self.left()) {
            // The unowned slabs will be free in a moment, so the request is deferred until then.
            let soon = self.any_unowned || self.any_reclaimable;
            return Err(if soon {
                Denied::Later
            } else {
                Error::Full.into()
            });
        }
        for slab in unallocated() {
            self.allocate(map, slab)?;
        }
        Ok(())
    }

    /// Empties root slabs, which read as `base` from now on. Their leaf slabs are freed later, see
    /// [`Allocator::begin_commit`]. Returns whether anything changed.
    ///
    /// Under the lock. If there is no page for the map at once, it fails after emptying some of
    /// them.
    pub fn empty<M: Memory>(
        &mut self,
        map: &Map<M>,
        slabs: Range<u32>,
        base: Base,
    ) -> Result<bool> {
        let mut changed = false;
        for slab in slabs {
            match map.empty(slab, base)? {
                Emptying::Unchanged => continue,
                Emptying::NoLeafSlab => {}
                Emptying::LeafSlab(leaf_slab) => {
                    self.any_unowned = true;
                    self.unowned.insert(leaf_slab.0)?;
                }
            }
            changed = true;
        }
        Ok(changed)
    }

    /// Prepares for a commit, which makes durable that the root slabs emptied so far are empty.
    /// Under the lock.
    pub fn begin_commit(&mut self) {
        // Slabs that an earlier commit covers are freed first. While a reclaim runs, no slab may
        // join the slabs that it is for.
        if !self.any_unowned || self.any_reclaimable || self.reclaiming {
            return;
        }
        // `reclaimable` is empty, so a swap suffices. Its cost does not depend on the slabs.
        core::mem::swap(&mut self.reclaimable, &mut self.unowned);
        self.reclaimable_from = LeafSlab(0);
        self.any_unowned = false;
        self.any_reclaimable = true;
    }

    /// Returns whether root slabs were emptied whose leaf slabs have not been freed yet. It runs
    /// under the lock for every commit and FLUSH, so it does not search.
    pub fn any_emptied<M: Memory>(&self, map: &Map<M>) -> bool {
        self.any_unowned || self.any_reclaimable || map.any_emptied()
    }

    /// Begins a reclaim. Returns false if one runs. The caller then calls
    /// [`Allocator::advance_reclaim`] until that returns `None`.
    ///
    /// Under the lock, and between two commits that have not failed. `durable` says that the leaf
    /// has every change of the map. Then the reclaim is also for the leaf slabs that no
    /// [`Allocator::begin_commit`] has covered yet.
    pub fn begin_reclaim(&mut self, durable: bool) -> bool {
        if self.reclaiming {
            return false;
        }
        if durable {
            self.begin_commit();
        }
        self.reclaiming = true;
        self.any_waiting = false;
        self.waiting_from = 0;
        true
    }

    /// Picks the entries that a reclaim is for, in some pages of the slab table from `page` on.
    /// Returns the page to continue with, or `None` at the end.
    ///
    /// Under the lock, and between two commits that have not failed. The caller may call
    /// [`Allocator::end_reclaim`] only after all I/O has ended that is in flight when this returns
    /// `None`.
    pub fn advance_reclaim<M: Memory>(&mut self, map: &Map<M>, page: u32) -> Option<u32> {
        let done = Self::advance_pages(map, page, Emptied::Durable, Emptied::Waiting);
        self.any_waiting |= done.any;
        if done.next.is_none() {
            self.reclaiming = self.any_waiting || self.any_reclaimable;
        }
        done.next
    }

    /// Returns whether a reclaim runs.
    pub fn is_reclaiming(&self) -> bool {
        self.reclaiming
    }

    /// Looks for leaf slabs that are about to be freed, from `from` on. Returns the next of them,
    /// at most [`STEP_SLABS`], and the caller continues at the range's end. The range is empty if
    /// there is none up to there. Returns `None` at the end.
    ///
    /// Only between the grace period and [`Allocator::end_reclaim`]. The slabs may be discarded
    /// below.
    pub fn reclaimable(&self, from: LeafSlab) -> Option<Range<LeafSlab>> {
        let from = from.max(self.reclaimable_from).0;
        if !self.any_reclaimable || from >= self.slabs() {
            return None;
        }
        // Both sums are upper ends, which the number of slabs bounds.
        let end = from.saturating_add(STEP_BITS).min(self.slabs());
        let Some(first) = self.reclaimable.find(from..end, false) else {
            return Some(LeafSlab(end)..LeafSlab(end));
        };
        let end = first.saturating_add(STEP_SLABS).min(self.slabs());
        // If all slabs up to `end` are reclaimable, the range ends there.
        let past = self.reclaimable.find(first..end, true);
        Some(LeafSlab(first)..LeafSlab(past.unwrap_or(end)))
    }

    /// Clears the bits that the leaf's pages still hold for free slabs, because a free slab has
    /// none (I1).
    ///
    /// For attach, after [`Allocator::mark_used`] of every slab that has an owner. It calls
    /// `give_way` between pages. An error of `give_way` ends it.
    pub(super) fn clear_free<M: Memory>(
        &self,
        map: &Map<M>,
        mut give_way: impl FnMut() -> Result,
    ) -> Result {
        let pages = map.geometry().bits_pages();
        for page in (0..pages).filter(|&p| map.memory().bits(p).is_some()) {
            give_way()?;
            let slabs = map.geometry().leaf_slabs_of(page);
            LeafSlab::each(slabs.start..slabs.end.min(LeafSlab(self.slabs())))
                .filter(|&leaf_slab| self.is_free(leaf_slab))
                .for_each(|leaf_slab| map.clear_unowned(leaf_slab));
        }
        Ok(())
    }

    /// Frees some of the slabs that the reclaim is for, and calls `freed` with each range of them.
    /// Returns whether there are more, and the caller has to call it again.
    /// [`Map::clear_unowned`] has cleared each slab of [`Allocator::reclaimable`].
    ///
    /// Under the lock, and between two commits (I3). A commit that runs may still have such a slab
    /// on its list, and would take the next owner's assignment for an old one.
    pub fn end_reclaim<M: Memory>(
        &mut self,
        map: &Map<M>,
        mut freed: impl FnMut(Range<LeafSlab>),
    ) -> Checked<bool> {
        // A sum that saturates is past the last slab. `count` stays below twice `STEP_SLABS`.
        let end = LeafSlab(self.reclaimable_from.0.saturating_add(STEP_BITS));
        let mut count = 0u32;
        while let Some(range) = self.reclaimable(LeafSlab(0)) {
            self.reclaimable_from = range.end;
            for leaf_slab in LeafSlab::each(range.clone()) {
                self.reclaimable.remove(leaf_slab.0);
                self.free(leaf_slab)?;
                count = count.saturating_add(1);
            }
            if !range.is_empty() {
                freed(range);
            }
            if count >= STEP_SLABS || self.reclaimable_from >= end {
                return Ok(true);
            }
        }
        if self.any_reclaimable {
            self.any_reclaimable = false;
            return Ok(true);
        }
        if self.any_waiting {
            let from = self.waiting_from;
            let done = Self::advance_pages(map, from, Emptied::Waiting, Emptied::No);
            if let Some(next) = done.next {
                self.waiting_from = next;
                return Ok(true);
            }
        }
        self.any_waiting = false;
        self.reclaiming = false;
        Ok(false)
    }

    /// Moves entries from one state to the next, in some pages from `page` on.
    fn advance_pages<M: Memory>(map: &Map<M>, page: u32, from: Emptied, to: Emptied) -> Advanced {
        let mut any = false;
        let mut next = map.emptied_page(page);
        for _ in 0..STEP_PAGES {
            let Some(page) = next else {
                break;
            };
            any |= map.advance_page(page, from, to) > 0;
            next = page.checked_add(1).and_then(|n| map.emptied_page(n));
        }
        Advanced { any, next }
    }

    fn choose<M: Memory>(&mut self, map: &Map<M>, slab: u32) -> Checked<Option<LeafSlab>> {
        let first = slab.wrapping_sub(slab % GROUP);
        let found = self
            .beside(map, slab, first)
            .or_else(|| self.next_group(map, slab, first))
            .or_else(|| self.free_group(slab % GROUP));
        match found {
            Some(leaf_slab) => Ok(Some(leaf_slab)),
            None => self.used.first_free(),
        }
    }

    /// Returns the leaf slab that continues the nearest slab of the same group.
    fn beside<M: Memory>(&self, map: &Map<M>, slab: u32, first: u32) -> Option<LeafSlab> {
        // A slab's number is below `geometry::SLABS_MAX`, so that of its group's end fits.
        let end = first.wrapping_add(GROUP);
        (1..GROUP).find_map(|step| {
            let before = slab.checked_sub(step).filter(|&s| s >= first);
            let after = slab.checked_add(step).filter(|&s| s < end);
            let follow = before.and_then(|s| map.entry(s).leaf_slab?.checked_add(step));
            let precede = after.and_then(|s| map.entry(s).leaf_slab?.checked_sub(step));
            follow
                .filter(|&l| self.is_free(l))
                .or(precede.filter(|&l| self.is_free(l)))
        })
    }

    /// Returns the leaf slab that continues the group before or after, if a whole group is free
    /// there. A group that other slabs have begun is left to them.
    fn next_group<M: Memory>(&self, map: &Map<M>, slab: u32, first: u32) -> Option<LeafSlab> {
        let beside = |s: u32| {
            let leaf_slab = map.entry(s).leaf_slab?;
            let to = if s < slab {
                leaf_slab.checked_add(slab.wrapping_sub(s))
            } else {
                leaf_slab.checked_sub(s.wrapping_sub(slab))
            };
            to.filter(|&l| l.0 % GROUP == slab % GROUP && self.is_group_free(l))
        };
        // There is no group before the first, and one past the last has no slabs.
        let before = (first.saturating_sub(GROUP)..first).rev().find_map(beside);
        let next = first.saturating_add(GROUP);
        before.or_else(|| (next..next.saturating_add(GROUP)).find_map(beside))
    }

    fn is_group_free(&self, leaf_slab: LeafSlab) -> bool {
        let first = (leaf_slab.0 % 64).wrapping_sub(leaf_slab.0 % GROUP);
        self.used.word(leaf_slab.0 / 64) & mask(first, first.wrapping_add(GROUP)) == 0
    }

    /// Returns slab `lane` of the first group that is free as a whole.
    fn free_group(&mut self, lane: u32) -> Option<LeafSlab> {
        if self.no_group {
            return None;
        }
        let end = self.slabs().div_ceil(64);
        // A sum that saturates is past the last word.
        let until = self.group_hint.saturating_add(STEP_WORDS).min(end);
        for at in self.group_hint..until {
            let word = self.used.word(at);
            for group in 0..64 / GROUP {
                let first = group.wrapping_mul(GROUP);
                if word & mask(first, first.wrapping_add(GROUP)) == 0 {
                    self.group_hint = at;
                    let group = LeafSlab(at.checked_mul(64)?.checked_add(first)?);
                    return group.checked_add(lane);
                }
            }
        }
        // If words are left, the next call continues here. Until then any slab will do.
        self.group_hint = until;
        self.no_group = until == end;
        None
    }
}
