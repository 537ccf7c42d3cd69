// SPDX-License-Identifier: GPL-2.0

//! `ubctl create`: attaches a leaf to its root.

mod nodes;
mod verified;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::json;
use ubcore::abi::{Create, Layer, Status, CREATE_READ_ONLY, ID_ANY, QUEUES_MAX};
use ubcore::error::{Error, Role};
use ubcore::format::name::LeafName;
use ubcore::geometry::SLAB_SECTORS_DEFAULT;

use super::format::{self, Discard, Handed, LayoutArgs, Plan};
use super::remove;
use crate::backing::Backing;
use crate::below::{self, Below, Opened, RootArg};
use crate::blocksize::DeviceBlocks;
use crate::control::{self, Control, PREFIX};
use crate::device::{Access, Device};
use crate::error::{Fail, Result, BUSY, REFUSED, USAGE};
use crate::holders::{self, Holders};
use crate::layer_arg::LayerArg;
use crate::loopdev::{self, Lower};
use crate::lost_sectors::{self, SectorRange};
use crate::search::Given;
use crate::value_parser::{journal_blocks, leaf_name, sector_size, slab_sectors, union_size};
use crate::wait::Deadline;
use crate::{blocksize, interrupt, output, preflight, probe, sealed, sysfs, udev, wrong_layer};

/// Arguments of `create`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("new_leaf").args(["format", "ephemeral"]),
    override_usage = "ubctl create [OPTIONS] --leaf <LEAF>\n       \
    ubctl create [OPTIONS] --root <ROOT> --ephemeral <SIZE>",
    after_help = "Examples:\n  ubctl create --root /dev/sda2 --leaf /dev/sdb1 --format\n  \
    ubctl create --root gold.img --ephemeral 4G --name job-1\n\n\
    ubctl puts an image on a loop device and removes that with the union.\n\
    A leaf with damaged metadata is refused (3). With --read-only the rest of it can be read,\n\
    if that is safe. The message names the lost sectors, and reads of them fail. The exit\n\
    code is then 0, and --json has damaged_blocks, lost_sectors and lost.\n\n\
    --verify reads all of root and layers before anything is written. A root or a frozen leaf\n\
    needs a digest file, which ubctl seal-root makes; a sealed layer has its digests in it.\n\n\
    --ephemeral makes a new leaf in memory, on a loop device. When the union is removed, and\n\
    after a power failure, all of it is gone. Slabs take memory when they are written. If none\n\
    is left, the kernel uses swap space, or ends processes. To keep the content, freeze the\n\
    leaf, and squash the layer."
)]
pub struct CreateArgs {
    /// The root: a block device or an image; never written, shared by any number of unions. The
    /// word none stands for no root [default: where the root of the leaf was when it was formatted]
    #[arg(long, value_parser = RootArg::parse)]
    pub root: Option<RootArg>,
    /// A layer between root and leaf; repeated, the lowest first [default: where the layers of the
    /// leaf were when it was formatted]
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// Where to look for the root and the layers that are not given, by what the leaf says of them:
    /// a directory, a device or an image; repeated. ubctl looks for the rest where it was at format
    #[arg(long = "in", value_name = "PLACE", conflicts_with = "new_leaf")]
    pub places: Vec<PathBuf>,
    /// The leaf: a block device or an image, for this union only
    #[arg(long, required_unless_present = "ephemeral")]
    pub leaf: Option<PathBuf>,
    /// Make a leaf of this size in memory, which is gone with the union
    #[arg(long, value_name = "SIZE", value_parser = union_size,
        conflicts_with_all = ["leaf", "format", "places", "force", "dry_run", "read_only", "grow_to"])]
    pub ephemeral: Option<u64>,
    /// Format the leaf first; it must be blank
    #[arg(long)]
    pub format: bool,
    /// For a new leaf: slab size, a power of two, 16K to 4M [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = slab_sectors, requires = "new_leaf")]
    pub slab_size: Option<u32>,
    /// For a new leaf: size of the journal
    #[arg(long, value_name = "SIZE", value_parser = journal_blocks, requires = "new_leaf")]
    pub journal_size: Option<u32>,
    /// For a new leaf: what discarded slabs read as [default: zero]
    #[arg(long, value_name = "AS", requires = "new_leaf")]
    pub discard: Option<Discard>,
    /// The name of a new leaf, up to 31 of A-Z a-z 0-9 . _ -, or the name that another leaf must
    /// have
    #[arg(long, value_parser = leaf_name)]
    pub name: Option<LeafName>,
    /// For a new leaf: allocate all space of its image, or memory, and give none back
    #[arg(long, requires = "new_leaf")]
    pub preallocate: bool,
    /// The union's logical block size, 512 to 4096 [default: the one that the root's content was
    /// made for]
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// For a new leaf: size of the union, zeroes beyond root and layers [default: that of the
    /// largest]
    #[arg(long, value_name = "SIZE", value_parser = union_size, requires = "new_leaf")]
    pub size: Option<u64>,
    /// With --format: keep room to let union and leaf grow to this size later [default: twice
    /// theirs, and less for a union that is much larger than the leaf]
    #[arg(long, value_name = "SIZE", value_parser = union_size, requires = "format")]
    pub grow_to: Option<u64>,
    /// With --format: format the leaf even if it looks used; its content is lost
    #[arg(long, requires = "format")]
    pub force: bool,
    /// With --format: make all checks but those of the driver, and say what the leaf would lose.
    /// Write nothing
    #[arg(long, requires = "format")]
    pub dry_run: bool,
    /// First verify all of root and layers, and refuse what is damaged or has no digests
    #[arg(long)]
    pub verify: bool,
    /// With --verify: the digest file of the root [default: ROOT.ubdigest]
    #[arg(long, value_name = "FILE", requires = "verify")]
    pub digest_file: Option<PathBuf>,
    /// Accept no writes and write nothing to the leaf, which may be write-protected or damaged
    #[arg(long, conflicts_with = "format")]
    pub read_only: bool,
    /// N of /dev/unionblkN [default: the lowest that is free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..0xffff_ffff))]
    pub id: Option<u32>,
    /// Hardware queues; 0: one for each CPU, at most 8
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=i64::from(QUEUES_MAX)))]
    pub queues: u32,
}

