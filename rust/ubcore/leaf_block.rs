// SPDX-License-Identifier: GPL-2.0

//! The number of a metadata block.

use core::fmt;

use super::geometry::BLOCK_SECTORS;

/// The number of a block of 4096 bytes on a leaf, or on a layer, where it counts from the start of
/// the layer. Sectors are plain numbers, so the compiler finds where one stands for the other.
///
/// It may be a number that the leaf does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LeafBlock(pub u64);

impl LeafBlock {
    /// Returns the first sector of the block, if there is such a number.
    pub fn first_sector(self) -> Option<u64> {
        self.0.checked_mul(BLOCK_SECTORS)
    }
}

impl fmt::Display for LeafBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
