// SPDX-License-Identifier: GPL-2.0

//! Rescheduling of the current task during long work, and waiting for other tasks.
//!
//! C headers: [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h),
//! [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use super::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Gives way to another task that should run, as `cond_resched()` does, and also with lazy
/// preemption, where that does nothing. Returns `EINTR` if the current task has a fatal signal
/// pending.
///
/// To be called at short intervals in work whose length depends on the content of a device.
///
/// Context: process, may sleep.
pub(crate) fn give_way() -> Result {
    // SAFETY: `ub_give_way()` only requires a context that may sleep, as this function does.
    to_result(unsafe { ffi::ub_give_way() })
}

/// Waits until every task has slept, or has been in user space, since this call began. A task that
/// was preempted in a function of this module has then left it. The caller makes sure that no task
/// enters such a function again.
///
/// Context: process, sleeps.
pub(crate) fn wait_for_tasks() {
    // SAFETY: `ub_wait_for_tasks()` only requires a context that may sleep, as this function does.
    unsafe { ffi::ub_wait_for_tasks() };
}
