// SPDX-License-Identifier: GPL-2.0

//! `ubctl dump`: shows what a leaf holds, whatever state it is in.
//!
//! The driver stops at the first fault. A dump continues as far as the format allows and names each
//! fault. It uses the core's code to judge, so dump and driver agree on what is damaged.

mod journal;
mod map;
mod read;
mod report;
mod text;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use ubcore::error::Role;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::{output, sealed};

use report::DumpReport;

/// Arguments of `dump`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 3 if anything is damaged, after it has shown the rest.\n\
    On an attached leaf the output changes while the union is written."
)]
pub struct DumpArgs {
    /// The leaf: a block device or an image
    pub leaf: PathBuf,
    /// Also each journal record, each slab and its runs
    #[arg(long)]
    pub map: bool,
}

/// Runs the command.
pub fn run(args: &DumpArgs, json: bool) -> Result {
    let mut device = Device::open(&args.leaf, Role::Leaf, Access::Read)?;
    let report = read::read(&mut device, args.map);
    let fail = match report.unreadable {
        Some(e) => Some(sealed::no_leaf(&device, e)),
        None => judge(&report),
    };
    if !json {
        output::text(&text::text(&report))?;
        return fail.map_or(Ok(()), Err);
    }
    match fail {
        None => output::json(&report),
        Some(fail) => Err(fail.with(serde_json::to_value(&report).unwrap_or(Value::Null))),
    }
}

/// Returns the failure that sets the exit code if something is damaged.
fn judge(report: &DumpReport) -> Option<Fail> {
    let leaf = &report.leaf;
    let n = report.problems.len();
    (n > 0).then(|| {
        let first = &report.problems[0];
        Fail::new(
            REFUSED,
            "damaged",
            format!(
                "{leaf}: {n} {} found, the first: {first}; make a copy of the leaf before anything \
                 else",
                if n == 1 { "problem" } else { "problems" }
            ),
        )
    })
}
