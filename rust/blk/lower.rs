// SPDX-License-Identifier: GPL-2.0

//! The lower bios of a request.
//!
//! A bio of the request that goes to one place as a whole becomes one lower bio. The first lower
//! bio lives in the request's own data; where it is the only one, nothing is allocated and nothing
//! is counted. All others are allocated. Where one cannot be had, the round ends there, and when
//! its bios have ended the driver gets the request back for the rest: each round places something,
//! for the request's own bio is free again.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::{
    bdev::BlockDevice,
    disk::{
        Driver,
        Shared, //
    },
    ffi,
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
    pr_warn_once, //
};

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

/// The bio embedded in the request.
#[derive(PartialEq)]
enum Embedded {
    Free,
    /// It carries the whole request, and is issued when the plan is complete.
    Whole,
    Issued,
}

/// Takes the pieces of one request, in order, and issues them.
///
/// # Invariants
///
/// - `rq` is a started request of a `Disk<D>`, kept from completing by a count in its [`Pdu`].
/// - `bio` is the bio of `rq` that holds the next sector, `skip` sectors into it, or null when
///   `left` is 0. `skip` is less than its length.
/// - `left` sectors of `rq` have not been given a place yet, in this round or one before.
pub(crate) struct Pieces<'d, D: Driver> {
    rq: *mut bindings::request,
    bio: *mut bindings::bio,
    skip: u32,
    left: u32,
    total: u32,
    opf: u32,
    embedded: Embedded,
    failed: bool,
    /// The driver has failed it: that is no error of ours.
    broken: bool,
    /// No memory for a lower bio: what is left waits for the next round.
    short: bool,
    _driver: PhantomData<&'d D>,
}

impl<'d, D: Driver> Pieces<'d, D> {
    /// The sectors of a request behind the first `placed`.
    ///
    /// # Safety
    ///
    /// `rq` must be a started request of a `Disk<D>`, kept from completing.
    unsafe fn rest(rq: *mut bindings::request, placed: u32, fua: bool) -> Self {
        // SAFETY: The request is valid.
        let (mut bio, all) = unsafe { ((*rq).bio, (*rq).__data_len >> ffi::SECTOR_SHIFT) };
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
            opf: if fua { ffi::REQ_FUA } else { 0 },
            embedded: Embedded::Free,
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
        if self.failed || self.short {
            return;
        }
        if piece.sectors == 0 || piece.sectors > self.left {
            self.failed = true;
            return;
        }
        let mut todo = piece.sectors;
        let mut target = piece.target;
        while todo > 0 && !self.failed {
            let take = todo.min(self.in_bio());
            self.place(target, take);
            if self.short {
                return;
            }
            self.advance(take);
            if let Target::Device(_, sector) = &mut target {
                *sector += u64::from(take);
            }
            todo -= take;
        }
    }

    /// How many sectors there are from here to the end of the bio; at least one.
    fn in_bio(&self) -> u32 {
        // SAFETY: `left` is not 0 where this is called, so by the invariant `bio` is a bio of the
        // request.
        unsafe { sectors_of(self.bio) - self.skip }
    }

    /// Issues `take` sectors, which lie within the bio.
    fn place(&mut self, target: Target<'d>, take: u32) {
        match target {
            Target::Device(dev, sector) => self.issue(dev, sector, take),
            Target::Nowhere => self.zero(take),
            Target::Broken => {
                self.broken = true;
                self.failed = true;
            }
        }
    }

    /// Goes on by `take` sectors, which lie within the bio.
    fn advance(&mut self, take: u32) {
        self.left -= take;
        if take < self.in_bio() {
            self.skip += take;
        } else {
            self.skip = 0;
            // SAFETY: By the invariant `bio` is a bio of the request.
            self.bio = unsafe { (*self.bio).bi_next };
            // INVARIANT: The bios of a request make up its length; should they not, then nothing
            // of what is left can be placed.
            if self.bio.is_null() && self.left > 0 {
                self.failed = true;
            }
        }
    }

    fn zero(&mut self, take: u32) {
        // SAFETY: By the invariant `rq` is valid.
        let op = unsafe { (*self.rq).cmd_flags } & ffi::REQ_OP_MASK;
        if op != bindings::req_op_REQ_OP_READ {
            self.failed |= op != bindings::req_op_REQ_OP_WRITE;
            return;
        }
        // SAFETY: The stretch lies within the bio, whose pages belong to the request until it ends;
        // it is a read, so they may be written.
        unsafe { ffi::ub_bio_zero(self.bio, self.skip, take) };
    }

