// SPDX-License-Identifier: GPL-2.0

//! The rules for the extents of a sealed layer and for the positions of their data. They allow one
//! form only for each content.

use super::super::geometry::BLOCK_SECTORS;
use super::super::stack::extent::{Content, Extent};
use super::header::DATA_BLOCK;

/// An extent does not cross a multiple of this many sectors of the union (1 TiB), so that its
/// length fits into 32 bits.
pub const CUT: u64 = 1 << 31;
/// Sectors of a unit. Only whole units, at multiples of it, become zero extents.
pub const UNIT: u64 = 8;
/// The last sector of a layer is below this.
const POSITIONS: u64 = 1 << 48;

/// A rule that an extent breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// Where it begins.
    First,
    /// How long it is.
    Count,
    /// Where its data lies.
    Position,
}

/// The state of the packing after the extents so far.
///
/// # Invariants
///
/// `end <= union_sectors`; `position` is at least that of the first data, and below 2^48.
/// The counts are sums of extents that lie in the union one after another, so they are at most
/// `union_sectors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    union_sectors: u64,
    /// The end of the last extent in the union, and whether that was zero.
    end: u64,
    was_zero: bool,
    /// The end of the last data.
    position: u64,
    /// How many extents there were.
    pub extents: u64,
    /// How many of their sectors are data.
    pub data_sectors: u64,
    /// How many of their sectors are zero.
    pub zero_sectors: u64,
}

impl Packing {
    /// Returns the state before the first extent. No header takes a union above 2^48 sectors.
    pub fn new(union_sectors: u64) -> Packing {
        // INVARIANT: Nothing is packed yet.
        Packing {
            union_sectors,
            end: 0,
            was_zero: false,
            position: DATA_BLOCK.wrapping_mul(BLOCK_SECTORS),
            extents: 0,
            data_sectors: 0,
            zero_sectors: 0,
        }
    }

    /// Returns the position of the data of the next extent, which begins at `first`: after the last
    /// data, at the same offset in its block as `first` has in its unit.
    pub fn position_for(&self, first: u64) -> u64 {
        let gap = first.wrapping_sub(self.position) % UNIT;
        self.position.wrapping_add(gap)
    }

    /// Returns whether a new extent of this kind at `first` would be a part of the last one.
    pub fn continues(&self, first: u64, is_zero: bool) -> bool {
        self.extents > 0 && first == self.end && is_zero == self.was_zero && first % CUT != 0
    }

    /// Takes the next extent, or fails with the rule that it breaks.
    pub fn take(&mut self, extent: &Extent) -> Result<(), Breach> {
        let Extent { first, sectors, .. } = *extent;
        let is_zero = extent.content == Content::Zero;
        let whole = |n: u64| !is_zero || n % UNIT == 0;
        if first < self.end || !whole(first) || self.continues(first, is_zero) {
            return Err(Breach::First);
        }
        let end = first.checked_add(sectors).ok_or(Breach::Count)?;
        let last = sectors.checked_sub(1).ok_or(Breach::Count)?;
        let last = first.wrapping_add(last);
        if end > self.union_sectors || first / CUT != last / CUT || !whole(sectors) {
            return Err(Breach::Count);
        }
        match extent.content {
            // INVARIANT: The extent begins at or after the old end, within the union.
            Content::Zero => self.zero_sectors = self.zero_sectors.wrapping_add(sectors),
            Content::Data(position) => {
                let end = position.checked_add(sectors).ok_or(Breach::Position)?;
                if position != self.position_for(first) || end > POSITIONS.wrapping_sub(UNIT) {
                    return Err(Breach::Position);
                }
                self.position = end;
                self.data_sectors = self.data_sectors.wrapping_add(sectors);
            }
        }
        (self.end, self.was_zero) = (end, is_zero);
        self.extents = self.extents.wrapping_add(1);
        Ok(())
    }

    /// Returns how many blocks the data takes, with the gaps in it.
    pub fn data_blocks(&self) -> u64 {
        let blocks = self.position.div_ceil(BLOCK_SECTORS);
        blocks.wrapping_sub(DATA_BLOCK)
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_packing))]
mod tests {
    use super::super::super::stack::extent::{Content, Extent};
    use super::{Breach, Packing, CUT};

    fn data(first: u64, sectors: u64, position: u64) -> Extent {
        Extent {
            first,
            sectors,
            content: Content::Data(position),
        }
    }

    fn zero(first: u64, sectors: u64) -> Extent {
        Extent {
            first,
            sectors,
            content: Content::Zero,
        }
    }

    #[test]
    fn data_lies_as_in_the_union() {
        let mut p = Packing::new(1000);
        for e in [
            data(3, 2, 19),
            // One unit of the union may share a block with another.
            data(14, 1, 22),
            data(17, 7, 25),
            zero(24, 8),
            data(32, 1, 32),
            data(40, 3, 40),
            data(992, 8, 48),
        ] {
            assert!(p.take(&e) == Ok(()));
        }
        assert_eq!(p.data_blocks(), 5);
        assert_eq!((p.extents, p.data_sectors, p.zero_sectors), (7, 22, 8));
    }

    #[test]
    fn each_other_form_is_refused() {
        let mut p = Packing::new(4 * CUT);
        assert!(p.take(&data(8, 8, 16)) == Ok(()));
        let refused = |e: Extent, why| {
            let mut p = p;
            assert!(p.take(&e) == Err(why));
        };
        // It overlaps, or is a part of the extent before it, or begins within a unit.
        refused(data(15, 1, 31), Breach::First);
        refused(data(16, 1, 24), Breach::First);
        refused(zero(20, 8), Breach::First);
        refused(zero(24, 9), Breach::Count);
        refused(data(24, 0, 24), Breach::Count);
        refused(data(u64::MAX, 2, 24), Breach::Count);
        refused(data(24, CUT, 24), Breach::Count);
        refused(data(4 * CUT - 1, 2, 31), Breach::Count);
        // Not right after the data before it.
        for position in [0, 16, 23, 25, 32, u64::MAX] {
            refused(data(24, 1, position), Breach::Position);
        }
        let mut cut = p;
        assert!(cut.take(&zero(CUT - 8, 8)) == Ok(()));
        assert!(cut.take(&zero(CUT, CUT)) == Ok(()));
        assert!(cut.take(&zero(2 * CUT, 8)) == Ok(()));
        assert!(cut.take(&zero(2 * CUT + 8, 8)) == Err(Breach::First));
    }
}
