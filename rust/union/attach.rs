// SPDX-License-Identifier: GPL-2.0

//! Attach: makes a union of a root and a leaf. The functions stand in the order in which they run.
//!
//! The kernel's stack is 16 KiB, and adding the disk reads from it. So large values are in boxes,
//! and the functions that handle them are not inlined into [`Attached::new`].

use super::{
    detach,
    events::Events,
    leaf_memory::{
        page_set,
        Empty, //
    },
    loss::Loss,
    metadata_disk::{
        read_error,
        Metadata,
        MetadataBuffer,
        MetadataDisk,
        UnionCommitter, //
    },
    stack,
    stats::{
        Committed,
        Stats, //
    },
    Attached,
    Leaf,
    Lists,
    Lower,
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
        TagSet,
        Way, //
    },
    error::{
        open_error,
        to_core, //
    },
    memory::MapMemory,
    resources::Resources,
    sys::digest::Sha256,
    ubcore::{
        abi,
        alloc::Allocator,
        attach::{
            self,
            Probe, //
        },
        error::{
            Error,
            Result,
            Side, //
        },
        format::superblock::Superblock,
        geometry::BLOCK_BYTES,
        map::Map,
        num::{
            saturating_u32,
            u32_as_usize,
            u64_as_usize,
            SECTOR_BYTES, //
        },
        protocol::{
            Mode,
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
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// The number of the layer that the error is about, from 1. 0 if it is about none.
    pub(crate) layer: u32,
    /// What is lost, if the leaf is damaged and can still be read.
    pub(crate) damage: abi::LossTotals,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed {
            error,
            layer: 0,
            damage: abi::LossTotals::default(),
        }
    }
}

impl Failed {
    /// Returns a failure that is about a layer, by its number from 1.
    pub(super) fn of_layer(error: Error, layer: u32) -> Self {
        Failed {
            layer,
            ..Failed::from(error)
        }
    }
}

impl Attached {
    /// Attaches a leaf to its root. The first write to the leaf is a checkpoint. If the call fails
    /// before, both devices are unchanged. If it fails later, the leaf holds the same union, and
    /// what an opener wrote if the disk was in the system already.
    ///
    /// Process context.
    pub(crate) fn new(
        options: &Options<'_>,
        resources: &Arc<Resources>,
    ) -> core::result::Result<Self, Failed> {
        let mut lower = open_lower(options)?;
        let mut buffer = MetadataDisk::new_buffer()?;
        let probe = probe(&lower, &mut buffer)?;
        load_stack(&mut lower, options, (&probe, &mut buffer), resources)?;
        lower.way = way_of(&lower);
        // A worker sends lower I/O that goes down as bios, so only requests matter here.
        let may_sleep = lower.way == Way::Requests && lower.devices().any(BlockDevice::may_sleep);
        let tags = to_core(TagSet::new(options.queues, QUEUE_DEPTH, may_sleep))?;
        let pair = load(Name(options.id), lower, (probe, buffer), resources)?;
        let damage = pair.loaded.loss.damage();
        make(options, pair, tags, resources).map_err(|error| Failed {
            damage,
            ..Failed::from(error)
        })
    }
}

/// Opens both devices. The error names the device that cannot be opened.
fn open_lower(options: &Options<'_>) -> Result<Lower> {
    let root = options.root.map(BlockDevice::open_shared).transpose();
    let root = root.map_err(|e| open_error(Side::Root, e))?;
    let leaf = BlockDevice::open_exclusive(options.leaf, !options.read_only).map_err(|e| {
        // Our own claim on the root makes the leaf busy if both are the same device, or if one is a
        // partition of the other.
        let plain = BlockDevice::open_plain(options.leaf);
        let overlaps = |leaf: &BlockDevice| root.as_ref().is_some_and(|r| r.overlaps(leaf));
        if plain.is_ok_and(|leaf| overlaps(&leaf)) {
            Error::SameDevice
        } else {
            open_error(Side::Leaf, e)
        }
    })?;
    let sides = root.iter().map(|root| (Side::Root, root));
    for (side, dev) in Iterator::chain(sides, [(Side::Leaf, &leaf)]) {
        // Refuse a union, because the worker of one union would wait for the worker of another.
        if dev.is_own() {
            return Err(Error::Stacked(side));
        }
        // The driver reads and writes metadata and samples in blocks of `BLOCK_BYTES`.
        if u32_as_usize(dev.logical_block_size()) > BLOCK_BYTES {
            return Err(Error::Limits(side));
        }
    }
    if !options.read_only && leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    Ok(Lower {
        root,
        leaf,
        stack: None,
        way: Way::Bios,
        paths: paths(options)?,
    })
}

/// Returns how lower I/O is sent: as requests, unless one of the devices takes only bios.
fn way_of(lower: &Lower) -> Way {
    if lower.devices().all(BlockDevice::accepts_clones) {
        Way::Requests
    } else {
        Way::Bios
    }
}

