// SPDX-License-Identifier: GPL-2.0

//! The driver's private data in each request: `blk_mq_tag_set::cmd_size`.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use crate::sys::atomic::{
    AtomicBool,
    AtomicI32,
    AtomicU32,
    AtomicU64,
    Ordering::{
        Relaxed,
        SeqCst, //
    }, //
};
use core::{
    cell::UnsafeCell,
    ptr, //
};
use kernel::{
    bindings,
    types::Opaque, //
};

/// How lower I/O is sent.
#[derive(Copy, Clone, PartialEq)]
pub(crate) enum SendAs {
    /// As requests of the lower queues. Never waits. Requires
    /// [`BlockDevice::accepts_clones`](super::BlockDevice::accepts_clones).
    Requests,
    /// As bios. May wait for the lower devices, so only a worker uses it.
    Bios,
}

/// The private data of one request, which follows its `struct request`.
///
/// Only the owner of the request, the sender while it holds its count, or the list that holds the
/// request writes the fields. Three fields are an exception: the completions of the lower I/O write
/// `remaining` and `status`, and the lower I/O that uses `bio` writes that.
/// [`TagSet::any`](super::TagSet::any) may read `word` at any time.
///
/// # Invariants
///
/// - `link` is accessed only by the owner of the request, or by the list that owns it.
/// - `bio` is either not in use, or was initialised for the lower I/O of this very request.
#[repr(C)]
pub(super) struct Pdu {
    /// The number of lower I/Os that have not ended, plus one while lower I/O is still being sent.
    /// Not used once the request is sent as a whole.
    remaining: AtomicI32,
    /// The first error of lower I/O, a `blk_status_t`.
    status: AtomicU32,
    /// The number of sectors that were submitted in earlier rounds.
    round_start: AtomicU32,
    /// The number of sectors that were submitted, including this round.
    round_end: AtomicU32,
    /// Whether lower I/O is sent as bios.
    may_wait: AtomicBool,
    /// A word that the driver may use.
    pub(super) word: AtomicU64,
    /// The next request of the list that this one is on.
    pub(super) link: UnsafeCell<*mut bindings::request>,
    /// The first lower bio of a round, and the only one if one suffices.
    bio: Opaque<bindings::bio>,
}

// The private data starts right after `struct request`.
const _: () = assert!(align_of::<Pdu>() <= align_of::<bindings::request>());

impl Pdu {
    /// Returns the private data of a request that is not in use.
    pub(super) const fn new() -> Self {
        // INVARIANT: `bio` is not in use yet.
        Self {
            remaining: AtomicI32::new(0),
            status: AtomicU32::new(0),
            round_start: AtomicU32::new(0),
            round_end: AtomicU32::new(0),
            may_wait: AtomicBool::new(false),
            word: AtomicU64::new(0),
            link: UnsafeCell::new(ptr::null_mut()),
            bio: Opaque::zeroed(),
        }
    }

    /// Returns the private data of `rq`, as `blk_mq_rq_to_pdu()` does.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a tag set whose `cmd_size` is that of [`Pdu`].
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *mut Self {
        // SAFETY: By the contract of this function the allocation extends for a `Pdu` after `rq`.
        unsafe { rq.add(1) }.cast()
    }

    /// Returns the embedded bio.
    pub(super) fn bio(&self) -> *mut bindings::bio {
        self.bio.get()
    }

    /// Resets the data for a new use of the request: its word is 0, and no sectors are submitted.
    pub(super) fn renew(&self) {
        self.word.store(0, Relaxed);
        self.round_end.store(0, Relaxed);
    }

    /// Returns the number of sectors that were submitted. Meaningful only to the owner of the
    /// request.
    pub(super) fn round_end(&self) -> u32 {
        self.round_end.load(Relaxed)
    }

    /// Returns the number of those sectors that were submitted in earlier rounds.
    pub(super) fn round_start(&self) -> u32 {
        self.round_start.load(Relaxed)
    }

    /// Begins a round that submits the sectors from `round_start` to `round_end`.
    pub(super) fn set_round(&self, round_start: u32, round_end: u32) {
        self.round_start.store(round_start, Relaxed);
        self.round_end.store(round_end, Relaxed);
    }

    /// Returns how lower I/O is sent.
    pub(super) fn send_as(&self) -> SendAs {
        if self.may_wait.load(Relaxed) {
            SendAs::Bios
        } else {
            SendAs::Requests
        }
    }

    /// Sets how lower I/O is sent.
    pub(super) fn set_send_as(&self, send_as: SendAs) {
        self.may_wait.store(send_as == SendAs::Bios, Relaxed);
    }

    /// Takes the sender's count. The request cannot complete before that count is put.
    pub(super) fn hold(&self) {
        self.status.store(0, Relaxed);
        self.remaining.store(1, Relaxed);
    }

    /// Takes a count for one more lower I/O.
    pub(super) fn get(&self) {
        self.remaining.fetch_add(1, Relaxed);
    }

    /// Puts one count. Returns `true` if it was the last one; the caller then owns the request.
    #[must_use]
    pub(super) fn put(&self) -> bool {
        // A full barrier, so that everything that the other completions did happens before what the
        // last one does.
        self.remaining.fetch_sub(1, SeqCst) == 1
    }

    /// Records the status of lower I/O. The first error stays.
    pub(super) fn note(&self, status: bindings::blk_status_t) {
        if status != 0 {
            // Ignore a lost race, because another error was recorded first.
            let _ = self
                .status
                .compare_exchange(0, u32::from(status), Relaxed, Relaxed);
        }
    }

    /// Returns the first error, or 0. Meaningful only after the last count was put.
    pub(super) fn status(&self) -> bindings::blk_status_t {
        // CAST: `status` is only set from a `blk_status_t`.
        self.status.load(Relaxed) as bindings::blk_status_t
    }
}
