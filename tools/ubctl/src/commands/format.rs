// SPDX-License-Identifier: GPL-2.0

//! `ubctl format`: makes a device or image the leaf of a root.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use ubcore::error::Role;
use ubcore::format::name::LeafName;
use ubcore::format::new_leaf::NewLeaf;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{default_journal_blocks, Geometry, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::num::u64_as_usize;

use crate::backing::Backing;
use crate::below::{self, Below, Opened, RootArg};
use crate::blocksize::DeviceBlocks;
use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::layer_arg::LayerArg;
use crate::loopdev::Lower;
use crate::probe::{self, Used};
use crate::rollback::Rollback;
use crate::value_parser::{journal_blocks, leaf_name, sector_size, slab_sectors, union_size};
use crate::{blocksize, interrupt, loaded, output, preflight, random, root_samples};

const BLOCK: u64 = BLOCK_BYTES as u64;
const MIB: u64 = 1 << 20;

/// Arguments of `format`.
#[derive(Debug, Args)]
#[command(
    after_help = "A leaf with anything in its first or last MiB looks used, and is refused \
    without --force.\nSizes are in bytes, or with K, M, G or T: 64K is 65536.\n\
    Examples:\n  ubctl format --root gold.img vm1.leaf --name vm1\n  \
    ubctl format --root gold.img /dev/vdb --force --dry-run"
)]
pub struct FormatArgs {
    /// The root: a block device or an image; it is only read. The word none stands for no root:
    /// unmapped sectors then read as zeroes
    #[arg(long, value_parser = RootArg::parse)]
    pub root: RootArg,
    /// A layer below the leaf: a frozen leaf or a sealed layer; repeated, the lowest first. ubctl
    /// adds the layers that the first one lists, from their recorded paths. PATH@OFFSET names one
    /// of several sealed layers in PATH
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// The leaf: a block device or an image
    pub leaf: PathBuf,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would show as help")]
    pub layout: LayoutArgs,
    /// Format even if the leaf looks used; its content is lost
    #[arg(long)]
    pub force: bool,
    /// Make all checks, and say what would be lost. Write nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// How a leaf is laid out.
#[derive(Clone, Copy, Debug, Args)]
pub struct LayoutArgs {
    /// Unit in which leaf space is allocated: a power of two, 16K to 4M
    #[arg(long, value_name = "SIZE", value_parser = slab_sectors, default_value = "64K")]
    pub slab_size: u32,
    /// Size of the journal, 64K to 256M [default: a 256th of the leaf, at most 8M]
    #[arg(long, value_name = "SIZE", value_parser = journal_blocks)]
    pub journal_size: Option<u32>,
    /// What discarded slabs read as: zeroes, or what lies below the leaf again
    #[arg(long, value_name = "AS", default_value = "zero")]
    pub discard: Discard,
    /// A name for the leaf, beside its UUID: up to 31 of A-Z a-z 0-9 . _ -
    #[arg(long, value_parser = leaf_name)]
    pub name: Option<LeafName>,
    /// The union's logical block size, 512 to 4096 [default: the one that the root's content was
    /// made for]
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// Allocate all of a leaf image's space, and give none back
    #[arg(long)]
    pub preallocate: bool,
    /// Size of the union; beyond root and layers it reads as zeroes [default: that of the largest]
    #[arg(long, value_name = "SIZE", value_parser = union_size)]
    pub size: Option<u64>,
    /// The limit of a leaf that continues another one, in slabs. It may be above their number.
    #[arg(skip)]
    pub limit: Option<NonZeroU32>,
    /// Keep room in the map to let union and leaf grow to this size later [default: twice theirs,
    /// and less for a union that is much larger than the leaf]
    #[arg(long, value_name = "SIZE", value_parser = union_size)]
    pub grow_to: Option<u64>,
    /// The size to which the union has to be able to grow, if `grow_to` does not say it.
    #[arg(skip)]
    pub union_sectors_max: u64,
}

/// What a discarded slab reads as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Discard {
    /// Zeroes
    #[default]
    Zero,
    /// What lies below again
    Reveal,
}

