// SPDX-License-Identifier: GPL-2.0

//! What the tests of the core share.
//!
//! - A union without a kernel: the core over memory, and over a disk that can lose power ([`disk`],
//!   [`memory`], [`union`]), and what each sector may hold after a power failure ([`oracle`]).
//! - A host for the core's protocol on threads ([`host`]), and the contents that a history of
//!   requests allows ([`history`]).
//! - The parts of a union over any disk ([`parts`]).
//! - `ubctl check` over the simulated disk, and damage ([`inspect`]).
//! - Sealed layers in memory, and the content that they were made from ([`sealed`]).
//! - The layers of a stack, and the memory of a stack map ([`layers`]).
//! - A map in which something else happens at each access ([`hooked`]).

pub mod disk;
pub mod history;
pub mod hooked;
pub mod host;
pub mod inspect;
pub mod layers;
mod leaf;
pub mod memory;
pub mod oracle;
pub mod parts;
pub mod reclaim;
mod request;
pub mod sealed;
mod threads;
pub mod union;

/// The SHA-256 of the tool.
pub use map_memory::sha256;
