// SPDX-License-Identifier: GPL-2.0

//! The path of a request through this driver: blk-mq queues it, the driver sends lower I/O for its
//! pieces, and the request completes. The core's protocol decides the steps in between.

use super::{
    attributes::ATTRIBUTES,
    Union, //
};
use crate::{
    blk::{
        attributes::Attributes,
        plug,
        Op,
        Operations,
        Piece,
        Pieces,
        Request,
        Sent,
        Status,
        Target,
        Way, //
    },
    ubcore::{
        plan::{
            self,
            Run,
            Source, //
        },
        protocol::io, //
    },
};
use core::sync::atomic::Ordering;
use kernel::sync::ArcBorrow;

type Taken = core::result::Result<(), Request<Union>>;

impl Operations for Union {
    const ATTRIBUTES: Attributes<Self> = ATTRIBUTES;

    fn queue(this: ArcBorrow<'_, Self>, rq: Request<Self>) -> Taken {
        rq.set_way(this.lower.way);
        let rq = match this.lower.way {
            Way::Bios if matches!(rq.op(), Op::Read | Op::Write) => rq,
            _ => match io::queue(&this, rq) {
                // One request at a time waits for the lower device on `sends`. blk-mq queues the
                // others again when a request of the same hardware queue has ended, or after 3 ms.
                Err(rq) if !this.lists.in_line.swap(true, Ordering::Relaxed) => rq,
                taken => return taken,
            },
        };
        this.lists.sends.push(rq);
        Union::queue_send(this);
        Ok(())
    }

    fn complete(this: ArcBorrow<'_, Self>, rq: Request<Self>, status: Status) {
        io::complete(&this, rq, status);
    }
}

/// Sends lower I/O for the rest of a read or a write: to one place if `whole` names it, else in
/// pieces as planned from the map.
#[inline]
pub(super) fn send(rq: Request<Union>, whole: Option<Source>, fua: bool) -> Taken {
    let read = rq.op() == Op::Read;
    if fua || !rq.is_new() || rq.way() == Way::Bios {
        return send_pieces(rq, read, fua);
    }
    let sent = match whole {
        Some(Source::Leaf(at)) => rq.submit_at_once(at, |union| &union.lower.leaf),
        Some(Source::Root(at)) => rq.submit_at_once(at, |union| &union.lower.root),
        _ => Sent::Unfit(rq),
    };
    match sent {
        Sent::Whole => Ok(()),
        Sent::Busy(rq) => Err(rq),
        Sent::Unfit(rq) => send_pieces(rq, read, fua),
    }
}

#[inline(never)]
fn send_pieces(rq: Request<Union>, read: bool, fua: bool) -> Taken {
    let (sector, sectors) = rq.rest();
    if read {
        rq.submit(false, |union, pieces| {
            add(union, pieces, plan::read(&union.map, sector, sectors));
        })
    } else {
        rq.submit(fua, |union, pieces| {
            add(union, pieces, plan::write(&union.map, sector, sectors));
        })
    }
}

/// Submits the requests on `sends` as bios, which may wait for the lower devices.
///
/// Context: a worker that holds no lock.
pub(super) fn send_work(this: ArcBorrow<'_, Union>) {
    plug::with(|| {
        for rq in this.lists.sends.take_all() {
            rq.set_way(Way::Bios);
            // If there was no memory for a single bio, requeue the request.
            if let Err(rq) = io::queue(&this, rq) {
                rq.again();
            }
        }
    });
    this.lists.in_line.store(false, Ordering::Relaxed);
}

fn add<'d>(union: &'d Union, pieces: &mut Pieces<'d, Union>, runs: impl Iterator<Item = Run>) {
    for run in runs {
        pieces.add(Piece {
            target: match run.source {
                Source::Root(sector) => Target::Device(&union.lower.root, sector),
                Source::Leaf(sector) => Target::Device(&union.lower.leaf, sector),
                // For a write: a concurrent discard emptied the slab after the write had found or
                // allocated its leaf slab.
                Source::Zero => Target::Nowhere,
                Source::Lost => Target::Broken,
            },
            sectors: run.sectors,
        });
    }
}
