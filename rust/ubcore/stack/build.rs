// SPDX-License-Identifier: GPL-2.0

//! Builds a stack map, layer by layer from the bottom up.
//!
//! The cost of a layer is proportional to what it maps: an entry for each stack slab that it
//! covers, and for a slab that it covers in part also the slab's old mixed record, at most 128
//! runs. Mixed records do not change. If a slab gets a new mixed record, its old one becomes
//! garbage. Compaction copies all live mixed records when the garbage is larger than the words that
//! a copy reads. So its amortised cost is at most that of writing the mixed records that are
//! garbage now.
//!
//! The builder checks the extents of a layer, because a layer may come from anywhere.

use core::fmt;
use core::ops::Range;

use super::super::error::{Broken, Error};
use super::super::num::{align_up, next, saturating_u32};
use super::chain::LAYERS_MAX;
use super::extent::{Content, Extent, Extents};
use super::map::{first_range, index_of, offset_in_slab, word_of, PAGE};
use super::map::{StackMap, StackMemory, StackPages, PAGE_WORDS};
use super::source::{StackLookup, StackSource, SOURCES_MAX};
use super::word::{MixedRecord, Word, POSITION_END, SLAB_SECTORS};

/// Why a stack map cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The stack has this many sectors, which is more than a stack map has numbers for.
    StackSize(u64),
    /// There are more than [`SOURCES_MAX`] layers.
    Layers,
    /// An extent has no sectors.
    Empty(Extent),
    /// An extent starts before the end of the one before it.
    Order(Extent),
    /// An extent ends past the end of the stack.
    PastEnd(Extent),
    /// An extent's data ends at a sector that a stack map has no number for.
    Position(Extent),
    /// The extents cannot be read, memory ran out, or the caller ended the work.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Refusal::Failed(e)
    }
}

impl From<Broken> for Refusal {
    fn from(e: Broken) -> Self {
        Refusal::Failed(e.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (extent, what) = match self {
            Refusal::StackSize(n) => {
                return write!(
                    f,
                    "a stack of {n} sectors is too large: give smaller layers"
                )
            }
            Refusal::Layers => {
                return write!(
                    f,
                    "more than {LAYERS_MAX} layers below a leaf: squash some of them into one"
                )
            }
            Refusal::Failed(e) => return e.fmt(f),
            Refusal::Empty(e) => (e, "has no sectors"),
            Refusal::Order(e) => (e, "starts before the end of the extent before it"),
            Refusal::PastEnd(e) => (e, "ends past the end of the stack"),
            Refusal::Position(e) => (e, "has its data past the last sector of a layer"),
        };
        let Extent { first, sectors, .. } = extent;
        write!(
            f,
            "the extent of {sectors} sectors at sector {first} {what}"
        )
    }
}

/// The builder's result.
pub type Built<T = ()> = core::result::Result<T, Refusal>;

/// A mixed slab under construction. Its new mixed record comes after all others, and grows.
struct OpenSlab {
    /// The first sector of the slab.
    start: u64,
    /// The sector of the slab before which the new mixed record is complete.
    done: u32,
    /// The new mixed record.
    record: MixedRecord,
    /// Its last run, once there is one.
    last: Word,
}

impl OpenSlab {
    /// Returns a slab whose new mixed record begins at word `at` of the mixed records.
    fn new(start: u64, at: u64) -> Self {
        OpenSlab {
            start,
            done: 0,
            record: MixedRecord { at, runs: 0 },
            last: Word(0),
        }
    }
}

/// Builds a [`StackMap`]. A builder that has failed is gone, with the memory that it had.
pub struct Builder<M> {
    memory: M,
    sectors: u64,
    layers: u8,
    /// The number of pages that the table has.
    tables: u64,
    /// The page of the table that changed last.
    page: u32,
    /// The words of mixed records: in use and garbage.
    end: u64,
    /// The words of mixed records in use.
    live: u64,
}

impl<M: StackMemory> Builder<M> {
    /// Returns a builder for a stack of so many sectors, which are those of its largest layer.
    /// `memory` has no pages.
    pub fn new(memory: M, sectors: u64) -> Built<Self> {
        if sectors > POSITION_END {
            return Err(Refusal::StackSize(sectors));
        }
        Ok(Builder {
            memory,
            sectors,
            layers: 0,
            tables: 0,
            page: u32::MAX,
            end: 0,
            live: 0,
        })
    }

