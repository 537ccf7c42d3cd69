// SPDX-License-Identifier: GPL-2.0

//! Writes transactions into the ring.

use super::super::disk::{Disk, Order, BUFFER_BLOCKS};
use super::super::error::{Error, Result};
use super::super::format::record::{Record, SlabRun, STEP_MAX};
use super::super::format::ring::{self, RingHead, BEFORE_MAX, RING_WORDS};
use super::super::format::superblock::Superblock;
use super::super::geometry::{Geometry, LeafSlab};
use super::super::map::{Base, Emptied, Map, MappedRun, Memory};
use super::super::num::{next, u32_as_usize};
use super::ring::{after, Ring};

const _: () = assert!(BUFFER_BLOCKS <= BEFORE_MAX as usize + 1);

/// Whether a transaction can continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// There was space, and the words are in the transaction.
    Left,
    /// The ring is full, or replay would fill too many pages. The transaction is void, and a
    /// checkpoint must take its place.
    Full,
}

/// A transaction under construction, in the disk's buffer.
pub struct Transaction<'a, D> {
    ring: &'a mut Ring,
    disk: &'a mut D,
    geometry: &'a Geometry,
    nonce: u64,
    /// Finished blocks in the buffer, before the one under construction.
    finished_blocks: u16,
    /// Words in the block under construction.
    words: u16,
    origin: LeafSlab,
    leaf_slab: LeafSlab,
    has_origin: bool,
    written: u32,
    empties: bool,
}

impl<'a, D: Disk> Transaction<'a, D> {
    /// Returns an empty transaction.
    pub fn new(ring: &'a mut Ring, disk: &'a mut D, sb: &'a Superblock) -> Self {
        Transaction {
            ring,
            disk,
            geometry: &sb.geometry,
            nonce: sb.nonce,
            finished_blocks: 0,
            words: 0,
            origin: LeafSlab(0),
            leaf_slab: LeafSlab(0),
            has_origin: false,
            written: 0,
            empties: false,
        }
    }

    /// Returns whether the transaction records that a slab was emptied.
    pub fn empties(&self) -> bool {
        self.empties
    }

    /// Emits all that is mapped of a leaf slab. The first record is `New` if `fresh`, else `More`.
    ///
    /// If a slab has many runs, all of its bits follow as words after the first runs, so that no
    /// slab costs more than twice its bits and three words.
    pub fn slab<M: Memory>(
        &mut self,
        map: &Map<M>,
        leaf_slab: LeafSlab,
        fresh: bool,
    ) -> Result<Space> {
        let Some(slab) = map.owner(leaf_slab) else {
            return Ok(Space::Left);
        };
        let sectors = self.geometry.slab_sectors();
        let mut opening = fresh;
        let mut runs = 0;
        let mut at = 0;
        while at < sectors {
            let MappedRun {
                mapped,
                sectors: count,
            } = map.mapped_run(leaf_slab, at, sectors.wrapping_sub(at))?;
            if mapped {
                if runs > sectors / 64 {
                    return self.words(map, slab, leaf_slab);
                }
                let run = SlabRun { first: at, count };
                if self.run(slab, leaf_slab, run, opening)? == Space::Full {
                    return Ok(Space::Full);
                }
                opening = false;
                runs = runs.wrapping_add(1);
            }
            if count == 0 {
                return Err(Error::Internal);
            }
            // Both are within a slab.
            at = at.wrapping_add(count);
        }
        Ok(Space::Left)
    }

    /// Emits all emptied slabs of a table page that no commit has covered. They count as covered
    /// from now on, because this transaction, or the checkpoint that replaces it, records them.
    pub fn emptied<M: Memory>(&mut self, map: &Map<M>, page: u32) -> Result<Space> {
        let mut held: Option<(u32, u32, Base)> = None;
        let mut space = Ok(Space::Left);
        map.advance_emptied(page, Emptied::Pending, Emptied::Durable, |slab, base| {
            held = match held {
                Some((first, count, b)) if b == base && first.wrapping_add(count) == slab => {
                    Some((first, next(count), b))
                }
                before => {
                    if let (Some(run), Ok(Space::Left)) = (before, space) {
                        space = self.put_emptied(run);
                    }
                    Some((slab, 1, base))
                }
            };
        });
        match (held, space) {
            (Some(run), Ok(Space::Left)) => self.put_emptied(run),
            _ => space,
        }
    }

    fn put_emptied(&mut self, (slab, count, base): (u32, u32, Base)) -> Result<Space> {
        self.empties = true;
        self.put(&[match base {
            Base::Zero => Record::Zero { slab, count },
            Base::Below => Record::Reset { slab, count },
        }])
    }

