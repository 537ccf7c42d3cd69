// SPDX-License-Identifier: GPL-2.0

//! The room for growth: space for more map pages than the sizes of union and leaf need.
//!
//! The format keeps this space, because data begins behind the map pages and does not move.

use super::super::error::{Error, Result, Role};
use super::super::num::saturating_u32;
use super::{Geometry, BITS_SECTORS, BLOCK_SECTORS, PAGES_MAX, SLABS_MAX, TABLE_ENTRIES};

/// How many more map pages a leaf has space for than its sizes need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SparePages {
    /// Pages of the slab table, each for 1024 slabs of the union.
    pub table: u32,
    /// Pages of sector bits, each for 16 MiB of the leaf.
    pub bits: u32,
}

fn table_pages_for(slabs: u64) -> u32 {
    saturating_u32(slabs.div_ceil(u64::from(TABLE_ENTRIES)))
}

fn bits_pages_for(leaf_sectors: u64) -> u32 {
    saturating_u32(leaf_sectors.div_ceil(BITS_SECTORS))
}

impl Geometry {
    /// Returns the layout of a leaf of the same sizes with space for more map pages than these
    /// sizes need.
    ///
    /// Fails if these are more than the format has, or the leaf then cannot hold one slab.
    pub fn with_spare_pages(mut self, spare: SparePages) -> Result<Self> {
        self.set_pages(spare)?;
        self.place_data()?;
        Ok(self)
    }

    /// Returns the layout of a leaf of the same sizes with space for the map pages of a union and a
    /// leaf of these sizes, so that both can grow to them. A size below the present one needs none.
    pub fn with_room_for(self, union_sectors: u64, leaf_sectors: u64) -> Result<Self> {
        let slabs = union_sectors.div_ceil(u64::from(self.slab_sectors()));
        if slabs > SLABS_MAX {
            return Err(Error::TooLarge(Role::Root, union_sectors));
        }
        if leaf_sectors >> self.slab_shift > SLABS_MAX {
            return Err(Error::TooLarge(Role::Leaf, leaf_sectors));
        }
        let table = table_pages_for(slabs).saturating_sub(self.needed_table_pages());
        let bits = bits_pages_for(leaf_sectors).saturating_sub(self.needed_bits_pages());
        let spare = SparePages { table, bits };
        self.with_spare_pages(spare).map_err(|e| match e {
            Error::TooLarge(..) => Error::TooLarge(Role::Leaf, leaf_sectors),
            e => e,
        })
    }

    /// Returns the layout with as much space for growth as a leaf gets unless the user says how
    /// much: for a leaf of twice the size, and for a union of twice the size as far as that takes
    /// at most a 256th of the leaf. A leaf that could not hold a slab then gets none.
    pub fn with_default_room(self) -> Self {
        let left = PAGES_MAX.saturating_sub(self.pages());
        let bits = self.needed_bits_pages().min(left);
        // A page has two slots.
        let share = saturating_u32(self.leaf_sectors / 256 / (2 * BLOCK_SECTORS));
        let table = self.needed_table_pages().min(share);
        let table = table.min(left.saturating_sub(bits));
        let spare = SparePages { table, bits };
        self.with_spare_pages(spare).unwrap_or(self)
    }

    /// Returns the layout after union and leaf have grown to these sizes. No area moves, so what
    /// the leaf holds keeps its meaning.
    ///
    /// Fails if a size is below the present one, or there is no space for its map pages.
    pub fn grown(mut self, union_sectors: u64, leaf_sectors: u64) -> Result<Self> {
        if union_sectors < self.union_sectors {
            return Err(Error::Shrink(Role::Root, self.union_sectors));
        }
        if leaf_sectors < self.leaf_sectors {
            return Err(Error::Shrink(Role::Leaf, self.leaf_sectors));
        }
        let (union_max, leaf_max) = (self.union_sectors_max(), self.leaf_sectors_max());
        if union_sectors > union_max {
            return Err(Error::NoRoom(Role::Root, union_max));
        }
        if leaf_sectors > leaf_max {
            return Err(Error::NoRoom(Role::Leaf, leaf_max));
        }
        self.union_sectors = union_sectors;
        self.leaf_sectors = leaf_sectors;
        let slabs = union_sectors.div_ceil(u64::from(self.slab_sectors()));
        self.root_slabs = saturating_u32(slabs);
        self.count_leaf_slabs();
        Ok(self)
    }

