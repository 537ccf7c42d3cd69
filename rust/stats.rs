// SPDX-License-Identifier: GPL-2.0

//! What a union counts, for those who ask without the committer's lock. Nothing on the read path.

use crate::metadata::UnionCommitter;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The counters of a union, since attach.
pub(crate) struct Stats {
    first_writes: Atomic<u64>,
    io_errors: Atomic<u64>,
    commits: Atomic<u64>,
    checkpoints: Atomic<u64>,
    journal_written: Atomic<u64>,
    journal_used: Atomic<u32>,
}

/// What a committer has counted.
pub(crate) struct Committed {
    /// Commits that wrote something.
    pub(crate) commits: u64,
    /// Checkpoints.
    pub(crate) checkpoints: u64,
    /// Journal blocks written.
    pub(crate) journal_written: u64,
    /// Journal blocks in use.
    pub(crate) journal_used: u32,
}

impl Committed {
    /// What it has counted by now. Under its lock.
    pub(crate) fn of(committer: &UnionCommitter) -> Self {
        let counters = committer.counters();
        Committed {
            commits: counters.commits,
            checkpoints: counters.checkpoints,
            journal_written: counters.journal_written,
            journal_used: committer.journal_used(),
        }
    }
}

impl Stats {
    pub(crate) const fn new() -> Self {
        Stats {
            first_writes: Atomic::new(0),
            io_errors: Atomic::new(0),
            commits: Atomic::new(0),
            checkpoints: Atomic::new(0),
            journal_written: Atomic::new(0),
            journal_used: Atomic::new(0),
        }
    }

    /// Takes over the committer's own counters. Under its lock.
    pub(crate) fn publish(&self, now: &Committed) {
        self.commits.store(now.commits, Relaxed);
        self.checkpoints.store(now.checkpoints, Relaxed);
        self.journal_written.store(now.journal_written, Relaxed);
        self.journal_used.store(now.journal_used, Relaxed);
    }

    /// What was published last.
    pub(crate) fn committed(&self) -> Committed {
        Committed {
            commits: self.commits(),
            checkpoints: self.checkpoints(),
            journal_written: self.journal_written(),
            journal_used: self.journal_used(),
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

    /// Commits that wrote something.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// Checkpoints.
    pub(crate) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Relaxed)
    }

    /// Journal blocks written.
    pub(crate) fn journal_written(&self) -> u64 {
        self.journal_written.load(Relaxed)
    }

    /// Journal blocks in use.
    pub(crate) fn journal_used(&self) -> u32 {
        self.journal_used.load(Relaxed)
    }
}
