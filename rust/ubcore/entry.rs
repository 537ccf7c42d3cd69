// SPDX-License-Identifier: GPL-2.0

//! An entry of the slab table: where a root slab lives, and what lies below its unwritten sectors.

/// What an unwritten sector of a slab reads as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The root's sector.
    Root,
    /// Zeroes.
    Zero,
}

/// How far a slab is that was emptied and may not have a new home yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptied {
    /// It was not, or that is over.
    No,
    /// No commit has covered it.
    Pending,
    /// It is durable; I/O on its old home may still be in flight.
    Durable,
    /// As before, and a grace period has begun that waits for that I/O.
    Waiting,
}

/// An entry of the slab table: 32 bits, zero for a slab that nothing happened to.
///
/// ```text
/// 31              1 0
/// | leaf slab + 1  |z|     z: unwritten sectors read as zeroes; leaf slab + 1 = 0: none
/// ```
///
/// In memory only, four values of the upper part that no leaf slab has mean [`Emptied`] and lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leaf slab, if there is one.
    pub leaf: Option<u32>,
    /// What unwritten sectors read as.
    pub base: Base,
    /// Whether it was emptied; then there is no leaf slab.
    pub emptied: Emptied,
    /// Where it is, or what of it is mapped, was not to be read: nothing above means anything.
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
        ..Entry::none(Base::Root, Emptied::No)
    };

    /// A slab that lives in the leaf.
    pub fn home(leaf: u32, base: Base) -> Entry {
        Entry {
            leaf: Some(leaf),
            ..Entry::none(base, Emptied::No)
        }
    }

    /// A slab without a home.
    pub const fn none(base: Base, emptied: Emptied) -> Entry {
        Entry {
            leaf: None,
            base,
            emptied,
            lost: false,
        }
    }

    /// Decodes an entry; any 32 bits are one.
    #[inline]
    pub fn decode(bits: u32) -> Entry {
        let base = if bits & 1 == 0 {
            Base::Root
        } else {
            Base::Zero
        };
        match bits >> 1 {
            PENDING => Entry::none(base, Emptied::Pending),
            DURABLE => Entry::none(base, Emptied::Durable),
            WAITING => Entry::none(base, Emptied::Waiting),
            LOST => Entry::LOST,
            high => Entry {
                leaf: high.checked_sub(1),
                ..Entry::none(base, Emptied::No)
            },
        }
    }

    /// The entry's 32 bits; `leaf` is below [`super::geometry::SLABS_MAX`].
    #[inline]
    pub fn encode(self) -> u32 {
        let high = match self.emptied {
            _ if self.lost => LOST,
            Emptied::Pending => PENDING,
            Emptied::Durable => DURABLE,
            Emptied::Waiting => WAITING,
            Emptied::No => self.leaf.map_or(0, |l| l.wrapping_add(1)),
        };
        high.wrapping_shl(1) | u32::from(self.base == Base::Zero)
    }

    /// The entry as it goes to disk, where nothing is in flight; `None` if it is lost: nothing that
    /// could be written is true of it.
    pub fn at_rest(self) -> Option<Entry> {
        (!self.lost).then_some(Entry {
            emptied: Emptied::No,
            ..self
        })
    }

    /// Whether no disk may hold it.
    pub fn is_of_memory(self) -> bool {
        self.lost || self.emptied != Emptied::No
    }
}
