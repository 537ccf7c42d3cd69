// SPDX-License-Identifier: GPL-2.0

//! A request that is sent in pieces: how it is split and counted.
//!
//! A range that goes to one target is one lower request. If it is sent as bios, it is one lower bio
//! for each bio of the request that it overlaps. If all of a request goes to one target and is one
//! lower I/O, no lower I/O is counted. If there is no memory or no free lower request, the *round*
//! ends: when the lower I/O of the round has ended, the driver gets the request back to send the
//! rest.
//!
//! Sums and differences of sectors saturate. If an invariant or a comment beside the line states a
//! bound, none of them ever does. Otherwise a sector beyond the last one stays beyond the device,
//! which refuses it.

use super::{
    bdev::BlockDevice,
    bio::Bio,
    ffi::{
        self,
        RequestRange, //
    },
    lower,
    operations::Operations,
    pdu::SendAs,
    request::{
        BlkStatus, //
        ReqOp,
        Request,
        Started,
    },
};
use crate::sys::bug::warn_on_once;
use core::{
    cell::Cell,
    ptr, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// The target of a range of a request.
#[derive(Copy, Clone)]
pub(crate) enum PieceTarget<'d> {
    /// This device, at this sector.
    Device(&'d BlockDevice, u64),
    /// No device: a read returns zeroes, and the data of a write is dropped.
    Nowhere,
    /// No target: the request fails with an I/O error.
    Error,
}

/// A range of a request, with its target.
#[derive(Copy, Clone)]
pub(crate) struct Piece<'d> {
    /// The target.
    pub(crate) target: PieceTarget<'d>,
    /// The length.
    pub(crate) sectors: u32,
}

impl<D: Operations> Request<D> {
    /// Sends lower I/O for the request in pieces. [`Operations::complete`] handles the request when
    /// all of the lower I/O has ended.
    ///
    /// `plan` adds the pieces of [`Started::rest`] in order. They must cover it exactly. If they do
    /// not, no lower I/O reaches beyond it, and the request completes with [`BlkStatus::IOERR`]
    /// once the lower I/O that was sent has ended. `fua` makes each lower write durable by itself,
    /// if its device has FUA.
    ///
    /// If sending would have to wait, the request completes with a rest, and the driver must call
    /// [`requeue`]. If nothing could be sent, the request is returned at once, as the error.
    ///
    /// `plan` borrows the queue data for as long as the request lives, and must take the lower
    /// devices from the queue data. They therefore stay open until the last lower I/O has ended.
    ///
    /// Context: process. With [`SendAs::Requests`] it may sleep only if a lower device
    /// [`may`](super::BlockDevice::may_sleep); with [`SendAs::Bios`] it may wait.
    ///
    /// [`requeue`]: Request::requeue
    pub(crate) fn submit<F>(self, fua: bool, plan: F) -> core::result::Result<(), Self>
    where
        F: for<'d> FnOnce(&'d D, &mut Pieces<'d, D>),
    {
        let how = How {
            send_as: self.send_as(),
            set_opf: if fua { ffi::REQ_FUA } else { 0 },
        };
        let held = HeldRequest::new(self);
        let round_start = held.rq.pdu().round_end();
        let mut pieces = Pieces::new(&held, round_start, how);
        plan(held.rq.queue_data(), &mut pieces);
        let Pieces { whole, round, .. } = pieces;

        let Some(to) = whole.filter(|_| !round.failed) else {
            return end_round(held, round_start, round);
        };
        match held.send_whole(round_start, to, how) {
            Ok(()) => Ok(()),
            Err((held, E2BIG)) => {
                let mut pieces = Pieces::new(&held, round_start, how);
                pieces.send_rest(to);
                let round = pieces.round;
                end_round(held, round_start, round)
            }
            Err((held, e)) => unsent(held, e),
        }
    }
}

