// SPDX-License-Identifier: GPL-2.0

//! The lower I/O of a request: how it is cut, counted and sent.
//!
//! There are two ways down. As *requests* of the lower queue's own ([`super::clone`]), which never
//! waits; and as *bios* ([`super::clone`] has those too), which may wait and so is for a worker.
//!
//! A stretch that goes to one place is one lower I/O as far as the way allows. The first lower bio
//! lives in the request's own data; where a request goes down as a whole, nothing else is allocated
//! but the lower request, and nothing is counted. Where there is no memory, or no free request below,
//! the *round* ends: when its lower I/O has ended, the driver gets the request back for the rest.

use super::{
    bdev::BlockDevice,
    clone,
    disk::{
        Driver,
        Shared, //
    },
    ffi::{
        self,
        Part, //
    },
    pdu::Pdu,
    request::{
        Request,
        Status, //
    },
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    pr_warn_once,
    prelude::*, //
};

/// How lower I/O is sent.
#[derive(Copy, Clone, PartialEq)]
pub(crate) enum Way {
    /// As requests of the lower queues. Never waits. For devices with
    /// [`BlockDevice::takes_clones`].
    Requests,
    /// As bios. May wait for the lower devices: from a worker alone.
    Bios,
}

/// Where a stretch of a request goes.
#[derive(Copy, Clone)]
pub(crate) enum Target<'d> {
    /// To this device, at this sector.
    Device(&'d BlockDevice, u64),
    /// Nowhere: it reads as zeroes, and what is written is lost.
    Nowhere,
    /// No place at all: the request fails with an I/O error.
    Broken,
}

/// A stretch of a request.
#[derive(Copy, Clone)]
pub(crate) struct Piece<'d> {
    /// Where it goes.
    pub(crate) target: Target<'d>,
    /// How long it is.
    pub(crate) sectors: u32,
}

/// Takes the pieces of one request, in order, and sends them.
///
/// # Invariants
///
/// - `rq` is a started request of a `Disk<D>`, kept from completing by a count in its [`Pdu`].
/// - `bio` is the bio of `rq` that holds the next sector, `skip` sectors into it, or null when
///   `left` is 0. `skip` is less than its length.
/// - `left` sectors of `rq` have not been given a place yet, in this round or one before.
/// - `own` is the embedded bio if that is free, else null.
pub(crate) struct Pieces<'d, D: Driver> {
    rq: *mut bindings::request,
    bio: *mut bindings::bio,
    skip: u32,
    left: u32,
    total: u32,
    way: Way,
    opf: u32,
    own: *mut bindings::bio,
    /// All of it goes to one place: it is sent when the plan is complete.
    whole: Option<(&'d BlockDevice, u64)>,
    failed: bool,
    /// The driver or the device below has failed it: that is no error of ours.
    broken: bool,
    /// It would have to wait: what is left is for the next round.
    short: bool,
    _driver: PhantomData<&'d D>,
}

impl<'d, D: Driver> Pieces<'d, D> {
    /// The sectors of a request behind the first `placed`.
    ///
    /// # Safety
    ///
    /// `rq` must be a started request of a `Disk<D>`, kept from completing, no lower I/O under way.
    unsafe fn rest(rq: *mut bindings::request, placed: u32, way: Way, fua: bool) -> Self {
        // SAFETY: The request is valid, and of a `Disk<D>`.
        let (mut bio, all, own) = unsafe {
            (
                (*rq).bio,
                (*rq).__data_len >> ffi::SECTOR_SHIFT,
                (*Pdu::of(rq)).bio(),
            )
        };
        let total = if bio.is_null() {
            0
        } else {
            all.saturating_sub(placed)
        };
        let mut skip = if total == 0 { 0 } else { placed };
        // SAFETY: A bio of a request, and the next of one; as some of the request is left, there
        // is a bio that holds it.
        while skip > 0 && skip >= unsafe { sectors_of(bio) } {
            // SAFETY: As above.
            unsafe {
                skip -= sectors_of(bio);
                bio = (*bio).bi_next;
            }
        }
        Self {
            rq,
            bio,
            skip,
            left: total,
            total,
            way,
            opf: if fua { ffi::REQ_FUA } else { 0 },
            own,
            whole: None,
            failed: total == 0,
            broken: false,
            short: false,
            _driver: PhantomData,
        }
    }

