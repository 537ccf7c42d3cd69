// SPDX-License-Identifier: GPL-2.0

//! The command line: the options of all commands, the list of commands, and the call of one.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{
    check, completions, create, diff, du, dump, export, format, freeze, gc, grow, import, limit,
    list, map, orphans, publish, remove, reset, seal, seal_root, squash, status, top, ubtab,
    verify, watch,
};
use crate::error::{self, Fail};
use crate::ubtab::generator;
use crate::{interrupt, wait};

const AFTER_HELP: &str = "\
Exit codes (check has its own, see its --help):
  0  done
  1  failed: I/O error, an error of the kernel, the module is not loaded
  2  the command line is wrong
  3  refused: not formatted, wrong root or layer, newer version, damaged,
     looks used, too small
  4  busy: mounted, attached, or in use by others, which the message names
  128+N  ended by signal N (as a shell shows it)

A command waits, for at most 10 s, until the kernel and udev have finished with
its devices, and until other processes have closed them. With --no-wait it does
not wait.

Ctrl-C ends a command. format and create then put back what they have changed,
and say so. seal, seal-root, squash, publish and import leave no part
of a file.

With --json the answer is JSON on standard output, an error too:
  {\"error\": \"what, where, what next\", \"reason\": \"wrong_root\", \"code\": 3}

Examples:
  ubctl create --root /dev/vda --leaf /dev/vdb --format   first use of a blank leaf
  ubctl create --root /dev/vda --leaf /dev/vdb            attach it again
  ubctl list
  ubctl status unionblk0 --json
  ubctl watch --event low_space --event full              wait for a leaf to fill
  ubctl create --root gold --leaf vm1 --format --name vm1 --size 40G
  ubctl remove /dev/unionblk0 vm1
  ubctl dump /dev/vdb --map                               what the leaf holds
  ubctl check /dev/vdb --root /dev/vda                    whether it is whole
  ubctl freeze /dev/vdb                                   make it a layer
  ubctl limit unionblk0 2G                                let it use so much
  ubctl grow vm1.leaf --size 80G                          after its image grew
  ubctl reset unionblk0                                   forget all its changes
  ubctl seal /dev/vdb web-01.sealed                       pack its content
  ubctl export web-01.leaf | ssh HOST ubctl import --root gold web-01.sealed
  ubctl squash base.leaf step1.leaf base-1.sealed         merge layers into one
  ubctl publish --root gold --leaf vm1 vm1.img            write it as one image
  ubctl diff --root gold vm1 vm2                          which sectors differ
  ubctl du base.leaf step1.leaf                           what each layer holds
  ubctl map vm1                                           where its content comes from
  ubctl verify web-01.sealed
  ubctl seal-root gold.img                                so that verify can check it
  ubctl orphans /srv/leaves                               what was left behind
  ubctl ubtab                                             check /etc/ubtab";

/// The heading of the options that each command has, which separates them from its own.
const EVERY_COMMAND: &str = "Options of every command";

/// Shows a read-only root and a private leaf as one read-write disk, /dev/unionblkN
#[derive(Debug, Parser)]
#[command(name = "ubctl", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Answer in JSON
    #[arg(long, global = true, help_heading = EVERY_COMMAND)]
    pub json: bool,
    /// Do not wait for udev, nor until a device in use is free
    #[arg(long, global = true, help_heading = EVERY_COMMAND)]
    pub no_wait: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a blank device or image the leaf of a root
    Format(format::FormatArgs),
    /// Attach a leaf to its root and layers, and print the union's device
    Create(create::CreateArgs),
    /// Detach unions: make all changes durable, and close their devices
    Remove(remove::RemoveArgs),
    /// Print one line for each union
    List(list::ListArgs),
    /// Show all that the driver reports of a union
    Status(status::StatusArgs),
    /// Follow the events of unions: space, read-only, errors, freeze, reset, resize
    Watch(watch::WatchArgs),
    /// Show what unions read and write, as rates
    Top(top::TopArgs),
    /// Show the metadata of a leaf, also of a damaged one; writes nothing
    Dump(dump::DumpArgs),
    /// Find all damage of a leaf, and repair what can be repaired without a guess
    Check(check::CheckArgs),
    /// Make a leaf a read-only layer, in place
    Freeze(freeze::FreezeArgs),
    /// Make a leaf, and the union on it, larger
    Grow(grow::GrowArgs),
    /// Set how much of its space a leaf may use
    Limit(limit::LimitArgs),
    /// Make a leaf forget all its changes; a union keeps its device
    Reset(reset::ResetArgs),
    /// Write the sectors that a leaf maps as a sealed layer, which is packed and canonical
    Seal(seal::SealArgs),
    /// Write the digests of a root beside it, so that it can be verified
    SealRoot(seal_root::SealRootArgs),
    /// Write the changes of a leaf or layer to standard output, as one stream
    Export(export::ExportArgs),
    /// Make a sealed layer from a stream of export on standard input, and verify all of it
    Import(import::ImportArgs),
    /// Merge layers into one sealed layer, which stands in for them
    Squash(squash::SquashArgs),
    /// Write root, layers and leaf as one raw image
    Publish(publish::PublishArgs),
    /// Show which sectors of two unions differ
    Diff(diff::DiffArgs),
    /// Show how much leaves and layers map, and how much of it is visible in a stack
    Du(du::DuArgs),
    /// Draw which parts of a disk come from the root, which layer, the leaf, or are zeroes
    Map(map::MapArgs),
    /// Find the loop devices and leaves that were left behind
    Orphans(orphans::OrphansArgs),
    /// Detach the loop devices that were left behind
    Gc(gc::GcArgs),
    /// Check /etc/ubtab, the unions that systemd makes at boot
    Ubtab(ubtab::UbtabArgs),
    /// Verify all of a sealed layer, a root or a frozen leaf: its digest, and each MiB of its data
    Verify(verify::VerifyArgs),
    /// Print the completion of this command line for a shell
    #[command(after_help = "make install puts it where each shell looks.")]
    Completions(completions::CompletionsArgs),
}

