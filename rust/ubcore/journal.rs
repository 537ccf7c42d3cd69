// SPDX-License-Identifier: GPL-2.0

//! The journal ring: writing a transaction, and finding and replaying what was written.
//!
//! A *transaction* is what one commit covers: blocks of consecutive sequence numbers. The last
//! block is marked as the last and is written with `PREFLUSH | FUA`. A transaction is valid if all
//! its blocks are there. A power failure may tear what one write carries (up to 8 blocks). The
//! flush of that write made everything before it durable. So if a later, finished transaction
//! follows a hole, the hole is damage.

use super::disk::{Disk, Order, BUFFER_BLOCKS};
use super::error::{Area, Error, Result};
use super::format::directory::{self, PageEntry};
use super::format::record::{Record, SlabRun, STEP_MAX};
use super::format::ring::{self, RingHead, BEFORE_MAX, NUMBERS, RING_WORDS};
use super::format::superblock::Superblock;
use super::geometry::Geometry;
use super::map::{Base, Emptied, Entry, Map, Memory};
use super::num::{next, u32_as_usize};
use super::pages::{self, bits_page_of, table_page_of, PageSet};
use super::replay_limit;

const _: () = assert!(BUFFER_BLOCKS <= BEFORE_MAX as usize + 1);

/// The state of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    blocks: u32,
    head: u32,
    used: u32,
    sequence: u64,
    /// The disk's buffer begins with a block of the ring that has so many words, followed by
    /// zeroes. `None` if the content of the buffer is unknown.
    in_buffer: Option<u16>,
}

impl Ring {
    /// Returns a ring of `blocks`. Its next block goes to `head` with sequence number `sequence`.
    pub fn new(blocks: u32, head: u32, used: u32, sequence: u64) -> Ring {
        Ring {
            blocks,
            head,
            used,
            sequence,
            in_buffer: None,
        }
    }

    /// Returns the position of the next block.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Returns the number of blocks that the last checkpoint does not cover.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Returns the sequence number of the next block.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns whether a checkpoint should be made, before the ring is full and one must be made.
    pub fn is_half_full(&self) -> bool {
        self.used > self.blocks / 2
    }

    /// Frees all blocks, because a checkpoint that covers them is durable. It has used the disk's
    /// buffer.
    pub fn free_all(&mut self) {
        self.used = 0;
        self.forget_buffer();
    }

    /// Notes that another writer uses the disk's buffer.
    pub fn forget_buffer(&mut self) {
        self.in_buffer = None;
    }

    /// Returns the number of blocks that can be written before a checkpoint, 0 if the ring is full.
    fn free_blocks(&self) -> u32 {
        self.blocks.saturating_sub(self.used)
    }

    /// Returns the sequence number `n` blocks after the next one. Fails before the numbers are used
    /// up, because no reader would take such a block.
    fn sequence_after(&self, n: u16) -> Result<u64> {
        let sequence = self.sequence.checked_add(u64::from(n));
        let sequence = sequence.filter(|&s| s < NUMBERS);
        sequence.ok_or(Error::Internal)
    }

    /// Returns the ring as it is when `blocks` of its free blocks have been written.
    fn advanced(&self, blocks: u16) -> Result<Ring> {
        Ok(Ring {
            sequence: self.sequence_after(blocks)?,
            head: after(self.head, u32::from(blocks), self.blocks),
            used: self.used.wrapping_add(u32::from(blocks)),
            ..*self
        })
    }
}

/// Returns the ring position `n` blocks after `at`. `at` is below the ring's size of `blocks`, and
/// `n` is at most that size.
pub(super) fn after(at: u32, n: u32, blocks: u32) -> u32 {
    // A ring has at most 2^16 blocks.
    let sum = at.wrapping_add(n);
    match sum.checked_sub(blocks) {
        Some(past) => past,
        None => sum,
    }
}

/// Whether a transaction can continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// There was space, and the words are in the transaction.
    Left,
    /// The ring is full. The transaction is void, and a checkpoint must take its place.
    Full,
}

