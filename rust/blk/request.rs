// SPDX-License-Identifier: GPL-2.0

//! A request that the driver owns.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use super::{
    bio::Bio,
    ffi,
    pdu::{
        Pdu,
        SendAs, //
    },
};
use crate::sys::{
    atomic::AtomicU64,
    bug::warn_on_once, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::rcu, //
};

/// The status with which a request or a bio has ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlkStatus(pub(super) bindings::blk_status_t);

impl BlkStatus {
    /// Success.
    pub(crate) const OK: Self = Self(0);
    /// The device does not support the operation.
    pub(crate) const NOTSUPP: Self = Self(ffi::BLK_STS_NOTSUPP);
    /// There is no space left. The application sees ENOSPC.
    pub(crate) const NOSPC: Self = Self(ffi::BLK_STS_NOSPC);
    /// Any other error. The application sees EIO.
    pub(crate) const IOERR: Self = Self(ffi::BLK_STS_IOERR);

    pub(super) fn as_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// Returns whether the status is success.
    pub(crate) fn is_ok(self) -> bool {
        self == Self::OK
    }
}

impl From<Error> for BlkStatus {
    fn from(e: Error) -> Self {
        // SAFETY: `errno_to_blk_status()` is a pure function of its argument, an integer.
        Self(unsafe { bindings::errno_to_blk_status(e.to_errno()) })
    }
}

/// The operation of a request, a `REQ_OP_*`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReqOp {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make all writes that completed before durable. Has no sectors.
    Flush,
    /// Discard the content of the sectors.
    Discard,
    /// Zero the sectors.
    WriteZeroes,
    /// An operation that the disk does not offer.
    Other(u8),
}

/// A request that was started and has not ended, owned or not.
///
/// # Invariants
///
/// The pointer is to a request of a `GenDisk<D>`, started and not ended; its [`Pdu`] is
/// initialised.
pub(crate) struct Started<D>(NonNull<bindings::request>, PhantomData<fn(D)>);

// SAFETY: Any thread may access a request by the methods of this type, which do not end it, and the
// queue data that they return.
unsafe impl<D: Send + Sync> Send for Started<D> {}

// SAFETY: The methods on a shared reference only read, or are atomic, so any number of threads may
// call them at the same time.
unsafe impl<D: Send + Sync> Sync for Started<D> {}

impl<D> Started<D> {
    pub(super) fn as_raw(&self) -> *mut bindings::request {
        self.0.as_ptr()
    }

    pub(super) fn pdu(&self) -> &Pdu {
        // SAFETY: By the invariant the pointer is to a request of a `GenDisk<D>` with an
        // initialised `Pdu`, which lives as long as the request.
        unsafe { &*Pdu::of(self.as_raw()) }
    }

    /// Returns the first bio.
    pub(super) fn first_bio(&self) -> Option<Bio<'_>> {
        // SAFETY: By the invariant the request is started and not ended, so this field of it does
        // not change. It is null if the request has no bio.
        unsafe { Bio::from_raw((*self.as_raw()).bio) }
    }

    /// Returns the operation and its flags.
    fn opf(&self) -> u32 {
        // SAFETY: By the invariant the request is started and not ended, so this field of it does
        // not change.
        unsafe { (*self.as_raw()).cmd_flags }
    }

    /// Returns the operation.
    pub(crate) fn op(&self) -> ReqOp {
        match self.opf() & ffi::REQ_OP_MASK {
            bindings::req_op_REQ_OP_READ => ReqOp::Read,
            bindings::req_op_REQ_OP_WRITE => ReqOp::Write,
            bindings::req_op_REQ_OP_FLUSH => ReqOp::Flush,
            bindings::req_op_REQ_OP_DISCARD => ReqOp::Discard,
            bindings::req_op_REQ_OP_WRITE_ZEROES => ReqOp::WriteZeroes,
            // CAST: `other` is masked with `REQ_OP_MASK`, which is 0xff.
            other => ReqOp::Other(other as u8),
        }
    }

    /// Returns whether the write must be durable when it ends.
    pub(crate) fn is_fua(&self) -> bool {
        self.opf() & ffi::REQ_FUA != 0
    }

    /// Returns whether the request is read-ahead as a whole: no other read was merged with it.
    pub(crate) fn is_read_ahead(&self) -> bool {
        // SAFETY: By the invariant the request is started and not ended, so it exists. The read is
        // volatile, because a timeout may set another flag of this field concurrently. A started
        // request is not merged, so the flag that is looked at does not change.
        let state = unsafe { (&raw const (*self.as_raw()).rq_flags).read_volatile() };

        self.opf() & ffi::REQ_RAHEAD != 0 && state & ffi::RQF_MIXED_MERGE == 0
    }

    /// Returns the first sector. Returns 0 for a flush, for which the block layer sets the highest
    /// possible sector.
    pub(crate) fn sector(&self) -> u64 {
        if self.sectors() == 0 {
            return 0;
        }
        self.position()
    }

    /// Returns the first sector of a request that has sectors.
    fn position(&self) -> u64 {
        // SAFETY: By the invariant the request is started and not ended, so this field of it does
        // not change.
        unsafe { (*self.as_raw()).__sector }
    }

    /// Returns the length in sectors; 0 for a flush.
    pub(crate) fn sectors(&self) -> u32 {
        // SAFETY: By the invariant the request is started and not ended, so this field of it does
        // not change.
        unsafe { (*self.as_raw()).__data_len >> ffi::SECTOR_SHIFT }
    }

    /// Returns the driver's word, which stays with the request until the request ends; 0 at first.
    /// [`TagSet::any`](super::TagSet::any) reads it at any time, with an acquire.
    pub(crate) fn word(&self) -> &AtomicU64 {
        &self.pdu().word
    }

    /// Returns the sectors of a read or a write that were not submitted yet: first and count.
    /// Before the first [`Request::submit`], these are all sectors. Returns `None` if more sectors
    /// were submitted than the request has, which is a bug.
    pub(crate) fn rest(&self) -> Option<(u64, u32)> {
        let round_end = self.pdu().round_end();
        let sector = self.position().checked_add(u64::from(round_end))?;

        Some((sector, self.sectors().checked_sub(round_end)?))
    }

    /// Returns the number of sectors that were not submitted yet. Returns `None` if more sectors
    /// were submitted than the request has, which is a bug.
    #[inline]
    pub(crate) fn unsent(&self) -> Option<u32> {
        self.sectors().checked_sub(self.pdu().round_end())
    }

    /// Returns the sectors that the last [`Request::submit`] sent: first and count. Returns `None`
    /// if the last round ends before it starts, which is a bug.
    pub(crate) fn sent(&self) -> Option<(u64, u32)> {
        let (round_start, round_end) = (self.pdu().round_start(), self.pdu().round_end());
        let sector = self.position().checked_add(u64::from(round_start))?;

        Some((sector, round_end.checked_sub(round_start)?))
    }
}

