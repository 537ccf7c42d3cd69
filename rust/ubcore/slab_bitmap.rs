// SPDX-License-Identifier: GPL-2.0

//! The leaf slabs that are not free, and how a free one is found.
//!
//! A tree of bitmaps in one array. Level 0 has a bit for each leaf slab, set if the slab is in use.
//! Each level above has a bit for each word of the level below, set if all bits of that word are
//! set. The highest level is one word. So a search for a free slab reads one word of each level,
//! whatever the size of the leaf, and it may run under a spinlock.

use core::ops::DerefMut;

use super::error::{Broken, Checked};
use super::geometry::LeafSlab;
use super::num::{mask, u32_as_usize};

/// The number of levels. 64 to the power of 6 is above every number of slabs.
const LEVELS: usize = 6;

/// Returns the number of words that [`UsedSlabs`] needs for `slabs` slabs.
pub const fn words_for_used(slabs: u32) -> usize {
    let (_, words) = layout(slabs);
    words
}

/// Returns the first word of each level, and the number of all words.
const fn layout(slabs: u32) -> ([usize; LEVELS], usize) {
    let [mut bits, mut end] = [u32_as_usize(slabs), 0];
    let mut starts = [0; LEVELS];
    let mut left: &mut [usize] = &mut starts;
    while let [start, higher @ ..] = left {
        *start = end;
        bits = bits.div_ceil(64);
        // The words of all levels are fewer than the slabs, plus one for each level.
        end = end.wrapping_add(bits);
        left = higher;
    }
    (starts, end)
}

/// The leaf slabs that are not free.
///
/// # Invariants
///
/// - A bit of a level above 0 is set if and only if all bits of its word below are set.
/// - The bits of each level after the last slab, or the last word below, are set.
pub struct UsedSlabs<B> {
    words: B,
    /// The first word of each level.
    starts: [usize; LEVELS],
    slabs: u32,
    used: u32,
}

impl<B: DerefMut<Target = [u64]>> UsedSlabs<B> {
    /// Returns `slabs` free slabs. `words` are [`words_for_used`] zeroes.
    pub fn new(words: B, slabs: u32) -> Self {
        let (starts, _) = layout(slabs);
        let mut bitmap = UsedSlabs {
            words,
            starts,
            slabs,
            used: 0,
        };
        // INVARIANT: No word is full, because each has a bit for a free slab, and the bits after
        // the last one are set here.
        let mut bits = slabs;
        for start in starts {
            // Within the layout.
            let last = start.wrapping_add(u32_as_usize(bits / 64));
            match bitmap.words.get_mut(last) {
                Some(word) if bits % 64 != 0 => *word |= mask(bits % 64, 64),
                _ => {}
            }
            bits = bits.div_ceil(64);
        }
        bitmap
    }

    /// Returns the number of all slabs.
    pub fn slabs(&self) -> u32 {
        self.slabs
    }

    /// Returns the number of slabs in use.
    pub fn count(&self) -> u32 {
        self.used
    }

    /// Returns whether a slab exists and is free.
    pub fn is_free(&self, leaf_slab: LeafSlab) -> bool {
        self.word(leaf_slab.0 / 64) & 1u64.wrapping_shl(leaf_slab.0 % 64) == 0
    }

    /// Returns the bits of slabs `64 at..64 at + 64`. A slab that does not exist is in use.
    pub fn word(&self, at: u32) -> u64 {
        // The words of level 0 come first in the array, and others follow.
        let level = self.words.get(..u32_as_usize(self.slabs.div_ceil(64)));
        let word = level.and_then(|words| words.get(u32_as_usize(at)));
        word.copied().unwrap_or(u64::MAX)
    }

    /// Marks a slab as used. Returns false if it is used already or does not exist.
    pub fn mark_used(&mut self, leaf_slab: LeafSlab) -> Checked<bool> {
        if !self.is_free(leaf_slab) {
            return Ok(false);
        }
        // INVARIANT: If the word is full now, its bit above is set too.
        self.walk(leaf_slab, |word, bit| {
            *word |= bit;
            *word == u64::MAX
        })?;
        // The number of bits that are set.
        self.used = self.used.wrapping_add(1);
        Ok(true)
    }

    /// Frees a slab. Returns false if it is free already or does not exist.
    pub fn free(&mut self, leaf_slab: LeafSlab) -> Checked<bool> {
        if leaf_slab.0 >= self.slabs || self.is_free(leaf_slab) {
            return Ok(false);
        }
        // INVARIANT: If the word was full, its bit above is cleared too.
        self.walk(leaf_slab, |word, bit| {
            let was_full = *word == u64::MAX;
            *word &= !bit;
            was_full
        })?;
        // The bit was set.
        self.used = self.used.wrapping_sub(1);
        Ok(true)
    }

    /// Calls `change` with the word and the bit of a slab, and then with those of each level above,
    /// as long as `change` returns that the level above changes too.
    fn walk(&mut self, leaf_slab: LeafSlab, change: impl Fn(&mut u64, u64) -> bool) -> Checked {
        let mut n = leaf_slab.0;
        for start in self.starts {
            // Within the layout.
            let at = start.wrapping_add(u32_as_usize(n / 64));
            let word = self.words.get_mut(at).ok_or(Broken)?;
            if !change(word, 1u64.wrapping_shl(n % 64)) {
                break;
            }
            n /= 64;
        }
        Ok(())
    }

