// SPDX-License-Identifier: GPL-2.0

//! The layout of a leaf, derived from sizes in the superblock.
//!
//! In blocks of 4096 bytes: superblock slots A and B, the journal ring, the page directory in two
//! slots, the map pages in two slots, the list of root and layers; then, aligned, the data slabs.

mod room;

use core::fmt;
use core::ops::Range;

use super::error::{Error, Result, Role};
use super::format::below_list;
use super::leaf_block::LeafBlock;
use super::num::{align_up, next, saturating_u32};
use super::slot::Slot;
use super::stack::chain::LAYERS_MAX;

pub use self::room::SparePages;

/// Bytes of a metadata block.
pub const BLOCK_BYTES: usize = 4096;
/// A metadata block.
pub type Block = [u8; BLOCK_BYTES];
/// Sectors of a metadata block.
pub const BLOCK_SECTORS: u64 = 8;
/// Entries of a page of the slab table, and of the owners.
pub const TABLE_ENTRIES: u32 = 1024;
/// 64-bit words of a page of sector bits.
pub const BITS_WORDS: u32 = 512;
/// Sectors of leaf data that a page of sector bits covers.
pub const BITS_SECTORS: u64 = 32768;
/// Map pages that one directory block names.
pub const DIRECTORY_ENTRIES: u32 = 508;
/// Directory blocks that a superblock names. They bound the size of a leaf (about 7.7 TiB).
pub const DIRECTORY_BLOCKS_MAX: u32 = 992;
/// Most map pages of a leaf.
const PAGES_MAX: u32 = DIRECTORY_BLOCKS_MAX * DIRECTORY_ENTRIES;
/// Smallest slab, in sectors (16 KiB).
pub const SLAB_SECTORS_MIN: u32 = 32;
/// Largest slab, in sectors (4 MiB).
pub const SLAB_SECTORS_MAX: u32 = 8192;
/// Default slab size, in sectors (64 KiB).
pub const SLAB_SECTORS_DEFAULT: u32 = 128;
/// Data is aligned to at least this many sectors (1 MiB).
pub const DATA_ALIGN: u64 = 2048;
/// Most slabs of a root or leaf, because some values and a flag bit of a table entry are taken.
pub const SLABS_MAX: u64 = 0x7fff_fff0;
/// The two superblock slots come first.
pub const SUPERBLOCKS: u64 = 2;
/// Smallest and largest journal ring, in blocks: see [`is_journal_size`].
const JOURNAL_BLOCKS_MIN: u32 = 16;
/// See [`JOURNAL_BLOCKS_MIN`].
const JOURNAL_BLOCKS_MAX: u32 = 65536;

/// The number of a leaf slab. The numbers of root slabs are plain, so the compiler finds where one
/// number stands for the other.
///
/// It may be a number that the leaf does not have: see [`Geometry::has_leaf_slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LeafSlab(pub u32);

impl LeafSlab {
    /// Returns the slab `n` after this one, if there is such a number.
    #[inline]
    pub fn checked_add(self, n: u32) -> Option<Self> {
        self.0.checked_add(n).map(LeafSlab)
    }

    /// Returns the slab `n` before this one, if there is such a number.
    #[inline]
    pub fn checked_sub(self, n: u32) -> Option<Self> {
        self.0.checked_sub(n).map(LeafSlab)
    }

    /// Returns the slab `n` after this one. The number wraps, as the steps of the journal do.
    #[inline]
    pub fn wrapping_add(self, n: u32) -> Self {
        LeafSlab(self.0.wrapping_add(n))
    }

    /// Returns the slab `n` before this one. The number wraps, as the steps of the journal do.
    #[inline]
    pub fn wrapping_sub(self, n: u32) -> Self {
        LeafSlab(self.0.wrapping_sub(n))
    }

    /// Returns how many slabs this one is after `earlier`. The distance wraps.
    #[inline]
    pub fn steps_from(self, earlier: LeafSlab) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Returns the slabs of a range, one by one.
    pub fn each(range: Range<LeafSlab>) -> impl Iterator<Item = LeafSlab> {
        (range.start.0..range.end.0).map(LeafSlab)
    }
}

impl fmt::Display for LeafSlab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a map page among all map pages: those of the slab table come first, then those of
/// the sector bits. The number of a page within the table or within the bits is plain, so the
/// compiler finds where one number stands for the other.
///
/// It may be a number that the leaf does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct MapPage(pub u32);

