// SPDX-License-Identifier: GPL-2.0

//! The current task, while it works on what may take long.
//!
//! C header: [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Gives way to other tasks. `EINTR` if the current task has a fatal signal pending.
///
/// Context: process, may sleep. At short intervals in work whose length a device's content decides.
pub(crate) fn give_way() -> Result {
    // SAFETY: The caller may sleep.
    to_result(unsafe { ffi::ub_give_way() })
}
