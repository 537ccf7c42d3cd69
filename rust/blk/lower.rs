// SPDX-License-Identifier: GPL-2.0

//! The lower I/O of a request: how it is split, counted and sent.
//!
//! Lower I/O is sent in one of two ways, both in [`super::clone`]. As *requests* of the lower
//! queue, it never waits. As *bios*, it may wait, so only a worker sends bios.
//!
//! A range that goes to one place is one lower I/O, if the way allows it. The first lower bio is
//! embedded in the private data of the request. If a request is sent as a whole, no lower I/O is
//! counted. If it then has one bio, no bio is allocated. If there is no memory or no free lower
//! request, the *round* ends: when the lower I/O of the round has ended, the driver gets the
//! request back to send the rest.

use super::{
    bdev::BlockDevice,
    clone,
    ffi::{
        self,
        Part, //
    },
    gen_disk::Operations,
    held::{
        Cursor,
        Held, //
    },
    request::{
        Request,
        Status, //
    },
};
use core::ptr;
use kernel::{
    bindings,
    pr_warn_once,
    prelude::*, //
};

/// How lower I/O is sent.
#[derive(Copy, Clone, PartialEq)]
pub(crate) enum Way {
    /// As requests of the lower queues. Never waits. Requires [`BlockDevice::takes_clones`].
    Requests,
    /// As bios. May wait for the lower devices, so only a worker uses it.
    Bios,
}

/// The target of a range of a request.
#[derive(Copy, Clone)]
pub(crate) enum Target<'d> {
    /// This device, at this sector.
    Device(&'d BlockDevice, u64),
    /// No device: a read returns zeroes, and the data of a write is dropped.
    Nowhere,
    /// No valid target: the request fails with an I/O error.
    Broken,
}

/// A range of a request, with its target.
#[derive(Copy, Clone)]
pub(crate) struct Piece<'d> {
    /// The target.
    pub(crate) target: Target<'d>,
    /// The length.
    pub(crate) sectors: u32,
}

/// Takes the pieces of one request, in order, and sends them.
///
/// # Invariants
///
/// `own` is the embedded bio of `held` if that is free, else null.
pub(crate) struct Pieces<'d, D: Operations> {
    held: &'d Held<D>,
    /// The next sector to give a place.
    cursor: Cursor<'d>,
    way: Way,
    opf: u32,
    own: *mut bindings::bio,
    /// The target, if all of the rest goes to one place. It is sent after the plan has returned.
    whole: Option<(&'d BlockDevice, u64)>,
    round: Round,
}

/// How far a round has come.
#[derive(Copy, Clone)]
struct Round {
    /// The number of sectors that had no place before the round, and that have none now.
    total: u32,
    left: u32,
    failed: bool,
    /// The driver or the lower device has failed the request, so the pieces are not at fault.
    broken: bool,
    /// Sending would have to wait, so the rest is left to the next round.
    short: bool,
}

impl<'d, D: Operations> Pieces<'d, D> {
    /// Returns a value for the sectors of a request after the first `placed`.
    ///
    /// # Safety
    ///
    /// No lower I/O of the request may be under way, and no other value may exist for it.
    unsafe fn rest(held: &'d Held<D>, placed: u32, way: Way, fua: bool) -> Self {
        let cursor = Cursor::new(held, placed);
        let total = cursor.left();
        // INVARIANT: By the contract of this function no lower I/O is under way, so the embedded bio
        // is free.
        Self {
            held,
            cursor,
            way,
            opf: if fua { ffi::REQ_FUA } else { 0 },
            own: held.own_bio(),
            whole: None,
            round: Round {
                total,
                left: total,
                failed: total == 0,
                broken: false,
                short: false,
            },
        }
    }

    /// Sends the next piece to its target.
    ///
    /// The request fails if the piece is empty, if it reaches beyond the request, or if its target
    /// is [`Target::Nowhere`] and the request is neither a read nor a write. Later pieces are then
    /// ignored.
    pub(crate) fn add(&mut self, piece: Piece<'d>) {
        if piece.sectors == 0 || piece.sectors > self.round.left {
            self.round.failed |= !self.round.short;
            return;
        }
        let mut todo = piece.sectors;
        let mut target = piece.target;
        while todo > 0 && !self.round.failed && !self.round.short {
            let placed = match target {
                Target::Device(dev, sector) => self.place(dev, sector, todo),
                Target::Nowhere => self.zero(todo),
                Target::Broken => self.fail(),
            };
            self.advance(placed);
            if let Target::Device(_, sector) = &mut target {
                *sector += u64::from(placed);
            }
            todo -= placed;
        }
    }

