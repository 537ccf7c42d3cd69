// SPDX-License-Identifier: GPL-2.0

//! How many pages of the map that are empty on the leaf the replay of a ring may fill.
//!
//! A few bytes of journal can stand for whole pages of the map. So this limit bounds the memory
//! that attach takes for a leaf. The writer uses at most half of what a reader accepts.

use super::geometry::Geometry;

/// Returns how many pages that were empty at the last checkpoint a writer's ring may fill. If a
/// commit would exceed this number, it is made as a checkpoint. Few leaves reach it before their
/// ring is half full.
pub fn filled_by_writers(g: &Geometry) -> u32 {
    g.journal_blocks().saturating_mul(8).saturating_add(512)
}

/// Returns how many pages of the map that were empty at the last checkpoint a ring may fill.
///
/// Eight bytes of journal can stand for a page of the table and a page of the bits. So this limit
/// bounds the memory that a leaf can take: 16 pages for each block of the ring, 4 MiB, and the
/// pages that are not empty on the leaf. It is twice what a writer uses.
pub fn filled_max(g: &Geometry) -> u32 {
    filled_by_writers(g).saturating_mul(2)
}
