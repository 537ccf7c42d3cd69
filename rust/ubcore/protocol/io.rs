// SPDX-License-Identifier: GPL-2.0

//! Reads and writes: what the driver does when a request comes and when its lower I/O has ended.
//!
//! A read looks up the map and goes down. A write allocates leaf slabs first. Its sectors are mapped
//! when it has completed, not before. A FUA write whose mapping is not durable waits for a commit.

use super::super::error::{Error, Result};
use super::super::plan::{self, Source};
use super::{discard, epoch, flush};
use super::{is_clean, refuses_writes, with_memory, Event, Host, Op, Request, Status};

/// In a request's word: when its data is on the leaf, it still needs a commit.
const NEEDS_COMMIT: u64 = 1;

/// Takes a new request. Process context; may wait for memory of the map.
pub fn queue<H: Host>(host: &H, rq: H::Request) {
    rq.set_word(0);
    dispatch(host, rq);
}

/// Begins a request, or begins it once more after it was deferred.
pub(super) fn dispatch<H: Host>(host: &H, rq: H::Request) {
    match rq.op() {
        Op::Read => read(host, rq),
        Op::Flush => flush::flush(host, rq),
        Op::Write | Op::Discard | Op::WriteZeroes if refuses_writes(host) => {
            host.end(rq, H::Status::IO_ERROR);
        }
        Op::Write => write(host, rq),
        Op::Discard => discard::discard(host, rq),
        Op::WriteZeroes => discard::write_zeroes(host, rq),
        Op::Other => host.end(rq, H::Status::UNSUPPORTED),
    }
}

/// Reads: look up, go down.
fn read<H: Host>(host: &H, rq: H::Request) {
    epoch::enter(host, &rq);
    host.submit(rq, false);
}

/// Writes: allocate what is missing, go down.
fn write<H: Host>(host: &H, rq: H::Request) {
    let (sector, sectors) = (rq.sector(), rq.sectors());
    epoch::enter(host, &rq);
    if let Err(e) = allocate(host, sector, sectors) {
        return fail(host, rq, e);
    }
    // A write that changes no map, over a map that is durable, is durable by itself.
    let alone = rq.is_fua() && is_mapped_durably(host, sector, sectors);
    if rq.is_fua() && !alone {
        // The commit's flush makes the data durable too, so the write needs no FUA below.
        rq.set_word(rq.word() | NEEDS_COMMIT);
    }
    host.submit(rq, alone);
}

/// Whether a part of a write that is sent down again, because memory was short for the whole, must
/// be durable by itself.
pub fn is_fua_alone<R: Request>(rq: &R) -> bool {
    rq.is_fua() && rq.word() & NEEDS_COMMIT == 0
}

/// Gives every slab of a range a leaf slab, or none if free slabs do not suffice.
fn allocate<H: Host>(host: &H, sector: u64, sectors: u32) -> Result {
    if plan::homeless(host.map(), sector, sectors).next().is_none() {
        return Ok(());
    }
    with_memory(host, || {
        host.with_allocator(|allocator| {
            let done = allocator.settle(host.map(), sector, sectors);
            host.note(Event::Space(allocator.used(), allocator.slabs()));
            done
        })
    })
}

/// Whether every sector of a range is mapped, and the map durable.
fn is_mapped_durably<H: Host>(host: &H, sector: u64, sectors: u32) -> bool {
    // First the map as it is, then whether that is durable: not the other way round.
    plan::read(host.map(), sector, sectors).all(|run| matches!(run.source, Source::Leaf(_)))
        && is_clean(host)
}

/// Takes a request whose lower I/O has ended. Any context.
pub fn complete<H: Host>(host: &H, rq: H::Request, status: H::Status) {
    let written = status.is_ok() && rq.op() == Op::Write;
    if written && mark(host, rq.sector(), rq.sectors()) {
        host.note(Event::FirstWrite(rq.sector(), rq.sectors()));
    }
    epoch::leave::<H>(&rq);
    if status.is_ok() {
        end(host, rq);
    } else {
        // What the leaf lies on has no space: that is no error of the device.
        if !status.is_no_space() {
            host.note(Event::IoError);
        }
        host.end(rq, status);
    }
}

/// Maps sectors whose data is on the leaf, and has that committed in time. Whether anything changed.
/// Any context.
pub(super) fn mark<H: Host>(host: &H, sector: u64, sectors: u32) -> bool {
    let changed = host.map().mark(sector, sectors);
    if changed {
        flush::arm(host);
    }
    changed
}

/// Ends a request that has done what it can: now, or with the next commit.
pub(super) fn end<H: Host>(host: &H, rq: H::Request) {
    if rq.word() & NEEDS_COMMIT != 0 {
        flush::wait_for_commit(host, rq);
    } else {
        host.end(rq, H::Status::OK);
    }
}

/// Ends a request with the next commit, if it is FUA, and now otherwise.
pub(super) fn end_durably<H: Host>(host: &H, rq: H::Request) {
    if rq.is_fua() {
        rq.set_word(NEEDS_COMMIT);
    }
    end(host, rq);
}

/// Ends a request that could not be begun, or defers it until slabs are free.
pub(super) fn fail<H: Host>(host: &H, rq: H::Request, e: Error) {
    epoch::leave::<H>(&rq);
    match e {
        Error::Emptied => discard::defer(host, rq),
        e => {
            if e == Error::Full {
                host.note(Event::Full);
            }
            host.end(rq, e.into());
        }
    }
}
