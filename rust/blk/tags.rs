// SPDX-License-Identifier: GPL-2.0

//! The tags and requests of a disk.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    disk::{
        Driver,
        Operations, //
    },
    ffi,
    pdu::Pdu,
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_uint,
        c_void, //
    },
    prelude::*,
    static_lock_class,
    sync::Arc,
    types::Opaque, //
};

/// The tags and requests of one disk. They are made before the disk, and may outlive it.
///
/// # Invariants
///
/// The C struct is initialised, its operations are those of `D`, its `cmd_size` is that of [`Pdu`].
#[pin_data(PinnedDrop)]
pub(crate) struct Tags<D: Driver> {
    #[pin]
    inner: Opaque<bindings::blk_mq_tag_set>,
    _driver: PhantomData<fn(D)>,
}

// SAFETY: A tag set may be used from any thread.
unsafe impl<D: Driver> Send for Tags<D> {}

// SAFETY: As above, by any number of threads.
unsafe impl<D: Driver> Sync for Tags<D> {}

impl<D: Driver> Tags<D> {
    /// For a disk of `queues` hardware queues that share `depth` requests. `may_sleep`: a driver
    /// below may, to which [`Driver::queue`] sends requests.
    pub(crate) fn new(queues: u32, depth: u32, may_sleep: bool) -> Result<Arc<Self>> {
        // NO_SCHED: a scheduler is for those who want one. STACKING: a CPU that goes offline waits
        // for requests below, not for ours. HCTX_SHARED: the requests take most of an idle disk's
        // memory, so its queues share them.
        let mut flags = bindings::BLK_MQ_F_NO_SCHED_BY_DEFAULT
            | bindings::BLK_MQ_F_STACKING
            | bindings::BLK_MQ_F_TAG_HCTX_SHARED;
        if may_sleep {
            flags |= bindings::BLK_MQ_F_BLOCKING;
        }
        let set = bindings::blk_mq_tag_set {
            ops: &Operations::<D>::TABLE,
            nr_maps: 1,
            nr_hw_queues: queues,
            queue_depth: depth,
            // CAST: far below 4 GiB.
            cmd_size: size_of::<Pdu>() as c_uint,
            numa_node: bindings::NUMA_NO_NODE,
            flags,
            ..pin_init::zeroed()
        };

        Arc::pin_init(
            try_pin_init!(Self {
                inner <- Opaque::try_ffi_init(move |slot: *mut bindings::blk_mq_tag_set| {
                    // SAFETY: `slot` is ours to write.
                    unsafe { slot.write(set) };
                    // SAFETY: As above. Should it fail, it leaves nothing behind.
                    to_result(unsafe { bindings::blk_mq_alloc_tag_set(slot) })?;
                    // SAFETY: Allocated just now, and not in use; the key is static.
                    unsafe {
                        ffi::ub_tags_set_lock_class(slot, static_lock_class!().as_ptr());
                    }
                    Ok::<(), Error>(())
                }),
                _driver: PhantomData,
            }? Error),
            GFP_KERNEL,
        )
    }

    pub(super) fn as_raw(&self) -> *mut bindings::blk_mq_tag_set {
        self.inner.get()
    }

    /// How many hardware queues there are: not more than there are CPUs.
    pub(super) fn queues(&self) -> u32 {
        // SAFETY: By the invariant it is initialised; the number was settled when it was made.
        unsafe { (*self.inner.get()).nr_hw_queues }
    }

    /// Whether `f`, with `with`, holds for the word of any request that was started and has not
    /// ended. Requests start and end meanwhile: it takes barriers to say which are looked at.
    ///
    /// Context: process. `f` must not sleep.
    pub(crate) fn any(&self, f: fn(u64, u64) -> bool, with: u64) -> bool {
        let mut look = Look {
            f,
            with,
            found: false,
        };

        // SAFETY: By the invariant it is initialised; `look` outlives the call, and `each` takes
        // it for what it is.
        unsafe {
            bindings::blk_mq_tagset_busy_iter(
                self.inner.get(),
                Some(each),
                (&raw mut look).cast::<c_void>(),
            );
        }
        look.found
    }
}

/// What [`Tags::any`] asks of each request.
struct Look {
    f: fn(u64, u64) -> bool,
    with: u64,
    found: bool,
}

/// # Safety
///
/// Called by blk-mq for each started request of a tag set of ours, with a [`Look`] that nobody else
/// uses meanwhile.
unsafe extern "C" fn each(rq: *mut bindings::request, look: *mut c_void) -> bool {
    // SAFETY: Promised by the caller.
    let look = unsafe { &mut *look.cast::<Look>() };
    // SAFETY: The request is of a tag set whose `cmd_size` is that of `Pdu`; `init_request` made
    // it, and blk-mq keeps the request for the length of this call.
    let pdu = unsafe { &*Pdu::of(rq) };

    look.found = (look.f)(pdu.cookie(), look.with);
    !look.found
}

#[pinned_drop]
impl<D: Driver> PinnedDrop for Tags<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant it is initialised. The disk, the only user, holds a reference,
        // and so is gone.
        unsafe { bindings::blk_mq_free_tag_set(self.inner.get()) };
    }
}
