// SPDX-License-Identifier: GPL-2.0

//! `ubctl orphans`: finds loop devices and leaves that were left behind.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::error::Result;
use crate::orphans::{self, OrphanLeaf, OrphanLoop};
use crate::output;

const AFTER_HELP: &str = "\
A loop device counts if it shows a leaf or a layer, and no union, mount or process uses
it. A leaf counts if no union uses it, and it was not detached, or its root or one of
its layers is neither in the places of --in nor where it was when the leaf was formatted.
Leaves are looked for only where PLACE says. Nothing is changed.

Exits with 0, whether there are orphans or not; a script reads --json.

Examples:
  ubctl orphans
  ubctl orphans /srv/leaves /dev/vdb --in /srv/roots
  ubctl orphans /srv/leaves --json";

/// Arguments of `orphans`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct OrphansArgs {
    /// Where to look for leaves: a directory, whose files count, but not those of directories in
    /// it, or a device or an image
    #[arg(value_name = "PLACE")]
    pub places: Vec<PathBuf>,
    /// Where to look for the roots and layers of the leaves, beside where they were: a directory, a
    /// device or an image; repeated
    #[arg(long = "in", value_name = "PLACE")]
    pub below: Vec<PathBuf>,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct OrphansReport {
    loops: Vec<OrphanLoop>,
    leaves: Vec<OrphanLeaf>,
}

/// Runs the command.
pub fn run(args: &OrphansArgs, json: bool) -> Result {
    let loops = orphans::loops()?;
    let leaves = orphans::leaves(&args.places, &args.below, &loops)?;
    let report = OrphansReport { loops, leaves };
    if json {
        return output::json(&report);
    }
    output::text(&text(&report))
}

fn text(report: &OrphansReport) -> String {
    let mut out = String::new();
    for orphan in &report.loops {
        out += &format!(
            "{}: a loop device of the {} {}, which no union uses: ubctl gc detaches it\n",
            orphan.device, orphan.holds, orphan.image
        );
    }
    for orphan in &report.leaves {
        let kind = if orphan.frozen { "frozen leaf" } else { "leaf" };
        let name = orphan.name.as_ref().map(|name| format!(" {name}"));
        out += &format!("{}: {kind}{}\n", orphan.leaf, name.unwrap_or_default());
        for reason in &orphan.reasons {
            out += &format!("  {}: {}\n", reason.why, reason.text);
        }
    }
    if out.is_empty() {
        out += "no orphans\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{text, OrphanLeaf, OrphansReport};
    use crate::orphans::Reason;

    #[test]
    fn a_leaf_has_a_line_for_each_reason() {
        let reason = |why, text: &str| Reason {
            why,
            text: text.to_owned(),
        };
        let leaf = OrphanLeaf {
            leaf: "/srv/a.leaf".to_owned(),
            uuid: "1".to_owned(),
            name: Some("a".to_owned()),
            frozen: false,
            reasons: vec![reason("not_clean", "one"), reason("no_root", "two")],
        };
        let mut report = OrphansReport {
            loops: Vec::new(),
            leaves: vec![leaf],
        };
        let wanted = "/srv/a.leaf: leaf a\n  not_clean: one\n  no_root: two\n";
        assert_eq!(text(&report), wanted);
        report.leaves.clear();
        assert_eq!(text(&report), "no orphans\n");
    }
}
