// SPDX-License-Identifier: GPL-2.0

//! A new leaf: its superblock, and the writes that make a device a leaf.

use super::super::error::{Error, Result};
use super::super::geometry::{superblock_block, Block, Geometry, BLOCK_BYTES};
use super::super::leaf_block::LeafBlock;
use super::super::num::usize_as_u64;
use super::super::slot::Slot;
use super::super::stack::chain::ChainId;
use super::below_list::{BelowList, ListedLayer, ListedRoot, PathField};
use super::features::{Features, LAYERED, NO_ROOT, ROOT_LISTED};
use super::name::LeafName;
use super::superblock::{Superblock, DIRECTORY_SLOTS_BYTES};

impl Superblock {
    /// Returns the superblock of a blank leaf. `uuid` and `nonce` must be random. `root_digest` is
    /// that of `root_samples` over the root. If there is no root, it is zero, and `geometry` has a
    /// root of 0 sectors. If `geometry` counts layers, the caller sets `chain`.
    pub fn new(
        uuid: [u8; 16],
        nonce: u64,
        geometry: Geometry,
        root_block_bytes: u32,
        root_digest: [u8; 32],
    ) -> Superblock {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let incompat = bit(geometry.layers() > 0, LAYERED)
            | bit(geometry.root_sectors() == 0, NO_ROOT)
            | bit(geometry.lists_root(), ROOT_LISTED);
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
            directory_slots: [0; DIRECTORY_SLOTS_BYTES],
        }
    }
}

/// A new leaf, and what lies below it.
///
/// # Invariants
///
/// `below` has the root if the superblock lists one, and as many layers as the superblock counts.
pub struct NewLeaf<'a> {
    superblock: &'a Superblock,
    below: BelowList<'a>,
}

impl<'a> NewLeaf<'a> {
    /// Returns the leaf that `superblock` describes, on its root and on `layers`, the lowest first.
    /// `root` is where the root is; without a root it has no meaning.
    ///
    /// Fails if the superblock counts another number of layers.
    pub fn new(
        superblock: &'a Superblock,
        root: &PathField,
        layers: &'a [ListedLayer],
    ) -> Result<Self> {
        let (wanted, found) = (superblock.geometry.layers(), usize_as_u64(layers.len()));
        if u64::from(wanted) != found {
            return Err(Error::LayerCount(wanted.into(), found));
        }
        let listed = ListedRoot {
            digest: superblock.root_digest,
            path: *root,
        };
        let root = superblock.geometry.lists_root().then_some(listed);
        // INVARIANT: The number of layers was compared above.
        Ok(NewLeaf {
            superblock,
            below: BelowList { root, layers },
        })
    }

    /// Encodes block `n` of the list of root and layers.
    pub fn encode_list(&self, block: &mut Block, n: u32) {
        self.below.encode(block, n, self.superblock.nonce);
    }

    /// Makes a device this leaf. Calls `write` for each write in order, with the block on the leaf
    /// and its bytes. `write` must make them durable before it returns. The first error ends the
    /// format.
    ///
    /// After a power failure the device has the whole old leaf, the whole new leaf, or none. It has
    /// none only if it had none before, or if the new leaf has a list of root and layers.
    ///
    /// The second slot is emptied first. Otherwise the first slot could be new and the second still
    /// old, and a loss of the first would make the old leaf valid again. The list may lie where the
    /// old leaf has its map. For this reason the first slot is emptied before the list is written.
    /// Stale blocks elsewhere are not wiped, because they do not carry the new nonce.
    pub fn write<E>(
        &self,
        mut write: impl FnMut(LeafBlock, &Block) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let g = &self.superblock.geometry;
        let mut block = [0; BLOCK_BYTES];
        write(superblock_block(Slot::B), &block)?;
        if g.below_list_blocks() > 0 {
            write(superblock_block(Slot::A), &block)?;
        }
        // By the invariant these blocks hold all entries.
        for n in 0..g.below_list_blocks() {
            self.encode_list(&mut block, n);
            write(g.below_list_block(n), &block)?;
        }
        self.superblock.encode(&mut block);
        write(superblock_block(Slot::A), &block)?;
        write(superblock_block(Slot::B), &block)
    }
}
