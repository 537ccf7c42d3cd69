// SPDX-License-Identifier: GPL-2.0

//! SHA-256 and CRC32C, by the kernel's library.
//!
//! C headers: [`include/crypto/sha2.h`](srctree/include/crypto/sha2.h),
//! [`include/linux/crc32.h`](srctree/include/linux/crc32.h)

use super::ffi;
use kernel::bindings;

/// Continues a CRC32C over `bytes`; start with 0. Any context.
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    // The kernel leaves the inversions before and after to its callers.
    // SAFETY: It reads so many bytes.
    !unsafe { ffi::crc32c(!seed, bytes.as_ptr().cast(), bytes.len()) }
}

/// A SHA-256 in the making.
///
/// # Invariants
///
/// The context is initialised.
pub(crate) struct Sha256(bindings::sha256_ctx);

impl Sha256 {
    /// The length of the result, in bytes.
    pub(crate) const LEN: usize = 32;

    /// Of nothing yet.
    pub(crate) fn new() -> Self {
        let mut ctx = bindings::sha256_ctx::default();

        // SAFETY: `ctx` is ours to write.
        unsafe { bindings::sha256_init(&mut ctx) };
        // INVARIANT: Initialised just now.
        Self(ctx)
    }

    /// Takes more bytes in.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        // SAFETY: By the invariant the context is initialised; the bytes are as many as told.
        unsafe { bindings::__sha256_update(&mut self.0.ctx, bytes.as_ptr(), bytes.len()) };
    }

    /// The digest of all the bytes.
    pub(crate) fn finish(mut self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];

        // SAFETY: By the invariant the context is initialised; `out` takes 32 bytes. The context is
        // wiped, and goes away with `self`.
        unsafe { bindings::sha256_final(&mut self.0, out.as_mut_ptr()) };
        out
    }
}
