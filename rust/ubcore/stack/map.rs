// SPDX-License-Identifier: GPL-2.0

//! The stack map: where each sector of a stack lies, merged over all layers.
//!
//! A table has one [`Word`] for each stack slab of 64 KiB. If the slab has one source, the word is
//! all there is. If the slab is *mixed*, the word names a *mixed record*: the slab's runs in their
//! order, the first of which starts at sector 0. Table and mixed records lie in pages that exist
//! where something is mapped.
//!
//! A map does not change once it is built, so look-ups need no lock and no atomics. A look-up is
//! one load, and for a mixed slab a binary search of its record, whatever the number of layers.

use super::super::error::{Broken, Checked, Result};
use super::super::num::{saturating_u32, u32_as_usize, u64_as_usize, usize_as_u64};
use super::source::{StackLookup, StackRange, StackSource};
use super::word::{MixedRecord, Word, SLAB_SECTORS};

/// The size of the largest stack of layers, in sectors: 64 TiB. A layer states the size of its
/// union. This limit bounds the memory that a crafted layer makes its user allocate: 8 bytes for
/// each 32 MiB.
pub const STACK_SECTORS_MAX: u64 = 1 << 37;
/// The words of a page.
pub const PAGE_WORDS: usize = 512;
/// A page of a stack map: 4096 bytes.
pub type StackPage = [Word; PAGE_WORDS];

/// The words of a page, as a divisor of positions.
pub(super) const PAGE: u64 = usize_as_u64(PAGE_WORDS);
/// The sectors of a slab, as a divisor of positions.
const SLAB: u64 = SLAB_SECTORS as u64;
/// The sectors that a page of the table describes.
const PAGE_SECTORS: u64 = PAGE.wrapping_mul(SLAB);

/// What the pages of a stack map hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackPages {
    /// The entries of the slabs.
    Table,
    /// The mixed records of the slabs, one after the other. A mixed record lies in one page.
    MixedRecords,
    /// The mixed records that the builder copies, to get rid of the others.
    Copies,
}

/// The memory of a stack map.
pub trait StackMemory {
    /// Returns page `n` of a kind, if it exists.
    fn page(&self, pages: StackPages, n: u32) -> Option<&StackPage>;
    /// Returns page `n` of a kind, if it exists, for the builder to change.
    fn page_mut(&mut self, pages: StackPages, n: u32) -> Option<&mut StackPage>;
    /// Makes a page of zeroes, if it does not exist. Fails with `NoMemory`. Process context.
    fn grow(&mut self, pages: StackPages, n: u32) -> Result;
    /// Frees the pages of [`StackPages::MixedRecords`], and makes those of [`StackPages::Copies`]
    /// take their place.
    fn keep_copies(&mut self);

    /// Gives way to other tasks, as [`Disk::give_way`](super::super::disk::Disk::give_way) does.
    /// The builder calls it between steps that a page of the table bounds.
    fn give_way(&mut self) -> Result {
        Ok(())
    }
}

/// Returns the page of the table that has the entry of a sector's slab, and its index there.
#[inline]
pub(super) fn index_of(sector: u64) -> (u32, usize) {
    // Past the last number there is no page.
    let page = saturating_u32(sector / PAGE_SECTORS);
    let slab = sector / SLAB;
    (page, u64_as_usize(slab % PAGE))
}

/// Returns the position of a sector in its slab.
#[inline]
pub(super) fn offset_in_slab(sector: u64) -> u32 {
    saturating_u32(sector % SLAB)
}

/// Returns the page of the mixed records that has a word, and the word's index there.
#[inline]
pub(super) fn word_of(at: u64) -> (u32, usize) {
    (saturating_u32(at / PAGE), u64_as_usize(at % PAGE))
}

/// Returns the first part of a range that has one source.
#[inline]
pub(super) fn first_range<M: StackMemory>(
    memory: &M,
    sector: u64,
    sectors: u32,
) -> Checked<StackRange> {
    let (page, index) = index_of(sector);
    let Some(page) = memory.page(StackPages::Table, page) else {
        let left = PAGE_SECTORS.wrapping_sub(sector % PAGE_SECTORS);
        return Ok(StackRange {
            source: StackSource::Bottom,
            sectors: sectors.min(saturating_u32(left)),
        });
    };
    let entry = *page.get(index).ok_or(Broken)?;
    let offset = offset_in_slab(sector);
    let found = match entry.mixed_record() {
        Some(record) => in_mixed_record(memory, record, offset)?,
        None => StackRange {
            source: entry.source()?.skip(offset),
            sectors: SLAB_SECTORS.wrapping_sub(offset),
        },
    };
    Ok(StackRange {
        sectors: found.sectors.min(sectors),
        ..found
    })
}

/// Returns the range from a sector of a mixed slab to the end of its run.
#[inline(never)]
fn in_mixed_record<M: StackMemory>(
    memory: &M,
    record: MixedRecord,
    offset: u32,
) -> Checked<StackRange> {
    let (page, from) = word_of(record.at);
    // If the sum is past the page, there is no such slice.
    let to = from.wrapping_add(u32_as_usize(record.runs));
    let page = memory.page(StackPages::MixedRecords, page).ok_or(Broken)?;
    let (first, rest) = page
        .get(from..to)
        .and_then(<[Word]>::split_first)
        .ok_or(Broken)?;
    // At most 127 runs, so at most 7 steps. The first run starts at or before any sector.
    let (before, behind) = rest.split_at(rest.partition_point(|run| run.first() <= offset));
    let run = before.last().unwrap_or(first);
    let end = behind.first().map_or(SLAB_SECTORS, |run| run.first());
    Ok(StackRange {
        source: run.source()?.skip(offset.wrapping_sub(run.first())),
        sectors: end.wrapping_sub(offset),
    })
}

/// The stack map of a stack.
pub struct StackMap<M> {
    memory: M,
    sectors: u64,
    layers: u8,
    mixed_words: u64,
}

impl<M: StackMemory> StackMap<M> {
    /// Returns a map. The builder has filled the memory as this file describes it.
    pub(super) fn new(memory: M, sectors: u64, layers: u8, mixed_words: u64) -> Self {
        StackMap {
            memory,
            sectors,
            layers,
            mixed_words,
        }
    }

    /// Returns the memory that the map lies in.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the size of the stack, in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Returns the number of layers.
    pub fn layers(&self) -> u8 {
        self.layers
    }

    /// Returns the number of words that mixed records take, with the rests of pages that no mixed
    /// record fits.
    pub fn mixed_words(&self) -> u64 {
        self.mixed_words
    }
}

impl<M: StackMemory> StackLookup for StackMap<M> {
    #[inline]
    fn look_up(&self, sector: u64, sectors: u32) -> Checked<StackRange> {
        first_range(&self.memory, sector, sectors)
    }
}
