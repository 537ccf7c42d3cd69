// SPDX-License-Identifier: GPL-2.0

//! Reads the list of the root and the layers that a leaf was made on.

use super::super::disk::Disk;
use super::super::error::{Area, Error, Result};
use super::super::format::below_list::{self, Listed, ListedLayer};
use super::super::format::superblock::Superblock;
use super::super::sha256::Sha256;
use super::chain::ChainId;

/// Calls `each` with the root, if there is one, and then with each layer that the leaf lists, the
/// lowest first.
///
/// Fails if a block of the list is damaged, or if the layers are not those of the superblock's
/// chain. The caller must not use the entries then. Process context.
pub fn read<S: Sha256, D: Disk>(
    disk: &mut D,
    sb: &Superblock,
    mut each: impl FnMut(&Listed) -> Result,
) -> Result {
    let g = &sb.geometry;
    let mut chain = ChainId::BOTTOM;
    for n in 0..g.below_list_blocks() {
        let at = g.below_list_block(n);
        disk.give_way()?;
        disk.read(at, 1)?;
        let mut done = Ok(());
        let decoded = below_list::decode(disk.block(), n, sb, |listed| {
            if let Listed::Layer(layer) = &listed {
                chain = chain.with::<S>(&layer.id);
            }
            if done.is_ok() {
                done = each(&listed);
            }
        });
        decoded.map_err(|_| Error::Damaged(Area::BelowList, at))?;
        done?;
    }
    if chain != sb.chain {
        return Err(Error::Damaged(Area::BelowList, g.below_list_block(0)));
    }
    Ok(())
}

/// Calls `each` with each layer, and fails, as [`read`] does. Reads nothing if there is no layer,
/// because the superblock has the digest of the root.
pub fn layers<S: Sha256, D: Disk>(
    disk: &mut D,
    sb: &Superblock,
    mut each: impl FnMut(&ListedLayer) -> Result,
) -> Result {
    if sb.geometry.layers() == 0 {
        return Ok(());
    }
    read::<S, D>(disk, sb, |listed| match listed {
        Listed::Root(_) => Ok(()),
        Listed::Layer(layer) => each(layer),
    })
}
