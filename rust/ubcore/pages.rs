// SPDX-License-Identifier: GPL-2.0

//! Copies map pages between memory and the leaf's bytes.
//!
//! Table pages are 1024 little-endian 32-bit entries. Bits pages are 512 little-endian 64-bit
//! words. Both are as [`super::map`] has them. Pages have consecutive numbers, those of the table
//! first.

use super::error::{Area, Error, Result};
use super::format::crc::crc32c;
use super::format::directory::PageEntry;
use super::format::superblock::Slot;
use super::geometry::{BITS_WORDS, BLOCK_BYTES, TABLE_ENTRIES};
use super::map::{Entry, Map, Memory};
use super::num::{saturating_u32, u32_as_usize, usize_as_u64};
use super::sync::Ordering;

/// The page that a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// A page of the slab table.
    Table(u32),
    /// A page of sector bits.
    Bits(u32),
}

/// Decodes a page number.
pub fn page<M: Memory>(map: &Map<M>, number: u32) -> PageKind {
    match number.checked_sub(map.geometry().table_pages()) {
        Some(n) => PageKind::Bits(n),
        None => PageKind::Table(number),
    }
}

/// Returns the number of the page that holds the entry of root slab `slab`.
pub fn table_page_of(slab: u32) -> u32 {
    slab / TABLE_ENTRIES
}

/// Returns the number of the page that holds the bits of leaf slab `leaf`. A slab's bits are always
/// in one page.
pub fn bits_page_of<M: Memory>(map: &Map<M>, leaf: u32) -> u32 {
    let g = map.geometry();
    let bit = u64::from(leaf).wrapping_shl(g.slab_shift());
    g.table_pages()
        .saturating_add(saturating_u32(bit / super::geometry::BITS_SECTORS))
}

/// Returns whether the page that holds the bits of leaf slab `leaf` exists.
pub fn has_bits<M: Memory>(map: &Map<M>, leaf: u32) -> bool {
    let page = bits_page_of(map, leaf).checked_sub(map.geometry().table_pages());
    page.and_then(|n| map.memory().bits(n)).is_some()
}

/// Copies page `number` of the map into `block` (4096 bytes).
///
/// An assignment that no commit has covered is left out, because its slab's bits on disk may be
/// those of an earlier owner. Fails if an entry is lost (I14). Only the committer calls this.
pub fn store<M: Memory>(map: &Map<M>, number: u32, block: &mut [u8]) -> Result {
    block.fill(0);
    match page(map, number) {
        PageKind::Table(n) => {
            let Some(table) = map.memory().table(n) else {
                return Ok(());
            };
            let lost = Error::Damaged(Area::Map, map.geometry().page_block(number, 0));
            for (entry, room) in table.iter().zip(block.as_chunks_mut_4()) {
                let e = Entry::decode(entry.load(Ordering::Acquire));
                let mut e = e.at_rest().ok_or(lost)?;
                e.leaf = e.leaf.filter(|&l| !map.is_fresh(l));
                *room = e.encode().to_le_bytes();
            }
        }
        PageKind::Bits(n) => {
            let Some(bits) = map.memory().bits(n) else {
                return Ok(());
            };
            for (word, room) in bits.iter().zip(block.as_chunks_mut_8()) {
                *room = word.load(Ordering::Acquire).to_le_bytes();
            }
        }
    }
    Ok(())
}

/// CRC32C of a page of zeroes.
const EMPTY_CRC: u32 = 0x98f9_4189;

/// Returns whether a page is all zeroes on the leaf, as far as its entry tells.
pub fn is_empty(entry: &PageEntry) -> bool {
    entry.slot == Slot::None || entry.crc == EMPTY_CRC
}

/// Returns whether a block is all zeroes. This is quicker than a checksum of the block.
fn is_zero(block: &[u8]) -> bool {
    // There is no early exit, so that many bytes are handled at a time.
    block.iter().fold(0, |all, byte| all | byte) == 0
}

/// Returns the CRC32C of a page's 4096 bytes.
pub fn crc(page: &[u8]) -> u32 {
    if page.len() == BLOCK_BYTES && is_zero(page) {
        return EMPTY_CRC;
    }
    crc32c(0, page)
}

