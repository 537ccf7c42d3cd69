// SPDX-License-Identifier: GPL-2.0

//! The tags and requests of a disk.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    ffi,
    operations::{
        Operations,
        OperationsVTable, //
    },
    pdu::Pdu,
};
use crate::sys::atomic::Ordering::Acquire;
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

/// The tags and requests of one disk. They are allocated before the disk, and may outlive it.
///
/// # Invariants
///
/// The C struct is initialised, its operations are those of `D`, and its `cmd_size` is the size of
/// [`Pdu`].
#[pin_data(PinnedDrop)]
pub(crate) struct TagSet<D: Operations> {
    #[pin]
    inner: Opaque<bindings::blk_mq_tag_set>,
    _queue_data: PhantomData<fn(D)>,
}

// SAFETY: By the invariant the C struct is initialised, and no field of it is tied to a thread.
unsafe impl<D: Operations> Send for TagSet<D> {}

// SAFETY: By the invariant the C struct is initialised, and blk-mq lets any number of threads use a
// tag set at the same time.
unsafe impl<D: Operations> Sync for TagSet<D> {}

impl<D: Operations> TagSet<D> {
    /// Allocates the tags for a disk of `queues` hardware queues that share `depth` requests.
    ///
    /// `may_sleep` says whether a lower driver to which [`Operations::queue`] sends requests may
    /// sleep.
    pub(crate) fn new(queues: u32, depth: u32, may_sleep: bool) -> Result<Arc<Self>> {
        // NO_SCHED: no I/O scheduler unless the user selects one. STACKING: a CPU that goes offline
        // waits for the requests of the lower disks, not for ours. HCTX_SHARED: the hardware queues
        // share the requests, because these take most of the memory of an idle disk.
        let mut flags = bindings::BLK_MQ_F_NO_SCHED_BY_DEFAULT
            | bindings::BLK_MQ_F_STACKING
            | bindings::BLK_MQ_F_TAG_HCTX_SHARED;
        if may_sleep {
            flags |= bindings::BLK_MQ_F_BLOCKING;
        }
        let set = bindings::blk_mq_tag_set {
            ops: &OperationsVTable::<D>::TABLE,
            nr_maps: 1,
            nr_hw_queues: queues,
            queue_depth: depth,
            // CAST: The size of `Pdu` is far below 4 GiB.
            cmd_size: size_of::<Pdu>() as c_uint,
            numa_node: bindings::NUMA_NO_NODE,
            flags,
            ..pin_init::zeroed()
        };

        Arc::pin_init(
            try_pin_init!(Self {
                inner <- Opaque::try_ffi_init(move |slot: *mut bindings::blk_mq_tag_set| {
                    // SAFETY: `Opaque::try_ffi_init()` passes a pointer to the memory of the field,
                    // which is valid for writes.
                    unsafe { slot.write(set) };
                    // SAFETY: `slot` holds the struct written above, and does not move. If the call
                    // fails, it leaves nothing allocated.
                    to_result(unsafe { bindings::blk_mq_alloc_tag_set(slot) })?;
                    // SAFETY: The set was allocated above and is not in use. The key is static.
                    unsafe {
                        ffi::ub_tags_set_lock_class(slot, static_lock_class!().as_ptr());
                    }
                    Ok::<(), Error>(())
                }),
                _queue_data: PhantomData,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Returns whether a lower driver may sleep when it takes a request from
    /// [`Operations::queue`].
    pub(crate) fn may_sleep(&self) -> bool {
        // SAFETY: By the invariant the set is initialised. The flags do not change afterwards.
        unsafe { (*self.inner.get()).flags & bindings::BLK_MQ_F_BLOCKING != 0 }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::blk_mq_tag_set {
        self.inner.get()
    }

    /// Returns the number of hardware queues, which is at most the number of CPUs.
    pub(super) fn queues(&self) -> u32 {
        // SAFETY: By the invariant the set is initialised. The number does not change afterwards.
        unsafe { (*self.inner.get()).nr_hw_queues }
    }

    /// Returns whether `f(word, with)` is true for the word of any request that was started and has
    /// not ended.
    ///
    /// Requests may start and end during the call. Only barriers in the caller and in the path of a
    /// request can guarantee that a given request is checked.
    ///
    /// Context: process. `f` must not sleep.
    pub(crate) fn any(&self, f: fn(u64, u64) -> bool, with: u64) -> bool {
        let mut search = Search {
            f,
            with,
            found: false,
        };

        // SAFETY: By the invariant the set is initialised. `search` outlives the call, and `each`
        // casts it back to a `Search`.
        unsafe {
            bindings::blk_mq_tagset_busy_iter(
                self.inner.get(),
                Some(each),
                (&raw mut search).cast::<c_void>(),
            );
        }
        search.found
    }
}

/// The argument that [`TagSet::any`] passes to [`each`].
struct Search {
    f: fn(u64, u64) -> bool,
    with: u64,
    found: bool,
}

/// Checks one request for [`TagSet::any`], and returns whether to continue.
///
/// # Safety
///
/// Must only be called by blk-mq for a started request of a [`TagSet`], with a [`Search`] that no
/// one else uses during the call.
unsafe extern "C" fn each(rq: *mut bindings::request, search: *mut c_void) -> bool {
    // SAFETY: By the contract of this function `search` is a `Search` that no one else uses.
    let search = unsafe { &mut *search.cast::<Search>() };
    // SAFETY: By the contract of this function `rq` is a request of a `TagSet`, so by the invariant
    // of `TagSet` a `Pdu` follows it. `init_request` initialised the `Pdu`, and blk-mq keeps the
    // request during this call.
    let pdu = unsafe { &*Pdu::of(rq) };

    search.found = (search.f)(pdu.word.load(Acquire), search.with);
    !search.found
}

#[pinned_drop]
impl<D: Operations> PinnedDrop for TagSet<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant the set is initialised. Its only user is the disk, and `GenDisk`
        // holds a reference until it has removed the disk. The block layer does not use the set of
        // a disk that was removed, even if the disk's memory still exists.
        unsafe { bindings::blk_mq_free_tag_set(self.inner.get()) };
    }
}
