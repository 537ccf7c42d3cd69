// SPDX-License-Identifier: GPL-2.0

//! A request that the driver owns.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    bdev::BlockDevice,
    disk::{
        Driver,
        Shared, //
    },
    ffi,
    lower::{
        self,
        Pieces,
        Sent,
        Way, //
    },
    pdu::Pdu, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    pr_warn_once,
    prelude::*,
    sync::rcu, //
};

/// How a request or a bio ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status(bindings::blk_status_t);

impl Status {
    /// It worked.
    pub(crate) const OK: Self = Self(0);
    /// The device cannot do that.
    pub(crate) const NOTSUPP: Self = Self(ffi::BLK_STS_NOTSUPP);
    /// No space where there had to be some: ENOSPC to the application.
    pub(crate) const NOSPC: Self = Self(ffi::BLK_STS_NOSPC);
    /// Anything else: EIO to the application.
    pub(crate) const IOERR: Self = Self(ffi::BLK_STS_IOERR);

    pub(super) fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// Whether it worked.
    pub(crate) fn is_ok(self) -> bool {
        self == Self::OK
    }
}

impl From<Error> for Status {
    fn from(e: Error) -> Self {
        // SAFETY: A pure function of its argument.
        Self(unsafe { bindings::errno_to_blk_status(e.to_errno()) })
    }
}

/// What a request asks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make all that completed before durable. Carries no sectors.
    Flush,
    /// The content is of no use any more.
    Discard,
    /// Zero the sectors.
    WriteZeroes,
    /// Something that no driver here asked for.
    Other(u8),
}

/// A started request, owned.
///
/// ```text
///   block layer --queue()--> Request --submit()--> lower I/O --complete()--> Request
///                               |                                               |
///                               +------------ end(), or again() ----------------+--> block layer
/// ```
///
/// One that is dropped ends with an error: a request is never lost.
///
/// # Invariants
///
/// - The pointer is to a request of a `Disk<D>`, started and not ended; its [`Pdu`] is initialised.
/// - Whoever has the value owns the request: no lower I/O of it is under way, no list holds it.
pub(crate) struct Request<D: Driver>(NonNull<bindings::request>, PhantomData<fn(D)>);

// SAFETY: A request may be worked on and ended by any thread, one at a time.
unsafe impl<D: Driver> Send for Request<D> {}

// SAFETY: The methods on a shared reference only read, or are atomic.
unsafe impl<D: Driver> Sync for Request<D> {}

impl<D: Driver> Request<D> {
    /// Takes ownership of a request.
    ///
    /// # Safety
    ///
    /// `rq` must fulfil the invariants of the type, and no other value may exist for it.
    pub(super) unsafe fn from_raw(rq: *mut bindings::request) -> Self {
        // INVARIANT: Promised by the caller.
        // SAFETY: By the same promise it is not null.
        Self(unsafe { NonNull::new_unchecked(rq) }, PhantomData)
    }

    /// Gives up ownership without ending the request.
    pub(super) fn into_raw(self) -> *mut bindings::request {
        ManuallyDrop::new(self).0.as_ptr()
    }

    pub(super) fn pdu(&self) -> &Pdu {
        // SAFETY: By the invariant it is a request of a `Disk<D>` with an initialised `Pdu`, which
        // lives as long as the request.
        unsafe { &*Pdu::of(self.0.as_ptr()) }
    }

    /// What the request asks for.
    pub(crate) fn op(&self) -> Op {
        // SAFETY: By the invariant the request is valid and does not change.
        let op = unsafe { (*self.0.as_ptr()).cmd_flags } & ffi::REQ_OP_MASK;
        match op {
            bindings::req_op_REQ_OP_READ => Op::Read,
            bindings::req_op_REQ_OP_WRITE => Op::Write,
            bindings::req_op_REQ_OP_FLUSH => Op::Flush,
            bindings::req_op_REQ_OP_DISCARD => Op::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => Op::WriteZeroes,
            // CAST: masked with 0xff.
            other => Op::Other(other as u8),
        }
    }

    /// Whether the write must be durable when it ends.
    pub(crate) fn is_fua(&self) -> bool {
        // SAFETY: By the invariant the request is valid and does not change.
        unsafe { (*self.0.as_ptr()).cmd_flags & ffi::REQ_FUA != 0 }
    }

    /// Where it starts; 0 for a flush, which the block layer leaves at the highest of numbers.
    pub(crate) fn sector(&self) -> u64 {
        if self.sectors() == 0 {
            return 0;
        }
        // SAFETY: By the invariant the request is valid and does not change.
        unsafe { (*self.0.as_ptr()).__sector }
    }

    /// How long it is; 0 for a flush.
    pub(crate) fn sectors(&self) -> u32 {
        // SAFETY: By the invariant the request is valid and does not change.
        unsafe { (*self.0.as_ptr()).__data_len >> ffi::SECTOR_SHIFT }
    }

    /// The sectors that were not given a place yet: first and count. All of them, before
    /// [`Request::submit`].
    pub(crate) fn rest(&self) -> (u64, u32) {
        let placed = self.pdu().placed();
        let sector = self.sector().saturating_add(u64::from(placed));

        (sector, self.sectors().saturating_sub(placed))
    }

