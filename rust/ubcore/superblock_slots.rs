// SPDX-License-Identifier: GPL-2.0

//! The superblock that follows another one, and the write of it to both slots.

use super::disk::{Disk, Order};
use super::error::{Error, Result};
use super::format::ring::NUMBERS;
use super::format::superblock::Superblock;
use super::geometry::superblock_block;
use super::slot::Slot;

/// Returns a copy of the superblock with the next generation, for the caller to change and write.
pub(super) fn next(sb: &Superblock) -> Result<Superblock> {
    let generation = sb.generation.checked_add(1).filter(|&n| n < NUMBERS);
    let mut next = sb.clone();
    next.generation = generation.ok_or(Error::Internal)?;
    Ok(next)
}

/// Makes `next` the active superblock, then renews the other slot. `newest` is the slot of the
/// active superblock. The other one is written first.
///
/// Once the first slot is written, `next` is active. Returns how the write of the second ended.
pub(super) fn write<D: Disk>(disk: &mut D, newest: Slot, next: &Superblock) -> Result<Result> {
    next.encode(disk.block());
    disk.write(superblock_block(newest.other()), 1, Order::FlushFua)?;
    next.encode(disk.block());
    Ok(disk.write(superblock_block(newest), 1, Order::Fua))
}
