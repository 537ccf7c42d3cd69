// SPDX-License-Identifier: GPL-2.0

//! The functions of a driver that handle the requests of its disks.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    attributes::Attributes,
    disk_data::DiskData,
    ffi,
    pdu::Pdu,
    request::{
        BlkStatus,
        Request, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    static_lock_class,
    sync::ArcBorrow, //
};

/// The queue data of a disk, and the functions that handle the disk's requests.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// The sysfs attributes of the disks.
    const ATTRIBUTES: Attributes<Self>;

    /// Handles a request that has arrived and was started.
    ///
    /// Returns the request if the driver would have to wait. Nothing was sent then, and blk-mq soon
    /// queues the request again, with the driver's word as it is.
    ///
    /// Context: process. Must not wait, because the task may hold requests of any disk in its plug,
    /// and the task's own bios are held back until this returns. May sleep only if a lower driver
    /// may.
    fn queue(
        this: ArcBorrow<'_, Self>,
        rq: Request<Self>,
    ) -> core::result::Result<(), Request<Self>>;

    /// Handles a submitted request whose lower I/O has all ended. `status` is the first error.
    /// Returns the status with which the caller ends the request, or `None` if the request
    /// continues, by [`Operations::resume`].
    ///
    /// Context: any, including hard interrupts; must not sleep. The driver may queue a reference
    /// made from `this` as work. The code that removes the disk holds another reference until that
    /// work has ended.
    fn complete(
        this: ArcBorrow<'_, Self>,
        rq: &Request<Self>,
        status: BlkStatus,
    ) -> Option<BlkStatus>;

    /// Takes over a request that continues, as [`Operations::complete`] has decided.
    ///
    /// Context: as for [`Operations::complete`], and under RCU. So the driver may hand the request
    /// to another thread, which ends it, and continue to use `this`. The driver must not end it
    /// here, because the end of an upper bio may sleep.
    fn resume(this: ArcBorrow<'_, Self>, rq: Request<Self>);
}

/// The `blk_mq_ops` of the disks with queue data `D`.
pub(super) struct OperationsVTable<D: Operations>(PhantomData<D>);

impl<D: Operations> OperationsVTable<D> {
    pub(super) const TABLE: bindings::blk_mq_ops = bindings::blk_mq_ops {
        queue_rq: Some(Self::queue_rq),
        queue_rqs: Some(Self::queue_rqs),
        init_hctx: Some(Self::init_hctx),
        init_request: Some(Self::init_request),
        ..pin_init::zeroed()
    };

    /// Queues one request.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq for a queue of a `GenDisk<D>`. `bd` must hold a request whose
    /// ownership passes to the driver.
    unsafe extern "C" fn queue_rq(
        _hctx: *mut bindings::blk_mq_hw_ctx,
        bd: *const bindings::blk_mq_queue_data,
    ) -> bindings::blk_status_t {
        // SAFETY: blk-mq passes valid pointers, and by the contract of this function the driver
        // owns the request. The returned status gives it back to blk-mq if `start` did not take it.
        if unsafe { Self::start((*bd).rq) } {
            // CAST: The value is 0.
            bindings::BLK_STS_OK as bindings::blk_status_t
        } else {
            ffi::BLK_STS_RESOURCE
        }
    }

    /// Queues the requests from a task's plug. blk-mq passes requests that stay on the list to
    /// `queue_rq`.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, with a list of requests for queues of `GenDisk<D>`s whose
    /// ownership passes to the driver.
    unsafe extern "C" fn queue_rqs(list: *mut bindings::rq_list) {
        // SAFETY: blk-mq passes a valid list, which this function may change.
        let bindings::rq_list { mut head, tail } = unsafe { core::mem::take(&mut *list) };

        while !head.is_null() {
            let rq = head;
            // SAFETY: We own the list, so the request and its link are valid. The request is taken
            // off the list before another owner gets it.
            let taken = unsafe {
                head =
                    core::mem::replace(&mut (*rq).__bindgen_anon_1.rq_next, core::ptr::null_mut());
                Self::start(rq)
            };
            if !taken {
                // The request was started, so it cannot stay on the list.
                // SAFETY: `start` has returned `false`, so by its contract we own the request
                // again, and it is started.
                unsafe { bindings::blk_mq_requeue_request(rq, true) };
                break;
            }
        }
        if !head.is_null() {
            // SAFETY: By the contract of `queue_rqs` the list is valid and ours to change. `head`
            // and `tail` are its unchanged rest.
            unsafe { *list = bindings::rq_list { head, tail } };
        }
    }

    /// Starts a request and passes it to the driver. Returns `false` if the caller owns the request
    /// again, which is then started.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `GenDisk<D>` that is not started, and the caller must pass on
    /// its ownership. `GenDisk::drop` must wait for the caller.
    unsafe fn start(rq: *mut bindings::request) -> bool {
        // SAFETY: `GenDisk::new` set `queuedata`, and `GenDisk::drop` waits for the caller before
        // it frees `DiskData`. We own the request, and `init_request` initialised its `Pdu`.
        let (rq, shared) = unsafe {
            // A request that is queued again keeps its private data. The flag also prevents merges
            // with it.
            if (*rq).rq_flags & ffi::RQF_DONTPREP == 0 {
                (*rq).rq_flags |= ffi::RQF_DONTPREP;
                (*Pdu::of(rq)).renew();
            }
            bindings::blk_mq_start_request(rq);
            (Request::from_raw(rq), &*DiskData::<D>::of(rq))
        };

        // SAFETY: The request is in flight. If it ends before the call returns, a thread that
        // replaces the queue data waits for the caller before it drops the old, see
        // `GenDisk::replace_queue_data`.
        match D::queue(unsafe { shared.queue_data() }, rq) {
            Ok(()) => true,
            Err(rq) => {
                let _ = rq.into_raw();
                false
            }
        }
    }

    /// Initialises a hardware queue.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, for a new hardware queue of the disk.
    unsafe extern "C" fn init_hctx(
        hctx: *mut bindings::blk_mq_hw_ctx,
        _data: *mut c_void,
        _hctx_idx: c_uint,
    ) -> c_int {
        // A lower flush may end our flush while the lower flush machinery holds its lock. Our lock
        // therefore has a separate class, so that lockdep does not take the two for one lock.
        // SAFETY: The queue is allocated and not in use yet. The key is static.
        unsafe {
            bindings::blk_mq_hctx_set_fq_lock_class(hctx, static_lock_class!().as_ptr());
        }
        0
    }

    /// Initialises the private data of a request.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, for a new request of the tag set, including flush requests.
    unsafe extern "C" fn init_request(
        _set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hctx_idx: c_uint,
        _node: c_int,
    ) -> c_int {
        // SAFETY: `TagSet::new` has set `cmd_size` to the size of `Pdu` before it allocated the
        // requests, and the request is not in use yet.
        unsafe { Pdu::of(rq).write(Pdu::new()) };
        0
    }
}