    fn run(
        &mut self,
        slab: u32,
        leaf_slab: LeafSlab,
        run: SlabRun,
        opening: bool,
    ) -> Result<Space> {
        if !opening {
            return self.put(&[Record::More { slab, run }]);
        }
        // The block is chosen first, because a new block has a new origin.
        if self.room(2)? == Space::Full {
            return Ok(Space::Full);
        }
        if !self.has_origin {
            self.origin = leaf_slab.wrapping_sub(1);
            self.leaf_slab = self.origin;
            self.has_origin = true;
        }
        let step = leaf_slab.steps_from(self.leaf_slab);
        let needs_origin = !(1..=STEP_MAX).contains(&step);
        self.leaf_slab = leaf_slab;
        if needs_origin {
            let step = 1;
            let before = Record::Origin(leaf_slab.wrapping_sub(1));
            return self.put(&[before, Record::New { slab, step, run }]);
        }
        self.put(&[Record::New { slab, step, run }])
    }

    fn words<M: Memory>(&mut self, map: &Map<M>, slab: u32, leaf_slab: LeafSlab) -> Result<Space> {
        let words = self.geometry.slab_sectors().div_ceil(64);
        let head = Record::Words { slab, words };
        // At most 128 words.
        if self.room(u32_as_usize(words).wrapping_add(1))? == Space::Full {
            return Ok(Space::Full);
        }
        self.push(head.encode())?;
        for w in 0..words {
            self.push(map.word(leaf_slab, w)?)?;
        }
        Ok(Space::Left)
    }

    /// Appends records, which must be in one block.
    pub fn put(&mut self, records: &[Record]) -> Result<Space> {
        if self.room(records.len())? == Space::Full {
            return Ok(Space::Full);
        }
        for r in records {
            self.push(r.encode())?;
        }
        Ok(Space::Left)
    }

    /// Appends a word, for which there is room.
    fn push(&mut self, word: u64) -> Result {
        let block = self.disk.nth_block(usize::from(self.finished_blocks))?;
        ring::put_word(block, usize::from(self.words), word)?;
        self.words = self.words.checked_add(1).ok_or(Error::Internal)?;
        Ok(())
    }

    /// Makes room for `n` words (at most 129) in one block.
    fn room(&mut self, n: usize) -> Result<Space> {
        // At most twice the words of a block.
        if usize::from(self.words).wrapping_add(n) > RING_WORDS {
            self.finish_block(false)?;
        }
        if self.words == 0 {
            // A new block needs a free block of the ring and room in the buffer. A write must not
            // cross the ring's end.
            let held = u32::from(self.finished_blocks);
            if self.ring.free_blocks()? <= held {
                return Ok(Space::Full);
            }
            let at_end = after(self.ring.head, held, self.ring.blocks) == 0 && held > 0;
            if usize::from(self.finished_blocks) >= BUFFER_BLOCKS || at_end {
                self.write(Order::Plain)?;
            }
            self.blank()?;
        }
        Ok(Space::Left)
    }

    /// Zeroes the next block of the buffer. In the first block, which most commits use alone, it
    /// zeroes only what the last transaction left.
    fn blank(&mut self) -> Result {
        let block = self.disk.nth_block(usize::from(self.finished_blocks))?;
        match self.ring.in_buffer {
            Some(words) if self.finished_blocks == 0 => ring::zero_words(block, usize::from(words)),
            _ => {
                block.fill(0);
                Ok(())
            }
        }
    }

    fn finish_block(&mut self, last: bool) -> Result {
        let before = self.finished_blocks;
        let head = RingHead {
            sequence: self.ring.sequence_after(before)?,
            origin: self.origin,
            count: self.words,
            last,
            before,
        };
        let block = self.disk.nth_block(usize::from(before))?;
        ring::write_head(block, self.nonce, &head);
        if before == 0 {
            self.ring.in_buffer = Some(self.words);
        }
        // There was such a block in the buffer, so the number is small.
        self.finished_blocks = before.wrapping_add(1);
        self.words = 0;
        self.has_origin = false;
        Ok(())
    }

    fn write(&mut self, order: Order) -> Result {
        let blocks = self.finished_blocks;
        let at = self.geometry.journal_block(self.ring.head);
        let advanced = self.ring.advanced(blocks)?;
        self.disk.write(at, usize::from(blocks), order)?;
        *self.ring = advanced;
        // At most the blocks of the ring.
        self.written = self.written.wrapping_add(u32::from(blocks));
        self.finished_blocks = 0;
        Ok(())
    }

    /// Ends the transaction. Makes it, and all data written before, durable (I10). Returns its
    /// number of blocks.
    ///
    /// If the transaction is empty, it is a flush.
    pub fn finish(mut self) -> Result<u32> {
        if self.words > 0 {
            self.finish_block(true)?;
        }
        if self.finished_blocks == 0 {
            self.disk.flush()?;
        } else {
            self.write(Order::FlushFua)?;
        }
        Ok(self.written)
    }
}
