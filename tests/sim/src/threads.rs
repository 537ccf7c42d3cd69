// SPDX-License-Identifier: GPL-2.0

//! The threads that a host runs on: a scheduler's in the models of races, the system's elsewhere.

#[cfg(feature = "model")]
pub use shuttle::{
    sync::{Condvar, Mutex},
    thread::{current, spawn, yield_now, JoinHandle, ThreadId},
};
#[cfg(not(feature = "model"))]
pub use std::{
    sync::{Condvar, Mutex},
    thread::{current, spawn, yield_now, JoinHandle, ThreadId},
};

use ubcore::sync::AtomicU32;

#[cfg(feature = "model")]
pub use ubcore::sync::quietly;

/// Runs `f`. In a model, no other thread runs meanwhile.
#[cfg(not(feature = "model"))]
pub fn quietly<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Excludes accesses to these entries from the points at which a model's scheduler may switch.
#[cfg_attr(
    not(feature = "model"),
    expect(unused_variables, reason = "no scheduler")
)]
pub fn silence(entries: &[AtomicU32]) {
    #[cfg(feature = "model")]
    entries.iter().for_each(AtomicU32::silence);
}
