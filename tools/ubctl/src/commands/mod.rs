// SPDX-License-Identifier: GPL-2.0

//! The commands. Each file has the arguments of one command, what it does, and its tests.

pub mod check;
pub mod completions;
pub mod create;
pub mod diff;
pub mod du;
pub mod dump;
pub mod export;
pub mod format;
pub mod freeze;
pub mod gc;
pub mod grow;
pub mod import;
pub mod limit;
pub mod list;
pub mod map;
pub mod orphans;
pub mod publish;
pub mod remove;
pub mod reset;
pub mod seal;
pub mod seal_root;
pub mod squash;
pub mod status;
pub mod top;
pub mod ubtab;
pub mod verify;
pub mod watch;
