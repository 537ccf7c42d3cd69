// SPDX-License-Identifier: GPL-2.0

//! `ubctl seal`: writes what a leaf maps as a sealed layer.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ubcore::error::{Error, Side};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::BLOCK_BYTES;
use ubcore::map::Map;
use ubcore::sealed::header::Header;
use ubcore::stack::chain::{LayerId, StandIn};
use ubcore::stack::extent::{self, Extents};
use ubcore::stack::leaf_extents::LeafExtents;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::sealing::{Sealing, SEALED_LAYER};
use crate::target::Target;
use crate::{loaded, output};
use map_memory::sha256::Sha256;
use map_memory::Heap;

const AFTER_HELP: &str = "\
The same content gives the same file, whatever leaf it lies in. The leaf is only
read, twice. A file is written beside OUT and takes its place when it is whole.
On a device the header comes last; until then the device holds no sealed layer.

Examples:
  ubctl seal /dev/vdb web-01.sealed
  ubctl seal vm1.leaf /dev/vdc --force --json";

/// Arguments of `seal`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SealArgs {
    /// The leaf: a block device or an image, not attached; it is only read
    pub leaf: PathBuf,
    /// The sealed layer: a new file, or a block device
    pub out: PathBuf,
    /// Replace an existing file, or write to a device that looks used
    #[arg(long)]
    pub force: bool,
    /// Let the sealed layer take the place of the frozen leaf below leaves that lie on it. This is
    /// written beside the content, and the digest does not cover it
    #[arg(long)]
    pub stand_in: bool,
}

/// The result of a seal.
#[derive(Debug, Serialize)]
struct SealReport {
    leaf: String,
    out: String,
    digest: String,
    sectors: u64,
    block_bytes: u32,
    extents: u64,
    data_sectors: u64,
    zero_sectors: u64,
    bytes: u64,
}

/// Runs the command.
pub fn run(args: &SealArgs, json: bool) -> Result {
    let mut leaf = Device::open(&args.leaf, Side::Leaf, Access::Claim)?;
    let what = leaf.path().display().to_string();
    let target = Target::check(SEALED_LAYER, &args.out, [&leaf], args.force)?;
    let loaded = loaded::load(&mut leaf)?;
    let (superblock, map) = (loaded.committer.superblock(), &loaded.map);
    refuse_in_use(&what, superblock)?;
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
    report(&what, args, &header, json)
}

fn report(leaf: &str, args: &SealArgs, header: &Header, json: bool) -> Result {
    let out = args.out.display().to_string();
    let bytes = header.blocks() * BLOCK_BYTES as u64;
    let digest = output::hex(&header.digest);
    if json {
        return output::json(&SealReport {
            leaf: leaf.to_owned(),
            out,
            digest,
            sectors: header.union_sectors,
            block_bytes: header.block_bytes,
            extents: header.extents,
            data_sectors: header.data_sectors,
            zero_sectors: header.zero_sectors,
            bytes,
        });
    }
    output::text(&format!(
        "{out}: what {leaf} maps, sealed\n{}",
        output::fields(&[
            ("digest", digest),
            ("union", output::size(header.union_sectors)),
            ("data", output::size(header.data_sectors)),
            ("zeroes", output::size(header.zero_sectors)),
            ("extents", header.extents.to_string()),
            ("size", format!("{bytes} bytes")),
        ])
    ))
}

/// Returns what the sealed layer stands for, if it is asked for.
fn stand_in(args: &SealArgs, what: &str, sb: &Superblock) -> Result<Option<StandIn>> {
    if !args.stand_in {
        return Ok(None);
    }
    let seal = sb
        .frozen
        .ok_or_else(|| Fail::core(what, Error::NotFrozen))?;
    let id = LayerId::Frozen(sb.uuid, seal);
    Ok(Some(StandIn {
        below: sb.chain,
        after: sb.chain.with::<Sha256>(&id),
        layers: 1,
    }))
}

/// Refuses a leaf that may still change, because no one has said that it stays as it is.
pub(super) fn refuse_in_use(leaf: &str, superblock: &Superblock) -> Result {
    if superblock.clean {
        return Ok(());
    }
    let text = format!(
        "{leaf}: its union was not detached, so its last writes are only in the journal: attach it \
         with ubctl create, and detach it with ubctl remove"
    );
    Err(Fail::new(REFUSED, "not_clean", text))
}

/// Returns how many sectors of data one pass reads.
fn data_sectors(map: &Map<Heap>) -> ubcore::error::Result<u64> {
    let mut extents = LeafExtents::new(map, || Ok(()));
    let mut sectors = 0;
    while let Some(e) = extents.next()? {
        if e.content != extent::Content::Zero {
            sectors += e.sectors;
        }
    }
    Ok(sectors)
}

#[cfg(test)]
mod tests {
    use super::refuse_in_use;
    use crate::commands::format::tests::superblock;

    #[test]
    fn a_leaf_with_a_journal_is_refused() {
        let mut sb = superblock(1, 1);
        refuse_in_use("x", &sb).unwrap();
        sb.clean = false;
        let fail = refuse_in_use("x", &sb).unwrap_err();
        assert_eq!(fail.reason, "not_clean");
    }
}
