// SPDX-License-Identifier: GPL-2.0

//! A block of the journal ring: a header, then up to 508 words of records.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{transmute_mut, FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::{Error, Result};
use super::super::geometry::{Block, LeafSlab, BLOCK_BYTES};
use super::checksum::{self, has_valid_checksum};
use super::crc::crc32c;

const MAGIC: [u8; 4] = *b"UBjn";
/// 64-bit words of records in a block.
pub const RING_WORDS: usize = 508;
/// The block ends a transaction. The records of this block and of the blocks before it are valid.
const FLAG_LAST: u16 = 1;
/// Bits 8 to 11 of the flags: how many blocks before this one went out in the same write.
const BEFORE_SHIFT: u32 = 8;
/// Sequence numbers, and a superblock's generations, are below this value. No leaf ever reaches it,
/// so one more always fits, and a block with a larger number is not valid.
pub const NUMBERS: u64 = 1 << 63;
/// The largest number of blocks before another one in one write.
pub const BEFORE_MAX: u16 = 15;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskRingHead {
    magic: [u8; 4],
    crc: U32,
    sequence: U64,
    nonce: U64,
    origin: U32,
    count: U16,
    flags: U16,
}

/// A block of the ring as it lies on the leaf.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskRingBlock {
    head: DiskRingHead,
    words: [U64; RING_WORDS],
}

/// A block's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingHead {
    /// Counts journal blocks, without end.
    pub sequence: u64,
    /// The leaf slab that the first `New`'s step counts from.
    pub origin: LeafSlab,
    /// Words in use, 1 to 508.
    pub count: u16,
    /// Whether the block ends a transaction.
    pub last: bool,
    /// The number of blocks before this one in the same write, 0 to 15. These may be missing after
    /// a power failure although this one is there. If this block ends a transaction, no block of an
    /// earlier write may be missing, because its own write began with a flush.
    pub before: u16,
}

impl RingHead {
    /// Returns the sequence number of the block after this one. This one is below [`NUMBERS`].
    pub fn next(&self) -> u64 {
        self.sequence.wrapping_add(1)
    }

    /// Returns the sequence number of the first block of the same write. Numbers begin at 0, and
    /// only a damaged or foreign block has more blocks before it than there are numbers.
    pub fn first_of_write(&self) -> u64 {
        self.sequence.saturating_sub(u64::from(self.before))
    }

    /// Returns whether this block proves that the block with sequence number `hole`, which is
    /// missing, was durable, because this one ends a later transaction in another write, which
    /// began with a flush.
    pub fn shows_hole(&self, hole: u64) -> bool {
        self.last && self.sequence > hole && self.first_of_write() > hole
    }

    fn flags(&self) -> u16 {
        u16::from(self.last) | (self.before & BEFORE_MAX).wrapping_shl(BEFORE_SHIFT)
    }
}

/// Returns the byte of a block at which word `at` (below 508) begins.
pub fn byte_of(at: u32) -> u32 {
    const WORDS_AT: u32 = size_of::<DiskRingHead>() as u32;
    WORDS_AT.wrapping_add(at.wrapping_mul(8))
}

/// Zeroes a header and `words` words (at most 508) of a block.
pub fn zero_words(block: &mut Block, words: usize) -> Result {
    let disk: &mut DiskRingBlock = transmute_mut!(block);
    let used = disk.words.get_mut(..words).ok_or(Error::Internal)?;
    used.fill(U64::ZERO);
    disk.head.as_mut_bytes().fill(0);
    Ok(())
}

/// Puts word `at` (below 508) into a block under construction.
pub fn put_word(block: &mut Block, at: usize, word: u64) -> Result {
    let disk: &mut DiskRingBlock = transmute_mut!(block);
    *disk.words.get_mut(at).ok_or(Error::Internal)? = U64::new(word);
    Ok(())
}

/// Returns word `at` of a block.
pub fn word(block: &[u8], at: usize) -> Option<u64> {
    let start = size_of::<DiskRingHead>().checked_add(at.checked_mul(8)?)?;
    block
        .get(start..)?
        .first_chunk::<8>()
        .map(|b| u64::from_le_bytes(*b))
}

