// SPDX-License-Identifier: GPL-2.0

//! Writes a sealed layer, in two passes over the content: the first finds how large each part is,
//! the second writes them. If a size is not the same in the second pass, no layer is written. A
//! change between the passes that keeps all sizes is not detected. The layer then has the content
//! that the second pass read.
//!
//! The order of writes: the first two blocks as zeroes, then everything else, then the header, each
//! made durable before the next. A power failure leaves a whole layer, or none. The first two
//! blocks are also those of a leaf's superblock, so a leaf that was there is gone before any of its
//! data is overwritten.

use super::super::error::Error;
use super::super::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use super::super::num::{u64_as_usize, usize_as_u64, SECTOR_BYTES};
use super::super::stack::chain::StandIn;
use super::super::stack::extent::{Extent, Extents};
use super::digests::{self, CHUNK_BLOCKS, DIGESTS_IN_BLOCK};
use super::fault::{sector_of, Fault};
use super::header::{self, Header, DATA_BLOCK};
use super::index::{self, EXTENTS_IN_BLOCK};
use super::stand_in::STAND_IN_BLOCK;
use super::units::{Sink, UnitWalk};
use super::{Digest, Sha256, SourceData, Writer};

/// Measures a layer: the first pass. Returns its header, without the digest.
///
/// `room` is for one read of data, and is not empty.
pub fn measure<E: Extents, D: SourceData>(
    source: &mut E,
    data: &mut D,
    (union_sectors, block_bytes): (u64, u32),
    room: &mut [Block],
) -> core::result::Result<Header, Fault> {
    let mut walk = UnitWalk::new(Measure, union_sectors, room);
    walk.run(source, data)?;
    Header::new(union_sectors, block_bytes, &walk.packing)
}

/// Writes nothing, because the first pass only measures.
struct Measure;

impl Sink for Measure {
    fn data(&mut self, _: u64, _: &[u8]) -> core::result::Result<(), Fault> {
        Ok(())
    }
    fn extent(&mut self, _: &Extent) -> core::result::Result<(), Fault> {
        Ok(())
    }
}

/// Writes a layer that was [measured](measure): the second pass. `source` begins anew. Returns the
/// header that was written.
///
/// `room` is as for [`measure`]; `output` is for one write of data, and is not empty.
pub fn write<E: Extents, D: SourceData, W: Writer, H: Sha256>(
    (source, data): (&mut E, &mut D),
    measured: &Header,
    stand_in: Option<&StandIn>,
    writer: &mut W,
    (room, output): (&mut [Block], &mut [Block]),
) -> core::result::Result<Header, Fault> {
    for block in [0, STAND_IN_BLOCK] {
        writer.write(block, &[[0; BLOCK_BYTES]])?;
    }
    writer.flush()?;
    let sink = SealOutput::<W, H>::new(writer, measured, output);
    let mut walk = UnitWalk::new(sink, measured.union_sectors, room);
    walk.run(source, data)?;
    let again = Header::new(measured.union_sectors, measured.block_bytes, &walk.packing)?;
    if again != *measured {
        return Err(Fault::Changed);
    }
    let (index, digests) = walk.sink.finish()?;

    let mut header = again;
    let mut block = [0; BLOCK_BYTES];
    header.encode(&mut block);
    header.digest = header::digest::<H>(&header::covered(&block), &index, &digests);
    block.fill(0);
    if let Some(record) = stand_in {
        record.encode(&header.digest, &mut block);
    }
    writer.write(STAND_IN_BLOCK, &[block])?;
    writer.flush()?;
    header.encode(&mut block);
    writer.write(0, &[block])?;
    writer.flush()?;
    Ok(header)
}

/// A list of entries in blocks: the index, or the digests.
struct EntryBlocks<H> {
    /// Where the next block goes, and where the list ends.
    next: u64,
    end: u64,
    block: Block,
    number: u32,
    count: u32,
    sum: H,
}

impl<H: Sha256> EntryBlocks<H> {
    fn new(next: u64, end: u64) -> EntryBlocks<H> {
        EntryBlocks {
            next,
            end,
            block: [0; BLOCK_BYTES],
            number: 0,
            count: 0,
            sum: H::new(),
        }
    }

    /// Writes the current block if it has entries, and begins the next.
    fn turn<W: Writer>(
        &mut self,
        writer: &mut W,
        complete: fn(&mut Block, u32, u32),
    ) -> core::result::Result<(), Fault> {
        if self.count == 0 {
            return Ok(());
        }
        if self.next >= self.end {
            return Err(Fault::Changed);
        }
        complete(&mut self.block, self.number, self.count);
        self.sum.update(&self.block);
        writer.write(self.next, &[self.block])?;
        // The list has fewer than 2^32 blocks, and `next` was below its end.
        self.next = self.next.wrapping_add(1);
        self.number = self.number.wrapping_add(1);
        self.count = 0;
        self.block.fill(0);
        Ok(())
    }
}

/// Writes data, index and digests, each in order.
struct SealOutput<'a, W, H> {
    writer: &'a mut W,
    /// The data that is collected for the next write: which block it goes to, and how many bytes of
    /// it there are.
    room: &'a mut [Block],
    block: u64,
    filled: usize,
    /// The end of the data.
    end: u64,
    /// The chunk that the next block of data belongs to, and how many of its blocks were added.
    chunk: H,
    in_chunk: u64,
    index: EntryBlocks<H>,
    digests: EntryBlocks<H>,
}

