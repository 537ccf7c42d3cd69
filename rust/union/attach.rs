// SPDX-License-Identifier: GPL-2.0

//! Attach: makes a union of a leaf and what lies below it.
//!
//! The kernel's stack is 16 KiB, and the kernel reads the partition table on it when the disk is
//! added. So large values are in boxes, and the functions that handle them are not inlined into
//! [`Attached::new`].

use super::{
    detach,
    events::Events,
    leaf_memory::{
        load_leaf,
        page_set,
        FilledLeaf, //
    },
    loss::Loss,
    metadata_disk::{
        read_error,
        Metadata,
        MetadataBuffer,
        MetadataDisk, //
    },
    open::{
        open_leaf,
        open_root, //
    },
    stack,
    stats::{
        CommitterCounters,
        Stats, //
    },
    Attached,
    LayerCount,
    LeafProperties,
    Lists,
    LowerDevices,
    Name,
    Paths,
    Union, //
};
use crate::{
    blk::{
        BlockDevice,
        GenDisk,
        Limits,
        NewDisk,
        SendAs, //
        TagSet,
    },
    error::to_core,
    resources::Resources,
    sys::digest::Sha256,
    ubcore::{
        abi,
        attach::{
            self,
            Probe, //
        },
        error::{
            Error,
            Result,
            Role, //
        },
        format::superblock::Superblock,
        num::{
            saturating_u32,
            u64_as_usize,
            SECTOR_BYTES, //
        },
        protocol::{
            AttachMode,
            Shared, //
        },
        root_samples,
        salvage::Lost,
    },
};
use kernel::{
    fmt, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SetOnce,
        UniqueArc, //
    },
    workqueue::{
        new_delayed_work,
        new_work, //
    },
};

/// The maximum number of requests in flight, over all hardware queues of a union.
const QUEUE_DEPTH: u32 = 128;

/// What to attach, and how.
pub(crate) struct Options<'a> {
    pub(crate) id: u32,
    /// The paths of the devices. Without a root the bottom reads as zeroes.
    pub(crate) root: Option<&'a CStr>,
    pub(crate) leaf: &'a CStr,
    /// The layers between them, the lowest first. Each path ends with NUL.
    pub(crate) layers: &'a [abi::Layer],
    /// The number of hardware queues.
    pub(crate) queues: u32,
    pub(crate) read_only: bool,
}

/// Why an attach failed.
pub(crate) struct AttachError {
    pub(crate) error: Error,
    /// The number of the layer that the error is about, from 1. 0 if it is about none.
    pub(crate) layer: u32,
    /// What is lost, if the leaf is damaged and can still be read.
    pub(crate) totals: abi::LossTotals,
}

impl From<Error> for AttachError {
    fn from(error: Error) -> Self {
        AttachError {
            error,
            layer: 0,
            totals: abi::LossTotals::default(),
        }
    }
}

impl AttachError {
    /// Returns a failure that is about a layer, by its number from 1, or about none if that is 0.
    pub(super) fn of_layer(error: Error, layer: u32) -> Self {
        AttachError {
            layer,
            ..AttachError::from(error)
        }
    }
}

impl Attached {
    /// Attaches a leaf to what lies below it. The first write to the leaf is a checkpoint. If the
    /// call fails before that write, no device has changed. If it fails later, the union reads as
    /// before, except for sectors that a process wrote, if the disk was already in the system.
    ///
    /// Process context.
    pub(crate) fn new(
        options: &Options<'_>,
        resources: &Arc<Resources>,
    ) -> core::result::Result<Self, AttachError> {
        let mut lower = open_lower(options, resources)?;
        let mut leaf = probe(&lower)?;
        load_stack(&mut lower, options, &mut leaf, resources)?;
        lower.send_as = send_as_for(&lower);
        // A worker sends bios and may sleep, so this is about lower I/O that is sent as requests.
        let may_sleep =
            lower.send_as == SendAs::Requests && lower.devices().any(BlockDevice::may_sleep);
        let tags = to_core(TagSet::new(options.queues, QUEUE_DEPTH, may_sleep))?;
        let prepared = check_and_load(Name(options.id), lower, leaf, resources)?;
        let totals = prepared.loaded.loss.totals();
        start(options, prepared, tags, resources).map_err(|error| AttachError {
            totals,
            ..AttachError::from(error)
        })
    }
}

/// Opens the leaf, and the root if there is one.
fn open_lower(options: &Options<'_>, resources: &Resources) -> Result<LowerDevices> {
    let claims = &resources.claims;
    let root = options.root.map(|path| open_root(path, claims));
    let root = root.transpose()?;
    let leaf = open_leaf(options.leaf, claims, !options.read_only, root.iter())?;
    Ok(LowerDevices {
        root,
        leaf,
        stack: None,
        send_as: SendAs::Bios,
        paths: paths(options)?,
    })
}

