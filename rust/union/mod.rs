// SPDX-License-Identifier: GPL-2.0

//! The state of one union. Each other file of this directory has one part of its life.
//!
//! [`attach`] makes it, and [`detach`] ends it. [`requests`] takes each request from blk-mq, sends
//! its lower I/O and ends it. The steps between, and all of FLUSH, discard and reclaim, are in
//! [`crate::ubcore::protocol`], over the five traits that a union implements: `Requests` in
//! [`requests`], `WorkItems` in [`work_items`], and `LeafDevice`, `Observer` and `Host` in
//! [`host`].
//!
//! Lock order: `Registry::unions`, `Stacks::list`, `Claims::list`, `gendisk::open_mutex`,
//! `Union::metadata`, `Union::allocator`, `Reserve::spare`. The last two are spinlocks, and the
//! only locks that the I/O path takes. No thread waits for I/O while it holds `Stacks::list` or
//! `Claims::list`. No thread waits for I/O while it holds `Registry::unions`, except when the
//! module is unloaded. A request holds no lock while its lower I/O is in flight.

mod attach;
mod attributes;
mod detach;
mod events;
mod freeze;
mod host;
mod leaf_memory;
mod limit;
mod loss;
mod merge;
mod metadata_disk;
mod open;
mod requests;
mod reset;
mod stack;
mod stats;
mod status;
mod work_items;

use self::{
    events::Events,
    loss::Loss,
    metadata_disk::Metadata,
    stack::{
        Stack,
        StackUse, //
    },
    stats::Stats, //
};
use crate::{
    blk::{
        BlockDevice,
        GenDisk,
        PieceTarget,
        RequestList,
        SendAs, //
        TagSet,
    },
    memory::MapMemory,
    resources::Resources,
    stack_memory::StackPageLists,
    sys::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        bug::warn_on_once, //
    },
    ubcore::{
        abi,
        alloc::Allocator,
        error::{
            Error,
            Role, //
        },
        format::name::LeafName,
        geometry::Geometry,
        map::Map,
        num::{
            saturating_u32,
            usize_as_u64, //
        },
        plan::Source,
        protocol::{
            CommitterStep,
            Shared, //
        },
        stack::map::StackMap, //
    },
};
use kernel::{
    fmt,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce,
        SpinLock, //
    },
    workqueue::{
        DelayedWork,
        Work, //
    },
};

pub(crate) use self::{
    attach::Options,
    freeze::FreezeOptions,
    stack::Stacks, //
};

/// An attached union: everything that its requests and work items use.
#[pin_data]
pub(crate) struct Union {
    map: Map<MapMemory>,
    lower: LowerDevices,
    leaf: LeafProperties,
    name: Name,
    resources: Arc<Resources>,
    events: Arc<Events>,
    /// The sectors that cannot be read because metadata is damaged. If there are any, the union was
    /// attached read-only, and its committer is in the failed state from attach on.
    loss: Loss,
    /// The state that the protocol's requests and work items share.
    shared: Shared,
    /// The step that failed, so that the union turned read-only, and its error. Unset until then.
    failure: SetOnce<(CommitterStep, Error)>,
    lists: Lists,
    /// The union's requests. Each request in flight has the epoch of its look-up in its word. The
    /// tags are dropped after the lists of requests.
    tags: Arc<TagSet<Union>>,
    stats: Stats,
    #[pin]
    allocator: SpinLock<Allocator<KVVec<u64>>>,
    #[pin]
    metadata: Mutex<Metadata>,
    #[pin]
    commit: Work<Union, { work_items::COMMIT }>,
    #[pin]
    timer: DelayedWork<Union, { work_items::TIMER }>,
    #[pin]
    checkpoint: Work<Union, { work_items::CHECKPOINT }>,
    #[pin]
    discard: Work<Union, { work_items::DISCARD }>,
    #[pin]
    reclaim: Work<Union, { work_items::RECLAIM }>,
    #[pin]
    reads: Work<Union, { work_items::READS }>,
    #[pin]
    writes: Work<Union, { work_items::WRITES }>,
    #[pin]
    memory: Work<Union, { work_items::MEMORY }>,
}

