// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets for libFuzzer. Bytes become a leaf ([`make`]), the core reads it, and each
//! target asserts what must hold for any leaf. The core must not panic or overflow, and its work
//! and memory must be in proportion to what the leaf holds ([`leaf`], [`memory`]).

pub mod attach;
pub mod chain;
pub mod check;
pub mod directory;
pub mod journal;
pub mod leaf;
pub mod make;
pub mod memory;
pub mod real;
pub mod repair;
pub mod sealed;
pub mod seeds;
pub mod source;
pub mod superblock;
