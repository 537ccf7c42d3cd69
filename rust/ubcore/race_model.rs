// SPDX-License-Identifier: GPL-2.0

//! The atomics of the models in `tests/races`. Threads switch only at [`point`], so the atomics of
//! the crate `core` suffice for the values. They are here because the types of `ubcore` contain
//! them. Only the feature `shuttle` compiles this file.

pub use core::sync::atomic::Ordering;
use core::sync::atomic::{self, AtomicBool as Flag};

static BUS: shuttle::sync::atomic::AtomicBool = shuttle::sync::atomic::AtomicBool::new(false);
static QUIET: Flag = Flag::new(false);

/// Lets another thread continue here.
fn point(silent: &Flag) {
    if !QUIET.load(Ordering::Relaxed) && !silent.load(Ordering::Relaxed) {
        BUS.load(Ordering::SeqCst);
    }
}

/// Runs `f` while no other thread runs: for what a model does when all other threads have
/// ended.
pub fn quietly<R>(f: impl FnOnce() -> R) -> R {
    QUIET.store(true, Ordering::Relaxed);
    let done = f();
    QUIET.store(false, Ordering::Relaxed);
    done
}

macro_rules! atomic {
    ($name:ident, $value:ty, $what:literal) => {
        #[doc = $what]
        #[derive(Debug)]
        pub struct $name {
            value: atomic::$name,
            silent: Flag,
        }

        #[expect(missing_docs, reason = "as core's")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                let value = atomic::$name::new(value);
                let silent = Flag::new(false);
                $name { value, silent }
            }
            /// Marks an atomic that no thread will ever change. Threads do not switch at
            /// accesses to it.
            pub fn silence(&self) {
                self.silent.store(true, Ordering::Relaxed);
            }
            pub fn load(&self, order: Ordering) -> $value {
                point(&self.silent);
                self.value.load(order)
            }
            pub fn store(&self, value: $value, order: Ordering) {
                point(&self.silent);
                self.value.store(value, order);
            }
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                point(&self.silent);
                self.value.swap(value, order)
            }
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                point(&self.silent);
                self.value.fetch_or(value, order)
            }
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                point(&self.silent);
                self.value.fetch_and(value, order)
            }
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                point(&self.silent);
                self.value.fetch_add(value, order)
            }
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                point(&self.silent);
                self.value.fetch_sub(value, order)
            }
            pub fn fetch_update<F: FnMut($value) -> Option<$value>>(
                &self,
                set: Ordering,
                fetch: Ordering,
                f: F,
            ) -> Result<$value, $value> {
                point(&self.silent);
                self.value.fetch_update(set, fetch, f)
            }
        }
    };
}

/// A flag of a model.
#[derive(Debug)]
pub struct AtomicBool(AtomicU32);

#[expect(missing_docs, reason = "as core's")]
impl AtomicBool {
    pub const fn new(value: bool) -> Self {
        AtomicBool(AtomicU32::new(value as u32))
    }
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order) != 0
    }
    pub fn store(&self, value: bool, order: Ordering) {
        self.0.store(u32::from(value), order);
    }
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(u32::from(value), order) != 0
    }
}

atomic!(AtomicU32, u32, "A 32-bit atomic of a model.");
atomic!(AtomicU64, u64, "A 64-bit atomic of a model.");