impl CreateArgs {
    /// Returns whether the leaf is made by this command.
    fn is_new_leaf(&self) -> bool {
        self.format || self.ephemeral.is_some()
    }

    /// Returns the leaf that was formatted before, if the union is to have that.
    fn old_leaf(&self) -> Option<&Path> {
        self.leaf.as_deref().filter(|_| !self.format)
    }

    /// The layout for `--format`.
    pub fn layout(&self) -> LayoutArgs {
        LayoutArgs {
            slab_size: self.slab_size.unwrap_or(SLAB_SECTORS_DEFAULT),
            journal_size: self.journal_size,
            discard: self.discard.unwrap_or_default(),
            name: self.name,
            sector_size: self.sector_size,
            preallocate: self.preallocate,
            size: self.size,
            limit: None,
            // A leaf in memory is gone before it could grow.
            grow_to: self.ephemeral.map_or(self.grow_to, |_| Some(0)),
            union_sectors_max: 0,
        }
    }
}

/// Runs the command.
pub fn run(args: &CreateArgs, json: bool) -> Result {
    // All checks come before the first write.
    let control = Control::open()?;
    nodes::refuse_place(&control, args.id)?;
    if let (Some(leaf), Some(name)) = (args.old_leaf(), args.name) {
        refuse_other_name(leaf, name)?;
    }
    let (root, layers) = root_and_layers(args)?;
    below::refuse_paths(&root, &layers, args.leaf.as_deref())?;
    if let Some(leaf) = args.leaf.as_deref().filter(|_| args.format) {
        blocksize::refuse_tail(leaf)?;
    }
    let wanted = (&root, &layers[..]);
    let wanted = blocksize::wanted(wanted, args.old_leaf(), args.sector_size)?;
    let below = Below::attach(&root, &layers, wanted)?;
    if args.verify {
        verified::refuse_damage(&below, args.digest_file.as_deref())?;
    }
    let leaf = lower_leaf(args, wanted)?;
    let mut request = request(args, &below, &leaf)?;
    if args.dry_run {
        return planned(args, &control, (&below, &leaf), wanted)?.report(json);
    }
    let since = udev::now();
    let what = format!("{}, leaf {}", below.name(), leaf.name.display());
    // Both stay open until the driver's devices are known to be these.
    let (id, held) = if args.is_new_leaf() {
        formatted(
            args,
            &control,
            (&below, &leaf),
            &mut request,
            (&what, wanted),
        )?
    } else {
        let (open, device) = apart(&below, &leaf)?;
        let of = |device| DeviceBlocks::of(device, wanted);
        let blocks = open.devices().chain([&device]).map(of);
        blocksize::refuse_other(&blocks.collect::<Result<Vec<_>>>()?, wanted)?;
        if !args.read_only {
            make_room(&leaf, &device)?;
        }
        let id = make_union(&control, &mut request, &what)
            .map_err(|fail| wrong_layer::explain(fail, &device, &open.layers))?;
        (id, CheckedDevices::AsItWas(open, device))
    };
    let status = interrupt::watch()
        .and_then(|()| control.status(id))
        .map_err(|fail| held.roll_back(undone_unseen(&control, id, &held, fail)))?;
    let lost = refuse_others(&status, &held, &what)
        .and_then(|()| nodes::wait_for_nodes(&status, since))
        .and_then(|()| interrupt::check())
        .and_then(|()| lost_of(&control, &status))
        .map_err(|fail| held.roll_back(undone(&control, &status, fail)))?;
    drop(held);
    loopdev::warn_short(&leaf);
    below.release();
    leaf.release();
    report(args, &status, &lost, json)
}