/// The devices below, and how lower I/O is sent to them.
struct LowerDevices {
    /// Without a root the bottom reads as zeroes.
    root: Option<BlockDevice>,
    leaf: BlockDevice,
    /// The layers between them, if there are any.
    stack: Option<StackUse>,
    send_as: SendAs,
    paths: KBox<Paths>,
}

impl LowerDevices {
    /// Returns the map of the layers, if there are any.
    #[inline]
    fn stack_map(&self) -> Option<&StackMap<StackPageLists>> {
        self.stack.as_ref().map(|stack| &stack.map)
    }

    /// Returns the devices of the layers.
    fn layer_devices(&self) -> impl Iterator<Item = &BlockDevice> {
        let stack: Option<&Stack> = self.stack.as_deref();
        let layers = stack.map_or(&[][..], |stack| &stack.layers);
        layers.iter().map(|layer| &layer.device)
    }

    /// Returns all devices with their roles: the root, the leaf, the layers.
    fn roles(&self) -> impl Iterator<Item = (Role, &BlockDevice)> {
        let root = self.root.iter().map(|dev| (Role::Root, dev));
        let leaf = core::iter::once((Role::Leaf, &self.leaf));
        let layers = self.layer_devices().map(|dev| (Role::Layer, dev));
        // By this name, because `pin_init` has a method `chain` too.
        Iterator::chain(Iterator::chain(root, leaf), layers)
    }

    /// Returns all devices without their roles.
    fn devices(&self) -> impl Iterator<Item = &BlockDevice> {
        self.roles().map(|(_, dev)| dev)
    }

    /// Returns the device of a source, and the sector there.
    #[inline]
    fn locate(&self, source: Source) -> Option<(&BlockDevice, u64)> {
        match source {
            Source::Leaf(sector) => Some((&self.leaf, sector)),
            Source::Root(sector) => Some((self.root.as_ref()?, sector)),
            Source::Layer(at) => self.stack.as_ref()?.locate(at),
            Source::Zero | Source::Lost | Source::Broken => None,
        }
    }

    /// Returns where a run of a request goes.
    fn target(&self, source: Source) -> PieceTarget<'_> {
        match (source, self.locate(source)) {
            (_, Some((device, sector))) => PieceTarget::Device(device, sector),
            // For a write: a concurrent discard has emptied the slab since the write found or
            // allocated its leaf slab, or the leaf is full, and the bios of the slab fail.
            (Source::Zero, None) => PieceTarget::Nowhere,
            (Source::Lost, None) => PieceTarget::Error,
            (_, None) => {
                // The map does not say where the sectors lie.
                warn_on_once!(true);
                PieceTarget::Error
            }
        }
    }
}

/// The paths of root and leaf, as the caller of the attach gave them.
struct Paths {
    root: [u8; abi::PATH_BYTES],
    leaf: [u8; abi::PATH_BYTES],
}

/// The properties of the leaf, from its superblock.
struct LeafProperties {
    uuid: [u8; 16],
    name: LeafName,
    /// Whether the leaf keeps the space that was allocated when it was formatted. If so, the driver
    /// discards nothing on the leaf.
    preallocated: bool,
}

/// The requests that wait, each list for one work item.
struct Lists {
    /// The commit waiters.
    commit_waiters: RequestList<Union>,
    /// The deferred requests: requests that wait until unowned leaf slabs are free, and zeroings
    /// that must also zero parts of slabs on the leaf.
    deferred: RequestList<Union>,
    /// Discards and zeroings.
    discards: RequestList<Union>,
    /// Requests that wait for memory for the map.
    starved: RequestList<Union>,
    /// Reads that may have to wait for a lower device.
    reads: Sends,
    /// Other requests that may have to wait for a lower device, which is the leaf.
    writes: Sends,
}

