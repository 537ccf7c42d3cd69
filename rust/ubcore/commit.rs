// SPDX-License-Identifier: GPL-2.0

//! Makes the map durable: the commit, the checkpoint, and the order of their writes.
//!
//! A commit writes into the journal all that is mapped of each leaf slab that has changed since the
//! last commit, and which root slabs were emptied. Its last write carries `PREFLUSH | FUA`, so that
//! the data is durable before the record that names it (I10). A checkpoint writes the changed map
//! pages into the inactive slots (I11). It then writes the directory blocks in the same way. Then
//! one write with `PREFLUSH | FUA` writes the superblock, which makes the new slots active and
//! frees the ring. The second superblock slot is written at once after that. From then on the leaf
//! survives damage to either of the two.
//!
//! A checkpoint may write pages in steps ([`Committer::store_some`]) with commits in between. If a
//! page changes after its step, it is written again before the superblock, because each change of a
//! page makes a dirty mark or a pending mark, and the code that takes the mark puts the page on the
//! list of changed pages.

use core::num::NonZeroU32;
use core::ops::DerefMut;

use super::changed_pages::ChangedPages;
use super::disk::{Disk, Order, BUFFER_BLOCKS};
use super::error::{Error, Result};
use super::format::crc::crc32c;
use super::format::directory::{self, PageEntry};
use super::format::record::Record;
use super::format::superblock::Superblock;
use super::geometry::{LeafSlab, MapPage};
use super::journal::{Ring, Space, Transaction};
use super::limit;
use super::map::{Emptied, Map, Memory};
use super::pages::{self, bits_page_of, table_page_of, PageSet};
use super::replay_limit::filled_by_writers;
use super::reset;
use super::slot::Slot;
use super::stack::chain::Seal;
use super::stack::changed_slabs::ChangedSlabs;
use super::superblock_slots;

/// The counts of a committer, since it was made by an attach, a freeze or a reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Commits that wrote something.
    pub commits: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Journal blocks written.
    pub journal_written: u64,
}

/// The state of the leaf after a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeafState {
    /// Attached. Commits follow.
    Live,
    /// Detached.
    Detached,
    /// Detached, and a layer.
    Frozen(Seal),
}

/// Writes the metadata. One lock guards it; process context only.
///
/// `B` holds a bit for each map page, and `E` an entry for each map page.
pub struct Committer<B, E> {
    superblock: Superblock,
    /// The slot that held the superblock at attach. The other slot is written first.
    newest: Slot,
    ring: Ring,
    pages: ChangedPages<B, E>,
    /// The slabs whose marks were taken off the map, while a freeze merges the map.
    slabs: Option<ChangedSlabs<B>>,
    /// The map's count of changes that is durable.
    committed: u64,
    failed: Option<Error>,
    counters: Counters,
}

