// SPDX-License-Identifier: GPL-2.0

//! FLUSH, the commit waiters, the commit timer, checkpoints, and the turn to read-only.
//!
//! If nothing is dirty and the leaf has no volatile cache, a FLUSH ends at once. Otherwise the
//! request becomes a commit waiter. The commit work takes all waiters first and commits then, so
//! one commit covers them all. If nothing is dirty, the commit is a flush of the leaf. Without a
//! FLUSH the timer commits what has changed, at most a second later.
//!
//! The timer and the checkpoint work run where the system can freeze them, because metadata that is
//! written after a hibernation image was made would be newer than the map in the image.

use core::num::NonZeroU32;

use super::super::error::Result;
use super::super::geometry::MapPage;
use super::super::stack::chain::Seal;
use super::super::sync::{barrier, Ordering};
use super::{is_committed, make_wait};
use super::{BlkStatus, CommitterStep, Event, Host, HostCommitter, Waiting, WorkId, WriteMode};

/// The number of changed pages that a checkpoint may store under one hold of the committer's lock,
/// and the number of walks after which it stores all that are left.
const CHANGED_MAX: u32 = 64;
const WALKS_MAX: u32 = 3;

/// Takes a FLUSH request. If the union was attached read-only, the request succeeds. Any context.
pub(super) fn flush<H: Host>(host: &H, rq: H::Request) {
    match host.shared().write_mode() {
        // A commit failed. No later commit can make durable what this flush would acknowledge.
        WriteMode::TurnedReadOnly => host.end(rq, H::Status::IO_ERROR),
        WriteMode::AttachedReadOnly => host.end(rq, H::Status::OK),
        // Everything is durable already.
        WriteMode::Writable if is_committed(host) && !host.has_cache() => {
            host.end(rq, H::Status::OK);
        }
        WriteMode::Writable => make_wait(host, rq, Waiting::Commit),
    }
}

/// Makes sure that a change of the map is committed in time. The caller has counted the change
/// (I7). Any context.
pub(super) fn arm<H: Host>(host: &H) {
    // The change was counted before. Either this thread sees that the timer has fired, or
    // `timer_work` sees the count.
    barrier();
    let timer = &host.shared().timer;
    if !timer.load(Ordering::Relaxed) && !timer.swap(true, Ordering::SeqCst) {
        host.schedule(WorkId::Timer);
    }
}

/// The commit work: commits for the waiters. Process context, one at a time.
pub fn commit_work<H: Host>(host: &H) {
    // The waiters are taken before the commit, so that it covers them.
    let mut waiters = host.take_waiting(Waiting::Commit).peekable();
    if waiters.peek().is_none() {
        // The previous run has answered the request that queued this one.
        return;
    }
    // If nothing is dirty, the commit is a flush. A failure of that flush must not be forgotten
    // either, because the leaf may have lost the data of a write that the next commit names.
    let done = commit(host);
    for rq in waiters {
        host.end(rq, status_of(done));
    }
    queue_follow_up(host);
}

fn status_of<S: BlkStatus>(done: Result) -> S {
    match done {
        Ok(()) => S::OK,
        Err(_) => S::IO_ERROR,
    }
}

/// The timer work: commits what has changed. Process context, where the system can freeze it.
pub fn timer_work<H: Host>(host: &H) {
    // Cleared before the look, so a change that the look misses finds it clear: see `arm`.
    host.shared().timer.swap(false, Ordering::SeqCst);
    // A checkpoint may have made a discard durable. Then reclaim still has to run.
    if is_committed(host) || commit_dirty(host).is_ok() {
        queue_follow_up(host);
    }
}

/// The checkpoint work: frees the journal before it is full. Process context, where the system can
/// freeze it.
pub fn checkpoint_work<H: Host>(host: &H) {
    // If it fails, the union is read-only, and every other thread learns of it from that.
    let _ = checkpoint_if_due(host);
}

/// Makes a checkpoint if one is due, before the journal is full. Process context.
pub(super) fn checkpoint_if_due<H: Host>(host: &H) -> Result {
    let before = host.with_committer(|committer, _| {
        let due = committer.wants_checkpoint();
        due.then(|| committer.counters().checkpoints)
    });
    match before {
        Some(before) => checkpoint(host, before),
        None => Ok(()),
    }
}

/// Makes a checkpoint, unless another thread makes one meanwhile. `before` is the number of
/// checkpoints that the caller has seen; with `u64::MAX` it always makes one. Process context.
pub fn checkpoint<H: Host>(host: &H, before: u64) -> Result {
    store_changed(host)?;
    host.with_committer(|committer, disk| {
        if committer.counters().checkpoints > before {
            return Ok(());
        }
        let done = committer.checkpoint(host.map(), disk);
        record_outcome(host, committer, CommitterStep::Checkpoint, done)
    })
}

