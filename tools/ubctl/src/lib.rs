// SPDX-License-Identifier: GPL-2.0

//! The command-line tool of unionblk: one file for each command, on top of the core that the driver
//! also uses.

#![deny(unsafe_code, missing_docs)]

pub mod ahead;
pub mod busy;
pub mod check;
pub mod cli;
pub mod control;
pub mod create;
pub mod device;
pub mod dm;
pub mod dump;
pub mod format;
pub mod health;
pub mod identity;
pub mod image;
#[expect(unsafe_code, reason = "the one place that hands memory to the kernel")]
mod ioctl;
pub mod list;
pub mod lost;
pub mod memory;
pub mod output;
pub mod overlap;
pub mod refuse;
pub mod remove;
pub mod sectors;
pub mod settle;
pub mod space;
pub mod status;
pub mod udev;
pub mod undo;
pub mod used;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use refuse::Fail;

/// Runs the tool: takes the arguments and returns the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    if cli.no_wait {
        settle::no_wait();
    }
    let done = match &cli.command {
        Command::Format(args) => format::run(args, cli.json),
        Command::Create(args) => create::run(args, cli.json),
        Command::Remove(args) => remove::run(args, cli.json),
        Command::List => list::run(cli.json),
        Command::Status(args) => status::run(args, cli.json),
        Command::Dump(args) => dump::run(args, cli.json),
        Command::Check(args) => return check::run(args, cli.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => fail.report(cli.json),
    }
}

/// Reports a wrong command line. Also prints `--help` and `--version`, which clap returns as
/// errors.
fn usage(e: &clap::Error) -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let wants_json = std::env::args_os().any(|a| a == "--json");
    let of_check = args.find(|a| !a.as_encoded_bytes().starts_with(b"-")) == Some("check".into());
    let code = if of_check {
        check::USAGE
    } else {
        refuse::USAGE
    };
    if e.use_stderr() && wants_json {
        let text = e.render().to_string();
        let text = text.trim().trim_start_matches("error: ");
        return Fail::new(code, "usage", text).report(true);
    }
    // A closed pipe is not reported.
    let _ = e.print();
    ExitCode::from(if e.use_stderr() { code } else { 0 })
}
