// SPDX-License-Identifier: GPL-2.0

//! Events of a disk, for those who trace.
//!
//! The kernel's own `declare_trace!` looks for its tracepoints in the bindings, where those of a
//! module cannot be: so each event is a C function around one.
//!
//! C header: [`trace.h`](trace.h)

use super::{
    disk::DiskRef,
    ffi, //
};

/// Any context.
impl DiskRef {
    /// A write has made a mapping.
    pub(crate) fn trace_first_write(&self, sector: u64, sectors: u32) {
        // SAFETY: The disk's memory is there as long as the reference.
        unsafe { ffi::ub_trace_first_write(self.as_raw(), sector, sectors) };
    }

    /// A commit has ended: blocks of metadata written, changes made durable; `error` is 0 or
    /// negative.
    pub(crate) fn trace_commit(&self, blocks: u64, changes: u64, error: i32) {
        // SAFETY: As above.
        unsafe { ffi::ub_trace_commit(self.as_raw(), blocks, changes, error) };
    }

    /// A checkpoint has ended: blocks of metadata that are free again; `error` is 0 or negative.
    pub(crate) fn trace_checkpoint(&self, blocks: u64, error: i32) {
        // SAFETY: As above.
        unsafe { ffi::ub_trace_checkpoint(self.as_raw(), blocks, error) };
    }

    /// Space of the device below was given back.
    pub(crate) fn trace_release(&self, sector: u64, sectors: u64) {
        // SAFETY: As above.
        unsafe { ffi::ub_trace_release(self.as_raw(), sector, sectors) };
    }
}
