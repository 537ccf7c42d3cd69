// SPDX-License-Identifier: GPL-2.0

//! Copies map pages between memory and the leaf's bytes.
//!
//! Table pages are 1024 little-endian 32-bit entries. Bits pages are 512 little-endian 64-bit
//! words. Both are as [`super::map`] has them. Pages have consecutive numbers, those of the table
//! first.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, transmute_ref};

use super::bits::Bitmap;
use super::error::{Area, Error, Result};
use super::format::crc::crc32c;
use super::format::directory::PageEntry;
use super::geometry::{Block, LeafSlab, MapPage, BITS_SECTORS, BITS_WORDS, TABLE_ENTRIES};
use super::map::{Entry, Map, Memory, Pages};
use super::num::saturating_u32;
use super::slot::Slot;
use super::sync::Ordering;

/// A page of the slab table as it lies on the leaf.
type DiskTable = [U32; TABLE_ENTRIES as usize];
/// A page of sector bits as it lies on the leaf.
type DiskBits = [U64; BITS_WORDS as usize];

/// A map page, by its number within the table or within the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// A page of the slab table.
    Table(u32),
    /// A page of sector bits.
    Bits(u32),
}

/// Returns whether a map page is of the table or of the bits, and its number there.
pub fn kind_of<M: Memory>(map: &Map<M>, page: MapPage) -> PageKind {
    match page.0.checked_sub(map.geometry().table_pages()) {
        Some(n) => PageKind::Bits(n),
        None => PageKind::Table(page.0),
    }
}

/// Returns the page that holds the entry of a root slab.
pub fn table_page_of(slab: u32) -> MapPage {
    MapPage::table(slab / TABLE_ENTRIES)
}

/// Returns the number of the page of sector bits that holds the bits of a leaf slab. These bits are
/// always in one page.
fn bits_of<M: Memory>(map: &Map<M>, leaf_slab: LeafSlab) -> u32 {
    saturating_u32(map.geometry().first_data_sector(leaf_slab) / BITS_SECTORS)
}

/// Returns the page that holds the bits of a leaf slab.
pub fn bits_page_of<M: Memory>(map: &Map<M>, leaf_slab: LeafSlab) -> MapPage {
    map.geometry().bits_page(bits_of(map, leaf_slab))
}

/// Returns whether the page that holds the bits of a leaf slab exists.
pub fn has_bits<M: Memory>(map: &Map<M>, leaf_slab: LeafSlab) -> bool {
    map.memory().bits(bits_of(map, leaf_slab)).is_some()
}

/// Copies a page of the map into `block`.
///
/// An assignment that no commit has covered is left out, because its slab's bits on disk may be
/// those of an earlier owner. Fails if an entry is lost (I14). Only the committer calls this.
pub fn store<M: Memory>(map: &Map<M>, at: MapPage, block: &mut Block) -> Result {
    match kind_of(map, at) {
        PageKind::Table(n) => {
            let Some(table) = map.memory().table(n) else {
                block.fill(0);
                return Ok(());
            };
            let room: &mut DiskTable = transmute_mut!(block);
            let lost = Error::Damaged(Area::Map, map.geometry().page_block(at, Slot::A));
            for (entry, room) in table.iter().zip(room) {
                let e = Entry::decode(entry.load(Ordering::Acquire));
                let mut e = e.at_rest().ok_or(lost)?;
                e.leaf_slab = e.leaf_slab.filter(|&l| !map.is_fresh(l));
                *room = U32::new(e.encode());
            }
        }
        PageKind::Bits(n) => {
            let Some(bits) = map.memory().bits(n) else {
                block.fill(0);
                return Ok(());
            };
            let room: &mut DiskBits = transmute_mut!(block);
            for (word, room) in bits.iter().zip(room) {
                *room = U64::new(word.load(Ordering::Acquire));
            }
        }
    }
    Ok(())
}

/// CRC32C of a page of zeroes.
const EMPTY_CRC: u32 = 0x98f9_4189;

/// Returns whether a page is all zeroes on the leaf, as far as its entry tells.
pub fn is_empty(entry: &PageEntry) -> bool {
    entry.slot.is_none() || entry.crc == EMPTY_CRC
}

/// Returns whether a block is all zeroes. This is quicker than a checksum of the block.
fn is_zero(block: &Block) -> bool {
    // There is no early exit, so that many bytes are handled at a time.
    block.iter().fold(0, |all, byte| all | byte) == 0
}

/// Returns the CRC32C of a page.
pub fn crc(page: &Block) -> u32 {
    if is_zero(page) {
        return EMPTY_CRC;
    }
    crc32c(0, page)
}

/// Fills a page of the map, which is empty, from `block`. No other thread may use the map.
///
/// A page of zeroes takes no memory, because a map without the page reads the same. Fails with
/// `NoMemory`, or with `Internal` if there is no such page.
pub fn load<M: Memory>(map: &Map<M>, at: MapPage, block: &Block) -> Result {
    if is_zero(block) {
        return Ok(());
    }
    match kind_of(map, at) {
        PageKind::Table(n) => {
            map.memory().grow(Pages::Table, n)?;
            let table = map.memory().table(n).ok_or(Error::Internal)?;
            let stored: &DiskTable = transmute_ref!(block);
            for (entry, stored) in table.iter().zip(stored) {
                entry.store(stored.get(), Ordering::Release);
            }
        }
        PageKind::Bits(n) => {
            map.memory().grow(Pages::Bits, n)?;
            let bits = map.memory().bits(n).ok_or(Error::Internal)?;
            let stored: &DiskBits = transmute_ref!(block);
            for (word, stored) in bits.iter().zip(stored) {
                word.store(stored.get(), Ordering::Release);
            }
        }
    }
    Ok(())
}

/// A set of map pages.
pub struct PageSet<B> {
    pages: Bitmap<B>,
    len: u32,
}

impl<B: core::ops::DerefMut<Target = [u64]>> PageSet<B> {
    /// Returns an empty set. `words` is zero and has a bit for each page.
    pub fn new(words: B) -> Self {
        let pages = Bitmap::new(words);
        PageSet { pages, len: 0 }
    }

    /// Returns the number of pages in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a page. Returns whether it is new. Fails with `Internal` if there is no such page.
    pub fn insert(&mut self, page: MapPage) -> Result<bool> {
        let new = self.pages.insert(page.0)?;
        // `len` is the number of bits that are set, here and below.
        self.len = self.len.wrapping_add(u32::from(new));
        Ok(new)
    }

    /// Removes a page.
    pub fn remove(&mut self, page: MapPage) {
        let removed = self.pages.remove(page.0);
        self.len = self.len.wrapping_sub(u32::from(removed));
    }

    /// Removes all pages.
    pub fn clear(&mut self) {
        if self.len > 0 {
            self.pages.clear();
            self.len = 0;
        }
    }

    /// Returns whether a page is in the set.
    pub fn has(&self, page: MapPage) -> bool {
        self.pages.has(page.0)
    }

    /// Returns the first page of the set at or after `from`.
    pub fn next(&self, from: MapPage) -> Option<MapPage> {
        self.pages.next(from.0).map(MapPage)
    }
}
