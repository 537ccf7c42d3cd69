// SPDX-License-Identifier: GPL-2.0

//! The full digest of a root or a frozen leaf: one SHA-256 for each MiB, and one over all of these.
//!
//! A digest file holds them: a header, and the blocks of digests that a sealed layer has too. Its
//! header is written last. `sealed-layer.rst` describes the file.

use core::fmt;
use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, transmute_ref, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::Error;
use super::super::format::crc::{block_crc, crc32c};
use super::super::format::first_wrong;
use super::super::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use super::super::num::usize_as_u64;
use super::digests::{decode_list, CHUNK_BLOCKS, DIGESTS_IN_BLOCK};
use super::header::UNION_SECTORS_MAX;
use super::{is_zero, Digest, Reader, Sha256};

/// The first bytes of a digest file.
pub const MAGIC: [u8; 8] = *b"UBDIGEST";
/// The first bytes that the full digest covers.
pub const PREFIX: &[u8] = b"unionblk full digest 1\n";
/// The version that this code writes and the newest that it reads.
pub const VERSION: u32 = 1;
/// Sectors of a chunk: 1 MiB. The last chunk may have fewer.
pub const CHUNK_SECTORS: u64 = CHUNK_BLOCKS.wrapping_mul(BLOCK_SECTORS);
/// Bytes of a chunk.
pub const CHUNK_BYTES: u32 = 1 << 20;
/// The first block of digests.
pub const DIGEST_BLOCK: u64 = 1;
const CRC_AT: usize = 8;
/// The bits of features that this code knows.
const FEATURES_KNOWN: u64 = 0;

/// The first block of the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskFileHead {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    features: U64,
    sectors: U64,
    chunk_bytes: U32,
    reserved0: U32,
    chunks: U64,
    blocks: U64,
    reserved1: U64,
    digest: Digest,
    reserved2: [u8; BLOCK_BYTES - 96],
}

const _: () = assert!(size_of::<DiskFileHead>() == BLOCK_BYTES);

/// Why a digest file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestFault {
    /// The first block is not a header.
    NotDigests,
    /// The format is newer than this code.
    NewerVersion(u32),
    /// The file has features that this code does not know: their bits.
    UnknownFeatures(u64),
    /// A block fails its checksum, or has an impossible value.
    Damaged {
        /// The block, from the start of the file.
        block: u64,
        /// The byte of the first thing that is wrong.
        byte: usize,
    },
    /// The file has another length than its header says: bytes that it must have, and that it has.
    Length(u64, u64),
    /// All blocks are sound one by one, but together have another digest than the one that the
    /// header states.
    WrongSum,
    /// These are the digests of something else than what is wanted.
    OtherDigest,
    /// The file could not be read.
    Failed(Error),
}

impl From<Error> for DigestFault {
    fn from(e: Error) -> DigestFault {
        DigestFault::Failed(e)
    }
}

impl fmt::Display for DigestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DigestFault::NotDigests => f.write_str("not a digest file: name the file that ubctl seal-root made"),
            DigestFault::NewerVersion(v) => write!(f, "the digest file has format version {v}, which is newer than this unionblk: use a newer unionblk"),
            DigestFault::UnknownFeatures(bits) => write!(f, "the digest file has features {bits:#x} that this unionblk does not know: use a newer unionblk"),
            DigestFault::Damaged { block, byte } => write!(f, "the digest file is damaged at block {block}, byte {byte}: use another copy of it"),
            DigestFault::Length(want, found) => write!(f, "the digest file must have {want} bytes and has {found}: use another copy of it"),
            DigestFault::WrongSum => f.write_str("the digests do not have the full digest that the header of their file states: use another copy of it"),
            DigestFault::OtherDigest => f.write_str("the digest file has another full digest than the wanted one: use the file with the wanted digest"),
            DigestFault::Failed(e) => e.fmt(f),
        }
    }
}

/// The header of a digest file, decoded and checked.
///
/// # Invariants
///
/// There is at least one sector, and there are at most 2^48. So chunks and blocks are below 2^38,
/// blocks of digests below 2^32, and no sum of them wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    sectors: u64,
    digest: Digest,
}

impl Head {
    /// Returns the header for so many sectors; `None` if they are none, or more than a union has.
    pub fn new(sectors: u64, digest: Digest) -> Option<Head> {
        // INVARIANT: Checked here.
        let is_size = (1..=UNION_SECTORS_MAX).contains(&sectors);
        is_size.then_some(Head { sectors, digest })
    }

    /// Returns the sectors that the digests are of.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Returns the full digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the number of chunks, each with a digest.
    pub fn chunks(&self) -> u64 {
        self.sectors.div_ceil(CHUNK_SECTORS)
    }

    /// Returns the number of blocks of digests.
    pub fn digest_blocks(&self) -> u64 {
        self.chunks().div_ceil(DIGESTS_IN_BLOCK)
    }

    /// Returns the number of all blocks of the file.
    pub fn blocks(&self) -> u64 {
        DIGEST_BLOCK.wrapping_add(self.digest_blocks())
    }

    /// Returns the first sector of a chunk, and how many sectors it has: none after the last chunk.
    pub fn sectors_of(&self, chunk: u64) -> (u64, u64) {
        // After the last chunk no sectors are left, however large the number of the chunk is.
        let first = chunk.saturating_mul(CHUNK_SECTORS);
        let left = self.sectors.saturating_sub(first);
        (first, left.min(CHUNK_SECTORS))
    }

