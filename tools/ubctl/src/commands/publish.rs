// SPDX-License-Identifier: GPL-2.0

//! `ubctl publish`: writes what a union reads as, as a raw image.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use ubcore::num::u64_as_usize;

use crate::below::{self, Below, RootArg};
use crate::device::Device;
use crate::error::{Fail, Result, FAILED, USAGE};
use crate::layer_arg::LayerArg;
use crate::progress::Progress;
use crate::search::{unknown_root, Given};
use crate::stack::{Member, MergedSource, OpenStack};
use crate::target::{Output, Target, Wanted};
use crate::{interrupt, loaded, output};

/// Sectors of one read or write: 1 MiB.
const ROOM: u64 = 2048;
/// A unit of this many bytes is not written to a file if it is all zeroes.
const HOLE: usize = 4096;

const AFTER_HELP: &str = "\
The image can be the root of other leaves, or the disk of a machine. Root, layers
and leaf are only read. Zeroes become holes in a file. When all is written, the
image is read back and compared with what it was made from. A file is written
beside OUT and takes its place when it is whole.

Exits with 3 if the leaf was made on another root or other layers, or if they are
not found.

Examples:
  ubctl publish --leaf vm1.leaf vm1.img
  ubctl publish --in /images --leaf vm1.leaf vm1.img
  ubctl publish --root none --layer base.sealed --layer step1.leaf /dev/vdc --force";

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PublishArgs {
    /// The root: a block device or an image. The word none stands for no root: unmapped sectors
    /// then read as zeroes [default: where the root of the leaf was when it was formatted]
    #[arg(long, value_parser = RootArg::parse)]
    pub root: Option<RootArg>,
    /// A layer; repeated, the lowest first [default: where the layers of the leaf were when it was
    /// formatted]
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// Where to look for the root and the layers that are not given, by what the leaf says of them:
    /// a directory, a device or an image; repeated. ubctl looks for the rest where it was at format
    #[arg(long = "in", value_name = "PLACE")]
    pub places: Vec<PathBuf>,
    /// The leaf, detached or frozen
    #[arg(long, value_name = "LEAF")]
    pub leaf: Option<PathBuf>,
    /// The image: a new file, or a block device
    pub out: PathBuf,
    /// Replace an existing file, or write to a device that looks used
    #[arg(long)]
    pub force: bool,
    /// Only say what would be replaced, after all checks that need no reading
    #[arg(long)]
    pub dry_run: bool,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct PublishReport {
    out: String,
    root: Option<String>,
    layers: Vec<String>,
    leaf: Option<String>,
    sectors: u64,
    /// The sectors that were written; the others are holes.
    written_sectors: u64,
}

/// Runs the command.
pub fn run(args: &PublishArgs, json: bool) -> Result {
    let (root, stack) = open(args)?;
    let devices = stack.members.iter().map(|m| &m.device);
    let wanted = Wanted {
        what: "image",
        force: args.force,
        append: false,
    };
    let devices = stack.root.iter().chain(devices);
    let target = Target::check(wanted, &args.out, devices)?;
    if args.dry_run {
        return target.report_plan(&args.out, json);
    }
    interrupt::watch()?;
    let mut writer = target.begin(stack.sectors() * 512)?;
    let done = write(&stack, &writer)
        .and_then(|written| verify(&stack, &writer, &args.out).map(|()| written))
        .and_then(|written| writer.finish().map(|()| written));
    let written = done.map_err(|fail| writer.undo(fail))?;
    report(args, (&root, &stack), written, json)
}

/// Opens root, layers and leaf, and checks that they belong to each other.
fn open(args: &PublishArgs) -> Result<(RootArg, OpenStack)> {
    if args.layers.is_empty() && args.leaf.is_none() {
        let text = "nothing lies on the root: name a leaf with --leaf, or layers with --layer";
        return Err(Fail::new(USAGE, "usage", text));
    }
    let leaf = args.leaf.as_deref().map(loaded::open_at_rest).transpose()?;
    let (root, layers) = root_and_layers(args, leaf.as_ref())?;
    below::refuse_locked(&root, &layers)?;
    let opened = Below::as_it_is(&root, &layers).open(leaf.as_ref())?;
    opened.refuse_other_below()?;
    if let Some(leaf) = &leaf {
        opened.refuse_other_leaf(leaf)?;
    }
    let devices = opened.layers.into_iter().map(|layer| layer.device);
    let members = OpenStack::members(devices.chain(leaf).collect())?;
    Ok((root, OpenStack::new(opened.root, members)?))
}

/// Returns the root and the layers: the given ones, or the ones that the leaf was made on.
fn root_and_layers(args: &PublishArgs, leaf: Option<&Device>) -> Result<(RootArg, Vec<LayerArg>)> {
    let given = Given {
        root: args.root.as_ref(),
        layers: &args.layers,
        places: &args.places,
    };
    if let Some(leaf) = leaf {
        return Ok((given.root_of(leaf)?, given.layers_of(leaf)?));
    }
    let root = given.root_of_layers()?;
    let root = root.ok_or_else(|| unknown_root("the lowest layer"))?;
    Ok((root, given.with_listed()?))
}

/// Calls `each` with what the stack reads as, in parts of at most 1 MiB, and where each part
/// begins. For an image with holes, what a bottom of zeroes shows is left out.
fn parts(
    stack: &OpenStack,
    (what, has_holes): (&'static str, bool),
    mut each: impl FnMut(u64, &[u8]) -> Result,
) -> Result {
    let progress = Progress::new(what, stack.sectors());
    let mut room = vec![0; bytes_of(ROOM)];
    let root = stack.root.as_ref().map_or(0, Device::sectors);
    let mut at = 0;
    while at < stack.sectors() {
        interrupt::check()?;
        let left = stack.sectors() - at;
        let found = stack.range_at(at, left);
        let (from, length) = found.map_err(|e| Fail::core("the stack", e))?;
        let is_empty = from == MergedSource::Bottom && at >= root && has_holes;
        let sectors = if is_empty { length } else { left.min(ROOM) };
        if !is_empty {
            let room = &mut room[..bytes_of(sectors)];
            stack.read(at, room)?;
            each(at, room)?;
        }
        at += sectors;
        progress.add(sectors);
    }
    Ok(())
}

fn bytes_of(sectors: u64) -> usize {
    u64_as_usize(sectors * 512)
}

/// Writes the image. Returns how many sectors were not left out as holes.
fn write(stack: &OpenStack, writer: &Output) -> Result<u64> {
    let mut written = 0;
    let has_holes = writer.has_holes();
    parts(stack, ("write", has_holes), |sector, bytes| {
        let units: Vec<&[u8]> = bytes.chunks(HOLE).collect();
        let mut at = 0;
        for run in units.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let end = at + run.iter().map(|unit| unit.len()).sum::<usize>();
            if !(has_holes && is_zero(run[0])) {
                writer.put(sector * 512 + at as u64, &bytes[at..end])?;
                written += (end - at) as u64 / 512;
            }
            at = end;
        }
        Ok(())
    })?;
    writer.sync()?;
    Ok(written)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// Reads the image back, and compares it with what it was made from.
fn verify(stack: &OpenStack, writer: &Output, out: &Path) -> Result {
    writer.forget();
    let mut room = vec![0; bytes_of(ROOM)];
    parts(stack, ("verify", writer.has_holes()), |sector, bytes| {
        let room = &mut room[..bytes.len()];
        writer.read_back(sector * 512, room)?;
        let both = bytes.chunks(512).zip(room.chunks(512));
        match both.into_iter().position(|(a, b)| a != b) {
            None => Ok(()),
            Some(n) => {
                let text = format!(
                    "{}: sector {} does not read as it was written: check the device, and that \
                     no program writes to root, layers or image",
                    out.display(),
                    sector + n as u64
                );
                Err(Fail::new(FAILED, "differs", text))
            }
        }
    })
}

fn report(
    args: &PublishArgs,
    (root, stack): (&RootArg, &OpenStack),
    written: u64,
    json: bool,
) -> Result {
    let mut names: Vec<String> = stack.members.iter().map(Member::name).collect();
    let leaf = args.leaf.as_ref().and_then(|_| names.pop());
    let report = PublishReport {
        out: args.out.display().to_string(),
        root: root.path().map(|root| root.display().to_string()),
        layers: names,
        leaf,
        sectors: stack.sectors(),
        written_sectors: written,
    };
    if json {
        return output::json(&report);
    }
    let none = || "none".to_owned();
    output::text(&format!(
        "{}: published and verified\n{}",
        report.out,
        output::fields(&[
            ("root", report.root.clone().unwrap_or_else(none)),
            ("layers", report.layers.len().to_string()),
            ("leaf", report.leaf.clone().unwrap_or_else(none)),
            ("size", output::size(report.sectors)),
            ("written", output::size(report.written_sectors)),
        ])
    ))
}
