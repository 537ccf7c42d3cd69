// SPDX-License-Identifier: GPL-2.0

//! A snapshotter for containerd: a committed snapshot is a frozen leaf of unionblk, an active one a
//! leaf on the frozen ones below it. `Documentation/containers.rst` has the design.

#![deny(unsafe_code, missing_docs)]

mod api;
mod bottom;
mod cli;
mod daemon;
mod disks;
mod error;
mod filter;
mod grpc;
mod held;
mod labels;
mod server;
mod service;
mod snapshot;
mod store;

pub use cli::main;