/// The result of a format.
#[derive(Debug, Serialize)]
pub struct Formatted {
    leaf: String,
    root: Option<String>,
    layers: u32,
    /// Null of a leaf that was not formatted.
    uuid: Option<String>,
    name: Option<String>,
    /// Whether the leaf was formatted; false with `--dry-run`.
    changed: bool,
    /// What the leaf held before.
    replaced: String,
    sectors: u64,
    root_sectors: u64,
    leaf_sectors: u64,
    slab_sectors: u32,
    slabs: u32,
    journal_blocks: u32,
    data_start: u64,
    /// The sizes to which union and leaf can grow.
    sectors_max: u64,
    leaf_sectors_max: u64,
}

/// Runs the command.
pub fn run(args: &FormatArgs, json: bool) -> Result {
    let layers = below::with_listed(&args.layers)?;
    below::refuse_paths(&args.root, &layers, Some(&args.leaf))?;
    blocksize::refuse_tail(&args.leaf)?;
    // The root is only sampled. A program that writes to it would make the samples wrong.
    below::refuse_locked(&args.root, &layers)?;
    let below = (&args.root, &layers[..]);
    let wanted = blocksize::wanted(below, None, args.layout.sector_size)?;
    let below = Below::as_it_is(&args.root, &layers);
    let leaf = Lower::as_it_is(&args.leaf);
    let plan = Plan::new((&below, &leaf), args.layout, args.force, wanted)?;
    if args.dry_run {
        return plan.report(json);
    }
    let made = plan.write()?;
    if json {
        return output::json(&made);
    }
    let data = u64::from(made.slabs) * u64::from(made.slab_sectors);
    output::text(&format!(
        "{}: a leaf of {}\n{}",
        made.leaf,
        made.root.as_deref().unwrap_or("no root"),
        output::fields(&[
            ("uuid", output::name_text(made.uuid.as_ref())),
            ("name", output::name_text(made.name.as_ref())),
            ("union", output::size(made.sectors)),
            ("root", output::size(made.root_sectors)),
            ("layers", made.layers.to_string()),
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
            (
                "room to grow",
                format!(
                    "union {}, leaf {}",
                    output::size(made.sectors_max),
                    output::size(made.leaf_sectors_max)
                )
            ),
        ])
    ))
}

/// A format that passed all checks. Root and leaf are held.
pub struct Plan {
    /// What the leaf will lie on, open.
    pub below: Opened,
    leaf: Device,
    /// The leaf opened a second time, without a claim: see [`Plan::hand_over`].
    open_leaf: Device,
    superblock: Superblock,
    /// What the leaf holds.
    used: Option<Used>,
    rollback: Rollback,
    /// The image that the leaf lies in, if the leaf is one.
    backing: Option<Backing>,
}

impl Plan {
    /// Makes every check that could refuse the format, for a union with blocks of `wanted` bytes.
    /// Writes nothing.
    pub fn new(
        (below, leaf): (&Below, &Lower),
        layout: LayoutArgs,
        force: bool,
        wanted: u32,
    ) -> Result<Plan> {
        let open = Device::open(&leaf.node, Role::Leaf, Access::Exclusive)?.called(&leaf.name);
        // Even --force does not let a root or a layer become a leaf.
        let opened = below.open(Some(&open))?;
        opened.refuse_other_below()?;
        Plan::on(opened, (open, leaf.to_allocate()), layout, force, wanted)
    }

