// SPDX-License-Identifier: GPL-2.0

//! One union: what it consists of, how it comes and how it goes.
//!
//! Lock order: `Registry::unions`, `Union::metadata`, `Union::allocator`, `Reserve::spare`. The last
//! two are spinlocks, and the only ones that the I/O path takes. `Registry::unions` is not held while
//! I/O is waited for, nor any lock while a request's lower I/O is in flight.

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

/// Requests in flight, over all hardware queues of a union together.
const QUEUE_DEPTH: u32 = 128;

/// A union at work: what its requests need. Read by all, so what is written stands behind.
#[pin_data]
pub(crate) struct Union {
    pub(crate) map: Map<MapMemory>,
    pub(crate) root: BlockDevice,
    pub(crate) leaf: BlockDevice,
    id: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) name_of_leaf: LeafName,
    /// The paths it was made of, as they were given.
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
    /// Read-only from the start: nothing is dirty, nothing is written.
    pub(crate) asked_read_only: bool,
    /// What cannot be read because metadata is damaged. If anything is, it is read-only from the
    /// start, and its committer has failed from the start.
    pub(crate) loss: Loss,
    /// What the protocol's requests and works share.
    pub(crate) shared: protocol::Shared,
    /// Why the map cannot be committed any more, if so.
    pub(crate) failure: SetOnce<Error>,
    /// Requests that wait for a commit.
    pub(crate) waiting: RequestList<Union>,
    /// Requests that wait for slabs that were emptied, and zeroings that take more than the map.
    pub(crate) stalled: RequestList<Union>,
    /// Discards and zeroings.
    pub(crate) discards: RequestList<Union>,
    /// Requests that wait for memory of the map.
    pub(crate) starved: RequestList<Union>,
    /// Requests that would have to wait on their way down.
    pub(crate) sends: RequestList<Union>,
    /// One of them waits, where requests go down without in general.
    pub(crate) in_line: AtomicBool,
    /// Its requests, and when those in flight have looked something up in the map.
    pub(crate) tags: Arc<Tags<Union>>,
    /// What is discarded shows the root again.
    pub(crate) reveal: bool,
    /// The leaf's space was allocated when it was formatted: nothing of it is given back.
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

    /// The discard policy's number in the ABI.
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
/// Fields drop in this order: no request is left when the union's turn comes.
pub(crate) struct Attached {
    pub(crate) disk: Disk<Union>,
    pub(crate) union: Arc<Union>,
}

fn zeroed<T: Copy>(n: usize, zero: T) -> Result<KVVec<T>> {
    KVVec::from_elem(zero, n, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

/// A path as a field of the ABI: it came out of one.
fn kept(path: &CStr) -> [u8; abi::PATH_BYTES] {
    let mut field = [0; abi::PATH_BYTES];
    let _ = abi::set_path(&mut field, path.to_bytes());
    field
}

/// Opens both devices, or says which cannot be had.
fn open_pair(root: &CStr, leaf: &CStr, write: bool) -> Result<(BlockDevice, BlockDevice)> {
    let root = BlockDevice::open_shared(root).map_err(|e| open(Side::Root, e))?;
    let leaf = BlockDevice::open_exclusive(leaf, write).map_err(|e| {
        // It is busy if it is the root, or a disk and the root its partition, because of ourselves.
        let same = BlockDevice::open_plain(leaf).is_ok_and(|leaf| root.overlaps(&leaf));
        if same {
            Error::SameDevice
        } else {
            open(Side::Leaf, e)
        }
    })?;
    for (side, dev) in [(Side::Root, &root), (Side::Leaf, &leaf)] {
        // The worker of one union would wait for that of another.
        if dev.is_own() {
            return Err(Error::Stacked(side));
        }
        // Metadata and samples are read and written in blocks of this size.
        if index(dev.logical_block_size()) > BLOCK_BYTES {
            return Err(Error::Limits(side));
        }
    }
    if write && leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    Ok((root, leaf))
}

/// How lower I/O is sent: as requests, unless one of the devices takes bios alone.
fn way(root: &BlockDevice, leaf: &BlockDevice) -> Way {
    if root.takes_clones() && leaf.takes_clones() {
        Way::Requests
    } else {
        Way::Bios
    }
}

/// Compares the root's samples with what they were when the leaf was made.
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

/// The limits of both devices together, and whether the union's size goes with them.
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

/// Fills an empty map with all that the leaf says.
fn read(
    disk: &mut LeafDisk<'_>,
    probe: Probe,
    map: &Map<MapMemory>,
) -> Result<(Allocator<KVVec<u64>>, UnionCommitter, Loss)> {
    let g = map.geometry();
    // A bit more than slabs, so that there is always a word behind the last.
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

/// Takes a leaf over, as its metadata says: the first write to the leaf is its last step.
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
        // Not refused: it is the tool that knows whether the user wants it so.
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
        // Of a damaged leaf it fails with the damage, and nothing has been written.
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

/// What all unions have together.
pub(crate) struct Shared {
    /// Where commits run, and discards in the map: they wait for the leaf alone.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Where requests are sent that would have to wait on their way down, for root or leaf: a root
    /// that does not answer holds up no commit.
    pub(crate) sends: Arc<OwnedQueue>,
    /// Where emptied slabs are freed. That waits for commits and for requests:
    /// with no memory for threads a queue has one, and one would stand behind the other.
    pub(crate) releases: Arc<OwnedQueue>,
    /// Where memory for a map is waited for, and nothing else.
    pub(crate) memory: Arc<OwnedQueue>,
    /// Lower bios.
    pub(crate) bios: Arc<Bios>,
    /// Where the commit timer and the checkpoint work run, for no request waits for them. The system freezes
    /// this queue: metadata that is written after a hibernation image was made would be newer than
    /// the map in the image.
    pub(crate) background: Arc<OwnedQueue>,
    pub(crate) reserve: Arc<Reserve>,
}

impl Attached {
    /// Joins a root and a leaf. When it fails, nothing of the pair's content has changed.
    ///
    /// `damage` is filled, also where it fails, if what is left of a damaged leaf can be read.
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
        // What goes down as bios is sent by a worker.
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
            // The disk was there: somebody may have written to it.
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

    /// Starts the events, and links the disk with what it is made of: the kernel makes the folder
    /// of these links when it adds the disk, so they follow the announcement.
    fn show(&mut self) -> Result {
        self.union.events.show(self.disk.reference());
        os(self.disk.link(|union| &union.root))?;
        os(self.disk.link(|union| &union.leaf))
    }

    /// Takes the union away: claimed, so that nobody has it open. Commits what is dirty.
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
