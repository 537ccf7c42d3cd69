// SPDX-License-Identifier: GPL-2.0

//! The metadata of a union: the leaf as the committer's disk, and the works that the core's
//! protocol queues.

use crate::{
    blk::{
        task,
        workqueue,
        BlockDevice,
        IoBuffer,
        Order, //
    },
    device::Union,
    error::{
        number,
        os, //
    },
    queue,
    ubcore::{
        abi,
        commit::{
            Committer,
            BUFFER_BYTES, //
        },
        disk::{
            self,
            Disk, //
        },
        error::{
            Error,
            Result,
            Side, //
        },
        format::directory::PageEntry,
        geometry::{
            BLOCK_BYTES,
            BLOCK_SECTORS, //
        },
        protocol::{
            discard,
            flush,
            io, //
        },
    },
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    workqueue::{
        impl_has_delayed_work,
        impl_has_work,
        WorkItem, //
    },
};

/// The committer, over the memory that the kernel provides.
pub(crate) type UnionCommitter = Committer<KVVec<u64>, KVVec<PageEntry>>;

/// The state that a commit uses. One commit runs at a time.
pub(crate) struct Metadata {
    pub(crate) committer: UnionCommitter,
    pub(crate) buffer: IoBuffer,
}

/// The leaf as the core's disk. Process context; allocates nothing.
pub(crate) struct LeafDisk<'a> {
    leaf: &'a BlockDevice,
    buffer: &'a mut IoBuffer,
}

impl<'a> LeafDisk<'a> {
    pub(crate) fn new(leaf: &'a BlockDevice, buffer: &'a mut IoBuffer) -> Self {
        LeafDisk { leaf, buffer }
    }

    /// Returns a buffer of the size that the core needs.
    pub(crate) fn new_buffer() -> Result<IoBuffer> {
        IoBuffer::new(BUFFER_BYTES).map_err(|_| Error::NoMemory)
    }
}

/// Returns the first sector of `block`, and the length of `count` blocks in bytes.
fn place(block: u64, count: usize) -> Result<(u64, usize)> {
    let bad = Error::Io(Side::Leaf, 0);
    let sector = block.checked_mul(BLOCK_SECTORS).ok_or(bad)?;
    Ok((sector, count.checked_mul(BLOCK_BYTES).ok_or(bad)?))
}

/// Returns the core error for a failed write or flush of the leaf.
fn failure(e: kernel::error::Error, sector: u64) -> Error {
    if e == ENOSPC {
        // The storage below the leaf is full: a thin pool, or the file system of an image.
        Error::Os(number(e))
    } else {
        Error::Io(Side::Leaf, sector)
    }
}

impl Disk for LeafDisk<'_> {
    fn buffer(&mut self) -> &mut [u8] {
        self.buffer.as_mut_slice()
    }

    fn read(&mut self, block: u64, count: usize) -> Result {
        let (sector, bytes) = place(block, count)?;
        self.leaf
            .read(sector, self.buffer, 0..bytes)
            .map_err(|_| Error::Io(Side::Leaf, sector))
    }

    fn write(&mut self, block: u64, count: usize, order: disk::Order) -> Result {
        let (sector, bytes) = place(block, count)?;
        let order = match order {
            disk::Order::Plain => Order::Plain,
            disk::Order::Fua => Order::Fua,
            disk::Order::FlushFua => Order::FlushFua,
        };
        self.leaf
            .write(sector, self.buffer, 0..bytes, order)
            .map_err(|e| failure(e, sector))
    }

    fn flush(&mut self) -> Result {
        self.leaf.flush().map_err(|e| failure(e, 0))
    }

    fn give_way(&mut self) -> Result {
        os(task::give_way())
    }
}