/// Refuses a leaf of another name. The driver reports what is no leaf.
fn refuse_other_name(leaf: &Path, name: LeafName) -> Result {
    let leaf = Device::open(leaf, Role::Leaf, Access::Read)?;
    let own = probe::superblock(&leaf).map(|sb| sb.name);
    match own.filter(|own| *own != name) {
        None => Ok(()),
        Some(own) => {
            let own = match output::name(own) {
                Some(own) => format!("the name {own}"),
                None => "no name".to_owned(),
            };
            let text = format!(
                "{} has {own}, and not {name}: give the name that it has, or another leaf",
                leaf.name()
            );
            Err(Fail::new(REFUSED, "other_name", text))
        }
    }
}

/// Returns the root and the layers: the given ones, or the ones found in the places or where they
/// were.
fn root_and_layers(args: &CreateArgs) -> Result<(RootArg, Vec<LayerArg>)> {
    if let (Some(root), []) = (&args.root, &args.places[..]) {
        return Ok((root.clone(), layers(args)?));
    }
    let Some(leaf) = args.old_leaf() else {
        return Err(Fail::new(USAGE, "usage", "a new leaf needs --root"));
    };
    let leaf = Device::open(leaf, Role::Leaf, Access::Read)?;
    let given = Given {
        root: args.root.as_ref(),
        layers: &args.layers,
        places: &args.places,
    };
    let root = given.root_of(&leaf)?;
    let layers = match &args.layers[..] {
        [] => given.listed_by(&leaf)?,
        layers => layers.to_vec(),
    };
    Ok((root, layers))
}

