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

/// A builder for the limits of a disk, from those of the devices below it.
///
/// The disk always has a volatile write cache with FUA: without that, no flush would reach the
/// driver. Discard and write-zeroes are offered on demand, secure erase is not.
///
/// The second field is the unit of discard in bytes, 0 if there is none.
pub(crate) struct Limits(bindings::queue_limits, u32);

impl Limits {
    /// The limits of a disk with nothing below it yet.
    pub(crate) fn new() -> Self {
        let mut lim = pin_init::zeroed();

        // SAFETY: `lim` is ours to write.
        unsafe { bindings::blk_set_stacking_limits(&mut lim) };
        // Whatever is written is copied by nobody: only those below care how it lies in memory.
        lim.dma_alignment = 0;
        lim.features |= ffi::BLK_FEAT_WRITE_CACHE | ffi::BLK_FEAT_FUA | ffi::BLK_FEAT_IO_STAT;
        Self(lim, 0)
    }

    /// Takes the limits of `dev` in. `what` names the disk in the kernel's complaint where the two
    /// do not line up; that costs speed, so it is no error, see [`Limits::is_misaligned`].
    ///
    /// A zoned device cannot be written out of order and is refused.
    pub(crate) fn stack(&mut self, dev: &BlockDevice, what: &CStr) -> Result {
        if dev.is_zoned() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is open; `what` is a string that outlives the call.
        unsafe {
            bindings::queue_limits_stack_bdev(&mut self.0, dev.as_raw(), 0, what.as_char_ptr());
        }
        Ok(())
    }

    /// The smallest unit of I/O, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        self.0.logical_block_size
    }

    /// Whether devices were stacked whose alignments do not agree.
    pub(crate) fn is_misaligned(&self) -> bool {
        self.0.flags & ffi::BLK_FLAG_MISALIGNED != 0
    }

    /// Offers discard and write-zeroes, in units of `bytes`, a power of two: what the devices below
    /// can do of it does not matter.
    pub(crate) fn offer_discard(&mut self, bytes: u32) {
        self.1 = bytes;
    }

    /// The finished limits. What the devices below offer beyond reads, writes and flushes is not
    /// for the disk to promise.
    pub(super) fn into_raw(mut self) -> bindings::queue_limits {
        let unit = self.1;
        let lim = &mut self.0;
        // The length of a request is counted in bytes, in 32 bits.
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
        self.0
    }
}
