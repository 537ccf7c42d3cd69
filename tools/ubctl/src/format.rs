// SPDX-License-Identifier: GPL-2.0

//! `ubctl format`: makes a device or image the leaf of a root.

use std::path::Path;

use serde::Serialize;
use ubcore::error::Side;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{default_journal_blocks, Geometry, BLOCK_BYTES, BLOCK_SECTORS};

use crate::cli::{FormatArgs, LayoutArgs};
use crate::device::{refuse_same, Access, Device};
use crate::refuse::{Fail, Result, REFUSED};
use crate::used::{self, Used};
use crate::{identity, output};

const BLOCK: u64 = BLOCK_BYTES as u64;
const MIB: u64 = 1 << 20;

/// What was made.
#[derive(Debug, Serialize)]
pub struct Formatted {
    leaf: String,
    root: String,
    uuid: String,
    root_sectors: u64,
    leaf_sectors: u64,
    slab_sectors: u32,
    slabs: u32,
    journal_blocks: u32,
    data_start: u64,
}

/// The command.
pub fn run(args: &FormatArgs, json: bool) -> Result {
    let made = format(&args.root, &args.leaf, args.layout, args.force)?;
    if json {
        return output::json(&made);
    }
    let data = u64::from(made.slabs) * u64::from(made.slab_sectors);
    output::text(&format!(
        "{}: a leaf of {}\n{}",
        made.leaf,
        made.root,
        output::fields(&[
            ("uuid", made.uuid.clone()),
            ("root", output::size(made.root_sectors)),
            ("leaf", output::size(made.leaf_sectors)),
            ("slab", output::size(made.slab_sectors.into())),
            (
                "room for data",
                format!("{} in {} slabs", output::size(data), made.slabs)
            ),
            (
                "journal",
                output::size(u64::from(made.journal_blocks) * BLOCK_SECTORS)
            ),
        ])
    ))
}

/// Formats `leaf` for `root`. Whatever is refused is so before the first write.
pub fn format(root: &Path, leaf: &Path, layout: LayoutArgs, force: bool) -> Result<Formatted> {
    refuse_same(root, leaf)?;
    let what = format!("root {}, leaf {}", root.display(), leaf.display());
    let root = Device::open(root, Side::Root, Access::Read)?;
    let leaf = Device::open(leaf, Side::Leaf, Access::Exclusive)?;
    let sizes = (root.sectors(), leaf.sectors());
    let journal = layout
        .journal_size
        .unwrap_or_else(|| default_journal_blocks(sizes.1));
    let geometry = Geometry::new(sizes.0, sizes.0, sizes.1, layout.slab_size, journal)
        .map_err(|e| Fail::core(&what, e))?;
    let used = used::look(&leaf)?;
    if let Some(used) = used.as_ref().filter(|_| !force) {
        return Err(looks_used(&leaf, used));
    }
    let superblock = superblock(&root, geometry)?;
    write_superblocks(&leaf, &superblock)?;
    if used.is_some() {
        wipe(&leaf, &superblock.geometry)?;
    }
    let g = &superblock.geometry;
    Ok(Formatted {
        leaf: leaf.path().display().to_string(),
        root: root.path().display().to_string(),
        uuid: output::uuid(&superblock.uuid),
        root_sectors: g.root_sectors(),
        leaf_sectors: g.leaf_sectors(),
        slab_sectors: g.slab_sectors(),
        slabs: g.leaf_slabs(),
        journal_blocks: g.journal_blocks(),
        data_start: g.data_start(),
    })
}

fn looks_used(leaf: &Device, used: &Used) -> Fail {
    let path = leaf.path().display();
    if used.is_leaf {
        return Fail::new(
            REFUSED,
            "already_formatted",
            format!(
                "{path} is formatted already: to attach it, leave out --format; --force makes it \
                 blank, and all changes that it holds are lost"
            ),
        );
    }
    Fail::new(
        REFUSED,
        "looks_used",
        format!(
            "{path} looks used: {} at byte {}; if nothing on it is needed any more, say --force",
            used.what, used.at
        ),
    )
}

fn superblock(root: &Device, geometry: Geometry) -> Result<Superblock> {
    let mut uuid: [u8; 16] = random()?;
    // RFC 9562: version 4, variant 1.
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    Ok(Superblock {
        generation: 1,
        uuid,
        nonce: u64::from_le_bytes(random()?),
        geometry,
        root_block_bytes: root.block_bytes()?,
        clean: true,
        journal_tail: 0,
        journal_sequence: 1,
        root_digest: identity::digest(root, &uuid)?,
        directory_slots: [0; 256],
    })
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let n =
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled += n.map_err(|e| {
            Fail::io(
                "read from",
                Path::new("the kernel's random numbers"),
                &e.into(),
            )
        })?;
    }
    Ok(bytes)
}

/// Writes both slots so that a cut of power leaves a whole old leaf or a whole new one.
///
/// First the second slot is emptied: were the first one new and the second still old, and then the
/// first one lost, the old leaf would come back to life. Stale blocks elsewhere need no wiping: they
/// do not carry the new nonce.
fn write_superblocks(leaf: &Device, superblock: &Superblock) -> Result {
    let mut block = vec![0; BLOCK_BYTES];
    leaf.write_at(BLOCK, &block)?;
    leaf.sync()?;
    superblock.encode(&mut block);
    for slot in 0..2 {
        leaf.write_at(slot * BLOCK, &block)?;
        leaf.sync()?;
    }
    Ok(())
}

/// Takes away the marks of who used the device before: `blkid` and udev would still see a file
/// system there, and somebody would mount it.
fn wipe(leaf: &Device, geometry: &Geometry) -> Result {
    let data = geometry.data_start() * 512;
    let tail = leaf.bytes().saturating_sub(MIB).max(data);
    for (from, to) in [(2 * BLOCK, data.min(MIB)), (tail, leaf.bytes())] {
        let zeroes = vec![0; usize::try_from(to - from).unwrap_or(0)];
        leaf.write_at(from, &zeroes)?;
    }
    leaf.sync()
}