/// Finishes a block whose words are in place: writes header and checksum.
pub fn write_head(block: &mut Block, nonce: u64, head: &RingHead) {
    let disk: &mut DiskRingBlock = transmute_mut!(block);
    disk.head = DiskRingHead {
        magic: MAGIC,
        crc: U32::ZERO,
        sequence: U64::new(head.sequence),
        nonce: U64::new(nonce),
        origin: U32::new(head.origin.0),
        count: U16::new(head.count),
        flags: U16::new(head.flags()),
    };
    let crc = crc32c(0, disk.as_bytes());
    disk.head.crc = U32::new(crc);
}

/// Decodes a header. Returns `None` for anything that is not a whole block of this leaf's journal.
pub fn open(block: &[u8], nonce: u64) -> Option<RingHead> {
    let block = block.get(..BLOCK_BYTES)?;
    let (h, _) = DiskRingHead::ref_from_prefix(block).ok()?;
    let flags = h.flags.get();
    let count = h.count.get();
    let sound = h.magic == MAGIC
        && h.sequence.get() < NUMBERS
        && h.nonce.get() == nonce
        && flags & !(FLAG_LAST | BEFORE_MAX.wrapping_shl(BEFORE_SHIFT)) == 0
        && (1..=508).contains(&count)
        && has_valid_checksum(block);
    sound.then(|| RingHead {
        sequence: h.sequence.get(),
        origin: LeafSlab(h.origin.get()),
        count,
        last: flags & FLAG_LAST != 0,
        before: flags.wrapping_shr(BEFORE_SHIFT),
    })
}

/// Returns whether a block that [`open`] refuses was written for this leaf, see
/// [`checksum::was_of_leaf`].
pub fn was_of_leaf(block: &[u8], nonce: u64) -> bool {
    DiskRingHead::ref_from_prefix(block)
        .is_ok_and(|(h, _)| checksum::was_of_leaf(block, h.magic == MAGIC, h.nonce.get() == nonce))
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_ring))]
mod tests {
    use super::super::super::error::Error;
    use super::super::super::geometry::LeafSlab;
    use super::{open, put_word, word, write_head, RingHead, RING_WORDS};

    #[test]
    fn round_trip_and_refusals() {
        let mut block = [0u8; 4096];
        assert!(put_word(&mut block, 0, 0x0102_0304_0506_0708).is_ok());
        assert!(put_word(&mut block, RING_WORDS - 1, 42).is_ok());
        assert!(put_word(&mut block, RING_WORDS, 42) == Err(Error::Internal));
        let head = RingHead {
            sequence: 9,
            origin: LeafSlab(3),
            count: 508,
            last: true,
            before: 7,
        };
        write_head(&mut block, 77, &head);
        assert!(open(&block, 77) == Some(head));
        assert_eq!(word(&block, 0), Some(0x0102_0304_0506_0708));
        assert_eq!(word(&block, RING_WORDS - 1), Some(42));
        assert_eq!(word(&block, RING_WORDS), None);
        assert!(open(&block, 78).is_none());
        assert!(!super::was_of_leaf(&block, 78) && !super::was_of_leaf(&[0; 4096], 77));
        for at in (0..4096).step_by(61) {
            block[at] ^= 4;
            assert!(open(&block, 77).is_none());
            assert!(super::was_of_leaf(&block, 77));
            block[at] ^= 4;
        }
        let more = RingHead {
            last: false,
            before: 0,
            ..head
        };
        write_head(&mut block, 77, &more);
        assert!(open(&block, 77) == Some(more));
        write_head(&mut block, 77, &RingHead { count: 0, ..head });
        assert!(open(&block, 77).is_none());
        let sequence = super::NUMBERS;
        write_head(&mut block, 77, &RingHead { sequence, ..head });
        assert!(open(&block, 77).is_none());
        assert!(open(&block[..512], 77).is_none());
    }

    #[test]
    fn words_are_zeroed_up_to_a_number() {
        let mut block = [0xffu8; 4096];
        assert!(super::zero_words(&mut block, 2).is_ok());
        assert!(block.iter().position(|&b| b != 0) == Some(48));
        assert!(super::zero_words(&mut block, RING_WORDS + 1) == Err(Error::Internal));
        assert!(super::zero_words(&mut block, RING_WORDS).is_ok());
        assert!(block == [0; 4096]);
    }
}