/// Returns how lower I/O is sent: as requests, unless one of the devices takes only bios.
fn send_as_for(lower: &LowerDevices) -> SendAs {
    if lower.devices().all(BlockDevice::accepts_clones) {
        SendAs::Requests
    } else {
        SendAs::Bios
    }
}

/// A leaf whose superblock was read.
pub(super) struct ProbedLeaf {
    pub(super) probe: KBox<Probe>,
    pub(super) buffer: MetadataBuffer,
}

/// Reads the leaf's superblock, and checks it against the sizes of the devices.
#[inline(never)]
pub(super) fn probe(lower: &LowerDevices) -> Result<ProbedLeaf> {
    let mut buffer = MetadataDisk::new_buffer()?;
    let mut disk = MetadataDisk::new(&lower.leaf, &mut buffer);
    let root_sectors = lower.root.as_ref().map_or(0, BlockDevice::sectors);
    let probe = attach::probe(&mut disk, root_sectors, lower.leaf.sectors())?;
    let probe = KBox::new(probe, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    Ok(ProbedLeaf { probe, buffer })
}

/// Opens the layers and checks that they are those of the leaf. Adds their stack to `lower`.
#[inline(never)]
fn load_stack(
    lower: &mut LowerDevices,
    options: &Options<'_>,
    leaf: &mut ProbedLeaf,
    resources: &Resources,
) -> core::result::Result<(), AttachError> {
    let layers = stack::open_layers(options.layers, resources, &lower.leaf)?;
    let mut disk = MetadataDisk::new(&lower.leaf, &mut leaf.buffer);
    let sb = &leaf.probe.superblock;
    lower.stack = stack::find_or_build(&mut disk, sb, layers, resources)?;
    Ok(())
}

/// Returns the paths as fields of the ABI. They always fit, because they came from such fields.
fn paths(options: &Options<'_>) -> Result<KBox<Paths>> {
    let empty = Paths {
        root: [0; abi::PATH_BYTES],
        leaf: [0; abi::PATH_BYTES],
    };
    let mut paths = KBox::new(empty, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    if let Some(root) = options.root {
        abi::set_path(&mut paths.root, root.to_bytes()).ok_or(Error::Internal)?;
    }
    abi::set_path(&mut paths.leaf, options.leaf.to_bytes()).ok_or(Error::Internal)?;
    Ok(paths)
}

/// The metadata of a leaf, in memory.
pub(super) struct LoadedLeaf {
    pub(super) leaf: LeafProperties,
    pub(super) filled: KBox<FilledLeaf>,
    pub(super) buffer: MetadataBuffer,
    pub(super) loss: Loss,
}

/// The devices of a union, opened and checked, the metadata of its leaf, and the limits of its
/// disk.
pub(super) struct PreparedUnion {
    pub(super) lower: LowerDevices,
    loaded: LoadedLeaf,
    limits: Limits,
}

impl PreparedUnion {
    /// Returns the limits of a disk on these devices.
    pub(super) fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Returns the slab size of the leaf, in sectors.
    pub(super) fn slab_sectors(&self) -> u32 {
        self.loaded.filled.map.geometry().slab_sectors()
    }
}

/// Checks that the leaf belongs to what lies below it, and reads its metadata. Writes nothing.
#[inline(never)]
pub(super) fn check_and_load(
    name: Name,
    lower: LowerDevices,
    mut leaf: ProbedLeaf,
    resources: &Resources,
) -> core::result::Result<PreparedUnion, AttachError> {
    let sb = &leaf.probe.superblock;
    let limits = stack_limits(name, &lower, sb)?;
    if let Some(root) = &lower.root {
        check_root_digest(root, sb, &mut leaf.buffer)?;
    }
    let mut loaded = read_metadata(&lower, leaf, resources)?;
    let LoadedLeaf { filled, buffer, .. } = &mut loaded;
    let map = &filled.map;
    let mut disk = MetadataDisk::new(&lower.leaf, buffer);
    let block = limits.logical_block_size();
    if u64::from(block) > SECTOR_BYTES
        && !attach::fits_blocks(
            &mut disk,
            map,
            saturating_u32(u64::from(block) / SECTOR_BYTES),
        )?
    {
        return Err(Error::FineMap(block).into());
    }
    if let Some(stack) = &lower.stack {
        stack.check_blocks(block)?;
    }
    Ok(PreparedUnion {
        lower,
        loaded,
        limits,
    })
}

/// Stacks the limits of all devices, and checks that the union's size is a multiple of the
/// resulting logical block size.
fn stack_limits(
    name: Name,
    lower: &LowerDevices,
    sb: &Superblock,
) -> core::result::Result<Limits, AttachError> {
    let mut limits = Limits::new();
    // The number of the layer, from 1. Root and leaf are before the layers.
    let mut layer = 0u32;
    for (role, dev) in lower.roles() {
        layer = layer.wrapping_add(u32::from(role == Role::Layer));
        let refused = AttachError::of_layer(Error::Limits(role), layer);
        if limits.stack(dev, c"unionblk").is_err() {
            return Err(refused);
        }
        // The first device whose blocks do not divide the size is the one to name.
        let block = u64::from(limits.logical_block_size()) / SECTOR_BYTES;
        if sb.geometry.union_sectors().checked_rem(block) != Some(0) {
            return Err(refused);
        }
    }
    if limits.is_misaligned() {
        pr_warn!("{name}: the devices below have different alignment: some I/O will be slower\n");
    }
    limits.offer_discard(saturating_u32(
        u64::from(sb.geometry.slab_sectors()).saturating_mul(SECTOR_BYTES),
    ));
    let (block, made_for) = (limits.logical_block_size(), sb.root_block_bytes);
    if block != made_for {
        // Do not refuse the leaf, because only the tool knows whether the user wants this.
        let leaf = &lower.leaf;
        pr_warn!(
            "{name}: logical block size is {block}, but the content below leaf {leaf} was made for \
             {made_for}: partitions and file systems may not be found on it\n"
        );
    }
    Ok(limits)
}

/// Compares the root's samples with the digest that was stored when the leaf was formatted.
#[inline(never)]
fn check_root_digest(root: &BlockDevice, sb: &Superblock, buffer: &mut MetadataBuffer) -> Result {
    let sectors = root.sectors();
    let mut digest = Sha256::new();
    digest.update(root_samples::PREFIX);
    digest.update(&sectors.to_le_bytes());
    for (first, count) in root_samples::samples(&sb.uuid, sectors) {
        let bytes = u64_as_usize(count.saturating_mul(SECTOR_BYTES));
        root.read(first, buffer, 0..bytes)
            .map_err(|e| read_error(Role::Root, first, e))?;
        digest.update(&first.to_le_bytes());
        digest.update(buffer.as_slice().get(..bytes).ok_or(Error::Internal)?);
    }
    if digest.finish() == sb.root_digest {
        Ok(())
    } else {
        Err(Error::RootContent)
    }
}

/// Reads the leaf's metadata, and what is lost of it.
#[inline(never)]
fn read_metadata(
    lower: &LowerDevices,
    leaf: ProbedLeaf,
    resources: &Resources,
) -> Result<LoadedLeaf> {
    let ProbedLeaf { probe, mut buffer } = leaf;
    let sb = &probe.superblock;
    let leaf = LeafProperties {
        uuid: sb.uuid,
        name: sb.name,
        preallocated: sb.preallocated,
    };
    let mut lost = Lost::new(page_set(&sb.geometry)?);
    let mut disk = MetadataDisk::new(&lower.leaf, &mut buffer);
    let filled = load_leaf(&mut disk, probe, &mut lost, &resources.reserve)?;
    let loss = Loss::new(&mut disk, &filled.map, &lost)?;
    Ok(LoadedLeaf {
        leaf,
        filled,
        buffer,
        loss,
    })
}

/// Makes the first checkpoint, the union, and its disk.
fn start(
    options: &Options<'_>,
    prepared: PreparedUnion,
    tags: Arc<TagSet<Union>>,
    resources: &Arc<Resources>,
) -> Result<Attached> {
    let prepared = if options.read_only {
        prepared
    } else {
        first_checkpoint(prepared)?
    };
    let PreparedUnion {
        lower,
        loaded,
        limits,
    } = prepared;
    let parts = DiskParts {
        name: Name(options.id),
        events: to_core(Events::new())?,
        tags,
    };
    let union = new_union(parts, options.read_only, lower, loaded, resources)?.into();
    let disk = add_disk(&union, limits, options.read_only)?;
    log_attached(&union);
    Ok(Attached { disk })
}

/// Adds the disk of a union to the system.
#[inline(never)]
fn add_disk(union: &Arc<Union>, limits: Limits, read_only: bool) -> Result<GenDisk<Union>> {
    let name = union.name;
    let disk = to_core(GenDisk::new(
        fmt!("{name}"),
        union.clone(),
        NewDisk {
            limits,
            device: |union, n| union.lower.devices().nth(n),
            sectors: union.geometry().union_sectors(),
            read_only,
            // A read of lost sectors fails. A read beside them must not fail with it.
            no_merges: union.loss.ranges() > 0,
            tags: union.tags.clone(),
            bios: union.resources.bios.clone(),
        },
    ))?;
    union.events.set_disk(disk.reference());
    // The kernel makes the directory for these links when it adds the disk, so they appear after
    // the disk is announced.
    if let Err(e) = to_core(disk.link_all()) {
        // The disk was in the system, so an opener may have written to it.
        let _ = detach::end(union, disk);
        return Err(e);
    }
    Ok(disk)
}

fn log_attached(union: &Union) {
    pr_info!(
        "{}: root {}, {}, leaf {}, {} sectors, {} of {} slabs used\n",
        union.name,
        RootName(&union.lower.root),
        LayerCount(union.layer_count()),
        union.lower.leaf,
        union.geometry().union_sectors(),
        union.allocator.lock().used(),
        union.geometry().leaf_slabs(),
    );
    union.loss.log(union.name, &union.lower.leaf);
}

/// Makes the first checkpoint. If the leaf is damaged, this fails with the damage and has written
/// nothing.
pub(super) fn first_checkpoint(mut prepared: PreparedUnion) -> Result<PreparedUnion> {
    let LoadedLeaf { filled, buffer, .. } = &mut prepared.loaded;
    let FilledLeaf { map, committer, .. } = &mut **filled;
    let mut disk = MetadataDisk::new(&prepared.lower.leaf, buffer);
    committer.checkpoint_in_steps(map, &mut disk)?;
    Ok(prepared)
}

/// Returns the union that replaces `old`, on a new leaf.
pub(super) fn new_union_for_freeze(
    old: &Union,
    prepared: PreparedUnion,
    resources: &Arc<Resources>,
) -> Result<Pin<UniqueArc<Union>>> {
    union_in_place_of(old, prepared.lower, prepared.loaded, resources)
}

/// Returns the union that replaces `old`, on these devices.
pub(super) fn union_in_place_of(
    old: &Union,
    lower: LowerDevices,
    loaded: LoadedLeaf,
    resources: &Arc<Resources>,
) -> Result<Pin<UniqueArc<Union>>> {
    let parts = DiskParts {
        name: old.name,
        events: old.events.clone(),
        tags: old.tags.clone(),
    };
    new_union(parts, false, lower, loaded, resources)
}

/// The parts of a union that stay with its disk if a freeze or a reset replaces the union.
struct DiskParts {
    name: Name,
    events: Arc<Events>,
    tags: Arc<TagSet<Union>>,
}

#[inline(never)]
fn new_union(
    parts: DiskParts,
    read_only: bool,
    lower: LowerDevices,
    loaded: LoadedLeaf,
    resources: &Arc<Resources>,
) -> Result<Pin<UniqueArc<Union>>> {
    let DiskParts { name, events, tags } = parts;
    let LoadedLeaf {
        leaf,
        filled,
        buffer,
        loss,
    } = loaded;
    let FilledLeaf {
        map,
        allocator,
        committer,
    } = KBox::into_inner(filled);
    map.memory().set_live();
    let durable = committer.committed();
    let mode = AttachMode {
        read_only,
        reveal: committer.superblock().reveal,
    };
    let stats = Stats::new();
    stats.store(&CommitterCounters::of(&committer));
    to_core(UniqueArc::pin_init(
        try_pin_init!(Union {
            map,
            lower,
            leaf,
            name,
            resources: resources.clone(),
            events,
            loss,
            shared: Shared::new(durable, mode),
            failure: SetOnce::new(),
            lists: Lists::new(),
            tags,
            stats,
            allocator <- new_spinlock!(allocator, "unionblk allocator"),
            metadata <- new_mutex!(Metadata { committer, buffer }, "unionblk metadata"),
            commit <- new_work!("unionblk commit"),
            timer <- new_delayed_work!("unionblk timer"),
            checkpoint <- new_work!("unionblk checkpoint"),
            discard <- new_work!("unionblk discard"),
            reclaim <- new_work!("unionblk reclaim"),
            reads <- new_work!("unionblk reads"),
            writes <- new_work!("unionblk writes"),
            memory <- new_work!("unionblk memory"),
        }? kernel::error::Error),
        GFP_KERNEL,
    ))
}

/// The name of the root, or `none`, for messages.
struct RootName<'a>(&'a Option<BlockDevice>);

impl fmt::Display for RootName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(root) => root.fmt(f),
            None => f.write_str("none"),
        }
    }
}
