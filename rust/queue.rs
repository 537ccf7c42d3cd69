// SPDX-License-Identifier: GPL-2.0

//! The way of a request: what it asks, which runs it is made of, and what its end means.
//!
//! A discard or a zeroing of whole slabs changes the map alone.
//! A read looks up and goes. A write gets homes for its slabs first; its sectors are mapped when
//! it has completed, not before. A flush, and a FUA write whose mapping is not durable, wait for
//! the next commit.

use crate::{
    attributes::ATTRIBUTES,
    blk::{
        attributes::Attributes,
        Driver,
        Op,
        Piece,
        Pieces,
        Request,
        Status,
        Target, //
    },
    device::Union,
    ubcore::{
        error::{
            Error,
            Result,
            Side, //
        },
        map::Base,
        num::narrow,
        plan::{
            self,
            Run,
            Source, //
        },
    },
};
use kernel::sync::ArcBorrow;

/// A request's word: when its data is on the leaf, it still needs a commit. The rest is
/// [`crate::grace`]'s.
const NEEDS_COMMIT: u64 = 1;

impl Driver for Union {
    const ATTRIBUTES: Attributes<Self> = ATTRIBUTES;

    fn queue(this: ArcBorrow<'_, Self>, rq: Request<Self>) {
        dispatch(this, rq);
    }

    fn complete(this: ArcBorrow<'_, Self>, rq: Request<Self>, status: Status) {
        if status.is_ok() && rq.rest().1 > 0 {
            this.rests.push(rq);
            Union::go_on_soon(this);
            return;
        }
        let changed =
            status.is_ok() && rq.op() == Op::Write && this.map.mark(rq.sector(), rq.sectors());
        this.grace.leave(&rq);
        if !status.is_ok() {
            this.stats.io_error();
            rq.end(status);
            return;
        }
        if changed {
            this.stats.first_write();
            this.events.first_write(rq.sector(), rq.sectors());
            Union::arm(this);
        }
        end(this, rq);
    }
}

fn dispatch(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    rq.set_cookie(0);
    match rq.op() {
        Op::Read => read(&this, rq),
        Op::Flush => flush(this, rq),
        Op::Write | Op::Discard | Op::WriteZeroes if this.takes_no_writes() => {
            rq.end(Status::IOERR)
        }
        Op::Write => write(this, rq),
        Op::Discard => discard(this, rq),
        Op::WriteZeroes if is_whole(&this, &rq) => zero(this, rq),
        // The rest of it is for the worker: it may have to wait for I/O.
        Op::WriteZeroes => stall(this, rq),
        Op::Other(_) => rq.end(Status::NOTSUPP),
    }
}

/// A request whose first part has completed, there being no memory for the rest of its lower bios.
/// Its use of the grace goes on. Process context.
pub(crate) fn go_on(rq: Request<Union>) {
    match rq.op() {
        Op::Read => send_read(rq),
        _ => {
            let alone = rq.is_fua() && rq.cookie() & NEEDS_COMMIT == 0;
            send_write(rq, alone);
        }
    }
}

/// What was stalled, after a commit and a grace period. Process context, not from `queue`.
pub(crate) fn resume(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    if rq.op() != Op::WriteZeroes || this.is_read_only() {
        return dispatch(this, rq);
    }
    match zero_ends(&this, rq.sector(), rq.sectors()) {
        Ok(()) => {
            Union::arm(this);
            zero(this, rq);
        }
        Err(e) => fail(this, rq, e),
    }
}

/// Ends a request that has done what it can: now, or with the next commit.
fn end(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    if rq.cookie() & NEEDS_COMMIT != 0 {
        this.waiting.push(rq);
        Union::commit_soon(this);
    } else {
        rq.end(Status::OK);
    }
}

/// Ends a request that could not be begun, or has it wait for slabs just emptied.
fn fail(this: ArcBorrow<'_, Union>, rq: Request<Union>, e: Error) {
    this.grace.leave(&rq);
    match e {
        Error::Emptied => stall(this, rq),
        Error::Full => {
            this.events.full();
            rq.end(Status::NOSPC);
        }
        e => rq.end(crate::error::errno(e).into()),
    }
}

fn stall(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    this.stalled.push(rq);
    Union::release_soon(this);
}

fn read(union: &Union, rq: Request<Union>) {
    union.grace.enter(&rq);
    send_read(rq);
}

fn send_read(rq: Request<Union>) {
    let (sector, sectors) = rq.rest();
    rq.submit(false, |union, pieces| {
        send(union, pieces, plan::read(&union.map, sector, sectors));
    });
}

fn write(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    let (sector, sectors) = rq.rest();
    this.grace.enter(&rq);
    if let Err(e) = settle(&this, sector, sectors) {
        return fail(this, rq, e);
    }
    // A write that changes no map, over a map that is durable, is durable by itself.
    let alone = rq.is_fua() && is_settled(&this, sector, sectors);
    if rq.is_fua() && !alone {
        // The commit's flush makes the data durable too: no FUA of its own.
        rq.set_cookie(rq.cookie() | NEEDS_COMMIT);
    }
    send_write(rq, alone);
}

fn send_write(rq: Request<Union>, fua: bool) {
    let (sector, sectors) = rq.rest();
    rq.submit(fua, |union, pieces| {
        send(union, pieces, plan::write(&union.map, sector, sectors));
    });
}

