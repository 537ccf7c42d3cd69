// SPDX-License-Identifier: GPL-2.0

//! Casts by names that say what they do, and bit positions that cannot overflow. `FROM_as_TO`
//! loses nothing.
//!
//! Sums and products in the core are of four kinds. `wrapping_*` stands where a bound holds, which
//! is an invariant of [`Geometry`](super::geometry::Geometry) or is beside the line. It also stands
//! where the wrap is meant: in the steps of the journal's records
//! ([`LeafSlab`](super::geometry::LeafSlab)), in the random numbers of
//! [`root_samples`](super::root_samples), and in the [epochs](super::protocol::epoch). `checked_*`
//! stands where no bound holds, and its failure is damage or `Internal`. `saturating_*` stands
//! where the last value is the right answer: for limits, for what is left of a range, for counts of
//! events.

/// Bytes in a sector: the unit of every address here.
pub const SECTOR_BYTES: u64 = 512;

// The casts of this file need it.
const _: () = assert!(usize::BITS == 64);

/// Converts an index.
#[inline(always)]
pub const fn u64_as_usize(v: u64) -> usize {
    v as usize
}

/// Widens a 32-bit index.
#[inline(always)]
pub const fn u32_as_usize(v: u32) -> usize {
    v as usize
}

/// Widens a length to 64 bits.
#[inline(always)]
pub const fn usize_as_u64(v: usize) -> u64 {
    v as u64
}

/// Converts to 32 bits; a larger value becomes `u32::MAX`. For counts that a bound keeps below it.
#[inline(always)]
pub const fn saturating_u32(v: u64) -> u32 {
    if v > u32::MAX as u64 {
        u32::MAX
    } else {
        v as u32
    }
}

/// Returns the number after `n`: of a slab, page or block, which are below 2^31, so that it fits.
#[inline(always)]
pub const fn next(n: u32) -> u32 {
    n.wrapping_add(1)
}

/// Returns a word with the `n` low bits set; all 64 for `n >= 64`.
#[inline(always)]
pub const fn low_bits(n: u32) -> u64 {
    match 1u64.checked_shl(n) {
        Some(bit) => bit.wrapping_sub(1),
        None => u64::MAX,
    }
}

/// Returns the bits `from..to` of one 64-bit word; `from <= to <= 64`.
#[inline(always)]
pub const fn mask(from: u32, to: u32) -> u64 {
    low_bits(to) & !low_bits(from)
}

/// Rounds up to a multiple of `unit` (a power of two). Returns `None` past the end.
pub const fn align_up(v: u64, unit: u64) -> Option<u64> {
    let low = unit.wrapping_sub(1);
    match v.checked_add(low) {
        Some(sum) => Some(sum & !low),
        None => None,
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_num))]
mod tests {
    #[cfg(not(kernel))]
    use super::*;
    #[cfg(kernel)]
    use super::{align_up, low_bits, mask, saturating_u32};

    #[test]
    fn masks() {
        assert_eq!(low_bits(0), 0);
        assert_eq!(low_bits(3), 7);
        assert_eq!(low_bits(64), u64::MAX);
        assert_eq!(low_bits(200), u64::MAX);
        assert_eq!(mask(4, 8), 0xf0);
        assert_eq!(mask(0, 64), u64::MAX);
        assert_eq!(mask(5, 5), 0);
    }

    #[test]
    fn saturating_and_rounding() {
        assert_eq!(saturating_u32(u64::MAX), u32::MAX);
        assert_eq!(saturating_u32(7), 7);
        assert_eq!(align_up(1, 8), Some(8));
        assert_eq!(align_up(16, 8), Some(16));
        assert_eq!(align_up(u64::MAX, 8), None);
    }
}
