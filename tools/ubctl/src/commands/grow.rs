// SPDX-License-Identifier: GPL-2.0

//! `ubctl grow`: makes a leaf, and the union on it, larger.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use ubcore::abi::Status;
use ubcore::attach;
use ubcore::error::Role;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, BLOCK_SECTORS};
use ubcore::grow::Sizes;

use crate::backing::Backing;
use crate::blocksize;
use crate::control::{self, leaf_name};
use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, BUSY, REFUSED};
use crate::named::{find, Meant};
use crate::{output, sealed, value_parser};

/// Arguments of `grow`.
#[derive(Debug, Args)]
#[command(
    after_help = "First make the leaf's device or image larger, for example with lvextend or\n\
    truncate. The leaf then grows to its end. The union grows only with --size; the new part\n\
    reads as zeroes. The command writes two blocks, and moves nothing. If the power fails\n\
    meanwhile, the leaf has the old sizes or the new ones.\n\
    There is room for twice the sizes at format, or for --grow-to of format. Neither a leaf nor\n\
    a union can become smaller.\n\
    Exit codes: 0 done, or nothing to do; 1 failed; 3 refused: no room, smaller, frozen,\n\
    read-only, not formatted; 4 in use.\n\
    Examples:\n  truncate -s 20G vm1.leaf && ubctl grow vm1.leaf\n  ubctl grow /dev/vg/vm1 --size 40G"
)]
pub struct GrowArgs {
    /// A leaf that is not attached: a block device or an image
    #[arg(value_name = "LEAF")]
    pub what: String,
    /// The new size of the union, a multiple of 4K [default: as it is]
    #[arg(long, value_name = "SIZE", value_parser = value_parser::union_size)]
    pub size: Option<u64>,
    /// The new size of the leaf [default: that of its device or image]
    #[arg(long, value_name = "SIZE", value_parser = value_parser::union_size)]
    pub leaf_size: Option<u64>,
    /// Make all checks, and say what the sizes would be. Write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The result. The field names are those of `--json`. Sizes are in sectors.
#[derive(Debug, Serialize)]
struct GrowReport {
    leaf: String,
    uuid: String,
    name: Option<String>,
    /// Whether this call has made something larger.
    changed: bool,
    sectors: u64,
    sectors_before: u64,
    leaf_sectors: u64,
    leaf_sectors_before: u64,
    slabs: u32,
    slabs_before: u32,
    /// The sizes to which union and leaf can grow.
    sectors_max: u64,
    leaf_sectors_max: u64,
}

/// Runs the command.
pub fn run(args: &GrowArgs, json: bool) -> Result {
    let report = match find(&args.what)? {
        Meant::Union(_, status) => return Err(attached(&status)),
        Meant::Leaf(path) => of_leaf(&path, args)?,
    };
    if json {
        return output::json(&report);
    }
    output::text(&text(&report, args.dry_run))
}

fn attached(status: &Status) -> Fail {
    let name = format!("{}{}", control::PREFIX, status.id);
    let leaf = leaf_name(status).unwrap_or_else(|| control::path_text(&status.leaf));
    let text = format!("{leaf} is attached as {name}: detach it with ubctl remove, let it grow, and attach it again");
    Fail::new(BUSY, "busy", text)
}

/// Makes a leaf that is not attached larger. It has the old sizes until the core writes the first
/// superblock slot, so the command may be interrupted at any time.
fn of_leaf(path: &Path, args: &GrowArgs) -> Result<GrowReport> {
    blocksize::refuse_tail(path)?;
    let mut leaf = Device::open(path, Role::Leaf, Access::Exclusive)?;
    refuse_union(&leaf, Role::Leaf)?;
    leaf.refuse_read_only()?;
    let probe = attach::read_superblock(&mut leaf).map_err(|e| sealed::no_leaf(&leaf, e))?;
    let name = leaf.path().display().to_string();
    let core = |e| Fail::core(&name, e);
    let old = probe.superblock.geometry;
    probe.writable().map_err(core)?;
    let found = leaf.sectors();
    attach::probe(&mut leaf, old.root_sectors(), found).map_err(core)?;
    let sizes = Sizes {
        union_sectors: union_size(args.size, &old)?,
        leaf_sectors: leaf_size(args.leaf_size, &leaf)?,
    };
    let new = old.grown(sizes.union_sectors, sizes.leaf_sectors);
    let new = new.map_err(core)?;
    let changed = new != old && !args.dry_run;
    if changed {
        allocate(&probe.superblock, path, sizes)?;
        ubcore::grow::grow(&mut leaf, &probe, sizes).map_err(core)?;
    }
    let sb = &probe.superblock;
    Ok(GrowReport {
        leaf: name,
        uuid: output::uuid(&sb.uuid),
        name: output::name(sb.name),
        changed,
        sectors: new.union_sectors(),
        sectors_before: old.union_sectors(),
        leaf_sectors: new.leaf_sectors(),
        leaf_sectors_before: old.leaf_sectors(),
        slabs: new.leaf_slabs(),
        slabs_before: old.leaf_slabs(),
        sectors_max: new.union_sectors_max(),
        leaf_sectors_max: new.leaf_sectors_max(),
    })
}

/// Returns the size of the union after the growth. It is a multiple of the largest block that a
/// device may have, so that an attach does not refuse it, whatever devices it gets.
fn union_size(asked: Option<u64>, old: &Geometry) -> Result<u64> {
    let Some(sectors) = asked else {
        return Ok(old.union_sectors());
    };
    if sectors % BLOCK_SECTORS != 0 && sectors != old.union_sectors() {
        let text = "--size: a union grows to a multiple of 4 KiB, so that it fits devices of \
                    every block size";
        return Err(Fail::new(REFUSED, "size", text));
    }
    Ok(sectors)
}

/// Returns the size of the leaf after the growth.
fn leaf_size(asked: Option<u64>, leaf: &Device) -> Result<u64> {
    let sectors = asked.unwrap_or_else(|| leaf.sectors());
    if sectors > leaf.sectors() {
        let text = format!(
            "--leaf-size: {} has only {}: make the device or image larger first",
            leaf.path().display(),
            output::size(leaf.sectors())
        );
        return Err(Fail::new(REFUSED, "size", text));
    }
    Ok(sectors)
}

/// Allocates the space of a leaf image that keeps all of its space.
fn allocate(sb: &Superblock, path: &Path, sizes: Sizes) -> Result {
    let image = Backing::to_allocate(path).filter(|_| sb.preallocated);
    image.map_or(Ok(()), |image| image.allocate(sizes.leaf_sectors * 512))
}

fn text(r: &GrowReport, dry_run: bool) -> String {
    let grown = |now: u64, before: u64| match now == before {
        true => output::size(now),
        false => format!("{}, before {}", output::size(now), output::size(before)),
    };
    let done = match (r.changed, dry_run) {
        (true, _) => "has grown",
        (false, true) => "would have these sizes",
        (false, false) => "has these sizes already",
    };
    format!(
        "{}: {done}\n{}",
        r.leaf,
        output::fields(&[
            ("union", grown(r.sectors, r.sectors_before)),
            ("leaf", grown(r.leaf_sectors, r.leaf_sectors_before)),
            (
                "room to grow",
                format!(
                    "union {}, leaf {}",
                    output::size(r.sectors_max),
                    output::size(r.leaf_sectors_max)
                )
            ),
        ])
    )
}