    /// Writes the header into a block.
    pub fn encode(&self, block: &mut Block) {
        let disk: &mut DiskFileHead = transmute_mut!(block);
        *disk = DiskFileHead {
            magic: MAGIC,
            crc: U32::ZERO,
            version: U32::new(VERSION),
            features: U64::ZERO,
            sectors: U64::new(self.sectors),
            chunk_bytes: U32::new(CHUNK_BYTES),
            reserved0: U32::ZERO,
            chunks: U64::new(self.chunks()),
            blocks: U64::new(self.blocks()),
            reserved1: U64::ZERO,
            digest: self.digest,
            reserved2: [0; BLOCK_BYTES - 96],
        };
        disk.crc = U32::new(crc32c(0, disk.as_bytes()));
    }

    /// Decodes the first block of a file and checks all of it. The checksum comes before version
    /// and features, and these before the other fields, because a newer format is not a damaged
    /// one.
    pub fn decode(block: &Block) -> Result<Head, DigestFault> {
        let disk: &DiskFileHead = transmute_ref!(block);
        if disk.magic != MAGIC {
            return Err(DigestFault::NotDigests);
        }
        let damaged = |byte| DigestFault::Damaged { block: 0, byte };
        if block_crc(block, CRC_AT) != Some(disk.crc.get()) {
            return Err(damaged(CRC_AT));
        }
        if disk.version.get() > VERSION {
            return Err(DigestFault::NewerVersion(disk.version.get()));
        }
        match disk.features.get() & !FEATURES_KNOWN {
            0 => {}
            bits => return Err(DigestFault::UnknownFeatures(bits)),
        }
        let head = Head::new(disk.sectors.get(), disk.digest);
        let head = head.ok_or(damaged(offset_of!(DiskFileHead, sectors)))?;
        disk.check(&head).map_err(damaged)?;
        Ok(head)
    }

    /// Checks block `number` (below [`Head::digest_blocks`]) of the digests. Returns its digests,
    /// those of the chunks from `number * 127` on.
    pub fn digests_in<'a>(
        &self,
        block: &'a Block,
        number: u64,
    ) -> Result<&'a [Digest], DigestFault> {
        let at = DIGEST_BLOCK.wrapping_add(number);
        let damaged = |byte| DigestFault::Damaged { block: at, byte };
        decode_list(block, number, self.chunks(), damaged)
    }
}

impl DiskFileHead {
    /// Fails with the byte of the first impossible field.
    fn check(&self, head: &Head) -> Result<(), usize> {
        let version = self.version.get() == VERSION;
        let chunk_bytes = self.chunk_bytes.get() == CHUNK_BYTES;
        let chunks = self.chunks.get() == head.chunks();
        let blocks = self.blocks.get() == head.blocks();
        first_wrong(&[
            (version, offset_of!(Self, version)),
            (chunk_bytes, offset_of!(Self, chunk_bytes)),
            (self.reserved0.get() == 0, offset_of!(Self, reserved0)),
            (chunks, offset_of!(Self, chunks)),
            (blocks, offset_of!(Self, blocks)),
            (self.reserved1.get() == 0, offset_of!(Self, reserved1)),
            (is_zero(&self.reserved2), offset_of!(Self, reserved2)),
        ])
    }
}

/// The full digest in progress: the digests of all chunks are added in their order.
pub struct Sum<H>(H);

impl<H: Sha256> Sum<H> {
    /// Begins, for so many sectors.
    pub fn new(sectors: u64) -> Sum<H> {
        let mut sum = H::new();
        sum.update(PREFIX);
        sum.update(&sectors.to_le_bytes());
        sum.update(&CHUNK_BYTES.to_le_bytes());
        Sum(sum)
    }

    /// Adds the digest of the next chunk.
    pub fn add(&mut self, digest: &Digest) {
        self.0.update(digest);
    }

    /// Returns the full digest.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

/// Reads a digest file of `bytes` bytes and verifies all of it. If a full digest is `wanted`,
/// refuses a file with another one, before it reads more than the header.
pub fn read<R: Reader, H: Sha256>(
    reader: &mut R,
    bytes: u64,
    wanted: Option<&Digest>,
) -> Result<Head, DigestFault> {
    let block = usize_as_u64(BLOCK_BYTES);
    if bytes < block {
        return Err(DigestFault::NotDigests);
    }
    reader.read(0, 1)?;
    let first = reader.buffer().first().ok_or(Error::Internal)?;
    let head = Head::decode(first)?;
    // The bounds of `Head` keep this from wrapping.
    let length = head.blocks().wrapping_mul(block);
    if bytes != length {
        return Err(DigestFault::Length(length, bytes));
    }
    if wanted.is_some_and(|wanted| *wanted != head.digest) {
        return Err(DigestFault::OtherDigest);
    }
    let mut sum = Sum::<H>::new(head.sectors);
    let mut number = 0;
    while number < head.digest_blocks() {
        let left = head.digest_blocks().wrapping_sub(number);
        let count = reader.read(DIGEST_BLOCK.wrapping_add(number), left)?;
        let blocks = reader.buffer().get(..count).filter(|b| !b.is_empty());
        for block in blocks.ok_or(Error::Internal)? {
            head.digests_in(block, number)?
                .iter()
                .for_each(|digest| sum.add(digest));
            // At most the blocks that are left.
            number = number.wrapping_add(1);
        }
        reader.give_way()?;
    }
    if sum.finish() != head.digest {
        return Err(DigestFault::WrongSum);
    }
    Ok(head)
}
