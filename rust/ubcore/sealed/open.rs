// SPDX-License-Identifier: GPL-2.0

//! Opening a sealed layer: all of it but the data is read and verified, before anything is used.

use super::super::error::{Error, Result};
use super::super::geometry::Block;
use super::super::stack::chain::StandIn;
use super::super::stack::extent::{Extent, Extents};
use super::digests;
use super::fault::Fault;
use super::header::{self, Header, HEADER_BYTES};
use super::index::IndexWalk;
use super::stand_in::STAND_IN_BLOCK;
use super::{Digest, Reader, Sha256};

/// A sealed layer whose header, index and digests are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The header.
    pub header: Header,
    /// What the layer stands for, if it stands for others.
    pub stand_in: Option<StandIn>,
}

/// Reads header, stand-in record, index and digests of a layer, and verifies them against each
/// other and against the layer's digest. `blocks` is the number of blocks from the start of the
/// layer to the end of the device. If a digest is `wanted`, a layer with another one is refused
/// before its index is read.
///
/// Process context. The work is in proportion to what the header says of index and digests, which
/// lie within `blocks`.
pub fn open<R: Reader, H: Sha256>(
    reader: &mut R,
    blocks: u64,
    wanted: Option<&Digest>,
) -> core::result::Result<Sealed, Fault> {
    if blocks == 0 {
        return Err(Fault::NotSealed);
    }
    let (header, covered) = read_header(reader)?;
    if header.blocks() > blocks {
        return Err(Fault::TooShort(header.blocks(), blocks));
    }
    if wanted.is_some_and(|wanted| *wanted != header.digest) {
        return Err(Fault::OtherLayer);
    }
    let stand_in = StandIn::decode(read_one(reader, STAND_IN_BLOCK)?, &header.digest)?;
    let index = read_index::<R, H>(reader, &header)?;
    let digests = read_digests::<R, H>(reader, &header)?;
    if header::digest::<H>(&covered, &index, &digests) != header.digest {
        return Err(Fault::WrongSum);
    }
    Ok(Sealed { header, stand_in })
}

/// Returns the header, and what the digest covers of it.
fn read_header<R: Reader>(
    reader: &mut R,
) -> core::result::Result<(Header, [u8; HEADER_BYTES]), Fault> {
    let block = read_one(reader, 0)?;
    Ok((Header::decode(block)?, header::covered(block)))
}

fn read_one<R: Reader>(reader: &mut R, block: u64) -> Result<&Block> {
    reader.give_way()?;
    reader.read(block, 1)?;
    reader.buffer().first().ok_or(Error::Internal)
}

/// Calls `each` for each of the blocks from `first` up to `end`, in order.
fn read_all<R: Reader>(
    reader: &mut R,
    (first, end): (u64, u64),
    mut each: impl FnMut(&Block) -> core::result::Result<(), Fault>,
) -> core::result::Result<(), Fault> {
    let mut at = first;
    while at < end {
        reader.give_way()?;
        // `at` is below `end`, and the reader reads at most what is left.
        let count = reader.read(at, end.wrapping_sub(at))?;
        let blocks = reader.buffer().get(..count);
        let blocks = blocks.filter(|blocks| !blocks.is_empty());
        for block in blocks.ok_or(Error::Internal)? {
            each(block)?;
            at = at.wrapping_add(1);
        }
    }
    Ok(())
}

/// Checks the index and returns the SHA-256 of its blocks.
fn read_index<R: Reader, H: Sha256>(
    reader: &mut R,
    header: &Header,
) -> core::result::Result<Digest, Fault> {
    let mut sum = H::new();
    let mut walk = IndexWalk::new(header);
    let range = (header.index_block(), header.digest_block());
    read_all(reader, range, |block| {
        sum.update(block);
        walk.begin(block)?;
        while walk.left_in_block() > 0 {
            walk.extent(block)?;
        }
        Ok(())
    })?;
    walk.finish()?;
    Ok(sum.finish())
}

/// Checks the digests and returns the SHA-256 of their blocks.
fn read_digests<R: Reader, H: Sha256>(
    reader: &mut R,
    header: &Header,
) -> core::result::Result<Digest, Fault> {
    let mut sum = H::new();
    let mut numbers = 0..;
    let range = (header.digest_block(), header.blocks());
    read_all(reader, range, |block| {
        sum.update(block);
        let number = numbers.next().ok_or(Fault::Failed(Error::Internal))?;
        digests::decode(block, number, header).map(|_| ())
    })?;
    Ok(sum.finish())
}

/// The extents of a sealed layer. Each block of the index is checked again when it is read, because
/// the device may return other bytes than to [`open`].
pub struct SealedExtents<R> {
    reader: R,
    walk: IndexWalk,
    /// Which block of the reader's buffer is the current one, and how many were read into it.
    at: usize,
    held: usize,
}

impl<R: Reader> SealedExtents<R> {
    /// Starts before the first extent. `header` is that of a layer that was opened.
    pub fn new(reader: R, header: &Header) -> SealedExtents<R> {
        SealedExtents {
            reader,
            walk: IndexWalk::new(header),
            at: 0,
            held: 0,
        }
    }

    fn step(&mut self) -> core::result::Result<Option<Extent>, Fault> {
        while self.walk.left_in_block() == 0 {
            if self.walk.is_at_end() {
                self.walk.finish()?;
                return Ok(None);
            }
            // At most `held`, which is in memory.
            self.at = self.at.wrapping_add(1);
            if self.at >= self.held {
                let (block, most) = self.walk.rest()?;
                self.reader.give_way()?;
                (self.at, self.held) = (0, self.reader.read(block, most)?);
            }
            let block = self.reader.buffer().get(self.at);
            self.walk.begin(block.ok_or(Error::Internal)?)?;
        }
        let block = self.reader.buffer().get(self.at);
        self.walk.extent(block.ok_or(Error::Internal)?).map(Some)
    }
}

impl<R: Reader> Extents for SealedExtents<R> {
    fn next(&mut self) -> Result<Option<Extent>> {
        Ok(self.step()?)
    }
}