impl MapPage {
    /// Returns page `n` of the slab table.
    pub const fn table(n: u32) -> Self {
        MapPage(n)
    }

    /// Returns the page after this one. The numbers of pages fit 31 bits.
    pub const fn next(self) -> Self {
        MapPage(next(self.0))
    }

    /// Returns the pages of a range, one by one.
    pub fn each(range: Range<MapPage>) -> impl Iterator<Item = MapPage> {
        (range.start.0..range.end.0).map(MapPage)
    }
}

impl fmt::Display for MapPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The layout of one leaf. All positions derive from the sizes that it is made of.
///
/// # Invariants
///
/// Every sum and product of the fields fits 63 bits. The numbers of slabs, pages, and blocks of the
/// ring fit 31 bits, and so do the numbers of the slabs of a page. So sums and products of these do
/// not wrap, and the code does not check them. `slab_sectors` is a power of two within
/// its bounds. There is at least one leaf slab, and data ends within the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    root_sectors: u64,
    union_sectors: u64,
    leaf_sectors: u64,
    /// The slab size, and its binary logarithm.
    slab_sectors: u32,
    slab_shift: u32,
    journal_blocks: u32,
    root_slabs: u32,
    leaf_slabs: u32,
    table_pages: u32,
    bits_pages: u32,
    layers: u32,
    lists_root: bool,
    data_start: u64,
}

/// Returns whether a journal ring may have this many blocks.
pub fn is_journal_size(blocks: u32) -> bool {
    (JOURNAL_BLOCKS_MIN..=JOURNAL_BLOCKS_MAX).contains(&blocks)
}

/// Returns the size of the journal ring that a leaf of this size gets when formatted: a 256th of
/// it, 64 KiB to 8 MiB.
pub fn default_journal_blocks(leaf_sectors: u64) -> u32 {
    let blocks = leaf_sectors / BLOCK_SECTORS / 256;
    saturating_u32(blocks.clamp(u64::from(JOURNAL_BLOCKS_MIN), 2048))
}

impl Geometry {
    /// Derives the layout. Sizes are in sectors. `union_sectors` is the size of the union.
    ///
    /// Fails if a size is out of the format's bounds or the leaf cannot hold one slab. No error
    /// names the journal: if [`is_journal_size`] refuses its size, it is [`Error::Internal`], and a
    /// caller that reads the size from a leaf or a user must say so itself.
    pub fn new(
        root_sectors: u64,
        union_sectors: u64,
        leaf_sectors: u64,
        slab_sectors: u32,
        journal_blocks: u32,
    ) -> Result<Self> {
        if !slab_sectors.is_power_of_two()
            || !(SLAB_SECTORS_MIN..=SLAB_SECTORS_MAX).contains(&slab_sectors)
        {
            return Err(Error::SlabSize(u64::from(slab_sectors)));
        }
        if !is_journal_size(journal_blocks) {
            return Err(Error::Internal);
        }
        let slab = u64::from(slab_sectors);
        let root_slabs = union_sectors.div_ceil(slab);
        if union_sectors == 0 || root_slabs > SLABS_MAX || root_sectors > union_sectors {
            return Err(Error::TooLarge(Role::Root, union_sectors.max(root_sectors)));
        }
        // The bound for the bits, as if the leaf held only data.
        let shift = slab_sectors.trailing_zeros();
        let most = leaf_sectors >> shift;
        if most > SLABS_MAX {
            return Err(Error::TooLarge(Role::Leaf, leaf_sectors));
        }
        let mut g = Geometry {
            root_sectors,
            union_sectors,
            leaf_sectors,
            slab_sectors,
            slab_shift: shift,
            journal_blocks,
            root_slabs: saturating_u32(root_slabs),
            leaf_slabs: 0,
            table_pages: 0,
            bits_pages: 0,
            layers: 0,
            lists_root: root_sectors > 0,
            data_start: 0,
        };
        g.set_pages(SparePages::default())?;
        g.place_data()?;
        Ok(g)
    }

    /// Returns the layout of a leaf of the same sizes that lists `layers` layers below it.
    ///
    /// Fails if these are more than a stack can have, or the leaf then cannot hold one slab.
    pub fn over(mut self, layers: u32) -> Result<Self> {
        if layers > LAYERS_MAX {
            return Err(Error::LayerCount(u64::from(LAYERS_MAX), u64::from(layers)));
        }
        self.layers = layers;
        self.place_data()?;
        Ok(self)
    }

