// SPDX-License-Identifier: GPL-2.0

//! Verification of one chunk of data. Chunks do not depend on each other, so threads can share
//! them.

use super::super::geometry::{Block, BLOCK_SECTORS};
use super::super::num::{u64_as_usize, usize_as_u64, SECTOR_BYTES};
use super::super::stack::extent::{Content, Extent};
use super::fault::sector_of;
use super::packing::UNIT;
use super::{is_zero, Digest, Sha256};

/// Returns whether all blocks of a chunk have this digest.
pub fn has_digest<H: Sha256>(blocks: &[Block], digest: &Digest) -> bool {
    let mut found = H::new();
    found.update(blocks.as_flattened());
    found.finish() == *digest
}

/// Returns the first sector of the layer that is not as the canonical form has it, in blocks from
/// `first` on: a sector between the data of two extents that is not zero, or a whole unit of zeroes
/// in the data of an extent.
///
/// `extents` are the extents of the layer that have data in these blocks, in order. The digests do
/// not exclude either, because the maker of the layer computed them.
pub fn stray(first: u64, blocks: &[Block], extents: &[Extent]) -> Option<u64> {
    let start = sector_of(first);
    // The blocks are in memory, and a layer has fewer than 2^48 sectors.
    let end = start.wrapping_add(usize_as_u64(blocks.len()).wrapping_mul(BLOCK_SECTORS));
    let mut at = start;
    for extent in extents {
        let Content::Data(position) = extent.content else {
            continue;
        };
        let from = position.clamp(start, end);
        // A limit, like all that is clamped.
        let to = position.saturating_add(extent.sectors).clamp(from, end);
        let strange = not_zero(start, blocks, at, from);
        if let Some(sector) = strange.or_else(|| zero_unit(start, blocks, from, to)) {
            return Some(sector);
        }
        at = to.max(at);
    }
    not_zero(start, blocks, at, end)
}

/// Returns the bytes of the sectors from `from` up to `to`, if they are all there.
fn bytes_of(start: u64, blocks: &[Block], from: u64, to: u64) -> Option<&[u8]> {
    let at = |sector: u64| {
        let bytes = sector.checked_sub(start)?.checked_mul(SECTOR_BYTES)?;
        Some(u64_as_usize(bytes))
    };
    blocks.as_flattened().get(at(from)?..at(to)?)
}

/// Returns the first sector from `from` up to `to` that is not zero. It is `from` if the sectors
/// are not there, because a sector that was not looked at must not pass.
fn not_zero(start: u64, blocks: &[Block], from: u64, to: u64) -> Option<u64> {
    let Some(bytes) = bytes_of(start, blocks, from, to) else {
        return Some(from);
    };
    let sectors = bytes.chunks(u64_as_usize(SECTOR_BYTES));
    let at = (from..).zip(sectors).find(|(_, bytes)| !is_zero(bytes));
    at.map(|(sector, _)| sector)
}

/// Returns the first whole unit from `from` up to `to` that is zero. Data lies in its block as in
/// its unit, so units begin where blocks do. It is the first unit if the sectors are not there.
fn zero_unit(start: u64, blocks: &[Block], from: u64, to: u64) -> Option<u64> {
    let first = from.checked_next_multiple_of(UNIT).filter(|&n| n < to)?;
    let Some(bytes) = bytes_of(start, blocks, first, to) else {
        return Some(first);
    };
    let units = bytes.chunks_exact(u64_as_usize(UNIT.wrapping_mul(SECTOR_BYTES)));
    let at = (0u64..).zip(units).find(|(_, bytes)| is_zero(bytes));
    // Sectors of the layer.
    at.map(|(n, _)| first.wrapping_add(n.wrapping_mul(UNIT)))
}
