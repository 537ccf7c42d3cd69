// SPDX-License-Identifier: GPL-2.0

//! The features of a leaf, in three classes. The class of a feature says what a unionblk that does
//! not know it may do with the leaf.
//!
//! An older unionblk may read and write a leaf with a *compatible* feature. It keeps the bit and
//! the bytes of the feature in each superblock that it writes. It may read, but not write, a leaf
//! with a *read-only compatible* feature, because a write would break the feature. It must not read
//! a leaf with an *incompatible* feature, because that gives the metadata another meaning. Features
//! of the last two classes announce the use of any byte that is zero without them.

use core::num::NonZeroU32;

use super::super::error::{Error, FeatureClass, Result};

/// Bytes of the superblock that only compatible features may use.
pub const COMPAT_BYTES: usize = 16;

/// Compatible: the leaf has a limit, the number of slabs that its union may use. A unionblk that
/// does not know it may use more. The number in use can be above the limit anyway, because the
/// limit may be set below it.
pub const LIMITED: u64 = 1;
/// The bits of compatible features that this code knows.
const COMPAT_KNOWN: u64 = LIMITED;

/// Read-only compatible: the leaf is frozen, so nothing writes to it. The superblock has the seal.
pub const FROZEN: u64 = 1;
/// The bits of read-only compatible features that this code knows.
const RO_COMPAT_KNOWN: u64 = FROZEN;

/// Incompatible: the leaf lies on layers. The superblock has their number and their chain, and the
/// leaf has a list of them.
pub const LAYERED: u64 = 1;
/// Incompatible: there is no root, so the bottom reads as zeroes.
pub const NO_ROOT: u64 = 2;
/// Incompatible: the list of root and layers begins with the root. A leaf with a root has this bit,
/// unless it was formatted before the list had roots. Without it the data may begin earlier.
pub const ROOT_LISTED: u64 = 4;
/// The bits of incompatible features that this code knows.
const INCOMPAT_KNOWN: u64 = LAYERED | NO_ROOT | ROOT_LISTED;

/// The features of a superblock. They go into the next superblock, where only a freeze and a change
/// of the limit alter them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bits of compatible features.
    pub compat: u64,
    /// Bits that a writer must know.
    pub ro_compat: u64,
    /// Bits that a reader must know too.
    pub incompat: u64,
    /// The bytes of compatible features.
    pub compat_bytes: [u8; COMPAT_BYTES],
}

impl Features {
    /// No features.
    pub const NONE: Features = Features {
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        compat_bytes: [0; COMPAT_BYTES],
    };

    /// Returns the compatible bits that this code does not know.
    pub fn unknown_compat(&self) -> u64 {
        self.compat & !COMPAT_KNOWN
    }

    /// Returns the number of slabs that the union may use, if there is a limit.
    pub fn limit(&self) -> Option<NonZeroU32> {
        let [a, b, c, d, ..] = self.compat_bytes;
        let slabs = NonZeroU32::new(u32::from_le_bytes([a, b, c, d]));
        slabs.filter(|_| self.compat & LIMITED != 0)
    }

    /// Sets the limit. `None`: no limit, which is 0 on disk.
    pub fn set_limit(&mut self, limit: Option<NonZeroU32>) {
        let slabs = limit.map_or(0, NonZeroU32::get);
        self.compat = match slabs {
            0 => self.compat & !LIMITED,
            _ => self.compat | LIMITED,
        };
        let [a, b, c, d, ..] = &mut self.compat_bytes;
        [*a, *b, *c, *d] = slabs.to_le_bytes();
    }

    /// Returns the read-only compatible bits that this code does not know.
    pub fn unknown_ro_compat(&self) -> u64 {
        self.ro_compat & !RO_COMPAT_KNOWN
    }

    /// Fails if this code cannot know what anything on the leaf means.
    pub fn readable(&self) -> Result {
        match self.incompat & !INCOMPAT_KNOWN {
            0 => Ok(()),
            bits => Err(Error::UnknownFeatures(FeatureClass::Incompat, bits)),
        }
    }

    /// Fails if this code must not write to the leaf.
    pub fn writable(&self) -> Result {
        self.readable()?;
        if self.ro_compat & FROZEN != 0 {
            return Err(Error::Frozen);
        }
        match self.unknown_ro_compat() {
            0 => Ok(()),
            bits => Err(Error::UnknownFeatures(FeatureClass::RoCompat, bits)),
        }
    }
}