/// Stores the changed pages for a checkpoint, a few each time that it takes the committer's lock,
/// so that a commit need not wait for all of them. The checkpoint itself stores the pages that
/// commits have changed meanwhile. If these are many, it walks the pages again first.
fn store_changed<H: Host>(host: &H) -> Result {
    for _ in 0..WALKS_MAX {
        let mut next = Some(MapPage(0));
        while let Some(from) = next {
            next = host.with_committer(|committer, disk| {
                let stored = committer.store_some(host.map(), disk, from);
                if let Err(e) = stored {
                    record_outcome(host, committer, CommitterStep::Checkpoint, Err(e))?;
                }
                stored
            })?;
            host.give_way();
        }
        if host.with_committer(|committer, _| committer.changed_pages()) <= CHANGED_MAX {
            break;
        }
    }
    Ok(())
}

/// Queues the work that a commit leaves to do and that no request waits for.
pub(super) fn queue_follow_up<H: Host>(host: &H) {
    if host.with_committer(|committer, _| committer.wants_checkpoint()) {
        host.schedule(WorkId::Checkpoint);
    }
    if host.with_allocator(|allocator| allocator.any_emptied(host.map())) {
        host.schedule(WorkId::Reclaim);
    }
}

/// Makes durable what has completed. Process context.
pub(super) fn commit<H: Host>(host: &H) -> Result {
    host.with_committer(|committer, disk| commit_with(host, committer, disk))
}

/// Makes durable what has completed, unless another commit has done so by now. For callers without
/// a request that waits for a flush.
pub(super) fn commit_dirty<H: Host>(host: &H) -> Result {
    host.with_committer(|committer, disk| {
        if committer.is_committed(host.map()) {
            return Ok(());
        }
        commit_with(host, committer, disk)
    })
}

fn commit_with<H: Host>(
    host: &H,
    committer: &mut HostCommitter<H>,
    disk: &mut H::Disk<'_>,
) -> Result {
    host.with_allocator(|allocator| allocator.begin_commit());
    let done = committer.commit(host.map(), disk);
    record_outcome(host, committer, CommitterStep::Commit, done)
}

/// Makes the last checkpoint. No request is in flight or will arrive, and no work runs. Process
/// context.
pub fn detach<H: Host>(host: &H) -> Result {
    if host.shared().write_mode() == WriteMode::AttachedReadOnly {
        return Ok(());
    }
    host.with_committer(|committer, disk| {
        let done = committer.detach(host.map(), disk);
        record_outcome(host, committer, CommitterStep::Checkpoint, done)
    })
}

/// Makes the last checkpoint, by which the leaf becomes a layer. No request is in flight or will
/// arrive, no work runs, and the union was not attached read-only. Process context.
pub fn freeze<H: Host>(host: &H, seal: Seal) -> Result {
    host.with_committer(|committer, disk| {
        let done = committer.freeze(host.map(), disk, seal);
        record_outcome(host, committer, CommitterStep::Checkpoint, done)
    })
}

/// Makes the leaf forget all its changes. Another committer continues on it. No request is in
/// flight or will arrive at this union, no work runs, and the union was not attached read-only.
/// Process context.
pub fn reset<H: Host>(host: &H) -> Result {
    host.with_committer(|committer, disk| {
        let done = committer.reset(host.map(), disk);
        record_outcome(host, committer, CommitterStep::Reset, done)
    })
}

/// Sets how many slabs the union may use. `None`: all. The limit is durable before it holds.
/// Process context.
pub fn set_limit<H: Host>(host: &H, limit: Option<NonZeroU32>) -> Result {
    host.with_committer(|committer, disk| {
        let done = committer.set_limit(disk, limit);
        record_outcome(host, committer, CommitterStep::Limit, done)?;
        host.with_allocator(|allocator| allocator.set_limit(limit));
        Ok(())
    })
}

/// Records how a step of the committer has ended, for requests, which do not take the
/// committer's lock.
fn record_outcome<H: Host>(
    host: &H,
    committer: &HostCommitter<H>,
    step: CommitterStep,
    done: Result,
) -> Result {
    host.note_step(step, committer, done);
    let shared = host.shared();
    shared
        .checkpoint_due
        .store(committer.wants_checkpoint(), Ordering::Release);
    match done {
        Ok(()) => shared
            .durable
            .store(committer.committed(), Ordering::Release),
        Err(e) => {
            // Record the reason first, so that a request that is refused finds it. There is
            // one committer at a time.
            if shared.write_mode() != WriteMode::TurnedReadOnly {
                host.note(Event::ReadOnly(step, e));
                shared.turned_read_only.store(true, Ordering::Release);
            }
        }
    }
    done
}