/// A transaction under construction, in the disk's buffer.
pub struct Transaction<'a, D> {
    ring: &'a mut Ring,
    disk: &'a mut D,
    geometry: &'a Geometry,
    nonce: u64,
    /// Sealed blocks in the buffer, before the one under construction.
    finished_blocks: u16,
    /// Words in the block under construction.
    words: u16,
    origin: u32,
    leaf: u32,
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
            origin: 0,
            leaf: 0,
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
    pub fn slab<M: Memory>(&mut self, map: &Map<M>, leaf: u32, fresh: bool) -> Result<Space> {
        let Some(slab) = map.owner(leaf) else {
            return Ok(Space::Left);
        };
        let sectors = self.geometry.slab_sectors();
        let mut opening = fresh;
        let mut runs = 0;
        let mut at = 0;
        while at < sectors {
            let (mapped, len) = map.mapped_run(leaf, at, sectors.wrapping_sub(at));
            if mapped {
                if runs > sectors / 64 {
                    return self.words(map, slab, leaf);
                }
                let run = SlabRun {
                    first: at,
                    count: len,
                };
                if self.run(slab, leaf, run, opening)? == Space::Full {
                    return Ok(Space::Full);
                }
                opening = false;
                runs = runs.wrapping_add(1);
            }
            // A run has one sector at least, and both are within a slab.
            at = at.wrapping_add(len.max(1));
        }
        Ok(Space::Left)
    }

    /// Emits all emptied slabs of a table page that no commit has covered. From now on they are
    /// taken for covered.
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
            Base::Root => Record::Reset { slab, count },
        }])
    }

    fn run(&mut self, slab: u32, leaf: u32, run: SlabRun, opening: bool) -> Result<Space> {
        if !opening {
            return self.put(&[Record::More { slab, run }]);
        }
        // The block is chosen first, because a new block has a new origin.
        if self.room(2)? == Space::Full {
            return Ok(Space::Full);
        }
        if !self.has_origin {
            self.origin = leaf.wrapping_sub(1);
            self.leaf = self.origin;
            self.has_origin = true;
        }
        let step = leaf.wrapping_sub(self.leaf);
        let place = !(1..=STEP_MAX).contains(&step);
        self.leaf = leaf;
        if place {
            let step = 1;
            let before = Record::Place(leaf.wrapping_sub(1));
            return self.put(&[before, Record::New { slab, step, run }]);
        }
        self.put(&[Record::New { slab, step, run }])
    }

    fn words<M: Memory>(&mut self, map: &Map<M>, slab: u32, leaf: u32) -> Result<Space> {
        let words = self.geometry.slab_sectors().div_ceil(64);
        let head = Record::Words { slab, words };
        // At most 128 words.
        if self.room(u32_as_usize(words).wrapping_add(1))? == Space::Full {
            return Ok(Space::Full);
        }
        self.push(head.encode())?;
        for w in 0..words {
            self.push(map.word(leaf, w))?;
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
        // 0 words are left if the block is full.
        if n > RING_WORDS.saturating_sub(usize::from(self.words)) {
            self.finish_block(false)?;
        }
        if self.words == 0 {
            // A new block needs a free block of the ring and room in the buffer. A write must not
            // cross the ring's end.
            let held = u32::from(self.finished_blocks);
            if self.ring.free_blocks() <= held {
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

/// What a scan found in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Blocks of finished transactions, from the tail on.
    pub finished: u32,
    /// Blocks from the tail on that belong to the chain, finished or not.
    pub chained: u32,
    /// A sequence number above that of every block in the ring.
    pub sequence: u64,
}

/// Looks for finished transactions after the superblock's tail. Reads only.
///
/// Fails if a finished transaction follows a hole that no power failure explains.
pub fn scan<D: Disk>(disk: &mut D, sb: &Superblock) -> Result<Found> {
    let blocks = sb.geometry.journal_blocks();
    let mut found = Found {
        finished: 0,
        chained: 0,
        sequence: sb.journal_sequence,
    };
    while found.chained < blocks {
        let at = after(sb.journal_tail, found.chained, blocks);
        let head = read_head(disk, sb, at)?;
        let Some(head) = head.filter(|h| h.sequence == found.sequence) else {
            break;
        };
        found.chained = next(found.chained);
        found.sequence = head.next();
        if head.last {
            found.finished = found.chained;
        }
    }
    // `clean` promises an empty ring. Only if that holds, the rest of the ring need not be read.
    if sb.clean && found.chained == 0 {
        return Ok(found);
    }
    let hole = found.sequence;
    for at in 0..blocks {
        let Some(head) = read_head(disk, sb, at)? else {
            continue;
        };
        let same_write = head.first_of_write() <= hole;
        if head.last && head.sequence > hole && !same_write {
            let broken = after(sb.journal_tail, found.chained, blocks);
            return Err(Error::Damaged(
                Area::Journal,
                sb.geometry.journal_block(broken),
            ));
        }
        found.sequence = found.sequence.max(head.next());
    }
    Ok(found)
}

fn read_head<D: Disk>(disk: &mut D, sb: &Superblock, at: u32) -> Result<Option<RingHead>> {
    disk.give_way()?;
    disk.read(sb.geometry.journal_block(at), 1)?;
    Ok(ring::open(disk.block(), sb.nonce))
}

/// Applies the finished transactions to the map, and notes which pages they change. Reads only.
///
/// If a page of the table is `lost`, it applies what can be applied without that page. Fails with
/// damage if more pages are filled than [`replay_limit::filled_max`] allows.
pub fn replay<D, M, B, L>(
    disk: &mut D,
    (sb, entries): (&Superblock, &[PageEntry]),
    found: &Found,
    map: &Map<M>,
    pages: &mut PageSet<B>,
    lost: L,
) -> Result
where
    D: Disk,
    M: Memory,
    B: core::ops::DerefMut<Target = [u64]>,
    L: Fn(u32) -> bool,
{
    let mut room = replay_limit::filled_max(&sb.geometry);
    for n in 0..found.finished {
        let at = after(sb.journal_tail, n, sb.geometry.journal_blocks());
        let block = sb.geometry.journal_block(at);
        let bad = Error::Damaged(Area::Journal, block);
        let head = read_head(disk, sb, at)?.ok_or(bad)?;
        let mut player = Player {
            map,
            pages: &mut *pages,
            entries,
            room: &mut room,
            lost: &lost,
            leaf: head.origin,
            bad,
        };
        player.block(disk.block(), usize::from(head.count))?;
    }
    Ok(())
}

struct Player<'a, M, B, L> {
    map: &'a Map<M>,
    pages: &'a mut PageSet<B>,
    entries: &'a [PageEntry],
    /// The number of empty pages that may still be filled.
    room: &'a mut u32,
    lost: &'a L,
    leaf: u32,
    bad: Error,
}

impl<M: Memory, B: core::ops::DerefMut<Target = [u64]>, L: Fn(u32) -> bool> Player<'_, M, B, L> {
    fn block(&mut self, block: &[u8], count: usize) -> Result {
        let mut at = 0;
        while at < count {
            let bits = ring::word(block, at).ok_or(self.bad)?;
            let sectors = self.map.geometry().slab_sectors();
            let record = Record::decode(bits, sectors).ok_or(self.bad)?;
            // A word of the block was there, here and below.
            at = at.wrapping_add(1);
            if let Record::Words { slab, words } = record {
                let leaf = self.leaf_slab(slab)?;
                if let Some(leaf) = leaf {
                    self.change(bits_page_of(self.map, leaf))?;
                }
                for w in 0..words {
                    let bits = ring::word(block, at)
                        .filter(|_| at < count)
                        .ok_or(self.bad)?;
                    at = at.wrapping_add(1);
                    if let Some(leaf) = leaf {
                        self.map.add_word(leaf, w, bits)?;
                    }
                }
            } else {
                self.record(record)?;
            }
        }
        Ok(())
    }

    /// Returns the leaf slab of a root slab that has one, or `None` if its entry is lost.
    fn leaf_slab(&self, slab: u32) -> Result<Option<u32>> {
        let g = self.map.geometry();
        let leaf = self.map.entry(slab).leaf.filter(|&l| l < g.leaf_slabs());
        let lost = (self.lost)(table_page_of(slab));
        if slab < g.root_slabs() && (leaf.is_some() || lost) {
            Ok(leaf)
        } else {
            Err(self.bad)
        }
    }

    fn record(&mut self, record: Record) -> Result {
        let g = self.map.geometry();
        match record {
            Record::Place(leaf) => self.leaf = leaf,
            Record::New { slab, step, run } => {
                let leaf = self.leaf.wrapping_add(step);
                self.leaf = leaf;
                if slab >= g.root_slabs() || leaf >= g.leaf_slabs() {
                    return Err(self.bad);
                }
                self.change(table_page_of(slab))?;
                self.change(bits_page_of(self.map, leaf))?;
                let entry = self.map.entry(slab);
                if entry.leaf != Some(leaf) {
                    self.forget(leaf)?;
                    self.map
                        .set_entry(slab, Entry::allocated(leaf, entry.base))?;
                }
                self.map.set_bits(leaf, run.first, run.count)?;
            }
            Record::More { slab, run } => {
                if let Some(leaf) = self.leaf_slab(slab)? {
                    self.change(bits_page_of(self.map, leaf))?;
                    self.map.set_bits(leaf, run.first, run.count)?;
                }
            }
            Record::Words { .. } => return Err(self.bad),
            Record::Zero { slab, count } => self.empty(slab, count, Base::Zero)?,
            Record::Reset { slab, count } => self.empty(slab, count, Base::Root)?,
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
            if let Some(leaf) = self.map.entry(slab).leaf {
                if leaf >= g.leaf_slabs() {
                    return Err(self.bad);
                }
                self.forget(leaf)?;
            }
            self.map
                .set_entry(slab, Entry::unallocated(base, Emptied::No))?;
        }
        Ok(())
    }

    /// Clears the bits of a leaf slab, if it has any.
    fn forget(&mut self, leaf: u32) -> Result {
        if !self.map.is_mapped(leaf) {
            return Ok(());
        }
        self.change(bits_page_of(self.map, leaf))?;
        self.map.clear_slab(leaf)
    }

    /// Notes that a page of the map is about to change.
    fn change(&mut self, page: u32) -> Result {
        let empty = pages::is_empty(&directory::entry(self.entries, page)?);
        if self.pages.insert(page)? && empty && !(self.lost)(page) {
            *self.room = self.room.checked_sub(1).ok_or(self.bad)?;
        }
        Ok(())
    }
}
