// SPDX-License-Identifier: GPL-2.0

//! `ubctl`, the command-line tool of unionblk. All of its code is in the library beside this file,
//! so that tests can call it.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ubctl::main()
}
