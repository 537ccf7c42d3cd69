// SPDX-License-Identifier: GPL-2.0

//! Opens the devices of a union, and refuses a leaf that shares sectors with another of them.
//!
//! The block layer refuses to claim a disk and a partition of it, but not two partitions that
//! overlap, because the scan of a partition table does not compare the partitions. If the other one
//! belongs to another union, the list of claims refuses it, as busy.

use crate::{
    blk::{
        BlockDevice,
        Claims, //
    },
    error::open_error,
    ubcore::{
        error::{
            Error,
            Result,
            Role, //
        },
        geometry::BLOCK_BYTES,
        num::u32_as_usize,
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Opens the root, shared among all unions, and checks it.
pub(super) fn open_root(path: &CStr, claims: &Arc<Claims>) -> Result<BlockDevice> {
    let root = BlockDevice::open_shared(path, claims).map_err(|e| open_error(Role::Root, e))?;
    check_device(&root, Role::Root)?;
    Ok(root)
}

/// Opens the leaf exclusively, for writing if `write`, and checks it. `others` are the other
/// devices of the union.
pub(super) fn open_leaf<'a>(
    path: &CStr,
    claims: &Arc<Claims>,
    write: bool,
    others: impl Iterator<Item = &'a BlockDevice>,
) -> Result<BlockDevice> {
    let opened = BlockDevice::open_exclusive(path, claims, write);
    let opened = opened.map_err(|e| leaf_error(path, write, e));
    let leaf = refuse_overlap(path, opened, others)?;
    check_device(&leaf, Role::Leaf)?;
    if write && leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    Ok(leaf)
}

/// Returns the error for a leaf that could not be opened.
fn leaf_error(path: &CStr, write: bool, e: kernel::error::Error) -> Error {
    // The block layer returns EACCES for a write-protected device, and also for a node on a mount
    // without devices, or in a directory that may not be searched.
    let is_protected = || BlockDevice::open_plain(path).is_ok_and(|leaf| leaf.is_read_only());
    if write && (e == EROFS || e == EACCES && is_protected()) {
        Error::ReadOnlyLeaf
    } else {
        open_error(Role::Leaf, e)
    }
}

/// Opens a layer, shared among all unions, and checks it.
pub(super) fn open_layer(
    path: &CStr,
    claims: &Arc<Claims>,
    leaf: &BlockDevice,
) -> Result<BlockDevice> {
    let opened = BlockDevice::open_shared(path, claims).map_err(|e| open_error(Role::Layer, e));
    let layer = refuse_overlap(path, opened, core::iter::once(leaf))?;
    check_device(&layer, Role::Layer)?;
    Ok(layer)
}

/// Returns the device that was opened, unless it shares sectors with one of the others. Our own
/// claim on one of these makes the open fail, so this error comes before that of the open.
fn refuse_overlap<'a>(
    path: &CStr,
    opened: Result<BlockDevice>,
    mut others: impl Iterator<Item = &'a BlockDevice>,
) -> Result<BlockDevice> {
    let mut overlaps = |dev: &BlockDevice| others.any(|other| other.overlaps(dev));
    let refused = match &opened {
        Ok(dev) => overlaps(dev),
        Err(_) => BlockDevice::open_plain(path).is_ok_and(|dev| overlaps(&dev)),
    };
    if refused {
        return Err(Error::SameDevice);
    }
    opened
}

/// Checks that a device may be one of a union.
fn check_device(dev: &BlockDevice, role: Role) -> Result {
    // Refuse a union, because the worker of one union would wait for the worker of another.
    if dev.is_own() {
        return Err(Error::Stacked(role));
    }
    // The driver reads and writes metadata and samples in blocks of `BLOCK_BYTES`.
    if u32_as_usize(dev.logical_block_size()) > BLOCK_BYTES {
        return Err(Error::Limits(role));
    }
    Ok(())
}
