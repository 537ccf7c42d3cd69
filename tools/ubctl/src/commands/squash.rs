// SPDX-License-Identifier: GPL-2.0

//! `ubctl squash`: merges layers into one sealed layer.

mod order;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ubcore::error::{Error, Side};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::sealed::header::Header;
use ubcore::stack::chain::LAYERS_MAX;

use super::verify;
use crate::device::{Access, Device};
use crate::error::{Fail, Result};
use crate::output;
use crate::sealing::{Sealing, SEALED_LAYER};
use crate::stack::{Member, Stack};
use crate::target::Target;

const AFTER_HELP: &str = "\
The sealed layer maps what the layers map together, so it reads the same on what
they lie on. It takes their place below leaves that lie on them. The order of
frozen leaves is checked against what each of them lists. A sealed layer does
not list what it lies on: if no frozen leaf is among the layers, and the lowest
one does not say what it stands for, it counts as the lowest of all.

The layers are only read. The data of sealed ones is verified first. A file is
written beside OUT and takes its place when it is whole.

Exits with 3 if a layer is missing, not frozen, damaged or in the wrong place.

Examples:
  ubctl squash base.leaf step1.leaf step2.leaf base-2.sealed
  ubctl squash a.sealed b.leaf /dev/vdc --force --json";

/// Arguments of `squash`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SquashArgs {
    /// The layers, frozen leaves or sealed layers, the lowest first
    #[arg(required = true, num_args = 1.., value_name = "LAYER")]
    pub layers: Vec<PathBuf>,
    /// The sealed layer: a new file, or a block device
    pub out: PathBuf,
    /// Replace an existing file, or write to a device that looks used
    #[arg(long)]
    pub force: bool,
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
    digest: String,
    sectors: u64,
    block_bytes: u32,
    extents: u64,
    data_sectors: u64,
    zero_sectors: u64,
    bytes: u64,
    /// How many layers it takes the place of; `null` if of none.
    stands_for: Option<u32>,
    /// The sectors of data of the layers that higher ones hide.
    hidden_sectors: u64,
}

/// Runs the command.
pub fn run(args: &SquashArgs, json: bool) -> Result {
    let open = |path: &PathBuf| Device::open(path, Side::Layer, Access::Read);
    let devices: Vec<Device> = args.layers.iter().map(open).collect::<Result<_>>()?;
    let count = devices.len() as u64;
    if count > LAYERS_MAX.into() {
        let e = Error::LayerCount(LAYERS_MAX.into(), count);
        return Err(Fail::core("squash", e));
    }
    let target = Target::check(SEALED_LAYER, &args.out, &devices, args.force)?;
    let members = Stack::members(devices)?;
    let stand_in = order::check(&members)?;
    for member in &members {
        if let Some(header) = &member.header {
            verify::refuse_damage(&member.device, header)?;
        }
    }
    let stack = Stack::new(None, members)?;
    let what = format!("{} layers", stack.members.len());
    let sealing = Sealing {
        what: &what,
        sizes: (stack.sectors(), block_bytes(&stack)),
        data_sectors: data_sectors(&stack).map_err(|e| Fail::core(&what, e))?,
        stand_in: (!args.no_stand_in).then_some(stand_in),
    };
    let read = |position, room: &mut [u8]| stack.read_position(position, room);
    let header = sealing.write(target, || stack.extents(), read)?;
    report(args, &stack, &sealing, &header, json)
}

/// Returns the blocks that the content was made for: those of the highest layer, as for a leaf on
/// it.
fn block_bytes(stack: &Stack) -> u32 {
    stack.members.last().map_or(512, Member::block_bytes)
}

/// Returns how many sectors of data are visible.
fn data_sectors(stack: &Stack) -> ubcore::error::Result<u64> {
    use ubcore::stack::extent::{Content, Extents};
    let mut extents = stack.extents();
    let mut sectors = 0;
    while let Some(extent) = extents.next()? {
        if extent.content != Content::Zero {
            sectors += extent.sectors;
        }
    }
    Ok(sectors)
}

fn report(
    args: &SquashArgs,
    stack: &Stack,
    sealing: &Sealing<'_>,
    header: &Header,
    json: bool,
) -> Result {
    let all: u64 = stack.members.iter().map(|m| m.data_sectors).sum();
    let report = SquashReport {
        layers: stack.members.iter().map(Member::name).collect(),
        out: args.out.display().to_string(),
        digest: output::hex(&header.digest),
        sectors: header.union_sectors,
        block_bytes: header.block_bytes,
        extents: header.extents,
        data_sectors: header.data_sectors,
        zero_sectors: header.zero_sectors,
        bytes: header.blocks() * BLOCK_BYTES as u64,
        stands_for: sealing.stand_in.map(|s| s.layers),
        hidden_sectors: all.saturating_sub(sealing.data_sectors),
    };
    if json {
        return output::json(&report);
    }
    let stands_for = report.stands_for.map_or_else(
        || "no layers".to_owned(),
        |layers| output::counted(layers, "layer"),
    );
    output::text(&format!(
        "{}: what {} map together, sealed\n{}",
        report.out,
        sealing.what,
        output::fields(&[
            ("digest", report.digest.clone()),
            ("union", output::size(report.sectors)),
            ("data", output::size(report.data_sectors)),
            ("zeroes", output::size(report.zero_sectors)),
            ("extents", report.extents.to_string()),
            ("size", format!("{} bytes", report.bytes)),
            ("stands for", stands_for),
            ("hidden data left out", output::size(report.hidden_sectors)),
        ])
    ))
}
