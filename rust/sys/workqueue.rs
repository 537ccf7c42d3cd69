// SPDX-License-Identifier: GPL-2.0

//! Owned work queues, and functions to wait for work and to cancel it.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use super::ffi;
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    str::CStrExt,
    sync::Arc,
    workqueue::{
        HasDelayedWork,
        HasWork,
        Queue,
        Work,
        WorkItem, //
    },
};

/// A work queue that is not bound to a CPU and makes progress when memory is short.
///
/// # Invariants
///
/// The pointer is to a work queue that exists until the value is dropped.
pub(crate) struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: By the invariant the work queue exists until the value is dropped, in whatever thread
// that is.
unsafe impl Send for OwnedQueue {}

// SAFETY: By the invariant the queue exists, and any number of threads may queue work on it and
// flush work of it at the same time.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// The number of work items that a queue runs at a time on a machine with one NUMA node. If
    /// there are more nodes, each gets a share of the number, by its CPUs.
    ///
    /// A work item above the limit waits until another one of the queue ends. So work items that
    /// wait for each other must not be more than this.
    // CAST: The value is 2,048.
    pub(crate) const LIMIT: usize = bindings::wq_consts_WQ_UNBOUND_MAX_ACTIVE as usize;

    /// Allocates a queue. `name` is also the name of its rescuer thread.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        Self::with(name, false)
    }

    /// Allocates a queue that is frozen with the kernel threads: no work starts between the
    /// creation of a hibernation image and the resume from it.
    pub(crate) fn new_freezable(name: &CStr) -> Result<Self> {
        Self::with(name, true)
    }

    fn with(name: &CStr, freezable: bool) -> Result<Self> {
        // SAFETY: `name` is a string that outlives the call; the queue keeps a copy.
        let queue = unsafe { ffi::ub_alloc_workqueue(name.as_char_ptr(), freezable) };

        // INVARIANT: The queue was allocated above, and only this value owns it.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the invariant the queue exists until `self` is dropped, and the reference
        // borrows `self`.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariant the queue exists. Work that is still queued runs before this
        // returns. The call does not see delayed work whose timer is pending, so the owner of such
        // work cancels it first.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// Returns the system's queue for work that is not bound to a CPU.
///
/// The kernel crate has only the predecessors of this queue, which warn when they are used.
pub(crate) fn system() -> &'static Queue {
    // SAFETY: The queue is allocated before any module is loaded, and is never destroyed.
    unsafe { Queue::from_raw(bindings::system_dfl_wq) }
}

/// Returns the C work of `item`.
fn raw<T, const ID: u64>(item: &Arc<T>) -> *mut bindings::work_struct
where
    T: HasWork<T, ID>,
{
    // SAFETY: The reference to the `Arc` keeps the item during this call.
    unsafe { Work::raw_get(T::raw_get_work(Arc::as_ptr(item).cast_mut())) }
}

/// Waits until the work of `item` has run, if it was queued. Sleeps.
pub(crate) fn flush_work<T, const ID: u64>(item: &Arc<T>)
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    // SAFETY: A `Work` is initialised when it is made. The reference keeps the item during the
    // call.
    unsafe { bindings::flush_work(raw::<T, ID>(item)) };
}

/// Cancels the delayed work of `item`, whether its timer is pending or it is queued, and waits for
/// it if it is running. Sleeps.
///
/// When this returns, the work is neither queued nor running, unless another thread has queued it
/// again.
pub(crate) fn cancel_delayed_work_sync<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    let work = raw::<T, ID>(item);
    // SAFETY: By the contract of `HasDelayedWork` the work is the field `work` of a `delayed_work`.
    let delayed = unsafe { kernel::container_of!(work, bindings::delayed_work, work) };

    // SAFETY: A `DelayedWork` is initialised when it is made. The reference keeps the item during
    // the call.
    if unsafe { bindings::cancel_delayed_work_sync(delayed) } {
        // SAFETY: The work was queued and will not run, so no one else owns the reference that
        // `enqueue_delayed` turned into a raw pointer.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
    }
}
