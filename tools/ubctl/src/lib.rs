// SPDX-License-Identifier: GPL-2.0

//! The command-line tool of unionblk, on top of the core that the driver also uses. Each command is
//! a file in `commands`; the other files are helpers.

#![deny(unsafe_code, missing_docs)]

pub mod ahead;
pub mod busy;
pub mod cli;
pub mod commands;
pub mod control;
pub mod device;
pub mod dm;
pub mod health;
pub mod identity;
pub mod image;
#[expect(unsafe_code, reason = "the one place that hands memory to the kernel")]
mod ioctl;
pub mod lost;
pub mod memory;
pub mod output;
pub mod overlap;
pub mod refuse;
pub mod sectors;
pub mod settle;
pub mod space;
pub mod udev;
pub mod undo;
pub mod used;
pub mod value_parser;

pub use cli::main;