/// Ends a round of a request. Returns the request if nothing was sent.
fn end_round<D: Operations>(
    held: HeldRequest<D>,
    round_start: u32,
    round: Round,
) -> core::result::Result<(), Request<D>> {
    let failed = round.failed || (round.left > 0 && !round.short);
    // The driver did not map all of the request.
    warn_on_once!(failed && !round.is_reported);
    let pdu = held.rq.pdu();
    if failed {
        // If the lower device has reported an error, that error stays.
        pdu.note(ffi::BLK_STS_IOERR);
    }
    // `left` counts sectors of the request.
    pdu.set_round(round_start, held.rq.sectors().saturating_sub(round.left));
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
fn unsent<D: Operations>(held: HeldRequest<D>, e: Error) -> core::result::Result<(), Request<D>> {
    match held.put() {
        Some(rq) if e == EAGAIN => Err(rq),
        Some(rq) => {
            rq.complete(BlkStatus::from(e).as_raw());
            Ok(())
        }
        None => Ok(()),
    }
}

/// How the lower I/O of a round is sent.
#[derive(Copy, Clone)]
struct How {
    send_as: SendAs,
    /// The flags that each lower I/O has in addition to those of the request.
    set_opf: u32,
}

/// A sector of a lower device.
///
/// # Invariants
///
/// The device belongs to the queue data of the request's disk, which keeps it open as long as the
/// disk's requests live.
#[derive(Copy, Clone)]
struct LowerSector {
    bdev: *mut bindings::block_device,
    sector: u64,
}

impl LowerSector {
    /// Returns the sector `sectors` after this one.
    fn after(self, sectors: u32) -> Self {
        // INVARIANT: The device is the same.
        Self {
            sector: self.sector.saturating_add(u64::from(sectors)),
            ..self
        }
    }
}

/// Takes the pieces of one request, in order, and sends them.
pub(crate) struct Pieces<'d, D: Operations> {
    /// The next sector to submit.
    cursor: RequestCursor<'d, D>,
    how: How,
    /// The target, if all of the rest goes to it. It is sent after the plan has returned.
    whole: Option<LowerSector>,
    round: Round,
}

/// How far a round has come.
#[derive(Copy, Clone)]
struct Round {
    /// The number of sectors that were not submitted when the round began.
    total: u32,
    /// The number of these that are not submitted yet.
    left: u32,
    failed: bool,
    /// The driver or the lower device has failed the request, so the pieces are not at fault.
    is_reported: bool,
    /// Sending would have to wait, so the rest is left to the next round.
    short: bool,
}

impl<'d, D: Operations> Pieces<'d, D> {
    /// Returns a value for the sectors of a request after the first `submitted`.
    fn new(held: &'d HeldRequest<D>, submitted: u32, how: How) -> Self {
        let cursor = RequestCursor::new(held, submitted);
        let total = cursor.left;
        Self {
            cursor,
            how,
            whole: None,
            round: Round {
                total,
                left: total,
                failed: total == 0,
                is_reported: false,
                short: false,
            },
        }
    }

    /// Sends the next piece to its target.
    ///
    /// The request fails if the piece is empty, if it reaches beyond the request, or if its target
    /// is [`PieceTarget::Nowhere`] and the request is neither a read nor a write. Later pieces are
    /// then ignored.
    pub(crate) fn add(&mut self, piece: Piece<'d>) {
        if piece.sectors == 0 || piece.sectors > self.round.left {
            self.round.failed |= !self.round.short;
            return;
        }
        let mut done = 0;
        while done < piece.sectors && self.continues() {
            let todo = piece.sectors.saturating_sub(done);
            let submitted = match piece.target {
                PieceTarget::Device(dev, sector) => {
                    // INVARIANT: `Request::submit` calls its plan for any `'d`, so a device that is
                    // borrowed for `'d` comes from the queue data.
                    let to = LowerSector {
                        bdev: dev.as_raw(),
                        sector,
                    };
                    self.send_unless_whole(to.after(done), todo)
                }
                PieceTarget::Nowhere => self.zero(todo),
                PieceTarget::Error => self.fail(),
            };
            self.advance(submitted);
            // At most `todo` were submitted.
            done = done.saturating_add(submitted);
        }
    }

    /// Sends all sectors that are left to one target.
    fn send_rest(&mut self, mut to: LowerSector) {
        while self.round.left > 0 && self.continues() {
            let sent = self.send(to, self.round.left);
            self.advance(sent);
            to = to.after(sent);
        }
    }

    /// Returns whether more can be sent in this round.
    fn continues(&self) -> bool {
        !self.round.failed && !self.round.short
    }

    fn fail(&mut self) -> u32 {
        self.round.is_reported = true;
        self.round.failed = true;
        0
    }

