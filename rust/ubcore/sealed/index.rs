// SPDX-License-Identifier: GPL-2.0

//! The index: the extents of a sealed layer, in blocks with a checksum each.

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{transmute_mut, transmute_ref};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::{Error, Result};
use super::super::format::crc::{block_crc, crc32c};
use super::super::format::first_wrong;
use super::super::geometry::{Block, BLOCK_BYTES};
use super::super::num::{saturating_u32, u32_as_usize};
use super::super::stack::extent::{Content, Extent};
use super::fault::{Fault, LayerPart};
use super::header::Header;
use super::packing::{Breach, Packing};

/// The most extents that one block holds.
pub const EXTENTS_IN_BLOCK: u64 = 254;
const MAGIC: [u8; 4] = *b"UBsx";
const CRC_AT: usize = 4;
/// The position that stands for zeroes.
const ZERO: u64 = LOW_48;
const LOW_48: u64 = (1 << 48) - 1;

/// The start of a block of the index or of digests.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DiskBlockHead {
    pub(super) magic: [u8; 4],
    pub(super) crc: U32,
    pub(super) number: U32,
    pub(super) count: U32,
    pub(super) reserved: [u8; 16],
}

/// `first` has 48 bits, `count` 32, `position` 48.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskExtent {
    first: [u8; 6],
    count: U32,
    position: [u8; 6],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskIndexBlock {
    head: DiskBlockHead,
    extents: [DiskExtent; EXTENTS_IN_BLOCK as usize],
}

const _: () = assert!(size_of::<DiskIndexBlock>() == BLOCK_BYTES);

/// Returns the low 48 bits in 6 bytes.
fn low_48(v: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = v.to_le_bytes();
    [a, b, c, d, e, f]
}

