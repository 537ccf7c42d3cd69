// SPDX-License-Identifier: GPL-2.0

//! Which samples of a root are compared to tell whether it is the one that a leaf was made for.
//!
//! The digest is SHA-256 over [`PREFIX`], the root's size, and for each sample its first sector and
//! its bytes. Numbers are 64-bit little-endian. A file system that was mounted writable, even once,
//! has changed its superblock, and the fixed samples cover such superblocks. The other samples are
//! derived from the leaf's UUID, so that each leaf has different samples.

use zerocopy::little_endian::U64;
use zerocopy::transmute_ref;

use super::num::usize_as_u64;

/// The first bytes that the digest covers.
pub const PREFIX: &[u8] = b"unionblk root samples 1\n";
/// Sectors of a sample; fewer at the end of the root.
pub const SAMPLE_SECTORS: u64 = 8;
/// The largest number of samples of a root.
pub const SAMPLES_MAX: usize = 44;
/// In units of [`SAMPLE_SECTORS`]: file systems' and partition tables' superblocks (GPT, ext, XFS,
/// squashfs, erofs: the first 32 KiB; btrfs: at 64 KiB).
const FIXED: [u64; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 16];
/// The last units: GPT's backup, md's superblock.
const FROM_END: u64 = 3;

/// Returns the samples of a root of `sectors`, as first sector and count.
pub fn samples(uuid: &[u8; 16], sectors: u64) -> Samples {
    let [low, high]: &[U64; 2] = transmute_ref!(uuid);
    Samples {
        seed: low.get().wrapping_mul(0xd6e8_feb8_6659_fd93) ^ high.get(),
        units: sectors.div_ceil(SAMPLE_SECTORS),
        sectors,
        next: 0,
    }
}

/// Iterator of [`samples`].
pub struct Samples {
    seed: u64,
    units: u64,
    sectors: u64,
    next: usize,
}

impl Samples {
    /// Makes a step of SplitMix64. Any two seeds give unrelated positions.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self, n: usize) -> Option<u64> {
        if let Some(&unit) = FIXED.get(n) {
            return Some(unit).filter(|&u| u < self.units);
        }
        // `n` is past the fixed samples here, and below `SAMPLES_MAX`.
        let behind = usize_as_u64(n.wrapping_sub(FIXED.len())).wrapping_add(1);
        if behind <= FROM_END {
            return self.units.checked_sub(behind);
        }
        let r = self.random();
        r.checked_rem(self.units)
    }
}

impl Iterator for Samples {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<Self::Item> {
        while self.next < SAMPLES_MAX {
            let n = self.next;
            self.next = n.wrapping_add(1);
            if let Some(unit) = self.unit(n) {
                // The unit begins within the root.
                let first = unit.wrapping_mul(SAMPLE_SECTORS);
                let count = SAMPLE_SECTORS.min(self.sectors.wrapping_sub(first));
                return Some((first, count));
            }
        }
        None
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_root_samples))]
mod tests {
    use super::{samples, SAMPLES_MAX};

    #[test]
    fn samples_lie_within_the_root() {
        for sectors in [1, 7, 8, 9, 100, 2048, 2_000_001] {
            let mut n = 0;
            for (first, count) in samples(&[3; 16], sectors) {
                assert!(count >= 1 && first + count <= sectors);
                n += 1;
            }
            assert!((32..=SAMPLES_MAX).contains(&n));
        }
        assert_eq!(samples(&[3; 16], 0).count(), 0);
    }

    /// The samples are part of the format. If they changed, every leaf in use would be refused.
    #[test]
    fn samples_are_what_the_format_says() {
        let uuid = [
            16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
        ];
        let units: [u64; SAMPLES_MAX] = [
            0, 1, 2, 3, 4, 5, 6, 7, 16, 250000, 249999, 249998, 33455, 112495, 199438, 108471,
            116165, 94, 86882, 236082, 174067, 158211, 161683, 217879, 201857, 247542, 186824,
            167851, 5683, 67069, 101791, 168121, 145739, 111020, 9312, 142506, 170475, 178611,
            49611, 19966, 244567, 51780, 166046, 6331,
        ];
        let first = units.iter().map(|unit| unit * 8);
        assert!(samples(&uuid, 2_000_001).map(|s| s.0).eq(first));
    }

    #[test]
    fn first_and_last_are_always_looked_at() {
        let mut first = false;
        let mut last = false;
        for (at, count) in samples(&[1; 16], 4_000_003) {
            first |= at == 0;
            last |= at + count == 4_000_003;
        }
        assert!(first && last);
        let same = samples(&[1; 16], 1 << 30).eq(samples(&[2; 16], 1 << 30));
        assert!(!same);
    }
}
