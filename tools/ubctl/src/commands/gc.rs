// SPDX-License-Identifier: GPL-2.0

//! `ubctl gc`: detaches loop devices that were left behind.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::error::{Fail, Result, REFUSED};
use crate::orphans::{self, OrphanLoop};
use crate::output;

const AFTER_HELP: &str = "\
Detaches the loop devices that ubctl orphans names. The images stay, leaves too: to
delete a leaf, remove its file when no union uses it.

All is checked before anything is changed. Exits with 3 if a given device is no orphan,
and with 4 if one is in use meanwhile.

Examples:
  ubctl gc --dry-run
  ubctl gc /dev/loop3";

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GcArgs {
    /// A loop device to detach [default: all that ubctl orphans names]
    #[arg(value_name = "LOOP")]
    pub loops: Vec<PathBuf>,
    /// Only say what would be detached
    #[arg(long)]
    pub dry_run: bool,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Default, Serialize)]
struct GcReport {
    /// Whether anything was changed; false with `--dry-run`.
    changed: bool,
    detached: Vec<OrphanLoop>,
}

/// Runs the command.
pub fn run(args: &GcArgs, json: bool) -> Result {
    let all = orphans::loops()?;
    let detached = chosen(args, &all)?;
    if args.dry_run {
        let plan = GcReport {
            changed: false,
            detached,
        };
        return report(&plan, json);
    }
    let mut done = GcReport::default();
    let result = work(&detached, &mut done);
    done.changed = !done.detached.is_empty();
    match result {
        Ok(()) => report(&done, json),
        Err(fail) if json => Err(fail.with(serde_json::to_value(&done).unwrap_or_default())),
        Err(fail) if !done.changed => Err(fail),
        Err(fail) => {
            output::text(&text(&done))?;
            Err(fail)
        }
    }
}

/// Detaches devices, and notes which are done. Continues after a failure, and returns the
/// first one.
fn work(detached: &[OrphanLoop], done: &mut GcReport) -> Result {
    let mut first = Ok(());
    for orphan in detached {
        match orphan.detach() {
            Ok(()) => done.detached.push(orphan.clone()),
            Err(fail) => first = first.and(Err(fail)),
        }
    }
    first
}

/// Returns the loop devices to detach.
fn chosen(args: &GcArgs, all: &[OrphanLoop]) -> Result<Vec<OrphanLoop>> {
    if args.loops.is_empty() {
        return Ok(all.to_vec());
    }
    let find = |path: &PathBuf| {
        let node = fs::canonicalize(path).map_err(|e| Fail::io("open", path, &e))?;
        let orphan = all.iter().find(|orphan| Path::new(&orphan.device) == node);
        orphan.cloned().ok_or_else(|| {
            let text = format!(
                "{}: no loop device of a leaf or layer that no one uses, so it stays: see ubctl \
                 orphans",
                output::path(path)
            );
            Fail::new(REFUSED, "no_orphan", text)
        })
    };
    args.loops.iter().map(find).collect()
}

fn report(report: &GcReport, json: bool) -> Result {
    if json {
        return output::json(report);
    }
    output::text(&text(report))
}

fn text(report: &GcReport) -> String {
    let detached = match report.changed {
        true => "was detached",
        false => "would be detached",
    };
    let mut out = String::new();
    for orphan in &report.detached {
        out += &format!("{}: {detached} from {}\n", orphan.device, orphan.image);
    }
    if out.is_empty() {
        out += "nothing to do\n";
    }
    out
}
