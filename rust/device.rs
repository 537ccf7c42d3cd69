// SPDX-License-Identifier: GPL-2.0

//! One union: its state, attach and detach.
//!
//! Lock order: `Registry::unions`, `Union::metadata`, `Union::allocator`, `Reserve::spare`. The
//! last two are spinlocks, and the only locks that the I/O path takes. No thread waits for I/O
//! while it holds `Registry::unions`, except when the module is unloaded. A request holds no lock
//! while its lower I/O is in flight.

use crate::{
    blk::{
        bios::Bios,
        digest::Sha256,
        workqueue::OwnedQueue,
        BlockDevice,
        Disk,
        IoBuffer,
        Limits,
        RequestList,
        Tags,
        Way, //
    },
    error::{
        open,
        os, //
    },
    events::Events,
    loss::Loss,
    memory::{
        MapMemory,
        Reserve, //
    },
    metadata::{
        io_error,
        LeafDisk,
        Metadata,
        UnionCommitter, //
    },
    stats::{
        Committed,
        Stats, //
    },
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
        format::{
            directory::PageEntry,
            name::LeafName,
            superblock::Superblock, //
        },
        geometry::{
            Geometry,
            BLOCK_BYTES, //
        },
        identity,
        map::{
            words_for,
            Map, //
        },
        num::{
            index,
            narrow,
            usize_of,
            SECTOR_BYTES, //
        },
        pages::PageSet,
        protocol,
        salvage::Lost,
    },
};
use core::sync::atomic::AtomicBool;
use kernel::{
    fmt, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce,
        SpinLock, //
    },
    workqueue::{
        new_delayed_work,
        new_work,
        DelayedWork,
        Work, //
    },
};

/// The maximum number of requests in flight, over all hardware queues of a union.
const QUEUE_DEPTH: u32 = 128;

/// An attached union: everything that its requests and works use.
///
/// Every request reads the first fields. The fields that are written come after them.
#[pin_data]
pub(crate) struct Union {
    pub(crate) map: Map<MapMemory>,
    pub(crate) root: BlockDevice,
    pub(crate) leaf: BlockDevice,
    id: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) name_of_leaf: LeafName,
    /// The paths of root and leaf, as the caller of the attach gave them.
    pub(crate) root_path: [u8; abi::PATH_BYTES],
    pub(crate) leaf_path: [u8; abi::PATH_BYTES],
    /// How lower I/O is sent.
    pub(crate) way: Way,
    pub(crate) queue: Arc<OwnedQueue>,
    pub(crate) releases: Arc<OwnedQueue>,
    pub(crate) background: Arc<OwnedQueue>,
    pub(crate) memory_queue: Arc<OwnedQueue>,
    pub(crate) send_queue: Arc<OwnedQueue>,
    pub(crate) events: Arc<Events>,
    /// Whether the union was attached read-only. If so, nothing is dirty and nothing is written.
    pub(crate) asked_read_only: bool,
    /// The sectors that cannot be read because metadata is damaged. If there are any, the union was
    /// attached read-only, and its committer is in the failed state from attach on.
    pub(crate) loss: Loss,
    /// The state that the protocol's requests and works share.
    pub(crate) shared: protocol::Shared,
    /// Why a commit or checkpoint failed, so that the union turned read-only. Unset until then.
    pub(crate) failure: SetOnce<Error>,
    /// The commit waiters.
    pub(crate) waiting: RequestList<Union>,
    /// The deferred requests: requests that wait until emptied slabs are free, and zeroings that
    /// must also zero parts of slabs on the leaf.
    pub(crate) stalled: RequestList<Union>,
    /// Discards and zeroings.
    pub(crate) discards: RequestList<Union>,
    /// Requests that wait for memory for the map.
    pub(crate) starved: RequestList<Union>,
    /// Requests that the send work submits, because their lower I/O may have to wait.
    pub(crate) sends: RequestList<Union>,
    /// Whether a request that would have to wait is on `sends`, or the send work is submitting it.
    /// Set only if `way` is [`Way::Requests`]. While it is set, further such requests return to
    /// blk-mq, which queues them again.
    pub(crate) in_line: AtomicBool,
    /// The union's requests. The word of each request in flight says when it looked up the map.
    pub(crate) tags: Arc<Tags<Union>>,
    /// Whether a discarded slab shows the root again.
    pub(crate) reveal: bool,
    /// Whether the leaf keeps the space that was allocated when it was formatted. If so, the driver
    /// discards nothing on the leaf.
    pub(crate) keep: bool,
    pub(crate) stats: Stats,
    #[pin]
    pub(crate) allocator: SpinLock<Allocator<KVVec<u64>>>,
    #[pin]
    pub(crate) metadata: Mutex<Metadata>,
    #[pin]
    pub(crate) commit_now: Work<Union, 1>,
    #[pin]
    pub(crate) commit_later: DelayedWork<Union, 2>,
    #[pin]
    pub(crate) release_now: Work<Union, 3>,
    #[pin]
    pub(crate) send_now: Work<Union, 4>,
    #[pin]
    pub(crate) checkpoint_now: Work<Union, 5>,
    #[pin]
    pub(crate) memory_now: Work<Union, 6>,
    #[pin]
    pub(crate) discard_now: Work<Union, 7>,
}