    /// Sets how many map pages there is space for: the needed ones, and `spare`.
    pub(super) fn set_pages(&mut self, spare: SparePages) -> Result {
        let table = self.needed_table_pages().checked_add(spare.table);
        let bits = self.needed_bits_pages().checked_add(spare.bits);
        let too_large = Error::TooLarge(Role::Leaf, self.leaf_sectors);
        let (Some(table), Some(bits)) = (table, bits) else {
            return Err(too_large);
        };
        if table.checked_add(bits).is_none_or(|all| all > PAGES_MAX) {
            return Err(too_large);
        }
        (self.table_pages, self.bits_pages) = (table, bits);
        Ok(())
    }

    /// Returns how many pages of the slab table the size of the union needs.
    fn needed_table_pages(&self) -> u32 {
        table_pages_for(u64::from(self.root_slabs))
    }

    /// Returns how many pages of sector bits the size of the leaf needs.
    fn needed_bits_pages(&self) -> u32 {
        bits_pages_for(self.leaf_sectors)
    }

    /// Returns the map pages that there is space for beyond what the sizes need.
    pub fn spare_pages(&self) -> SparePages {
        // There are at least as many as the sizes need.
        SparePages {
            table: self.table_pages.wrapping_sub(self.needed_table_pages()),
            bits: self.bits_pages.wrapping_sub(self.needed_bits_pages()),
        }
    }

    /// Returns the size to which the union can grow, in sectors.
    pub fn union_sectors_max(&self) -> u64 {
        let slabs = u64::from(self.table_pages).wrapping_mul(u64::from(TABLE_ENTRIES));
        // The union may already be larger by a part of a slab.
        let max = slabs.min(SLABS_MAX).wrapping_shl(self.slab_shift);
        max.max(self.union_sectors)
    }

    /// Returns the size to which the leaf can grow, in sectors.
    pub fn leaf_sectors_max(&self) -> u64 {
        let sectors = u64::from(self.bits_pages).wrapping_mul(BITS_SECTORS);
        let max = sectors.min(SLABS_MAX.wrapping_shl(self.slab_shift));
        max.max(self.leaf_sectors)
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_room))]
mod tests {
    use super::super::super::error::{Error, Role};
    use super::super::super::slot::Slot::B;
    use super::super::{Geometry, LeafSlab, MapPage};
    use super::SparePages;

    const MIB: u64 = 2048;

    #[test]
    fn growth_moves_nothing() {
        let g = Geometry::new(100, 64 * MIB, 20 * MIB, 128, 16).unwrap();
        assert_eq!((g.spare_pages().table, g.spare_pages().bits), (0, 0));
        assert_eq!(g.union_sectors_max(), 64 * MIB);
        assert_eq!(g.leaf_sectors_max(), 32 * MIB);
        let most = g.with_room_for(200 * MIB, 100 * MIB).unwrap();
        assert_eq!((most.spare_pages().table, most.spare_pages().bits), (3, 5));
        assert_eq!(most.union_sectors_max(), 256 * MIB);
        assert_eq!(most.leaf_sectors_max(), 112 * MIB);
        let last = MapPage(most.pages() - 1);
        let large = most.grown(256 * MIB, 100 * MIB - 9).unwrap();
        assert_eq!(large.spare_pages(), SparePages { table: 0, bits: 0 });
        assert_eq!(large.data_start(), most.data_start());
        assert_eq!(large.page_block(last, B), most.page_block(last, B));
        assert_eq!(
            (large.root_slabs(), large.leaf_slabs()),
            (4096, 99 * 16 - 1)
        );
        assert!(large.leaf_slab_start(LeafSlab(large.leaf_slabs())) <= 100 * MIB - 9);
        // As the superblock of the grown leaf is decoded.
        let plain = Geometry::new(100, 256 * MIB, 100 * MIB - 9, 128, 16).unwrap();
        assert!(plain.with_spare_pages(large.spare_pages()) == Ok(large));
        let part = most.grown(64 * MIB + 1, 20 * MIB).unwrap();
        let plain = Geometry::new(100, 64 * MIB + 1, 20 * MIB, 128, 16).unwrap();
        assert!(plain.with_spare_pages(part.spare_pages()) == Ok(part));
    }

