// SPDX-License-Identifier: GPL-2.0

//! Queue limits of a stacked disk.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    bdev::BlockDevice,
    ffi, //
};
use kernel::{
    bindings,
    prelude::*,
    str::CStrExt, //
};

/// Builds the limits of a disk from the limits of the devices below it.
///
/// The disk always has a volatile write cache with FUA, because otherwise no flush would reach the
/// driver. Discard and write-zeroes are offered on demand; secure erase is never offered.
#[derive(Clone)]
pub(crate) struct Limits {
    inner: bindings::queue_limits,
    /// The unit of discard in bytes, a power of two, or 0 if the disk offers no discard.
    discard_unit: u32,
}

impl Limits {
    /// Returns the limits of a disk without devices below it.
    pub(crate) fn new() -> Self {
        let mut lim = pin_init::zeroed();

        // SAFETY: `lim` is a local value, borrowed exclusively for the call, so it may be written.
        unsafe { bindings::blk_set_stacking_limits(&mut lim) };
        // This driver does not access the data itself, so only the lower devices restrict its
        // alignment in memory.
        lim.dma_alignment = 0;
        lim.features |= ffi::BLK_FEAT_WRITE_CACHE | ffi::BLK_FEAT_FUA | ffi::BLK_FEAT_IO_STAT;
        Self {
            inner: lim,
            discard_unit: 0,
        }
    }

    /// Stacks the limits of `dev`.
    ///
    /// If the alignments do not match, the kernel logs a warning that names the disk `what`. A
    /// mismatch only makes I/O slower, so it is not an error, see [`Limits::is_misaligned`].
    ///
    /// A zoned device is refused, because it cannot be written out of order.
    pub(crate) fn stack(&mut self, dev: &BlockDevice, what: &CStr) -> Result {
        if dev.is_zoned() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: By the invariant of `BlockDevice` the device is open; `what` outlives the call.
        unsafe {
            bindings::queue_limits_stack_bdev(&mut self.inner, dev.as_raw(), 0, what.as_char_ptr());
        }
        Ok(())
    }

    /// Returns the smallest unit of I/O, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        self.inner.logical_block_size
    }

    /// Returns whether the alignments of the stacked devices do not match.
    pub(crate) fn is_misaligned(&self) -> bool {
        self.inner.flags & ffi::BLK_FLAG_MISALIGNED != 0
    }

    /// Offers discard and write-zeroes in units of `bytes`, a power of two, whether or not the
    /// devices below support them.
    pub(crate) fn offer_discard(&mut self, bytes: u32) {
        self.discard_unit = bytes;
    }

    /// Returns the finished limits.
    ///
    /// They offer nothing from the devices below beyond reads, writes and flushes.
    pub(super) fn into_raw(mut self) -> bindings::queue_limits {
        let unit = self.discard_unit;
        let lim = &mut self.inner;
        // The block layer keeps the length of a request in bytes, in 32 bits.
        let most = if unit == 0 {
            0
        } else {
            (u32::MAX & !(unit - 1)) >> ffi::SECTOR_SHIFT
        };

        lim.discard_granularity = unit;
        lim.discard_alignment = 0;
        lim.max_discard_segments = 1;
        lim.max_hw_discard_sectors = most;
        lim.max_discard_sectors = most;
        lim.max_write_zeroes_sectors = most;
        lim.max_hw_wzeroes_unmap_sectors = most;
        lim.max_user_wzeroes_unmap_sectors = most;
        lim.max_secure_erase_sectors = 0;
        self.inner
    }
}
