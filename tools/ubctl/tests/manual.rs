// SPDX-License-Identifier: GPL-2.0

//! Checks the man page `Documentation/ubctl.rst` and the completions. The commands and options on
//! the page are what clap knows of them. With `UPDATE=1` the test writes them into the page.

use clap::{Arg, Command, CommandFactory};
use std::path::Path;
use tool::ubctl;
use ubctl::cli::Cli;

/// The generated part of the page lies between these lines.
const BEGIN: &str = "writes them with UPDATE=1.\n";
const END: &str = "\nWhat an answer means\n====";

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

/// Returns plain text as reStructuredText.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if "\\*`|_".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Breaks text into lines of at most 80 columns.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.len() <= 80 {
            out.push(' ');
            column += 1;
        } else {
            if column > 0 {
                out.push('\n');
            }
            out += indent;
            column = indent.len();
        }
        out += word;
        column += word.len();
    }
    out.push('\n');
    out
}

fn literal(text: &str) -> String {
    let mut out = String::from("::\n\n");
    for line in text.trim_end().lines() {
        out += format!("  {line}").trim_end();
        out.push('\n');
    }
    out
}

fn heading(text: &str, line: &str) -> String {
    format!("\n{text}\n{}\n\n", line.repeat(text.len()))
}

fn sentence(text: &str) -> String {
    format!("{}.", escaped(text.trim_end_matches('.')))
}

/// Returns an entry for an option or an operand.
fn entry(arg: &Arg) -> String {
    let mut help = escaped(&arg.get_help().unwrap_or_default().to_string());
    let defaults = arg.get_default_values().iter();
    let defaults: Vec<&str> = defaults.filter_map(|v| v.to_str()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        help += &format!(" [default: {}]", defaults.join(" "));
    }
    let values = arg.get_possible_values();
    if !values.is_empty() && arg.get_action().takes_values() {
        let values: Vec<&str> = values.iter().map(|v| v.get_name()).collect();
        help += &format!(" [possible values: {}]", values.join(", "));
    }
    let short = arg.get_short().map(|c| format!("``-{c}``, "));
    let short = short.unwrap_or_default();
    format!("{short}``{arg}``\n{}\n", wrapped(&help, "  "))
}

/// Returns the generated part of the page.
fn generated() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut out = String::new();
    out += &heading("Options of every command", "=");
    for arg in cli.get_arguments() {
        out += &entry(arg);
    }
    out += heading("Commands", "=").trim_start();
    for command in commands(&cli) {
        out += heading(command.get_name(), "-").trim_start();
        let about = command.get_about().map(ToString::to_string);
        out += &wrapped(&sentence(&about.unwrap_or_default()), "");
        let usage = command.clone().render_usage().to_string();
        out += &format!("\n{}\n", literal(usage.trim_start_matches("Usage: ")));
        for arg in arguments(command) {
            out += &entry(arg);
        }
        if let Some(more) = command.get_after_help() {
            out += &format!("{}\n", literal(&more.to_string()));
        }
    }
    out += heading("Exit status, JSON and examples", "=").trim_start();
    out += &literal(&cli.get_after_help().unwrap().to_string());
    out
}

#[test]
fn the_man_page_has_every_command_and_option() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Documentation/ubctl.rst");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    for (n, (f, w)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(
            f, w,
            "line {n} of the commands in ubctl.rst: run this test with UPDATE=1"
        );
    }
    assert_eq!(
        found.lines().count(),
        wanted.lines().count(),
        "ubctl.rst: UPDATE=1"
    );
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