    /// Returns the layout of a leaf of the same sizes whose list does not begin with the root. A
    /// leaf that was formatted before that list had roots has this layout.
    pub fn without_listed_root(mut self) -> Result<Self> {
        self.lists_root = false;
        self.place_data()?;
        Ok(self)
    }

    /// Places the data behind the metadata.
    fn place_data(&mut self) -> Result {
        let slab = u64::from(self.slab_sectors());
        let leaf_sectors = self.leaf_sectors;
        let align = slab.max(DATA_ALIGN);
        let end = self
            .below_list_start()
            .wrapping_add(u64::from(self.below_list_blocks()));
        let start = end
            .checked_mul(BLOCK_SECTORS)
            .and_then(|s| align_up(s, align))
            .ok_or(Error::TooLarge(Role::Leaf, leaf_sectors))?;
        // A sum that saturates is larger than every leaf, so the check refuses it.
        let least = start.saturating_add(slab);
        if leaf_sectors < least {
            return Err(Error::LeafTooSmall(least, leaf_sectors));
        }
        self.data_start = start;
        self.count_leaf_slabs();
        Ok(())
    }

    fn count_leaf_slabs(&mut self) {
        let data = self.leaf_sectors.wrapping_sub(self.data_start);
        self.leaf_slabs = saturating_u32(data >> self.slab_shift);
    }

    /// Returns the size of the root, in sectors.
    #[inline]
    pub fn root_sectors(&self) -> u64 {
        self.root_sectors
    }

    /// Returns the size of the union, in sectors.
    #[inline]
    pub fn union_sectors(&self) -> u64 {
        self.union_sectors
    }

    /// Returns the size of the leaf as formatted or grown, in sectors.
    pub fn leaf_sectors(&self) -> u64 {
        self.leaf_sectors
    }

    /// Returns the size of a slab, in sectors.
    #[inline]
    pub fn slab_sectors(&self) -> u32 {
        self.slab_sectors
    }

    /// Returns the binary logarithm of the slab size in sectors.
    #[inline]
    pub fn slab_shift(&self) -> u32 {
        self.slab_shift
    }

    /// Returns the number of slabs of the union's address space.
    #[inline]
    pub fn root_slabs(&self) -> u32 {
        self.root_slabs
    }

    /// Returns the number of slabs that the leaf has for data.
    #[inline]
    pub fn leaf_slabs(&self) -> u32 {
        self.leaf_slabs
    }

    /// Returns whether the leaf has a slab of this number.
    #[inline]
    pub fn has_leaf_slab(&self, leaf_slab: LeafSlab) -> bool {
        leaf_slab.0 < self.leaf_slabs
    }

    /// Returns the first data sector of a leaf slab: its first sector, counted from the start of
    /// the data.
    #[inline]
    pub fn first_data_sector(&self, leaf_slab: LeafSlab) -> u64 {
        u64::from(leaf_slab.0).wrapping_shl(self.slab_shift)
    }

    /// Returns the data sector at a position within a leaf slab, counted as
    /// [`Geometry::first_data_sector`] does.
    #[inline]
    pub fn data_sector(&self, leaf_slab: LeafSlab, offset: u32) -> u64 {
        self.first_data_sector(leaf_slab)
            .wrapping_add(u64::from(offset))
    }

    /// Returns the first sector of the data slabs on the leaf.
    #[inline]
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Returns the root slab of a union sector (within the union).
    #[inline]
    pub fn slab_of(&self, sector: u64) -> u32 {
        saturating_u32(sector.wrapping_shr(self.slab_shift))
    }

    /// Returns the position of a union sector within its slab.
    #[inline]
    pub fn offset_in_slab(&self, sector: u64) -> u32 {
        // The mask fits 32 bits, and so does the result.
        saturating_u32(sector & u64::from(self.slab_sectors().wrapping_sub(1)))
    }

    /// Returns the root slabs that lie within a range as a whole. The union's last slab counts as
    /// whole if the range reaches the union's end.
    pub fn whole_slabs(&self, sector: u64, sectors: u32) -> Range<u32> {
        let slab = u64::from(self.slab_sectors());
        // A range past the last number ends there, and that is past the union's end.
        let end = sector.saturating_add(u64::from(sectors));
        let first = sector.saturating_add(slab.wrapping_sub(1)) >> self.slab_shift;
        let last = if end >= self.union_sectors {
            u64::from(self.root_slabs)
        } else {
            end >> self.slab_shift
        };
        saturating_u32(first.min(last))..saturating_u32(last)
    }

