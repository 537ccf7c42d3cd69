// SPDX-License-Identifier: GPL-2.0

//! `ubctl diff`: which sectors of two unions differ.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ubcore::error::Error;
use ubcore::num::u64_as_usize;

use crate::below::{Below, RootArg};
use crate::device::{is_same, Device};
use crate::error::{Fail, Result, USAGE};
use crate::layer_arg::LayerArg;
use crate::lost_sectors::{sum, SectorRange};
use crate::progress::Progress;
use crate::search::{unknown_root, Given};
use crate::stack::{MergedSource, OpenStack};
use crate::{output, sealed};

/// Sectors of one read: 1 MiB.
const ROOM: u64 = 2048;

const AFTER_HELP: &str = "\
ubctl compares A and B as disks, each on its root and layers. It reads only
sectors that come from different sources. If one disk is larger, its additional
sectors differ. Nothing is written.

Exits with 0 whether they differ or not, with 3 if A or B is neither a leaf
nor a sealed layer, damaged, not detached, or not on what is given or found,
and with 4 if it is in use.

Examples:
  ubctl diff vm1.leaf vm2.leaf
  ubctl diff --in layers/ step1.leaf step2.leaf --json
  ubctl diff --root gold.img --layer base.leaf step1.leaf base-1.sealed";

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    /// The root of both: a block device or an image. The word none stands for no root: unmapped
    /// sectors then read as zeroes [default: where the root of each leaf was when it was formatted,
    /// and for a sealed layer that of the other]
    #[arg(long, value_parser = RootArg::parse)]
    pub root: Option<RootArg>,
    /// What a sealed A or B lies on; repeated, the lowest first
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// Where to look for the root and the layers of a leaf, by what the leaf says of them: a
    /// directory, a device or an image; repeated. ubctl looks for the rest where it was at format
    #[arg(long = "in", value_name = "PLACE")]
    pub places: Vec<PathBuf>,
    /// A leaf, detached or frozen, or a sealed layer
    #[arg(value_parser = LayerArg::parser())]
    pub a: LayerArg,
    /// Another one
    #[arg(value_parser = LayerArg::parser())]
    pub b: LayerArg,
}

/// The answer. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct DiffReport {
    a: String,
    b: String,
    a_sectors: u64,
    b_sectors: u64,
    ranges: Vec<SectorRange>,
    /// The number of sectors that differ.
    sectors: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &DiffArgs, json: bool) -> Result {
    // Opening a detached leaf claims it, so find the roots before.
    let (root_a, root_b) = (root(args, &args.a, &args.b)?, root(args, &args.b, &args.a)?);
    let (a, a_is_sealed) = open(args, &args.a, &root_a)?;
    // A detached leaf is claimed, so it is opened once.
    let other = match args.a == args.b {
        true => None,
        false => Some(open(args, &args.b, &root_b)?),
    };
    let (b, b_is_sealed) = other.as_ref().map_or((&a, a_is_sealed), |(b, is)| (b, *is));
    if !(args.layers.is_empty() || a_is_sealed || b_is_sealed) {
        let text =
            "--layer names the layers below a sealed layer, and neither A nor B is sealed: use \
                    --in for the layers that a leaf lists";
        return Err(Fail::new(USAGE, "usage", text));
    }
    let ranges = compare(&a, b)?;
    let sectors = sum(&ranges);
    let report = DiffReport {
        a: args.a.name(),
        b: args.b.name(),
        a_sectors: a.sectors(),
        b_sectors: b.sectors(),
        ranges,
        sectors,
        bytes: sectors * 512,
    };
    if json {
        return output::json(&report);
    }
    output::text(&text(&report))
}

fn given(args: &DiffArgs) -> Given<'_> {
    Given {
        root: args.root.as_ref(),
        layers: &args.layers,
        places: &args.places,
    }
}

/// Returns the root of a leaf, or that of a sealed layer: the root of the layers that are given for
/// it, or of the other one of both.
fn root(args: &DiffArgs, what: &LayerArg, other: &LayerArg) -> Result<RootArg> {
    if let Some(root) = &args.root {
        return Ok(root.clone());
    }
    let is_sealed = |device: &Device| Ok(sealed::open_if_there(device)?.is_some());
    let device = what.open()?;
    if !is_sealed(&device)? {
        return given(args).root_of(&device);
    }
    if let Some(root) = given(args).root_of_layers()? {
        return Ok(root);
    }
    let other = other.open()?;
    if is_sealed(&other)? {
        return Err(unknown_root(&what.name()));
    }
    given(args).root_of(&other)
}

