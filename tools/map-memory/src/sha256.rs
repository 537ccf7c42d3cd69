// SPDX-License-Identifier: GPL-2.0

//! SHA-256 for the core.

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

#[cfg(test)]
mod tests {
    use ubcore::sha256::Sha256;

    #[test]
    fn the_digest_is_sha_256() {
        let mut sum = super::Sha256::new();
        sum.update(b"ab");
        sum.update(b"c");
        let digest = sum.finish().map(|byte| format!("{byte:02x}")).concat();
        let wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest, wanted);
    }
}