fn from_48([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

impl DiskBlockHead {
    /// Fails with the byte of the first thing in a block's head that is not as it must be.
    pub(super) fn check(
        &self,
        magic: [u8; 4],
        number: u32,
        count: u32,
        block: &Block,
    ) -> core::result::Result<(), usize> {
        first_wrong(&[
            (self.magic == magic, offset_of!(Self, magic)),
            (block_crc(block, CRC_AT) == Some(self.crc.get()), CRC_AT),
            (self.number.get() == number, offset_of!(Self, number)),
            (self.count.get() == count, offset_of!(Self, count)),
            (self.reserved == [0; 16], offset_of!(Self, reserved)),
        ])
    }

    /// Returns the head of a block whose checksum is not computed yet.
    pub(super) fn new(magic: [u8; 4], number: u32, count: u32) -> DiskBlockHead {
        DiskBlockHead {
            magic,
            crc: U32::ZERO,
            number: U32::new(number),
            count: U32::new(count),
            reserved: [0; 16],
        }
    }
}

/// Writes extent `at` of a block that began as zeroes. Fails with `Internal` if the block has no
/// room for it, or if a number is too large, which [`Packing`] excludes.
pub fn put(block: &mut Block, at: u32, extent: &Extent) -> Result {
    let disk: &mut DiskIndexBlock = transmute_mut!(block);
    let room = disk.extents.get_mut(u32_as_usize(at));
    let position = match extent.content {
        Content::Zero => ZERO,
        Content::Data(position) if position < ZERO => position,
        Content::Data(_) => return Err(Error::Internal),
    };
    if extent.first > LOW_48 {
        return Err(Error::Internal);
    }
    *room.ok_or(Error::Internal)? = DiskExtent {
        first: low_48(extent.first),
        count: U32::new(u32::try_from(extent.sectors).map_err(|_| Error::Internal)?),
        position: low_48(position),
    };
    Ok(())
}

/// Completes block `number` of the index with its first `count` extents.
pub fn complete(block: &mut Block, number: u32, count: u32) {
    let disk: &mut DiskIndexBlock = transmute_mut!(block);
    disk.head = DiskBlockHead::new(MAGIC, number, count);
    let crc = crc32c(0, block);
    let disk: &mut DiskIndexBlock = transmute_mut!(block);
    disk.head.crc = U32::new(crc);
}

/// Reads the index in order and checks that it is the one that the header describes, in the only
/// form that its content has.
#[derive(Clone, Copy)]
pub struct IndexWalk {
    header: Header,
    packing: Packing,
    /// How many blocks were begun.
    begun: u64,
    /// How many extents of the block that was begun last are left.
    left: u32,
}

impl IndexWalk {
    /// Starts before the first block.
    pub fn new(header: &Header) -> IndexWalk {
        IndexWalk {
            header: *header,
            packing: Packing::new(header.union_sectors),
            begun: 0,
            left: 0,
        }
    }

    /// Returns the block of the layer that was begun last, or the first block of the index if none
    /// was begun.
    fn block(&self) -> u64 {
        let before = self.begun.saturating_sub(1);
        // A block of the layer.
        self.header.index_block().wrapping_add(before)
    }

    fn damaged(&self, byte: usize) -> Fault {
        Fault::damaged(LayerPart::Index, self.block(), byte)
    }

    /// Returns how many extents are left in the block that was begun last.
    pub fn left_in_block(&self) -> u32 {
        self.left
    }

    /// Returns the block of the layer that is to be begun next, and the number of blocks from there
    /// to the end of the index. Fails if more blocks were begun than the index has.
    pub fn rest(&self) -> Result<(u64, u64)> {
        // A block of the layer.
        let block = self.header.index_block().wrapping_add(self.begun);
        let left = self.header.digest_block().checked_sub(block);
        Ok((block, left.ok_or(Error::Internal)?))
    }

    /// Begins the next block. No extent of the block before is left. Checks all of it but the
    /// extents.
    pub fn begin(&mut self, block: &Block) -> core::result::Result<(), Fault> {
        let unread = self.header.extents.checked_sub(self.packing.extents);
        let unread = unread.ok_or(Fault::Failed(Error::Internal))?;
        let number = saturating_u32(self.begun);
        let count = saturating_u32(unread.min(EXTENTS_IN_BLOCK));
        // At most the blocks of the index.
        self.begun = self.begun.wrapping_add(1);
        let disk: &DiskIndexBlock = transmute_ref!(block);
        let head = disk.head.check(MAGIC, number, count, block);
        head.map_err(|byte| self.damaged(byte))?;
        for (at, unused) in (0u32..).zip(&disk.extents).skip(u32_as_usize(count)) {
            if *unused != DiskExtent::NONE {
                return Err(self.damaged(extent_byte(at)));
            }
        }
        self.left = count;
        Ok(())
    }

    /// Returns the next extent of the block that was begun last. At least one is left in it.
    pub fn extent(&mut self, block: &Block) -> core::result::Result<Extent, Fault> {
        let disk: &DiskIndexBlock = transmute_ref!(block);
        // Every block before this one was full.
        let at = saturating_u32(self.packing.extents % EXTENTS_IN_BLOCK);
        let found = disk.extents.get(u32_as_usize(at));
        let found = found.ok_or(Fault::Failed(Error::Internal))?;
        let extent = Extent {
            first: from_48(found.first),
            sectors: found.count.get().into(),
            content: match from_48(found.position) {
                ZERO => Content::Zero,
                position => Content::Data(position),
            },
        };
        let field = |breach| match breach {
            Breach::First => offset_of!(DiskExtent, first),
            Breach::Count => offset_of!(DiskExtent, count),
            Breach::Position => offset_of!(DiskExtent, position),
        };
        let taken = self.packing.take(&extent);
        taken.map_err(|breach| self.damaged(extent_byte(at).wrapping_add(field(breach))))?;
        let left = self.left.checked_sub(1);
        self.left = left.ok_or(Fault::Failed(Error::Internal))?;
        Ok(extent)
    }

    /// Returns whether all blocks were read to their end.
    pub fn is_at_end(&self) -> bool {
        self.left == 0 && self.begun >= self.header.index_blocks()
    }

    /// Checks the sums in the header, at the end.
    pub fn finish(&self) -> core::result::Result<(), Fault> {
        let (p, h) = (&self.packing, &self.header);
        let sums = (p.extents, p.data_sectors, p.zero_sectors, p.data_blocks());
        if sums == (h.extents, h.data_sectors, h.zero_sectors, h.data_blocks) {
            Ok(())
        } else {
            Err(self.damaged(0))
        }
    }
}

/// Returns the byte at which extent `at` of a block begins.
fn extent_byte(at: u32) -> usize {
    let before = u32_as_usize(at).wrapping_mul(size_of::<DiskExtent>());
    size_of::<DiskBlockHead>().wrapping_add(before)
}

impl DiskExtent {
    const NONE: DiskExtent = DiskExtent {
        first: [0; 6],
        count: U32::ZERO,
        position: [0; 6],
    };
}

impl PartialEq for DiskExtent {
    fn eq(&self, other: &Self) -> bool {
        (self.first, self.count, self.position) == (other.first, other.count, other.position)
    }
}