impl_has_work! {
    impl HasWork<Self, 1> for Union { self.commit_now }
}
impl_has_delayed_work! {
    impl HasDelayedWork<Self, 2> for Union { self.commit_later }
}
impl_has_work! {
    impl HasWork<Self, 3> for Union { self.release_now }
}
impl_has_work! {
    impl HasWork<Self, 4> for Union { self.send_now }
}
impl_has_work! {
    impl HasWork<Self, 5> for Union { self.checkpoint_now }
}
impl_has_work! {
    impl HasWork<Self, 6> for Union { self.memory_now }
}
impl_has_work! {
    impl HasWork<Self, 7> for Union { self.discard_now }
}

/// The commit work, queued when requests wait for a commit.
impl WorkItem<1> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::commit_work(&this.as_arc_borrow());
    }
}

/// The commit timer.
impl WorkItem<2> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::timer_work(&this.as_arc_borrow());
    }
}

/// The reclaim work, queued when emptied slabs can be freed or requests were deferred. It waits for
/// requests in flight and for discards of the leaf, so it does not share a queue with the commits.
impl WorkItem<3> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        discard::reclaim_work(&this.as_arc_borrow());
    }
}

/// The send work: submits requests whose lower I/O may have to wait.
impl WorkItem<4> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        queue::send_waiting(this.as_arc_borrow());
    }
}

/// The checkpoint work, queued when a checkpoint is due: see `Committer::wants_checkpoint`.
impl WorkItem<5> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::checkpoint_work(&this.as_arc_borrow());
    }
}

/// The discard work, queued for discards and zeroings.
impl WorkItem<7> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        discard::discard_work(&this.as_arc_borrow());
    }
}

/// The memory work, queued when requests wait for memory for the map.
impl WorkItem<6> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        io::memory_work(&this.as_arc_borrow());
    }
}

impl Union {
    /// Returns whether all mappings made before this call are durable. Any context.
    pub(crate) fn is_clean(&self) -> bool {
        self.shared.durable() == self.map.changes()
    }

    /// Returns whether the map can no longer be committed. Any context.
    pub(crate) fn is_read_only(&self) -> bool {
        self.shared.is_read_only()
    }

    /// Returns the mode's number in the ABI. Any context.
    pub(crate) fn mode(&self) -> u32 {
        if self.is_read_only() {
            abi::MODE_READ_ONLY
        } else if self.asked_read_only {
            abi::MODE_ASKED
        } else {
            abi::MODE_WRITABLE
        }
    }

    /// Queues the send work, which submits the requests on `sends`. Any context.
    pub(crate) fn send_soon(this: ArcBorrow<'_, Self>) {
        let _ = this.send_queue.enqueue::<_, 4>(Arc::from(this));
    }

    /// Reports, once, that the map can no longer be committed. Process context.
    pub(crate) fn turned_read_only(&self, e: Error) {
        self.failure.populate(e);
        self.events.read_only();
        pr_err!(
            "{}: leaf {}: the map cannot be committed: {}: the union is read-only \
             from now on; what was flushed before is safe\n",
            self.name(),
            self.leaf,
            core::format_args!("{e}"),
        );
    }

    /// Waits for all works and makes the last checkpoint. Process context.
    ///
    /// The caller must have removed the disk, so that no request is in flight or arrives.
    pub(crate) fn detach(this: &Arc<Self>) -> Result {
        // The timer, the commit work and a large discard queue reclaim and checkpoints, and reclaim
        // queues checkpoints. So the works are waited for in this order. No other work is queued
        // without a request.
        workqueue::cancel_delayed_work_sync::<_, 2>(this);
        workqueue::flush_work::<_, 1>(this);
        workqueue::flush_work::<_, 7>(this);
        workqueue::flush_work::<_, 3>(this);
        workqueue::flush_work::<_, 4>(this);
        workqueue::flush_work::<_, 5>(this);
        workqueue::flush_work::<_, 6>(this);
        flush::detach(&this.as_arc_borrow())
    }
}

/// Returns the core error for a failed synchronous read.
pub(crate) fn io_error(side: Side, sector: u64, e: kernel::error::Error) -> Error {
    if e == ENOMEM {
        Error::NoMemory
    } else if e == EIO {
        Error::Io(side, sector)
    } else {
        Error::Os(number(e))
    }
}