    /// The sectors that were given a place by the last [`Request::submit`]: first and count.
    pub(crate) fn part(&self) -> (u64, u32) {
        let (begun, placed) = (self.pdu().begun(), self.pdu().placed());
        let sector = self.sector().saturating_add(u64::from(begun));

        (sector, placed.saturating_sub(begun))
    }

    /// A word of the driver's own that stays with the request until it ends; 0 at first.
    pub(crate) fn cookie(&self) -> u64 {
        self.pdu().cookie()
    }

    /// Sets the driver's word.
    pub(crate) fn set_cookie(&self, cookie: u64) {
        self.pdu().set_cookie(cookie);
    }

    /// Sets the driver's word; a full barrier.
    pub(crate) fn swap_cookie(&self, cookie: u64) {
        self.pdu().swap_cookie(cookie);
    }

    /// Sets the driver's word; whoever sees it by [`Tags::any`](super::Tags::any) sees what was
    /// done before.
    pub(crate) fn release_cookie(&self, cookie: u64) {
        self.pdu().release_cookie(cookie);
    }

    /// Ends the request. Any context.
    pub(crate) fn end(self, status: Status) {
        let rq = self.into_raw();

        // SAFETY: By the invariant the request is started, not ended, and ours to end; nothing
        // touches it afterwards.
        unsafe { bindings::blk_mq_end_request(rq, status.0) };
    }

    /// Sends the request down in pieces; [`Driver::complete`] gets it back when all of them ended.
    ///
    /// `plan` names the pieces of [`Request::rest`] in order. They must cover it exactly; if they do
    /// not, none of them reaches beyond it, and the request completes with [`Status::IOERR`] once
    /// what was sent has ended. `fua` makes each lower write durable by itself, if its device has
    /// FUA.
    ///
    /// Where the way down would wait, the request completes with a rest: it is to come [`again`].
    /// If not even a part could be sent, it comes back at once, as the error.
    ///
    /// The driver is handed to `plan` for as long as the request lives, and the lower devices must
    /// come from there: so they stay open until the last lower I/O has ended.
    ///
    /// Context: process; for [`Way::Requests`] it may sleep only if a device below
    /// [`may`](super::BlockDevice::may_sleep), for [`Way::Bios`] it may wait.
    ///
    /// [`again`]: Request::again
    pub(crate) fn submit<F>(self, fua: bool, plan: F) -> core::result::Result<(), Self>
    where
        F: for<'d> FnOnce(&'d D, &mut Pieces<'d, D>),
    {
        let way = self.way();
        let rq = self.into_raw();

        // SAFETY: By the invariant of `Request` the request was ours alone, and `into_raw` handed
        // it on.
        unsafe { lower::submit(rq, way, fua, plan) }
    }

    /// Sends a request, of which nothing was sent before, to one place, as one lower request, if it is
    /// fit for that: `sector` of the device that `dev` picks. Otherwise as [`Request::submit`], by
    /// [`Way::Requests`].
    #[inline]
    pub(crate) fn submit_at_once<F>(self, sector: u64, dev: F) -> Sent<D>
    where
        F: for<'d> FnOnce(&'d D) -> &'d BlockDevice,
    {
        let rq = self.into_raw();

        // SAFETY: As above.
        unsafe { lower::submit_at_once(rq, sector, dev) }
    }

    /// How its lower I/O is sent.
    #[inline]
    pub(crate) fn way(&self) -> Way {
        if self.pdu().may_wait() {
            Way::Bios
        } else {
            Way::Requests
        }
    }

    /// Decides how its lower I/O is sent.
    #[inline]
    pub(crate) fn set_way(&self, way: Way) {
        self.pdu().set_may_wait(way == Way::Bios);
    }

    /// Whether nothing of it was given a place before.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.pdu().placed() == 0
    }

    /// Gives the request back to the block layer, which soon hands it to [`Driver::queue`] again. It
    /// keeps its word, and what was placed of it. Any context.
    pub(crate) fn again(self) {
        // Somebody else may hand it over and end it before the call below has returned; the queue stays
        // until the guard is dropped.
        let _guard = rcu::read_lock();
        let rq = self.into_raw();

        // SAFETY: By the invariant the request is started, not ended, and ours.
        unsafe { bindings::blk_mq_requeue_request(rq, true) };
    }

    /// Hands the request back to the driver: the lower I/O of this round has ended. Any context.
    pub(super) fn complete(self, status: bindings::blk_status_t) {
        // The driver may end the request and go on using itself; `Disk::drop` waits for readers
        // before it lets go of the driver.
        let _guard = rcu::read_lock();
        // SAFETY: The request is not ended, so the disk holds its `Shared`; if it ends now, the RCU
        // read side keeps it until the guard is dropped.
        let shared = unsafe { &*Shared::<D>::of(self.0.as_ptr()) };

        D::complete(shared.driver(), self, Status(status));
    }
}

impl<D: Driver> Drop for Request<D> {
    fn drop(&mut self) {
        pr_warn_once!("a request was dropped before its end: it fails\n");
        // SAFETY: By the invariant the request is started, not ended, and ours to end; as the
        // value goes away, nothing touches it afterwards.
        unsafe { bindings::blk_mq_end_request(self.0.as_ptr(), ffi::BLK_STS_IOERR) };
    }
}
