// SPDX-License-Identifier: GPL-2.0

//! A union on the host: the core over memory, and over a disk that can lose power.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod disk;
pub mod memory;
pub mod oracle;
pub mod release;
pub mod union;
