// SPDX-License-Identifier: GPL-2.0

//! One lower I/O: a request of the lower queue, or a bio, for a range of an upper request.
//!
//! C headers: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h),
//! [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::{
    ffi::{
        self,
        Part, //
    },
    gen_disk::Operations,
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

/// Sends a range of a request, or the first part of the range, as a lower I/O that holds a count of
/// the request, and returns the number of sectors sent.
///
/// Returns `EAGAIN` if it would have to wait. If an error is returned, nothing was sent.
///
/// # Safety
///
/// - `rq` must be a started request of a `GenDisk<D>`, held by a count of its [`Pdu`].
/// - `part` must be a range of `rq`, and its device must be open as long as `rq` lives.
/// - `own` must be the embedded bio of `rq`, and free, or null.
/// - For [`Way::Bios`] the range must lie in one bio.
pub(super) unsafe fn send_counted<D: Operations>(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    way: Way,
) -> Result<u32> {
    // SAFETY: By the contract of this function `rq` is a request of a `GenDisk<D>`, so by the
    // invariant of `TagSet` a `Pdu` follows it; the caller's count keeps the request.
    let pdu = unsafe { &*Pdu::of(rq) };

    // Take the count before the lower I/O is sent, because it may end at once.
    pdu.get();
    let sent = match way {
        Way::Requests => {
            // SAFETY: By the contract of this function. `end_counted` owns the count taken above.
            let sent = unsafe { ffi::ub_clone_send(rq, own, part, end_counted::<D>) };
            // CAST: `sent` is not negative here, and at most `part.sectors`.
            to_result(sent.min(0)).map(|()| sent as u32)
        }
        // SAFETY: By the contract of this function. `end_counted` owns the count taken above.
        Way::Bios => unsafe { submit_bio(rq, own, part, end_counted::<D>) },
    };
    if sent.is_err() {
        // This is never the last count, because the caller holds one.
        let _ = pdu.put();
    }
    sent
}

/// Sends the rest of a request as one lower I/O. When it has ended, [`Request::complete`] gets the
/// request back.
///
/// Returns `EAGAIN` if it would have to wait, and `E2BIG` if the rest does not fit one lower I/O or
/// there is memory for only some of its bios. If any error is returned, nothing was sent, and the
/// caller owns the request again.
///
/// # Safety
///
/// As for [`send_counted`]. In addition, `own` must not be null, `part` must be the whole rest of
/// the request, no other lower I/O of the request may be under way, and the caller must give up the
/// request.
pub(super) unsafe fn send_whole<D: Operations>(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    way: Way,
) -> Result {
    match way {
        Way::Requests => {
            // SAFETY: By the contract of this function. `end_whole` gets sole ownership of `rq`.
            let sent = unsafe { ffi::ub_clone_send(rq, own, part, end_whole::<D>) };
            to_result(sent.min(0))
        }
        Way::Bios => {
            // SAFETY: By the contract of this function. `end_whole` gets sole ownership of `rq`.
            unsafe { submit_bio(rq, own, part, end_whole::<D>) }.map(|_| ())
        }
    }
}

/// Sends a request, of which nothing was sent before, as one lower request. When it has ended,
/// [`Request::complete`] gets the request back.
///
/// Returns errors as [`send_whole`] does, and `E2BIG` also if the request has more than one bio, an
/// encryption context or integrity data.
///
/// # Safety
///
/// `rq` must be a started request of a `GenDisk<D>`, of which no lower I/O is under way. `bdev`
/// must be open as long as `rq` lives. The caller must give up the request.
#[inline]
pub(super) unsafe fn send_at_once<D: Operations>(
    rq: *mut bindings::request,
    bdev: *mut bindings::block_device,
    sector: u64,
) -> Result {
    // SAFETY: By the contract of this function no lower I/O is under way, so the embedded bio is
    // free. `end_whole` gets sole ownership of `rq`.
    let sent = unsafe {
        let own = (*Pdu::of(rq)).bio();
        ffi::ub_clone_whole(rq, own, bdev, sector, end_whole::<D>)
    };
    if sent > 0 {
        return Ok(());
    }
    Err(Error::from_errno(sent))
}

/// Submits a bio for a range, and returns the number of sectors. May wait for the lower device.
///
/// # Safety
///
/// As for [`send_counted`]. `end_io` must own what its safety requirements ask for.
unsafe fn submit_bio(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    part: &Part,
    end_io: unsafe extern "C" fn(*mut bindings::bio),
) -> Result<u32> {
    // SAFETY: By the contract of this function `part` is a range of `rq`, its device is open, and
    // `own` is free or null. `ub_bio_part()` returns a bio that only this function uses until it is
    // submitted, and `end_io` owns what it needs.
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

/// Puts the count of a lower I/O that has ended.
///
/// # Safety
///
/// `rq` must be a request of a `GenDisk<D>`, of which the caller holds a count.
unsafe fn put<D: Operations>(rq: *mut bindings::request, status: bindings::blk_status_t) {
    // SAFETY: By the contract of this function `rq` is a request of a `GenDisk<D>`, so by the
    // invariant of `TagSet` a `Pdu` follows it; the caller's count keeps the request.
    let pdu = unsafe { &*Pdu::of(rq) };

    pdu.note(status);
    if pdu.put() {
        // SAFETY: This was the last count, so no lower I/O is left, and we own the request.
        unsafe { Request::<D>::from_raw(rq) }.complete(pdu.status());
    }
}

/// Completes a request whose only lower I/O has ended. Any context.
///
/// # Safety
///
/// `bio` must be the embedded bio of the request in its `bi_private`, and no one else may use the
/// bio or the request.
unsafe extern "C" fn end_whole<D: Operations>(bio: *mut bindings::bio) {
    // SAFETY: We own a bio that has ended. By the contract of this function it is the embedded one,
    // which is not given back to an allocator. No other lower I/O exists, so we own the request.
    unsafe {
        let (rq, status) = ((*bio).bi_private.cast(), (*bio).bi_status);
        bindings::bio_uninit(bio);
        Request::<D>::from_raw(rq).complete(status);
    }
}

/// Ends one of several lower I/Os of a request; `bio` is its first bio. Any context.
///
/// # Safety
///
/// `bio` must hold a count of the request in its `bi_private`, and be its embedded bio or come
/// from a bio set.
unsafe extern "C" fn end_counted<D: Operations>(bio: *mut bindings::bio) {
    // SAFETY: We own a bio that has ended. By the contract of this function it holds a count, which
    // keeps the request.
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
