// SPDX-License-Identifier: GPL-2.0

//! Reads and writes: what the driver does when a request arrives, and when its lower I/O has ended.
//!
//! A read looks up the map and is sent down. A write allocates leaf slabs first. Its sectors are
//! mapped when it has completed, not before (I5). A FUA write whose mapping is not durable waits
//! for a commit.
//!
//! Only [`memory_work`] waits, and the host's [`submit`](super::Requests::submit) if a worker calls
//! [`queue`]. A request that cannot be sent down now is queued again: soon, when the device below
//! can take it; when there is memory for the map ([`memory_work`]); or when leaf
//! slabs are free ([`super::discard::reclaim_work`]). If only a part could be sent, the rest is
//! queued again when the part has completed. So each part begins and ends its own use of the map.
//!
//! In the driver the steps of a read, and of a write that needs neither a leaf slab nor a commit,
//! are inlined into one function each way. The other steps are out of line, because otherwise each
//! request would save the registers that they need.

use super::super::alloc::{Allocated, Denied};
use super::super::error::{Broken, Checked, Error};
use super::super::num::saturating_u32;
use super::super::plan::{self, Source};
use super::{epoch, flush};
use super::{is_committed, make_wait, refuses_writes};
use super::{Accepted, BlkStatus, Event, Host, Op, Request, RequestState, Waiting};

/// Takes a request, for the first time or once more. If sending it would have to wait, nothing is
/// sent, and the error is the request, which the caller has to queue again soon. Process context;
/// waits only where the host's [`submit`](super::Requests::submit) does.
#[inline(always)]
pub fn queue<H: Host>(host: &H, rq: H::Request) -> Accepted<H> {
    match rq.op() {
        Op::Read => return read(host, rq),
        Op::Flush => flush::flush(host, rq),
        Op::Write | Op::Discard | Op::WriteZeroes if refuses_writes(host) => {
            host.end(rq, H::Status::IO_ERROR);
        }
        Op::Write => return write(host, rq),
        Op::Discard | Op::WriteZeroes => make_wait(host, rq, Waiting::Discard),
        Op::Other => host.end(rq, H::Status::UNSUPPORTED),
    }
    Ok(())
}

/// Reads: looks up the map, and sends the request down.
#[inline(always)]
fn read<H: Host>(host: &H, rq: H::Request) -> Accepted<H> {
    let Ok((sector, sectors)) = rq.rest() else {
        fail(host, rq, Broken.into());
        return Ok(());
    };
    epoch::enter(host, &rq);
    let whole = plan::read_at_once(host.map(), host.below(), sector, sectors);
    submit(host, rq, whole, false)
}

/// Writes: allocates what is missing, and sends the request down.
#[inline(always)]
fn write<H: Host>(host: &H, rq: H::Request) -> Accepted<H> {
    let Ok((sector, sectors)) = rq.rest() else {
        fail(host, rq, Broken.into());
        return Ok(());
    };
    epoch::enter(host, &rq);
    let whole = plan::write_at_once(host.map(), sector, sectors);
    if whole.is_some() && !rq.is_fua() {
        return submit(host, rq, whole, false);
    }
    prepare_and_write(host, rq, whole, (sector, sectors))
}

/// Writes a range that may lack leaf slabs, or must be durable when the request ends.
#[inline(never)]
fn prepare_and_write<H: Host>(
    host: &H,
    mut rq: H::Request,
    mut whole: Option<Source>,
    (sector, sectors): (u64, u32),
) -> Accepted<H> {
    if whole.is_none() {
        match allocate(host, &rq, sector, sectors) {
            Ok(()) => whole = plan::write_at_once(host.map(), sector, sectors),
            Err(e @ Denied::Failed(Error::Full)) => {
                if !fail_unallocated(host, &mut rq, sector, sectors) {
                    fail(host, rq, e);
                    return Ok(());
                }
                host.note(Event::Full);
            }
            Err(e) => {
                fail(host, rq, e);
                return Ok(());
            }
        }
    }
    // A FUA write of mapped sectors needs no commit if the map is durable, because the lower FUA
    // write is enough.
    let alone = rq.is_fua() && host.has_fua() && is_mapped_durably(host, sector, sectors);
    if rq.is_fua() && !alone {
        // The commit's flush makes the data durable too, so the write needs no FUA below.
        RequestState::of(&rq).with_commit().set(&rq);
    }
    submit(host, rq, whole, alone)
}

