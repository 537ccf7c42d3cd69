// SPDX-License-Identifier: GPL-2.0

//! The kernel's SHA-256 for the core.

use crate::{
    sys::digest::Sha256,
    ubcore, //
};

/// Each method calls the method of the same name of [`Sha256`].
impl ubcore::sha256::Sha256 for Sha256 {
    fn new() -> Self {
        Sha256::new()
    }

    fn update(&mut self, bytes: &[u8]) {
        Sha256::update(self, bytes);
    }

    fn finish(self) -> [u8; 32] {
        Sha256::finish(self)
    }
}