/// Returns the layers: the given ones, or the ones that the leaf lists, where they were.
fn layers(args: &CreateArgs) -> Result<Vec<LayerArg>> {
    match args.old_leaf() {
        None => below::with_listed(&args.layers),
        Some(leaf) if args.layers.is_empty() && is_layered(leaf) => {
            let leaf = Device::open(leaf, Role::Leaf, Access::Read)?;
            below::listed_by(&leaf, below::NAME_ALL_OR_LOOK)
        }
        Some(_) => Ok(args.layers.clone()),
    }
}

/// Returns the leaf in the form that the driver takes.
fn lower_leaf(args: &CreateArgs, wanted: u32) -> Result<Lower> {
    match (&args.leaf, args.ephemeral) {
        (_, Some(sectors)) => Lower::in_memory(sectors, args.preallocate, wanted),
        (Some(leaf), None) => Lower::open(leaf, Role::Leaf, !args.read_only, wanted),
        (None, None) => Err(Fail::new(USAGE, "usage", "name the leaf with --leaf")),
    }
}

/// Returns whether a leaf lists layers. The driver reports what is wrong with a leaf.
fn is_layered(leaf: &Path) -> bool {
    let leaf = Device::open(leaf, Role::Leaf, Access::Read).ok();
    let superblock = leaf.and_then(|leaf| probe::superblock(&leaf));
    superblock.is_some_and(|sb| sb.geometry.layers() > 0)
}

/// The ioctl's request, and its layers.
struct CreateCall {
    create: Create,
    layers: Vec<Layer>,
}

/// Returns the ioctl's request.
fn request(args: &CreateArgs, below: &Below, leaf: &Lower) -> Result<CreateCall> {
    let mut request = Create::new();
    let layers = below.fill(&mut request)?;
    control::put_path(&mut request.leaf, &leaf.given())?;
    request.id = args.id.unwrap_or(ID_ANY);
    request.queues = args.queues;
    if args.read_only {
        request.flags |= CREATE_READ_ONLY;
    }
    Ok(CreateCall {
        create: request,
        layers,
    })
}

/// Prints the new union, and warns of what its leaf has lost.
fn report(args: &CreateArgs, status: &Status, lost: &[SectorRange], json: bool) -> Result {
    if status.damaged_blocks > 0 {
        let leaf = args.leaf.as_deref().unwrap_or(Path::new("the leaf"));
        output::complain(&warning(&leaf.display().to_string(), status, lost));
    }
    let name = format!("{PREFIX}{}", status.id);
    if !json {
        return output::text(&format!("/dev/{name}\n"));
    }
    output::json(&json!({
        "device": format!("/dev/{name}"),
        "name": name,
        "id": status.id,
        "uuid": output::uuid(&status.uuid),
        "leaf_name": control::leaf_name(status),
        "root": control::root_text(status),
        "leaf": control::path_text(&status.leaf),
        "root_image": loopdev::behind(&control::path_text(&status.root)),
        "leaf_image": loopdev::behind(&control::path_text(&status.leaf)),
        "sectors": status.sectors,
        "major": status.major,
        "minor": status.minor,
        "layers": status.layers,
        "formatted": args.is_new_leaf(),
        "ephemeral": args.ephemeral.is_some(),
        "damaged_blocks": status.damaged_blocks,
        "lost_sectors": status.lost_sectors,
        "lost": lost,
    }))
}

/// Opens all devices and checks that the leaf shares nothing with the others.
fn apart(below: &Below, leaf: &Lower) -> Result<(Opened, Device)> {
    let leaf = Device::open(&leaf.node, Role::Leaf, Access::Read)?.called(&leaf.name);
    if sealed::is_marked(&leaf) {
        return Err(sealed::no_leaf(&leaf, Error::NotFormatted));
    }
    Ok((below.open(Some(&leaf))?, leaf))
}

/// The leaf and what lies below it, open since they were checked.
enum CheckedDevices {
    /// The leaf was formatted for this union.
    Formatted(Handed),
    /// The leaf was not formatted.
    AsItWas(Opened, Device),
}

