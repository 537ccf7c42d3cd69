// SPDX-License-Identifier: GPL-2.0

//! Applies finished transactions to a map.

use core::ops::DerefMut;

use super::super::disk::Disk;
use super::super::error::{Area, Error, Result};
use super::super::format::directory::{self, PageEntry};
use super::super::format::record::Record;
use super::super::format::ring;
use super::super::format::superblock::Superblock;
use super::super::geometry::{LeafSlab, MapPage};
use super::super::map::{Base, Emptied, Entry, Map, Memory};
use super::super::pages::{self, bits_page_of, table_page_of, PageSet};
use super::super::replay_limit;
use super::ring::after;
use super::scan::{read_head, ScanResult};

/// Applies the finished transactions to the map, and notes which pages they change. Reads only.
///
/// If a page of the table is `lost`, it applies what can be applied without that page. Fails with
/// damage if more pages are filled than [`replay_limit::filled_max`] allows.
pub fn replay<D, M, B, L>(
    disk: &mut D,
    (sb, entries): (&Superblock, &[PageEntry]),
    found: &ScanResult,
    map: &Map<M>,
    pages: &mut PageSet<B>,
    lost: L,
) -> Result
where
    D: Disk,
    M: Memory,
    B: DerefMut<Target = [u64]>,
    L: Fn(MapPage) -> bool,
{
    let mut room = replay_limit::filled_max(&sb.geometry);
    for n in 0..found.finished {
        let at = after(sb.journal_tail, n, sb.geometry.journal_blocks());
        let block = sb.geometry.journal_block(at);
        let bad = Error::Damaged(Area::Journal, block);
        let head = read_head(disk, sb, at)?.ok_or(bad)?;
        let mut replay = BlockReplay {
            map,
            pages: &mut *pages,
            entries,
            room: &mut room,
            lost: &lost,
            leaf_slab: head.origin,
            bad,
        };
        replay.block(disk.block(), usize::from(head.count))?;
    }
    Ok(())
}

/// The replay of one block of the ring.
struct BlockReplay<'a, M, B, L> {
    map: &'a Map<M>,
    pages: &'a mut PageSet<B>,
    entries: &'a [PageEntry],
    /// The number of empty pages that may still be filled.
    room: &'a mut u32,
    lost: &'a L,
    leaf_slab: LeafSlab,
    bad: Error,
}

impl<M: Memory, B: DerefMut<Target = [u64]>, L: Fn(MapPage) -> bool> BlockReplay<'_, M, B, L> {
    fn block(&mut self, block: &[u8], count: usize) -> Result {
        let mut at = 0;
        while at < count {
            let bits = ring::word(block, at).ok_or(self.bad)?;
            let sectors = self.map.geometry().slab_sectors();
            let record = Record::decode(bits, sectors).ok_or(self.bad)?;
            // A word of the block was there, here and below.
            at = at.wrapping_add(1);
            if let Record::Words { slab, words } = record {
                let leaf_slab = self.leaf_slab(slab)?;
                if let Some(leaf_slab) = leaf_slab {
                    self.change(bits_page_of(self.map, leaf_slab))?;
                }
                for w in 0..words {
                    let bits = ring::word(block, at)
                        .filter(|_| at < count)
                        .ok_or(self.bad)?;
                    at = at.wrapping_add(1);
                    if let Some(leaf_slab) = leaf_slab {
                        self.map.add_word(leaf_slab, w, bits)?;
                    }
                }
            } else {
                self.record(record)?;
            }
        }
        Ok(())
    }

    /// Returns the leaf slab of a root slab that has one, or `None` if its entry is lost.
    fn leaf_slab(&self, slab: u32) -> Result<Option<LeafSlab>> {
        let g = self.map.geometry();
        let leaf_slab = self
            .map
            .entry(slab)
            .leaf_slab
            .filter(|&l| g.has_leaf_slab(l));
        let lost = (self.lost)(table_page_of(slab));
        if slab < g.root_slabs() && (leaf_slab.is_some() || lost) {
            Ok(leaf_slab)
        } else {
            Err(self.bad)
        }
    }

    fn record(&mut self, record: Record) -> Result {
        let g = self.map.geometry();
        match record {
            Record::Origin(leaf_slab) => self.leaf_slab = leaf_slab,
            Record::New { slab, step, run } => {
                let leaf_slab = self.leaf_slab.wrapping_add(step);
                self.leaf_slab = leaf_slab;
                if slab >= g.root_slabs() || !g.has_leaf_slab(leaf_slab) {
                    return Err(self.bad);
                }
                self.change(table_page_of(slab))?;
                self.change(bits_page_of(self.map, leaf_slab))?;
                let entry = self.map.entry(slab);
                if entry.leaf_slab != Some(leaf_slab) {
                    self.forget(leaf_slab)?;
                    self.map
                        .set_entry(slab, Entry::allocated(leaf_slab, entry.base))?;
                }
                self.map.set_bits(leaf_slab, run.first, run.count)?;
            }
            Record::More { slab, run } => {
                if let Some(leaf_slab) = self.leaf_slab(slab)? {
                    self.change(bits_page_of(self.map, leaf_slab))?;
                    self.map.set_bits(leaf_slab, run.first, run.count)?;
                }
            }
            Record::Words { .. } => return Err(self.bad),
            Record::Zero { slab, count } => self.empty(slab, count, Base::Zero)?,
            Record::Reset { slab, count } => self.empty(slab, count, Base::Below)?,
        }
        Ok(())
    }

    fn empty(&mut self, first: u32, count: u32, base: Base) -> Result {
        let g = self.map.geometry();
        let end = first.checked_add(count).filter(|&e| e <= g.root_slabs());
        let slabs = first..end.ok_or(self.bad)?;
        // All slabs of the record are in one page.
        self.change(table_page_of(first))?;
        for slab in slabs {
            if let Some(leaf_slab) = self.map.entry(slab).leaf_slab {
                if !g.has_leaf_slab(leaf_slab) {
                    return Err(self.bad);
                }
                self.forget(leaf_slab)?;
            }
            self.map
                .set_entry(slab, Entry::unallocated(base, Emptied::No))?;
        }
        Ok(())
    }

    /// Clears the bits of a leaf slab, if it has any.
    fn forget(&mut self, leaf_slab: LeafSlab) -> Result {
        if !pages::has_bits(self.map, leaf_slab) || !self.map.is_mapped(leaf_slab)? {
            return Ok(());
        }
        self.change(bits_page_of(self.map, leaf_slab))?;
        self.map.clear_slab(leaf_slab)
    }

    /// Notes that a page of the map is about to change.
    fn change(&mut self, page: MapPage) -> Result {
        let empty = pages::is_empty(&directory::entry(self.entries, page)?);
        if self.pages.insert(page)? && empty && !(self.lost)(page) {
            *self.room = self.room.checked_sub(1).ok_or(self.bad)?;
        }
        Ok(())
    }
}
