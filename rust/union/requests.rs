// SPDX-License-Identifier: GPL-2.0

//! The requests of a union: blk-mq queues a request, the driver sends lower I/O for it, and the
//! request ends. The steps in between are in [`crate::ubcore::protocol::io`].

use super::{
    attributes::ATTRIBUTES,
    Sends,
    Union, //
};
use crate::{
    blk::{
        attributes::Attributes,
        plug,
        BlkStatus,
        Operations,
        Piece,
        Pieces,
        ReqOp,
        Request,
        SendAs, //
        Sent,
        Started,
    },
    error::errno,
    sys::atomic::AtomicU64,
    ubcore::{
        error::{
            Broken,
            Checked,
            Error, //
        },
        plan::{
            self,
            Run,
            Source, //
        },
        protocol::{
            self,
            io,
            Accepted,
            Requests, //
        }, //
    },
};
use kernel::{
    sync::ArcBorrow,
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// How long to wait before the requests in flight are checked again, in µs: first and maximum.
const PAUSE_FIRST: i64 = 100;
const PAUSE_MOST: i64 = 20_000;

impl Operations for Union {
    const ATTRIBUTES: Attributes<Self> = ATTRIBUTES;

    fn queue(this: ArcBorrow<'_, Self>, rq: Request<Self>) -> Accepted<ArcBorrow<'_, Self>> {
        if this.lower.send_as == SendAs::Bios {
            return queue_for_bios(this, rq);
        }
        rq.set_send_as(SendAs::Requests);
        io::queue(&this, rq).or_else(|rq| wait_to_send(this, rq))
    }

    #[inline]
    fn complete(
        this: ArcBorrow<'_, Self>,
        rq: &Request<Self>,
        status: BlkStatus,
    ) -> Option<BlkStatus> {
        io::complete(&this, rq, status)
    }

    fn resume(this: ArcBorrow<'_, Self>, rq: Request<Self>) {
        io::resume(&this, rq);
    }
}

/// Queues a request of a union whose lower I/O is sent as bios, by the send work.
#[inline(never)]
fn queue_for_bios<'u>(
    this: ArcBorrow<'u, Union>,
    rq: Request<Union>,
) -> Accepted<ArcBorrow<'u, Union>> {
    rq.set_send_as(SendAs::Bios);
    if matches!(rq.op(), ReqOp::Read | ReqOp::Write) {
        send_later(this, rq);
        return Ok(());
    }
    queue_here(this, rq)
}

/// Calls [`io::queue`] out of line, where it is not the usual path.
#[inline(never)]
fn queue_here<'u>(
    this: ArcBorrow<'u, Union>,
    rq: Request<Union>,
) -> Accepted<ArcBorrow<'u, Union>> {
    io::queue(&this, rq)
}

/// Hands a request that would have to wait to the send work, or returns it to blk-mq. One read and
/// one other request of a union at a time wait for a lower device. blk-mq queues the others again
/// when a request of the same hardware queue has ended, or after 3 ms.
#[cold]
fn wait_to_send<'u>(
    this: ArcBorrow<'u, Union>,
    rq: Request<Union>,
) -> Accepted<ArcBorrow<'u, Union>> {
    if !this.lists.sends(rq.op()).begin() {
        return Err(rq);
    }
    send_later(this, rq);
    Ok(())
}

fn send_later(this: ArcBorrow<'_, Union>, rq: Request<Union>) {
    let op = rq.op();
    this.lists.sends(op).list.push(rq);
    Union::schedule_send(this, op);
}

/// [`Requests::submit`] sends lower I/O. The other methods only call blk-mq, or sleep.
impl Requests for ArcBorrow<'_, Union> {
    type Request = Request<Union>;
    type Status = BlkStatus;

    /// Sends lower I/O for the rest of a read or a write: to one target if `whole` names it, else
    /// in pieces as planned from the map.
    #[inline(always)]
    fn submit(&self, rq: Request<Union>, whole: Option<Source>, fua: bool) -> Accepted<Self> {
        if fua || !rq.is_new() || rq.send_as() == SendAs::Bios {
            return send_pieces(rq, fua);
        }
        let sent = match whole {
            Some(source) => rq.submit_at_once(|union| union.lower.locate(source)),
            None => Sent::Unfit(rq),
        };
        match sent {
            Sent::Whole => Ok(()),
            Sent::Busy(rq) => Err(rq),
            Sent::Unfit(rq) => send_pieces(rq, fua),
        }
    }

    fn requeue(&self, rq: Request<Union>) {
        rq.requeue();
    }

    fn end(&self, rq: Request<Union>, status: BlkStatus) {
        rq.end(status);
    }

    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool {
        self.tags.any(f, with)
    }

    fn pause(&self, n: u32) {
        // 2^16 times the first pause fits, and is above the maximum.
        let pause = PAUSE_FIRST.wrapping_shl(n.min(16));
        fsleep(Delta::from_micros(pause.min(PAUSE_MOST)));
    }
}

