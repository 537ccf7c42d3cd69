// SPDX-License-Identifier: GPL-2.0

//! `ubctl diff`: which sectors of two unions differ.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use ubcore::error::{Error, Side};
use ubcore::num::u64_as_usize;

use super::publish::open_leaf;
use crate::below::{self, Below, RootArg};
use crate::device::{is_same, Access, Device};
use crate::error::{Fail, Result};
use crate::lost_sectors::{sum, Stretch};
use crate::progress::Progress;
use crate::search::Places;
use crate::stack::{From, Stack};
use crate::{output, sealed};

/// Sectors of one read: 1 MiB.
const ROOM: u64 = 2048;

const AFTER_HELP: &str = "\
A and B are compared as the disks that they are with what they lie on. Only what
comes from other places is read. If one is larger, all that it has more differs.
All devices are only read.

Exits with 0 whether they differ or not, and with 3 if A or B is neither a leaf
nor a sealed layer, damaged, attached, or not on what is given or found.

Examples:
  ubctl diff --root gold.img vm1.leaf vm2.leaf
  ubctl diff --root none --in layers/ step1.leaf step2.leaf --json
  ubctl diff --root gold.img --layer base.leaf step1.leaf base-1.sealed";

/// Arguments of `diff`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    /// The root of both: a block device or an image. none: zeroes
    #[arg(long, value_parser = RootArg::parse)]
    pub root: RootArg,
    /// What a sealed A or B lies on; repeated, the lowest first
    #[arg(long = "layer", value_name = "LAYER")]
    pub layers: Vec<PathBuf>,
    /// Where to look for the layers that a leaf lists: a directory, device or image; repeated
    /// [default: where they were]
    #[arg(long = "in", value_name = "PLACE")]
    pub places: Vec<PathBuf>,
    /// A leaf, detached or frozen, or a sealed layer
    pub a: PathBuf,
    /// Another one
    pub b: PathBuf,
}

/// The answer. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct DiffReport {
    a: String,
    b: String,
    a_sectors: u64,
    b_sectors: u64,
    ranges: Vec<Stretch>,
    /// The number of sectors that differ.
    sectors: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &DiffArgs, json: bool) -> Result {
    let stacks = (open(args, &args.a)?, open(args, &args.b)?);
    let ranges = compare(&stacks.0, &stacks.1)?;
    let sectors = sum(&ranges);
    let report = DiffReport {
        a: args.a.display().to_string(),
        b: args.b.display().to_string(),
        a_sectors: stacks.0.sectors(),
        b_sectors: stacks.1.sectors(),
        ranges,
        sectors,
        bytes: sectors * 512,
    };
    if json {
        return output::json(&report);
    }
    output::text(&text(&report))
}

/// Opens a leaf or layer with what it lies on.
fn open(args: &DiffArgs, path: &Path) -> Result<Stack> {
    let device = Device::open(path, Side::Layer, Access::Read)?;
    let is_sealed = sealed::open_at_start(&device)?.is_some();
    let (device, layers) = if is_sealed {
        (device, below::with_listed(&args.layers)?)
    } else if args.places.is_empty() {
        (open_leaf(path)?, below::listed_by(path)?)
    } else {
        let list = below::list_of(path)?;
        (open_leaf(path)?, Places::new(&args.places)?.layers(&list)?)
    };
    let opened = Below::as_it_is(&args.root, &layers).open(Some(&device))?;
    opened.refuse_other_below()?;
    if !is_sealed {
        opened.refuse_other_leaf(&device)?;
    }
    let devices = opened.layers.into_iter().map(|layer| layer.device);
    let members = Stack::members(devices.chain([device]).collect())?;
    Stack::new(opened.root, members)
}

/// Returns the sectors that differ.
fn compare(a: &Stack, b: &Stack) -> Result<Vec<Stretch>> {
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

/// Returns whether what begins at a sector comes from one place in both, and for how many sectors
/// that holds: at most `limit`, and at most what is read at once if it does not.
fn places(a: &Stack, b: &Stack, at: u64, limit: u64) -> Result<(bool, u64)> {
    let failed = |e: Error| Fail::core("the stack", e);
    let (from_a, sectors_a) = a.stretch(at, limit).map_err(failed)?;
    let (from_b, sectors_b) = b.stretch(at, limit).map_err(failed)?;
    let sectors = sectors_a.min(sectors_b);
    let is_one = match (from_a, from_b) {
        // Both have one root.
        (From::Bottom, From::Bottom) | (From::Zero(_), From::Zero(_)) => true,
        (From::Data(n, p), From::Data(m, q)) if p == q => {
            match (a.members.get(n), b.members.get(m)) {
                (Some(x), Some(y)) => is_same(x.device.metadata(), y.device.metadata()),
                _ => false,
            }
        }
        _ => false,
    };
    Ok((is_one, if is_one { sectors } else { sectors.min(ROOM) }))
}

/// Adds sectors behind all others to a list.
fn add(ranges: &mut Vec<Stretch>, sector: u64, sectors: u64) {
    match ranges.last_mut() {
        Some(last) if last.sector + last.sectors == sector => last.sectors += sectors,
        _ => ranges.push(Stretch { sector, sectors }),
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
        "{} sectors ({} bytes) differ between {} and {}\n",
        report.sectors, report.bytes, report.a, report.b
    );
    if report.ranges.is_empty() {
        return end;
    }
    output::table(&rows) + &end
}
