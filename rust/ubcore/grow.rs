// SPDX-License-Identifier: GPL-2.0

//! Growth: makes union and leaf larger, by one write of the superblock.
//!
//! The areas of the leaf have their places from the number of map pages that the format kept space
//! for, and not from the sizes. So growth moves nothing. The pages of what is new were never
//! written: the union reads there as what lies below the leaf, and the slabs of the leaf are free.

use super::attach::Probe;
use super::disk::Disk;
use super::error::Result;
use super::format::superblock::Superblock;
use super::superblock_slots;

/// The sizes to which a union and its leaf grow, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The size of the union.
    pub union_sectors: u64,
    /// The size of the leaf, at most that of its device.
    pub leaf_sectors: u64,
}

/// Returns the superblock with other sizes. What the old superblock led to, the new one leads to
/// as well.
fn grown(sb: &Superblock, sizes: Sizes) -> Result<Superblock> {
    let mut next = superblock_slots::next(sb)?;
    next.geometry = sb.geometry.grown(sizes.union_sectors, sizes.leaf_sectors)?;
    Ok(next)
}

/// Makes a union and its leaf larger while no union uses the leaf, and returns its new superblock.
/// If the call fails, the leaf has the old sizes or the new ones.
pub fn grow<D: Disk>(disk: &mut D, probe: &Probe, sizes: Sizes) -> Result<Superblock> {
    probe.writable()?;
    let next = grown(&probe.superblock, sizes)?;
    superblock_slots::write(disk, probe.slot, &next)??;
    Ok(next)
}