    #[test]
    fn what_cannot_grow_is_refused() {
        let g = Geometry::new(100, 64 * MIB, 20 * MIB, 128, 16).unwrap();
        let refused = |union, leaf| g.grown(union, leaf).err();
        assert_eq!(refused(64 * MIB, 32 * MIB), None);
        let shrink = |role, have| Some(Error::Shrink(role, have));
        assert_eq!(
            refused(64 * MIB - 1, 32 * MIB),
            shrink(Role::Root, 64 * MIB)
        );
        assert_eq!(
            refused(64 * MIB, 20 * MIB - 1),
            shrink(Role::Leaf, 20 * MIB)
        );
        let no_room = |role, max| Some(Error::NoRoom(role, max));
        assert_eq!(
            refused(64 * MIB + 1, 20 * MIB),
            no_room(Role::Root, 64 * MIB)
        );
        assert_eq!(refused(u64::MAX, 20 * MIB), no_room(Role::Root, 64 * MIB));
        assert_eq!(refused(64 * MIB, u64::MAX), no_room(Role::Leaf, 32 * MIB));
        for spare in [
            (u32::MAX, 0),
            (0, u32::MAX),
            (u32::MAX, u32::MAX),
            (503_936, 0),
        ] {
            let (table, bits) = spare;
            let spare = SparePages { table, bits };
            assert!(matches!(
                g.with_spare_pages(spare),
                Err(Error::TooLarge(Role::Leaf, _))
            ));
        }
        let spare = SparePages {
            table: 4000,
            bits: 0,
        };
        assert!(matches!(
            g.with_spare_pages(spare),
            Err(Error::LeafTooSmall(..))
        ));
        assert!(matches!(
            g.with_room_for(u64::MAX, 0),
            Err(Error::TooLarge(Role::Root, _))
        ));
        assert!(matches!(
            g.with_room_for(0, u64::MAX),
            Err(Error::TooLarge(Role::Leaf, _))
        ));
    }

    #[test]
    fn the_room_that_is_kept_is_a_share_of_the_leaf() {
        let room = |union, leaf| {
            let g = Geometry::new(100, union, leaf, 128, 16).unwrap();
            let large = g.with_default_room();
            let spare = large.spare_pages();
            (spare.table, spare.bits, large.data_start() - g.data_start())
        };
        // Twice of both: 16 and 64 pages, in two slots each.
        assert_eq!(room(1024 * MIB, 1024 * MIB), (16, 64, MIB));
        // A large union on a small leaf: two slots of 2048 pages are a 256th of 4 GiB.
        assert_eq!(room(1 << 31, 4096 * MIB).0, 2048);
        assert_eq!(room(100, 2 * MIB), (1, 1, 0));
        // No more than there are pages.
        let large = Geometry::new(100, 1 << 31, 5 << 31, 128, 16).unwrap();
        let large = large.with_default_room();
        assert_eq!(large.pages(), 992 * 508);
        // A leaf that would have no slab left.
        let g = Geometry::new(100, 3309 * 1024 * 128, 27 * MIB, 128, 16).unwrap();
        assert_eq!(g.leaf_slabs(), 16);
        assert_eq!(g.with_default_room(), g);
    }
}