fn flush(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    if this.is_read_only() {
        // What a later flush would promise, no commit can keep.
        rq.end(Status::IOERR);
    } else if this.asked_read_only {
        rq.end(Status::OK);
    } else if this.is_clean() {
        rq.submit_flush(|union| &union.leaf);
    } else {
        this.waiting.push(rq);
        Union::commit_soon(this);
    }
}

/// Whole slabs are emptied; parts of slabs stay as they are, for it is a hint.
fn discard(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    let base = if this.reveal { Base::Root } else { Base::Zero };
    // Without memory for the map the hint is not taken.
    let _ = empty(this, &rq, base);
    end(this, rq);
}

/// Zeroes whole slabs, in the map alone.
fn zero(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    match empty(this, &rq, Base::Zero) {
        Ok(()) => {
            if rq.is_fua() {
                rq.set_cookie(NEEDS_COMMIT);
            }
            end(this, rq);
        }
        Err(e) => fail(this, rq, e),
    }
}

/// Empties the slabs that a request covers as a whole. Starts no I/O.
fn empty(this: ArcBorrow<'_, Union>, rq: &Request<Union>, base: Base) -> Result {
    let slabs = this.geometry().whole_slabs(rq.sector(), rq.sectors());
    let done = with_memory(&this, || {
        this.allocator.lock().empty(&this.map, slabs.clone(), base)
    });
    // Also where it failed: by then it may have emptied some.
    Union::arm(this);
    done.map(|_| ())
}

fn is_whole(union: &Union, rq: &Request<Union>) -> bool {
    ends(union, rq.sector(), rq.sectors())
        .iter()
        .all(|&(_, n)| n == 0)
}

/// The parts of a range before and behind its whole slabs: first sector and count.
fn ends(union: &Union, sector: u64, sectors: u32) -> [(u64, u64); 2] {
    let g = union.geometry();
    let whole = g.whole_slabs(sector, sectors);
    let end = sector.saturating_add(u64::from(sectors));
    if whole.is_empty() {
        return [(sector, u64::from(sectors)), (end, 0)];
    }
    let head = g.slab_start(whole.start);
    let tail = g.slab_start(whole.end).min(end);
    [
        (sector, head.saturating_sub(sector)),
        (tail, end.saturating_sub(tail)),
    ]
}

/// Zeroes the parts of a range that are not whole slabs, on the leaf. In the worker: waits for I/O.
fn zero_ends(union: &Union, sector: u64, sectors: u32) -> Result {
    for (mut at, mut left) in ends(union, sector, sectors) {
        let g = union.geometry();
        while left > 0 {
            let offset = g.offset_in_slab(at);
            let n = left.min(u64::from(g.slab_sectors().saturating_sub(offset)));
            zero_part(union, at, narrow(n))?;
            at = at.saturating_add(n);
            left = left.saturating_sub(n);
        }
    }
    Ok(())
}

/// Zeroes sectors of one slab, unless they are zero already. In the worker that frees slabs: no
/// home is freed meanwhile.
fn zero_part(union: &Union, sector: u64, sectors: u32) -> Result {
    if plan::read(&union.map, sector, sectors).all(|run| run.source == Source::Zero) {
        return Ok(());
    }
    settle(union, sector, sectors)?;
    for run in plan::write(&union.map, sector, sectors) {
        if let Source::Leaf(to) = run.source {
            union
                .leaf
                .zero(to, u64::from(run.sectors))
                .map_err(|_| Error::Io(Side::Leaf, to))?;
        }
    }
    union.map.mark(sector, sectors);
    Ok(())
}

/// Gives every slab of a range a home on the leaf. May sleep for memory, starts no I/O.
fn settle(union: &Union, sector: u64, sectors: u32) -> Result {
    if plan::homeless(&union.map, sector, sectors).next().is_none() {
        return Ok(());
    }
    with_memory(union, || {
        let mut allocator = union.allocator.lock();
        let done = allocator.settle(&union.map, sector, sectors);
        union.events.space(allocator.used(), allocator.slabs());
        done
    })
}

/// Tries something that may need pages for the map, again when there is memory. What it has done
/// by then stays done, so that each try gets further.
fn with_memory<R>(union: &Union, mut f: impl FnMut() -> Result<R>) -> Result<R> {
    loop {
        match f() {
            Err(Error::NoMemory) => union.map.memory().wait()?,
            done => return done,
        }
    }
}

/// Whether every sector of a range is mapped, and the map durable.
fn is_settled(union: &Union, sector: u64, sectors: u32) -> bool {
    // First the map as it is, then whether that is durable: not the other way round.
    plan::read(&union.map, sector, sectors).all(|run| matches!(run.source, Source::Leaf(_)))
        && union.is_clean()
}

fn send<'d>(union: &'d Union, pieces: &mut Pieces<'d, Union>, runs: impl Iterator<Item = Run>) {
    for run in runs {
        pieces.add(Piece {
            target: match run.source {
                Source::Root(sector) => Target::Device(&union.root, sector),
                Source::Leaf(sector) => Target::Device(&union.leaf, sector),
                // Of a write: its slab was emptied after it had its home, by a discard beside it.
                Source::Zero => Target::Nowhere,
                Source::Lost => Target::Broken,
            },
            sectors: run.sectors,
        });
    }
}