/// Requests that a send work submits, because their lower I/O may have to wait. Reads are separate,
/// because the kernel writes to free memory, and such a write must not wait for the root.
struct Sends {
    list: RequestList<Union>,
    /// Whether a request that would have to wait is on the list, or the send work is submitting it.
    /// Set only if `send_as` is [`SendAs::Requests`]. While it is set, further such requests return
    /// to blk-mq, which queues them again.
    is_pending: AtomicBool,
}

impl Sends {
    const fn new() -> Self {
        Sends {
            list: RequestList::new(),
            is_pending: AtomicBool::new(false),
        }
    }

    /// Begins to send a request that would have to wait. Returns `false` if another one is pending.
    fn begin(&self) -> bool {
        !self.is_pending.swap(true, Ordering::Relaxed)
    }

    /// Ends what [`Sends::begin`] has begun.
    fn end(&self) {
        self.is_pending.store(false, Ordering::Relaxed);
    }
}

impl Lists {
    const fn new() -> Self {
        Lists {
            commit_waiters: RequestList::new(),
            deferred: RequestList::new(),
            discards: RequestList::new(),
            starved: RequestList::new(),
            reads: Sends::new(),
            writes: Sends::new(),
        }
    }
}

/// The name of a union, for messages and for its disk, from its id.
#[derive(Clone, Copy)]
pub(crate) struct Name(u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(core::format_args!("unionblk{}", self.0))
    }
}

/// A number of layers, for messages.
struct LayerCount(u32);

impl fmt::Display for LayerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.0 == 1 { "" } else { "s" };
        f.write_fmt(core::format_args!("{} layer{end}", self.0))
    }
}

impl Union {
    fn geometry(&self) -> &Geometry {
        self.map.geometry()
    }

    /// Returns the number of layers between root and leaf.
    fn layer_count(&self) -> u32 {
        saturating_u32(usize_as_u64(self.lower.layer_devices().count()))
    }

    /// Returns whether all that was mapped before this call is durable. Any context.
    fn is_committed(&self) -> bool {
        self.shared.is_committed(&self.map)
    }

    /// Reports, once, that the map can no longer be committed. Process context.
    #[cold]
    fn turned_read_only(&self, step: CommitterStep, e: Error) {
        self.failure.populate((step, e));
        self.events.read_only();
        let failed = match step {
            CommitterStep::Commit | CommitterStep::Checkpoint => "cannot commit the map",
            CommitterStep::Reset => "cannot write the reset",
            CommitterStep::Limit => "cannot write the limit",
        };
        pr_err!(
            "{}: {} to leaf {} ({}): the union is read-only now, and {}; repair the leaf's device, \
             then detach and attach the union\n",
            self.name,
            failed,
            self.lower.leaf,
            core::format_args!("{e}"),
            self.leaf_content(),
        );
    }

    /// Returns what messages say of the content of the leaf after a failure.
    fn leaf_content(&self) -> &'static str {
        match self.failure.as_ref() {
            Some((CommitterStep::Reset, _)) => "the leaf is as before the reset or empty",
            _ => "the leaf holds all flushed data",
        }
    }
}

/// An attached union, by its disk. A freeze and a reset make another [`Union`] the queue data of
/// the disk.
pub(crate) struct Attached {
    disk: GenDisk<Union>,
}

impl Attached {
    /// Returns the union as it is now, for the calls that end, replace or limit it, of which one
    /// runs at a time. The reference keeps the devices open, and when a detach or a freeze has
    /// answered, devices must be closed. So all other calls use [`GenDisk::with_queue_data`].
    fn union(&self) -> Arc<Union> {
        self.disk.queue_data()
    }

    /// Prevents the disk from being opened again, so that it can be detached. Fails with `EBUSY` if
    /// it is open.
    pub(crate) fn forbid_open(&self) -> Result {
        self.disk.forbid_open()
    }

    /// Returns the UUID of the leaf as it is now.
    pub(crate) fn leaf_uuid(&self) -> [u8; 16] {
        self.disk.with_queue_data(|union| union.leaf.uuid)
    }

    /// Returns the totals of what is lost because metadata is damaged.
    pub(crate) fn loss_totals(&self) -> abi::LossTotals {
        self.disk.with_queue_data(|union| union.loss.totals())
    }
}
