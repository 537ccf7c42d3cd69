// SPDX-License-Identifier: GPL-2.0

//! Trace events of a union.
//!
//! The kernel's `declare_trace!` looks up tracepoints in the bindings, which cannot contain those
//! of a module. Each event is therefore a C function that calls the tracepoint.
//!
//! C header: [`trace.h`](trace.h)

use crate::blk::GenDiskRef;
use kernel::{
    bindings,
    ffi::c_int, //
};

mod ffi {
    use super::*;

    // Not `expect`, because these pointers are to an empty struct only if lockdep is off.
    #[allow(improper_ctypes)]
    extern "C" {
        pub(super) fn ub_trace_first_write(disk: *mut bindings::gendisk, sector: u64, sectors: u32);
        pub(super) fn ub_trace_commit(
            disk: *mut bindings::gendisk,
            blocks: u64,
            changes: u64,
            error: c_int,
        );
        pub(super) fn ub_trace_checkpoint(disk: *mut bindings::gendisk, blocks: u64, error: c_int);
        pub(super) fn ub_trace_free(disk: *mut bindings::gendisk, sector: u64, sectors: u64);
    }
}

/// All of these may be called in any context.
impl GenDiskRef {
    /// Traces a write that has made a mapping.
    pub(crate) fn trace_first_write(&self, sector: u64, sectors: u32) {
        // SAFETY: By the invariant of `GenDiskRef` a reference keeps the disk's memory.
        unsafe { ffi::ub_trace_first_write(self.as_raw(), sector, sectors) };
    }

    /// Traces a commit that has ended: `blocks` of metadata were written, and `changes` became
    /// durable. `error` is 0 or negative.
    pub(crate) fn trace_commit(&self, blocks: u64, changes: u64, error: i32) {
        // SAFETY: By the invariant of `GenDiskRef` a reference keeps the disk's memory.
        unsafe { ffi::ub_trace_commit(self.as_raw(), blocks, changes, error) };
    }

    /// Traces a checkpoint that has ended: `blocks` of metadata are free again. `error` is 0 or
    /// negative.
    pub(crate) fn trace_checkpoint(&self, blocks: u64, error: i32) {
        // SAFETY: By the invariant of `GenDiskRef` a reference keeps the disk's memory.
        unsafe { ffi::ub_trace_checkpoint(self.as_raw(), blocks, error) };
    }

    /// Traces that space of the lower device was freed.
    pub(crate) fn trace_free(&self, sector: u64, sectors: u64) {
        // SAFETY: By the invariant of `GenDiskRef` a reference keeps the disk's memory.
        unsafe { ffi::ub_trace_free(self.as_raw(), sector, sectors) };
    }
}
