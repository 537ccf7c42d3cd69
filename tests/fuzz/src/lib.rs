// SPDX-License-Identifier: GPL-2.0

//! What libFuzzer does with leaves: bytes become a leaf ([`make`]), the core reads it, and what must
//! hold of any leaf whatever is asserted. Nothing may panic, overflow, or do more than what the leaf
//! holds gives reason for ([`leaf`], [`memory`]).

pub mod attach;
pub mod check;
pub mod directory;
pub mod journal;
pub mod leaf;
pub mod make;
pub mod memory;
pub mod real;
pub mod repair;
pub mod seeds;
pub mod source;
pub mod superblock;

#[path = "../../../rust/ubcore/tests/inspect/mod.rs"]
mod inspect;
#[path = "../../../rust/ubcore/tests/sim/mod.rs"]
mod sim;
