// SPDX-License-Identifier: GPL-2.0

//! SHA-256, which the caller provides: the driver has the kernel's, the tool a crate's.

/// A SHA-256 in progress.
pub trait Sha256 {
    /// Returns the SHA-256 of no bytes so far.
    fn new() -> Self;
    /// Adds bytes.
    fn update(&mut self, bytes: &[u8]);
    /// Returns the digest of all bytes added.
    fn finish(self) -> [u8; 32];
}