/// Fills page `number` of the map, which is empty, from `block`. No other thread may use the map.
///
/// A page of zeroes takes no memory, because a map without the page says the same.
pub fn load<M: Memory>(map: &Map<M>, number: u32, block: &[u8]) -> Result {
    if is_zero(block) {
        return Ok(());
    }
    match page(map, number) {
        PageKind::Table(n) => {
            map.memory().grow_table(n)?;
            let table = map.memory().table(n).ok_or(Error::Internal)?;
            for (entry, bytes) in table.iter().zip(block.chunks_exact(4)) {
                let bytes = bytes.first_chunk::<4>().copied().unwrap_or_default();
                entry.store(u32::from_le_bytes(bytes), Ordering::Release);
            }
        }
        PageKind::Bits(n) => {
            map.memory().grow_bits(n)?;
            let bits = map.memory().bits(n).ok_or(Error::Internal)?;
            for (word, bytes) in bits.iter().zip(block.chunks_exact(8)) {
                let bytes = bytes.first_chunk::<8>().copied().unwrap_or_default();
                word.store(u64::from_le_bytes(bytes), Ordering::Release);
            }
        }
    }
    Ok(())
}

/// Slices of a block as arrays. `slice::as_chunks` itself is younger than our compiler.
trait Chunks {
    fn as_chunks_mut_4(&mut self) -> impl Iterator<Item = &mut [u8; 4]>;
    fn as_chunks_mut_8(&mut self) -> impl Iterator<Item = &mut [u8; 8]>;
}

impl Chunks for [u8] {
    fn as_chunks_mut_4(&mut self) -> impl Iterator<Item = &mut [u8; 4]> {
        self.chunks_exact_mut(4).filter_map(|c| c.first_chunk_mut())
    }

    fn as_chunks_mut_8(&mut self) -> impl Iterator<Item = &mut [u8; 8]> {
        self.chunks_exact_mut(8).filter_map(|c| c.first_chunk_mut())
    }
}

/// A set of map pages, with one bit for each.
pub struct PageSet<B> {
    words: B,
    len: u32,
}

impl<B: core::ops::DerefMut<Target = [u64]>> PageSet<B> {
    /// Returns an empty set. `words` is zero and has a bit for each page.
    pub fn new(words: B) -> Self {
        PageSet { words, len: 0 }
    }

    /// Returns the number of pages in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a page.
    pub fn add(&mut self, page: u32) {
        let _ = self.insert(page);
    }

    /// Adds a page. Returns whether it is new.
    pub fn insert(&mut self, page: u32) -> bool {
        let bit = 1u64.wrapping_shl(page % 64);
        let word = self.words.get_mut(u32_as_usize(page / 64));
        let Some(word) = word.filter(|w| **w & bit == 0) else {
            return false;
        };
        *word |= bit;
        self.len = self.len.saturating_add(1);
        true
    }

    /// Removes a page.
    pub fn remove(&mut self, page: u32) {
        let bit = 1u64.wrapping_shl(page % 64);
        let word = self.words.get_mut(u32_as_usize(page / 64));
        if let Some(word) = word.filter(|w| **w & bit != 0) {
            *word &= !bit;
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        if self.len > 0 {
            self.words.fill(0);
            self.len = 0;
        }
    }

    /// Returns whether a page is in the set.
    pub fn has(&self, page: u32) -> bool {
        let word = self
            .words
            .get(u32_as_usize(page / 64))
            .copied()
            .unwrap_or(0);
        word & 1u64.wrapping_shl(page % 64) != 0
    }

    /// Returns the first page of the set at or after `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        let (first, rest) = (u32_as_usize(from / 64), from % 64);
        for (at, &word) in self.words.iter().enumerate().skip(first) {
            let word = if at == first {
                word & u64::MAX.wrapping_shl(rest)
            } else {
                word
            };
            if word != 0 {
                let base = saturating_u32(usize_as_u64(at).wrapping_mul(64));
                return base.checked_add(word.trailing_zeros());
            }
        }
        None
    }
}

const _: () = assert!(TABLE_ENTRIES * 4 == 4096 && BITS_WORDS * 8 == 4096);
