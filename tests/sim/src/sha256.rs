// SPDX-License-Identifier: GPL-2.0

//! SHA-256 for the core, from the crate that the tool uses too.

use sha2::Digest;

/// A SHA-256 in progress.
#[derive(Clone)]
pub struct Sha256(sha2::Sha256);

impl ubcore::sha256::Sha256 for Sha256 {
    fn new() -> Self {
        Sha256(sha2::Sha256::new())
    }
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}
