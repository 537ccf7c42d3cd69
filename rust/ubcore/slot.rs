// SPDX-License-Identifier: GPL-2.0

//! The two places of a metadata block.

/// One of the two places that a superblock, a directory block or a map page has on the leaf.
///
/// `Option<Slot>` says which of the two is active, and is `None` if neither was ever written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

/// Bits that stand for no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSlot;

impl Slot {
    /// Returns the other slot.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    /// Returns the slot to write next, which is the inactive one, so that the active one stays
    /// whole.
    pub fn inactive(active: Option<Slot>) -> Slot {
        active.map_or(Slot::A, Slot::other)
    }

    /// Returns the two bits on disk: 0 none, 1 A, 2 B.
    pub fn to_bits(active: Option<Slot>) -> u8 {
        match active {
            None => 0,
            Some(Slot::A) => 1,
            Some(Slot::B) => 2,
        }
    }

    /// Decodes what [`Slot::to_bits`] returned.
    pub fn from_bits(bits: u8) -> core::result::Result<Option<Slot>, BadSlot> {
        match bits {
            0 => Ok(None),
            1 => Ok(Some(Slot::A)),
            2 => Ok(Some(Slot::B)),
            _ => Err(BadSlot),
        }
    }
}
