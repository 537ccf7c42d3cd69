// SPDX-License-Identifier: GPL-2.0

//! The file systems on a disk and its partitions, frozen for a moment.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    ffi,
    gen_disk::GenDiskRef, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// The maximum number of block devices of a disk: itself and its partitions (`DISK_MAX_PARTS`).
const BDEVS_MAX: usize = 256;

/// Devices whose file systems are frozen. They are thawed when this is dropped.
///
/// # Invariants
///
/// The value holds a reference to each device, each of which it has frozen once.
pub(crate) struct FrozenFileSystems(KVec<NonNull<bindings::block_device>>);

impl FrozenFileSystems {
    /// Freezes the file systems on a disk in the system. If one cannot be frozen, none is.
    pub(super) fn new(disk: GenDiskRef) -> Result<Self> {
        let mut all = KVec::from_elem(core::ptr::null_mut(), BDEVS_MAX, GFP_KERNEL)?;
        let mut frozen = KVec::with_capacity(BDEVS_MAX, GFP_KERNEL)?;
        let raw = disk.as_raw();
        // SAFETY: `disk` is a reference to the disk, and `all` has room for `BDEVS_MAX` pointers.
        // CAST: 256 fits.
        let count = unsafe { ffi::ub_disk_bdevs(raw, all.as_mut_ptr(), BDEVS_MAX as u32) };
        let mut done = Ok(());
        for bdev in all
            .iter()
            .take(count as usize)
            .filter_map(|&p| NonNull::new(p))
        {
            if done.is_ok() {
                // SAFETY: `ub_disk_bdevs` took a reference to the device.
                done = to_result(unsafe { ffi::ub_bdev_freeze(bdev.as_ptr()) });
            }
            // There is room for all of them, so a frozen device gets into the list.
            if done.is_err() || frozen.push_within_capacity(bdev).is_err() {
                // SAFETY: The reference is given up, and the device is not in the list.
                unsafe { ffi::ub_bdev_put(bdev.as_ptr()) };
            }
        }
        // INVARIANT: The list has the devices that were frozen, with their references.
        let this = Self(frozen);
        done.map(|()| this)
    }
}

impl Drop for FrozenFileSystems {
    fn drop(&mut self) {
        // The last one frozen first, in case one lies on another.
        while let Some(bdev) = self.0.pop() {
            // SAFETY: By the invariant the value holds a reference to the device, which it has
            // frozen, and gives up here.
            unsafe {
                ffi::ub_bdev_thaw(bdev.as_ptr());
                ffi::ub_bdev_put(bdev.as_ptr());
            }
        }
    }
}
