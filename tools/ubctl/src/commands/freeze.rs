// SPDX-License-Identifier: GPL-2.0

//! `ubctl freeze`: makes a leaf a layer, in place.

mod live;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use ubcore::error::Role;
use ubcore::format::name::LeafName;
use ubcore::format::superblock::Superblock;
use ubcore::stack::chain::Seal;

use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result};
use crate::value_parser::leaf_name;
use crate::{loaded, output, random};

/// Arguments of `freeze`.
#[derive(Debug, Args)]
#[command(
    after_help = "ubctl copies nothing. unionblk never writes to a frozen leaf. Make leaves on it\n\
    with ubctl format --layer, or read it with ubctl create --read-only. A frozen leaf cannot be\n\
    made writable again.\n\
    If a leaf is frozen already, the command changes nothing and succeeds.\n\
    With --leaf the union continues in NEW, which is formatted for it: the device, its openers\n\
    and mounts stay. File systems on it and its partitions are frozen for that moment, so that\n\
    they are consistent in the layer. This does not reach those on other devices on it.\n\
    NEW gets the slab size, --discard, limit and name of the old leaf, and another UUID.\n\
    Examples:\n  ubctl freeze step1.leaf\n  ubctl freeze unionblk0 --leaf step2.leaf"
)]
pub struct FreezeArgs {
    /// The leaf to freeze: a block device or an image, not attached. With --leaf, the union that
    /// continues, by its name, device, number, or its leaf's name or UUID
    #[arg(value_name = "LEAF|UNION")]
    pub leaf: PathBuf,
    /// Freeze the leaf of a union that stays in use, which continues in this blank leaf
    #[arg(long = "leaf", value_name = "NEW")]
    pub new: Option<PathBuf>,
    /// With --leaf: format the new leaf even if it looks used; its content is lost
    #[arg(long, requires = "new")]
    pub force: bool,
    /// With --leaf: the name of the new leaf [default: that of the old one]
    #[arg(long, requires = "new", value_parser = leaf_name)]
    pub name: Option<LeafName>,
    /// With --leaf: freeze the file systems on the union and its partitions meanwhile; this is the
    /// default
    #[arg(long, requires = "new", conflicts_with = "no_fsfreeze")]
    pub fsfreeze: bool,
    /// With --leaf: do not freeze the file systems on the union
    #[arg(long, requires = "new")]
    pub no_fsfreeze: bool,
}

/// The result of a freeze. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct FreezeReport {
    leaf: String,
    uuid: String,
    seal: String,
    /// Whether this call froze the leaf.
    changed: bool,
    sectors: u64,
    /// The number of layers that the leaf itself lies on.
    layers: u32,
}

/// Runs the command.
pub fn run(args: &FreezeArgs, json: bool) -> Result {
    if let Some(new) = &args.new {
        let live = live::Live {
            union: &args.leaf.to_string_lossy(),
            leaf: new,
            force: args.force,
            name: args.name,
            no_fsfreeze: args.no_fsfreeze,
        };
        return live::run(&live, json);
    }
    let mut leaf = Device::open(&args.leaf, Role::Leaf, Access::Read)?;
    refuse_union(&leaf, Role::Leaf)?;
    let mut sb = loaded::superblock(&mut leaf)?;
    let changed = sb.frozen.is_none();
    if changed {
        drop(leaf);
        sb = freeze(args)?;
    }
    report(args, &sb, changed, json)
}

/// Freezes the leaf, and returns its superblock. Until the core writes the first superblock slot
/// the leaf is as it was, so the command may be interrupted at any time.
fn freeze(args: &FreezeArgs) -> Result<Superblock> {
    let mut leaf = Device::open(&args.leaf, Role::Leaf, Access::Exclusive)?;
    refuse_union(&leaf, Role::Leaf)?;
    leaf.refuse_read_only()?;
    let mut loaded = loaded::load(&mut leaf)?;
    let seal = Seal(random::bytes()?);
    let frozen = loaded.committer.freeze(&loaded.map, &mut leaf, seal);
    frozen.map_err(|e| Fail::core(&leaf.path().display().to_string(), e))?;
    Ok(loaded.committer.superblock().clone())
}

fn report(args: &FreezeArgs, sb: &Superblock, changed: bool, json: bool) -> Result {
    let Some(Seal(seal)) = sb.frozen else {
        return Err(Fail::core(
            &args.leaf.display().to_string(),
            ubcore::error::Error::Internal,
        ));
    };
    let g = &sb.geometry;
    let frozen = FreezeReport {
        leaf: args.leaf.display().to_string(),
        uuid: output::uuid(&sb.uuid),
        seal: output::hex(&seal),
        changed,
        sectors: g.union_sectors(),
        layers: g.layers(),
    };
    if json {
        return output::json(&frozen);
    }
    let state = if changed {
        "frozen"
    } else {
        "was frozen already"
    };
    output::text(&format!(
        "{}: {state}\n{}",
        frozen.leaf,
        output::fields(&[
            ("uuid", frozen.uuid.clone()),
            ("seal", frozen.seal.clone()),
            ("union", output::size(frozen.sectors)),
            ("layers below", frozen.layers.to_string()),
        ])
    ))
}
