// SPDX-License-Identifier: GPL-2.0

//! Which leaf slab a root slab gets.
//!
//! Neighbours on the root shall be neighbours on the leaf, in whatever order they are first
//! written, so that a large I/O stays one. Root slabs form *groups* of 16; a group's first slab
//! takes a free group of the leaf, at its own place within it, and the others follow to theirs.
//! When no group is free any more, any slab will do: no space is held back.

use core::ops::DerefMut;

use super::error::{Error, Result};
use super::geometry::BITS_SECTORS;
use super::map::{Base, Emptied, Map, Memory};
use super::num::{index, mask, narrow, wide};
use super::plan;

/// Slabs of a group: 1 MiB of 64 KiB slabs.
const GROUP: u32 = 16;

/// The leaf's free slabs. One lock guards it and all changes of the slab table.
///
/// `B` is a bitmap, one bit for each leaf slab, set if it is taken.
pub struct Allocator<B> {
    taken: B,
    /// Slabs that lost their owner and may not be covered by a commit.
    emptied: B,
    /// Those that a commit covers: free after it and a grace period.
    leaving: B,
    any_emptied: bool,
    any_leaving: bool,
    /// A grace period runs, for exactly those that are leaving.
    releasing: bool,
    slabs: u32,
    used: u32,
    /// No group is free: found by a search, true until a slab is released.
    no_group: bool,
    /// Words below hold no free slab (respectively group): where a search starts.
    slab_hint: usize,
    group_hint: usize,
}

impl<B: DerefMut<Target = [u64]>> Allocator<B> {
    /// An allocator of `slabs` free slabs; the three bitmaps are zero and have a bit for each, and
    /// one more.
    pub fn new(bitmaps: [B; 3], slabs: u32) -> Self {
        let [taken, emptied, leaving] = bitmaps;
        let mut a = Allocator {
            taken,
            emptied,
            leaving,
            any_emptied: false,
            any_leaving: false,
            releasing: false,
            slabs,
            used: 0,
            no_group: false,
            slab_hint: 0,
            group_hint: 0,
        };
        // What lies behind the last slab is taken for ever.
        if let Some(word) = a.taken.get_mut(index(slabs / 64)) {
            *word |= mask(slabs % 64, 64);
        }
        a
    }

    /// Slabs in use.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Slabs in all.
    pub fn slabs(&self) -> u32 {
        self.slabs
    }

    /// Whether a leaf slab is free.
    pub fn is_free(&self, leaf: u32) -> bool {
        let word = self
            .taken
            .get(index(leaf / 64))
            .copied()
            .unwrap_or(u64::MAX);
        leaf < self.slabs && word & 1u64.wrapping_shl(leaf % 64) == 0
    }

    /// Takes a slab that the map on disk uses; false if it is taken already or does not exist.
    pub fn take(&mut self, leaf: u32) -> bool {
        if !self.is_free(leaf) {
            return false;
        }
        if let Some(word) = self.taken.get_mut(index(leaf / 64)) {
            *word |= 1u64.wrapping_shl(leaf % 64);
            self.used = self.used.saturating_add(1);
        }
        true
    }

    /// Gives a slab back.
    fn release(&mut self, leaf: u32) {
        if leaf >= self.slabs || self.is_free(leaf) {
            return;
        }
        let at = index(leaf / 64);
        if let Some(word) = self.taken.get_mut(at) {
            *word &= !1u64.wrapping_shl(leaf % 64);
            self.used = self.used.saturating_sub(1);
        }
        self.no_group = false;
        self.slab_hint = self.slab_hint.min(at);
        self.group_hint = self.group_hint.min(at);
    }

    /// Gives root slab `slab` a home on the leaf, if it has none: the leaf slab.
    ///
    /// Process context, under the lock; may sleep for memory. `Full` if no slab is free.
    pub fn place<M: Memory>(&mut self, map: &Map<M>, slab: u32) -> Result<u32> {
        let entry = map.entry(slab);
        if let Some(leaf) = entry.leaf {
            return Ok(leaf);
        }
        if entry.emptied != Emptied::No {
            return Err(Error::Emptied);
        }
        let leaf = self.pick(map, slab).ok_or(Error::Full)?;
        map.assign(slab, leaf)?;
        self.take(leaf);
        Ok(leaf)
    }

    /// Gives every slab of a range of union sectors a home: all of them or, if the free slabs do not
    /// suffice, none. A home that its write never reached would be lost until the next attach.
    ///
    /// As for [`Allocator::place`]; where memory runs out, slabs that have a home by then keep it.
    pub fn settle<M: Memory>(&mut self, map: &Map<M>, sector: u64, sectors: u32) -> Result {
        self.settle_all(map, [(sector, sectors)])?;
        if cfg!(mutant = "bits-before-data") {
            map.mark(sector, sectors);
        }
        Ok(())
    }

