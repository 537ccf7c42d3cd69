// SPDX-License-Identifier: GPL-2.0

//! The bytes on a leaf, without their meaning: one file for each kind of block.
//!
//! Each file has a disk type (little-endian, fixed offsets) and a checked decoding of it.

pub mod below_list;
mod checksum;
pub mod crc;
pub mod directory;
pub mod features;
pub mod name;
pub mod new_leaf;
pub mod record;
pub mod ring;
pub mod superblock;

/// The format version that this code writes and the newest that it reads.
pub const VERSION: u32 = 1;

/// Checks the fields of a block. Each is whether the field is sound, and its first byte. Fails with
/// the byte of the first one that is not sound.
pub fn first_wrong(fields: &[(bool, usize)]) -> Result<(), usize> {
    match fields.iter().find(|(sound, _)| !sound) {
        Some(&(_, at)) => Err(at),
        None => Ok(()),
    }
}
