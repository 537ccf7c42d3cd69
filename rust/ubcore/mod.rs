// SPDX-License-Identifier: GPL-2.0
#![cfg_attr(not(kernel), no_std)]

//! The core of unionblk: what a union is, without the kernel or the tool around it.
//!
//! Format, map, allocation, journal, checkpoint and replay, as pure logic over memory and a disk
//! that the caller provides. The same files are a module of the driver, a cargo package for the
//! tool and the tests, and KUnit suites. Therefore they have no unsafe, no allocation, no panic, no
//! path but `super::`, and no dependency but `core` and `zerocopy`.

#![deny(
    missing_docs,
    unsafe_code,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![cfg_attr(
    any(test, CONFIG_KUNIT = "y"),
    allow(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod abi;
pub mod abi_copy;
pub mod alloc;
pub mod attach;
pub mod bits;
pub mod changed_pages;
pub mod check;
pub mod commit;
pub mod disk;
pub mod entry;
pub mod error;
pub mod format;
pub mod geometry;
pub mod grow;
pub mod journal;
pub mod leaf_block;
pub mod limit;
pub mod map;
pub mod num;
pub mod pages;
pub mod plan;
pub mod protocol;
#[cfg(feature = "shuttle")]
mod race_model;
pub mod replay_limit;
pub mod reset;
pub mod root_samples;
pub mod salvage;
pub mod sealed;
pub mod sha256;
pub mod slab_bitmap;
pub mod slot;
pub mod stack;
mod superblock_slots;
pub mod sync;