    /// Returns the first union sector of a root slab.
    #[inline]
    pub fn slab_start(&self, slab: u32) -> u64 {
        u64::from(slab).wrapping_shl(self.slab_shift)
    }

    /// Returns the first sector on the leaf of a leaf slab.
    #[inline]
    pub fn leaf_slab_start(&self, leaf_slab: LeafSlab) -> u64 {
        self.data_start
            .wrapping_add(self.first_data_sector(leaf_slab))
    }

    /// Returns the number of pages of the slab table, including spare pages. Page `n` has the root
    /// slabs from `1024 n`.
    pub fn table_pages(&self) -> u32 {
        self.table_pages
    }

    /// Returns the number of pages of sector bits, including spare pages. Page `n` has the leaf's
    /// data sectors from `32768 n`.
    pub fn bits_pages(&self) -> u32 {
        self.bits_pages
    }

    /// Returns the number of all map pages: first those of the table, then those of the bits.
    pub fn pages(&self) -> u32 {
        self.bits_page(self.bits_pages).0
    }

    /// Returns page `n` of the sector bits.
    pub fn bits_page(&self, n: u32) -> MapPage {
        MapPage(self.table_pages.wrapping_add(n))
    }

    /// Returns the root slabs that page `page` of the slab table has entries for. The last of its
    /// pages, and spare pages, have entries past the last slab.
    pub fn root_slabs_of(&self, page: u32) -> Range<u32> {
        let first = page.wrapping_mul(TABLE_ENTRIES);
        first..first.wrapping_add(TABLE_ENTRIES)
    }

    /// Returns the leaf slabs that page `page` of the sector bits has the bits of. The last of its
    /// pages, and spare pages, have bits past the last slab.
    pub fn leaf_slabs_of(&self, page: u32) -> Range<LeafSlab> {
        let each = saturating_u32(BITS_SECTORS.wrapping_shr(self.slab_shift));
        let first = LeafSlab(page.wrapping_mul(each));
        first..first.wrapping_add(each)
    }

    /// Returns the number of blocks of the page directory.
    pub fn directory_blocks(&self) -> u32 {
        self.pages().div_ceil(DIRECTORY_ENTRIES)
    }

    /// Returns the number of blocks of the journal ring.
    pub fn journal_blocks(&self) -> u32 {
        self.journal_blocks
    }

    /// Returns the block of the leaf at which ring position `at` lies.
    pub fn journal_block(&self, at: u32) -> LeafBlock {
        LeafBlock(SUPERBLOCKS.wrapping_add(u64::from(at)))
    }

    fn directory_start(&self) -> u64 {
        SUPERBLOCKS.wrapping_add(u64::from(self.journal_blocks))
    }

    /// Returns the block of the leaf that holds a slot of directory block `at`.
    pub fn directory_block(&self, at: u32, slot: Slot) -> LeafBlock {
        let first = self
            .directory_start()
            .wrapping_add(skipped(slot, self.directory_blocks()));
        LeafBlock(first.wrapping_add(u64::from(at)))
    }

    fn pages_start(&self) -> u64 {
        self.directory_start()
            .wrapping_add(u64::from(self.directory_blocks()).wrapping_mul(2))
    }

    /// Returns the block of the leaf that holds a slot of a map page.
    pub fn page_block(&self, page: MapPage, slot: Slot) -> LeafBlock {
        let first = self.pages_start().wrapping_add(skipped(slot, self.pages()));
        LeafBlock(first.wrapping_add(u64::from(page.0)))
    }

    /// Returns the number of layers that the leaf lists.
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// Returns the number of entries of the list of root and layers.
    pub fn below_entries(&self) -> u32 {
        // At most 255.
        self.layers.wrapping_add(u32::from(self.lists_root))
    }

    /// Returns whether the list of root and layers begins with the root.
    pub fn lists_root(&self) -> bool {
        self.lists_root
    }

    /// Returns the number of blocks of the list of root and layers.
    pub fn below_list_blocks(&self) -> u32 {
        below_list::blocks_for(self.below_entries())
    }

