// SPDX-License-Identifier: GPL-2.0

//! Finds the finished transactions of a ring.

use super::super::disk::Disk;
use super::super::error::{Area, Error, Result};
use super::super::format::ring::{self, RingHead};
use super::super::format::superblock::Superblock;
use super::super::num::next;
use super::ring::after;

/// What a scan found in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanResult {
    /// Blocks of finished transactions, from the tail on.
    pub finished: u32,
    /// Blocks from the tail on that are valid and consecutive, finished or not.
    pub valid: u32,
    /// A sequence number above that of every block in the ring.
    pub sequence: u64,
}

/// Looks for finished transactions after the superblock's tail. Reads only.
///
/// Fails if a finished transaction follows a hole that no power failure explains.
pub fn scan<D: Disk>(disk: &mut D, sb: &Superblock) -> Result<ScanResult> {
    let blocks = sb.geometry.journal_blocks();
    let mut found = find_valid_blocks(sb, |at| read_head(disk, sb, at))?;
    // The superblock of a clean leaf states that the ring is empty. If no block follows the tail,
    // the rest of the ring need not be read.
    if sb.clean && found.valid == 0 {
        return Ok(found);
    }
    let hole = found.sequence;
    for at in 0..blocks {
        let Some(head) = read_head(disk, sb, at)? else {
            continue;
        };
        if head.shows_hole(hole) {
            let broken = after(sb.journal_tail, found.valid, blocks);
            return Err(Error::Damaged(
                Area::Journal,
                sb.geometry.journal_block(broken),
            ));
        }
        found.sequence = found.sequence.max(head.next());
    }
    Ok(found)
}

/// Looks for valid, consecutive blocks from the superblock's tail on. `head` returns the header of
/// the block at a position of the ring, if there is a whole block of this leaf.
pub fn find_valid_blocks(
    sb: &Superblock,
    mut head: impl FnMut(u32) -> Result<Option<RingHead>>,
) -> Result<ScanResult> {
    let blocks = sb.geometry.journal_blocks();
    let mut found = ScanResult {
        finished: 0,
        valid: 0,
        sequence: sb.journal_sequence,
    };
    while found.valid < blocks {
        let head = head(after(sb.journal_tail, found.valid, blocks))?;
        let Some(head) = head.filter(|h| h.sequence == found.sequence) else {
            break;
        };
        found.valid = next(found.valid);
        found.sequence = head.next();
        if head.last {
            found.finished = found.valid;
        }
    }
    Ok(found)
}

/// Reads the header of the block at a position of the ring.
pub(super) fn read_head<D: Disk>(
    disk: &mut D,
    sb: &Superblock,
    at: u32,
) -> Result<Option<RingHead>> {
    disk.give_way()?;
    disk.read(sb.geometry.journal_block(at), 1)?;
    Ok(ring::open(disk.block(), sb.nonce))
}
