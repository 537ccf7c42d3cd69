// SPDX-License-Identifier: GPL-2.0

//! One lower I/O: a request of the lower queue, or a bio, for a stretch of an upper request.
//!
//! C headers: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h),
//! [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::{
    disk::Driver,
    ffi::{
        self,
        Part, //
    },
    lower::Way,
    pdu::Pdu,
    request::Request,
};
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// Sends a stretch, or the first part of it, that is not all of a request: how many sectors.
///
/// `EAGAIN` if that would have to wait. With an error nothing was sent.
///
/// # Safety
///
/// `rq` must be a started request of a `Disk<D>`, held by a count of its [`Pdu`], `part` a stretch of
/// it whose device is open as long as it lives, and `own` its embedded bio, free, or null. For
/// [`Way::Bios`] the stretch must lie in one bio.
pub(super) unsafe fn send_counted<D: Driver>(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    way: Way,
) -> Result<u32> {
    // SAFETY: The request is a `Disk<D>`'s.
    let pdu = unsafe { &*Pdu::of(rq) };

    // Before it is sent: it may end at once.
    pdu.get();
    let sent = match way {
        Way::Requests => {
            // SAFETY: Promised by the caller; `end_counted` owns a count.
            let sent = unsafe { ffi::ub_clone_send(rq, own, part, end_counted::<D>) };
            // CAST: At most `part.sectors`, or a negative error.
            to_result(sent.min(0)).map(|()| sent as u32)
        }
        // SAFETY: Promised by the caller; `end_counted` owns a count.
        Way::Bios => unsafe { submit_bio(rq, own, part, end_counted::<D>) },
    };
    if sent.is_err() {
        // Never the last: the caller has one.
        let _ = pdu.put();
    }
    sent
}

/// Sends all that is left of a request, which [`Request::complete`] gets back when it has ended.
///
/// `EAGAIN` if that would have to wait, `E2BIG` if it is more than one lower I/O. With an error
/// nothing was sent, and the request is the caller's again.
///
/// # Safety
///
/// As for [`send_counted`], `own` not null, and `part` all that is left. No other lower I/O of the
/// request may be under way, and the caller gives it up.
pub(super) unsafe fn send_whole<D: Driver>(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    way: Way,
) -> Result {
    match way {
        Way::Requests => {
            // SAFETY: Promised by the caller; `end_whole` gets the request alone.
            let sent = unsafe { ffi::ub_clone_send(rq, own, part, end_whole::<D>) };
            to_result(sent.min(0))
        }
        Way::Bios => {
            // SAFETY: Promised by the caller; `end_whole` gets the request alone.
            unsafe { submit_bio(rq, own, part, end_whole::<D>) }.map(|_| ())
        }
    }
}

/// Sends a request, of which nothing was sent before, as one lower request, which
/// [`Request::complete`] gets back when it has ended. Errors as for [`send_whole`]; `E2BIG` also if it
/// has more than one bio.
///
/// # Safety
///
/// `rq` must be a started request of a `Disk<D>`, of which no lower I/O is under way, and `bdev` open
/// as long as it lives. The caller gives the request up.
#[inline]
pub(super) unsafe fn send_at_once<D: Driver>(
    rq: *mut bindings::request,
    bdev: *mut bindings::block_device,
    sector: u64,
) -> Result {
    // SAFETY: Promised by the caller, so that the embedded bio is free; `end_whole` gets the request
    // alone.
    let sent = unsafe {
        let own = (*Pdu::of(rq)).bio();
        ffi::ub_clone_whole(rq, own, bdev, sector, end_whole::<D>)
    };
    if sent > 0 {
        return Ok(());
    }
    Err(Error::from_errno(sent))
}

/// Submits a bio for a stretch. May wait for the lower device.
///
/// # Safety
///
/// As for [`send_counted`]; `end_io` must own what its safety requirements ask for.
unsafe fn submit_bio(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    end_io: unsafe extern "C" fn(*mut bindings::bio),
) -> Result<u32> {
    // SAFETY: Promised by the caller.
    unsafe {
        if part.sectors != ((*part.src).bi_iter.bi_size >> ffi::SECTOR_SHIFT) - part.skip
            && part.whole
        {
            return Err(E2BIG);
        }
        let bio = ffi::ub_bio_part(rq, own, part);
        if bio.is_null() {
            return Err(EAGAIN);
        }
        (*bio).bi_private = rq.cast();
        (*bio).bi_end_io = Some(end_io);
        bindings::submit_bio_noacct(bio);
    }
    Ok(part.sectors)
}

/// Gives back the count of a lower I/O that has ended.
///
/// # Safety
///
/// `rq` must be a request of a `Disk<D>`, of which the caller holds a count.
unsafe fn put<D: Driver>(rq: *mut bindings::request, status: bindings::blk_status_t) {
    // SAFETY: Promised by the caller.
    let pdu = unsafe { &*Pdu::of(rq) };

    pdu.note(status);
    if pdu.put() {
        // SAFETY: The last count was ours, so no lower I/O is left and the request is ours.
        unsafe { Request::<D>::from_raw(rq) }.complete(pdu.status());
    }
}

/// The only lower I/O of a request has ended. Any context.
///
/// # Safety
///
/// `bio` must be the embedded bio of the request in its `bi_private`, which nobody else uses.
unsafe extern "C" fn end_whole<D: Driver>(bio: *mut bindings::bio) {
    // SAFETY: A bio that ends is ours. The embedded one has no other owner to give it back to. No
    // other lower I/O exists, so the request is ours.
    unsafe {
        let (rq, status) = ((*bio).bi_private.cast(), (*bio).bi_status);
        bindings::bio_uninit(bio);
        Request::<D>::from_raw(rq).complete(status);
    }
}

/// One of several lower I/Os of a request has ended, with its first bio. Any context.
///
/// # Safety
///
/// `bio` must hold a count of the request in its `bi_private`, and be its embedded bio or come
/// from a bio set.
unsafe extern "C" fn end_counted<D: Driver>(bio: *mut bindings::bio) {
    // SAFETY: A bio that ends is ours, and its count keeps the request.
    unsafe {
        let (rq, status): (*mut bindings::request, _) =
            ((*bio).bi_private.cast(), (*bio).bi_status);
        if ptr::eq(bio, (*Pdu::of(rq)).bio()) {
            bindings::bio_uninit(bio);
        } else {
            bindings::bio_put(bio);
        }
        put::<D>(rq, status);
    }
}