    /// Does the same for a leaf that is open and shares nothing with what it is to lie on.
    /// `backing` is the image that it lies in, see [`Lower::to_allocate`].
    pub fn on(
        below: Opened,
        (leaf, backing): (Device, Option<Backing>),
        layout: LayoutArgs,
        force: bool,
        wanted: u32,
    ) -> Result<Plan> {
        if layout.preallocate && backing.is_none() {
            return Err(no_image(leaf.path()));
        }
        let what = format!("{}, leaf {}", below.name(), leaf.path().display());
        refuse_union(&leaf, Role::Leaf)?;
        leaf.refuse_read_only()?;
        if let Some(root) = &below.root {
            preflight::refuse_limits(root, Role::Root)?;
        }
        for layer in &below.layers {
            preflight::refuse_limits(&layer.device, Role::Layer)?;
        }
        preflight::refuse_limits(&leaf, Role::Leaf)?;
        let sizes = (below.root_sectors(), leaf.sectors());
        let journal = layout
            .journal_size
            .unwrap_or_else(|| default_journal_blocks(sizes.1));
        let blocks = blocks(&below, &leaf, wanted)?;
        let union = union_sectors(layout.size, &below, &blocks)?;
        let count = u32::try_from(below.list.len()).unwrap_or(u32::MAX);
        let geometry = Geometry::new(sizes.0, union, sizes.1, layout.slab_size, journal)
            .and_then(|g| g.over(count))
            .and_then(|g| with_room(g, &layout))
            .map_err(|e| Fail::core(&what, e))?;
        let used = probe::probe(&leaf)?;
        if let Some(used) = used.as_ref().filter(|_| !force) {
            return Err(looks_used(&leaf, used));
        }
        let mut superblock = superblock(&below, geometry, wanted)?;
        superblock.reveal = layout.discard == Discard::Reveal;
        superblock.preallocated = layout.preallocate;
        superblock.name = layout.name.unwrap_or_default();
        superblock.features.set_limit(layout.limit);
        let mut kept = vec![list_of(&geometry)];
        if used.is_some() {
            kept.extend(wiped(&leaf, &geometry));
        }
        let rollback = Rollback::keep(&leaf, &kept, block_of(&superblock))?;
        Ok(Plan {
            below,
            open_leaf: leaf.again(Access::Read)?,
            leaf,
            superblock,
            used,
            rollback,
            backing,
        })
    }

    /// Formats the leaf. If that fails, puts back what the leaf held.
    pub fn write(&self) -> Result<Formatted> {
        let replaced = self.replaced();
        if let Some(backing) = &self.backing {
            // Allocation does not change what the leaf holds.
            backing.allocate(to_allocate(&self.superblock, &self.leaf))?;
        }
        interrupt::watch()?;
        self.put()
            .map_err(|fail| self.rollback.after_format(&self.leaf, fail))?;
        Ok(self.made(replaced))
    }

    /// Reports what the format would lose, for `--dry-run`. This reads all metadata of an old leaf.
    /// [`Plan::write`] does not, because a crafted journal takes minutes.
    pub fn report(&self, json: bool) -> Result {
        if let Some(backing) = &self.backing {
            backing.refuse_too_many(to_allocate(&self.superblock, &self.leaf))?;
        }
        let plan = Formatted {
            uuid: None,
            changed: false,
            ..self.made(self.replaced() + &self.in_use())
        };
        if json {
            return output::json(&plan);
        }
        output::text(&format!(
            "{}: would be lost: {}\n",
            plan.leaf, plan.replaced
        ))
    }

    /// Returns what the leaf holds before the format, in words.
    fn replaced(&self) -> String {
        let Some(used) = &self.used else {
            return "zeroes at both ends".to_owned();
        };
        let mut text = used.what.clone();
        if used.is_leaf {
            let name = probe::superblock(&self.leaf).and_then(|sb| output::name(sb.name));
            text += &name.map_or(String::new(), |name| format!(", {name}"));
        }
        text
    }

    /// Returns how much an old leaf holds, in words. A damaged leaf does not say it.
    fn in_use(&self) -> String {
        let is_leaf = self.used.as_ref().is_some_and(|used| used.is_leaf);
        let leaf = self.leaf.again(Access::Read).ok().filter(|_| is_leaf);
        let Some(old) = leaf.and_then(|mut leaf| loaded::load(&mut leaf).ok()) else {
            return String::new();
        };
        let slabs = u64::from(old.used);
        let sectors = slabs.saturating_mul(old.map.geometry().slab_sectors().into());
        format!(", with {} in use", output::size(sectors))
    }

