// SPDX-License-Identifier: GPL-2.0

//! A request while its lower I/O is being sent, and the sectors of it that its bios hold.

use super::{
    ffi,
    gen_disk::{
        Operations,
        QueueData, //
    },
    pdu::Pdu,
    request::Request, //
};
use core::marker::PhantomData;
use kernel::bindings;

/// A request while its lower I/O is being sent: it cannot end before [`Held::put`].
///
/// # Invariants
///
/// The pointer is to a started request of a `GenDisk<D>` with an initialised [`Pdu`]. The value
/// owns the sender's count of it, or owns the request.
#[must_use = "a request that is held and forgotten never ends"]
pub(super) struct Held<D: Operations> {
    rq: *mut bindings::request,
    _driver: PhantomData<fn(D)>,
}

impl<D: Operations> Held<D> {
    /// Takes the sender's count of a request.
    pub(super) fn new(rq: Request<D>) -> Self {
        rq.pdu().hold();
        // INVARIANT: By the invariants of `Request`; the count was taken above.
        Self {
            rq: rq.into_raw(),
            _driver: PhantomData,
        }
    }

    /// Takes back what [`Held::into_raw`] gave up.
    ///
    /// # Safety
    ///
    /// `rq` must come from [`Held::into_raw`], and nothing that was sent since may own it.
    pub(super) unsafe fn from_raw(rq: *mut bindings::request) -> Self {
        // INVARIANT: By the contract of this function.
        Self {
            rq,
            _driver: PhantomData,
        }
    }

    /// Gives up the request without ending it.
    pub(super) fn into_raw(self) -> *mut bindings::request {
        self.rq
    }

    pub(super) fn as_raw(&self) -> *mut bindings::request {
        self.rq
    }

    fn pdu(&self) -> &Pdu {
        // SAFETY: By the invariant the request has an initialised `Pdu`, and does not end while the
        // value exists.
        unsafe { &*Pdu::of(self.rq) }
    }

    /// Returns the embedded bio.
    pub(super) fn own_bio(&self) -> *mut bindings::bio {
        self.pdu().bio()
    }

    /// Returns the number of sectors that were given a place.
    pub(super) fn placed(&self) -> u32 {
        self.pdu().placed()
    }

    /// Begins a round that gives a place to the sectors from `begun` to `placed`.
    pub(super) fn set_round(&self, begun: u32, placed: u32) {
        self.pdu().set_round(begun, placed);
    }

    /// Records the status of lower I/O. The first error stays.
    pub(super) fn note(&self, status: bindings::blk_status_t) {
        self.pdu().note(status);
    }

    /// Returns the driver of the request's disk.
    pub(super) fn driver(&self) -> &D {
        // SAFETY: By the invariant the request does not end while the value exists, and the disk
        // keeps its `QueueData` until all of its requests have ended.
        unsafe { &(*QueueData::of(self.rq)).driver }
    }

    /// Returns the length of the request, in sectors.
    pub(super) fn sectors(&self) -> u32 {
        // SAFETY: By the invariant the request is started and does not end, so its fields may be
        // read.
        unsafe { (*self.rq).__data_len >> ffi::SECTOR_SHIFT }
    }

    fn op(&self) -> u32 {
        // SAFETY: By the invariant the request is started and does not end, so its fields may be
        // read.
        unsafe { (*self.rq).cmd_flags & ffi::REQ_OP_MASK }
    }

    pub(super) fn is_read(&self) -> bool {
        self.op() == bindings::req_op_REQ_OP_READ
    }

    pub(super) fn is_write(&self) -> bool {
        self.op() == bindings::req_op_REQ_OP_WRITE
    }

    /// Puts the sender's count. Returns the request if no lower I/O of it is left.
    pub(super) fn put(self) -> Option<Request<D>> {
        if !self.pdu().put() {
            return None;
        }
        // SAFETY: This was the last count, so no lower I/O is left, and we own the request.
        Some(unsafe { Request::from_raw(self.rq) })
    }
}

/// A sector of a request, and how many sectors follow it.
///
/// # Invariants
///
/// If `left` is not 0, the sector lies in `bio`, a bio of the request, `skip` sectors into it, and
/// `skip` is less than the length of `bio`. The request does not end while the value exists.
pub(super) struct Cursor<'r> {
    bio: *mut bindings::bio,
    skip: u32,
    left: u32,
    /// Whether the request is a read.
    read: bool,
    _request: PhantomData<&'r bindings::request>,
}

impl<'r> Cursor<'r> {
    /// Returns the sector of a request after the first `placed`.
    pub(super) fn new<D: Operations>(held: &'r Held<D>, placed: u32) -> Self {
        // SAFETY: By the invariant of `Held` the request is started, so its fields may be read.
        let bio = unsafe { (*held.as_raw()).bio };
        let left = if bio.is_null() { 0 } else { held.sectors() };
        // INVARIANT: The first sector of a request lies at the start of its first bio, which is not
        // empty.
        let mut cursor = Self {
            bio,
            skip: 0,
            left,
            read: held.is_read(),
            _request: PhantomData,
        };
        let _ = cursor.advance(placed);
        cursor
    }

    /// Returns how many sectors are left, the current one included.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Returns the bio that holds the current sector, and where in it the sector lies.
    pub(super) fn bio(&self) -> (*mut bindings::bio, u32) {
        (self.bio, self.skip)
    }

    /// Returns the number of sectors from the current one to the end of its bio; 0 at the end of
    /// the request.
    pub(super) fn in_bio(&self) -> u32 {
        if self.left == 0 {
            return 0;
        }
        // SAFETY: By the invariant `bio` is a bio of the request, because sectors are left. This
        // copies the field, because the iterator is packed.
        let sectors = unsafe { (*self.bio).bi_iter.bi_size >> ffi::SECTOR_SHIFT };
        sectors - self.skip
    }

    /// Advances by `n` sectors, or to the end of the request. Returns whether the bios hold as many
    /// sectors as the request has.
    pub(super) fn advance(&mut self, n: u32) -> bool {
        let mut n = n.min(self.left);
        while n > 0 {
            let here = self.in_bio();
            let take = n.min(here);
            n -= take;
            if take < here {
                self.skip += take;
                self.left -= take;
                return true;
            }
            // SAFETY: By the invariant `bio` is a bio of the request, because sectors are left.
            let next = unsafe { (*self.bio).bi_next };
            // INVARIANT: The next sector lies at the start of the next bio. If there is none,
            // nothing is left.
            self.bio = next;
            self.skip = 0;
            self.left -= take;
            if next.is_null() && self.left > 0 {
                self.left = 0;
                return false;
            }
        }
        true
    }

    /// Zeroes at most `n` sectors from the current one on, as far as its bio holds them, if the
    /// request is a read. Returns how many sectors these are.
    pub(super) fn zero(&self, n: u32) -> u32 {
        let take = n.min(self.in_bio());
        if take > 0 && self.read {
            // SAFETY: The range lies within the bio. The pages of the bio belong to the request
            // until it ends, and they may be written because the request is a read.
            unsafe { ffi::ub_bio_zero(self.bio, self.skip, take) };
        }
        take
    }
}
