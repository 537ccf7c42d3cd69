// SPDX-License-Identifier: GPL-2.0

//! A new leaf: its superblock, and the writes that make a device a leaf.

use super::super::geometry::{superblock_block, Block, Geometry, BLOCK_BYTES};
use super::super::leaf_block::LeafBlock;
use super::super::num::u32_as_usize;
use super::super::slot::Slot;
use super::super::stack::chain::ChainId;
use super::features::{Features, LAYERED, NO_ROOT};
use super::layer_list::{self, ListedLayer, LAYERS_PER_BLOCK};
use super::name::LeafName;
use super::superblock::Superblock;

impl Superblock {
    /// Returns the superblock of a blank leaf. `uuid` and `nonce` must be random. `root_digest` is
    /// that of `root_samples` over the root, or zero if the bottom is none, so that `geometry` has
    /// a root of no sectors. If `geometry` counts layers, the caller sets `chain`.
    pub fn new(
        uuid: [u8; 16],
        nonce: u64,
        geometry: Geometry,
        root_block_bytes: u32,
        root_digest: [u8; 32],
    ) -> Superblock {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let incompat =
            bit(geometry.layers() > 0, LAYERED) | bit(geometry.root_sectors() == 0, NO_ROOT);
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
            features: Features {
                incompat,
                ..Features::NONE
            },
            chain: ChainId::BOTTOM,
            frozen: None,
            directory_slots: [0; 256],
        }
    }
}

/// Makes a device the leaf that `superblock` describes, on top of `layers`, the lowest first.
/// Calls `write` for each write in order, with the block on the leaf and its bytes. `write` must
/// make them durable before it returns. The first error ends the format.
///
/// After a power failure the leaf is a whole old one or a whole new one, or the device is no leaf
/// if it was none before, or if the new one has layers. The second slot is emptied first.
/// Otherwise the first slot could be new and the second still old, and a loss of the first would
/// make the old leaf valid again. The list of layers may lie where the old leaf has its map. For
/// this reason the first slot is emptied before the list is written. Stale blocks elsewhere are
/// not wiped, because they do not carry the new nonce.
pub fn write<E>(
    superblock: &Superblock,
    layers: &[ListedLayer],
    mut write: impl FnMut(LeafBlock, &Block) -> Result<(), E>,
) -> Result<(), E> {
    let g = &superblock.geometry;
    let mut block = [0; BLOCK_BYTES];
    write(superblock_block(Slot::B), &block)?;
    if !layers.is_empty() {
        write(superblock_block(Slot::A), &block)?;
    }
    for (n, layers) in (0..).zip(layers.chunks(u32_as_usize(LAYERS_PER_BLOCK))) {
        layer_list::encode(&mut block, n, superblock.nonce, layers);
        write(g.layer_list_block(n), &block)?;
    }
    superblock.encode(&mut block);
    write(superblock_block(Slot::A), &block)?;
    write(superblock_block(Slot::B), &block)
}
