// SPDX-License-Identifier: GPL-2.0

//! Allocation in the I/O path.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use super::ffi;
use kernel::types::NotThreadSafe;

/// A scope in which no allocation of the current task starts I/O, regardless of its flags.
///
/// It lets a task allocate while other tasks wait for I/O that the allocation could wait for.
///
/// # Invariants
///
/// `flags` is the value that `memalloc_noio_save()` returned to this task.
pub(crate) struct NoIo {
    flags: u32,
    _task: NotThreadSafe,
}

impl NoIo {
    /// Begins the scope.
    pub(crate) fn new() -> Self {
        // INVARIANT: `flags` is saved here, and the value does not leave the task.
        Self {
            // SAFETY: `memalloc_noio_save()` only changes a flag of the current task, which exists
            // as long as it runs.
            flags: unsafe { ffi::ub_noio_save() },
            _task: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: By the invariant `memalloc_noio_save()` returned the flags to this task.
        unsafe { ffi::ub_noio_restore(self.flags) };
    }
}
