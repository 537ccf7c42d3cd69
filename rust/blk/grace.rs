// SPDX-License-Identifier: GPL-2.0

//! Waiting for what is in flight, without stopping what comes: sleepable RCU, used across contexts.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)

use super::ffi;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// Something that can be in use, and whose users at one moment can be waited for.
///
/// # Invariants
///
/// The C struct is initialised.
#[pin_data(PinnedDrop)]
pub(crate) struct Grace {
    #[pin]
    inner: Opaque<bindings::srcu_struct>,
}

// SAFETY: A `srcu_struct` may be used from any thread.
unsafe impl Send for Grace {}

// SAFETY: As above, by any number of threads.
unsafe impl Sync for Grace {}

impl Grace {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::srcu_struct| {
                // SAFETY: `slot` is ours to write. Should it fail, it leaves nothing behind.
                to_result(unsafe { ffi::ub_srcu_init(slot) })
            }),
        }? Error)
    }

    /// A use begins; the result is for [`Grace::exit`], once, in whatever context. Any context.
    pub(crate) fn enter(&self) -> u32 {
        // SAFETY: By the invariant it is initialised.
        unsafe { ffi::ub_srcu_down(self.inner.get()) }
    }

    /// The use that began as `index` ends. Any context.
    pub(crate) fn exit(&self, index: u32) {
        // SAFETY: By the invariant it is initialised. A wrong index upsets a count, which makes
        // waiters wait too long or too short, and touches no other memory: there are two.
        unsafe { ffi::ub_srcu_up(self.inner.get(), index & 1) };
    }

    /// Waits until all uses that began before have ended. Process context, sleeps.
    pub(crate) fn wait(&self) {
        // SAFETY: By the invariant it is initialised.
        unsafe { bindings::synchronize_srcu_expedited(self.inner.get()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Grace {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant it is initialised; whoever has it uses it no longer.
        unsafe { bindings::cleanup_srcu_struct(self.inner.get()) };
    }
}
