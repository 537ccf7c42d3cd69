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
    gen_disk::{
        Operations,
        QueueData, //
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
/// - `rq` is a started request of a `GenDisk<D>`, kept from completing by a count in its [`Pdu`].
/// - `bio` is the bio of `rq` that holds the next sector, `skip` sectors into it, or null if `left`
///   is 0. `skip` is less than the length of `bio`.
/// - `left` sectors of `rq` have not been given a place yet, in this round or an earlier one.
/// - `own` is the embedded bio if that is free, else null.
pub(crate) struct Pieces<'d, D: Operations> {
    rq: *mut bindings::request,
    bio: *mut bindings::bio,
    skip: u32,
    left: u32,
    total: u32,
    way: Way,
    opf: u32,
    own: *mut bindings::bio,
    /// The target, if all of the rest goes to one place. It is sent after the plan has returned.
    whole: Option<(&'d BlockDevice, u64)>,
    failed: bool,
    /// The driver or the lower device has failed the request, so the pieces are not at fault.
    broken: bool,
    /// Sending would have to wait, so the rest is left to the next round.
    short: bool,
    _driver: PhantomData<&'d D>,
}

impl<'d, D: Operations> Pieces<'d, D> {
    /// Returns a value for the sectors of a request after the first `placed`.
    ///
    /// # Safety
    ///
    /// `rq` must be a started request of a `GenDisk<D>`, kept from completing, with no lower I/O under
    /// way.
    unsafe fn rest(rq: *mut bindings::request, placed: u32, way: Way, fua: bool) -> Self {
        // SAFETY: By the contract of this function `rq` is a valid request of a `GenDisk<D>`.
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
        // SAFETY: `bio` is a bio of the request. Some sectors of the request are left, so a bio
        // holds them, and the loop ends there.
        while skip > 0 && skip >= unsafe { sectors_of(bio) } {
            // SAFETY: By the contract of this function `rq` is a started request, so its bios are
            // valid, and `bio` is one of them.
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

    /// Sends the next piece to its target.
    ///
    /// The request fails if the piece is empty, if it reaches beyond the request, or if its target
    /// is [`Target::Nowhere`] and the request is neither a read nor a write. Later pieces are then
    /// ignored.
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

    /// Returns the number of sectors from the current one to the end of the bio, at least one.
    fn in_bio(&self) -> u32 {
        // SAFETY: All callers ensure that the current position is a sector of the request, so
        // `bio` is a bio of the request: `add` calls `place` and `zero` only if sectors are left,
        // and `advance` calls this only for sectors that it has not passed yet.
        unsafe { sectors_of(self.bio) - self.skip }
    }

    /// Advances by `n` sectors. `n` is at most `left`.
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
            // INVARIANT: The bios of a request make up its length. If they do not, the request
            // fails, so that none of the rest is sent.
            if self.bio.is_null() {
                self.failed |= self.left > 0;
                return;
            }
        }
    }

    /// Zeroes the part of the next `n` sectors that lies in the current bio, if the request is a
    /// read. Returns the number of sectors in that part.
    fn zero(&mut self, n: u32) -> u32 {
        let take = n.min(self.in_bio());
        // SAFETY: By the invariant `rq` is a started request, so its fields may be read.
        let op = unsafe { (*self.rq).cmd_flags } & ffi::REQ_OP_MASK;
        if op == bindings::req_op_REQ_OP_READ {
            // SAFETY: The range lies within the bio. The pages of the bio belong to the request
            // until it ends, and they may be written because the request is a read.
            unsafe { ffi::ub_bio_zero(self.bio, self.skip, take) };
        } else if op != bindings::req_op_REQ_OP_WRITE {
            self.failed = true;
        }
        take
    }

    /// Sends the next `n` sectors, or the first of them, and returns how many. If they are all of
    /// the rest, notes the target in `whole` instead.
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

    /// Sends the next `take` sectors, or the first of them, as a counted lower I/O, and returns how
    /// many.
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
        // SAFETY: By the invariants `rq` is a request of a `GenDisk<D>` that is held by a count,
        // `part` is a range of it, and `own` is free or null. The device is open as long as the
        // request lives.
        let sent = unsafe { clone::send_counted::<D>(self.rq, own, &part, self.way) };
        sent.unwrap_or_else(|e| {
            // INVARIANT: Nothing was sent, so the embedded bio is free if it was before.
            self.own = own;
            if e == EAGAIN {
                self.short = true;
                return 0;
            }
            // SAFETY: By the invariant `rq` is a request of a `GenDisk<D>` that is held by a count, so
            // by the invariant of `TagSet` a `Pdu` follows it.
            unsafe { &*Pdu::of(self.rq) }.note(Status::from(e).as_raw());
            self.fail()
        })
    }
}

/// Returns the length of a bio, in sectors.
///
/// # Safety
///
/// `bio` must be valid.
unsafe fn sectors_of(bio: *mut bindings::bio) -> u32 {
    // SAFETY: By the contract of this function `bio` is valid. This copies the field, because the
    // iterator is packed.
    unsafe { (*bio).bi_iter.bi_size >> ffi::SECTOR_SHIFT }
}

