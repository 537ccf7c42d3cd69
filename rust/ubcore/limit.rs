// SPDX-License-Identifier: GPL-2.0

//! The limit of a leaf: how many slabs its union may use, stored in the superblock.

use core::num::NonZeroU32;

use super::attach::Probe;
use super::disk::Disk;
use super::error::Result;
use super::format::superblock::Superblock;
use super::superblock_slots;

/// Returns the superblock with another limit. `None`: no limit.
///
/// All other fields stay, so a reader finds the same metadata by the new superblock as by the old
/// one.
pub(super) fn limited(sb: &Superblock, limit: Option<NonZeroU32>) -> Result<Superblock> {
    let mut next = superblock_slots::next(sb)?;
    next.features.set_limit(limit);
    Ok(next)
}

/// Sets the limit of a leaf that no union uses, and returns its new superblock. If the call fails,
/// the leaf has the old limit or the new one.
pub fn set<D: Disk>(disk: &mut D, probe: &Probe, limit: Option<NonZeroU32>) -> Result<Superblock> {
    probe.writable()?;
    let next = limited(&probe.superblock, limit)?;
    superblock_slots::write(disk, probe.slot, &next)??;
    Ok(next)
}
