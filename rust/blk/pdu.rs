// SPDX-License-Identifier: GPL-2.0

//! What each request carries for the driver: `blk_mq_tag_set::cmd_size`.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)

use core::{
    cell::UnsafeCell,
    ptr,
    sync::atomic::{
        AtomicBool,
        AtomicI32,
        AtomicU32,
        AtomicU64,
        Ordering::{
            Acquire,
            Relaxed,
            Release,
            SeqCst, //
        }, //
    },
};
use kernel::{
    bindings,
    types::Opaque, //
};

/// The private data of one request, behind its `struct request`.
///
/// A request belongs to one CPU or one list at a time, so nothing in here is shared while it
/// waits; `remaining` and `status` are written from the completions of its lower I/O.
///
/// The atomics are core's, as the driver's own memory: they compile to what the kernel's do, without
/// a call for each.
///
/// # Invariants
///
/// - `link` is accessed only by the owner of the request, or by the list that owns it.
/// - `bio` is either not in use, or was initialised for the lower I/O of this very request.
#[repr(C)]
pub(super) struct Pdu {
    /// Lower I/O not yet ended, and one more while lower I/O is still being sent.
    remaining: AtomicI32,
    /// The first error of lower I/O, a `blk_status_t`.
    status: AtomicU32,
    /// Sectors of the request that were given a place in the rounds before this one.
    begun: AtomicU32,
    /// Sectors of the request that were given a place, this round included.
    placed: AtomicU32,
    /// Whether lower I/O is sent in a way that may wait.
    may_wait: AtomicBool,
    /// The driver's own word.
    cookie: AtomicU64,
    /// The next request of the list that this one is on.
    pub(super) link: UnsafeCell<*mut bindings::request>,
    /// The first lower bio of a round; the only one where one suffices.
    bio: Opaque<bindings::bio>,
}

// The private data starts right behind `struct request`.
const _: () = assert!(align_of::<Pdu>() <= align_of::<bindings::request>());

impl Pdu {
    /// A request that is not in use.
    pub(super) const fn new() -> Self {
        // INVARIANT: Nobody uses `bio` yet.
        Self {
            remaining: AtomicI32::new(0),
            status: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            placed: AtomicU32::new(0),
            may_wait: AtomicBool::new(false),
            cookie: AtomicU64::new(0),
            link: UnsafeCell::new(ptr::null_mut()),
            bio: Opaque::zeroed(),
        }
    }

    /// The private data of `rq`, as `blk_mq_rq_to_pdu()` computes it.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a tag set whose `cmd_size` is that of [`Pdu`].
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *mut Self {
        // SAFETY: The caller promises that the allocation goes on for a `Pdu` behind `rq`.
        unsafe { rq.add(1) }.cast()
    }

    /// The embedded bio.
    pub(super) fn bio(&self) -> *mut bindings::bio {
        self.bio.get()
    }

    /// Makes the request new: no cookie, nothing placed.
    pub(super) fn renew(&self) {
        self.cookie.store(0, Relaxed);
        self.placed.store(0, Relaxed);
    }

    /// The driver's word, and all that was done before it was set by [`Pdu::release_cookie`].
    pub(super) fn cookie(&self) -> u64 {
        self.cookie.load(Acquire)
    }

    /// Sets the driver's word.
    pub(super) fn set_cookie(&self, cookie: u64) {
        self.cookie.store(cookie, Relaxed);
    }

    /// Sets the driver's word; a full barrier.
    pub(super) fn swap_cookie(&self, cookie: u64) {
        self.cookie.swap(cookie, SeqCst);
    }

    /// Sets the driver's word; whoever sees it sees what was done before.
    pub(super) fn release_cookie(&self, cookie: u64) {
        self.cookie.store(cookie, Release);
    }

    /// Sectors that were given a place, of use to the owner of the request.
    pub(super) fn placed(&self) -> u32 {
        self.placed.load(Relaxed)
    }

    /// Of those, the sectors of the rounds before.
    pub(super) fn begun(&self) -> u32 {
        self.begun.load(Relaxed)
    }

    /// Begins a round, in which all up to `placed` is given a place.
    pub(super) fn set_round(&self, begun: u32, placed: u32) {
        self.begun.store(begun, Relaxed);
        self.placed.store(placed, Relaxed);
    }

    /// Whether lower I/O is sent in a way that may wait.
    pub(super) fn may_wait(&self) -> bool {
        self.may_wait.load(Relaxed)
    }

    /// Says so, or not.
    pub(super) fn set_may_wait(&self, may_wait: bool) {
        self.may_wait.store(may_wait, Relaxed);
    }

    /// Takes the sender's count: the request cannot complete before it is put again.
    pub(super) fn hold(&self) {
        self.status.store(0, Relaxed);
        self.remaining.store(1, Relaxed);
    }

    /// Takes a count for one more lower I/O.
    pub(super) fn get(&self) {
        self.remaining.fetch_add(1, Relaxed);
    }

    /// Puts one count. Whoever gets `true` put the last one and owns the request again.
    #[must_use]
    pub(super) fn put(&self) -> bool {
        // Full: all that the other completions did happens before what the last one does.
        self.remaining.fetch_sub(1, SeqCst) == 1
    }

    /// Records the status of lower I/O; the first error stays.
    pub(super) fn note(&self, status: bindings::blk_status_t) {
        if status != 0 {
            // A lost race means that another error was first, which is as good.
            let _ = self
                .status
                .compare_exchange(0, u32::from(status), Relaxed, Relaxed);
        }
    }

    /// The first error, or 0. Of use to whoever put the last count.
    pub(super) fn status(&self) -> bindings::blk_status_t {
        // CAST: only ever set from a `blk_status_t`.
        self.status.load(Relaxed) as bindings::blk_status_t
    }
}
