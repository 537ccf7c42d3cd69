// SPDX-License-Identifier: GPL-2.0

//! The command-line tool of unionblk, on top of the core that the driver also uses. Each command is
//! a file in `commands`; the other files are helpers.

#![deny(unsafe_code, missing_docs)]

pub mod attributes;
pub mod backing;
pub mod below;
pub mod blocksize;
pub mod cli;
pub mod commands;
pub mod control;
pub mod device;
pub mod dm;
pub mod error;
pub mod full_digest;
pub mod holders;
pub mod in_use;
pub mod interrupt;
#[expect(unsafe_code, reason = "the one place that hands memory to the kernel")]
mod ioctl;
pub mod layer_arg;
pub mod loaded;
mod locks;
pub mod loopdev;
pub mod lost_sectors;
pub mod mounts;
pub mod named;
pub mod node;
pub mod orphans;
pub mod output;
pub mod overlap;
pub mod preflight;
pub mod probe;
pub mod progress;
pub mod random;
pub mod rollback;
pub mod root_samples;
pub mod sealed;
pub mod sealing;
pub mod search;
pub mod stack;
pub mod stream;
pub mod sysfs;
pub mod target;
pub mod terminal;
pub mod ubtab;
pub mod udev;
pub mod uevents;
pub mod value_parser;
pub mod wait;
mod wrong_layer;
mod wwid;

pub use cli::main;
