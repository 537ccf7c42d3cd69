// SPDX-License-Identifier: GPL-2.0

//! `ubctl ubtab`: checks `/etc/ubtab`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::error::{Fail, Result, REFUSED};
use crate::output;
use crate::ubtab::{self, Leaf, Root};

const AFTER_HELP: &str = "\
ubtab(5) describes the file. Only the file is looked at, and no device. systemd takes a
change over with systemctl daemon-reload, and systemctl start unionblk@NAME.service
makes a union. Exits with 3 if a line is wrong.

Examples:
  ubctl ubtab
  ubctl ubtab new.ubtab --json";

/// Arguments of `ubtab`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct UbtabArgs {
    /// The file
    #[arg(default_value = ubtab::PATH)]
    pub file: PathBuf,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct UbtabReport {
    file: String,
    unions: Vec<UnionLine>,
    errors: Vec<ErrorLine>,
}

#[derive(Debug, Serialize)]
struct UnionLine {
    line: usize,
    name: String,
    /// Null: where it was when the leaf was formatted. `none`: there is none.
    root: Option<String>,
    /// Null of a leaf in memory.
    leaf: Option<String>,
    device: String,
    unit: String,
    command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ErrorLine {
    line: usize,
    text: String,
}

/// Runs the command.
pub fn run(args: &UbtabArgs, json: bool) -> Result {
    let tab = ubtab::read(&args.file)?.unwrap_or_default();
    let file = args.file.display().to_string();
    let errors: Vec<String> = tab.errors.iter().map(|e| format!("{file}, {e}")).collect();
    let report = UbtabReport {
        file,
        unions: tab.entries.iter().map(union).collect(),
        errors: tab
            .errors
            .into_iter()
            .map(|e| ErrorLine {
                line: e.line,
                text: e.text,
            })
            .collect(),
    };
    if errors.is_empty() {
        return match json {
            true => output::json(&report),
            false => output::text(&text(&report)),
        };
    }
    let fail = Fail::new(REFUSED, "ubtab", errors.join("\n"));
    if json {
        return Err(fail.with(serde_json::to_value(&report).unwrap_or_default()));
    }
    output::text(&text(&report))?;
    Err(fail)
}

fn union(entry: &ubtab::Entry) -> UnionLine {
    UnionLine {
        line: entry.line,
        name: entry.name.clone(),
        root: match &entry.root {
            Root::Listed => None,
            Root::None => Some("none".to_owned()),
            Root::Path(path) => Some(path.clone()),
        },
        leaf: match &entry.leaf {
            Leaf::Path(path) => Some(path.clone()),
            Leaf::Memory(..) => None,
        },
        device: entry.device().display().to_string(),
        unit: format!("unionblk@{}.service", entry.name),
        command: entry.create(),
    }
}

fn text(report: &UbtabReport) -> String {
    if report.unions.is_empty() {
        return "no unions\n".to_owned();
    }
    let head = ["NAME", "ROOT", "LEAF", "DEVICE"]
        .map(str::to_owned)
        .to_vec();
    let row = |union: &UnionLine| {
        vec![
            union.name.clone(),
            union.root.clone().unwrap_or_else(|| "-".to_owned()),
            union.leaf.clone().unwrap_or_else(|| "memory".to_owned()),
            union.device.clone(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head)
        .chain(report.unions.iter().map(row))
        .collect();
    output::table(&rows)
}
