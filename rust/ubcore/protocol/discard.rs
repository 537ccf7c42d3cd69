// SPDX-License-Identifier: GPL-2.0

//! Discard and zeroing, the requests that they defer, and reclaim of the leaf slabs that they
//! empty.
//!
//! A discard or a zeroing of whole slabs changes only the map. The leaf slabs are freed when the
//! change is durable and all requests that may use the old leaf slabs have ended. Until then a
//! write to such a root slab is deferred, and reclaim submits it again.
//!
//! Discards and zeroings are one work item, and reclaim is another. Reclaim may wait for requests
//! that hang on one device, and requests that change only the map must not wait behind it. A large
//! discard is done in steps, with commits between them. So it holds the allocator's lock for one
//! step at a time, and a concurrent commit has to look through the pages of only a few steps.

use core::ops::Range;

use super::super::alloc::{Allocated, Denied};
use super::super::error::{Checked, Error, Result};
use super::super::geometry::{LeafSlab, TABLE_ENTRIES};
use super::super::map::Base;
use super::super::num::saturating_u32;
use super::super::plan::{self, Source};
use super::super::sync::Ordering;
use super::{epoch, flush, io};
use super::{make_wait, refuses_writes};
use super::{BlkStatus, Event, Host, Op, Request, RequestState, Waiting, WorkId};

/// The number of pages of the slab table that may have slabs emptied since the last commit, before
/// a discard commits.
const PENDING_MAX: u32 = 32;

/// The discard work. Process context, one at a time; waits for commits and checkpoints only.
pub fn discard_work<H: Host>(host: &H) {
    for rq in host.take_waiting(Waiting::Discard) {
        match rq.op() {
            _ if refuses_writes(host) => host.end(rq, H::Status::IO_ERROR),
            Op::Discard => discard(host, rq),
            _ => write_zeroes(host, rq),
        }
    }
}

/// Empties whole slabs. Parts of slabs stay as they are, because a discard is a hint.
fn discard<H: Host>(host: &H, rq: H::Request) {
    let base = if host.shared().reveals() {
        Base::Below
    } else {
        Base::Zero
    };
    match empty(host, &rq, base) {
        Err(Error::NoMemory) => make_wait(host, rq, Waiting::Memory),
        // A bug is not reported as a success.
        Err(e @ Error::Internal) => io::fail(host, rq, e.into()),
        // If a commit failed, the union is read-only now. A discard is a hint, so it succeeds. The
        // pages before the failure are emptied in memory only.
        _ => io::end(host, rq),
    }
}

/// Zeroes whole slabs in the map only. Defers the request if parts of slabs must be zeroed on the
/// leaf.
fn write_zeroes<H: Host>(host: &H, rq: H::Request) {
    let whole =
        RequestState::of(&rq).has_zeroed_parts() || parts(host, &rq).iter().all(|part| part.1 == 0);
    if !whole {
        return make_wait(host, rq, Waiting::Reclaim);
    }
    match empty(host, &rq, Base::Zero) {
        Ok(()) => io::end_durably(host, rq),
        Err(e) => io::fail(host, rq, e.into()),
    }
}

/// Empties the slabs that a request covers as a whole, one page of the slab table at a time.
fn empty<H: Host>(host: &H, rq: &H::Request, base: Base) -> Result {
    let slabs = host.map().geometry().whole_slabs(rq.sector(), rq.sectors());
    let mut at = slabs.start;
    while at < slabs.end {
        if host.map().pending_pages() >= PENDING_MAX {
            flush::commit_dirty(host)?;
            flush::queue_follow_up(host);
        }
        // A checkpoint that is due comes first. Otherwise the discard would change pages faster
        // than the checkpoint stores them, and the checkpoint stores all that are left under the
        // committer's lock.
        if host.shared().checkpoint_due.load(Ordering::Acquire) {
            flush::checkpoint_if_due(host)?;
        }
        let page = host.map().geometry().root_slabs_of(at / TABLE_ENTRIES);
        let end = page.end.min(slabs.end);
        let done = host.with_allocator(|allocator| allocator.empty(host.map(), at..end, base));
        // Also if that failed, because it may have emptied some slabs before.
        flush::arm(host);
        done?;
        at = end;
        host.give_way();
    }
    Ok(())
}

