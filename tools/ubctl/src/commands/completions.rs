// SPDX-License-Identifier: GPL-2.0

//! `ubctl completions`: prints what a shell needs to complete the command line. `make install`
//! puts it where each shell looks.

use clap::{Args, CommandFactory, ValueEnum};

use crate::cli::Cli;
use crate::error::{Fail, Result, FAILED};
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// A shell whose completion can be printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// fish
    Fish,
    /// zsh
    Zsh,
}

/// Runs the command.
pub fn run(args: &CompletionsArgs) -> Result {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ubctl", &mut script);
    let script = String::from_utf8(script)
        .map_err(|e| Fail::new(FAILED, "io", format!("the completion is no text: {e}")))?;
    output::text(&script)
}
