// SPDX-License-Identifier: GPL-2.0

//! Epoch-based reclamation: which requests may still use a leaf slab that the map no longer names.
//!
//! A request stores the current epoch in its state before it looks up the map. Reclaim begins a new
//! epoch and waits until no request in flight carries an older one. The request's side is a store
//! and a barrier on memory of the request, so requests share no counter.

use super::super::sync::{barrier, swap_with_barrier, Ordering};
use super::{Host, Request};

/// The state of a request. It is one word, so that reclaim reads it by one load while the request
/// is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestState(u64);

/// When the data of the request is on the leaf, the request still needs a commit.
const NEEDS_COMMIT: u64 = 1;
/// The request uses leaf slabs that it found in the map, in the epoch of the upper half.
const USES_MAP: u64 = 2;
/// The parts of slabs of a zeroing have been zeroed.
const PARTS_ZEROED: u64 = 4;
/// Some bios of the request fail, see [`Request::fail_bios`].
const HAS_FAILED_BIOS: u64 = 8;
const EPOCH_SHIFT: u32 = 32;
const USE: u64 = USES_MAP | (0xffff_ffff << EPOCH_SHIFT);

impl RequestState {
    /// The state of a request that has just arrived.
    pub const NEW: RequestState = RequestState(0);

    /// Returns the state of a request.
    pub fn of<R: Request>(rq: &R) -> Self {
        RequestState(rq.word().load(Ordering::Acquire))
    }

    /// Makes this the state of a request. For the request's owner.
    pub(super) fn set<R: Request>(self, rq: &R) {
        rq.word().store(self.0, Ordering::Relaxed);
    }

    pub(super) fn needs_commit(self) -> bool {
        self.0 & NEEDS_COMMIT != 0
    }

    pub(super) fn with_commit(self) -> Self {
        RequestState(self.0 | NEEDS_COMMIT)
    }

    pub(super) fn has_zeroed_parts(self) -> bool {
        self.0 & PARTS_ZEROED != 0
    }

    pub(super) fn with_zeroed_parts(self) -> Self {
        RequestState(self.0 | PARTS_ZEROED)
    }

    pub(super) fn has_failed_bios(self) -> bool {
        self.0 & HAS_FAILED_BIOS != 0
    }

    pub(super) fn with_failed_bios(self) -> Self {
        RequestState(self.0 | HAS_FAILED_BIOS)
    }

    /// Returns whether the request uses leaf slabs that it found in the map.
    pub fn uses_map(self) -> bool {
        self.0 & USES_MAP != 0
    }

    pub(super) fn with_use(self, epoch: u32) -> Self {
        let epoch = u64::from(epoch).wrapping_shl(EPOCH_SHIFT);
        RequestState(self.without_use().0 | epoch | USES_MAP)
    }

    pub(super) fn without_use(self) -> Self {
        RequestState(self.0 & !USE)
    }
}

/// Begins a request's use of the map (I13). No leaf slab that it finds is freed before [`leave`].
/// Any context.
#[inline]
pub fn enter<H: Host>(host: &H, rq: &H::Request) {
    let epoch = host.shared().epoch.load(Ordering::Relaxed);
    let state = RequestState::of(rq).with_use(epoch);
    // The barrier pairs with that in `wait`. Either `wait` sees the use, or the look-ups after this
    // line see what had changed in the map before `wait`.
    swap_with_barrier(rq.word(), state.0);
}

/// Ends a request's use of the map, if it has begun, and returns the state after that. All accesses
/// of the request to its leaf slab happen before the use ends. Any context.
#[inline]
pub fn leave<H: Host>(rq: &H::Request) -> RequestState {
    let state = RequestState::of(rq);
    if state.uses_map() {
        rq.word().store(state.without_use().0, Ordering::Release);
    }
    state.without_use()
}

/// Waits until all uses of the map that began before this call have ended. Process context, sleeps;
/// one at a time.
pub fn wait<H: Host>(host: &H) {
    // The epoch wraps. A request of exactly 2^32 epochs ago is not in flight any more.
    let epoch = &host.shared().epoch;
    let now = epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    barrier();
    let mut n = 0u32;
    while host.any_in_flight(is_older, u64::from(now)) {
        host.pause(n);
        // The number of looks. The host pauses for the same time after the first few.
        n = n.saturating_add(1);
    }
    barrier();
}

/// Returns whether a request has used the map since before epoch `now`, by the word of its state.
fn is_older(word: u64, now: u64) -> bool {
    RequestState(word).uses_map() && word.wrapping_shr(EPOCH_SHIFT) != now
}
