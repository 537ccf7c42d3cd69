// SPDX-License-Identifier: GPL-2.0

//! Checks the journal ring: the blocks that attach replays, and all others.

use core::ops::DerefMut;

use super::super::disk::Disk;
use super::super::error::{Area, Error, Result};
use super::super::format::record::Record;
use super::super::format::ring::{self, RingHead};
use super::super::geometry::{superblock_block, Geometry};
use super::super::journal::{self, ScanResult};
use super::super::leaf_block::LeafBlock;
use super::super::map::Memory;
use super::super::num::u32_as_usize;
use super::super::slot::Slot;
use super::{ends_check, Check, FindingKind, Totals};

/// The state of a block of the ring.
enum RingBlockState {
    Sound(RingHead),
    /// Torn or rotten.
    Broken,
    /// Not a block of this leaf.
    Foreign,
}

impl<D, M, B> Check<'_, D, M, B>
where
    D: Disk,
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    /// Checks the whole ring, and replays the finished transactions into the map.
    pub(super) fn check_journal(&mut self, totals: &mut Totals) -> Result {
        let scan = self.scan_journal()?;
        self.check_other_blocks(&scan);
        self.check_journal_state(&scan);
        totals.to_replay = scan.finished;
        if self.check_records(&scan) {
            self.blind = true;
            return Ok(());
        }
        let lost = |page| self.lost.has(page);
        let changed = &mut self.changed;
        let from = (self.sb, &*self.entries);
        match journal::replay(self.disk, from, &scan, self.map, changed, lost) {
            // A replay into a map that is not known proves no damage.
            Err(Error::Damaged(Area::Journal, block)) if !self.blind => {
                self.blind = true;
                self.report(FindingKind::JournalRecord, block, ring::byte_of(0));
                Ok(())
            }
            Err(e) if ends_check(e) => Err(e),
            Err(_) => {
                self.blind = true;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Returns the block of the leaf `n` blocks after the tail.
    fn block_after_tail(&self, n: u32) -> LeafBlock {
        let g = self.geometry();
        g.journal_block(journal::after(self.sb.journal_tail, n, g.journal_blocks()))
    }

    fn read_ring_block(&mut self, block: LeafBlock) -> RingBlockState {
        let nonce = self.sb.nonce;
        if !self.read(block) {
            self.blind = true;
            return RingBlockState::Foreign;
        }
        let bytes = &self.disk.block()[..];
        match ring::open(bytes, nonce) {
            Some(head) => RingBlockState::Sound(head),
            None if ring::was_of_leaf(bytes, nonce) => RingBlockState::Broken,
            None => RingBlockState::Foreign,
        }
    }

    /// Returns what the scan of an attach would find.
    fn scan_journal(&mut self) -> Result<ScanResult> {
        let (g, nonce) = (self.geometry(), self.sb.nonce);
        let disk = &mut *self.disk;
        journal::find_valid_blocks(self.sb, |at| {
            // A block that cannot be read is reported when the rest of the ring is checked.
            let read = disk.read(g.journal_block(at), 1).is_ok();
            Ok(ring::open(disk.block(), nonce).filter(|_| read))
        })
    }

    /// Checks all blocks that are not among those from the tail on that are valid and consecutive.
    fn check_other_blocks(&mut self, scan: &ScanResult) {
        let hole = self.block_after_tail(scan.valid);
        let mut reported = false;
        for n in scan.valid..self.geometry().journal_blocks() {
            let block = self.block_after_tail(n);
            let head = match self.read_ring_block(block) {
                RingBlockState::Sound(head) => head,
                RingBlockState::Broken => {
                    self.report(FindingKind::InactiveJournal, block, 0);
                    continue;
                }
                RingBlockState::Foreign => continue,
            };
            if reported || head.sequence < self.sb.journal_sequence {
                continue;
            }
            let sequence = head.sequence;
            let ahead = sequence.checked_sub(scan.sequence);
            // Sequence numbers are below 2^63.
            let there = ahead.map(|a| a.wrapping_add(u64::from(scan.valid)));
            if self.sb.clean && scan.valid == 0 {
                self.report(FindingKind::CleanButNewer { sequence }, block, 8);
                reported = true;
            } else if there != Some(u64::from(n)) {
                self.report(FindingKind::JournalMisplaced { sequence }, block, 8);
                reported = true;
            } else if head.shows_hole(scan.sequence) {
                self.report(FindingKind::JournalHole, hole, 0);
                reported = true;
            }
        }
        self.blind |= reported;
    }

    /// Compares what the superblock says about the journal with what there is.
    fn check_journal_state(&mut self, scan: &ScanResult) {
        let tail = self.block_after_tail(0);
        let blocks = scan.finished;
        if self.sb.clean && scan.valid > 0 {
            self.report(
                FindingKind::CleanFlag { blocks },
                superblock_block(Slot::A),
                108,
            );
        } else if !self.sb.clean {
            self.report(FindingKind::NotDetached { blocks }, tail, 0);
        }
        if let Some(blocks) = scan.valid.checked_sub(scan.finished).filter(|&n| n > 0) {
            let block = self.block_after_tail(scan.finished);
            self.report(FindingKind::JournalUnfinished { blocks }, block, 0);
        }
    }

    /// Reports impossible records, as far as each shows by itself. Returns whether there are any.
    fn check_records(&mut self, scan: &ScanResult) -> bool {
        let (g, nonce) = (self.geometry(), self.sb.nonce);
        let mut bad = false;
        for n in 0..scan.finished {
            let block = self.block_after_tail(n);
            if self.disk.read(block, 1).is_err() {
                continue;
            }
            let bytes = &self.disk.block()[..];
            let head = ring::open(bytes, nonce);
            if let Some(word) = head.and_then(|h| find_bad_word(bytes, &h, g)) {
                self.report(FindingKind::JournalRecord, block, ring::byte_of(word));
                bad = true;
            }
        }
        bad
    }
}

fn find_bad_word(bytes: &[u8], head: &RingHead, g: &Geometry) -> Option<u32> {
    let mut leaf_slab = head.origin;
    let mut at = 0;
    while at < u32::from(head.count) {
        let bits = ring::word(bytes, u32_as_usize(at))?;
        let past_union =
            |slab: u32, n: u32| slab.checked_add(n).is_none_or(|end| end > g.root_slabs());
        let mut skip = 0;
        let bad = match Record::decode(bits, g.slab_sectors()) {
            None => true,
            Some(Record::Origin(l)) => {
                leaf_slab = l;
                false
            }
            Some(Record::New { slab, step, .. }) => {
                leaf_slab = leaf_slab.wrapping_add(step);
                past_union(slab, 1) || !g.has_leaf_slab(leaf_slab)
            }
            Some(Record::More { slab, .. }) => past_union(slab, 1),
            Some(Record::Words { slab, words }) => {
                skip = words;
                past_union(slab, 1) || at.wrapping_add(words) >= u32::from(head.count)
            }
            Some(Record::Zero { slab, count } | Record::Reset { slab, count }) => {
                past_union(slab, count)
            }
        };
        if bad {
            return Some(at);
        }
        // A block has 508 words, and a record 128 at most.
        at = at.wrapping_add(skip).wrapping_add(1);
    }
    None
}
