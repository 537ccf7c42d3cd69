// SPDX-License-Identifier: GPL-2.0

//! What the requests of a disk share, and how a request finds the queue data.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    bio_set::BioSet,
    request::Started, //
};
use crate::sys::atomic::{
    AtomicPtr,
    Ordering::{
        Acquire,
        Relaxed,
        Release, //
    }, //
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
/// `gendisk::private_data` point to it. The queue data itself is a `D`, whose [`Operations`] handle
/// the requests.
///
/// [`Operations`]: super::Operations
///
/// # Invariants
///
/// `queue_data` is the pointer of an `Arc<D>` that the value owns. It changes only while no request
/// is in flight, and the `Arc` that it came from lives on until all RCU readers have ended.
pub(super) struct DiskData<D> {
    queue_data: AtomicPtr<D>,
    /// Keeps the set from which lower bios are allocated.
    _bios: Arc<BioSet>,
    /// Whether the disk cannot be opened, because it is about to be removed, or its queue data
    /// about to be replaced. Accessed under `gendisk::open_mutex`.
    pub(super) open_forbidden: UnsafeCell<bool>,
}

impl<D> DiskData<D> {
    /// Returns the data of a new disk.
    pub(super) fn new(queue_data: Arc<D>, bios: Arc<BioSet>) -> Self {
        // INVARIANT: The pointer is that of an `Arc`, which the value owns from now on.
        Self {
            queue_data: AtomicPtr::new(Arc::into_raw(queue_data).cast_mut()),
            _bios: bios,
            open_forbidden: UnsafeCell::new(false),
        }
    }

    /// Puts `new` in the place of the queue data, and returns the old queue data.
    ///
    /// # Safety
    ///
    /// No request may be in flight. The caller must keep the returned queue data until all RCU
    /// readers have ended that began before the call.
    pub(super) unsafe fn replace_queue_data(&self, new: Arc<D>) -> Arc<D> {
        // INVARIANT: The new pointer is that of an `Arc`, which the value owns from now on. By the
        // contract of this function no request is in flight, and the old `Arc` lives on.
        let old = self.queue_data.swap(Arc::into_raw(new).cast_mut(), Release);
        // SAFETY: By the invariant the pointer came from `Arc::into_raw`, and the value gives it
        // up.
        unsafe { Arc::from_raw(old) }
    }

    /// Calls `f` with the queue data, as an RCU reader. Takes no reference, so this call does not
    /// keep the queue data after a thread that replaced or removed it has waited for RCU readers.
    ///
    /// `f` must not sleep.
    pub(super) fn with_queue_data<R>(&self, f: impl FnOnce(&D) -> R) -> R {
        let _guard = rcu::read_lock();
        // SAFETY: By the invariant the pointer came from `Arc::into_raw`, and the `Arc` lives until
        // the guard is dropped, even if the queue data is replaced meanwhile.
        f(unsafe { &*self.queue_data.load(Acquire) })
    }

    /// Returns a counted reference to the queue data. Process context.
    pub(super) fn queue_data_counted(&self) -> Arc<D> {
        let _guard = rcu::read_lock();
        // SAFETY: By the invariant the pointer came from `Arc::into_raw`, and the `Arc` lives until
        // the guard is dropped, even if the queue data is replaced meanwhile.
        let queue_data = unsafe { ArcBorrow::from_raw(self.queue_data.load(Acquire)) };
        queue_data.into()
    }

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

    /// Returns the queue data.
    ///
    /// # Safety
    ///
    /// The `Arc` of the queue data must live as long as the result. It does if a request is in
    /// flight, or if the thread that replaces the queue data waits for the caller before it drops
    /// the old `Arc`, as that thread does for RCU readers and for callers from blk-mq.
    #[inline]
    pub(super) unsafe fn queue_data(&self) -> ArcBorrow<'_, D> {
        // SAFETY: By the invariant the pointer came from `Arc::into_raw`. By the contract of this
        // function the `Arc` lives as long as the result.
        unsafe { ArcBorrow::from_raw(self.queue_data.load(Relaxed)) }
    }
}

impl<D> Drop for DiskData<D> {
    fn drop(&mut self) {
        // SAFETY: By the invariant the pointer came from `Arc::into_raw`, and the value owns the
        // `Arc`, which is dropped here.
        drop(unsafe { Arc::from_raw(*self.queue_data.get_mut()) });
    }
}

impl<D> Started<D> {
    /// Returns the queue data of the request's disk.
    #[inline]
    pub(super) fn queue_data(&self) -> &D {
        // SAFETY: By the invariant the request is not ended, so the disk holds its `DiskData`, and
        // the queue data is not replaced. The request outlives the result.
        unsafe { &*(*DiskData::<D>::of(self.as_raw())).queue_data.load(Relaxed) }
    }

    /// Returns the queue data of the request's disk, so that the driver can make a reference of it.
    #[inline]
    pub(super) fn borrow_queue_data(&self) -> ArcBorrow<'_, D> {
        // SAFETY: By the invariant the request is not ended, so the disk holds its `DiskData`, and
        // the request is in flight. It outlives the result.
        unsafe { (*DiskData::of(self.as_raw())).queue_data() }
    }

    /// Returns the queue data of the request's disk, which stays until `_guard` is dropped, even if
    /// the request ends before.
    #[inline]
    pub(super) fn queue_data_under<'g>(&self, _guard: &'g rcu::Guard) -> ArcBorrow<'g, D>
    where
        D: 'g,
    {
        // SAFETY: By the invariant the request is not ended, so the disk holds its `DiskData`. If
        // the request ends, `GenDisk::drop` waits for RCU readers before it frees the `DiskData`,
        // so it stays until the guard is dropped.
        // The same holds for queue data that is replaced, by the invariant of `DiskData`.
        unsafe { (*DiskData::of(self.as_raw())).queue_data() }
    }
}