    /// The same for several ranges, which lie in different slabs: all of them or none.
    pub fn settle_all<M: Memory, const N: usize>(
        &mut self,
        map: &Map<M>,
        ranges: [(u64, u32); N],
    ) -> Result {
        let homeless = || {
            ranges
                .into_iter()
                .flat_map(|(at, n)| plan::homeless(map, at, n))
        };
        if homeless().any(|slab| map.entry(slab).emptied != Emptied::No) {
            return Err(Error::Emptied);
        }
        let missing = wide(homeless().count());
        if missing > u64::from(self.slabs.saturating_sub(self.used)) {
            // What was emptied will be free in a moment: that is worth the wait.
            let soon = self.any_emptied || self.any_leaving;
            return Err(if soon { Error::Emptied } else { Error::Full });
        }
        for slab in homeless() {
            self.place(map, slab)?;
        }
        Ok(())
    }

    /// Empties root slabs: they read as `base`. Their leaf slabs become free by and by, see
    /// [`Allocator::begin_commit`]. Returns whether anything changed.
    ///
    /// Process context, under the lock; may sleep for memory. If that fails, some are emptied.
    pub fn empty<M: Memory>(
        &mut self,
        map: &Map<M>,
        slabs: core::ops::Range<u32>,
        base: Base,
    ) -> Result<bool> {
        let mut changed = false;
        for slab in slabs {
            let Some(home) = map.empty(slab, base)? else {
                continue;
            };
            changed = true;
            if let Some(leaf) = home {
                set(&mut self.emptied, leaf);
                self.any_emptied = true;
            }
        }
        Ok(changed)
    }

    /// Before a commit: what was emptied up to here will be durable with it. Under the lock.
    pub fn begin_commit(&mut self) {
        // While a grace period runs, no slab may join those that it is for.
        if !self.any_emptied || self.releasing {
            return;
        }
        for (leaving, emptied) in self.leaving.iter_mut().zip(self.emptied.iter_mut()) {
            *leaving |= core::mem::take(emptied);
        }
        self.any_emptied = false;
        self.any_leaving = true;
    }

    /// Whether slabs were emptied that have not been freed yet.
    pub fn any_emptied<M: Memory>(&self, map: &Map<M>) -> bool {
        self.any_emptied || self.any_leaving || map.emptied_page(0).is_some()
    }

    /// Picks what a grace period that starts now is for: whether there is anything.
    ///
    /// Under the lock, and between two commits that have not failed. `durable`: nothing at all
    /// waits for a commit. R5: only after all I/O that is in flight now has ended may
    /// [`Allocator::end_release`] be called. One release at a time: false while one runs.
    pub fn begin_release<M: Memory>(&mut self, map: &Map<M>, durable: bool) -> bool {
        if self.releasing {
            return false;
        }
        if durable {
            self.begin_commit();
        }
        let moved = self.advance_pages(map, Emptied::Durable, Emptied::Waiting);
        self.releasing = moved || self.any_leaving;
        self.releasing
    }

    /// The first leaf slab from `from` on that is about to be free, and how many follow it: what may
    /// be discarded below. Only between the grace period and [`Allocator::end_release`].
    pub fn leaving(&self, from: u32) -> Option<core::ops::Range<u32>> {
        if !self.any_leaving {
            return None;
        }
        let first = next_bit(&self.leaving, from, true).filter(|&n| n < self.slabs)?;
        let end = next_bit(&self.leaving, first, false).unwrap_or(self.slabs);
        Some(first..end.min(self.slabs))
    }

    /// Clears the bits that the leaf's pages still hold of free slabs: a free slab has none.
    ///
    /// For attach, after [`Allocator::take`] of every slab that has an owner. Between pages it calls
    /// `pause`, whose error ends it.
    pub(super) fn forget_free<M: Memory>(
        &self,
        map: &Map<M>,
        mut pause: impl FnMut() -> Result,
    ) -> Result {
        let per_page = narrow(BITS_SECTORS.wrapping_shr(map.geometry().slab_shift()));
        let pages = map.geometry().bits_pages();
        for page in (0..pages).filter(|&p| map.memory().bits(p).is_some()) {
            pause()?;
            let first = page.saturating_mul(per_page);
            let end = first.saturating_add(per_page).min(self.slabs);
            (first..end)
                .filter(|&leaf| self.is_free(leaf))
                .for_each(|leaf| map.forget(leaf));
        }
        Ok(())
    }

    /// Clears all of [`Allocator::leaving`] by [`Map::forget`]. After the grace period.
    pub fn forget_leaving<M: Memory>(&self, map: &Map<M>) {
        let mut from = 0;
        while let Some(range) = self.leaving(from) {
            from = range.end;
            range.for_each(|leaf| map.forget(leaf));
        }
    }

