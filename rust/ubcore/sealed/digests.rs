// SPDX-License-Identifier: GPL-2.0

//! The digests of the data: one SHA-256 for each chunk of 1 MiB, in blocks with a checksum each.

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{transmute_mut, transmute_ref};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::{Error, Result};
use super::super::format::crc::crc32c;
use super::super::geometry::{Block, BLOCK_BYTES};
use super::super::num::{saturating_u32, u32_as_usize};
use super::fault::{Fault, LayerPart};
use super::header::{Header, DATA_BLOCK};
use super::index::DiskBlockHead;
use super::Digest;

/// Blocks of a chunk, which has a digest of its data: 1 MiB. The last chunk may have fewer.
pub const CHUNK_BLOCKS: u64 = 256;
/// The most digests that one block holds.
pub const DIGESTS_IN_BLOCK: u64 = 127;
const MAGIC: [u8; 4] = *b"UBsd";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskDigestBlock {
    head: DiskBlockHead,
    digests: [Digest; DIGESTS_IN_BLOCK as usize],
}

const _: () = assert!(size_of::<DiskDigestBlock>() == BLOCK_BYTES);

/// Writes digest `at` of a block that began as zeroes. Fails with `Internal` if the block has no
/// room for it.
pub fn put(block: &mut Block, at: u32, digest: &Digest) -> Result {
    let disk: &mut DiskDigestBlock = transmute_mut!(block);
    let room = disk.digests.get_mut(u32_as_usize(at));
    *room.ok_or(Error::Internal)? = *digest;
    Ok(())
}

/// Completes block `number` of the digests, with its first `count` digests.
pub fn complete(block: &mut Block, number: u32, count: u32) {
    let disk: &mut DiskDigestBlock = transmute_mut!(block);
    disk.head = DiskBlockHead::new(MAGIC, number, count);
    let crc = crc32c(0, block);
    let disk: &mut DiskDigestBlock = transmute_mut!(block);
    disk.head.crc = U32::new(crc);
}

/// Checks block `number` (below the header's [`Header::digest_blocks`]) of the digests. Returns its
/// digests, those of the chunks from `number * 127` on.
pub fn decode<'a>(
    block: &'a Block,
    number: u64,
    header: &Header,
) -> core::result::Result<&'a [Digest], Fault> {
    // A block of the layer.
    let at = header.digest_block().wrapping_add(number);
    let damaged = |byte| Fault::damaged(LayerPart::Digests, at, byte);
    decode_list(block, number, header.chunks(), damaged)
}

/// Checks block `number` of the digests of so many chunks, and returns its digests. `damaged` makes
/// the failure from the byte of the first thing that is wrong.
pub(super) fn decode_list<F: From<Error>>(
    block: &Block,
    number: u64,
    chunks: u64,
    damaged: impl Fn(usize) -> F,
) -> core::result::Result<&[Digest], F> {
    let before = number.checked_mul(DIGESTS_IN_BLOCK);
    let left = before.and_then(|before| chunks.checked_sub(before));
    let left = left.ok_or(Error::Internal)?;
    let count = saturating_u32(left.min(DIGESTS_IN_BLOCK));
    let disk: &DiskDigestBlock = transmute_ref!(block);
    let head = disk.head.check(MAGIC, saturating_u32(number), count, block);
    head.map_err(&damaged)?;
    let split = disk.digests.split_at_checked(u32_as_usize(count));
    let (used, unused) = split.ok_or(Error::Internal)?;
    if unused.iter().any(|digest| *digest != [0; 32]) {
        return Err(damaged(offset_of!(DiskDigestBlock, digests)));
    }
    Ok(used)
}

/// Returns the block of digests that holds the digest of a chunk, and its index there.
pub fn locate_digest(chunk: u64) -> (u64, usize) {
    let at = saturating_u32(chunk % DIGESTS_IN_BLOCK);
    (chunk / DIGESTS_IN_BLOCK, u32_as_usize(at))
}

/// Returns the first block of a chunk, and how many blocks it has: none after the last chunk.
pub fn blocks_of(chunk: u64, header: &Header) -> (u64, u64) {
    // After the last chunk no blocks are left, however large the number of the chunk is.
    let before = chunk.saturating_mul(CHUNK_BLOCKS);
    let left = header.data_blocks.saturating_sub(before);
    (DATA_BLOCK.saturating_add(before), left.min(CHUNK_BLOCKS))
}
