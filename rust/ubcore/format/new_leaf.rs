// SPDX-License-Identifier: GPL-2.0

//! A new leaf: its superblock, and the writes that make a device a leaf.

use super::super::geometry::{Block, Geometry, BLOCK_BYTES};
use super::features::Features;
use super::name::LeafName;
use super::superblock::Superblock;

impl Superblock {
    /// Returns the superblock of a blank leaf. `uuid` and `nonce` must be random, and
    /// `root_digest` is that of `identity` over the root.
    pub fn new(
        uuid: [u8; 16],
        nonce: u64,
        geometry: Geometry,
        root_block_bytes: u32,
        root_digest: [u8; 32],
    ) -> Superblock {
        Superblock {
            generation: 1,
            uuid,
            nonce,
            geometry,
            root_block_bytes,
            clean: true,
            reveal: false,
            preallocated: false,
            journal_tail: 0,
            journal_sequence: 1,
            root_digest,
            name: LeafName::NONE,
            features: Features::NONE,
            directory_slots: [0; 256],
        }
    }
}

/// Makes a device the leaf that `superblock` describes. Calls `write` for each write in order,
/// with the block on the leaf and its bytes. `write` must make them durable before it returns. The
/// first error ends the format.
///
/// After a power failure the leaf is a whole old one or a whole new one, or the device is no leaf
/// if it was none before. The second slot is emptied first. Otherwise the first slot could be new
/// and the second still old, and a loss of the first would make the old leaf valid again. Stale
/// blocks elsewhere are not wiped, because they do not carry the new nonce.
pub fn write<E>(
    superblock: &Superblock,
    mut write: impl FnMut(u64, &Block) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = [0; BLOCK_BYTES];
    write(1, &block)?;
    superblock.encode(&mut block);
    write(0, &block)?;
    write(1, &block)
}