/// The reclaim work: frees what can be freed, and submits the deferred requests again. Process
/// context, one at a time. Waits for requests in flight, for commits, and for discards and zeroing
/// on the leaf, so no commit waits for this work.
///
/// Other requests may empty slabs faster than the rounds end. So a deferred request waits for one
/// round, not for the last.
pub fn reclaim_work<H: Host>(host: &H) {
    while reclaim_round(host) {}
}

/// Commits for the deferred requests, frees leaf slabs once, and submits these requests again.
/// Returns whether it freed anything.
fn reclaim_round<H: Host>(host: &H) -> bool {
    let mut deferred = host.take_waiting(Waiting::Reclaim).peekable();
    // If the commit fails, the union is read-only, and the requests end because of that.
    let durable = deferred.peek().is_none() || flush::commit(host).is_ok();
    // After a bug the allocator still says that it reclaims, and the union refuses writes.
    let mut reclaims = durable && !refuses_writes(host) && begin_reclaim(host);
    if reclaims && reclaim(host).is_err() {
        // A bug. A commit fails from now on, and turns the union read-only.
        host.map().set_broken();
        let _ = flush::commit(host);
        reclaims = false;
    }
    if host.with_committer(|committer, _| committer.wants_checkpoint()) {
        host.schedule(WorkId::Checkpoint);
    }
    for rq in deferred {
        resume(host, rq);
    }
    reclaims
}

/// Frees the leaf slabs that [`begin_reclaim`] has picked. Holds no lock while it waits for
/// requests in flight and for discards below, because a device may hang, and commits must continue.
/// Fails if an invariant of the allocator is broken.
fn reclaim<H: Host>(host: &H) -> Checked {
    epoch::wait(host);
    let mut from = LeafSlab(0);
    while let Some(range) = host.with_allocator(|allocator| allocator.reclaimable(from)) {
        from = range.end;
        if !range.is_empty() {
            clear_and_discard(host, range);
        }
        host.give_way();
    }
    // Between two commits (I3), because a running commit may have these slabs on its list.
    while host.with_committer(|_, _| {
        host.with_allocator(|allocator| {
            let more = allocator.end_reclaim(host.map(), |slabs| note_freed(host, slabs));
            host.note(Event::Space(allocator.used(), allocator.limit()));
            more
        })
    })? {
        host.give_way();
    }
    Ok(())
}

/// Clears what the map has of leaf slabs that are about to be freed, and discards them below.
fn clear_and_discard<H: Host>(host: &H, range: Range<LeafSlab>) {
    // No request can mark these slabs any more, and no other thread uses them.
    LeafSlab::each(range.clone()).for_each(|leaf_slab| host.map().clear_unowned(leaf_slab));
    let (first, sectors) = sectors_of(host, range);
    host.discard(first, sectors);
}

/// Reports that leaf slabs are free. Under the allocator's lock.
fn note_freed<H: Host>(host: &H, range: Range<LeafSlab>) {
    let (first, sectors) = sectors_of(host, range);
    host.note(Event::Freed(first, sectors));
}

/// Returns the sectors of leaf slabs on the leaf: first and count.
fn sectors_of<H: Host>(host: &H, range: Range<LeafSlab>) -> (u64, u64) {
    let g = host.map().geometry();
    let first = g.leaf_slab_start(range.start);
    (first, g.leaf_slab_start(range.end).wrapping_sub(first))
}

