// SPDX-License-Identifier: GPL-2.0

//! The way of a request: what it asks, which runs it is made of, and what its end means.
//!
//! A read looks up and goes. A write gets homes for its slabs first; its sectors are mapped when
//! it has completed, not before. A flush, and a FUA write whose mapping is not durable, wait for
//! the next commit.

use crate::{
    blk::{
        mm::NoIo,
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
            Result, //
        },
        plan::{
            self,
            Run,
            Source, //
        },
    },
};
use kernel::sync::ArcBorrow;

/// A request's word: when its data is on the leaf, it still needs a commit.
const NEEDS_COMMIT: u64 = 1;

impl Driver for Union {
    fn queue(this: ArcBorrow<'_, Self>, rq: Request<Self>) {
        rq.set_cookie(0);
        match rq.op() {
            Op::Read => read(rq),
            Op::Write if this.is_read_only() => rq.end(Status::IOERR),
            Op::Write => write(this, rq),
            Op::Flush => flush(this, rq),
            // The disk does not offer them.
            Op::Discard | Op::WriteZeroes | Op::Other(_) => rq.end(Status::NOTSUPP),
        }
    }

    fn complete(this: ArcBorrow<'_, Self>, rq: Request<Self>, status: Status) {
        if !status.is_ok() {
            this.stats.io_error();
            rq.end(status);
            return;
        }
        if rq.op() == Op::Write && this.map.mark(rq.sector(), rq.sectors()) {
            this.stats.first_write();
            Union::arm(this);
        }
        if rq.cookie() == NEEDS_COMMIT {
            this.waiting.push(rq);
            Union::commit_soon(this);
        } else {
            rq.end(status);
        }
    }
}

fn read(rq: Request<Union>) {
    let (sector, sectors) = (rq.sector(), rq.sectors());
    rq.submit(false, |union, pieces| {
        send(union, pieces, plan::read(&union.map, sector, sectors));
    });
}

fn write(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    let (sector, sectors) = (rq.sector(), rq.sectors());
    if let Err(e) = settle(&this, sector, sectors) {
        return rq.end(match e {
            Error::Full => Status::NOSPC,
            e => crate::error::errno(e).into(),
        });
    }
    // A write that changes no map, over a map that is durable, is durable by itself.
    let alone = rq.is_fua() && is_settled(&this, sector, sectors);
    if rq.is_fua() && !alone {
        // The commit's flush makes the data durable too: no FUA of its own.
        rq.set_cookie(NEEDS_COMMIT);
    }
    rq.submit(alone, |union, pieces| {
        send(union, pieces, plan::write(&union.map, sector, sectors));
    });
}

fn flush(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    if this.is_read_only() {
        // What a later flush would promise, no commit can keep.
        rq.end(Status::IOERR);
    } else if this.is_clean() {
        rq.submit_flush(|union| &union.leaf);
    } else {
        this.waiting.push(rq);
        Union::commit_soon(this);
    }
}

/// Gives every slab of a range a home on the leaf. May sleep for memory, starts no I/O.
fn settle(union: &Union, sector: u64, sectors: u32) -> Result {
    if plan::homeless(&union.map, sector, sectors).next().is_none() {
        return Ok(());
    }
    let _no_io = NoIo::new();
    let mut allocator = union.allocator.lock();
    allocator.settle(&union.map, sector, sectors)
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
                Source::Zero => Target::Zero,
            },
            sectors: run.sectors,
        });
    }
}
