// SPDX-License-Identifier: GPL-2.0

//! What the requests of a disk share, and how a request finds its driver.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    bio_set::BioSet,
    request::Started, //
};
use core::cell::UnsafeCell;
use kernel::{
    bindings,
    sync::{
        rcu,
        Arc,
        ArcBorrow, //
    },
};

/// The data that the requests of a disk share: `request_queue::queuedata` and
/// `gendisk::private_data`.
///
/// Every request reads `driver`. It is the first field, away from the field that is written.
#[repr(C)]
pub(super) struct QueueData<D> {
    pub(super) driver: Arc<D>,
    /// The set from which lower bios are allocated.
    pub(super) _bios: Arc<BioSet>,
    /// Whether the disk is claimed for its removal, so that it cannot be opened any more. Accessed
    /// under `gendisk::open_mutex`.
    pub(super) claimed: UnsafeCell<bool>,
}

impl<D> QueueData<D> {
    /// Returns the shared data of the disk of `rq`.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `GenDisk<D>`.
    #[inline]
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *const Self {
        // SAFETY: By the contract of this function `rq` is a request of a `GenDisk<D>`, and
        // `GenDisk::new` set `queuedata` before any request existed.
        unsafe { (*(*rq).q).queuedata }.cast_const().cast()
    }

    pub(super) fn driver(&self) -> ArcBorrow<'_, D> {
        self.driver.as_arc_borrow()
    }
}

impl<D> Started<D> {
    /// Returns the driver of the request's disk.
    #[inline]
    pub(super) fn driver(&self) -> &D {
        // SAFETY: By the invariant the request is not ended, so the disk holds its `QueueData`.
        unsafe { &(*QueueData::of(self.as_raw())).driver }
    }

    /// Returns the driver of the request's disk, which stays until `_guard` is dropped, even if the
    /// request ends before.
    #[inline]
    pub(super) fn driver_under<'g>(&self, _guard: &'g rcu::Guard) -> ArcBorrow<'g, D>
    where
        D: 'g,
    {
        // SAFETY: By the invariant the request is not ended, so the disk holds its `QueueData`. If
        // the request ends, `GenDisk::drop` waits for RCU readers before it frees the `QueueData`,
        // so it stays until the guard is dropped.
        unsafe { (*QueueData::of(self.as_raw())).driver() }
    }
}
