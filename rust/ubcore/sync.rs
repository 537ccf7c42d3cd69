// SPDX-License-Identifier: GPL-2.0

//! The atomics and barriers of the core. They are those of the crate `core`. In the models of
//! `tests/races` a scheduler chooses, before each access to an atomic, which thread continues. In
//! the driver and the tool no other file of `ubcore` names `core::sync`.
//!
//! `rust/sys/atomic.rs` argues why they are not the kernel's.

#[cfg(feature = "shuttle")]
pub use super::race_model::{quietly, AtomicBool, AtomicU32, AtomicU64, Ordering};
#[cfg(not(feature = "shuttle"))]
pub use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Issues a full memory barrier.
#[inline]
pub fn barrier() {
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Stores a value. A full memory barrier follows.
#[inline]
pub fn swap_with_barrier(word: &AtomicU64, value: u64) {
    word.swap(value, Ordering::SeqCst);
    // In the kernel on x86-64, the exchange is a full barrier. Other machines, and the model of
    // races, need one.
    #[cfg(not(all(kernel, target_arch = "x86_64")))]
    barrier();
}