/// Sends down a request that uses the map. If the host returns the request, its use of the map has
/// ended.
#[inline]
fn submit<H: Host>(host: &H, rq: H::Request, whole: Option<Source>, fua: bool) -> Accepted<H> {
    host.submit(rq, whole, fua).inspect_err(|rq| {
        epoch::leave::<H>(rq);
    })
}

/// Allocates what a range of a write needs. If bios of the write have failed, for lack of space, it
/// allocates nothing for them, because they are not mapped and nothing would free their leaf slabs.
fn allocate<H: Host>(host: &H, rq: &H::Request, sector: u64, sectors: u32) -> Allocated {
    if !RequestState::of(rq).has_failed_bios() {
        return allocate_range(host, sector, sectors);
    }
    other_bios(rq, sector, sectors).try_for_each(|(first, n)| allocate_range(host, first, n))
}

/// Allocates a leaf slab for every slab of a range, or for none if free slabs do not suffice.
fn allocate_range<H: Host>(host: &H, sector: u64, sectors: u32) -> Allocated {
    if plan::unallocated(host.map(), sector, sectors)
        .next()
        .is_none()
    {
        return Ok(());
    }
    host.with_allocator(|allocator| {
        let done = allocator.allocate_range(host.map(), sector, sectors);
        host.note(Event::Space(allocator.used(), allocator.limit()));
        done
    })
}

/// Fails those bios of a range of a write that need a new leaf slab. A full leaf must not fail an
/// overwrite only because the block layer has merged it with another write. Returns whether bios
/// are left.
fn fail_unallocated<H: Host>(host: &H, rq: &mut H::Request, sector: u64, sectors: u32) -> bool {
    let g = host.map().geometry();
    let mut left = true;
    for slab in plan::unallocated(host.map(), sector, sectors) {
        left = rq.fail_bios(g.slab_start(slab), g.slab_sectors());
    }
    RequestState::of(rq).with_failed_bios().set(rq);
    left
}

/// Returns whether every sector of a range is mapped, and the map is durable.
fn is_mapped_durably<H: Host>(host: &H, sector: u64, sectors: u32) -> bool {
    // The map is looked up first, and only then whether it is durable (I6).
    plan::read(host.map(), host.below(), sector, sectors)
        .all(|run| matches!(run.source, Source::Leaf(_)))
        && is_committed(host)
}

/// Handles a request of which all lower I/O has ended. Returns the status with which the caller
/// ends the request, or `None` if the request continues, by [`resume`]. Any context.
#[inline(always)]
#[must_use]
pub fn complete<H: Host>(host: &H, rq: &H::Request, mut status: H::Status) -> Option<H::Status> {
    if status.is_ok() && rq.op() == Op::Write && map_sent(host, rq).is_err() {
        status = H::Status::IO_ERROR;
    }
    let state = epoch::leave::<H>(rq);
    if !status.is_ok() {
        note_failure(host, rq, status);
        return Some(status);
    }
    match rq.unsent() {
        Ok(0) if !state.needs_commit() => Some(H::Status::OK),
        Ok(_) => None,
        Err(Broken) => Some(H::Status::IO_ERROR),
    }
}

/// Notes that lower I/O of a request has failed.
#[cold]
fn note_failure<H: Host>(host: &H, rq: &H::Request, status: H::Status) {
    // If the storage below the leaf has no space, this is no error of the device. A suspended
    // device fails read-ahead, and does the read that follows when it is resumed.
    if status.is_no_space() {
        host.note(Event::NoSpaceBelow);
    } else if !rq.is_read_ahead() {
        host.note(Event::IoError);
    }
}

/// Takes a request that continues, as [`complete`] has decided: it waits for the next commit, or
/// its rest is queued again. Any context.
pub fn resume<H: Host>(host: &H, rq: H::Request) {
    if rq.unsent() == Ok(0) {
        make_wait(host, rq, Waiting::Commit);
    } else {
        host.requeue(rq);
    }
}

