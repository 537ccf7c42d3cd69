// SPDX-License-Identifier: GPL-2.0

//! `ubctl reset`: makes a leaf forget all its changes.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use ubcore::abi::Status;
use ubcore::attach;
use ubcore::error::Role;
use ubcore::format::superblock::Superblock;
use ubcore::num::SECTOR_BYTES;

use super::limit::bytes;
use crate::control::{self, path_text, Control};
use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result};
use crate::holders::{self, Tried};
use crate::named::{find, Meant};
use crate::wait::Deadline;
use crate::{loaded, output, sealed};

/// Arguments of `reset`.
#[derive(Debug, Args)]
#[command(
    after_help = "All that was written to the leaf is lost, and the union reads as what lies below\n\
    it. The command writes two blocks, whatever the leaf holds. UUID, name and all choices of\n\
    format stay. The space is free for the union, and stays allocated below the leaf.\n\
    A union keeps its device and its number. No process may have it open: unmount it first.\n\
    The page cache of the device is dropped, and its partition table is read again.\n\
    If the power fails meanwhile, the leaf is as before or empty. A frozen leaf is refused.\n\
    A damaged leaf can be reset, unless both superblocks are damaged or one cannot be read.\n\
    Exit codes: 0 done; 1 failed; 3 refused: frozen, read-only, not formatted; 4 in use.\n\
    Examples:\n  ubctl reset unionblk0\n  ubctl reset vm1.leaf --dry-run"
)]
pub struct ResetArgs {
    /// A leaf that is not attached: a block device or an image. Or a union, by its name, device,
    /// number, or its leaf's name or UUID
    #[arg(value_name = "LEAF|UNION")]
    pub what: String,
    /// Make all checks, and say what would be lost. Write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The result of a reset. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct ResetReport {
    /// The union's device, if the leaf is attached.
    device: Option<String>,
    leaf: String,
    uuid: String,
    name: Option<String>,
    /// Whether this call has reset the leaf.
    changed: bool,
    /// How much of the leaf was in use. Of a leaf that is not attached only with `--dry-run`, if it
    /// is not damaged, because a reset does not read the map.
    slabs_used: Option<u32>,
    bytes_used: Option<u64>,
}

/// Runs the command.
pub fn run(args: &ResetArgs, json: bool) -> Result {
    let report = match find(&args.what)? {
        Meant::Union(control, status) => reset_union(&control, &status, args.dry_run)?,
        Meant::Leaf(path) => reset_leaf(&path, args.dry_run)?,
    };
    print(&report, json)
}

fn reset_union(control: &Control, status: &Status, dry_run: bool) -> Result<ResetReport> {
    let name = format!("{}{}", control::PREFIX, status.id);
    let disk = rustix::fs::makedev(status.major, status.minor);
    let attempt = || {
        let now = control.same_union(status)?;
        match (dry_run, now.openers) {
            (true, 0) => control.check_reset(&now).map(Tried::Done),
            (true, _) => Ok(Tried::Busy),
            (false, _) => control.reset(status),
        }
    };
    let look = |all| holders::of_device(disk, all);
    let done = holders::retry(Deadline::new(), look, attempt)?;
    done.map_err(|who| who.fail(&name))?;
    Ok(ResetReport {
        device: Some(format!("/dev/{name}")),
        leaf: path_text(&status.leaf),
        uuid: output::uuid(&status.uuid),
        name: control::leaf_name(status),
        changed: !dry_run,
        slabs_used: Some(status.slabs_used),
        bytes_used: Some(bytes(status.slabs_used, status.slab_sectors)),
    })
}

/// Resets a leaf that is not attached. It is as before until the core writes the first superblock
/// slot, and empty from then on, so the command may be interrupted at any time.
fn reset_leaf(path: &Path, dry_run: bool) -> Result<ResetReport> {
    let mut leaf = Device::open(path, Role::Leaf, Access::Exclusive)?;
    refuse_union(&leaf, Role::Leaf)?;
    leaf.refuse_read_only()?;
    let probe = attach::read_superblock(&mut leaf).map_err(|e| sealed::no_leaf(&leaf, e))?;
    let sb = probe.superblock.clone();
    let name = leaf.path().display().to_string();
    let core = |e| Fail::core(&name, e);
    probe.writable().map_err(core)?;
    let (root, sectors) = (sb.geometry.root_sectors(), leaf.sectors());
    attach::probe(&mut leaf, root, sectors).map_err(core)?;
    if dry_run {
        let used = loaded::load(&mut leaf).ok().map(|loaded| loaded.used);
        return Ok(report(&name, &sb, false, used));
    }
    ubcore::reset::reset(&mut leaf, &probe).map_err(core)?;
    Ok(report(&name, &sb, true, None))
}

fn report(leaf: &str, sb: &Superblock, changed: bool, used: Option<u32>) -> ResetReport {
    ResetReport {
        device: None,
        leaf: leaf.to_owned(),
        uuid: output::uuid(&sb.uuid),
        name: output::name(sb.name),
        changed,
        slabs_used: used,
        bytes_used: used.map(|n| bytes(n, sb.geometry.slab_sectors())),
    }
}

fn print(report: &ResetReport, json: bool) -> Result {
    if json {
        return output::json(report);
    }
    let what = report.device.as_ref().unwrap_or(&report.leaf);
    let used = match report.bytes_used {
        Some(bytes) => format!(", {}", output::size(bytes / SECTOR_BYTES)),
        None => String::new(),
    };
    let done = match (report.changed, &report.device) {
        (false, _) => format!("would lose all its changes{used}"),
        (true, Some(_)) => format!("has lost all its changes{used}, and reads as what lies below"),
        (true, None) => "has lost all its changes".to_owned(),
    };
    output::text(&format!("{what}: {done}\n"))
}
