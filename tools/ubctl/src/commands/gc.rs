// SPDX-License-Identifier: GPL-2.0

//! `ubctl gc`: detaches loop devices that were left behind, and deletes leaves that are named.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::error::{Fail, Result, REFUSED};
use crate::orphans::{self, Doomed, OrphanLeaf, OrphanLoop};
use crate::output;
use crate::search::Places;

const AFTER_HELP: &str = "\
Detaches the loop devices that ubctl orphans names. The images stay. A leaf is deleted
only if --delete names it, if it is an image, and if ubctl orphans names it too: it was
not detached, or its root or one of its layers is not found. What it holds is then lost.

All is checked before anything is changed. Exits with 3 if a leaf of --delete is no
orphan, and with 4 if a leaf or a loop device is in use meanwhile.

Examples:
  ubctl gc --dry-run
  ubctl gc /dev/loop3
  ubctl gc --delete /srv/leaves/web-01.leaf --in /srv/roots";

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct GcArgs {
    /// A loop device to detach [default: all that ubctl orphans names; with --delete only those of
    /// the leaves to delete]
    #[arg(value_name = "LOOP")]
    pub loops: Vec<PathBuf>,
    /// The image of a leaf to delete; repeated
    #[arg(long, value_name = "LEAF")]
    pub delete: Vec<PathBuf>,
    /// Where to look for the roots and layers of the leaves of --delete, beside where they were
    #[arg(long = "in", value_name = "PLACE", requires = "delete")]
    pub below: Vec<PathBuf>,
    /// Only say what would be detached and deleted
    #[arg(long)]
    pub dry_run: bool,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Default, Serialize)]
struct GcReport {
    /// Whether anything was changed; false with `--dry-run`.
    changed: bool,
    detached: Vec<OrphanLoop>,
    deleted: Vec<OrphanLeaf>,
}

/// Runs the command.
pub fn run(args: &GcArgs, json: bool) -> Result {
    let all = orphans::loops()?;
    let below = Places::new(&args.below)?;
    let deleted = args.delete.iter().map(|path| named(path, &below, &all));
    let deleted = deleted.collect::<Result<Vec<OrphanLeaf>>>()?;
    let detached = chosen(args, &all)?;
    if args.dry_run {
        let plan = GcReport {
            changed: false,
            detached,
            deleted,
        };
        return report(&plan, json);
    }
    let mut done = GcReport::default();
    let result = work(&detached, &deleted, &mut done);
    done.changed = !done.detached.is_empty() || !done.deleted.is_empty();
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

/// Changes what was chosen, and notes what is done. Continues after a failure, and returns the
/// first one.
fn work(detached: &[OrphanLoop], deleted: &[OrphanLeaf], done: &mut GcReport) -> Result {
    let mut first = Ok(());
    for orphan in detached {
        match orphan.detach() {
            Ok(()) => done.detached.push(orphan.clone()),
            Err(fail) => first = first.and(Err(fail)),
        }
    }
    for orphan in deleted {
        match Doomed::claim(Path::new(&orphan.leaf)).and_then(Doomed::delete) {
            Ok(()) => done.deleted.push(orphan.clone()),
            Err(fail) => first = first.and(Err(fail)),
        }
    }
    first
}

/// Returns the loop devices to detach.
fn chosen(args: &GcArgs, all: &[OrphanLoop]) -> Result<Vec<OrphanLoop>> {
    if args.loops.is_empty() && !args.delete.is_empty() {
        let shows = |orphan: &&OrphanLoop| args.delete.iter().any(|leaf| orphan.shows(leaf));
        return Ok(all.iter().filter(shows).cloned().collect());
    }
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

/// Returns a leaf that is to be deleted. Refuses what is no orphan.
fn named(path: &Path, below: &Places, loops: &[OrphanLoop]) -> Result<OrphanLeaf> {
    let meta = fs::symlink_metadata(path).map_err(|e| Fail::io("look at", path, &e))?;
    let name = output::path(path);
    if !meta.is_file() {
        let text = format!("{name}: only an image can be deleted, under its own name");
        return Err(Fail::new(REFUSED, "not_a_file", text));
    }
    let orphan = orphans::leaf(path, below, loops)?;
    if orphan.as_ref().is_some_and(|orphan| orphan.frozen) {
        let text = format!(
            "{name}: a layer, on which leaves may lie, so it stays: if none does, remove the file"
        );
        return Err(Fail::new(REFUSED, "frozen", text));
    }
    orphan.ok_or_else(|| {
        let text = format!(
            "{name}: no leaf that was left behind, so it stays: either it is no leaf, or it is in \
             use, or it was detached and its root and layers are found"
        );
        Fail::new(REFUSED, "no_orphan", text)
    })
}

fn report(report: &GcReport, json: bool) -> Result {
    if json {
        return output::json(report);
    }
    output::text(&text(report))
}

fn text(report: &GcReport) -> String {
    let (detached, deleted) = match report.changed {
        true => ("was detached", "was deleted"),
        false => (
            "would be detached",
            "would be deleted, and what it holds lost",
        ),
    };
    let mut out = String::new();
    for orphan in &report.detached {
        out += &format!("{}: {detached} from {}\n", orphan.device, orphan.image);
    }
    for orphan in &report.deleted {
        out += &format!("{}: {deleted}\n", orphan.leaf);
    }
    if out.is_empty() {
        out += "nothing to do\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{text, GcReport, OrphanLeaf};

    #[test]
    fn a_plan_and_its_result_read_differently() {
        let leaf = OrphanLeaf {
            leaf: "a".to_owned(),
            uuid: String::new(),
            name: None,
            frozen: false,
            reasons: Vec::new(),
        };
        let mut report = GcReport::default();
        assert_eq!(text(&report), "nothing to do\n");
        report.deleted.push(leaf);
        let plan = text(&report);
        assert_eq!(plan, "a: would be deleted, and what it holds lost\n");
        report.changed = true;
        assert_eq!(text(&report), "a: was deleted\n");
    }
}
