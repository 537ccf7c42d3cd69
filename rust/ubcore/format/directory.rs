// SPDX-License-Identifier: GPL-2.0

//! The page directory: for each map page, the active slot and the checksum of its 4096 bytes.
//!
//! Pages carry no header, so that a page in memory is a page on disk. The checksum in the directory
//! validates a page. A directory block is validated by its own checksum, and by the superblock,
//! which names the active slot. So a stale, lost or misplaced page passes for current only if the
//! disk has also lost the write of the directory block that names it.

use core::mem::offset_of;
use core::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::{Area, Error, Result};
use super::super::geometry::{Block, MapPage, DIRECTORY_ENTRIES};
use super::super::leaf_block::LeafBlock;
use super::super::num::u32_as_usize;
use super::super::slot::Slot;
use super::checksum::{self, has_valid_checksum, CRC_AT};
use super::crc::crc32c;
use super::first_wrong;

const MAGIC: [u8; 4] = *b"UBdr";

/// One map page, as the directory names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The active slot; `None` for a page of zeroes that was never written.
    pub slot: Option<Slot>,
    /// CRC32C of the page's 4096 bytes; zero if never written.
    pub crc: u32,
}

impl PageEntry {
    /// A page never written.
    pub const EMPTY: PageEntry = PageEntry { slot: None, crc: 0 };
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskDirectoryHead {
    magic: [u8; 4],
    crc: U32,
    index: U32,
    reserved: U32,
    generation: U64,
    nonce: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskDirectoryEntry {
    crc: U32,
    slot: u8,
    reserved: [u8; 3],
}

/// A directory block as it lies on the leaf.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskDirectoryBlock {
    head: DiskDirectoryHead,
    entries: [DiskDirectoryEntry; DIRECTORY_ENTRIES as usize],
}

/// Encodes directory block `at` over its pages' `entries`. Fails with `Internal` if these are more
/// than the block has room for.
pub fn encode(
    block: &mut Block,
    at: u32,
    generation: u64,
    nonce: u64,
    entries: &[PageEntry],
) -> Result {
    block.fill(0);
    let disk: &mut DiskDirectoryBlock = transmute_mut!(block);
    let list = disk.entries.get_mut(..entries.len());
    for (room, e) in list.ok_or(Error::Internal)?.iter_mut().zip(entries) {
        room.crc = U32::new(e.crc);
        room.slot = Slot::to_bits(e.slot);
    }
    disk.head = DiskDirectoryHead {
        magic: MAGIC,
        crc: U32::ZERO,
        index: U32::new(at),
        reserved: U32::ZERO,
        generation: U64::new(generation),
        nonce: U64::new(nonce),
    };
    let crc = crc32c(0, disk.as_bytes());
    disk.head.crc = U32::new(crc);
    Ok(())
}

/// Decodes directory block `at` into `entries` and checks all of it.
///
/// `leaf_block` is where the block was read, for the error. `generation` is the superblock's. No
/// active block can be ahead of it.
pub fn decode(
    block: &[u8],
    at: u32,
    generation: u64,
    nonce: u64,
    leaf_block: LeafBlock,
    entries: &mut [PageEntry],
) -> Result {
    check(block, at, generation, nonce, entries)
        .map_err(|_| Error::Damaged(Area::Directory, leaf_block))
}

/// Does the same as [`decode`], but fails with the byte of the first thing that is wrong.
pub fn check(
    block: &[u8],
    at: u32,
    generation: u64,
    nonce: u64,
    entries: &mut [PageEntry],
) -> core::result::Result<(), usize> {
    let (h, rest) = DiskDirectoryHead::ref_from_prefix(block).map_err(|_| 0usize)?;
    let list = <[DiskDirectoryEntry]>::ref_from_bytes(rest).map_err(|_| 0usize)?;
    first_wrong(&[
        (h.magic == MAGIC, offset_of!(DiskDirectoryHead, magic)),
        (has_valid_checksum(block), CRC_AT),
        (h.index.get() == at, offset_of!(DiskDirectoryHead, index)),
        (
            h.reserved.get() == 0,
            offset_of!(DiskDirectoryHead, reserved),
        ),
        (h.nonce.get() == nonce, offset_of!(DiskDirectoryHead, nonce)),
        (
            h.generation.get() <= generation,
            offset_of!(DiskDirectoryHead, generation),
        ),
    ])?;
    for (i, disk) in list.iter().enumerate() {
        // Within the block.
        let bad = size_of::<DiskDirectoryHead>()
            .wrapping_add(i.wrapping_mul(size_of::<DiskDirectoryEntry>()));
        let slot = Slot::from_bits(disk.slot).map_err(|_| bad)?;
        let crc = disk.crc.get();
        let unused = i >= entries.len();
        if disk.reserved != [0; 3] || (slot.is_none() && crc != 0) || (unused && slot.is_some()) {
            return Err(bad);
        }
        if let Some(e) = entries.get_mut(i) {
            *e = PageEntry { slot, crc };
        }
    }
    Ok(())
}

/// Returns whether a block's checksum is right, whatever its content.
pub fn has_valid_crc(block: &[u8]) -> bool {
    DiskDirectoryHead::ref_from_prefix(block)
        .is_ok_and(|(h, _)| h.magic == MAGIC && has_valid_checksum(block))
}

/// Returns whether a block is a whole one of this leaf, from any checkpoint.
pub fn is_sound(block: &[u8], at: u32, nonce: u64) -> bool {
    DiskDirectoryHead::ref_from_prefix(block).is_ok_and(|(h, _)| {
        h.magic == MAGIC
            && has_valid_checksum(block)
            && h.index.get() == at
            && h.nonce.get() == nonce
    })
}

/// Returns whether a block that [`decode`] refuses was written for this leaf, see
/// [`checksum::was_of_leaf`].
pub fn was_of_leaf(block: &[u8], nonce: u64) -> bool {
    DiskDirectoryHead::ref_from_prefix(block)
        .is_ok_and(|(h, _)| checksum::was_of_leaf(block, h.magic == MAGIC, h.nonce.get() == nonce))
}

/// Returns the entry of a map page in the list of all entries.
pub fn entry(entries: &[PageEntry], page: MapPage) -> Result<PageEntry> {
    entries
        .get(u32_as_usize(page.0))
        .copied()
        .ok_or(Error::Internal)
}

/// Returns the directory block that names a map page.
pub fn block_of(page: MapPage) -> u32 {
    page.0 / DIRECTORY_ENTRIES
}

/// Returns the pages that directory block `at` names, of `pages` in all.
pub fn pages_of(at: u32, pages: u32) -> Range<MapPage> {
    // `pages` bounds both, so the pages of a block that does not exist are none.
    let first = at.saturating_mul(DIRECTORY_ENTRIES).min(pages);
    let end = first.saturating_add(DIRECTORY_ENTRIES).min(pages);
    MapPage(first)..MapPage(end)
}

/// Returns the indices of these pages in the list of all entries.
pub fn indices_of(at: u32, pages: u32) -> Range<usize> {
    let pages = pages_of(at, pages);
    u32_as_usize(pages.start.0)..u32_as_usize(pages.end.0)
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_directory))]
mod tests {
    use super::super::super::error::Error;
    use super::super::super::geometry::MapPage;
    use super::super::super::leaf_block::LeafBlock;
    use super::super::super::slot::Slot;
    use super::{block_of, decode, encode, indices_of, PageEntry};