    /// Returns a builder that continues where `old`, which stays as it is, has ended. The new stack
    /// has at least `sectors`. Process context.
    pub fn over<O: StackMemory>(old: &StackMap<O>, memory: M, sectors: u64) -> Built<Self> {
        let mut new = Self::new(memory, sectors.max(old.sectors()))?;
        new.layers = old.layers();
        new.end = old.mixed_words();
        let pages = new.end.div_ceil(PAGE);
        for n in 0..saturating_u32(pages) {
            new.copy_page(old, StackPages::MixedRecords, n)?;
        }
        for n in 0..new.table_pages() {
            let Some(page) = old.memory().page(StackPages::Table, n) else {
                continue;
            };
            new.copy_page(old, StackPages::Table, n)?;
            new.tables = new.tables.wrapping_add(1);
            for record in page.iter().filter_map(|entry| entry.mixed_record()) {
                new.live = new.live.wrapping_add(u64::from(record.runs));
            }
        }
        Ok(new)
    }

    fn copy_page<O: StackMemory>(&mut self, old: &StackMap<O>, pages: StackPages, n: u32) -> Built {
        self.memory.give_way()?;
        self.memory.grow(pages, n)?;
        let from = old.memory().page(pages, n).ok_or(Broken)?;
        let to = self.memory.page_mut(pages, n).ok_or(Broken)?;
        to.copy_from_slice(from);
        Ok(())
    }

    /// Puts a layer over the layers added before. Process context.
    pub fn add_layer(mut self, extents: &mut impl Extents) -> Built<Self> {
        if self.layers == SOURCES_MAX {
            return Err(Refusal::Layers);
        }
        self.lay(self.layers, 0..self.sectors, extents)?;
        // At most 254.
        self.layers = self.layers.wrapping_add(1);
        Ok(self)
    }

    /// Replaces in a range what the highest layer maps: each slab of the range reads as `below`,
    /// and as the extents over it. Process context.
    ///
    /// The range begins at the start of a slab, and ends at the end of one or at the end of the
    /// stack. `below` has all layers except the highest. The cost is proportional to the runs in
    /// the range, plus an amortised share of compaction.
    pub fn replace_top(
        mut self,
        below: &impl StackLookup,
        range: Range<u64>,
        extents: &mut impl Extents,
    ) -> Built<Self> {
        let top = self.layers.checked_sub(1).ok_or(Broken)?;
        let end = range.end.min(self.sectors);
        let mut start = range.start;
        while start < end {
            self.take_from(below, start)?;
            start = start.wrapping_add(u64::from(SLAB_SECTORS));
        }
        self.lay(top, range.start..end, extents)?;
        Ok(self)
    }

    /// Frees what no slab uses any more. Process context.
    pub fn trim(mut self) -> Built<Self> {
        if self.end > self.live {
            self.compact()?;
        }
        Ok(self)
    }

    /// Returns the map. It has no garbage.
    pub fn finish(self) -> Built<StackMap<M>> {
        Ok(self.trim()?.finish_at_once())
    }

    /// Returns the map at once, with the garbage that there is. It has none after
    /// [`Builder::trim`].
    pub fn finish_at_once(self) -> StackMap<M> {
        let Builder {
            memory,
            sectors,
            layers,
            end,
            ..
        } = self;
        StackMap::new(memory, sectors, layers, end)
    }

    /// Lays the extents of a layer over what a range has.
    fn lay(&mut self, layer: u8, range: Range<u64>, extents: &mut impl Extents) -> Built {
        let mut open = None;
        let mut from = range.start;
        while let Some(extent) = extents.next()? {
            from = Self::check(&extent, from..range.end)?;
            self.put(&mut open, layer, &extent)?;
        }
        match open {
            Some(slab) => self.close(slab),
            None => Ok(()),
        }
    }

