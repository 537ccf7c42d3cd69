// SPDX-License-Identifier: GPL-2.0

//! CRC32C (Castagnoli), as RFC 3720 B.4 defines it: reflected polynomial 0x82f63b78.
//!
//! In the kernel module it is the kernel's, which uses the processor's instructions for it. The
//! module that holds the core provides it, as `sys::digest`. Elsewhere it is a table.

#[cfg(kernel)]
pub(crate) use super::super::super::sys::digest::crc32c;

#[cfg(not(kernel))]
const fn table() -> [u32; 256] {
    let mut t = [0u32; 256];
    let mut i = 0u32;
    while i < 256 {
        let mut v = i;
        let mut bit = 0;
        while bit < 8 {
            v = if v & 1 == 1 {
                (v >> 1) ^ 0x82f6_3b78
            } else {
                v >> 1
            };
            bit = step(bit);
        }
        put(&mut t, i, v);
        i = step(i);
    }
    t
}

#[cfg(not(kernel))]
const fn step(i: u32) -> u32 {
    i.wrapping_add(1)
}

#[cfg(not(kernel))]
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated while compiling; i is below 256"
)]
const fn put(t: &mut [u32; 256], i: u32, v: u32) {
    t[i as usize] = v;
}

#[cfg(not(kernel))]
static TABLE: [u32; 256] = table();

#[cfg(not(kernel))]
#[expect(
    clippy::indexing_slicing,
    reason = "the table has an entry for each byte"
)]
fn folded(byte: u8) -> u32 {
    TABLE[usize::from(byte)]
}

/// Continues a CRC32C over `bytes`. The first seed is 0.
#[cfg(not(kernel))]
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let mut crc = !seed;
    for &b in bytes {
        let [low, ..] = crc.to_le_bytes();
        crc = folded(low ^ b) ^ (crc >> 8);
    }
    !crc
}

/// Returns the CRC32C of a block. The block's own checksum, four bytes at `at`, counts as zero.
/// Returns `None` if the block ends before it.
pub fn block_crc(block: &[u8], at: usize) -> Option<u32> {
    let (head, rest) = block.split_at_checked(at)?;
    let (_, tail) = rest.split_first_chunk::<4>()?;
    Some(crc32c(crc32c(crc32c(0, head), &[0; 4]), tail))
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_crc))]
mod tests {
    use super::{block_crc, crc32c};

    #[test]
    fn known_answers() {
        // RFC 3720 B.4: 32 bytes of zeroes, of ones, and ascending.
        assert_eq!(crc32c(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(0, &[0xff; 32]), 0x62a8_ab43);
        let mut up = [0u8; 32];
        for (i, b) in up.iter_mut().enumerate() {
            *b = i as u8;
        }
        assert_eq!(crc32c(0, &up), 0x46dd_794e);
        assert_eq!(crc32c(crc32c(0, &up[..7]), &up[7..]), 0x46dd_794e);
    }

    #[test]
    fn own_field_counts_as_zero() {
        let mut block = [5u8; 64];
        let crc = block_crc(&block, 8);
        assert!(crc.is_some());
        block[8..12].fill(7);
        assert!(block_crc(&block, 8) == crc);
        block[12] = 6;
        assert!(block_crc(&block, 8) != crc);
        // No block is so short that its checksum is not in it.
        assert!(block_crc(&block[..11], 8).is_none() && block_crc(&block[..7], 8).is_none());
        assert!(block_crc(&block[..12], 8).is_some());
    }
}
