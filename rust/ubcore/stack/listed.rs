// SPDX-License-Identifier: GPL-2.0

//! Reads the list of the layers that a leaf was made on.

use super::super::disk::Disk;
use super::super::error::{Area, Error, Result};
use super::super::format::layer_list::{self, ListedLayer};
use super::super::format::superblock::Superblock;
use super::super::sha256::Sha256;
use super::chain::ChainId;

/// Calls `each` with each layer that the leaf lists, the lowest first.
///
/// Fails if a block of the list is damaged, or if the layers are not those of the superblock's
/// chain. The caller must not use the layers then. Process context.
pub fn read<S: Sha256, D: Disk>(
    disk: &mut D,
    sb: &Superblock,
    mut each: impl FnMut(&ListedLayer) -> Result,
) -> Result {
    let g = &sb.geometry;
    let mut chain = ChainId::BOTTOM;
    for n in 0..layer_list::blocks_for(g.layers()) {
        let at = g.layer_list_block(n);
        disk.give_way()?;
        disk.read(at, 1)?;
        let mut done = Ok(());
        let decoded = layer_list::decode(disk.block(), n, sb.nonce, g.layers(), |layer| {
            chain = chain.with::<S>(&layer.id);
            if done.is_ok() {
                done = each(&layer);
            }
        });
        decoded.map_err(|_| Error::Damaged(Area::LayerList, at))?;
        done?;
    }
    if chain != sb.chain {
        return Err(Error::Damaged(Area::LayerList, g.layer_list_block(0)));
    }
    Ok(())
}