    fn fail(&mut self) -> u32 {
        self.round.broken = true;
        self.round.failed = true;
        0
    }

    /// Advances by `n` sectors, which were given a place.
    fn advance(&mut self, n: u32) {
        self.round.left -= n;
        // The bios of a request make up its length. If they do not, the request fails, so that none
        // of the rest is sent.
        self.round.failed |= !self.cursor.advance(n);
    }

    /// Zeroes the part of the next `n` sectors that lies in the current bio, if the request is a
    /// read. Returns the number of sectors in that part.
    fn zero(&mut self, n: u32) -> u32 {
        self.round.failed |= !self.held.is_read() && !self.held.is_write();
        self.cursor.zero(n)
    }

    /// Sends the next `n` sectors, or the first of them, and returns how many. If they are all of
    /// the rest, notes the target in `whole` instead.
    fn place(&mut self, dev: &'d BlockDevice, sector: u64, n: u32) -> u32 {
        let take = match self.way {
            Way::Requests => n,
            Way::Bios => n.min(self.cursor.in_bio()),
        };
        if take == self.round.total {
            self.whole = Some((dev, sector));
            return take;
        }
        // SAFETY: The driver keeps its devices open as long as its requests live. `add` passes on at
        // least one sector and at most as many as are left; `take` ends in the bio if it must.
        unsafe { self.send(dev.as_raw(), sector, take) }
    }

    /// Sends the next `take` sectors, or the first of them, as a counted lower I/O, and returns how
    /// many.
    ///
    /// # Safety
    ///
    /// - `bdev` must be open as long as the request lives.
    /// - `take` must not be 0, nor more than the cursor has left. With [`Way::Bios`] the sectors must
    ///   lie in the cursor's bio.
    unsafe fn send(&mut self, bdev: *mut bindings::block_device, sector: u64, take: u32) -> u32 {
        let (src, skip) = self.cursor.bio();
        let part = Part {
            src,
            bdev,
            sector,
            skip,
            sectors: take,
            set_opf: self.opf,
            whole: false,
        };
        let own = core::mem::replace(&mut self.own, ptr::null_mut());
        // SAFETY: By the invariant of `Held` the request is held by a count. `part` is a range of
        // it, and by the invariant `own` is free or null. By the contract of this function the
        // device is open.
        let sent = unsafe { clone::send_counted::<D>(self.held.as_raw(), own, &part, self.way) };
        sent.unwrap_or_else(|e| {
            // INVARIANT: Nothing was sent, so the embedded bio is free if it was before.
            self.own = own;
            if e == EAGAIN {
                self.round.short = true;
                return 0;
            }
            self.held.note(Status::from(e).as_raw());
            self.fail()
        })
    }
}

/// Sends lower I/O for a request in pieces, see [`Request::submit`]. If an error is returned, no
/// lower I/O of the request is under way.
pub(super) fn submit<D, F>(
    rq: Request<D>,
    fua: bool,
    plan: F,
) -> core::result::Result<(), Request<D>>
where
    D: Operations,
    F: for<'d> FnOnce(&'d D, &mut Pieces<'d, D>),
{
    let way = rq.way();
    let mut held = Held::new(rq);
    let begun = held.placed();
    // SAFETY: By the invariants of `Request` no lower I/O was under way.
    let mut pieces = unsafe { Pieces::rest(&held, begun, way, fua) };
    plan(held.driver(), &mut pieces);
    let whole = pieces.whole.map(|(dev, sector)| (dev.as_raw(), sector));
    let mut round = pieces.round;

    if let Some((bdev, sector)) = whole.filter(|_| !round.failed) {
        // SAFETY: The driver keeps its devices open as long as its requests live.
        match unsafe { send_whole(held, way, fua, bdev, sector) } {
            Ok(()) => return Ok(()),
            Err((back, E2BIG)) => {
                held = back;
                // SAFETY: `send_whole` has failed, so nothing was sent.
                let mut pieces = unsafe { Pieces::rest(&held, begun, way, fua) };
                let mut at = sector;
                while pieces.round.left > 0 && !pieces.round.failed && !pieces.round.short {
                    let take = match way {
                        Way::Requests => pieces.round.left,
                        Way::Bios => pieces.round.left.min(pieces.cursor.in_bio()),
                    };
                    // SAFETY: The driver keeps its devices open as long as its requests live. Sectors
                    // are left, and `take` ends in the bio if it must.
                    let sent = unsafe { pieces.send(bdev, at, take) };
                    pieces.advance(sent);
                    at += u64::from(sent);
                }
                round = pieces.round;
            }
            Err((back, e)) => return unsent(back, e),
        }
    }
    end_round(held, begun, round)
}

