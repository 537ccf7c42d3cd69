// SPDX-License-Identifier: GPL-2.0

//! Allocation in the I/O path.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use super::ffi;
use kernel::types::NotThreadSafe;

/// While it lives, no allocation of the current task starts I/O, whatever its flags say: so memory
/// may be had where I/O is what others wait for.
///
/// # Invariants
///
/// `flags` are what `memalloc_noio_save()` returned to this task.
pub(crate) struct NoIo {
    flags: u32,
    _task: NotThreadSafe,
}

impl NoIo {
    /// Begins such a stretch.
    pub(crate) fn new() -> Self {
        // INVARIANT: Saved just now; the value does not leave the task.
        Self {
            // SAFETY: It changes a flag of the current task.
            flags: unsafe { ffi::ub_noio_save() },
            _task: NotThreadSafe,
        }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: By the invariant the flags are this task's.
        unsafe { ffi::ub_noio_restore(self.flags) };
    }
}
