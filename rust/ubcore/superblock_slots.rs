// SPDX-License-Identifier: GPL-2.0

//! Writes a superblock to both of its slots.

use super::disk::{Disk, Order};
use super::error::Result;
use super::format::superblock::Superblock;
use super::geometry::superblock_block;
use super::slot::Slot;

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
