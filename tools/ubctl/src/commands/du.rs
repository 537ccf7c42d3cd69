// SPDX-License-Identifier: GPL-2.0

//! `ubctl du`: what leaves and layers hold, alone and on each other.

use clap::Args;
use serde::Serialize;
use ubcore::stack::chain::LayerId;

use crate::device::Device;
use crate::error::{Fail, Result};
use crate::layer_arg::LayerArg;
use crate::output::{self, size};
use crate::stack::{Member, MergedSource, OpenStack};
use crate::{loaded, probe};

const AFTER_HELP: &str = "\
DATA and ZEROES are what a layer maps. SPACE is what it takes of its device:
with metadata, and for a leaf all of each slab that it has allocated. VISIBLE is
the data that no higher one of the layers hides, and VISIBLE ZEROES likewise. The
layers count in the order given, and all are only read.

Exits with 3 if one is neither a leaf nor a sealed layer, damaged, or a leaf whose
union was not detached, and with 4 if a leaf that is not frozen is in use.

Examples:
  ubctl du web-01.sealed
  ubctl du base.leaf step1.leaf /dev/vdb --json";

/// Arguments of `du`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DuArgs {
    /// Leaves and layers, the lowest first: block devices or images. A leaf that is not frozen must
    /// be detached
    #[arg(required = true, value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
}

/// The answer. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct DuReport {
    sectors: u64,
    layers: Vec<LayerUsage>,
    visible_data_sectors: u64,
    visible_zero_sectors: u64,
    space_sectors: u64,
}

/// What one leaf or layer holds.
#[derive(Debug, Serialize)]
struct LayerUsage {
    layer: String,
    kind: &'static str,
    data_sectors: u64,
    zero_sectors: u64,
    space_sectors: u64,
    visible_data_sectors: u64,
    visible_zero_sectors: u64,
}

/// Runs the command.
pub fn run(args: &DuArgs, json: bool) -> Result {
    let devices = args.layers.iter().map(open);
    let devices = devices.collect::<Result<_>>()?;
    let members = OpenStack::members(devices)?;
    for member in &members {
        if let Some(sb) = &member.superblock {
            loaded::refuse_in_use(&member.name(), sb)?;
        }
    }
    let stack = OpenStack::new(None, members)?;
    let report = report(&stack).map_err(|e| Fail::core("the layers", e))?;
    if json {
        return output::json(&report);
    }
    output::text(&text(&report))
}

/// Opens a leaf or a layer. Claims a leaf that is not frozen, so that the error names a union that
/// uses it.
fn open(layer: &LayerArg) -> Result<Device> {
    let device = layer.open()?;
    match probe::superblock(&device) {
        Some(sb) if sb.frozen.is_none() && layer.offset == 0 => loaded::open_at_rest(&layer.path),
        _ => Ok(device),
    }
}

fn report(stack: &OpenStack) -> ubcore::error::Result<DuReport> {
    let mut layers: Vec<LayerUsage> = stack.members.iter().map(alone).collect();
    let mut at = 0;
    while at < stack.sectors() {
        let (from, sectors) = stack.range_at(at, stack.sectors() - at)?;
        at += sectors;
        match from {
            MergedSource::Bottom => {}
            MergedSource::Zero(n) => layers[n].visible_zero_sectors += sectors,
            MergedSource::Data(n, _) => layers[n].visible_data_sectors += sectors,
        }
    }
    let sum = |of: fn(&LayerUsage) -> u64| layers.iter().map(of).sum();
    Ok(DuReport {
        sectors: stack.sectors(),
        visible_data_sectors: sum(|l| l.visible_data_sectors),
        visible_zero_sectors: sum(|l| l.visible_zero_sectors),
        space_sectors: sum(|l| l.space_sectors),
        layers,
    })
}

fn alone(member: &Member) -> LayerUsage {
    LayerUsage {
        layer: member.name(),
        kind: match member.id {
            None => "leaf",
            Some(LayerId::Frozen(..)) => "frozen",
            Some(LayerId::Sealed(_)) => "sealed",
        },
        data_sectors: member.data_sectors,
        zero_sectors: member.zero_sectors,
        space_sectors: member.space,
        visible_data_sectors: 0,
        visible_zero_sectors: 0,
    }
}

fn text(report: &DuReport) -> String {
    let heading = [
        "LAYER",
        "KIND",
        "DATA",
        "ZEROES",
        "SPACE",
        "VISIBLE",
        "VISIBLE ZEROES",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for l in &report.layers {
        rows.push(vec![
            l.layer.clone(),
            l.kind.to_owned(),
            size(l.data_sectors),
            size(l.zero_sectors),
            size(l.space_sectors),
            size(l.visible_data_sectors),
            size(l.visible_zero_sectors),
        ]);
    }
    output::table(&rows)
        + &format!(
            "all: {} visible, and {} of zeroes, of {}; {} of space\n",
            size(report.visible_data_sectors),
            size(report.visible_zero_sectors),
            size(report.sectors),
            size(report.space_sectors)
        )
}
