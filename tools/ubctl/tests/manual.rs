// SPDX-License-Identifier: GPL-2.0

//! Checks the completions against the commands and options that clap knows.

mod common;

use clap::{Arg, Command, CommandFactory};
use common::ubctl;
use ubctl::cli::Cli;

/// Returns the options that all commands have.
fn global() -> [&'static str; 4] {
    ["json", "no_wait", "help", "version"]
}

fn commands(cli: &Command) -> impl Iterator<Item = &Command> {
    cli.get_subcommands().filter(|c| c.get_name() != "help")
}

fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|a| !a.is_hide_set() && !global().contains(&a.get_id().as_str()))
}

#[test]
fn completions_know_every_command_and_option() {
    let mut cli = Cli::command();
    cli.build();
    for shell in ["bash", "zsh", "fish"] {
        let script = ubctl(&format!("completions {shell}"), &[]).done().out;
        for command in commands(&cli) {
            assert!(script.contains(command.get_name()), "{shell}: {command}");
            for option in arguments(command).filter_map(Arg::get_long) {
                // fish writes "-l option" for "--option".
                let found = script.contains(&format!("--{option}"))
                    || script.contains(&format!("-l {option}"));
                assert!(found, "{shell}: {command} --{option}");
            }
        }
    }
}

#[test]
fn other_shells_are_refused() {
    ubctl("completions csh", &[]).refused(2, &["csh", "bash, fish, zsh"]);
}
