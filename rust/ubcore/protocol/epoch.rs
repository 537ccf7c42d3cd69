// SPDX-License-Identifier: GPL-2.0

//! Epoch-based reclamation: which requests may still use a leaf slab that the map no longer names.
//!
//! A request stores the current epoch in its state before it looks up the map. Reclaim begins a new
//! epoch and waits until no request in flight carries an older one. The request's side is a store
//! and a barrier on memory of the request, so requests share no counter.

use super::super::sync::Ordering;
use super::{Host, Request, State};

/// Begins a request's use of the map (I13). No leaf slab that it finds is freed before [`leave`].
/// Any context.
#[inline]
pub fn enter<H: Host>(host: &H, rq: &H::Request) {
    let epoch = host.shared().epoch.load(Ordering::Relaxed);
    // The barrier pairs with that in `wait`. Either `wait` sees the use, or the look-ups after this
    // line see what had changed in the map before `wait`.
    rq.publish_state(rq.state().with_use(epoch));
}

/// Ends a request's use of the map, if it has begun. What the request did in its leaf slab happened
/// before. Any context.
#[inline]
pub fn leave<H: Host>(rq: &H::Request) {
    let state = rq.state();
    if state.uses_map() {
        rq.release_state(state.without_use());
    }
}

/// Waits until all uses that began before have ended. Process context, sleeps; one at a time.
pub fn wait<H: Host>(host: &H) {
    // The epoch wraps. A request of exactly 2^32 epochs ago is not in flight any more.
    let epoch = &host.shared().epoch;
    let now = epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    host.barrier();
    let mut n = 0u32;
    while host.any_in_flight(is_older, u64::from(now)) {
        host.pause(n);
        n = n.saturating_add(1);
    }
    host.barrier();
}

/// Returns whether a request has used the map since before epoch `now`, by the word of its state.
fn is_older(word: u64, now: u64) -> bool {
    State::from_word(word).is_older(now)
}