    fn issue(&mut self, dev: &'d BlockDevice, sector: u64, take: u32) {
        let part = ffi::Part {
            src: self.bio,
            bdev: dev.as_raw(),
            sector,
            skip: self.skip,
            sectors: take,
            set_opf: self.opf,
        };
        // SAFETY: By the invariant `rq` is a request of a `Disk<D>`.
        let pdu = unsafe { &*Pdu::of(self.rq) };

        let bio = if self.embedded == Embedded::Free {
            // SAFETY: The embedded bio is free, `part` lies within a bio of the request.
            if unsafe { ffi::ub_bio_init_clone(pdu.bio(), &part) } != 0 {
                self.failed = true;
                return;
            }
            if take == self.total {
                self.embedded = Embedded::Whole;
                return;
            }
            self.embedded = Embedded::Issued;
            pdu.bio()
        } else {
            // SAFETY: `part` lies within a bio of the request.
            unsafe { ffi::ub_bio_alloc_clone(&part) }
        };
        if bio.is_null() {
            self.short = true;
            return;
        }
        pdu.get();
        // SAFETY: The bio is initialised, ours, and counted, so that `end_counted` owns what its
        // safety requirements ask for. The device is open for as long as the request lives.
        unsafe {
            (*bio).bi_private = self.rq.cast();
            (*bio).bi_end_io = Some(end_counted::<D>);
            ffi::ub_bio_submit(bio);
        }
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
/// `rq` must fulfil the invariants of [`Request`], and no value may exist for it.
pub(super) unsafe fn submit<D, F>(rq: *mut bindings::request, fua: bool, plan: F)
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
    // INVARIANT: Nothing beyond the rounds before has been given a place, and the request is held.
    // SAFETY: The request is valid.
    let mut pieces = unsafe { Pieces::rest(rq, pdu.placed(), fua) };
    plan(&shared.driver, &mut pieces);

    let failed = pieces.failed || (pieces.left > 0 && !pieces.short);
    let whole = pieces.embedded == Embedded::Whole;
    // SAFETY: The request is valid.
    let all = unsafe { (*rq).__data_len >> ffi::SECTOR_SHIFT };
    pdu.set_placed(all - pieces.left);
    if whole && !failed {
        // SAFETY: The embedded bio was initialised for all that was left and nothing else was
        // issued, so that `end_whole` gets the request alone. Nobody touches it here any more.
        unsafe { issue_whole::<D>(rq, pdu.bio()) };
        return;
    }
    if whole {
        // SAFETY: Initialised above, never issued.
        unsafe { bindings::bio_uninit(pdu.bio()) };
    }
    if failed && !pieces.broken {
        pr_warn_once!("the pieces of a request do not cover it: it fails\n");
    }
    if failed {
        pdu.note(ffi::BLK_STS_IOERR);
    }
    if pdu.put() {
        let status = Status::from_raw(pdu.status());
        // SAFETY: The last count was ours, so no lower bio is left and the request is ours.
        unsafe { Request::<D>::complete(rq, status) };
    }
}

/// See [`Request::submit_flush`].
///
/// # Safety
///
/// `rq` must fulfil the invariants of [`Request`], and no value may exist for it.
pub(super) unsafe fn submit_flush<D, F>(rq: *mut bindings::request, dev: F)
where
    D: Driver,
    F: for<'d> FnOnce(&'d D) -> &'d BlockDevice,
{
    // SAFETY: The disk keeps its `Shared` until all of its requests have ended.
    let shared = unsafe { &*Shared::<D>::of(rq) };
    let dev = dev(&shared.driver).as_raw();
    // SAFETY: The request is a `Disk<D>`'s, as promised by the caller.
    let bio = unsafe { (*Pdu::of(rq)).bio() };

    // SAFETY: The embedded bio is free, as the request is ours; the device is open for as long as
    // the request lives. `end_whole` gets the request alone.
    unsafe {
        ffi::ub_bio_init_flush(bio, dev);
        issue_whole::<D>(rq, bio);
    }
}

/// Issues the embedded bio as the only one of its request.
///
/// # Safety
///
/// `bio` must be the embedded bio of `rq`, initialised for an open device. The caller gives up the
/// request.
unsafe fn issue_whole<D: Driver>(rq: *mut bindings::request, bio: *mut bindings::bio) {
    // SAFETY: Promised by the caller.
    unsafe {
        (*bio).bi_private = rq.cast();
        (*bio).bi_end_io = Some(end_whole::<D>);
        ffi::ub_bio_submit(bio);
    }
}

/// The only lower bio of a request has ended. Any context.
///
/// # Safety
///
/// `bio` must be the embedded bio of the request in its `bi_private`, which nobody else uses.
unsafe extern "C" fn end_whole<D: Driver>(bio: *mut bindings::bio) {
    // SAFETY: A bio that ends is ours. The embedded one has no other owner to give it back to.
    let (rq, status) = unsafe {
        let ended = ((*bio).bi_private.cast(), (*bio).bi_status);
        bindings::bio_uninit(bio);
        ended
    };

    // SAFETY: No other lower bio exists, so the request is ours.
    unsafe { Request::<D>::complete(rq, Status::from_raw(status)) };
}

/// One of several lower bios of a request has ended. Any context.
///
/// # Safety
///
/// `bio` must hold a count of the request in its `bi_private`, and be its embedded bio or come
/// from a bio set.
unsafe extern "C" fn end_counted<D: Driver>(bio: *mut bindings::bio) {
    // SAFETY: A bio that ends is ours, and its count keeps the request.
    let (rq, status) = unsafe { ((*bio).bi_private.cast(), (*bio).bi_status) };
    // SAFETY: As above.
    let pdu = unsafe { &*Pdu::of(rq) };

    pdu.note(status);
    if ptr::eq(bio, pdu.bio()) {
        // SAFETY: The embedded bio is used once per request, and ended.
        unsafe { bindings::bio_uninit(bio) };
    } else {
        // SAFETY: It came from the bio set, with one reference, ours.
        unsafe { bindings::bio_put(bio) };
    }
    if pdu.put() {
        let status = Status::from_raw(pdu.status());
        // SAFETY: The last count was ours, so no lower bio is left and the request is ours.
        unsafe { Request::<D>::complete(rq, status) };
    }
}
