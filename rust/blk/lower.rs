// SPDX-License-Identifier: GPL-2.0

//! One lower I/O: how it is sent, and how its end reaches the upper request.
//!
//! A lower I/O is sent in one of two ways. As a *request* of the lower queue, it never waits. As a
//! *bio*, it may wait, so only a worker sends bios.
//!
//! Most requests are sent as a whole by [`Request::submit_at_once`]. Then no lower I/O is counted,
//! and the only lower bio is the one that is embedded in the private data of the request.
//! [`super::pieces`] sends all other requests.
//!
//! C headers: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h),
//! [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::{
    bdev::BlockDevice,
    ffi::{
        self,
        EndIo,
        RequestRange, //
    },
    operations::Operations,
    pdu::{
        Pdu,
        SendAs, //
    },
    request::{
        BlkStatus, //
        Request,
    },
};
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::rcu, //
};

/// The result of an attempt to send a request as a whole.
pub(crate) enum Sent<D: Operations> {
    /// The request is under way, or has ended.
    Whole,
    /// Sending would have to wait. Nothing was sent.
    Busy(Request<D>),
    /// The request does not fit one lower I/O. Nothing was sent.
    Unfit(Request<D>),
}

impl<D: Operations> Request<D> {
    /// Sends a request, of which nothing was sent before, as one lower request to the device and
    /// sector that `locate` returns, if the request fits one. It does not if it has more than one
    /// bio, an encryption context or integrity data, or if there is no such sector.
    ///
    /// In all other respects like [`Request::submit`] with [`SendAs::Requests`].
    #[inline(always)]
    pub(crate) fn submit_at_once<F>(self, locate: F) -> Sent<D>
    where
        F: for<'d> FnOnce(&'d D) -> Option<(&'d BlockDevice, u64)>,
    {
        let Some((dev, sector)) = locate(self.queue_data()) else {
            return Sent::Unfit(self);
        };
        let bdev = dev.as_raw();
        self.pdu().set_round(0, self.sectors());
        let own = self.pdu().bio();
        let raw = self.into_raw();
        // SAFETY: By the invariants of `Request` the request is started, and no lower I/O of it is
        // under way, so that the embedded bio is free. The device belongs to the queue data, which
        // keeps it open as long as the disk's requests live. `end_whole` gets sole ownership of
        // the request.
        let sent = unsafe { ffi::ub_clone_whole(raw, own, bdev, sector, end_whole::<D>) };
        if sent == 0 {
            return Sent::Whole;
        }
        // SAFETY: `raw` came from `into_raw` above. Nothing was sent, so `end_whole` did not get
        // the request, and no other value exists for it.
        unsafe { Request::from_raw(raw) }.unsent_whole(Error::from_errno(sent))
    }

    /// Handles a request that could not be sent as a whole because of an error.
    #[cold]
    fn unsent_whole(self, e: Error) -> Sent<D> {
        match e {
            EAGAIN | E2BIG => {
                self.pdu().set_round(0, 0);
                if e == EAGAIN {
                    Sent::Busy(self)
                } else {
                    Sent::Unfit(self)
                }
            }
            e => {
                self.complete(BlkStatus::from(e).as_raw());
                Sent::Whole
            }
        }
    }
}

/// Sends a range of a request, or the first sectors of it, as one lower I/O, and returns the
/// number of sectors sent. If `range.whole`, sends all of the range or nothing.
///
/// Returns `EAGAIN` if it would have to wait, and `E2BIG` if all of the range does not fit one
/// lower I/O or there is memory for only some of its bios. If an error is returned, nothing was
/// sent.
///
/// # Safety
///
/// - `rq` must be a started request of a `GenDisk<D>` that does not end during the call, unless
///   `end_io` ends it.
/// - `range` must be a range of `rq` that is not empty, and its device must be open as long as `rq`
///   lives. For [`SendAs::Bios`] without `range.whole` the range must lie in one bio.
/// - `own` must be the embedded bio of `rq`, and free, or null.
/// - `end_io` must be [`end_whole`] or [`end_counted`], and the caller must give up what it owns.
pub(super) unsafe fn send(
    rq: *mut bindings::request,
    own: *mut bindings::bio,
    range: &RequestRange,
    send_as: SendAs,
    end_io: EndIo,
) -> Result<u32> {
    // SAFETY: By the contract of this function, which is that of both functions.
    let sent = unsafe {
        match send_as {
            SendAs::Requests => ffi::ub_clone_send(rq, own, range, end_io),
            SendAs::Bios => ffi::ub_bio_send(rq, own, range, end_io),
        }
    };
    // CAST: `sent` is not negative here, and at most `range.sectors`.
    to_result(sent.min(0)).map(|()| sent as u32)
}

/// Completes a request whose only lower I/O has ended. Any context.
///
/// # Safety
///
/// `bio` must be the embedded bio of the request in its `bi_private`, a request of a `GenDisk<D>`.
/// The call owns both.
pub(super) unsafe extern "C" fn end_whole<D: Operations>(bio: *mut bindings::bio) {
    // SAFETY: By the contract of this function we own a bio that has ended. It is the embedded one,
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
/// `bio` must be the embedded bio of the request in its `bi_private`, a request of a `GenDisk<D>`,
/// or come from a bio set. The call owns the bio and a count of the request.
pub(super) unsafe extern "C" fn end_counted<D: Operations>(bio: *mut bindings::bio) {
    // SAFETY: By the contract of this function we own a bio that has ended, and a count of the
    // request, which therefore has not ended. By the invariant of `TagSet` a `Pdu` follows it. If
    // the count was the last one, no lower I/O is left, and we own the request.
    unsafe {
        let (rq, status): (*mut bindings::request, _) =
            ((*bio).bi_private.cast(), (*bio).bi_status);
        let pdu = &*Pdu::of(rq);
        if ptr::eq(bio, pdu.bio()) {
            bindings::bio_uninit(bio);
        } else {
            bindings::bio_put(bio);
        }
        pdu.note(status);
        if pdu.put() {
            Request::<D>::from_raw(rq).complete(pdu.status());
        }
    }
}

impl<D: Operations> Request<D> {
    /// Lets the driver decide what happens to the request after the lower I/O of this round has
    /// ended: it ends, or it continues. Any context.
    #[inline(always)]
    pub(super) fn complete(self, status: bindings::blk_status_t) {
        // The driver borrows the request, which therefore does not end and keeps the queue data.
        // So this needs no RCU.
        match D::complete(self.borrow_queue_data(), &self, BlkStatus(status)) {
            // This calls the end of the upper bios, which may sleep if the context permits it. So
            // it must not run under RCU.
            Some(status) => self.end(status),
            None => self.resume(),
        }
    }

    /// Passes a request that continues back to the driver. Any context.
    #[cold]
    fn resume(self) {
        // The driver may hand the request to another thread, which ends it, and continue to use the
        // queue data.
        let guard = rcu::read_lock();

        D::resume(self.queue_data_under(&guard), self);
    }
}