    /// Makes the slab that starts at a sector read as `below`. No slab is under construction.
    fn take_from(&mut self, below: &impl StackLookup, start: u64) -> Built {
        let first = below.look_up(start, SLAB_SECTORS)?;
        if first.sectors == SLAB_SECTORS {
            return self.set_entry(start, Word::run(0, first.source));
        }
        let mut slab = OpenSlab::new(start, self.end);
        while slab.done < SLAB_SECTORS {
            let done = slab.done;
            let at = start.wrapping_add(u64::from(done));
            let found = below.look_up(at, SLAB_SECTORS.wrapping_sub(done))?;
            self.push(&mut slab, done, found.source)?;
            slab.done = done.wrapping_add(found.sectors);
        }
        self.close(slab)
    }

    /// Checks an extent that may lie in `within`. Returns its end.
    fn check(extent: &Extent, within: Range<u64>) -> Built<u64> {
        if extent.sectors == 0 {
            return Err(Refusal::Empty(*extent));
        }
        if extent.first < within.start {
            return Err(Refusal::Order(*extent));
        }
        if let Content::Data(at) = extent.content {
            let end = at.checked_add(extent.sectors);
            if end.is_none_or(|end| end > POSITION_END) {
                return Err(Refusal::Position(*extent));
            }
        }
        let end = extent.first.checked_add(extent.sectors);
        end.filter(|&end| end <= within.end)
            .ok_or(Refusal::PastEnd(*extent))
    }

    /// Lays an extent of a layer over what is there, slab by slab. `open` is the slab that the
    /// layer covers in part so far.
    fn put(&mut self, open: &mut Option<OpenSlab>, layer: u8, extent: &Extent) -> Built {
        // Sums of sectors and positions stay below 2^49, see `check`.
        let end = extent.first.wrapping_add(extent.sectors);
        let mut at = extent.first;
        while at < end {
            let offset = offset_in_slab(at);
            let start = at.wrapping_sub(u64::from(offset));
            let to = saturating_u32(end.wrapping_sub(start)).min(SLAB_SECTORS);
            let source = match extent.content {
                Content::Zero => StackSource::Zero,
                Content::Data(d) => {
                    let gone = at.wrapping_sub(extent.first);
                    StackSource::Layer(layer, d.wrapping_add(gone))
                }
            };
            at = start.wrapping_add(u64::from(to));
            let slab = open.take();
            let slab = match slab {
                Some(other) if other.start != start => {
                    self.close(other)?;
                    None
                }
                same => same,
            };
            if offset == 0 && to == SLAB_SECTORS {
                self.set_entry(start, Word::run(0, source))?;
                continue;
            }
            let mut slab = slab.unwrap_or(OpenSlab::new(start, self.end));
            self.copy_old(&mut slab, offset)?;
            self.push(&mut slab, offset, source)?;
            slab.done = to;
            *open = Some(slab);
        }
        Ok(())
    }

    /// Copies to the new mixed record of a slab what the slab had up to a sector.
    fn copy_old(&mut self, slab: &mut OpenSlab, to: u32) -> Built {
        while slab.done < to {
            let done = slab.done;
            let at = slab.start.wrapping_add(u64::from(done));
            let old = first_range(&self.memory, at, to.wrapping_sub(done))?;
            self.push(slab, done, old.source)?;
            slab.done = done.wrapping_add(old.sectors);
        }
        Ok(())
    }

    /// Adds a run to the new mixed record of a slab, unless it continues the last one.
    fn push(&mut self, slab: &mut OpenSlab, first: u32, source: StackSource) -> Built {
        let gone = first.wrapping_sub(slab.last.first());
        if slab.record.runs > 0 && slab.last.source()?.skip(gone) == source {
            return Ok(());
        }
        let mut at = slab.record.at.wrapping_add(u64::from(slab.record.runs));
        if word_of(at).1 == 0 {
            // The page is full, and a mixed record lies in one page.
            let from = core::mem::replace(&mut slab.record.at, at);
            self.memory.grow(StackPages::MixedRecords, word_of(at).0)?;
            for n in 0..u64::from(slab.record.runs) {
                let word = self.word(from.wrapping_add(n))?;
                self.set_word(StackPages::MixedRecords, at, word)?;
                at = at.wrapping_add(1);
            }
        }
        slab.last = Word::run(first, source);
        slab.record.runs = next(slab.record.runs);
        self.set_word(StackPages::MixedRecords, at, slab.last)
    }

