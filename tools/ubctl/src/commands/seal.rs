// SPDX-License-Identifier: GPL-2.0

//! `ubctl seal`: writes what a leaf maps as a sealed layer.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ubcore::error::Error;
use ubcore::format::superblock::Superblock;
use ubcore::map::Map;
use ubcore::stack::chain::{LayerId, StandIn};
use ubcore::stack::extent::{self, Extents};
use ubcore::stack::leaf_extents::LeafExtents;

use crate::error::{Fail, Result};
use crate::sealed::HeaderReport;
use crate::sealing::{Sealing, SEALED_LAYER};
use crate::target::{Target, Wanted};
use crate::{layer_arg, loaded, output};
use map_memory::sha256::Sha256;
use map_memory::Heap;

const AFTER_HELP: &str = "\
The same content gives the same bytes, whatever leaf it is in. ubctl reads the
leaf twice, and does not write to it. A file is written under another name, and
renamed to OUT when it is complete. On a device, and with --append, the header
is written last, so there is no sealed layer before that. The name of a layer
that does not begin at the first byte is OUT@OFFSET, in bytes, for each command
that takes a layer.

Examples:
  ubctl seal /dev/vdb web-01.sealed
  ubctl seal vm1.leaf /dev/vdc --force --json
  ubctl seal step2.leaf layers.sealed --append";

/// Arguments of `seal`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SealArgs {
    /// The leaf: a block device or an image. A frozen leaf may be in use as a layer; any other
    /// leaf must be detached. It is only read
    pub leaf: PathBuf,
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
    /// Let the sealed layer take the place of the frozen leaf below leaves that lie on it. This is
    /// written beside the content, and the digest does not cover it
    #[arg(long)]
    pub stand_in: bool,
}

impl SealArgs {
    fn wanted(&self) -> Wanted {
        Wanted {
            what: SEALED_LAYER,
            force: self.force,
            append: self.append,
        }
    }
}

/// The result of a seal.
#[derive(Debug, Serialize)]
struct SealReport {
    leaf: String,
    out: String,
    offset: u64,
    #[serde(flatten)]
    header: HeaderReport,
}

/// Runs the command.
pub fn run(args: &SealArgs, json: bool) -> Result {
    let mut leaf = loaded::open_at_rest(&args.leaf)?;
    let what = leaf.name();
    let target = Target::check(args.wanted(), &args.out, [&leaf])?;
    if args.dry_run {
        return target.report_plan(&args.out, json);
    }
    let offset = target.start();
    let loaded = loaded::load(&mut leaf)?;
    let (superblock, map) = (loaded.committer.superblock(), &loaded.map);
    let stand_in = stand_in(args, &what, superblock)?;
    let total = data_sectors(map).map_err(|e| Fail::core(&what, e))?;
    let union = superblock.geometry.union_sectors();
    let sealing = Sealing {
        what: &what,
        sizes: (union, superblock.root_block_bytes),
        data_sectors: total,
        stand_in,
    };
    let extents = || LeafExtents::new(map, || Ok(()));
    let header = sealing.write(target, extents, |at, room| leaf.read_at(at * 512, room))?;
    let report = SealReport {
        leaf: what,
        out: args.out.display().to_string(),
        offset,
        header: HeaderReport::new(&header),
    };
    if json {
        return output::json(&report);
    }
    output::text(&format!(
        "{}: sealed layer of {}\n{}",
        layer_arg::name(&args.out, offset),
        report.leaf,
        output::fields(&report.header.fields())
    ))
}

/// Returns what the sealed layer stands for, if it is asked for.
fn stand_in(args: &SealArgs, what: &str, sb: &Superblock) -> Result<Option<StandIn>> {
    if !args.stand_in {
        return Ok(None);
    }
    let stand_in = place_of(sb);
    stand_in
        .ok_or_else(|| Fail::core(what, Error::NotFrozen))
        .map(Some)
}

/// Returns the place of a frozen leaf, which a sealed layer of it can take.
pub(super) fn place_of(sb: &Superblock) -> Option<StandIn> {
    let id = LayerId::Frozen(sb.uuid, sb.frozen?);
    Some(StandIn {
        below: sb.chain,
        after: sb.chain.with::<Sha256>(&id),
        layers: 1,
    })
}

/// Returns how many sectors of data one pass reads.
pub(super) fn data_sectors(map: &Map<Heap>) -> ubcore::error::Result<u64> {
    let mut extents = LeafExtents::new(map, || Ok(()));
    let mut sectors = 0;
    while let Some(e) = extents.next()? {
        if e.content != extent::Content::Zero {
            sectors += e.sectors;
        }
    }
    Ok(sectors)
}