    fn put(&self) -> Result {
        let root = self.below.root_path();
        let new = NewLeaf::new(&self.superblock, &root, &self.below.list)
            .map_err(|e| Fail::core(&self.leaf.name(), e))?;
        new.write(|block, bytes| {
            self.leaf.write_at(block.0 * BLOCK, bytes)?;
            self.leaf.sync()
        })?;
        if self.used.is_some() {
            wipe(&self.leaf, &self.superblock.geometry)?;
        }
        interrupt::check()
    }

    /// Gives up the claim on the leaf, so that the driver can take it. The leaf stays open, so its
    /// number cannot become another device's, and its old content can be put back.
    pub fn hand_over(self) -> Handed {
        Handed {
            leaf: self.open_leaf,
            below: self.below,
            uuid: self.superblock.uuid,
            rollback: self.rollback,
        }
    }

    fn made(&self, replaced: String) -> Formatted {
        let (superblock, g) = (&self.superblock, &self.superblock.geometry);
        let root = self.below.root.as_ref();
        Formatted {
            leaf: self.leaf.path().display().to_string(),
            root: root.map(|root| root.path().display().to_string()),
            layers: g.layers(),
            uuid: Some(output::uuid(&superblock.uuid)),
            name: output::name(superblock.name),
            changed: true,
            replaced,
            sectors: g.union_sectors(),
            root_sectors: g.root_sectors(),
            leaf_sectors: g.leaf_sectors(),
            slab_sectors: g.slab_sectors(),
            slabs: g.leaf_slabs(),
            journal_blocks: g.journal_blocks(),
            data_start: g.data_start(),
            sectors_max: g.union_sectors_max(),
            leaf_sectors_max: g.leaf_sectors_max(),
        }
    }
}

/// Returns the layout with the room to grow that is asked for.
fn with_room(g: Geometry, layout: &LayoutArgs) -> ubcore::error::Result<Geometry> {
    if let Some(sectors) = layout.grow_to {
        return g.with_room_for(sectors, sectors);
    }
    let room = g.with_default_room();
    let union = room.union_sectors_max().max(layout.union_sectors_max);
    // A leaf that is too small for that much room gets the usual one.
    Ok(room
        .with_room_for(union, room.leaf_sectors_max())
        .unwrap_or(room))
}

/// The leaf after the format, and what lies below it. They stay open, so that their numbers cannot
/// become other devices'.
pub struct Handed {
    below: Opened,
    leaf: Device,
    /// The UUID of the new leaf.
    pub uuid: [u8; 16],
    rollback: Rollback,
}

impl Handed {
    /// Returns all devices.
    pub fn devices(&self) -> Vec<&Device> {
        self.below.devices().chain([&self.leaf]).collect()
    }

    /// Puts back what the leaf held, because the union could not be made.
    pub fn roll_back(&self, fail: Fail) -> Fail {
        self.rollback.after_create(&self.leaf, fail)
    }
}

/// Returns how many bytes of a leaf image must be allocated: all of its metadata, or the whole
/// leaf.
pub fn to_allocate(superblock: &Superblock, leaf: &Device) -> u64 {
    if superblock.preallocated {
        leaf.bytes()
    } else {
        leaf.bytes().min(superblock.geometry.data_start() * 512)
    }
}

/// Returns the blocks of each device, and checks that they give a union with the wanted blocks.
fn blocks(below: &Opened, leaf: &Device, wanted: u32) -> Result<Vec<DeviceBlocks>> {
    let of = |device| DeviceBlocks::of(device, wanted);
    let blocks: Vec<_> = below
        .devices()
        .chain([leaf])
        .map(of)
        .collect::<Result<_>>()?;
    blocksize::refuse_other(&blocks, wanted)?;
    Ok(blocks)
}

