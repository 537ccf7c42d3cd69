// SPDX-License-Identifier: GPL-2.0

//! What a union counts beside the committer's own counters. Nothing on the read path.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The counters of a union, since attach.
pub(crate) struct Stats {
    first_writes: Atomic<u64>,
    io_errors: Atomic<u64>,
}

impl Stats {
    pub(crate) const fn new() -> Self {
        Stats {
            first_writes: Atomic::new(0),
            io_errors: Atomic::new(0),
        }
    }

    /// A write has made a mapping. Any context.
    pub(crate) fn first_write(&self) {
        self.first_writes.fetch_add(1, Relaxed);
    }

    /// A request has failed below. Any context.
    pub(crate) fn io_error(&self) {
        self.io_errors.fetch_add(1, Relaxed);
    }

    /// Writes that made a mapping.
    pub(crate) fn first_writes(&self) -> u64 {
        self.first_writes.load(Relaxed)
    }

    /// Requests that failed below.
    pub(crate) fn io_errors(&self) -> u64 {
        self.io_errors.load(Relaxed)
    }
}
