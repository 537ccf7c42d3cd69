// SPDX-License-Identifier: GPL-2.0

//! `ubctl squash`: merges layers into one sealed layer.

pub mod merged;
mod order;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use self::merged::Merged;
use crate::device::Device;
use crate::error::Result;
use crate::layer_arg::LayerArg;
use crate::sealed::HeaderReport;
use crate::sealing::SEALED_LAYER;
use crate::stack::Member;
use crate::target::{Target, Wanted};
use crate::{layer_arg, output};

const AFTER_HELP: &str = "\
The sealed layer maps every sector that one of the layers maps, with the content
of the highest of these. The sealed layer takes their place below leaves that lie
on them. ubctl checks the order of frozen leaves by their lists. A sealed layer
has no list. If no layer is a frozen leaf, and the lowest one has no stand-in
record, it counts as the lowest layer of its stack.

The layers are only read. The data of sealed ones is verified first. A file is
written under another name, and renamed to OUT when it is complete.

Exits with 3 if a layer is missing, not frozen, damaged or in the wrong place.

Examples:
  ubctl squash base.leaf step1.leaf step2.leaf base-2.sealed
  ubctl squash a.sealed b.leaf /dev/vdc --force --json";

/// Arguments of `squash`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SquashArgs {
    /// The layers, frozen leaves or sealed layers, the lowest first
    #[arg(required = true, num_args = 1.., value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// The sealed layer: a new file, or a block device
    pub out: PathBuf,
    /// Replace an existing file, or write to a device that looks used
    #[arg(long)]
    pub force: bool,
    /// Only say what would be replaced, after all checks that need no reading
    #[arg(long)]
    pub dry_run: bool,
    /// Append to the sealed layers in OUT. The result has the offset
    #[arg(long)]
    pub append: bool,
    /// Write the content alone: the sealed layer does not take the place of the layers. The digest
    /// is the same
    #[arg(long)]
    pub no_stand_in: bool,
}

/// The result of a squash. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct SquashReport {
    layers: Vec<String>,
    out: String,
    offset: u64,
    #[serde(flatten)]
    header: HeaderReport,
    /// How many layers it takes the place of; `null` if of none.
    stands_for: Option<u32>,
    /// The sectors of data of the layers that higher ones hide.
    hidden_sectors: u64,
}

/// Runs the command.
pub fn run(args: &SquashArgs, json: bool) -> Result {
    let devices = args.layers.iter().map(LayerArg::open);
    let devices: Vec<Device> = devices.collect::<Result<_>>()?;
    let wanted = Wanted {
        what: SEALED_LAYER,
        force: args.force,
        append: args.append,
    };
    let target = Target::check(wanted, &args.out, &devices)?;
    if args.dry_run {
        return target.report_plan(&args.out, json);
    }
    let offset = target.start();
    let merged = Merged::new(devices)?;
    let stand_in = (!args.no_stand_in).then_some(merged.stand_in);
    let header = merged.seal(target, stand_in)?;
    let members = &merged.stack.members;
    let all: u64 = members.iter().map(|m| m.data_sectors).sum();
    let report = SquashReport {
        layers: members.iter().map(Member::name).collect(),
        out: args.out.display().to_string(),
        offset,
        header: HeaderReport::new(&header),
        stands_for: stand_in.map(|s| s.layers),
        hidden_sectors: all.saturating_sub(merged.data_sectors),
    };
    if json {
        return output::json(&report);
    }
    let stands_for = report.stands_for.map_or_else(
        || "no layers".to_owned(),
        |layers| output::counted(layers, "layer"),
    );
    let hidden = output::size(report.hidden_sectors);
    let mut fields = report.header.fields();
    fields.extend([("stands for", stands_for), ("hidden data left out", hidden)]);
    output::text(&format!(
        "{}: sealed layer of {}\n{}",
        layer_arg::name(&args.out, offset),
        merged.what,
        output::fields(&fields)
    ))
}