/// Ends a round of a request. Returns the request if nothing was sent.
fn end_round<D: Operations>(
    held: Held<D>,
    begun: u32,
    round: Round,
) -> core::result::Result<(), Request<D>> {
    let failed = round.failed || (round.left > 0 && !round.short);
    if failed && !round.broken {
        pr_warn_once!("bug: the driver did not map all of a request, and the request fails\n");
    }
    if failed {
        // If the lower device has reported an error, that error stays.
        held.note(ffi::BLK_STS_IOERR);
    }
    held.set_round(begun, held.sectors() - round.left);
    match held.put() {
        Some(rq) if round.left == round.total && !failed => Err(rq),
        Some(rq) => {
            let status = rq.pdu().status();
            rq.complete(status);
            Ok(())
        }
        None => Ok(()),
    }
}

/// Handles a request of which nothing was sent in this round because of an error. Returns the
/// request if sending would have had to wait.
fn unsent<D: Operations>(held: Held<D>, e: Error) -> core::result::Result<(), Request<D>> {
    match held.put() {
        Some(rq) if e == EAGAIN => Err(rq),
        Some(rq) => {
            rq.complete(Status::from(e).as_raw());
            Ok(())
        }
        None => Ok(()),
    }
}

/// Sends the whole rest of a request to one place. If an error is returned, nothing was sent; with
/// `EAGAIN` and `E2BIG` no sector was given a place.
///
/// # Safety
///
/// `bdev` must be open as long as the request lives. No lower I/O of the request may be under way.
unsafe fn send_whole<D: Operations>(
    held: Held<D>,
    way: Way,
    fua: bool,
    bdev: *mut bindings::block_device,
    sector: u64,
) -> core::result::Result<(), (Held<D>, Error)> {
    let begun = held.placed();
    let cursor = Cursor::new(&held, begun);
    let (src, skip) = cursor.bio();
    let part = Part {
        src,
        bdev,
        sector,
        skip,
        sectors: cursor.left(),
        set_opf: if fua { ffi::REQ_FUA } else { 0 },
        whole: true,
    };
    held.set_round(begun, begun + part.sectors);
    let own = held.own_bio();
    let rq = held.into_raw();
    // SAFETY: By the invariant of `Held` the request is started, and `into_raw` has given it up. By
    // the contract of this function no lower I/O is under way, so the embedded bio is free, and the
    // device is open. `part` is the whole rest of the request.
    unsafe { clone::send_whole::<D>(rq, own, &part, way) }.map_err(|e| {
        // SAFETY: `rq` came from `into_raw`, and nothing was sent.
        let held = unsafe { Held::from_raw(rq) };
        if e == EAGAIN || e == E2BIG {
            held.set_round(begun, begun);
        }
        (held, e)
    })
}

/// The result of an attempt to send a request as a whole.
pub(crate) enum Sent<D: Operations> {
    /// The request is under way, or has ended.
    Whole,
    /// Sending would have to wait. Nothing was sent.
    Busy(Request<D>),
    /// The request does not fit one lower I/O. Nothing was sent.
    Unfit(Request<D>),
}

/// Sends a request, of which nothing was sent before, as one lower request, see
/// [`Request::submit_at_once`].
#[inline]
pub(super) fn submit_at_once<D, F>(rq: Request<D>, sector: u64, dev: F) -> Sent<D>
where
    D: Operations,
    F: for<'d> FnOnce(&'d D) -> &'d BlockDevice,
{
    let bdev = dev(rq.driver()).as_raw();
    rq.pdu().set_round(0, rq.sectors());
    let raw = rq.into_raw();
    // SAFETY: By the invariants of `Request` the request is started, no lower I/O of it is under
    // way, and we owned it. The driver keeps its devices open as long as its requests live.
    let Err(e) = (unsafe { clone::send_at_once::<D>(raw, bdev, sector) }) else {
        return Sent::Whole;
    };
    // SAFETY: Nothing was sent, so we own the request again, and no other value exists for it.
    let rq = unsafe { Request::from_raw(raw) };
    match e {
        EAGAIN | E2BIG => {
            rq.pdu().set_round(0, 0);
            if e == EAGAIN {
                Sent::Busy(rq)
            } else {
                Sent::Unfit(rq)
            }
        }
        e => {
            rq.complete(Status::from(e).as_raw());
            Sent::Whole
        }
    }
}