    /// Advances by `n` sectors, which were submitted and are at most `left`.
    fn advance(&mut self, n: u32) {
        self.round.left = self.round.left.saturating_sub(n);
        // The bios of a request make up its length. If they do not, the request fails, so that none
        // of the rest is sent.
        self.round.failed |= !self.cursor.advance(n);
    }

    /// Zeroes the part of the next `n` sectors that lies in the current bio, if the request is a
    /// read. Returns the number of sectors in that part.
    fn zero(&mut self, n: u32) -> u32 {
        self.round.failed |= !matches!(self.cursor.held.rq.op(), ReqOp::Read | ReqOp::Write);
        let done = self.cursor.zero(n);
        // A bio without sectors would never end the round.
        self.round.failed |= done == 0;
        done
    }

    /// Sends the next `n` sectors, or the first of them, and returns how many. If they are all of
    /// the rest, notes the target in `whole` instead.
    fn send_unless_whole(&mut self, to: LowerSector, n: u32) -> u32 {
        let fits = self.cursor.fitting(n, self.how.send_as);
        if fits == self.round.total {
            self.whole = Some(to);
            return fits;
        }
        self.send(to, n)
    }

    /// Sends the next `n` sectors, or the first of them, and returns how many.
    fn send(&mut self, to: LowerSector, n: u32) -> u32 {
        match self.cursor.send(to, n, self.how) {
            Ok(sent) => sent,
            Err(EAGAIN) => {
                self.round.short = true;
                0
            }
            Err(e) => {
                self.cursor.held.rq.pdu().note(BlkStatus::from(e).as_raw());
                self.fail()
            }
        }
    }
}

/// A request while its lower I/O is being sent: it cannot end before [`HeldRequest::put`].
///
/// # Invariants
///
/// - The value owns the sender's count of the request, or owns the request.
/// - `own` is the embedded bio of the request if no lower I/O uses that bio, else null.
#[must_use = "a request that is held and forgotten never ends"]
struct HeldRequest<D: Operations> {
    rq: Started<D>,
    own: Cell<*mut bindings::bio>,
}

impl<D: Operations> HeldRequest<D> {
    /// Takes the sender's count of a request.
    fn new(rq: Request<D>) -> Self {
        rq.pdu().hold();
        let own = rq.pdu().bio();
        // INVARIANT: The count was taken above. By the invariant of `Request` no lower I/O is under
        // way, so the embedded bio is free.
        Self {
            rq: rq.into_started(),
            own: Cell::new(own),
        }
    }

    /// Sends all sectors after the first `round_start` to one target. If an error is returned,
    /// nothing was sent; with `EAGAIN` and `E2BIG` no sector was submitted.
    fn send_whole(
        self,
        round_start: u32,
        to: LowerSector,
        how: How,
    ) -> core::result::Result<(), (Self, Error)> {
        let range = RequestCursor::new(&self, round_start).range(to, u32::MAX, true, how);
        let own = self.own.get();
        if range.sectors == 0 || own.is_null() {
            return Err((self, E2BIG));
        }
        // The range ends where the request ends.
        let round_end = round_start.saturating_add(range.sectors);
        self.rq.pdu().set_round(round_start, round_end);
        // SAFETY: `own` is not null, so by the invariant of `HeldRequest` no lower I/O uses the
        // embedded bio. A round uses that bio first, so nothing was sent in this round, and we own
        // the request. `range` is the whole rest of the request. By the invariant of `LowerSector`
        // its device stays open. `end_whole` gets the request, and this function does not use it
        // after a success.
        let sent = unsafe {
            let end_io = lower::end_whole::<D>;
            lower::send(self.rq.as_raw(), own, &range, how.send_as, end_io)
        };
        sent.map(|_| ()).map_err(|e| {
            if e == EAGAIN || e == E2BIG {
                self.rq.pdu().set_round(round_start, round_start);
            }
            (self, e)
        })
    }

    /// Puts the sender's count. Returns the request if no lower I/O of it is left.
    fn put(self) -> Option<Request<D>> {
        if !self.rq.pdu().put() {
            return None;
        }
        // SAFETY: By the invariant the value owned the sender's count. It was the last one, so no
        // lower I/O is left, and we own the request.
        Some(unsafe { Request::from_raw(self.rq.as_raw()) })
    }
}