    #[test]
    fn round_trip_and_refusals() {
        let mut block = [0u8; 4096];
        let list = [
            PageEntry {
                slot: Some(Slot::B),
                crc: 77,
            },
            PageEntry::EMPTY,
            PageEntry {
                slot: Some(Slot::A),
                crc: 0,
            },
        ];
        assert!(encode(&mut block, 2, 10, 55, &list).is_ok());
        let mut back = [PageEntry::EMPTY; 3];
        let at = LeafBlock(0);
        assert!(decode(&block, 2, 10, 55, at, &mut back).is_ok());
        assert!(back == list);
        assert!(decode(&block, 1, 10, 55, at, &mut back).is_err());
        assert!(decode(&block, 2, 9, 55, at, &mut back).is_err());
        assert!(decode(&block, 2, 10, 56, at, &mut back).is_err());
        assert!(decode(&block, 2, 10, 55, at, &mut back[..2]).is_err());
        assert!(decode(&block[..4000], 2, 10, 55, at, &mut back).is_err());
        assert!(super::check(&block, 2, 10, 56, &mut back) == Err(24));
        assert!(super::check(&block, 2, 10, 55, &mut back[..2]) == Err(48));
        assert!(!super::was_of_leaf(&block, 56) && !super::was_of_leaf(&[0; 4096], 55));
        assert!(super::is_sound(&block, 2, 55));
        assert!(!super::is_sound(&block, 1, 55) && !super::is_sound(&block, 2, 56));
        for byte in [0, 5, 9, 13, 17, 25, 40, 4095] {
            block[byte] ^= 1;
            assert!(decode(&block, 2, 10, 55, at, &mut back).is_err());
            assert!(!super::is_sound(&block, 2, 55));
            assert!(super::was_of_leaf(&block, 55));
            block[byte] ^= 1;
        }
    }

    #[test]
    fn more_entries_than_a_block_holds_are_refused() {
        let mut block = [0u8; 4096];
        let list = [PageEntry::EMPTY; 509];
        assert!(encode(&mut block, 0, 1, 1, &list) == Err(Error::Internal));
        assert!(encode(&mut block, 0, 1, 1, &list[..508]).is_ok());
    }

    #[test]
    fn pages_are_divided_among_blocks() {
        assert!(indices_of(0, 600) == (0..508));
        assert!(indices_of(1, 600) == (508..600));
        assert!(indices_of(2, 600) == (600..600));
        assert_eq!(block_of(MapPage(507)), 0);
        assert_eq!(block_of(MapPage(508)), 1);
    }
}