/// The name of a union, for messages and for its disk.
pub(crate) struct Name(u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(core::format_args!("unionblk{}", self.0))
    }
}

impl Union {
    pub(crate) fn name(&self) -> Name {
        Name(self.id)
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        self.map.geometry()
    }

    /// Returns the discard policy's number in the ABI.
    pub(crate) fn discard_policy(&self) -> u32 {
        if self.reveal {
            abi::DISCARD_REVEAL
        } else {
            abi::DISCARD_ZERO
        }
    }
}

/// A union with its disk.
///
/// The fields drop in this order. No request is left when the union is dropped.
pub(crate) struct Attached {
    pub(crate) disk: Disk<Union>,
    pub(crate) union: Arc<Union>,
}

fn zeroed<T: Copy>(n: usize, zero: T) -> Result<KVVec<T>> {
    KVVec::from_elem(zero, n, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

/// Returns a path as a field of the ABI. The path always fits, because it came from such a field.
fn kept(path: &CStr) -> [u8; abi::PATH_BYTES] {
    let mut field = [0; abi::PATH_BYTES];
    let _ = abi::set_path(&mut field, path.to_bytes());
    field
}

/// Opens both devices. The error names the device that cannot be opened.
fn open_pair(root: &CStr, leaf: &CStr, write: bool) -> Result<(BlockDevice, BlockDevice)> {
    let root = BlockDevice::open_shared(root).map_err(|e| open(Side::Root, e))?;
    let leaf = BlockDevice::open_exclusive(leaf, write).map_err(|e| {
        // Our own claim on the root makes the leaf busy if both are the same device, or if one is a
        // partition of the other.
        let same = BlockDevice::open_plain(leaf).is_ok_and(|leaf| root.overlaps(&leaf));
        if same {
            Error::SameDevice
        } else {
            open(Side::Leaf, e)
        }
    })?;
    for (side, dev) in [(Side::Root, &root), (Side::Leaf, &leaf)] {
        // Refuse a union, because the worker of one union would wait for the worker of another.
        if dev.is_own() {
            return Err(Error::Stacked(side));
        }
        // The driver reads and writes metadata and samples in blocks of `BLOCK_BYTES`.
        if index(dev.logical_block_size()) > BLOCK_BYTES {
            return Err(Error::Limits(side));
        }
    }
    if write && leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    Ok((root, leaf))
}

/// Returns how lower I/O is sent: as requests, unless one of the devices takes only bios.
fn way(root: &BlockDevice, leaf: &BlockDevice) -> Way {
    if root.takes_clones() && leaf.takes_clones() {
        Way::Requests
    } else {
        Way::Bios
    }
}

/// Compares the root's samples with the digest that was stored when the leaf was formatted.
fn check_identity(root: &BlockDevice, sb: &Superblock, buffer: &mut IoBuffer) -> Result {
    let sectors = root.sectors();
    let mut digest = Sha256::new();
    digest.update(identity::PREFIX);
    digest.update(&sectors.to_le_bytes());
    for (first, count) in identity::samples(&sb.uuid, sectors) {
        let bytes = usize_of(count.saturating_mul(SECTOR_BYTES));
        root.read(first, buffer, 0..bytes)
            .map_err(|e| io_error(Side::Root, first, e))?;
        digest.update(&first.to_le_bytes());
        digest.update(buffer.as_slice().get(..bytes).unwrap_or_default());
    }
    if digest.finish() == sb.root_digest {
        Ok(())
    } else {
        Err(Error::RootContent)
    }
}

/// Stacks the limits of both devices, and checks that the union's size is a multiple of the
/// resulting logical block size.
fn limits(root: &BlockDevice, leaf: &BlockDevice, sectors: u64) -> Result<Limits> {
    let mut limits = Limits::new();
    for (side, dev) in [(Side::Root, root), (Side::Leaf, leaf)] {
        limits
            .stack(dev, c"unionblk")
            .map_err(|_| Error::Limits(side))?;
    }
    if limits.is_misaligned() {
        pr_warn!("root {root} and leaf {leaf} do not line up: some I/O will be slower\n");
    }
    let block = u64::from(limits.logical_block_size()) / SECTOR_BYTES;
    if block == 0 || sectors % block != 0 {
        return Err(Error::Limits(Side::Root));
    }
    Ok(limits)
}

/// Fills an empty map from the leaf's metadata.
fn read(
    disk: &mut LeafDisk<'_>,
    probe: Probe,
    map: &Map<MapMemory>,
) -> Result<(Allocator<KVVec<u64>>, UnionCommitter, Loss)> {
    let g = map.geometry();
    // Larger than the number of slabs, so that there is always a bit after the last slab.
    let bitmap = || zeroed(index(g.leaf_slabs() / 64).saturating_add(1), 0u64);
    let mut a = Allocator::new([bitmap()?, bitmap()?, bitmap()?], g.leaf_slabs());
    let entries = zeroed(index(g.pages()), PageEntry::EMPTY)?;
    let set = || zeroed(words_for(g.pages()), 0u64).map(PageSet::new);
    let mut lost = Lost::new(set()?);
    let sets = [set()?, set()?];
    let committer = attach::salvage(disk, probe, map, &mut a, entries, sets, &mut lost)?;
    let loss = Loss::new(disk, map, &lost)?;
    Ok((a, committer, loss))
}

/// Loads a leaf's metadata and builds the union. The first write to the leaf follows all checks.
fn load(
    id: u32,
    root: BlockDevice,
    leaf: BlockDevice,
    shared: &Shared,
    tags: Arc<Tags<Union>>,
    (asked_read_only, damage): (bool, &mut abi::Damage),
    paths: [&CStr; 2],
) -> Result<(Arc<Union>, Limits)> {
    let mut buffer = LeafDisk::new_buffer()?;
    let mut disk = LeafDisk::new(&leaf, &mut buffer);
    let probe = attach::probe(&mut disk, root.sectors(), leaf.sectors())?;
    let uuid = probe.superblock.uuid;
    let name_of_leaf = probe.superblock.name;
    let g = probe.superblock.geometry;
    let (reveal, keep) = (probe.superblock.reveal, probe.superblock.keep);
    let made_for = probe.superblock.root_block_bytes;
    let mut limits = limits(&root, &leaf, g.union_sectors())?;
    limits.offer_discard(narrow(u64::from(g.slab_sectors()) * SECTOR_BYTES));
    if limits.logical_block_size() != made_for {
        // Do not refuse the leaf, because only the tool knows whether the user wants this.
        let block = limits.logical_block_size();
        pr_warn!(
            "root {root} was made for blocks of {made_for} bytes, with leaf {leaf} the union has \
             {block}: partitions and file systems may not be found on it\n"
        );
    }
    check_identity(&root, &probe.superblock, &mut buffer)?;

    let map = Map::new(g, MapMemory::new(&g, shared.reserve.clone())?);
    let mut disk = LeafDisk::new(&leaf, &mut buffer);
    let (allocator, mut committer, loss) = read(&mut disk, probe, &map)?;
    let block = limits.logical_block_size();
    if u64::from(block) > SECTOR_BYTES
        && !attach::fits_blocks(&mut disk, &map, narrow(u64::from(block) / SECTOR_BYTES))?
    {
        return Err(Error::FineMap(block));
    }
    *damage = loss.damage();
    if !asked_read_only {
        // If the leaf is damaged, this fails with the damage and has written nothing.
        committer.checkpoint_in_steps(&map, &mut disk)?;
    }

    let way = way(&root, &leaf);
    map.memory().set_live();
    let durable = committer.committed();
    let events = os(Events::new())?;
    let stats = Stats::new();
    stats.publish(&Committed::of(&committer));
    let union = os(Arc::pin_init(
        try_pin_init!(Union {
            map,
            root,
            leaf,
            id,
            uuid,
            name_of_leaf,
            root_path: kept(paths[0]),
            leaf_path: kept(paths[1]),
            way,
            queue: shared.queue.clone(),
            releases: shared.releases.clone(),
            background: shared.background.clone(),
            memory_queue: shared.memory.clone(),
            send_queue: shared.sends.clone(),
            events,
            asked_read_only,
            loss,
            shared: protocol::Shared::new(durable),
            failure: SetOnce::new(),
            waiting: RequestList::new(),
            stalled: RequestList::new(),
            discards: RequestList::new(),
            starved: RequestList::new(),
            sends: RequestList::new(),
            in_line: AtomicBool::new(false),
            tags,
            reveal,
            keep,
            stats,
            allocator <- new_spinlock!(allocator, "unionblk allocator"),
            metadata <- new_mutex!(Metadata { committer, buffer }, "unionblk metadata"),
            commit_now <- new_work!("unionblk commit_now"),
            commit_later <- new_delayed_work!("unionblk commit_later"),
            release_now <- new_work!("unionblk release_now"),
            send_now <- new_work!("unionblk send_now"),
            checkpoint_now <- new_work!("unionblk checkpoint_now"),
            memory_now <- new_work!("unionblk memory_now"),
            discard_now <- new_work!("unionblk discard_now"),
        }? kernel::error::Error),
        GFP_KERNEL,
    ))?;
    Ok((union, limits))
}

/// The resources that all unions share.
pub(crate) struct Shared {
    /// Runs commits, and discards in the map. They wait only for the leaf.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Submits requests whose lower I/O may have to wait for root or leaf. It is separate from
    /// `queue`, so that a root that hangs does not block commits.
    pub(crate) sends: Arc<OwnedQueue>,
    /// Runs reclaim, which waits for commits and for requests in flight. It is separate from
    /// `queue`: without memory for more threads, a queue has one thread, and on a shared queue
    /// reclaim would block the commits that it waits for.
    pub(crate) releases: Arc<OwnedQueue>,
    /// Waits for memory for a map, and does nothing else.
    pub(crate) memory: Arc<OwnedQueue>,
    /// The bios of lower I/O.
    pub(crate) bios: Arc<Bios>,
    /// Runs the commit timer and the checkpoint work, because no request waits for them. The system
    /// freezes this queue: metadata written after a hibernation image was made would be newer than
    /// the map in the image.
    pub(crate) background: Arc<OwnedQueue>,
    pub(crate) reserve: Arc<Reserve>,
}

impl Attached {
    /// Attaches a leaf to its root. The first write to the leaf is a checkpoint. If the call fails
    /// before, both devices are unchanged. If it fails later, the leaf holds the same union, and
    /// what an opener wrote if the disk was in the system already.
    ///
    /// If the leaf is damaged and can still be read, `damage` is filled, even if the call fails.
    pub(crate) fn new(
        id: u32,
        root: &CStr,
        leaf: &CStr,
        queues: u32,
        (read_only, damage): (bool, &mut abi::Damage),
        shared: &Shared,
    ) -> Result<Self> {
        let paths = [root, leaf];
        let (root, leaf) = open_pair(root, leaf, !read_only)?;
        // A worker sends lower I/O that goes down as bios, so only requests matter here.
        let may_sleep =
            way(&root, &leaf) == Way::Requests && (root.may_sleep() || leaf.may_sleep());
        let tags = os(Tags::new(queues, QUEUE_DEPTH, may_sleep))?;
        let asked = (read_only, damage);
        let (union, limits) = load(id, root, leaf, shared, tags.clone(), asked, paths)?;
        let sectors = union.geometry().union_sectors();
        let name = Name(id);
        let disk = os(Disk::new(
            fmt!("{name}"),
            union.clone(),
            limits,
            (sectors, read_only),
            (tags, shared.bios.clone()),
        ))?;
        let mut attached = Attached { disk, union };
        if let Err(e) = attached.show() {
            // The disk was in the system, so an opener may have written to it.
            let _ = attached.detach();
            return Err(e);
        }
        let union = &attached.union;
        pr_info!(
            "{}: root {}, leaf {}, {} sectors, {} of {} slabs used\n",
            union.name(),
            union.root,
            union.leaf,
            sectors,
            union.allocator.lock().used(),
            union.geometry().leaf_slabs(),
        );
        union.loss.tell(union);
        Ok(attached)
    }

    /// Starts the events, and links the disk with root and leaf in sysfs.
    ///
    /// The kernel makes the directory for these links when it adds the disk, so they appear after
    /// the disk is announced.
    fn show(&mut self) -> Result {
        self.union.events.show(self.disk.reference());
        os(self.disk.link(|union| &union.root))?;
        os(self.disk.link(|union| &union.leaf))
    }

    /// Detaches the union and commits its dirty mappings.
    ///
    /// The caller must have claimed the disk, so that no one has it open. [`Attached::new`] does
    /// not claim it if it fails: a process that has the disk open then finds its queue dead.
    pub(crate) fn detach(self) -> Result {
        let Attached { disk, union } = self;
        union.events.close();
        drop(disk);
        let done = Union::detach(&union);
        union.events.end();
        match done {
            Ok(()) => pr_info!("{}: detached from leaf {}\n", union.name(), union.leaf),
            Err(e) => pr_err!(
                "{}: leaf {}: the last commit failed: {}: the leaf holds what was flushed before\n",
                union.name(),
                union.leaf,
                core::format_args!("{e}"),
            ),
        }
        done
    }
}
