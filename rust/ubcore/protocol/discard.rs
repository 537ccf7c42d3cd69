// SPDX-License-Identifier: GPL-2.0

//! Discard and zeroing, the requests that they defer, and reclaim of the leaf slabs that they empty.
//!
//! A discard or a zeroing of whole slabs changes the map alone. The leaf slabs become free when the
//! change is durable and all requests that may use the old homes have ended. Until then a write to
//! such a root slab is deferred: reclaim begins it once more.

use core::ops::Range;

use super::super::error::{Error, Result};
use super::super::map::Base;
use super::super::num::narrow;
use super::super::plan::{self, Source};
use super::{epoch, flush, io};
use super::{with_memory, Event, Host, Op, Request};

/// Empties whole slabs. Parts of slabs stay as they are, because a discard is a hint.
pub(super) fn discard<H: Host>(host: &H, rq: H::Request) {
    let base = if host.reveals() {
        Base::Root
    } else {
        Base::Zero
    };
    // Without memory for the map the hint is not taken.
    let _ = empty(host, &rq, base);
    io::end(host, rq);
}

/// Zeroes whole slabs in the map alone. Parts of slabs are for reclaim, which may wait for I/O.
pub(super) fn write_zeroes<H: Host>(host: &H, rq: H::Request) {
    if parts(host, &rq).iter().any(|part| part.1 > 0) {
        return defer(host, rq);
    }
    zero(host, rq);
}

fn zero<H: Host>(host: &H, rq: H::Request) {
    match empty(host, &rq, Base::Zero) {
        Ok(()) => io::end_durably(host, rq),
        Err(e) => io::fail(host, rq, e),
    }
}

/// Empties the slabs that a request covers as a whole. Starts no I/O.
fn empty<H: Host>(host: &H, rq: &H::Request, base: Base) -> Result {
    let slabs = host.map().geometry().whole_slabs(rq.sector(), rq.sectors());
    let done = with_memory(host, || {
        host.with_allocator(|allocator| allocator.empty(host.map(), slabs.clone(), base))
    });
    // Also where that failed, because it may have emptied some slabs before.
    flush::arm(host);
    done.map(|_| ())
}

/// Has a request begin once more when reclaim has freed what it can. Any context.
pub(super) fn defer<H: Host>(host: &H, rq: H::Request) {
    host.add_deferred(rq);
    host.queue_reclaim();
}

/// The reclaim work. Process context, one at a time; waits for requests in flight and for discards,
/// so no commit waits for this work.
pub fn reclaim_work<H: Host>(host: &H) {
    let mut deferred = host.take_deferred().peekable();
    // If the commit fails, the union is read-only, and the requests end with that.
    if deferred.peek().is_none() || flush::commit(host).is_ok() {
        reclaim(host);
        if host.with_committer(|committer, _| committer.wants_checkpoint()) {
            host.queue_checkpoint();
        }
    }
    for rq in deferred {
        resume(host, rq);
    }
}

/// Frees the leaf slabs whose emptying a commit has made durable. Holds no lock while it waits: a
/// request in flight may need a commit to end.
fn reclaim<H: Host>(host: &H) {
    while begin(host) {
        epoch::wait(host);
        while_leaving(host, |range| {
            // No request can mark these slabs any more, and no other thread uses them.
            range.clone().for_each(|leaf| host.map().forget(leaf));
            let g = host.map().geometry();
            let first = g.leaf_slab_start(range.start);
            let sectors = g.leaf_slab_start(range.end).saturating_sub(first);
            host.discard(first, sectors);
            host.note(Event::Freed(first, sectors));
        });
        // Between two commits, as `begin`: one that runs may have these slabs on its list.
        host.with_committer(|_, _| {
            host.with_allocator(|allocator| {
                allocator.end_release(host.map());
                host.note(Event::Space(allocator.used(), allocator.slabs()));
            });
        });
    }
}

/// Picks what the next epoch is for: whether there is anything.
fn begin<H: Host>(host: &H) -> bool {
    // Between two commits: what a commit has only begun to write is not durable. Whether the map is
    // clean is asked under the allocator's lock: a discard must not come in between.
    host.with_committer(|committer, _| {
        committer.failed().is_none()
            && host.with_allocator(|allocator| {
                allocator.begin_release(host.map(), committer.is_clean(host.map()))
            })
    })
}

fn while_leaving<H: Host>(host: &H, mut f: impl FnMut(Range<u32>)) {
    let mut from = 0;
    while let Some(range) = host.with_allocator(|allocator| allocator.leaving(from)) {
        from = range.end;
        f(range);
    }
}

/// Begins a deferred request once more, after a commit and a reclaim.
fn resume<H: Host>(host: &H, rq: H::Request) {
    if rq.op() != Op::WriteZeroes || host.shared().is_read_only() {
        return io::dispatch(host, rq);
    }
    match zero_parts(host, &rq) {
        Ok(()) => zero(host, rq),
        Err(e) => io::fail(host, rq, e),
    }
}

/// The parts of a range before and behind its whole slabs: first sector and count.
fn parts<H: Host>(host: &H, rq: &H::Request) -> [(u64, u64); 2] {
    let g = host.map().geometry();
    let (sector, sectors) = (rq.sector(), rq.sectors());
    let whole = g.whole_slabs(sector, sectors);
    let end = sector.saturating_add(u64::from(sectors));
    let (head_end, tail) = if whole.is_empty() {
        // At most one slab's end lies in the range.
        let next = g.slab_start(g.slab_of(sector).saturating_add(1)).min(end);
        (next, next)
    } else {
        (g.slab_start(whole.start), g.slab_start(whole.end).min(end))
    };
    [
        (sector, head_end.saturating_sub(sector)),
        (tail, end.saturating_sub(tail)),
    ]
}

/// Zeroes the parts of a range that are not whole slabs, on the leaf. A part that reads as zeroes
/// already is passed over. All parts get their leaf slabs before the first write, or none does.
///
/// In the reclaim work alone: no leaf slab is freed meanwhile.
fn zero_parts<H: Host>(host: &H, rq: &H::Request) -> Result {
    let map = host.map();
    let parts = parts(host, rq).map(|(sector, n)| {
        let sectors = narrow(n);
        let zero = plan::read(map, sector, sectors).all(|run| run.source == Source::Zero);
        (sector, if zero { 0 } else { sectors })
    });
    with_memory(host, || {
        host.with_allocator(|allocator| {
            let done = allocator.settle_all(map, parts);
            host.note(Event::Space(allocator.used(), allocator.slabs()));
            done
        })
    })?;
    for (sector, sectors) in parts {
        for run in plan::write(map, sector, sectors) {
            match run.source {
                Source::Leaf(to) => host.zero(to, u64::from(run.sectors))?,
                // A discard beside this request emptied the slab, so the zeroes come before it.
                Source::Zero => {}
                Source::Root(_) | Source::Lost => return Err(Error::Internal),
            }
        }
        io::mark(host, sector, sectors);
    }
    Ok(())
}
