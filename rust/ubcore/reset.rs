// SPDX-License-Identifier: GPL-2.0

//! Reset: makes a leaf forget all its changes, by a new superblock in both slots.
//!
//! The new superblock names no directory block, so each map page counts as never written. The
//! number of the next journal block is above that of every block in the ring. So nothing that the
//! old superblock led to is found again, and the cost does not depend on what the leaf holds.

use super::attach::Probe;
use super::disk::Disk;
use super::error::{Error, Result};
use super::format::ring::NUMBERS;
use super::format::superblock::Superblock;
use super::superblock_slots;

/// Returns the superblock that makes a leaf empty. `clean` says that no union uses the leaf.
///
/// The rest stays: the UUID, by which the root's samples are drawn, the name, the nonce, by which
/// the list of root and layers is known, and the features.
pub(super) fn emptied(sb: &Superblock, clean: bool) -> Result<Superblock> {
    let mut next = superblock_slots::next(sb)?;
    // Since the checkpoint of `sb`, at most all blocks of the ring were written, in the order of
    // their numbers. So the next number is above all of them, and the ring need not be read.
    let blocks = u64::from(sb.geometry.journal_blocks());
    let sequence = sb.journal_sequence.checked_add(blocks);
    next.journal_sequence = sequence.filter(|&n| n < NUMBERS).ok_or(Error::Internal)?;
    next.clean = clean;
    next.directory_slots.fill(0);
    Ok(next)
}

/// Resets a leaf that no union uses, and returns its new superblock. Reads nothing more, so damage
/// to anything but both superblock slots does not matter.
///
/// The leaf is empty once the first superblock slot is written. If the call fails, the leaf is as
/// before or empty.
pub fn reset<D: Disk>(disk: &mut D, probe: &Probe) -> Result<Superblock> {
    probe.writable()?;
    let next = emptied(&probe.superblock, true)?;
    superblock_slots::write(disk, probe.slot, &next)??;
    Ok(next)
}