    /// Sends the next piece to its place.
    ///
    /// One that is empty, reaches beyond the request, or goes nowhere and is neither of a read nor
    /// of a write, fails the request; whatever follows is ignored.
    pub(crate) fn add(&mut self, piece: Piece<'d>) {
        if piece.sectors == 0 || piece.sectors > self.left {
            self.failed |= !self.short;
            return;
        }
        let mut todo = piece.sectors;
        let mut target = piece.target;
        while todo > 0 && !self.failed && !self.short {
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
        self.broken = true;
        self.failed = true;
        0
    }

    /// How many sectors there are from here to the end of the bio; at least one.
    fn in_bio(&self) -> u32 {
        // SAFETY: `left` is not 0 where this is called, so by the invariant `bio` is a bio of the
        // request.
        unsafe { sectors_of(self.bio) - self.skip }
    }

    /// Goes on by `n` sectors of those left.
    fn advance(&mut self, n: u32) {
        let mut n = n;
        self.left -= n;
        while n > 0 {
            let take = n.min(self.in_bio());
            n -= take;
            if take < self.in_bio() {
                self.skip += take;
                return;
            }
            self.skip = 0;
            // SAFETY: By the invariant `bio` is a bio of the request.
            self.bio = unsafe { (*self.bio).bi_next };
            // INVARIANT: The bios of a request make up its length; should they not, then nothing
            // of what is left can be placed.
            if self.bio.is_null() {
                self.failed |= self.left > 0;
                return;
            }
        }
    }

    /// Zeroes what of the next `n` sectors lies in the bio, if it is a read: how many.
    fn zero(&mut self, n: u32) -> u32 {
        let take = n.min(self.in_bio());
        // SAFETY: By the invariant `rq` is valid.
        let op = unsafe { (*self.rq).cmd_flags } & ffi::REQ_OP_MASK;
        if op == bindings::req_op_REQ_OP_READ {
            // SAFETY: The stretch lies within the bio, whose pages belong to the request until it
            // ends; it is a read, so they may be written.
            unsafe { ffi::ub_bio_zero(self.bio, self.skip, take) };
        } else if op != bindings::req_op_REQ_OP_WRITE {
            self.failed = true;
        }
        take
    }

    /// Sends the next `n` sectors, or the first of them: how many.
    fn place(&mut self, dev: &'d BlockDevice, sector: u64, n: u32) -> u32 {
        let take = match self.way {
            Way::Requests => n,
            Way::Bios => n.min(self.in_bio()),
        };
        if take == self.total {
            self.whole = Some((dev, sector));
            return take;
        }
        self.send(dev, sector, take)
    }

    /// The same, counted.
    fn send(&mut self, dev: &'d BlockDevice, sector: u64, take: u32) -> u32 {
        let part = Part {
            src: self.bio,
            bdev: dev.as_raw(),
            sector,
            skip: self.skip,
            sectors: take,
            set_opf: self.opf,
            whole: false,
        };
        let own = core::mem::replace(&mut self.own, ptr::null_mut());
        // SAFETY: By the invariant `rq` is a request of a `Disk<D>`, and held; `part` is of it, and
        // `own` free or null. The device is open for as long as the request lives.
        let sent = unsafe { clone::send_counted::<D>(self.rq, own, &part, self.way) };
        sent.unwrap_or_else(|e| {
            // INVARIANT: Nothing was sent, so it is as free as it was.
            self.own = own;
            if e == EAGAIN {
                self.short = true;
                return 0;
            }
            // SAFETY: As above.
            unsafe { &*Pdu::of(self.rq) }.note(Status::from(e).as_raw());
            self.fail()
        })
    }
}

/// The length of a bio.
///
/// # Safety
///
/// `bio` must be valid.
unsafe fn sectors_of(bio: *mut bindings::bio) -> u32 {
    // SAFETY: Promised by the caller. The iterator is packed: this reads a copy of the field.
    unsafe { (*bio).bi_iter.bi_size >> ffi::SECTOR_SHIFT }
}

/// See [`Request::submit`].
///
/// # Safety
///
/// `rq` must fulfil the invariants of [`Request`], and no value may exist for it. With an error
/// nothing of it is under way.
pub(super) unsafe fn submit<D, F>(
    rq: *mut bindings::request,
    way: Way,
    fua: bool,
    plan: F,
) -> core::result::Result<(), Request<D>>
where
    D: Driver,
    F: for<'d> FnOnce(&'d D, &mut Pieces<'d, D>),
{
    // SAFETY: The request is a `Disk<D>`'s, as promised by the caller.
    let pdu = unsafe { &*Pdu::of(rq) };
    // From here to `put` below the request cannot complete, so what is borrowed is there.
    pdu.hold();
    // SAFETY: The disk keeps its `Shared` until all of its requests have ended.
    let shared = unsafe { &*Shared::<D>::of(rq) };
    let begun = pdu.placed();
    // INVARIANT: Nothing beyond the rounds before has been given a place, and the request is held.
    // SAFETY: The request is valid.
    let mut pieces = unsafe { Pieces::rest(rq, begun, way, fua) };
    plan(&shared.driver, &mut pieces);

    if let Some((dev, sector)) = pieces.whole.take().filter(|_| !pieces.failed) {
        // SAFETY: `dev` is open as long as the request lives, which nobody touches here unless it
        // comes back.
        match unsafe { send_whole::<D>(rq, way, fua, dev, sector) } {
            Sent::Whole => return Ok(()),
            Sent::Busy(rq) => return Err(rq),
            Sent::Unfit(back) => {
                let rq = back.into_raw();
                // INVARIANT: As it was before the plan.
                // SAFETY: Nothing was sent, so it is ours.
                pieces = unsafe { Pieces::rest(rq, begun, way, fua) };
                let mut at = sector;
                while pieces.left > 0 && !pieces.failed && !pieces.short {
                    let sent = pieces.send(dev, at, pieces.left);
                    pieces.advance(sent);
                    at += u64::from(sent);
                }
            }
        }
    }
    let failed = pieces.failed || (pieces.left > 0 && !pieces.short);
    if failed && !pieces.broken {
        pr_warn_once!("the pieces of a request do not cover it: it fails\n");
    }
    if failed {
        // Unless the device below has given a reason.
        pdu.note(ffi::BLK_STS_IOERR);
    }
    let nothing = pieces.left == pieces.total && !failed;
    // SAFETY: The request is valid.
    let all = unsafe { (*rq).__data_len >> ffi::SECTOR_SHIFT };
    pdu.set_round(begun, all - pieces.left);
    if pdu.put() {
        // SAFETY: The last count was ours, so no lower I/O is left and the request is ours.
        let rq = unsafe { Request::<D>::from_raw(rq) };
        if nothing {
            return Err(rq);
        }
        rq.complete(pdu.status());
    }
    Ok(())
}

/// What became of a request that was to be sent as a whole.
pub(crate) enum Sent<D: Driver> {
    /// It is under way, or has ended.
    Whole,
    /// It would have to wait. Nothing of it was sent.
    Busy(Request<D>),
    /// It is more than one lower I/O. Nothing of it was sent.
    Unfit(Request<D>),
}

/// What becomes of a request of which nothing was sent, because of an error.
///
/// # Safety
///
/// `rq` must fulfil the invariants of [`Request`], and no value may exist for it.
unsafe fn unsent<D: Driver>(rq: *mut bindings::request, e: Error) -> Sent<D> {
    // SAFETY: The request is a `Disk<D>`'s.
    let pdu = unsafe { &*Pdu::of(rq) };
    // SAFETY: Promised by the caller.
    let rq = unsafe { Request::from_raw(rq) };

    if e == EAGAIN || e == E2BIG {
        pdu.set_round(pdu.begun(), pdu.begun());
    }
    match e {
        EAGAIN => Sent::Busy(rq),
        E2BIG => Sent::Unfit(rq),
        e => {
            rq.complete(Status::from(e).as_raw());
            Sent::Whole
        }
    }
}

/// Sends all that is left of a request to one place.
///
/// # Safety
///
/// As for [`submit`], and `dev` must be open for as long as the request lives.
unsafe fn send_whole<D: Driver>(
    rq: *mut bindings::request,
    way: Way,
    fua: bool,
    dev: &BlockDevice,
    sector: u64,
) -> Sent<D> {
    // SAFETY: The request is a `Disk<D>`'s, as promised by the caller.
    let pdu = unsafe { &*Pdu::of(rq) };
    let begun = pdu.placed();
    // INVARIANT: As in `submit`.
    // SAFETY: The request is valid, and ours.
    let rest = unsafe { Pieces::<'_, D>::rest(rq, begun, way, fua) };
    let part = Part {
        src: rest.bio,
        bdev: dev.as_raw(),
        sector,
        skip: rest.skip,
        sectors: rest.total,
        set_opf: rest.opf,
        whole: true,
    };
    pdu.set_round(begun, begun + rest.total);
    // SAFETY: The request is ours, its embedded bio free, `part` all that is left of it; with an error
    // nothing was sent.
    match unsafe { clone::send_whole::<D>(rq, rest.own, &part, way) } {
        Ok(()) => Sent::Whole,
        // SAFETY: As above.
        Err(e) => unsafe { unsent(rq, e) },
    }
}

/// See [`Request::submit_at_once`].
///
/// # Safety
///
/// As for [`submit`].
#[inline]
pub(super) unsafe fn submit_at_once<D, F>(
    rq: *mut bindings::request,
    sector: u64,
    dev: F,
) -> Sent<D>
where
    D: Driver,
    F: for<'d> FnOnce(&'d D) -> &'d BlockDevice,
{
    // SAFETY: The disk keeps its `Shared` until all of its requests have ended.
    let shared = unsafe { &*Shared::<D>::of(rq) };
    let dev = dev(&shared.driver).as_raw();
    // SAFETY: The request is valid, and a `Disk<D>`'s, as promised by the caller.
    unsafe {
        let all = (*rq).__data_len >> ffi::SECTOR_SHIFT;
        (*Pdu::of(rq)).set_round(0, all);
    }
    // SAFETY: Promised by the caller; the driver keeps its devices open. With an error nothing was
    // sent.
    match unsafe { clone::send_at_once::<D>(rq, dev, sector) } {
        Ok(()) => Sent::Whole,
        // SAFETY: As above.
        Err(e) => unsafe { unsent(rq, e) },
    }
}