    /// Frees what the grace period was for; [`Map::forget`] has cleared each of [`Allocator::leaving`].
    ///
    /// Under the lock, and between two commits: one that runs may still have such a slab on its
    /// list, and would take the next owner's assignment for an old one.
    pub fn end_release<M: Memory>(&mut self, map: &Map<M>) {
        self.advance_pages(map, Emptied::Waiting, Emptied::No);
        let mut from = 0;
        while let Some(range) = self.leaving(from) {
            from = range.end;
            for leaf in range {
                clear(&mut self.leaving, leaf);
                self.release(leaf);
            }
        }
        self.any_leaving = false;
        self.releasing = false;
    }

    /// Whether any slab was in state `from`; now it is in `to`.
    fn advance_pages<M: Memory>(&self, map: &Map<M>, from: Emptied, to: Emptied) -> bool {
        let mut any = false;
        let mut next = 0;
        while let Some(page) = map.emptied_page(next) {
            any |= map.advance_page(page, from, to) > 0;
            next = page.saturating_add(1);
        }
        any
    }

    fn pick<M: Memory>(&mut self, map: &Map<M>, slab: u32) -> Option<u32> {
        let first = slab.wrapping_sub(slab % GROUP);
        self.beside(map, slab, first)
            .or_else(|| self.next_group(map, slab, first))
            .or_else(|| self.free_group(slab % GROUP))
            .or_else(|| self.free_slab())
    }

    /// The place that continues the nearest slab of the same group.
    fn beside<M: Memory>(&self, map: &Map<M>, slab: u32, first: u32) -> Option<u32> {
        let end = first.saturating_add(GROUP);
        (1..GROUP).find_map(|step| {
            let before = slab.checked_sub(step).filter(|&s| s >= first);
            let after = slab.checked_add(step).filter(|&s| s < end);
            let follow = before.and_then(|s| map.entry(s).leaf?.checked_add(step));
            let precede = after.and_then(|s| map.entry(s).leaf?.checked_sub(step));
            follow
                .filter(|&l| self.is_free(l))
                .or(precede.filter(|&l| self.is_free(l)))
        })
    }

    /// The place that continues the group before or after, if a whole group is free there: one
    /// that others have begun stays theirs.
    fn next_group<M: Memory>(&self, map: &Map<M>, slab: u32, first: u32) -> Option<u32> {
        let place = |s: u32| {
            let leaf = map.entry(s).leaf?;
            let to = if s < slab {
                leaf.checked_add(slab.wrapping_sub(s))
            } else {
                leaf.checked_sub(s.wrapping_sub(slab))
            };
            to.filter(|&l| l % GROUP == slab % GROUP && self.is_group_free(l))
        };
        let before = (first.saturating_sub(GROUP)..first).rev().find_map(place);
        let next = first.saturating_add(GROUP);
        before.or_else(|| (next..next.saturating_add(GROUP)).find_map(place))
    }

    fn is_group_free(&self, leaf: u32) -> bool {
        let word = self
            .taken
            .get(index(leaf / 64))
            .copied()
            .unwrap_or(u64::MAX);
        let first = (leaf % 64).wrapping_sub(leaf % GROUP);
        word & mask(first, first.wrapping_add(GROUP)) == 0
    }

    /// Slab `lane` of the first group that is free as a whole.
    fn free_group(&mut self, lane: u32) -> Option<u32> {
        if self.no_group {
            return None;
        }
        for (at, &word) in self.taken.iter().enumerate().skip(self.group_hint) {
            for group in 0..64 / GROUP {
                let first = group.wrapping_mul(GROUP);
                if word & mask(first, first.wrapping_add(GROUP)) == 0 {
                    self.group_hint = at;
                    let base = narrow(wide(at).wrapping_mul(64)).wrapping_add(first);
                    return base.checked_add(lane);
                }
            }
        }
        self.no_group = true;
        None
    }

    fn free_slab(&mut self) -> Option<u32> {
        for (at, &word) in self.taken.iter().enumerate().skip(self.slab_hint) {
            if word != u64::MAX {
                self.slab_hint = at;
                let base = narrow(wide(at).wrapping_mul(64));
                return base
                    .checked_add(word.trailing_ones())
                    .filter(|&l| l < self.slabs);
            }
        }
        None
    }
}

fn set(words: &mut [u64], n: u32) {
    if let Some(w) = words.get_mut(index(n / 64)) {
        *w |= 1u64.wrapping_shl(n % 64);
    }
}

fn clear(words: &mut [u64], n: u32) {
    if let Some(w) = words.get_mut(index(n / 64)) {
        *w &= !1u64.wrapping_shl(n % 64);
    }
}

/// The first bit from `from` on that is set, or clear; `None` if there is none.
fn next_bit(words: &[u64], from: u32, set: bool) -> Option<u32> {
    let mut ahead = mask(from % 64, 64);
    for (at, &word) in words.iter().enumerate().skip(index(from / 64)) {
        let found = (if set { word } else { !word }) & ahead;
        if found != 0 {
            return narrow(wide(at).wrapping_mul(64)).checked_add(found.trailing_zeros());
        }
        ahead = u64::MAX;
    }
    None
}