/// Sends lower I/O for a request in pieces, see [`Request::submit`]. If an error is returned, no
/// lower I/O of the request is under way.
///
/// # Safety
///
/// `rq` must fulfil the invariants of [`Request`], and no [`Request`] value may exist for it.
pub(super) unsafe fn submit<D, F>(
    rq: *mut bindings::request,
    way: Way,
    fua: bool,
    plan: F,
) -> core::result::Result<(), Request<D>>
where
    D: Operations,
    F: for<'d> FnOnce(&'d D, &mut Pieces<'d, D>),
{
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`, so it has
    // an initialised `Pdu`.
    let pdu = unsafe { &*Pdu::of(rq) };
    // From here to `send_whole` or `put` below the request cannot complete, so the borrows stay
    // valid.
    pdu.hold();
    // SAFETY: The disk keeps its `QueueData` until all of its requests have ended.
    let shared = unsafe { &*QueueData::<D>::of(rq) };
    let begun = pdu.placed();
    // INVARIANT: Only the sectors of earlier rounds have been given a place, and the request is
    // held.
    // SAFETY: By the invariants of `Request` the request is started and of a `GenDisk<D>`, and no
    // lower I/O of it is under way. `hold` keeps it from completing.
    let mut pieces = unsafe { Pieces::rest(rq, begun, way, fua) };
    plan(&shared.driver, &mut pieces);

    if let Some((dev, sector)) = pieces.whole.take().filter(|_| !pieces.failed) {
        // SAFETY: By the contract of this function we own `rq`. `dev` is open as long as the
        // request lives. The request is not accessed afterwards unless `send_whole` returns it.
        match unsafe { send_whole::<D>(rq, way, fua, dev, sector) } {
            Sent::Whole => return Ok(()),
            Sent::Busy(rq) => return Err(rq),
            Sent::Unfit(back) => {
                let rq = back.into_raw();
                // INVARIANT: Nothing was sent, so the state is the same as before the plan.
                // SAFETY: `send_whole` has returned ownership of the request, so by the invariants
                // of `Request` no lower I/O is under way. It is still held.
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
        // If the lower device has reported an error, that error stays.
        pdu.note(ffi::BLK_STS_IOERR);
    }
    let nothing = pieces.left == pieces.total && !failed;
    // SAFETY: By the invariants of `Request` `rq` is a started request. The count from `hold` keeps
    // it until `put` below.
    let all = unsafe { (*rq).__data_len >> ffi::SECTOR_SHIFT };
    pdu.set_round(begun, all - pieces.left);
    if pdu.put() {
        // SAFETY: This was the last count, so no lower I/O is left, and we own the request.
        let rq = unsafe { Request::<D>::from_raw(rq) };
        if nothing {
            return Err(rq);
        }
        rq.complete(pdu.status());
    }
    Ok(())
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

/// Handles a request of which nothing was sent, because of an error.
///
/// # Safety
///
/// `rq` must fulfil the invariants of [`Request`], and no [`Request`] value may exist for it.
unsafe fn unsent<D: Operations>(rq: *mut bindings::request, e: Error) -> Sent<D> {
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`, so it has
    // an initialised `Pdu`.
    let pdu = unsafe { &*Pdu::of(rq) };
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`, and no
    // other value exists for it.
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

/// Sends the whole rest of a request to one place.
///
/// # Safety
///
/// As for [`submit`]. In addition, `dev` must be open as long as the request lives.
unsafe fn send_whole<D: Operations>(
    rq: *mut bindings::request,
    way: Way,
    fua: bool,
    dev: &BlockDevice,
    sector: u64,
) -> Sent<D> {
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`, so it has
    // an initialised `Pdu`.
    let pdu = unsafe { &*Pdu::of(rq) };
    let begun = pdu.placed();
    // INVARIANT: As in `submit`.
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`: it is
    // started and of a `GenDisk<D>`, no lower I/O of it is under way, and we own it.
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
    // SAFETY: By the contract of this function we own the request and `dev` is open, so the
    // embedded bio is free. `part` is the whole rest of the request.
    match unsafe { clone::send_whole::<D>(rq, rest.own, &part, way) } {
        Ok(()) => Sent::Whole,
        // SAFETY: `clone::send_whole` has failed, so nothing was sent and we own `rq` again. It
        // still fulfils the invariants of `Request`, and no value exists for it.
        Err(e) => unsafe { unsent(rq, e) },
    }
}

/// Sends a request as one lower request, see [`Request::submit_at_once`].
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
    D: Operations,
    F: for<'d> FnOnce(&'d D) -> &'d BlockDevice,
{
    // SAFETY: The disk keeps its `QueueData` until all of its requests have ended.
    let shared = unsafe { &*QueueData::<D>::of(rq) };
    let dev = dev(&shared.driver).as_raw();
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`: it is
    // started and has an initialised `Pdu`.
    unsafe {
        let all = (*rq).__data_len >> ffi::SECTOR_SHIFT;
        (*Pdu::of(rq)).set_round(0, all);
    }
    // SAFETY: By the contract of this function `rq` fulfils the invariants of `Request`, so no
    // lower I/O of it is under way. The driver keeps its devices open.
    match unsafe { clone::send_at_once::<D>(rq, dev, sector) } {
        Ok(()) => Sent::Whole,
        // SAFETY: `clone::send_at_once` has failed, so nothing was sent and we own `rq` again. It
        // still fulfils the invariants of `Request`, and no value exists for it.
        Err(e) => unsafe { unsent(rq, e) },
    }
}