impl<B, E> Committer<B, E>
where
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
{
    /// Takes over what attach found. If `failed` is set, the committer never writes.
    pub(super) fn new(
        superblock: Superblock,
        newest: Slot,
        ring: Ring,
        pages: ChangedPages<B, E>,
        committed: u64,
        failed: Option<Error>,
    ) -> Self {
        Committer {
            superblock,
            newest,
            ring,
            pages,
            slabs: None,
            committed,
            failed,
            counters: Counters::default(),
        }
    }

    /// Sets the set in which commits note changed slabs. `None` ends this. Returns the old set.
    pub fn replace_noted_slabs(
        &mut self,
        slabs: Option<ChangedSlabs<B>>,
    ) -> Option<ChangedSlabs<B>> {
        core::mem::replace(&mut self.slabs, slabs)
    }

    /// Returns the superblock as it is on the leaf.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Returns the number of journal blocks in use.
    pub fn journal_used(&self) -> u32 {
        self.ring.used()
    }

    /// Returns the number of pages that commits have changed and that were not stored since.
    pub fn changed_pages(&self) -> u32 {
        self.pages.changed()
    }

    /// Returns the counts of what this committer has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Returns whether everything that was mapped when this was called is durable.
    pub fn is_committed<M: Memory>(&self, map: &Map<M>) -> bool {
        map.changes() == self.committed
    }

    /// Returns the map's count of changes that is durable.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Returns why nothing is committed any more, if the committer has failed.
    pub fn failed(&self) -> Option<Error> {
        self.failed
    }

    /// Returns whether a checkpoint is due. It is due if the ring is more than half full, or has
    /// filled more than 7/8 of the pages that it may fill.
    pub fn wants_checkpoint(&self) -> bool {
        let most = filled_by_writers(&self.superblock.geometry);
        let many = self.pages.filled() > most.wrapping_sub(most / 8);
        self.failed.is_none() && (self.ring.is_half_full() || many)
    }

    /// Makes all data written and all mappings made before the call durable.
    ///
    /// If nothing is dirty, it is one flush. After a failure every call fails. The
    /// changes that were acknowledged before it stay durable, and no others become durable.
    pub fn commit<M: Memory, D: Disk>(&mut self, map: &Map<M>, disk: &mut D) -> Result {
        self.guarded(|s| {
            let quiescent = map.quiescent_changes();
            map.check()?;
            if quiescent == Some(s.committed) {
                return disk.flush();
            }
            if s.write_transaction(map, disk)? == Space::Full {
                // The ring is full, or replay would fill too many pages. The checkpoint makes
                // the same things durable.
                return s.write_checkpoint(map, disk, LeafState::Live);
            }
            s.note_committed(quiescent);
            Ok(())
        })
    }

    /// Writes some changed pages for the next checkpoint, the first at or after page `from`: at
    /// most [`BUFFER_BLOCKS`], in one write. Returns the page to continue with, or `None` at the
    /// end.
    ///
    /// The caller can release the lock between two calls. The call makes nothing durable.
    pub fn store_some<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
        from: MapPage,
    ) -> Result<Option<MapPage>> {
        self.guarded(|s| {
            s.ring.forget_buffer();
            match s.pages.next(from) {
                Some(page) => s.write_batch(map, disk, page),
                None => Ok(None),
            }
        })
    }

    /// Makes everything durable, and frees the journal.
    pub fn checkpoint<M: Memory, D: Disk>(&mut self, map: &Map<M>, disk: &mut D) -> Result {
        self.guarded(|s| s.write_checkpoint(map, disk, LeafState::Live))
    }

    /// Makes a checkpoint for attach, and gives way between its writes, because many pages may have
    /// changed since the last checkpoint. An error of [`Disk::give_way`] ends it, and then no write
    /// so far has an effect.
    pub fn checkpoint_in_steps<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
    ) -> Result {
        let mut next = Some(MapPage(0));
        while let Some(from) = next {
            disk.give_way()?;
            next = self.store_some(map, disk, from)?;
        }
        self.checkpoint(map, disk)
    }

    /// Writes the last checkpoint of a union that is being detached. No I/O is in flight.
    pub fn detach<M: Memory, D: Disk>(&mut self, map: &Map<M>, disk: &mut D) -> Result {
        self.guarded(|s| s.write_checkpoint(map, disk, LeafState::Detached))
    }

    /// Writes the last checkpoint of a leaf that becomes a layer, to which nothing writes any more.
    /// No I/O is in flight, and `seal` must be random. The leaf is frozen once the first superblock
    /// slot is written.
    pub fn freeze<M: Memory, D: Disk>(&mut self, map: &Map<M>, disk: &mut D, seal: Seal) -> Result {
        self.guarded(|s| s.write_checkpoint(map, disk, LeafState::Frozen(seal)))?;
        // A frozen leaf refuses all writes, also those of this committer.
        self.failed = Some(Error::Frozen);
        Ok(())
    }

    /// Returns the committer that follows [`Committer::reset`], of an empty map. `entries` and both
    /// of `sets` are empty, and have room for each map page. Writes nothing.
    pub fn after_reset<M: Memory>(
        &self,
        map: &Map<M>,
        entries: E,
        sets: [PageSet<B>; 2],
    ) -> Result<Self> {
        let superblock = reset::emptied(&self.superblock, false)?;
        let blocks = superblock.geometry.journal_blocks();
        let (tail, sequence) = (superblock.journal_tail, superblock.journal_sequence);
        Ok(Committer::new(
            superblock,
            self.newest,
            Ring::new(blocks, tail, 0, sequence),
            ChangedPages::new(entries, sets)?,
            map.changes(),
            self.failed,
        ))
    }

    /// Makes the leaf forget all its changes. No I/O is in flight. The leaf is empty once the first
    /// superblock slot is written. The committer of [`Committer::after_reset`] continues.
    pub fn reset<M: Memory, D: Disk>(&mut self, map: &Map<M>, disk: &mut D) -> Result {
        self.guarded(|s| {
            s.ring.forget_buffer();
            let next = reset::emptied(&s.superblock, false)?;
            superblock_slots::write(disk, s.newest, &next)?
        })?;
        // The map of this committer is not the leaf's any more. Nothing of it is left to commit,
        // and work that runs late must not try.
        self.committed = map.changes();
        self.failed = Some(Error::Internal);
        Ok(())
    }

    /// Sets the limit of the leaf, or removes it if `None`. The content of the leaf stays as it is.
    pub fn set_limit<D: Disk>(&mut self, disk: &mut D, limit: Option<NonZeroU32>) -> Result {
        self.guarded(|s| {
            s.ring.forget_buffer();
            let next = limit::limited(&s.superblock, limit)?;
            superblock_slots::write(disk, s.newest, &next)??;
            s.superblock = next;
            Ok(())
        })
    }

    /// Runs a step of the committer, unless an earlier step has failed (I12).
    fn guarded<R>(&mut self, f: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        f(self).inspect_err(|&e| self.failed = Some(e))
    }

    /// Writes a transaction of all dirty slabs. Returns [`Space::Full`] if a checkpoint must
    /// follow: the ring is full, or replay would fill too many pages.
    fn write_transaction<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
    ) -> Result<Space> {
        let mut transaction = Transaction::new(&mut self.ring, disk, &self.superblock);
        let mut space = Space::Left;
        let mut from = 0;
        while let Some((first, slabs)) = take_dirty(&mut self.slabs, map, from)? {
            for leaf_slab in members(first, slabs) {
                let Some(fresh) = list_pages_of(&mut self.pages, map, leaf_slab)? else {
                    continue;
                };
                if space == Space::Left {
                    space = transaction.slab(map, leaf_slab, fresh)?;
                }
            }
            from = (first.0 / 64).wrapping_add(1);
        }
        // Emptied slabs come last (I8). If a root slab lost its leaf slab above, it is recorded
        // here, in the same transaction. A write to it from now on is recorded in a later one. If
        // there is no space, the checkpoint takes the slabs that are left.
        let mut from = Some(0);
        while space == Space::Left {
            let Some(page) = from.and_then(|n| map.take_pending(n)) else {
                break;
            };
            note_page(&mut self.slabs, page)?;
            self.pages.add(MapPage::table(page))?;
            space = transaction.emptied(map, page)?;
            from = page.checked_add(1);
        }
        let most = filled_by_writers(&self.superblock.geometry);
        if space == Space::Full || self.pages.filled() > most {
            return Ok(Space::Full);
        }
        let empties = transaction.empties();
        let blocks = transaction.finish()?;
        if blocks > 0 {
            tally(&mut self.counters.commits, 1);
            tally(&mut self.counters.journal_written, blocks);
        }
        if empties {
            self.write_empty_transaction(disk)
        } else {
            Ok(Space::Left)
        }
    }

    /// Writes a transaction that changes nothing, so that the one before is not the last. If the
    /// one before rots, it is then damage and not a torn write. Returns [`Space::Full`] if the ring
    /// is full.
    ///
    /// A transaction that empties slabs needs it. If replay took that transaction for torn, the map
    /// would lead into leaf slabs that have been allocated to other root slabs since.
    fn write_empty_transaction<D: Disk>(&mut self, disk: &mut D) -> Result<Space> {
        let mut transaction = Transaction::new(&mut self.ring, disk, &self.superblock);
        let space = transaction.put(&[Record::Origin(LeafSlab(0))])?;
        if space == Space::Left {
            let blocks = transaction.finish()?;
            tally(&mut self.counters.journal_written, blocks);
        }
        Ok(space)
    }

    fn write_checkpoint<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
        state: LeafState,
    ) -> Result {
        let quiescent = map.quiescent_changes();
        map.check()?;
        let mut from = 0;
        while let Some((first, slabs)) = take_dirty(&mut self.slabs, map, from)? {
            for leaf_slab in members(first, slabs) {
                list_pages_of(&mut self.pages, map, leaf_slab)?;
            }
            from = (first.0 / 64).wrapping_add(1);
        }
        // In this order, as in a transaction: a root slab that has lost its leaf slab by now is on
        // a page that is stored.
        let mut from = Some(0);
        while let Some(page) = from.and_then(|n| map.take_pending(n)) {
            note_page(&mut self.slabs, page)?;
            self.pages.add(MapPage::table(page))?;
            map.advance_emptied(page, Emptied::Pending, Emptied::Durable, |_, _| ());
            from = page.checked_add(1);
        }
        let mut next = superblock_slots::next(&self.superblock)?;
        next.journal_tail = self.ring.head();
        next.journal_sequence = self.ring.sequence();
        next.clean = state != LeafState::Live;
        if let LeafState::Frozen(seal) = state {
            next.freeze(seal);
        }
        self.write_pages(map, disk, &mut next)?;
        self.write_superblock(disk, next, state)?;
        self.ring.free_all();
        self.pages.checkpointed();
        self.note_committed(quiescent);
        tally(&mut self.counters.checkpoints, 1);
        Ok(())
    }

    /// Records as durable the changes that the map had counted at a moment without a change under
    /// way. If there was no such moment (`None`), the count stays as it is.
    fn note_committed(&mut self, quiescent: Option<u64>) {
        if let Some(changes) = quiescent {
            self.committed = changes;
        }
    }

    /// Writes each changed page to its inactive slot, then the directory blocks likewise.
    fn write_pages<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
        next: &mut Superblock,
    ) -> Result {
        let mut page = self.pages.next(MapPage(0));
        while let Some(first) = page {
            page = self.write_batch(map, disk, first)?;
        }
        let mut block = self.next_directory_block(0);
        while let Some(first) = block {
            block = self.write_directory_batch(disk, next, first)?;
        }
        Ok(())
    }

    /// Returns the first directory block at or after `at` that names a page stored since the last
    /// checkpoint.
    fn next_directory_block(&self, at: u32) -> Option<u32> {
        let g = &self.superblock.geometry;
        let first = directory::pages_of(at, g.pages()).start;
        let stored = self.pages.next_stored(first)?;
        Some(directory::block_of(stored))
    }

    /// Writes directory block `first` and those to write that follow it on disk. Returns the next
    /// directory block to write.
    fn write_directory_batch<D: Disk>(
        &mut self,
        disk: &mut D,
        next: &mut Superblock,
        first: u32,
    ) -> Result<Option<u32>> {
        let g = next.geometry;
        let slot = Slot::inactive(next.directory_slot(first)?);
        let mut count = 0usize;
        let mut at = first;
        loop {
            let block = disk.nth_block(count)?;
            let entries = self.pages.entries(directory::indices_of(at, g.pages()))?;
            directory::encode(block, at, next.generation, next.nonce, entries)?;
            next.set_directory_slot(at, slot)?;
            // The buffer has the block, and the superblock has its slot, so one more fits.
            count = count.wrapping_add(1);
            let after = self.next_directory_block(at.wrapping_add(1));
            let follows = after.filter(|&n| {
                let other = next.directory_slot(n).map(Slot::inactive);
                n == at.wrapping_add(1) && other == Ok(slot)
            });
            match follows {
                Some(n) if count < BUFFER_BLOCKS => at = n,
                _ => {
                    disk.write(g.directory_block(first, slot), count, Order::Plain)?;
                    return Ok(after);
                }
            }
        }
    }

    /// Writes page `first` and the pages of the set that follow it on disk. Returns the next page
    /// of the set.
    fn write_batch<M: Memory, D: Disk>(
        &mut self,
        map: &Map<M>,
        disk: &mut D,
        first: MapPage,
    ) -> Result<Option<MapPage>> {
        let slot = self.pages.slot_for(first)?;
        let mut count = 0usize;
        let mut page = first;
        loop {
            let block = disk.nth_block(count)?;
            pages::store(map, page, block)?;
            let crc = crc32c(0, block);
            self.pages.note_stored(page, slot, crc)?;
            // The buffer has the block, so one more fits.
            count = count.wrapping_add(1);
            let next = self.pages.next(page);
            let follows = next.filter(|&n| {
                n == page.next()
                    && directory::block_of(n) == directory::block_of(first)
                    && self.pages.slot_for(n) == Ok(slot)
            });
            match follows {
                Some(n) if count < BUFFER_BLOCKS => page = n,
                _ => {
                    let g = &self.superblock.geometry;
                    disk.write(g.page_block(first, slot), count, Order::Plain)?;
                    return Ok(next);
                }
            }
        }
    }

    /// Makes `next` the active superblock, then renews the other slot.
    fn write_superblock<D: Disk>(
        &mut self,
        disk: &mut D,
        next: Superblock,
        state: LeafState,
    ) -> Result {
        let second = superblock_slots::write(disk, self.newest, &next)?;
        // The first slot has frozen the leaf, even if the write of the second fails.
        if !matches!(state, LeafState::Frozen(_)) {
            second?;
        }
        self.superblock = next;
        Ok(())
    }
}

