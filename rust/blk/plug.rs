// SPDX-License-Identifier: GPL-2.0

//! A plug.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use core::mem::MaybeUninit;
use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// Requests that the current task makes are held back while it lives, and go out together at its
/// end, or when the task sleeps.
///
/// # Invariants
///
/// `plug` was started by the current task, and does not move.
struct Plug {
    plug: MaybeUninit<bindings::blk_plug>,
    _task: NotThreadSafe,
}

/// Runs `f` with a plug. Context: process.
pub(crate) fn with<R>(f: impl FnOnce() -> R) -> R {
    let mut plug = Plug {
        plug: MaybeUninit::uninit(),
        _task: NotThreadSafe,
    };
    // INVARIANT: Started just now; the value stays where it is until it is dropped, at the end.
    // SAFETY: The plug is ours to write; it is finished before it goes.
    unsafe { bindings::blk_start_plug(plug.plug.as_mut_ptr()) };
    f()
}

impl Drop for Plug {
    fn drop(&mut self) {
        // SAFETY: By the invariant this task has started it.
        unsafe { bindings::blk_finish_plug(self.plug.as_mut_ptr()) };
    }
}
