// SPDX-License-Identifier: GPL-2.0

//! What lies below a leaf: the bottom (a root, or nothing) and read-only layers over it.

pub mod build;
pub mod chain;
pub mod changed_slabs;
pub mod extent;
pub mod leaf_extents;
pub mod listed;
pub mod map;
pub mod source;
pub mod word;