/// Adds to a counter that the status shows. Stays at the highest number, because nothing depends on
/// the sum.
fn tally(counter: &mut u64, more: u32) {
    *counter = counter.saturating_add(u64::from(more));
}

/// Returns the leaf slabs of a mask whose lowest bit is leaf slab `first`.
fn members(first: LeafSlab, mask: u64) -> impl Iterator<Item = LeafSlab> {
    (0..64u32)
        .filter(move |n| mask & 1u64.wrapping_shl(*n) != 0)
        .map(move |n| first.wrapping_add(n))
}

/// Takes dirty leaf slabs off the map, and notes them if a freeze merges the map.
fn take_dirty<M, B>(
    slabs: &mut Option<ChangedSlabs<B>>,
    map: &Map<M>,
    from: u32,
) -> Result<Option<(LeafSlab, u64)>>
where
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    let taken = map.take_dirty(from)?;
    if let (Some(slabs), Some((first, mask))) = (slabs, taken) {
        slabs.add_leaf_slabs(first, mask)?;
    }
    Ok(taken)
}

/// Notes a page whose slabs were emptied, in the same way.
fn note_page<B>(slabs: &mut Option<ChangedSlabs<B>>, page: u32) -> Result
where
    B: DerefMut<Target = [u64]>,
{
    if let Some(slabs) = slabs {
        slabs.add_page(page)?;
    }
    Ok(())
}

/// Puts the pages that a dirty leaf slab touches on the next checkpoint's list.
/// Returns whether its assignment is new, or `None` if none of its sectors is mapped.
///
/// The slab has had no other owner since this commit began (I3). A free slab has no marks (I1), so
/// a mark belongs to the present owner or to one that lost the slab.
fn list_pages_of<M, B, E>(
    changed: &mut ChangedPages<B, E>,
    map: &Map<M>,
    leaf_slab: LeafSlab,
) -> Result<Option<bool>>
where
    M: Memory,
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
{
    if !map.is_mapped(leaf_slab)? {
        return Ok(None);
    }
    let fresh = map.take_fresh(leaf_slab);
    changed.add(bits_page_of(map, leaf_slab))?;
    if let Some(slab) = map.owner(leaf_slab).filter(|_| fresh) {
        changed.add(table_page_of(slab))?;
    }
    Ok(Some(fresh))
}
