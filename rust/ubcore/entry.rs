// SPDX-License-Identifier: GPL-2.0

//! An entry of the slab table: the leaf slab of a root slab, and what lies below its sectors
//! that are not mapped.

use super::geometry::LeafSlab;
use super::num::next;

/// What a sector that is not mapped reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// What lies below the leaf: a layer's sector, or the root's.
    Below,
    /// Zeroes.
    Zero,
}

/// The state of a slab that was emptied and may not get a new leaf slab yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptied {
    /// The slab was not emptied, or it may get a new leaf slab again.
    No,
    /// No commit has covered it.
    Pending,
    /// The emptying is durable. I/O on the old leaf slab may still be in flight.
    Durable,
    /// As before, and a reclaim that waits for this I/O has begun.
    Waiting,
}

/// What emptying a root slab has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptying {
    /// Nothing, because the slab reads as wanted already.
    Unchanged,
    /// Only the base, because the slab had no leaf slab.
    NoLeafSlab,
    /// The slab has lost this leaf slab.
    LeafSlab(LeafSlab),
}

/// An entry of the slab table: 32 bits, zero for a slab that was never changed.
///
/// ```text
/// 31              1 0
/// | leaf slab + 1  |z|     z: sectors that are not mapped read as zeroes; leaf slab + 1 = 0: none
/// ```
///
/// In memory only, four values of the upper part, which no leaf slab has, stand for [`Emptied`] and
/// for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leaf slab, if there is one.
    pub leaf_slab: Option<LeafSlab>,
    /// What sectors that are not mapped read as.
    pub base: Base,
    /// Whether the slab was emptied. Then there is no leaf slab.
    pub emptied: Emptied,
    /// The metadata of the slab or of its bits is damaged or could not be read. No other
    /// field has a meaning.
    pub lost: bool,
}

const PENDING: u32 = 0x7fff_ffff;
const DURABLE: u32 = 0x7fff_fffe;
const WAITING: u32 = 0x7fff_fffd;
const LOST: u32 = 0x7fff_fffc;

impl Entry {
    /// A slab whose content is unknown, because the metadata that names it is damaged.
    pub const LOST: Entry = Entry {
        lost: true,
        ..Entry::unallocated(Base::Below, Emptied::No)
    };

    /// Returns the entry of a root slab with a leaf slab.
    pub fn allocated(leaf_slab: LeafSlab, base: Base) -> Entry {
        Entry {
            leaf_slab: Some(leaf_slab),
            ..Entry::unallocated(base, Emptied::No)
        }
    }

    /// Returns the entry of a root slab without a leaf slab.
    pub const fn unallocated(base: Base, emptied: Emptied) -> Entry {
        Entry {
            leaf_slab: None,
            base,
            emptied,
            lost: false,
        }
    }

    /// Decodes an entry. Any 32 bits are an entry.
    #[inline]
    pub fn decode(bits: u32) -> Entry {
        let base = if bits & 1 == 0 {
            Base::Below
        } else {
            Base::Zero
        };
        let high = bits >> 1;
        // One comparison finds a leaf slab, the usual case.
        let leaf_slab = high.wrapping_sub(1);
        if leaf_slab < LOST.wrapping_sub(1) {
            return Entry::allocated(LeafSlab(leaf_slab), base);
        }
        match high {
            PENDING => Entry::unallocated(base, Emptied::Pending),
            DURABLE => Entry::unallocated(base, Emptied::Durable),
            WAITING => Entry::unallocated(base, Emptied::Waiting),
            LOST => Entry::LOST,
            _ => Entry::unallocated(base, Emptied::No),
        }
    }

    /// Returns the entry's 32 bits. `leaf_slab` is below [`super::geometry::SLABS_MAX`].
    #[inline]
    pub fn encode(self) -> u32 {
        let high = match self.emptied {
            _ if self.lost => LOST,
            Emptied::Pending => PENDING,
            Emptied::Durable => DURABLE,
            Emptied::Waiting => WAITING,
            Emptied::No => self.leaf_slab.map_or(0, |l| next(l.0)),
        };
        high.wrapping_shl(1) | u32::from(self.base == Base::Zero)
    }

    /// Returns the entry as it goes to disk, where nothing is in flight. Returns `None` if the
    /// entry is lost, because nothing that could be written would be true.
    pub fn at_rest(self) -> Option<Entry> {
        (!self.lost).then_some(Entry {
            emptied: Emptied::No,
            ..self
        })
    }

    /// Returns whether the entry is one that may be in memory only, and never on disk.
    pub fn is_in_memory_only(self) -> bool {
        self.lost || self.emptied != Emptied::No
    }
}