/// Runs the tool: takes the arguments and returns the exit code.
pub fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = generator::run_if_named(&args) {
        return code;
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    if cli.no_wait {
        wait::disable();
    }
    let done = match &cli.command {
        Command::Format(args) => format::run(args, cli.json),
        Command::Create(args) => create::run(args, cli.json),
        Command::Remove(args) => remove::run(args, cli.json),
        Command::List(args) => list::run(args, cli.json),
        Command::Status(args) => status::run(args, cli.json),
        Command::Watch(args) => watch::run(args, cli.json),
        Command::Top(args) => top::run(args, cli.json),
        Command::Dump(args) => dump::run(args, cli.json),
        Command::Freeze(args) => freeze::run(args, cli.json),
        Command::Grow(args) => grow::run(args, cli.json),
        Command::Limit(args) => limit::run(args, cli.json),
        Command::Reset(args) => reset::run(args, cli.json),
        Command::Seal(args) => seal::run(args, cli.json),
        Command::SealRoot(args) => seal_root::run(args, cli.json),
        Command::Export(args) => export::run(args, cli.json),
        Command::Import(args) => import::run(args, cli.json),
        Command::Squash(args) => squash::run(args, cli.json),
        Command::Publish(args) => publish::run(args, cli.json),
        Command::Diff(args) => diff::run(args, cli.json),
        Command::Du(args) => du::run(args, cli.json),
        Command::Map(args) => map::run(args, cli.json),
        Command::Orphans(args) => orphans::run(args, cli.json),
        Command::Gc(args) => gc::run(args, cli.json),
        Command::Ubtab(args) => ubtab::run(args, cli.json),
        Command::Verify(args) => verify::run(args, cli.json),
        Command::Completions(args) => completions::run(args),
        Command::Check(args) => return check::run(args, cli.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            let reason = fail.reason;
            let code = fail.report(cli.json);
            interrupt::end_process(reason);
            code
        }
    }
}

/// Reports a wrong command line. Also prints `--help` and `--version`, which clap returns as
/// errors.
fn usage(e: &clap::Error) -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let wants_json = std::env::args_os().any(|a| a == "--json");
    let of_check = args.find(|a| !a.as_encoded_bytes().starts_with(b"-")) == Some("check".into());
    let code = if of_check { check::USAGE } else { error::USAGE };
    if e.use_stderr() && wants_json {
        let text = e.render().to_string();
        let text = text.trim().trim_start_matches("error: ");
        return Fail::new(code, "usage", text).report(true);
    }
    // A closed pipe is not reported.
    let _ = e.print();
    ExitCode::from(if e.use_stderr() { code } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
