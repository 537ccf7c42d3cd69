// SPDX-License-Identifier: GPL-2.0

//! Bits that all CPUs share, 64 to a word. A bit beyond the last word is clear and stays so.

use super::num::{mask, saturating_u32, u32_as_usize, usize_as_u64};
use super::sync::{AtomicU64, Ordering};

fn bit_of(n: u32) -> u64 {
    1u64.wrapping_shl(n % 64)
}

/// Returns whether bit `n` is set.
pub fn is_set(words: &[AtomicU64], n: u32) -> bool {
    words
        .get(u32_as_usize(n / 64))
        .is_some_and(|w| w.load(Ordering::Acquire) & bit_of(n) != 0)
}

/// Sets a bit. Returns whether it was set before. A later store that announces the bit stays later.
pub fn set(words: &[AtomicU64], n: u32) -> bool {
    words
        .get(u32_as_usize(n / 64))
        .is_some_and(|w| w.fetch_or(bit_of(n), Ordering::SeqCst) & bit_of(n) != 0)
}

/// Clears a bit. Returns whether it was set before.
pub fn clear(words: &[AtomicU64], n: u32) -> bool {
    words
        .get(u32_as_usize(n / 64))
        .is_some_and(|w| w.fetch_and(!bit_of(n), Ordering::SeqCst) & bit_of(n) != 0)
}

/// Returns the first bit from `from` on that is set.
pub fn next(words: &[AtomicU64], from: u32) -> Option<u32> {
    let mut ahead = mask(from % 64, 64);
    for (at, word) in words.iter().enumerate().skip(u32_as_usize(from / 64)) {
        let found = word.load(Ordering::Acquire) & ahead;
        if found != 0 {
            let base = saturating_u32(usize_as_u64(at).wrapping_mul(64));
            return base.checked_add(found.trailing_zeros());
        }
        ahead = u64::MAX;
    }
    None
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_bits))]
mod tests {
    use super::super::sync::AtomicU64;
    use super::{clear, is_set, next, set};

    #[test]
    fn bits_are_found_again() {
        let words = [const { AtomicU64::new(0) }; 3];
        assert!(next(&words, 0).is_none());
        assert!(!set(&words, 63) && !set(&words, 64) && !set(&words, 190));
        assert!(set(&words, 64));
        assert!(next(&words, 0) == Some(63));
        assert!(next(&words, 64) == Some(64));
        assert!(next(&words, 65) == Some(190));
        assert!(next(&words, 191).is_none() && next(&words, 4000).is_none());
        assert!(is_set(&words, 190) && clear(&words, 190));
        assert!(!is_set(&words, 190) && !clear(&words, 190));
        assert!(!set(&words, 192) && !is_set(&words, 192));
    }
}