/// Maps the sectors of a write whose lower I/O has succeeded. If it fails because the map is
/// broken, the next commit fails too, and turns the union read-only.
#[inline(never)]
fn map_sent<H: Host>(host: &H, rq: &H::Request) -> Checked {
    let (sector, sectors) = rq.sent()?;
    if RequestState::of(rq).has_failed_bios() {
        map_others(host, rq, sector, sectors)?;
    } else if map_sectors(host, sector, sectors)? {
        host.note(Event::FirstWrite(sector, sectors));
    }
    if rq.is_fua() {
        order_after_discard(host, rq, sector, sectors);
    }
    Ok(())
}

/// Lets a FUA write wait for a commit if a concurrent discard took its leaf slab. The write then
/// counts as made before the discard, so the discard must be durable before the write ends.
#[inline(never)]
fn order_after_discard<H: Host>(host: &H, rq: &H::Request, sector: u64, sectors: u32) {
    let mut unallocated = plan::unallocated(host.map(), sector, sectors);
    if unallocated.next().is_some() {
        RequestState::of(rq).with_commit().set(rq);
    }
}

/// Maps the sectors of those bios that do not fail. Sectors without a leaf slab were not sent.
/// Another write may have allocated a leaf slab for them since, which does not hold the data of
/// this one. No first write is reported for a part.
#[cold]
fn map_others<H: Host>(host: &H, rq: &H::Request, sector: u64, sectors: u32) -> Checked {
    for (first, count) in other_bios(rq, sector, sectors) {
        map_sectors(host, first, count)?;
    }
    Ok(())
}

/// Returns the parts of a range that belong to bios that do not fail: first sector and count.
fn other_bios<R: Request>(
    rq: &R,
    sector: u64,
    sectors: u32,
) -> impl Iterator<Item = (u64, u32)> + '_ {
    let mut at = sector;
    let end = at.wrapping_add(u64::from(sectors));
    core::iter::from_fn(move || {
        let (first, count) = rq.next_bio(at).filter(|&(first, _)| first < end)?;
        at = first.wrapping_add(u64::from(count));
        // The bio begins before the end.
        Some((first, count.min(saturating_u32(end.wrapping_sub(first)))))
    })
}

/// Maps sectors whose lower write has completed, and arms the commit timer. Returns what
/// [`Map::map_sectors`](super::super::map::Map::map_sectors) returns. Any context.
#[inline(always)]
pub(super) fn map_sectors<H: Host>(host: &H, sector: u64, sectors: u32) -> Checked<bool> {
    let changed = host.map().map_sectors(sector, sectors);
    if changed != Ok(false) {
        flush::arm(host);
    }
    changed
}

/// Ends a request whose I/O and map changes are done: now, or with the next commit.
pub(super) fn end<H: Host>(host: &H, rq: H::Request) {
    if RequestState::of(&rq).needs_commit() {
        make_wait(host, rq, Waiting::Commit);
    } else {
        host.end(rq, H::Status::OK);
    }
}

/// Ends a request with the next commit if it is FUA, and now otherwise.
pub(super) fn end_durably<H: Host>(host: &H, rq: H::Request) {
    if rq.is_fua() {
        RequestState::of(&rq).with_commit().set(&rq);
    }
    end(host, rq);
}

/// Ends a request that could not be started, or makes it wait for what it needs.
pub(super) fn fail<H: Host>(host: &H, rq: H::Request, why: Denied) {
    epoch::leave::<H>(&rq);
    match why {
        Denied::Later => make_wait(host, rq, Waiting::Reclaim),
        Denied::Failed(Error::NoMemory) => make_wait(host, rq, Waiting::Memory),
        Denied::Failed(e) => {
            if e == Error::Full {
                host.note(Event::Full);
            }
            host.end(rq, e.into());
        }
    }
}

/// The memory work: waits for memory of the map, then queues the requests that need it again.
/// Process context, one at a time; waits for nothing else, and holds no lock.
pub fn memory_work<H: Host>(host: &H) {
    for rq in host.take_waiting(Waiting::Memory) {
        match host.wait_for_memory() {
            Ok(()) => host.requeue(rq),
            Err(e) => host.end(rq, e.into()),
        }
    }
}