/// Returns the union's size: the size of what lies below or the size asked for. The blocks of all
/// devices must divide it; otherwise the driver would refuse a leaf that is already formatted.
fn union_sectors(asked: Option<u64>, below: &Opened, blocks: &[DeviceBlocks]) -> Result<u64> {
    let least = below.sectors;
    let sectors = asked.unwrap_or(least);
    let bad = |why: String| Fail::new(REFUSED, "size", why);
    if sectors == 0 {
        let why = "a union without root and layers has no size: say which, with --size";
        return Err(bad(why.to_owned()));
    }
    if sectors < least {
        let what = if below.list.is_empty() {
            "its root"
        } else {
            "what lies below it"
        };
        return Err(bad(format!(
            "--size: a union cannot be smaller than {what}, {} ({} bytes)",
            output::size(least),
            least * 512
        )));
    }
    for DeviceBlocks {
        path, bytes: block, ..
    } in blocks
    {
        if sectors % u64::from(block / 512) != 0 {
            let path = path.display();
            return Err(bad(format!(
                "a union of {} bytes does not fit {path}, which has logical blocks of {block} bytes: use a \
                 --size that is a multiple",
                sectors * 512
            )));
        }
    }
    Ok(sectors)
}

fn no_image(leaf: &Path) -> Fail {
    let text = format!(
        "--preallocate: {} is not an image in which ubctl can allocate space: leave the option out, \
         and keep space in the storage below it",
        leaf.display()
    );
    Fail::new(REFUSED, "preallocate", text)
}

fn looks_used(leaf: &Device, used: &Used) -> Fail {
    let path = leaf.path().display();
    if used.is_leaf {
        return Fail::new(
            REFUSED,
            "already_formatted",
            format!(
                "{path} is formatted already: to attach it, use ubctl create without --format; --force makes it \
                 blank, and all changes that it holds are lost"
            ),
        );
    }
    Fail::new(
        REFUSED,
        "looks_used",
        format!(
            "{path} looks used: {} at byte {}; if its content is not needed any more, use --force",
            used.what, used.at
        ),
    )
}

fn superblock(below: &Opened, geometry: Geometry, root_block_bytes: u32) -> Result<Superblock> {
    let mut uuid: [u8; 16] = random::bytes()?;
    // RFC 9562 defines this as version 4, variant 1.
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    let nonce = u64::from_le_bytes(random::bytes()?);
    let digest = match &below.root {
        Some(root) => root_samples::digest(root, &uuid)?,
        None => [0; 32],
    };
    let new = Superblock::new(uuid, nonce, geometry, root_block_bytes, digest);
    Ok(Superblock {
        chain: below.chain(),
        ..new
    })
}

fn block_of(superblock: &Superblock) -> Vec<u8> {
    let mut block = [0; BLOCK_BYTES];
    superblock.encode(&mut block);
    block.to_vec()
}

/// Erases the signatures of the device's previous use. Otherwise `blkid` and udev would still find
/// a file system there, and a user could mount it.
fn wipe(leaf: &Device, geometry: &Geometry) -> Result {
    for (from, to) in wiped(leaf, geometry) {
        let zeroes = vec![0; u64_as_usize(to - from)];
        leaf.write_at(from, &zeroes)?;
    }
    leaf.sync()
}

/// Returns where the list of root and layers is written: from one byte up to another.
fn list_of(geometry: &Geometry) -> (u64, u64) {
    let byte = |n| geometry.below_list_block(n).0 * BLOCK;
    (byte(0), byte(geometry.below_list_blocks()))
}

/// Returns what is wiped: from one byte up to another. The list of root and layers is
/// not.
fn wiped(leaf: &Device, geometry: &Geometry) -> Vec<(u64, u64)> {
    let data = geometry.data_start() * 512;
    let head = data.min(MIB);
    let tail = leaf.bytes().saturating_sub(MIB).max(data);
    let list = list_of(geometry);
    let parts = [
        (2 * BLOCK, list.0.min(head)),
        (list.1, head),
        (tail, leaf.bytes()),
    ];
    parts.into_iter().filter(|(from, to)| from < to).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Geometry, Superblock};

    /// Returns a leaf's superblock, for the tests of the tool.
    pub(crate) fn superblock(uuid: u8, generation: u64) -> Superblock {
        let g = Geometry::new(65536, 65536, 32768, 128, 16).unwrap();
        let new = Superblock::new([uuid; 16], uuid.into(), g, 512, [0; 32]);
        Superblock { generation, ..new }
    }
}