/// Reads the leaf's superblock, and checks it against the sizes of the devices.
#[inline(never)]
pub(super) fn probe(lower: &Lower, buffer: &mut MetadataBuffer) -> Result<KBox<Probe>> {
    let mut disk = MetadataDisk::new(&lower.leaf, buffer);
    let root_sectors = lower.root.as_ref().map_or(0, BlockDevice::sectors);
    let probe = attach::probe(&mut disk, root_sectors, lower.leaf.sectors())?;
    KBox::new(probe, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

/// Opens the layers and checks that they are those of the leaf. Adds their stack to `lower`.
#[inline(never)]
fn load_stack(
    lower: &mut Lower,
    options: &Options<'_>,
    (probe, buffer): (&Probe, &mut MetadataBuffer),
    resources: &Resources,
) -> core::result::Result<(), Failed> {
    let layers = stack::open_layers(options.layers)?;
    let mut disk = MetadataDisk::new(&lower.leaf, buffer);
    let leaf = (&mut disk, &probe.superblock);
    lower.stack = stack::find_or_build(leaf, layers, resources)?;
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

/// What a leaf holds.
struct Loaded {
    leaf: Leaf,
    map: Map<MapMemory>,
    allocator: Allocator<KVVec<u64>>,
    committer: UnionCommitter,
    buffer: MetadataBuffer,
    loss: Loss,
}

/// A root and a leaf that belong together.
pub(super) struct Pair {
    pub(super) lower: Lower,
    loaded: KBox<Loaded>,
    limits: Limits,
}

impl Pair {
    /// Returns the limits of a disk on these devices.
    pub(super) fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Returns the slab size of the leaf, in sectors.
    pub(super) fn slab_sectors(&self) -> u32 {
        self.loaded.map.geometry().slab_sectors()
    }
}

/// Checks that the leaf belongs to the root, and reads its metadata. Writes nothing.
#[inline(never)]
pub(super) fn load(
    name: Name,
    lower: Lower,
    (probe, mut buffer): (KBox<Probe>, MetadataBuffer),
    resources: &Resources,
) -> Result<Pair> {
    let limits = limits(name, &lower, &probe.superblock)?;
    if let Some(root) = &lower.root {
        check_root_digest(root, &probe.superblock, &mut buffer)?;
    }
    let mut loaded = read_metadata(&lower, KBox::into_inner(probe), buffer, resources)?;
    let Loaded { map, buffer, .. } = &mut *loaded;
    let mut disk = MetadataDisk::new(&lower.leaf, buffer);
    let block = limits.logical_block_size();
    if u64::from(block) > SECTOR_BYTES
        && !attach::fits_blocks(
            &mut disk,
            map,
            saturating_u32(u64::from(block) / SECTOR_BYTES),
        )?
    {
        return Err(Error::FineMap(block));
    }
    if let Some(stack) = &lower.stack {
        stack.check_blocks(block)?;
    }
    Ok(Pair {
        lower,
        loaded,
        limits,
    })
}

/// Stacks the limits of all devices, and checks that the union's size is a multiple of the
/// resulting logical block size.
fn limits(name: Name, lower: &Lower, sb: &Superblock) -> Result<Limits> {
    let mut limits = Limits::new();
    for (side, dev) in lower.sides() {
        limits
            .stack(dev, c"unionblk")
            .map_err(|_| Error::Limits(side))?;
    }
    if limits.is_misaligned() {
        pr_warn!("{name}: the devices below have different alignment: some I/O will be slower\n");
    }
    let block = u64::from(limits.logical_block_size()) / SECTOR_BYTES;
    if sb.geometry.union_sectors().checked_rem(block) != Some(0) {
        return Err(Error::Limits(Side::Root));
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
pub(super) fn check_root_digest(
    root: &BlockDevice,
    sb: &Superblock,
    buffer: &mut MetadataBuffer,
) -> Result {
    let sectors = root.sectors();
    let mut digest = Sha256::new();
    digest.update(root_samples::PREFIX);
    digest.update(&sectors.to_le_bytes());
    for (first, count) in root_samples::samples(&sb.uuid, sectors) {
        let bytes = u64_as_usize(count.saturating_mul(SECTOR_BYTES));
        root.read(first, buffer, 0..bytes)
            .map_err(|e| read_error(Side::Root, first, e))?;
        digest.update(&first.to_le_bytes());
        digest.update(buffer.as_slice().get(..bytes).ok_or(Error::Internal)?);
    }
    if digest.finish() == sb.root_digest {
        Ok(())
    } else {
        Err(Error::RootContent)
    }
}

/// Fills an empty map from the leaf's metadata.
#[inline(never)]
fn read_metadata(
    lower: &Lower,
    probe: Probe,
    mut buffer: MetadataBuffer,
    resources: &Resources,
) -> Result<KBox<Loaded>> {
    let sb = &probe.superblock;
    let leaf = Leaf {
        uuid: sb.uuid,
        name: sb.name,
        preallocated: sb.preallocated,
    };
    let mut lost = Lost::new(page_set(&sb.geometry)?);
    let Empty {
        map,
        mut allocator,
        entries,
        sets,
    } = Empty::new(&sb.geometry, &resources.reserve)?;
    let mut disk = MetadataDisk::new(&lower.leaf, &mut buffer);
    let a = &mut allocator;
    let committer = attach::salvage(&mut disk, probe, &map, a, entries, sets, &mut lost)?;
    let loss = Loss::new(&mut disk, &map, &lost)?;
    let loaded = Loaded {
        leaf,
        map,
        allocator,
        committer,
        buffer,
        loss,
    };
    KBox::new(loaded, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

/// Makes the first checkpoint, the union, and its disk.
fn make(
    options: &Options<'_>,
    pair: Pair,
    tags: Arc<TagSet<Union>>,
    resources: &Arc<Resources>,
) -> Result<Attached> {
    let pair = if options.read_only {
        pair
    } else {
        first_checkpoint(pair)?
    };
    let Pair {
        lower,
        loaded,
        limits,
    } = pair;
    let sectors = loaded.map.geometry().union_sectors();
    let new = New {
        name: Name(options.id),
        read_only: options.read_only,
        events: to_core(Events::new())?,
        tags: tags.clone(),
    };
    let union: Arc<Union> = new_union(new, lower, loaded, resources)?.into();
    let name = union.name;
    let disk = to_core(GenDisk::new(
        fmt!("{name}"),
        union.clone(),
        NewDisk {
            limits,
            device: |union, n| union.lower.devices().nth(n),
            sectors,
            read_only: options.read_only,
            tags,
            bios: resources.bios.clone(),
        },
    ))?;
    if union.loss.stretches() > 0 {
        // A read of lost sectors fails. A read beside them must not fail with it.
        disk.forbid_merges();
    }
    union.events.show(disk.reference());
    // The kernel makes the directory for these links when it adds the disk, so they appear after
    // the disk is announced.
    if let Err(e) = to_core(disk.link_all()) {
        // The disk was in the system, so an opener may have written to it.
        let _ = detach::end(union, disk);
        return Err(e);
    }
    pr_info!(
        "{}: root {}, {} layers, leaf {}, {} sectors, {} of {} slabs used\n",
        union.name,
        Named(&union.lower.root),
        union.layer_count(),
        union.lower.leaf,
        sectors,
        union.allocator.lock().used(),
        union.geometry().leaf_slabs(),
    );
    union.loss.log(union.name, &union.lower.leaf);
    Ok(Attached { disk })
}

/// Makes the first checkpoint. If the leaf is damaged, this fails with the damage and has written
/// nothing.
pub(super) fn first_checkpoint(mut pair: Pair) -> Result<Pair> {
    let Loaded {
        map,
        committer,
        buffer,
        ..
    } = &mut *pair.loaded;
    committer.checkpoint_in_steps(map, &mut MetadataDisk::new(&pair.lower.leaf, buffer))?;
    Ok(pair)
}

/// Returns the union that takes the place of `old`, on a new leaf.
pub(super) fn union_after(
    old: &Union,
    pair: Pair,
    resources: &Arc<Resources>,
) -> Result<Pin<UniqueArc<Union>>> {
    let new = New {
        name: old.name,
        read_only: false,
        events: old.events.clone(),
        tags: old.tags.clone(),
    };
    new_union(new, pair.lower, pair.loaded, resources)
}

/// What a new union gets besides its devices and what the leaf holds.
struct New {
    name: Name,
    read_only: bool,
    events: Arc<Events>,
    tags: Arc<TagSet<Union>>,
}

#[inline(never)]
fn new_union(
    new: New,
    lower: Lower,
    loaded: KBox<Loaded>,
    resources: &Arc<Resources>,
) -> Result<Pin<UniqueArc<Union>>> {
    let New {
        name,
        read_only,
        events,
        tags,
    } = new;
    let Loaded {
        leaf,
        map,
        allocator,
        committer,
        buffer,
        loss,
    } = KBox::into_inner(loaded);
    map.memory().set_live();
    let durable = committer.committed();
    let mode = Mode {
        read_only,
        reveal: committer.superblock().reveal,
    };
    let stats = Stats::new();
    stats.publish(&Committed::of(&committer));
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
            send <- new_work!("unionblk send"),
            memory <- new_work!("unionblk memory"),
        }? kernel::error::Error),
        GFP_KERNEL,
    ))
}

/// The name of a root for messages, if there is one.
struct Named<'a>(&'a Option<BlockDevice>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(root) => root.fmt(f),
            None => f.write_str("none"),
        }
    }
}
