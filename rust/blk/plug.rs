// SPDX-License-Identifier: GPL-2.0

//! A plug of one's own, within that of another.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::ffi;
use core::mem::MaybeUninit;
use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// Requests that the current task makes are held back while it lives, and go out together at its
/// end, or when the task sleeps.
///
/// A plug that the task had before is set aside: it is in the midst of being emptied, and a nested
/// one of the kernel's would do nothing.
///
/// # Invariants
///
/// `plug` is the current task's plug, and `outer` the one it had before, or null.
pub(super) struct Plug {
    plug: MaybeUninit<bindings::blk_plug>,
    outer: *mut bindings::blk_plug,
    _task: NotThreadSafe,
}

impl Plug {
    /// Runs `f` with the plug. About so many `requests` will be made, 1 to 32: the first to be made
    /// takes tags for all, if they go to its device, and what is not used goes back at the end.
    /// Process context.
    pub(super) fn with<R>(requests: u16, f: impl FnOnce() -> R) -> R {
        let mut plug = Self {
            plug: MaybeUninit::uninit(),
            outer: core::ptr::null_mut(),
            _task: NotThreadSafe,
        };
        // INVARIANT: Set just now; the value stays where it is until it is dropped, at the end.
        // SAFETY: The plug is ours to write; it is taken away again before it goes.
        plug.outer = unsafe { ffi::ub_plug_begin(plug.plug.as_mut_ptr(), requests) };
        f()
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        // SAFETY: By the invariant it is this task's plug, and `outer` the one before, which is on
        // the stack of a caller of ours.
        unsafe { ffi::ub_plug_end(self.plug.as_mut_ptr(), self.outer) };
    }
}