#[inline(never)]
fn send_pieces(rq: Request<Union>, fua: bool) -> Accepted<ArcBorrow<'static, Union>> {
    // Without pieces the request fails.
    let Some((sector, sectors)) = rq.rest() else {
        return rq.submit(false, |_, _| ());
    };
    if rq.op() == ReqOp::Read {
        rq.submit(false, |union, pieces| {
            add(
                union,
                pieces,
                plan::read(&union.map, union.lower.stack_map(), sector, sectors),
            );
        })
    } else {
        rq.submit(fua, |union, pieces| {
            add(union, pieces, plan::write(&union.map, sector, sectors));
        })
    }
}

fn add<'d>(union: &'d Union, pieces: &mut Pieces<'d, Union>, runs: impl Iterator<Item = Run>) {
    for run in runs {
        pieces.add(Piece {
            target: union.lower.target(run.source),
            sectors: run.sectors,
        });
    }
}

/// Submits the requests of `sends` as bios, which may wait for the lower devices.
///
/// Context: a worker that holds no lock.
pub(super) fn send_work(this: &ArcBorrow<'_, Union>, sends: &Sends) {
    plug::with(|| {
        for rq in sends.list.take_all() {
            rq.set_send_as(SendAs::Bios);
            // If there was no memory for a single bio, requeue the request.
            if let Err(rq) = queue_here(*this, rq) {
                rq.requeue();
            }
        }
    });
    sends.end();
}

/// Each method calls the method of the same name of [`Started`] or [`Request`].
impl protocol::Request for Request<Union> {
    fn op(&self) -> protocol::Op {
        match Started::op(self) {
            ReqOp::Read => protocol::Op::Read,
            ReqOp::Write => protocol::Op::Write,
            ReqOp::Flush => protocol::Op::Flush,
            ReqOp::Discard => protocol::Op::Discard,
            ReqOp::WriteZeroes => protocol::Op::WriteZeroes,
            ReqOp::Other(_) => protocol::Op::Other,
        }
    }

    fn sector(&self) -> u64 {
        Started::sector(self)
    }

    fn sectors(&self) -> u32 {
        Started::sectors(self)
    }

    fn is_fua(&self) -> bool {
        Started::is_fua(self)
    }

    fn is_read_ahead(&self) -> bool {
        Started::is_read_ahead(self)
    }

    fn fail_bios(&mut self, sector: u64, sectors: u32) -> bool {
        self.fail_bios(sector, sectors, BlkStatus::NOSPC)
    }

    fn next_bio(&self, sector: u64) -> Option<(u64, u32)> {
        self.next_bio(sector)
    }

    fn rest(&self) -> Checked<(u64, u32)> {
        Started::rest(self).ok_or(Broken)
    }

    fn unsent(&self) -> Checked<u32> {
        Started::unsent(self).ok_or(Broken)
    }

    fn sent(&self) -> Checked<(u64, u32)> {
        Started::sent(self).ok_or(Broken)
    }

    fn word(&self) -> &AtomicU64 {
        Started::word(self)
    }
}

impl protocol::BlkStatus for BlkStatus {
    const OK: Self = BlkStatus::OK;
    const UNSUPPORTED: Self = BlkStatus::NOTSUPP;
    const IO_ERROR: Self = BlkStatus::IOERR;

    fn is_ok(self) -> bool {
        self.is_ok()
    }

    fn is_no_space(self) -> bool {
        self == BlkStatus::NOSPC
    }
}

impl From<Error> for BlkStatus {
    fn from(e: Error) -> Self {
        match e {
            Error::Full => BlkStatus::NOSPC,
            e => errno(e).into(),
        }
    }
}
