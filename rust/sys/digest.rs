// SPDX-License-Identifier: GPL-2.0

//! SHA-256 and CRC32C, from the kernel's library.
//!
//! C headers: [`include/crypto/sha2.h`](srctree/include/crypto/sha2.h),
//! [`include/linux/crc32.h`](srctree/include/linux/crc32.h)

use super::ffi;
use kernel::bindings;

/// Continues a CRC32C over `bytes`. `seed` is 0 at the start. Any context.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // The kernel's function leaves the inversions before and after to its callers.
    // SAFETY: `crc32c()` reads `bytes.len()` bytes, and a slice is valid for reads of its length.
    !unsafe { ffi::crc32c(!seed, bytes.as_ptr().cast(), bytes.len()) }
}

/// The state of a SHA-256 computation.
///
/// # Invariants
///
/// The context is initialised.
pub(crate) struct Sha256(bindings::sha256_ctx);

impl Sha256 {
    /// The length of the result, in bytes.
    pub(crate) const LEN: usize = 32;

    /// Starts a computation.
    pub(crate) fn new() -> Self {
        let mut ctx = bindings::sha256_ctx::default();

        // SAFETY: `ctx` is a local value, borrowed exclusively for the call, so it may be written.
        unsafe { bindings::sha256_init(&mut ctx) };
        // INVARIANT: `sha256_init()` initialised the context.
        Self(ctx)
    }

    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        // SAFETY: By the invariant the context is initialised. The slice has `bytes.len()` bytes.
        unsafe { bindings::__sha256_update(&mut self.0.ctx, bytes.as_ptr(), bytes.len()) };
    }

    /// Returns the digest of all bytes.
    pub(crate) fn finish(mut self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];

        // SAFETY: By the invariant the context is initialised; `out` has room for 32 bytes. The
        // call wipes the context, which is dropped with `self`.
        unsafe { bindings::sha256_final(&mut self.0, out.as_mut_ptr()) };
        out
    }
}
