// SPDX-License-Identifier: GPL-2.0

//! Epoch-based reclamation: which requests may still use a home that the map no longer names.
//!
//! A request stores the current epoch in its word before it looks up the map. Reclaim begins a new
//! epoch and waits until no request in flight carries an older one. The request's side is a store
//! and a barrier on memory of the request, so requests share no counter.

use super::super::sync::Ordering;
use super::{Host, Request};

/// In a request's word: the request uses homes of the map, in the epoch of the upper half.
const IN_USE: u64 = 2;
const EPOCH_SHIFT: u32 = 32;
/// The bits of a word that belong to this file.
const MASK: u64 = IN_USE | (0xffff_ffff << EPOCH_SHIFT);

/// Begins a request's use of the map: no home that it finds is freed before [`leave`]. Any context.
#[inline]
pub fn enter<H: Host>(host: &H, rq: &H::Request) {
    let epoch = u64::from(host.shared().epoch.load(Ordering::Relaxed));
    let other = rq.word() & !MASK;
    // The barrier pairs with that in `wait`. Either `wait` sees the use, or the look-ups after this
    // line see what had changed in the map before `wait`.
    rq.publish_word(other | epoch.wrapping_shl(EPOCH_SHIFT) | IN_USE);
}

/// Ends a request's use of the map, if it has begun. What the request did at its home happened
/// before. Any context.
#[inline]
pub fn leave<H: Host>(rq: &H::Request) {
    let word = rq.word();
    if word & IN_USE != 0 {
        rq.release_word(word & !MASK);
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

/// Returns whether a request's word says that it has used the map since before epoch `now`.
fn is_older(word: u64, now: u64) -> bool {
    word & IN_USE != 0 && word.wrapping_shr(EPOCH_SHIFT) != now
}