/// Picks the slabs that the next round of reclaim is for. Returns whether there are any.
fn begin_reclaim<H: Host>(host: &H) -> bool {
    let mut page = None;
    loop {
        // Between two commits (I3), because the changes of a commit that has begun are not durable.
        // `is_committed` runs under the allocator's lock, so that no discard empties a slab between
        // it and `begin_reclaim`.
        let next = host.with_committer(|committer, _| {
            if committer.failed().is_some() {
                return None;
            }
            host.with_allocator(|allocator| {
                if page.is_none() && !allocator.begin_reclaim(committer.is_committed(host.map())) {
                    return None;
                }
                // In the first pass there is no page yet, and it begins with page 0.
                allocator.advance_reclaim(host.map(), page.unwrap_or(0))
            })
        });
        if next.is_none() {
            return host.with_allocator(|allocator| allocator.is_reclaiming());
        }
        page = next;
        host.give_way();
    }
}

/// Submits a deferred request again, after a commit and a round of reclaim.
fn resume<H: Host>(host: &H, rq: H::Request) {
    if rq.op() != Op::WriteZeroes || refuses_writes(host) {
        return host.requeue(rq);
    }
    match zero_parts(host, &rq) {
        Ok(()) => {
            RequestState::of(&rq).with_zeroed_parts().set(&rq);
            make_wait(host, rq, Waiting::Discard);
        }
        Err(why) => {
            match why {
                Denied::Failed(Error::Io(..)) => host.note(Event::IoError),
                // The storage below has no space, see `LeafDevice::zero`.
                Denied::Failed(Error::Os(_)) => host.note(Event::NoSpaceBelow),
                _ => {}
            }
            io::fail(host, rq, why);
        }
    }
}

/// Returns the parts of a range before and after its whole slabs: first sector and count.
fn parts<H: Host>(host: &H, rq: &H::Request) -> [(u64, u64); 2] {
    let g = host.map().geometry();
    let (sector, sectors) = (rq.sector(), rq.sectors());
    let whole = g.whole_slabs(sector, sectors);
    let end = sector.wrapping_add(u64::from(sectors));
    let (head_end, tail) = if whole.is_empty() {
        // The range contains the end of at most one slab.
        let next = g.slab_start(g.slab_of(sector).wrapping_add(1)).min(end);
        (next, next)
    } else {
        (g.slab_start(whole.start), g.slab_start(whole.end).min(end))
    };
    // Each part begins before its end, or is empty.
    [
        (sector, head_end.wrapping_sub(sector)),
        (tail, end.wrapping_sub(tail)),
    ]
}

/// Zeroes the parts of a range that are not whole slabs, on the leaf. Skips a part that reads as
/// zeroes already. Allocates leaf slabs for all parts before the first write, or for none.
///
/// Only in the reclaim work, so no leaf slab is freed meanwhile.
fn zero_parts<H: Host>(host: &H, rq: &H::Request) -> Allocated {
    let map = host.map();
    let parts = parts(host, rq).map(|(sector, n)| {
        let sectors = saturating_u32(n);
        let zero =
            plan::read(map, host.below(), sector, sectors).all(|run| run.source == Source::Zero);
        (sector, if zero { 0 } else { sectors })
    });
    host.with_allocator(|allocator| {
        let done = allocator.allocate_ranges(map, parts);
        host.note(Event::Space(allocator.used(), allocator.limit()));
        done
    })?;
    for (sector, sectors) in parts {
        for run in plan::write(map, sector, sectors) {
            match run.source {
                Source::Leaf(to) => host.zero(to, u64::from(run.sectors))?,
                // A concurrent discard emptied the slab, and counts as made after the zeroing.
                Source::Zero => {}
                Source::Root(_) | Source::Layer(..) | Source::Lost | Source::Broken => {
                    return Err(Error::Internal.into())
                }
            }
        }
        // The zeroes are on the leaf (I5).
        io::map_sectors(host, sector, sectors)?;
    }
    Ok(())
}