    /// Ends the construction of a slab, and puts it into the table.
    fn close(&mut self, mut slab: OpenSlab) -> Built {
        self.copy_old(&mut slab, SLAB_SECTORS)?;
        let MixedRecord { at, runs } = slab.record;
        if runs == 1 {
            // It starts at sector 0, and its word in the mixed records is overwritten by the next
            // one.
            return self.set_entry(slab.start, slab.last);
        }
        let words = u64::from(runs);
        self.end = at.wrapping_add(words);
        self.live = self.live.wrapping_add(words);
        self.set_entry(slab.start, Word::mixed(slab.record))
    }

    /// Replaces the entry of the slab that starts at a sector. No slab is under construction.
    fn set_entry(&mut self, start: u64, entry: Word) -> Built {
        let (page, index) = index_of(start);
        if self.page != page {
            self.memory.give_way()?;
            self.page = page;
        }
        if self.memory.page(StackPages::Table, page).is_none() {
            if entry == Word(0) {
                // A page that does not exist stands for such entries.
                return Ok(());
            }
            self.memory.grow(StackPages::Table, page)?;
            self.tables = self.tables.wrapping_add(1);
        }
        let table = self.memory.page_mut(StackPages::Table, page);
        let word = table.and_then(|p| p.get_mut(index)).ok_or(Broken)?;
        let old = core::mem::replace(word, entry);
        if let Some(record) = old.mixed_record() {
            self.live = self.live.wrapping_sub(u64::from(record.runs));
        }
        if self.end.wrapping_sub(self.live) > self.cost_of_copy() {
            self.compact()?;
        }
        Ok(())
    }

    /// Returns about how many words a copy of all live mixed records looks at.
    fn cost_of_copy(&self) -> u64 {
        let table = self.tables.wrapping_mul(PAGE);
        let pages = u64::from(self.table_pages());
        self.live.wrapping_add(table).wrapping_add(pages)
    }

    /// Returns the number of pages that the table has if all of the stack is mapped.
    fn table_pages(&self) -> u32 {
        match self.sectors.checked_sub(1) {
            Some(last) => next(index_of(last).0),
            None => 0,
        }
    }

    /// Copies all live mixed records, in the order of their slabs, and frees the old ones.
    fn compact(&mut self) -> Built {
        let mut end = 0;
        for page in 0..self.table_pages() {
            if self.memory.page(StackPages::Table, page).is_none() {
                continue;
            }
            self.memory.give_way()?;
            for index in 0..PAGE_WORDS {
                let table = self.memory.page(StackPages::Table, page);
                let entry = table.and_then(|p| p.get(index)).ok_or(Broken)?;
                let Some(old) = entry.mixed_record() else {
                    continue;
                };
                let new = self.copy(old, end)?;
                end = new.at.wrapping_add(u64::from(new.runs));
                let table = self.memory.page_mut(StackPages::Table, page);
                *table.and_then(|p| p.get_mut(index)).ok_or(Broken)? = Word::mixed(new);
            }
        }
        self.memory.keep_copies();
        self.end = end;
        Ok(())
    }

    /// Copies a mixed record to the first place from `end` on that has room for it in one page.
    fn copy(&mut self, old: MixedRecord, end: u64) -> Built<MixedRecord> {
        let rest = PAGE.wrapping_sub(end % PAGE);
        let at = if u64::from(old.runs) > rest {
            align_up(end, PAGE).ok_or(Broken)?
        } else {
            end
        };
        self.memory.grow(StackPages::Copies, word_of(at).0)?;
        for n in 0..u64::from(old.runs) {
            let word = self.word(old.at.wrapping_add(n))?;
            self.set_word(StackPages::Copies, at.wrapping_add(n), word)?;
        }
        Ok(MixedRecord { at, ..old })
    }

    /// Returns a word of the mixed records.
    fn word(&self, at: u64) -> Built<Word> {
        let (page, n) = word_of(at);
        let page = self.memory.page(StackPages::MixedRecords, page);
        Ok(*page.and_then(|p| p.get(n)).ok_or(Broken)?)
    }

    fn set_word(&mut self, pages: StackPages, at: u64, word: Word) -> Built {
        let (page, n) = word_of(at);
        let page = self.memory.page_mut(pages, page);
        *page.and_then(|p| p.get_mut(n)).ok_or(Broken)? = word;
        Ok(())
    }
}
