// SPDX-License-Identifier: GPL-2.0

//! How leaves are laid out.

use ubcore::error::Error;
use ubcore::geometry::{Geometry, SLAB_SECTORS_DEFAULT};
use ubctl::commands::format::{Discard, LayoutArgs};

/// The blocks of all devices: as large as those of the file system. Direct I/O with them works on
/// each host.
pub const BLOCK_BYTES: u32 = 4096;
/// The journal of a leaf, 1 MiB.
const JOURNAL_BLOCKS: u32 = 256;
/// The least room for data. A mount alone writes some slabs.
const LEAST_SECTORS: u64 = 8192;

/// Returns the layout for a format. Discarded slabs show the layers again, because the content of
/// free space does not matter, and zeroes would take room in the map.
pub fn layout() -> LayoutArgs {
    LayoutArgs {
        slab_size: SLAB_SECTORS_DEFAULT,
        journal_size: Some(JOURNAL_BLOCKS),
        discard: Discard::Reveal,
        name: None,
        sector_size: None,
        preallocate: false,
        size: None,
        limit: None,
        // No leaf of containerd grows, and each has exactly the room for data that was asked for.
        grow_to: Some(0),
        union_sectors_max: 0,
    }
}

/// Returns the size of a leaf with room for `bytes` of data, for a union of `union` sectors on so
/// many layers.
pub fn leaf_sectors(bytes: u64, union: u64, layers: u32) -> Result<u64, Error> {
    let slab = u64::from(SLAB_SECTORS_DEFAULT);
    let data = bytes
        .div_ceil(512)
        .clamp(LEAST_SECTORS, union.max(LEAST_SECTORS));
    let data = data.next_multiple_of(slab);
    let mut leaf = data;
    loop {
        let geometry = Geometry::new(union, union, leaf, SLAB_SECTORS_DEFAULT, JOURNAL_BLOCKS);
        // Each step makes the leaf larger, so the loop ends.
        match geometry.and_then(|g| g.over(layers)) {
            Ok(g) => match data.saturating_sub(u64::from(g.leaf_slabs()) * slab) {
                0 => return Ok(leaf),
                missing => leaf += missing,
            },
            Err(Error::LeafTooSmall(least, _)) if least > leaf => leaf = least,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{leaf_sectors, Geometry, JOURNAL_BLOCKS, LEAST_SECTORS, SLAB_SECTORS_DEFAULT};

    #[test]
    fn a_leaf_has_the_room_asked_for_and_no_slab_more() {
        let union = 64 << 21;
        for bytes in [0, 1, 33_554_432, 10 << 30, 12_345_678_901, 1 << 60] {
            for layers in [0, 1, 254] {
                let leaf = leaf_sectors(bytes, union, layers).unwrap();
                let g = Geometry::new(union, union, leaf, SLAB_SECTORS_DEFAULT, JOURNAL_BLOCKS);
                let g = g.unwrap().over(layers).unwrap();
                let room = u64::from(g.leaf_slabs()) * 128;
                let wanted = (bytes.div_ceil(512)).clamp(LEAST_SECTORS, union);
                assert_eq!(room, wanted.next_multiple_of(128), "{bytes} {layers}");
                assert_eq!(leaf % 8, 0);
            }
        }
        assert!(leaf_sectors(1, union, 255).is_err());
    }
}
