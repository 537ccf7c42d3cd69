// SPDX-License-Identifier: GPL-2.0

//! A work queue of one's own, and ways to wait for work and to call it off.
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

/// A work queue that makes progress when memory is short, bound to no CPU.
///
/// # Invariants
///
/// The pointer is to a work queue that is there until the value is dropped.
pub(crate) struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A work queue may be used from any thread.
unsafe impl Send for OwnedQueue {}

// SAFETY: As above, by any number of threads.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// A new queue; `name` shows up as that of its rescuer thread.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        Self::with(name, false)
    }

    /// The same, frozen with the kernel's threads: no work begins between the moment that a
    /// hibernation image is made and the resume from it.
    pub(crate) fn new_freezable(name: &CStr) -> Result<Self> {
        Self::with(name, true)
    }

    fn with(name: &CStr, freezable: bool) -> Result<Self> {
        // SAFETY: `name` is a string that outlives the call; the queue keeps a copy.
        let queue = unsafe { ffi::ub_alloc_workqueue(name.as_char_ptr(), freezable) };

        // INVARIANT: Just allocated, and ours.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the invariant the queue is there, longer than the reference.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariant the queue is there. What is still queued runs before this
        // returns. Delayed work that still waits for its time holds no reference to the queue by
        // which this would be seen: its owner calls it off first.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// The system's queue for work that is bound to no CPU. The kernel crate names its forerunners
/// alone, which complain when they are used.
pub(crate) fn system() -> &'static Queue {
    // SAFETY: It is made before any module is loaded, and never goes.
    unsafe { Queue::from_raw(bindings::system_dfl_wq) }
}

/// The C work of `item`.
fn raw<T, const ID: u64>(item: &Arc<T>) -> *mut bindings::work_struct
where
    T: HasWork<T, ID>,
{
    // SAFETY: The item is there, longer than this call.
    unsafe { Work::raw_get(T::raw_get_work(Arc::as_ptr(item).cast_mut())) }
}

/// Waits until the work of `item`, if it was queued, has run. Sleeps.
pub(crate) fn flush_work<T, const ID: u64>(item: &Arc<T>)
where
    T: HasWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    // SAFETY: A `Work` is initialised when it is made; the item is there for the call.
    unsafe { bindings::flush_work(raw::<T, ID>(item)) };
}

/// Calls the delayed work of `item` off, whether it waits for its time or is queued, and waits for
/// it where it already runs. Sleeps.
///
/// It is not queued and does not run when this returns, unless somebody queues it anew.
pub(crate) fn cancel_delayed_work_sync<T, const ID: u64>(item: &Arc<T>)
where
    T: HasDelayedWork<T, ID> + WorkItem<ID, Pointer = Arc<T>>,
{
    let work = raw::<T, ID>(item);
    // SAFETY: `HasDelayedWork` promises that the work is the field of that name of a
    // `delayed_work`.
    let delayed = unsafe { kernel::container_of!(work, bindings::delayed_work, work) };

    // SAFETY: A `DelayedWork` is initialised when it is made; the item is there for the call.
    if unsafe { bindings::cancel_delayed_work_sync(delayed) } {
        // SAFETY: The work was queued and will not run: the reference that `enqueue_delayed` turned
        // into a raw pointer is nobody's.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(item)) });
    }
}
