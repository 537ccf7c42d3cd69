// SPDX-License-Identifier: GPL-2.0

//! Waiting for the requests in flight, without stopping those that come.
//!
//! Each request notes in its word, before it looks anything up in the map, in which *age* it does
//! so. Whoever wants to know that nobody uses what the map no longer names begins a new age, and
//! looks at all requests until none of an older one is left. The request's side is a store and a
//! barrier on memory of its own; no counter is shared.

use crate::{
    blk::{
        Request,
        Tags, //
    },
    device::Union,
};
use kernel::{
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        barrier::smp_mb,
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// The request's word: a use of the map's homes has begun, in the age above.
const IN_USE: u64 = 2;
const AGE_SHIFT: u32 = 32;

/// How long to wait before another look, in µs: at first, and at last.
const SOON: i64 = 100;
const LATE: i64 = 20_000;

/// The age that begins uses of the map's homes.
pub(crate) struct Grace {
    age: Atomic<u32>,
}

impl Grace {
    pub(crate) const fn new() -> Self {
        Grace {
            age: Atomic::new(0),
        }
    }

    /// A request's use begins: no home that it finds in the map is freed before [`Grace::leave`].
    /// Any context.
    pub(crate) fn enter(&self, rq: &Request<Union>) {
        let age = u64::from(self.age.load(Relaxed)) << AGE_SHIFT;
        rq.set_cookie(age | IN_USE);
        // With the one in `wait`: either that sees the use, or this one's look-ups see what had
        // changed in the map before.
        smp_mb(Full);
    }

    /// Its use ends, if it has begun. What it did at the old home happened before. Any context.
    pub(crate) fn leave(&self, rq: &Request<Union>) {
        let cookie = rq.cookie();
        if cookie & IN_USE != 0 {
            rq.release_cookie(cookie & !(IN_USE | (u64::from(u32::MAX) << AGE_SHIFT)));
        }
    }

    /// Waits until all uses that began before have ended. Process context, sleeps; one at a time.
    pub(crate) fn wait(&self, tags: &Tags<Union>) {
        // Wraps: a request of exactly so many ages ago is not in flight any more.
        let now = self.age.fetch_add(1, Full).wrapping_add(1);
        smp_mb(Full);
        let mut pause = SOON;
        while tags.any(is_older, u64::from(now)) {
            fsleep(Delta::from_micros(pause));
            pause = pause.saturating_mul(2).min(LATE);
        }
        smp_mb(Full);
    }
}

/// Whether a request's word says that it is in use since before age `now`.
fn is_older(cookie: u64, now: u64) -> bool {
    cookie & IN_USE != 0 && cookie >> AGE_SHIFT != now
}