impl<'a, W: Writer, H: Sha256> SealOutput<'a, W, H> {
    fn new(writer: &'a mut W, header: &Header, room: &'a mut [Block]) -> SealOutput<'a, W, H> {
        SealOutput {
            writer,
            room,
            block: DATA_BLOCK,
            filled: 0,
            end: header.index_block(),
            chunk: H::new(),
            in_chunk: 0,
            index: EntryBlocks::new(header.index_block(), header.digest_block()),
            digests: EntryBlocks::new(header.digest_block(), header.blocks()),
        }
    }

    /// Returns the sector of the layer that comes next. It is below 2^48.
    fn position(&self) -> u64 {
        let sectors = usize_as_u64(self.filled) / SECTOR_BYTES;
        sector_of(self.block).wrapping_add(sectors)
    }

    /// Adds bytes, whole sectors, to the data; zeroes if there are none.
    fn add(&mut self, bytes: Option<&[u8]>, len: usize) -> core::result::Result<(), Fault> {
        // `done` is at most `len`, and `filled` at most the size of the room.
        let mut done = 0usize;
        while done < len {
            let room = self.room.as_flattened_mut().get_mut(self.filled..);
            let room = room.filter(|room| !room.is_empty());
            let room = room.ok_or(Error::Internal)?;
            let now = room.len().min(len.wrapping_sub(done));
            let room = room.get_mut(..now).ok_or(Error::Internal)?;
            let end = done.wrapping_add(now);
            match bytes {
                None => room.fill(0),
                Some(bytes) => {
                    room.copy_from_slice(bytes.get(done..end).ok_or(Error::Internal)?);
                }
            }
            done = end;
            self.filled = self.filled.wrapping_add(now);
            if self.filled >= self.room.as_flattened().len() {
                self.write_data()?;
            }
        }
        Ok(())
    }

    /// Writes the data that was collected, which is whole blocks.
    fn write_data(&mut self) -> core::result::Result<(), Fault> {
        let count = self.filled / BLOCK_BYTES;
        let blocks = self.room.get(..count).ok_or(Error::Internal)?;
        // The layer has fewer than 2^45 blocks, and the room is in memory.
        let end = self.block.wrapping_add(usize_as_u64(count));
        if end > self.end {
            return Err(Fault::Changed);
        }
        if count > 0 {
            self.writer.write(self.block, blocks)?;
        }
        for block in blocks {
            self.chunk.update(block);
            // At most `CHUNK_BLOCKS`.
            self.in_chunk = self.in_chunk.wrapping_add(1);
            if self.in_chunk == CHUNK_BLOCKS {
                let whole = core::mem::replace(&mut self.chunk, H::new());
                self.in_chunk = 0;
                end_chunk(&mut self.digests, whole, self.writer)?;
            }
        }
        (self.block, self.filled) = (end, 0);
        Ok(())
    }

    /// Writes what is left. Returns the digests of the index and of the digests.
    fn finish(mut self) -> core::result::Result<(Digest, Digest), Fault> {
        let over = self.position() % BLOCK_SECTORS;
        if over > 0 {
            // Less than a block.
            let gap = BLOCK_SECTORS.wrapping_sub(over);
            self.add(None, u64_as_usize(gap.wrapping_mul(SECTOR_BYTES)))?;
        }
        self.write_data()?;
        if self.in_chunk > 0 {
            end_chunk(&mut self.digests, self.chunk, self.writer)?;
        }
        self.digests.turn(self.writer, digests::complete)?;
        self.index.turn(self.writer, index::complete)?;
        let ends = (self.block, self.index.next, self.digests.next);
        if ends != (self.end, self.index.end, self.digests.end) {
            return Err(Fault::Changed);
        }
        Ok((self.index.sum.finish(), self.digests.sum.finish()))
    }
}

/// Adds the digest of a chunk to the list.
fn end_chunk<W: Writer, H: Sha256>(
    list: &mut EntryBlocks<H>,
    chunk: H,
    writer: &mut W,
) -> core::result::Result<(), Fault> {
    digests::put(&mut list.block, list.count, &chunk.finish())?;
    // At most the digests that a block holds.
    list.count = list.count.wrapping_add(1);
    if u64::from(list.count) == DIGESTS_IN_BLOCK {
        list.turn(writer, digests::complete)?;
    }
    Ok(())
}

impl<W: Writer, H: Sha256> Sink for SealOutput<'_, W, H> {
    fn data(&mut self, position: u64, bytes: &[u8]) -> core::result::Result<(), Fault> {
        let gap = position.checked_sub(self.position());
        let gap = gap.and_then(|sectors| sectors.checked_mul(SECTOR_BYTES));
        self.add(None, u64_as_usize(gap.ok_or(Error::Internal)?))?;
        self.add(Some(bytes), bytes.len())
    }

    fn extent(&mut self, extent: &Extent) -> core::result::Result<(), Fault> {
        index::put(&mut self.index.block, self.index.count, extent)?;
        // At most the extents that a block holds.
        self.index.count = self.index.count.wrapping_add(1);
        if u64::from(self.index.count) == EXTENTS_IN_BLOCK {
            self.index.turn(self.writer, index::complete)?;
        }
        Ok(())
    }
}