    /// Returns the first block of the list of root and layers, where the list has blocks.
    fn below_list_start(&self) -> u64 {
        self.pages_start()
            .wrapping_add(u64::from(self.pages()).wrapping_mul(2))
    }

    /// Returns block `n` of the list of root and layers, see [`Geometry::below_list_blocks`].
    pub fn below_list_block(&self, n: u32) -> LeafBlock {
        LeafBlock(self.below_list_start().wrapping_add(u64::from(n)))
    }
}

/// Returns the block of the leaf that holds a slot of the superblock.
pub fn superblock_block(slot: Slot) -> LeafBlock {
    LeafBlock(skipped(slot, 1))
}

/// Returns the number of blocks before the blocks of a slot, in an area that has `blocks` of each.
fn skipped(slot: Slot, blocks: u32) -> u64 {
    match slot {
        Slot::A => 0,
        Slot::B => u64::from(blocks),
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_geometry))]
mod tests {
    use super::super::error::Error;
    use super::super::slot::Slot::{A, B};
    use super::{Geometry, LeafBlock, LeafSlab, MapPage, BLOCK_SECTORS};

    const MIB: u64 = 2048;

    #[test]
    fn areas_do_not_overlap() {
        for (root, leaf, slab, journal) in [
            (64 * MIB, 16 * MIB, 128, 16),
            (10 * 1024 * MIB, 1024 * MIB, 32, 1024),
            (100, 8 * MIB, 8192, 16),
            (2048 * 1024 * MIB, 4096 * 1024 * MIB, 128, 2048),
        ] {
            let g = Geometry::new(root, root, leaf, slab, journal);
            assert!(g.is_ok());
            if let Ok(g) = g {
                assert_eq!(g.journal_block(0), LeafBlock(2));
                assert_eq!(g.directory_block(0, A), LeafBlock(2 + u64::from(journal)));
                assert!(g.directory_block(0, B) > g.directory_block(g.directory_blocks() - 1, A));
                assert!(
                    g.page_block(MapPage(0), A) > g.directory_block(g.directory_blocks() - 1, B)
                );
                let last = MapPage(g.pages() - 1);
                assert!(g.page_block(MapPage(0), B) > g.page_block(last, A));
                assert!(g.data_start() >= (g.page_block(last, B).0 + 1) * BLOCK_SECTORS);
                assert_eq!(g.data_start() % MIB, 0);
                assert_eq!(g.data_start() % u64::from(slab), 0);
                assert!(g.leaf_slabs() > 0);
                assert!(g.leaf_slab_start(LeafSlab(g.leaf_slabs())) <= leaf);
                assert!(g.slab_start(g.root_slabs()) >= root);
            }
        }
    }

    #[test]
    fn a_ring_is_a_share_of_the_leaf() {
        let share = super::default_journal_blocks;
        assert_eq!(share(0), 16);
        assert_eq!(share(16 * MIB), 16);
        assert_eq!(share(64 * MIB), 64);
        assert_eq!(share(100 * MIB + 7), 100);
        assert_eq!(share(2048 * MIB), 2048);
        assert_eq!(share(u64::MAX), 2048);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let new = Geometry::new;
        assert!(new(100, 100, 100 * MIB, 100, 16) == Err(Error::SlabSize(100)));
        assert!(new(100, 100, 100 * MIB, 16, 16) == Err(Error::SlabSize(16)));
        assert!(new(100, 100, 100 * MIB, 16384, 16) == Err(Error::SlabSize(16384)));
        assert!(matches!(
            new(0, 0, 100 * MIB, 128, 16),
            Err(Error::TooLarge(..))
        ));
        assert!(matches!(
            new(200, 100, 100 * MIB, 128, 16),
            Err(Error::TooLarge(..))
        ));
        assert!(matches!(
            new(100, 100, MIB, 128, 16),
            Err(Error::LeafTooSmall(..))
        ));
        assert!(matches!(
            new(100, 100, u64::MAX, 8192, 16),
            Err(Error::TooLarge(..))
        ));
        assert!(matches!(
            new(100, u64::MAX, MIB, 8192, 16),
            Err(Error::TooLarge(..))
        ));
        for journal in [0, 15, 65537] {
            assert!(!super::is_journal_size(journal));
            assert!(new(100, 100, 100 * MIB, 128, journal) == Err(Error::Internal));
        }
        assert!(super::is_journal_size(16) && super::is_journal_size(65536));
    }
}
