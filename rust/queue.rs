// SPDX-License-Identifier: GPL-2.0

//! The ends of a request in this driver: it comes from blk-mq, goes down in pieces, and completes.
//! What happens in between is the core's protocol.

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
        plan::{
            self,
            Run,
            Source, //
        },
        protocol::io, //
    },
};
use kernel::sync::ArcBorrow;

impl Driver for Union {
    const ATTRIBUTES: Attributes<Self> = ATTRIBUTES;

    fn queue(this: ArcBorrow<'_, Self>, rq: Request<Self>) {
        io::queue(&this, rq);
    }

    fn complete(this: ArcBorrow<'_, Self>, rq: Request<Self>, status: Status) {
        if status.is_ok() && rq.rest().1 > 0 {
            this.rests.push(rq);
            Union::go_on_soon(this);
            return;
        }
        io::complete(&this, rq, status);
    }
}

/// Submits the rest of a request whose first part has completed, because there was no memory for all
/// of its lower bios. Its use of the map lasts until the whole has completed. Process context.
pub(crate) fn go_on(rq: Request<Union>) {
    let fua = rq.op() == Op::Write && io::is_fua_alone(&rq);
    send(rq, fua);
}

/// Sends what is left of a read or a write down, in pieces as the map has them.
pub(crate) fn send(rq: Request<Union>, fua: bool) {
    let (sector, sectors) = rq.rest();
    if rq.op() == Op::Read {
        rq.submit(false, |union, pieces| {
            add(union, pieces, plan::read(&union.map, sector, sectors));
        });
    } else {
        rq.submit(fua, |union, pieces| {
            add(union, pieces, plan::write(&union.map, sector, sectors));
        });
    }
}

fn add<'d>(union: &'d Union, pieces: &mut Pieces<'d, Union>, runs: impl Iterator<Item = Run>) {
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