/// A sector of a request, and how many sectors follow it.
///
/// # Invariants
///
/// If `left` is not 0, the sector lies in `bio`, a bio of the request, `skip` sectors into it, and
/// `skip` is less than the length of `bio`. The request does not end while the value exists.
struct RequestCursor<'r, D: Operations> {
    held: &'r HeldRequest<D>,
    bio: Option<Bio<'r>>,
    skip: u32,
    /// The number of sectors that are left, the current one included.
    left: u32,
}

impl<'r, D: Operations> RequestCursor<'r, D> {
    /// Returns the sector of a request after the first `submitted`.
    fn new(held: &'r HeldRequest<D>, submitted: u32) -> Self {
        let bio = held.rq.first_bio();
        // INVARIANT: The first sector of a request lies at the start of its first bio, which is not
        // empty. By the invariant of `HeldRequest` the request does not end.
        let mut cursor = Self {
            held,
            bio,
            skip: 0,
            left: bio.map_or(0, |_| held.rq.sectors()),
        };
        let _ = cursor.advance(submitted);
        cursor
    }

    /// Returns the number of sectors from the current one to the end of its bio; 0 at the end of
    /// the request.
    fn in_bio(&self) -> u32 {
        let bio = self.bio.filter(|_| self.left > 0);
        bio.map_or(0, |bio| bio.sectors().saturating_sub(self.skip))
    }

    /// Advances by `n` sectors, or to the end of the request. Returns whether the bios hold as many
    /// sectors as the request has.
    fn advance(&mut self, n: u32) -> bool {
        let mut n = n.min(self.left);
        while n > 0 {
            let here = self.in_bio();
            let step = n.min(here);
            n = n.saturating_sub(step);
            // `n` was at most `left`.
            self.left = self.left.saturating_sub(step);
            if step < here {
                self.skip = self.skip.saturating_add(step);
                return true;
            }
            // INVARIANT: The next sector lies at the start of the next bio. If there is none,
            // nothing is left.
            self.bio = self.bio.and_then(Bio::next);
            self.skip = 0;
            if self.bio.is_none() && self.left > 0 {
                self.left = 0;
                return false;
            }
        }
        true
    }

    /// Returns how many of the next `n` sectors one lower I/O can hold, as far as `send_as`
    /// decides it.
    fn fitting(&self, n: u32, send_as: SendAs) -> u32 {
        match send_as {
            SendAs::Requests => n.min(self.left),
            SendAs::Bios => n.min(self.in_bio()),
        }
    }

    /// Returns the range of the next `n` sectors, or of all that are left.
    fn range(&self, to: LowerSector, n: u32, whole: bool, how: How) -> RequestRange {
        RequestRange {
            src: self.bio.map_or(ptr::null_mut(), Bio::as_raw),
            bdev: to.bdev,
            sector: to.sector,
            skip: self.skip,
            sectors: n.min(self.left),
            set_opf: how.set_opf,
            whole,
        }
    }

    /// Sends the next `n` sectors, or the first of them, as a lower I/O that holds a count of the
    /// request, and returns how many. If an error is returned, nothing was sent.
    fn send(&self, to: LowerSector, n: u32, how: How) -> Result<u32> {
        let range = self.range(to, self.fitting(n, how.send_as), false, how);
        if range.sectors == 0 {
            return Err(EIO);
        }
        let HeldRequest { rq, own } = self.held;
        let bio = own.replace(ptr::null_mut());
        // Take the count before the lower I/O is sent, because it may end at once.
        rq.pdu().get();
        // SAFETY: By the invariant of `HeldRequest` the request does not end, and `bio` is free or
        // null. By the invariant of `RequestCursor` this is a range of the request, in one bio if
        // it is sent as bios. By the invariant of `LowerSector` its device stays open.
        // `end_counted` owns the count taken above.
        let sent = unsafe {
            let end_io = lower::end_counted::<D>;
            lower::send(rq.as_raw(), bio, &range, how.send_as, end_io)
        };
        if sent.is_err() {
            // INVARIANT: Nothing was sent, so the embedded bio is free if it was before.
            own.set(bio);
            // This is never the last count, because the sender holds one.
            let _ = rq.pdu().put();
        }
        sent
    }

    /// Zeroes at most `n` sectors from the current one on, as far as its bio holds them, if the
    /// request is a read. Returns how many sectors these are.
    fn zero(&self, n: u32) -> u32 {
        let here = n.min(self.in_bio());
        if let Some(bio) = self.bio {
            bio.zero(self.skip, here);
        }
        here
    }
}