impl CheckedDevices {
    fn devices(&self) -> Vec<&Device> {
        match self {
            CheckedDevices::Formatted(handed) => handed.devices(),
            CheckedDevices::AsItWas(below, leaf) => below.devices().chain([leaf]).collect(),
        }
    }

    /// Returns whether sysfs has these devices below a union, or does not say.
    fn is_below(&self, id: u32) -> bool {
        let devices = self.devices().into_iter();
        let ours: Vec<u64> = devices.map(|device| device.metadata().rdev()).collect();
        let place = format!("/sys/block/{PREFIX}{id}");
        is_made_of(&sysfs::slave_numbers(Path::new(&place)), &ours)
    }

    /// Handles the failure of a union that was not made or is removed again: a leaf that was
    /// formatted for it gets its old content back.
    fn roll_back(&self, fail: Fail) -> Fail {
        match self {
            CheckedDevices::Formatted(handed) => handed.roll_back(fail),
            CheckedDevices::AsItWas(..) => fail,
        }
    }
}

/// Makes all checks of a format of the leaf for this union.
fn planned(
    args: &CreateArgs,
    control: &Control,
    (below, leaf): (&Below, &Lower),
    wanted: u32,
) -> Result<Plan> {
    control.refuse_existing(args.id)?;
    let plan = Plan::new((below, leaf), args.layout(), args.force, wanted)?;
    for device in plan.below.devices() {
        preflight::refuse_held_root(control, device)?;
    }
    Ok(plan)
}

/// Formats the leaf and makes the union. If either fails, neither remains.
fn formatted(
    args: &CreateArgs,
    control: &Control,
    (below, leaf): (&Below, &Lower),
    request: &mut CreateCall,
    (what, wanted): (&str, u32),
) -> Result<(u32, CheckedDevices)> {
    let plan = planned(args, control, (below, leaf), wanted)?;
    plan.write()?;
    let handed = plan.hand_over();
    let id = make_union(control, request, what).map_err(|fail| handed.roll_back(fail))?;
    Ok((id, CheckedDevices::Formatted(handed)))
}

/// Makes a union, and tries again while another process tests whether it can claim the root.
fn make_union(control: &Control, request: &mut CreateCall, what: &str) -> Result<u32> {
    let deadline = Deadline::of(preflight::CLAIM);
    loop {
        let mut once = request.create.clone();
        let done = control.create(&mut once, &request.layers, what);
        let shared = [Role::Root, Role::Layer].map(|role| Some(Error::Busy(role)));
        let busy = done.is_err() && shared.contains(&once.error());
        if !busy || !deadline.pause() {
            request.create = once;
            return done;
        }
    }
}

/// Returns what a damaged leaf has lost.
fn lost_of(control: &Control, status: &Status) -> Result<Vec<SectorRange>> {
    if status.lost_sectors == 0 {
        return Ok(Vec::new());
    }
    control.lost(status.id)
}

/// Refuses a union of other devices than those in `held`. The driver opens the paths again, and by
/// then a path may lead to another device.
fn refuse_others(status: &Status, held: &CheckedDevices, what: &str) -> Result {
    let is_ours = match held {
        CheckedDevices::Formatted(handed) => status.uuid == handed.uuid,
        CheckedDevices::AsItWas(..) => true,
    };
    if is_ours && held.is_below(status.id) {
        return Ok(());
    }
    let text = format!(
        "{what}: a path led to another device while the union was made: see what changes the paths, \
         and try again"
    );
    Err(Fail::new(BUSY, "busy", text))
}

/// Returns whether the devices below a union are those given. Without sysfs this is not known.
fn is_made_of(driver: &[u64], ours: &[u64]) -> bool {
    driver.iter().all(|dev| ours.contains(dev))
}