    /// Returns the first free slab.
    pub fn first_free(&self) -> Checked<Option<LeafSlab>> {
        let found = first_clear(&self.starts, |at| self.words.get(at).copied())?;
        Ok(found.map(LeafSlab))
    }
}

/// Returns the first bit of level 0 that is clear. Calls `word` for each word that it looks at: one
/// of each level, the highest first. Fails if there is no such word.
fn first_clear(
    starts: &[usize; LEVELS],
    mut word: impl FnMut(usize) -> Option<u64>,
) -> Checked<Option<u32>> {
    let mut bit = 0u32;
    for &start in starts.iter().rev() {
        // Within the layout, if the word is there.
        let at = start.wrapping_add(u32_as_usize(bit));
        let ones = word(at).ok_or(Broken)?.trailing_ones();
        if ones == 64 {
            return Ok(None);
        }
        let below = bit.checked_mul(64).and_then(|n| n.checked_add(ones));
        bit = below.ok_or(Broken)?;
    }
    Ok(Some(bit))
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_slab_bitmap))]
mod tests {
    use super::super::error::Broken;
    use super::super::geometry::LeafSlab;
    use super::{first_clear, layout, words_for_used, UsedSlabs};

    /// The slabs of a leaf of 8 TiB with slabs of 64 KiB.
    const LARGE: u32 = 1 << 27;

    /// A leaf in which one slab is free, wherever that is. Its words are not in memory.
    #[test]
    fn a_free_slab_of_a_large_leaf_is_found_in_six_words() {
        let (starts, _) = layout(LARGE);
        for free in [0, 1, 63, 64, 4095, LARGE / 2, LARGE - 65, LARGE - 1] {
            let mut looks = 0;
            let found = first_clear(&starts, |at| {
                looks += 1;
                let level = starts.iter().rposition(|&start| start <= at).unwrap_or(0);
                let bit = free >> (6 * level);
                let hole = at == starts[level] + (bit / 64) as usize;
                Some(u64::MAX ^ (u64::from(hole) << (bit % 64)))
            });
            assert!(found == Ok(Some(free)));
            assert_eq!(looks, 6);
        }
    }

    #[test]
    fn the_layout_of_any_leaf() {
        assert_eq!(words_for_used(1), 6);
        assert_eq!(words_for_used(64), 6);
        assert_eq!(words_for_used(65), 7);
        assert_eq!(words_for_used(4097), 65 + 2 + 4);
        assert_eq!(words_for_used(LARGE), (1 << 21) + (1 << 15) + 512 + 8 + 2);
        // The highest level is one word, also for the most slabs.
        let (starts, end) = layout(u32::MAX);
        assert_eq!(end - starts[5], 1);
    }

    /// Marks and frees slabs of small leaves in an order without pattern, and compares each step
    /// with an array of flags.
    #[test]
    fn as_an_array_of_flags() {
        const MOST: usize = 300;
        for slabs in [1u32, 63, 64, 65, 128, 299, 300] {
            let mut words = [0u64; words_for_used(MOST as u32)];
            let mut bitmap = UsedSlabs::new(&mut words[..words_for_used(slabs)], slabs);
            let mut flags = [false; MOST];
            let flags = &mut flags[..slabs as usize];
            let mut random = 1u32;
            for step in 0..4000u32 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let slab = (random >> 8) % (slabs + 2);
                let flag = flags.get(slab as usize).copied();
                // Marks more than it frees in the first half, so that the leaf becomes full.
                if random >> 30 > step / 2000 {
                    assert_eq!(bitmap.mark_used(LeafSlab(slab)), Ok(flag == Some(false)));
                } else {
                    assert_eq!(bitmap.free(LeafSlab(slab)), Ok(flag == Some(true)));
                }
                if let Some(flag) = flags.get_mut(slab as usize) {
                    *flag = !bitmap.is_free(LeafSlab(slab));
                }
                let first = flags.iter().position(|&flag| !flag);
                assert!(bitmap.first_free() == Ok(first.map(|n| LeafSlab(n as u32))));
                assert_eq!(
                    bitmap.count() as usize,
                    flags.iter().filter(|&&f| f).count()
                );
            }
            assert!(!bitmap.is_free(LeafSlab(slabs)) && !bitmap.is_free(LeafSlab(u32::MAX)));
        }
    }

    /// The bitmap ends within a level above that of the slabs.
    #[test]
    fn a_level_without_a_word_is_no_success() {
        let mut words = [0u64; 1];
        let mut bitmap = UsedSlabs::new(&mut words[..], 64);
        assert!((0..63).all(|slab| bitmap.mark_used(LeafSlab(slab)) == Ok(true)));
        assert!(bitmap.mark_used(LeafSlab(63)) == Err(Broken));
        assert!(bitmap.free(LeafSlab(63)) == Err(Broken));
        assert!(bitmap.first_free() == Err(Broken));
        assert_eq!(bitmap.count(), 63);
    }
}
