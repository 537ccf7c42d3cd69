// SPDX-License-Identifier: GPL-2.0

//! Sets of small numbers, with one bit for each, 64 to a word. A [`Bitmap`] has one owner at a
//! time. The functions of this file work on words that all CPUs share.
//!
//! A number that has no bit cannot be put into a set, and so no set has it.

use core::ops::{DerefMut, Range};

use super::error::{Broken, Checked};
use super::num::{mask, u32_as_usize};
use super::sync::{AtomicU64, Ordering};

fn bit_of(n: u32) -> u64 {
    1u64.wrapping_shl(n % 64)
}

/// Returns the number whose bit is bit `bit` of word `at`.
pub fn number_of(at: usize, bit: u32) -> Option<u32> {
    u32::try_from(at).ok()?.checked_mul(64)?.checked_add(bit)
}

/// Returns the first number from `from` on whose bit is set. `words` begins with the word that has
/// the bit of `from`.
fn first_set(words: impl Iterator<Item = u64>, from: u32) -> Option<u32> {
    let mut ahead = mask(from % 64, 64);
    let mut base = from & !63;
    for word in words {
        let found = word & ahead;
        if found != 0 {
            return base.checked_add(found.trailing_zeros());
        }
        base = base.checked_add(64)?;
        ahead = u64::MAX;
    }
    None
}

/// Returns whether shared bit `n` is set.
pub fn is_set(words: &[AtomicU64], n: u32) -> bool {
    words
        .get(u32_as_usize(n / 64))
        .is_some_and(|w| w.load(Ordering::Acquire) & bit_of(n) != 0)
}

/// Sets a shared bit. Returns whether it was set before. Stores after this call do not become
/// visible before the bit does.
pub fn set(words: &[AtomicU64], n: u32) -> Checked<bool> {
    let word = words.get(u32_as_usize(n / 64)).ok_or(Broken)?;
    Ok(word.fetch_or(bit_of(n), Ordering::SeqCst) & bit_of(n) != 0)
}

/// Clears a shared bit. Returns whether it was set before.
pub fn clear(words: &[AtomicU64], n: u32) -> bool {
    words
        .get(u32_as_usize(n / 64))
        .is_some_and(|w| w.fetch_and(!bit_of(n), Ordering::SeqCst) & bit_of(n) != 0)
}

/// Returns the first shared bit from `from` on that is set.
pub fn next(words: &[AtomicU64], from: u32) -> Option<u32> {
    let words = words.iter().skip(u32_as_usize(from / 64));
    first_set(words.map(|w| w.load(Ordering::Acquire)), from)
}

/// A set of numbers, in words that the caller provides.
pub struct Bitmap<B> {
    words: B,
}

impl<B: DerefMut<Target = [u64]>> Bitmap<B> {
    /// Returns the set that the words hold.
    pub fn new(words: B) -> Self {
        Bitmap { words }
    }

    /// Returns whether a number is in the set.
    pub fn has(&self, n: u32) -> bool {
        self.words
            .get(u32_as_usize(n / 64))
            .is_some_and(|w| w & bit_of(n) != 0)
    }

    /// Adds a number. Returns whether it is new.
    pub fn insert(&mut self, n: u32) -> Checked<bool> {
        let word = self.words.get_mut(u32_as_usize(n / 64)).ok_or(Broken)?;
        let before = *word;
        *word |= bit_of(n);
        Ok(*word != before)
    }

    /// Adds the numbers of word `at` whose bits are set.
    pub fn insert_word(&mut self, at: u32, bits: u64) -> Checked {
        let word = self.words.get_mut(u32_as_usize(at)).ok_or(Broken)?;
        *word |= bits;
        Ok(())
    }

    /// Removes a number. Returns whether it was in the set.
    pub fn remove(&mut self, n: u32) -> bool {
        let Some(word) = self.words.get_mut(u32_as_usize(n / 64)) else {
            return false;
        };
        let before = *word;
        *word &= !bit_of(n);
        *word != before
    }

    /// Removes all numbers.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Returns the first number of the set at or after `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        first_set(
            self.words.iter().skip(u32_as_usize(from / 64)).copied(),
            from,
        )
    }

    /// Returns the first number of a range that is in the set, or that is not if `not`.
    pub fn find(&self, range: Range<u32>, not: bool) -> Option<u32> {
        let first = u32_as_usize(range.start / 64);
        let words = self.words.iter().take(u32_as_usize(range.end.div_ceil(64)));
        let flip = if not { u64::MAX } else { 0 };
        first_set(words.skip(first).map(|w| w ^ flip), range.start).filter(|n| range.contains(n))
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_bits))]
mod tests {
    use super::super::error::Broken;
    use super::super::sync::AtomicU64;
    use super::{clear, is_set, next, set, Bitmap};

    #[test]
    fn bits_are_found_again() {
        let words = [const { AtomicU64::new(0) }; 3];
        assert!(next(&words, 0).is_none());
        for n in [63, 64, 190] {
            assert!(set(&words, n) == Ok(false));
        }
        assert!(set(&words, 64) == Ok(true));
        assert!(next(&words, 0) == Some(63));
        assert!(next(&words, 64) == Some(64));
        assert!(next(&words, 65) == Some(190));
        assert!(next(&words, 191).is_none() && next(&words, 4000).is_none());
        assert!(is_set(&words, 190) && clear(&words, 190));
        assert!(!is_set(&words, 190) && !clear(&words, 190));
    }

    #[test]
    fn a_bit_that_is_not_there_cannot_be_set() {
        let words = [const { AtomicU64::new(0) }; 3];
        assert!(set(&words, 192) == Err(Broken) && set(&words, u32::MAX) == Err(Broken));
        assert!(!is_set(&words, 192) && !clear(&words, 192));
        let mut words = [0u64; 3];
        let mut bitmap = Bitmap::new(&mut words[..]);
        assert!(bitmap.insert(192) == Err(Broken) && bitmap.insert(u32::MAX) == Err(Broken));
        assert!(!bitmap.has(192) && !bitmap.remove(192));
        assert!(words == [0; 3]);
    }

    #[test]
    fn numbers_are_added_and_removed() {
        let mut words = [0u64; 3];
        let mut bitmap = Bitmap::new(&mut words[..]);
        assert!(bitmap.insert(64) == Ok(true) && bitmap.insert(64) == Ok(false));
        assert!(bitmap.insert(130) == Ok(true) && bitmap.has(130) && !bitmap.has(129));
        assert!(bitmap.next(0) == Some(64) && bitmap.next(65) == Some(130));
        assert!(bitmap.next(131).is_none());
        assert!(bitmap.find(0..65, false) == Some(64) && bitmap.find(0..64, false).is_none());
        assert!(bitmap.find(64..66, true) == Some(65) && bitmap.find(64..65, true).is_none());
        assert!(bitmap.find(128..192, false) == Some(130));
        assert!(bitmap.remove(130) && !bitmap.remove(130));
        bitmap.clear();
        assert!(bitmap.next(0).is_none());
    }
}