/// Allocates the metadata of a leaf image. A copy of a leaf may have holes where the metadata was
/// zero, and may share its blocks with another file.
fn make_room(leaf: &Lower, device: &Device) -> Result {
    let Some(backing) = Backing::to_allocate(&leaf.node) else {
        return Ok(());
    };
    match probe::superblock(device) {
        Some(sb) => backing.allocate(format::to_allocate(&sb, device)),
        // The driver reports what is wrong.
        None => Ok(()),
    }
}

/// Returns a warning of what a damaged leaf has lost. The driver names only the first ranges.
fn warning(leaf: &str, status: &Status, lost: &[SectorRange]) -> String {
    let blocks = status.damaged_blocks;
    let start = format!("{leaf} is damaged: {blocks} metadata blocks are unusable");
    if status.lost_sectors == 0 {
        return format!("{start}, but no sector is lost by it");
    }
    let named = if lost_sectors::sum(lost) == status.lost_sectors {
        lost_sectors::text(lost)
    } else {
        let all = output::size(status.lost_sectors);
        format!("{all} of the union, among it {}", lost_sectors::text(lost))
    };
    format!(
        "{start}; lost: {named}; reads of them fail, all other sectors are intact; ubctl check \
         says more"
    )
}

/// Removes a union that cannot be used.
fn undone(control: &Control, status: &Status, fail: Fail) -> Fail {
    let done = remove::detach(control, status, Deadline::new());
    with_end_of(status.id, done, fail)
}

/// Removes a union that was made a moment ago, and whose state cannot be read. Its devices show
/// that the number is still its own.
fn undone_unseen(control: &Control, id: u32, held: &CheckedDevices, mut fail: Fail) -> Fail {
    if fail.reason == "not_found" {
        return fail;
    }
    if !held.is_below(id) {
        fail.message += &format!("; {PREFIX}{id} is another union now, and was not removed");
        return fail;
    }
    let disk = sysfs::dev_of(Path::new(&format!("/sys/block/{PREFIX}{id}")));
    let look = |all| disk.map_or_else(Holders::default, |disk| holders::of_device(disk, all));
    let done = holders::retry(Deadline::new(), look, || control.remove(id));
    let done = done.and_then(|done| done.map_err(|who| who.fail(&format!("{PREFIX}{id}"))));
    with_end_of(id, done, fail)
}

/// Adds to a failure whether the union could be detached.
fn with_end_of(id: u32, done: Result, mut fail: Fail) -> Fail {
    let what = match done {
        Ok(()) => format!("; {PREFIX}{id} was detached again"),
        Err(e) if e.code == BUSY => format!("; {PREFIX}{id} is attached: {e}"),
        // It may be gone, without its last commit.
        Err(e) => format!("; {e}"),
    };
    fail.message += &what;
    fail
}

#[cfg(test)]
mod tests {
    use super::{is_made_of, warning, SectorRange, Status};

    #[test]
    fn a_union_of_other_devices_is_found() {
        assert!(is_made_of(&[1, 2], &[1, 2]) && is_made_of(&[2, 1], &[1, 2]));
        assert!(is_made_of(&[], &[1, 2]) && is_made_of(&[4, 1], &[1, 2, 4]));
        assert!(!is_made_of(&[1, 3], &[1, 2]));
    }

    #[test]
    fn a_warning_says_what_is_lost() {
        let mut s = Status::new();
        s.damaged_blocks = 1;
        assert!(warning("x", &s, &[]).ends_with("no sector is lost by it"));
        s.lost_sectors = 64;
        let list = [SectorRange {
            sector: 32,
            sectors: 32,
        }];
        let text = warning("x", &s, &list);
        assert!(
            text.contains("lost: 32 KiB of the union, among it union sectors 32 to 63 (16 KiB);"),
            "{text}"
        );
        s.lost_sectors = 32;
        let all = "lost: union sectors 32 to 63 (16 KiB); reads of them fail";
        assert!(warning("x", &s, &list).contains(all));
    }
}
