// SPDX-License-Identifier: GPL-2.0

//! A plug of the block layer.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use core::mem::MaybeUninit;
use kernel::{
    bindings,
    types::NotThreadSafe, //
};

/// A plug of the current task.
///
/// The plug holds back the requests that the task makes. They are dispatched together when the plug
/// is finished, or when the task sleeps.
///
/// # Invariants
///
/// The current task started `plug`, and it does not move.
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
    // INVARIANT: The plug is started here, and the value does not move before it is dropped at the
    // end of this function.
    // SAFETY: The plug is a local value, so it may be written; `drop` finishes it.
    unsafe { bindings::blk_start_plug(plug.plug.as_mut_ptr()) };
    f()
}

impl Drop for Plug {
    fn drop(&mut self) {
        // SAFETY: By the invariant this task has started the plug, which has not moved.
        unsafe { bindings::blk_finish_plug(self.plug.as_mut_ptr()) };
    }
}
