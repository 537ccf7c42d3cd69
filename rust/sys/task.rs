// SPDX-License-Identifier: GPL-2.0

//! Rescheduling of the current task during long work.
//!
//! C header: [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Reschedules if another task should run. Returns `EINTR` if the current task has a fatal signal
/// pending.
///
/// To be called at short intervals in work whose length depends on the content of a device.
///
/// Context: process, may sleep.
pub(crate) fn give_way() -> Result {
    // SAFETY: `ub_give_way()` only requires a context that may sleep, as this function does.
    to_result(unsafe { ffi::ub_give_way() })
}