/// Opens a leaf or layer with what it lies on. Also returns whether it is sealed.
fn open(args: &DiffArgs, what: &LayerArg, root: &RootArg) -> Result<(OpenStack, bool)> {
    let mut device = what.open()?;
    let is_sealed = sealed::open_if_there(&device)?.is_some();
    let layers = if is_sealed {
        given(args).with_listed()?
    } else {
        device = what.open_leaf()?;
        given(args).listed_by(&device)?
    };
    let opened = Below::as_it_is(root, &layers).open(Some(&device))?;
    opened.refuse_other_below()?;
    if !is_sealed {
        opened.refuse_other_leaf(&device)?;
    }
    let devices = opened.layers.into_iter().map(|layer| layer.device);
    let members = OpenStack::members(devices.chain([device]).collect())?;
    Ok((OpenStack::new(opened.root, members)?, is_sealed))
}

/// Returns the sectors that differ.
fn compare(a: &OpenStack, b: &OpenStack) -> Result<Vec<SectorRange>> {
    let (both, all) = (a.sectors().min(b.sectors()), a.sectors().max(b.sectors()));
    let progress = Progress::new("compare", both);
    let mut ranges = Vec::new();
    let mut rooms = [0; 2].map(|_| vec![0; u64_as_usize(ROOM * 512)]);
    let mut at = 0;
    while at < both {
        let (is_one_place, sectors) = places(a, b, at, both - at)?;
        if !is_one_place {
            let [x, y] = &mut rooms;
            let bytes = u64_as_usize(sectors * 512);
            let (x, y) = (&mut x[..bytes], &mut y[..bytes]);
            a.read(at, x)?;
            b.read(at, y)?;
            for (sector, (x, y)) in (at..).zip(x.chunks(512).zip(y.chunks(512))) {
                if x != y {
                    add(&mut ranges, sector, 1);
                }
            }
        }
        at += sectors;
        progress.add(sectors);
    }
    if both < all {
        add(&mut ranges, both, all - both);
    }
    Ok(ranges)
}

/// Returns whether the sectors from `at` on come from one place in both stacks, and for how many
/// sectors that answer holds: at most `limit` and, if they come from two places, at most as many as
/// one read takes.
fn places(a: &OpenStack, b: &OpenStack, at: u64, limit: u64) -> Result<(bool, u64)> {
    let failed = |e: Error| Fail::core("the stack", e);
    let (from_a, sectors_a) = a.range_at(at, limit).map_err(failed)?;
    let (from_b, sectors_b) = b.range_at(at, limit).map_err(failed)?;
    let sectors = sectors_a.min(sectors_b);
    let is_one = match (from_a, from_b) {
        (MergedSource::Bottom, MergedSource::Bottom) => match (&a.root, &b.root) {
            (Some(x), Some(y)) => is_one_place((x, at), (y, at)),
            (x, y) => x.is_none() && y.is_none(),
        },
        (MergedSource::Zero(_), MergedSource::Zero(_)) => true,
        (MergedSource::Data(n, p), MergedSource::Data(m, q)) => {
            match (a.members.get(n), b.members.get(m)) {
                (Some(x), Some(y)) => is_one_place((&x.device, p), (&y.device, q)),
                _ => false,
            }
        }
        _ => false,
    };
    Ok((is_one, if is_one { sectors } else { sectors.min(ROOM) }))
}

/// Returns whether sectors of two devices are one.
fn is_one_place((a, at_a): (&Device, u64), (b, at_b): (&Device, u64)) -> bool {
    let is_one = is_same(a.metadata(), b.metadata());
    is_one && a.start() / 512 + at_a == b.start() / 512 + at_b
}

/// Adds sectors behind all others to a list.
fn add(ranges: &mut Vec<SectorRange>, sector: u64, sectors: u64) {
    match ranges.last_mut() {
        Some(last) if last.sector + last.sectors == sector => last.sectors += sectors,
        _ => ranges.push(SectorRange { sector, sectors }),
    }
}

fn text(report: &DiffReport) -> String {
    let mut rows = vec![["SECTOR", "SECTORS", "SIZE"].map(str::to_owned).to_vec()];
    for range in &report.ranges {
        rows.push(vec![
            range.sector.to_string(),
            range.sectors.to_string(),
            output::size(range.sectors),
        ]);
    }
    let end = format!(
        "{} ({} bytes) differ between {} and {}\n",
        output::counted(report.sectors, "sector"),
        report.bytes,
        report.a,
        report.b
    );
    if report.ranges.is_empty() {
        return end;
    }
    output::table(&rows) + &end
}
