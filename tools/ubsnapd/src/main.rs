// SPDX-License-Identifier: GPL-2.0

//! `ubsnapd`, containerd's snapshotter of unionblk. All of its code is in the library beside this
//! file.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ubsnapd::main()
}