/// A started request, owned.
///
/// ```text
///   block layer --queue()--> Request --submit()--> lower I/O --complete()--> Request
///                               |                                               |
///                               +------- end(), or resume() and requeue() ------+--> block layer
/// ```
///
/// A request that is dropped ends with an error, so that no request is lost.
///
/// # Invariants
///
/// The owner of the value owns the request: no lower I/O of it is under way, and no list holds it.
pub(crate) struct Request<D>(Started<D>);

impl<D> Deref for Request<D> {
    type Target = Started<D>;

    fn deref(&self) -> &Started<D> {
        &self.0
    }
}

impl<D> Request<D> {
    /// Takes ownership of a request.
    ///
    /// # Safety
    ///
    /// `rq` must fulfil the invariants of this type and of [`Started`], and no other value may
    /// exist for it.
    pub(super) unsafe fn from_raw(rq: *mut bindings::request) -> Self {
        // INVARIANT: By the contract of this function.
        // SAFETY: By the contract of this function `rq` points to a request, so it is not null.
        Self(Started(unsafe { NonNull::new_unchecked(rq) }, PhantomData))
    }

    /// Gives up ownership without ending the request.
    pub(super) fn into_started(self) -> Started<D> {
        // INVARIANT: The pointer is that of `self`, which is not dropped, so the request has not
        // ended.
        Started(ManuallyDrop::new(self).0 .0, PhantomData)
    }

    /// Gives up ownership without ending the request.
    pub(super) fn into_raw(self) -> *mut bindings::request {
        self.into_started().as_raw()
    }

    /// Sets the status with which those bios of the request that overlap a range end, if the
    /// request ends with [`BlkStatus::OK`]. Returns whether the request has bios without such a
    /// status.
    pub(crate) fn fail_bios(&mut self, sector: u64, sectors: u32, status: BlkStatus) -> bool {
        let rq = self.as_raw();

        // SAFETY: By the invariant the request is not ended and we own it, so its bios are valid.
        // It is borrowed exclusively, so no one else accesses them.
        unsafe { ffi::ub_request_fail_bios(rq, sector, sectors, status.0) }
    }

    /// Returns the sectors of the first bio that ends after `sector` and was not given an error
    /// status, without those before `sector`: first and count.
    pub(crate) fn next_bio(&self, sector: u64) -> Option<(u64, u32)> {
        let mut first = sector;
        // SAFETY: By the invariant the request is not ended and we own it, so its bios are valid.
        // The call only reads them, and only `fail_bios` writes to them, which needs the request
        // exclusively. `first` is a local value, borrowed for the call.
        let count = unsafe { ffi::ub_request_next_bio(self.as_raw(), &mut first) };

        (count > 0).then_some((first, count))
    }

    /// Ends the request. Any context.
    pub(crate) fn end(self, status: BlkStatus) {
        let rq = self.into_raw();

        // SAFETY: By the invariant the request is started and not ended, and we own it. No one
        // accesses it afterwards.
        unsafe { bindings::blk_mq_end_request(rq, status.0) };
    }

    /// Returns how lower I/O of the request is sent.
    #[inline]
    pub(crate) fn send_as(&self) -> SendAs {
        self.pdu().send_as()
    }

    /// Sets how lower I/O of the request is sent.
    #[inline]
    pub(crate) fn set_send_as(&self, send_as: SendAs) {
        self.pdu().set_send_as(send_as);
    }

    /// Returns whether no sector of the request was submitted yet.
    #[inline]
    pub(crate) fn is_new(&self) -> bool {
        self.pdu().round_end() == 0
    }

    /// Requeues the request: the block layer soon passes it to `Operations::queue` again. The
    /// request keeps the driver's word and the count of submitted sectors. Any context.
    pub(crate) fn requeue(self) {
        // Another thread may queue and end the request before the call below has returned. The
        // guard keeps the queue until it is dropped.
        let _guard = rcu::read_lock();
        let rq = self.into_raw();

        // SAFETY: By the invariant the request is started and not ended, and we own it.
        unsafe { bindings::blk_mq_requeue_request(rq, true) };
    }
}

impl<D> Drop for Request<D> {
    fn drop(&mut self) {
        // The driver must end each request.
        warn_on_once!(true);
        // SAFETY: By the invariant the request is started and not ended, and we own it. The value
        // is dropped, so no one accesses the request afterwards.
        unsafe { bindings::blk_mq_end_request(self.as_raw(), ffi::BLK_STS_IOERR) };
    }
}
