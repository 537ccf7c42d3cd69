// SPDX-License-Identifier: GPL-2.0

//! `ubctl limit`: sets how much of its space a leaf may use.

use std::num::NonZeroU32;
use std::path::Path;

use clap::Args;
use serde::Serialize;
use ubcore::abi::Status;
use ubcore::attach;
use ubcore::error::Role;
use ubcore::num::SECTOR_BYTES;

use crate::control::{self, leaf_name, path_text, Control};
use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::named::{find, Meant};
use crate::{output, sealed, value_parser};

/// Arguments of `limit`.
#[derive(Debug, Args)]
#[command(
    after_help = "At the limit the leaf is full: writes that need new space fail with ENOSPC, and all\n\
    others continue. A limit below what is in use is allowed, and so is one above the size of the\n\
    leaf, which can grow. The limit is in the leaf, counts in\n\
    slabs, and stays until it is changed, also over a reset, and for the leaf in which the union\n\
    continues after a freeze.\n\
    Exit codes: 0 done; 1 failed; 3 refused: frozen, read-only, not formatted, or a limit below\n\
    one slab; 4 in use.\n\
    Examples:\n  ubctl limit unionblk0 2G\n  ubctl limit vm1.leaf none"
)]
pub struct LimitArgs {
    /// A leaf that is not attached: a block device or an image. Or a union, by its name, device,
    /// number, or its leaf's name or UUID
    #[arg(value_name = "LEAF|UNION")]
    pub what: String,
    /// The bytes of data, rounded down to slabs (K, M, G, T); none: all that the leaf has
    #[arg(value_name = "SIZE|none", value_parser = value_parser::limit)]
    pub size: value_parser::LimitArg,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct LimitReport {
    /// The union's device, if the leaf is attached.
    device: Option<String>,
    leaf: String,
    uuid: String,
    name: Option<String>,
    /// The limit; null if there is none.
    limit_slabs: Option<NonZeroU32>,
    limit_bytes: Option<u64>,
    slabs: u32,
}

/// Runs the command.
pub fn run(args: &LimitArgs, json: bool) -> Result {
    let report = match find(&args.what)? {
        Meant::Union(control, status) => of_union(&control, &status, args.size)?,
        Meant::Leaf(path) => of_leaf(&path, args.size)?,
    };
    if json {
        return output::json(&report);
    }
    let what = report.device.as_ref().unwrap_or(&report.leaf);
    output::text(&match report.limit_bytes {
        Some(bytes) => format!("{what}: may use {}\n", output::size(bytes / SECTOR_BYTES)),
        None => format!("{what}: has no limit\n"),
    })
}

/// Converts a limit to slabs of so many sectors. `None`: no limit. A limit above the number of
/// slabs is kept for a leaf that grows.
fn in_slabs(size: value_parser::LimitArg, sectors: u32) -> Result<Option<NonZeroU32>> {
    let value_parser::LimitArg(Some(bytes)) = size else {
        return Ok(None);
    };
    let slab = u64::from(sectors).saturating_mul(SECTOR_BYTES);
    let wanted = u32::try_from(bytes.checked_div(slab).unwrap_or(0)).unwrap_or(u32::MAX);
    let below_one = || {
        let text = format!(
            "a limit below one slab, {}, is not possible: give at least that",
            output::size(sectors.into())
        );
        Fail::new(REFUSED, "limit", text)
    };
    NonZeroU32::new(wanted).ok_or_else(below_one).map(Some)
}

fn of_union(
    control: &Control,
    status: &Status,
    size: value_parser::LimitArg,
) -> Result<LimitReport> {
    let limit = in_slabs(size, status.slab_sectors)?;
    control.set_limit(status, limit)?;
    Ok(LimitReport {
        device: Some(format!("/dev/{}{}", control::PREFIX, status.id)),
        leaf: path_text(&status.leaf),
        uuid: output::uuid(&status.uuid),
        name: leaf_name(status),
        limit_slabs: limit,
        limit_bytes: limit.map(|n| bytes(n.get(), status.slab_sectors)),
        slabs: status.slabs,
    })
}

/// Sets the limit of a leaf that is not attached. It has the old one until the core writes the
/// first superblock slot, so the command may be interrupted at any time.
fn of_leaf(path: &Path, size: value_parser::LimitArg) -> Result<LimitReport> {
    let mut leaf = Device::open(path, Role::Leaf, Access::Exclusive)?;
    refuse_union(&leaf, Role::Leaf)?;
    leaf.refuse_read_only()?;
    let probe = attach::read_superblock(&mut leaf).map_err(|e| sealed::no_leaf(&leaf, e))?;
    let g = probe.superblock.geometry;
    let name = leaf.path().display().to_string();
    let limit = in_slabs(size, g.slab_sectors())?;
    let sb = ubcore::limit::set(&mut leaf, &probe, limit).map_err(|e| Fail::core(&name, e))?;
    Ok(LimitReport {
        device: None,
        leaf: name,
        uuid: output::uuid(&sb.uuid),
        name: output::name(sb.name),
        limit_slabs: limit,
        limit_bytes: limit.map(|n| bytes(n.get(), g.slab_sectors())),
        slabs: g.leaf_slabs(),
    })
}

/// Returns the bytes of slabs of so many sectors.
pub fn bytes(slabs: u32, sectors: u32) -> u64 {
    u64::from(slabs)
        .saturating_mul(u64::from(sectors))
        .saturating_mul(SECTOR_BYTES)
}
