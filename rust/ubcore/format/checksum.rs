// SPDX-License-Identifier: GPL-2.0

//! The checksum of a block of the directory, of the journal, or of the list of root and layers,
//! after the four bytes of its magic.

use super::crc::block_crc;

/// The byte at which the checksum begins.
pub(super) const CRC_AT: usize = 4;

/// Returns whether a block's checksum is right.
pub(super) fn has_valid_checksum(block: &[u8]) -> bool {
    let stored = block.get(CRC_AT..).and_then(|b| b.first_chunk::<4>());
    let stored = stored.map(|b| u32::from_le_bytes(*b));
    stored.is_some() && block_crc(block, CRC_AT) == stored
}

/// Returns whether a block that is not valid was once written for this leaf, and is torn or damaged
/// now: it has this leaf's nonce, or the magic of its kind and a wrong checksum. A block that an
/// earlier format of the device left whole has another nonce and a right checksum.
pub(super) fn was_of_leaf(block: &[u8], has_magic: bool, has_nonce: bool) -> bool {
    has_nonce || (has_magic && !has_valid_checksum(block))
}
