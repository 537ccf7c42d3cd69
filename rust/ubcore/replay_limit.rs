// SPDX-License-Identifier: GPL-2.0

//! How many pages of the map the replay of a ring may fill that are empty on the leaf.
//!
//! A few bytes of journal can stand for whole pages of the map, so this bounds the memory that attach
//! takes for a leaf. The writer keeps to half of what a reader accepts.

use super::geometry::Geometry;

/// How many pages a writer's ring fills that were empty at the last checkpoint; a commit with which
/// they are more is made as a checkpoint. Few leaves come to it before their ring is half full.
pub fn filled_by_writers(g: &Geometry) -> u32 {
    g.journal_blocks().saturating_mul(8).saturating_add(512)
}

/// How many pages of the map a ring may fill that were empty at the last checkpoint.
///
/// Eight bytes of journal can stand for a page of the table and one of the bits, so this bounds what
/// memory a leaf takes by what it holds: 16 pages for each block of the ring and 4 MiB, and pages on
/// the leaf that are not empty. It is twice what a writer uses.
pub fn filled_max(g: &Geometry) -> u32 {
    filled_by_writers(g).saturating_mul(2)
}
