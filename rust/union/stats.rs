// SPDX-License-Identifier: GPL-2.0

//! The counters of a union, readable without the committer's lock. A read that succeeds counts
//! nothing.

use super::metadata_disk::UnionCommitter;
use crate::sys::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering::Relaxed, //
};

/// The counters of a union, since its attach or its last freeze or reset.
pub(super) struct Stats {
    first_writes: AtomicU64,
    io_errors: AtomicU64,
    no_space: AtomicU64,
    commits: AtomicU64,
    checkpoints: AtomicU64,
    journal_written: AtomicU64,
    journal_used: AtomicU32,
}

/// The counters of a committer.
pub(super) struct CommitterCounters {
    /// Number of commits that wrote something.
    pub(super) commits: u64,
    /// Number of checkpoints.
    pub(super) checkpoints: u64,
    /// Number of journal blocks written.
    pub(super) journal_written: u64,
    /// Number of journal blocks in use.
    pub(super) journal_used: u32,
}

impl CommitterCounters {
    /// Reads the counters of a committer. Under the committer's lock.
    pub(super) fn of(committer: &UnionCommitter) -> Self {
        let counters = committer.counters();
        CommitterCounters {
            commits: counters.commits,
            checkpoints: counters.checkpoints,
            journal_written: counters.journal_written,
            journal_used: committer.journal_used(),
        }
    }
}

impl Stats {
    pub(super) const fn new() -> Self {
        Stats {
            first_writes: AtomicU64::new(0),
            io_errors: AtomicU64::new(0),
            no_space: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            checkpoints: AtomicU64::new(0),
            journal_written: AtomicU64::new(0),
            journal_used: AtomicU32::new(0),
        }
    }

    /// Stores the committer's counters. Under the committer's lock.
    pub(super) fn store(&self, now: &CommitterCounters) {
        self.commits.store(now.commits, Relaxed);
        self.checkpoints.store(now.checkpoints, Relaxed);
        self.journal_written.store(now.journal_written, Relaxed);
        self.journal_used.store(now.journal_used, Relaxed);
    }

    /// Returns the counters that were stored last.
    pub(super) fn committer_counters(&self) -> CommitterCounters {
        CommitterCounters {
            commits: self.commits(),
            checkpoints: self.checkpoints(),
            journal_written: self.journal_written(),
            journal_used: self.journal_used(),
        }
    }

    /// Counts a write that has made a mapping. Any context.
    pub(super) fn first_write(&self) {
        self.first_writes.fetch_add(1, Relaxed);
    }

    /// Counts a request that failed below, or touched lost sectors. Any context.
    pub(super) fn io_error(&self) {
        self.io_errors.fetch_add(1, Relaxed);
    }

    /// Counts a request that failed because the leaf, or the storage below it, has no space. Any
    /// context.
    pub(super) fn no_space(&self) {
        self.no_space.fetch_add(1, Relaxed);
    }

    /// Returns the number of requests that failed for lack of space.
    pub(super) fn failed_for_space(&self) -> u64 {
        self.no_space.load(Relaxed)
    }

    /// Returns the number of writes that made a mapping.
    pub(super) fn first_writes(&self) -> u64 {
        self.first_writes.load(Relaxed)
    }

    /// Returns the number of requests that failed below, or touched lost sectors.
    pub(super) fn io_errors(&self) -> u64 {
        self.io_errors.load(Relaxed)
    }

    /// Returns the number of commits that wrote something.
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Relaxed)
    }

    /// Returns the number of checkpoints.
    pub(super) fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Relaxed)
    }

    /// Returns the number of journal blocks written.
    pub(super) fn journal_written(&self) -> u64 {
        self.journal_written.load(Relaxed)
    }

    /// Returns the number of journal blocks in use.
    pub(super) fn journal_used(&self) -> u32 {
        self.journal_used.load(Relaxed)
    }
}
