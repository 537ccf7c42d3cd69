// SPDX-License-Identifier: GPL-2.0

//! When the map is committed, and over which device: the worker, the timer, and the turn to
//! read-only. How it is committed is the core's affair.

use crate::{
    blk::{
        workqueue,
        BlockDevice,
        IoBuffer,
        Order,
        Status, //
    },
    device::Union,
    error::number,
    events::Step,
    queue,
    stats::Committed,
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
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Full,
            Relaxed,
            Release, //
        },
        barrier::smp_mb,
        Arc,
        ArcBorrow, //
    },
    time::msecs_to_jiffies,
    workqueue::{
        impl_has_delayed_work,
        impl_has_work,
        WorkItem, //
    },
};

/// The longest that a mapping stays volatile without a FLUSH.
const COMMIT_AFTER_MS: u32 = 1000;

/// The committer with the memory that it is made over.
pub(crate) type UnionCommitter = Committer<KVVec<u64>, KVVec<PageEntry>>;

/// Everything that one commit at a time needs.
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

    /// A buffer of the size that the core wants.
    pub(crate) fn new_buffer() -> Result<IoBuffer> {
        IoBuffer::new(BUFFER_BYTES).map_err(|_| Error::NoMemory)
    }
}

/// The first sector of a block, and its bytes in a buffer.
fn place(block: u64, count: usize) -> Result<(u64, usize)> {
    let bad = Error::Io(Side::Leaf, 0);
    let sector = block.checked_mul(BLOCK_SECTORS).ok_or(bad)?;
    Ok((sector, count.checked_mul(BLOCK_BYTES).ok_or(bad)?))
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
            .map_err(|_| Error::Io(Side::Leaf, sector))
    }

    fn flush(&mut self) -> Result {
        self.leaf.flush().map_err(|_| Error::Io(Side::Leaf, 0))
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
    impl HasWork<Self, 4> for Union { self.go_on_now }
}

/// Somebody waits for a commit.
impl WorkItem<1> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        // Taken before the commit, so that it covers them.
        let mut waiting = this.waiting.take_all().peekable();
        if waiting.peek().is_none() {
            // Whoever queued this was answered by the run before.
            return;
        }
        let status = match this.commit() {
            Ok(()) => Status::OK,
            Err(_) => Status::IOERR,
        };
        for rq in waiting {
            rq.end(status);
        }
        Union::tidy(this.as_arc_borrow());
    }
}

/// The timer.
impl WorkItem<2> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        // Before the look, and seen before it: a mapping that the look misses finds it, see `arm`.
        let _ = this.armed.xchg(false, Full);
        if !this.is_clean() && this.commit_dirty().is_ok() {
            Union::tidy(this.as_arc_borrow());
        }
    }
}

/// Slabs were emptied, or requests wait for that: a work of its own, because it waits for requests
/// in flight and for discards below, and a FLUSH shall wait for neither.
impl WorkItem<3> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        let mut stalled = this.stalled.take_all().peekable();
        // If it fails, the union is read-only, and so they are told.
        if stalled.peek().is_none() || this.commit().is_ok() {
            this.release();
            this.checkpoint_if_due();
        }
        for rq in stalled {
            queue::resume(this.as_arc_borrow(), rq);
        }
    }
}

/// Requests of which a part has completed.
impl WorkItem<4> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        for rq in this.rests.take_all() {
            queue::go_on(rq);
        }
    }
}

impl Union {
    /// Whether all that was mapped before this call is durable. Any context.
    pub(crate) fn is_clean(&self) -> bool {
        self.durable.load(Acquire) == self.map.changes()
    }

    /// Whether the map cannot be committed any more. Any context.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.load(Acquire)
    }

    /// The mode's number in the ABI. Any context.
    pub(crate) fn mode(&self) -> u32 {
        if self.is_read_only() {
            abi::MODE_READ_ONLY
        } else if self.asked_read_only {
            abi::MODE_ASKED
        } else {
            abi::MODE_WRITABLE
        }
    }

    /// Whether writes are refused, for either reason. Any context.
    pub(crate) fn takes_no_writes(&self) -> bool {
        self.asked_read_only || self.is_read_only()
    }

    /// Sees to it that what has just been mapped is committed in time. Any context.
    pub(crate) fn arm(this: ArcBorrow<'_, Self>) {
        // The mapping was counted before: either this sees that the timer has let go, or the timer
        // sees the count.
        smp_mb(Full);
        if !this.armed.load(Relaxed) && !this.armed.xchg(true, Full) {
            let after = msecs_to_jiffies(COMMIT_AFTER_MS);
            let _ = this.queue.enqueue_delayed::<_, 2>(Arc::from(this), after);
        }
    }

    /// Commits soon, for those who wait. Any context.
    pub(crate) fn commit_soon(this: ArcBorrow<'_, Self>) {
        let _ = this.queue.enqueue::<_, 1>(Arc::from(this));
    }

    /// Frees emptied slabs soon, and goes on with those who wait for them. Any context.
    pub(crate) fn release_soon(this: ArcBorrow<'_, Self>) {
        let _ = this.releases.enqueue::<_, 3>(Arc::from(this));
    }

    /// Goes on with requests of which a part has completed. Any context.
    pub(crate) fn go_on_soon(this: ArcBorrow<'_, Self>) {
        let _ = this.queue.enqueue::<_, 4>(Arc::from(this));
    }

    /// What a commit leaves to do, with nobody waiting for it. Process context.
    fn tidy(this: ArcBorrow<'_, Self>) {
        this.checkpoint_if_due();
        if this.allocator.lock().any_emptied(&this.map) {
            Union::release_soon(this);
        }
    }

    /// Makes durable what has completed. Process context.
    fn commit(&self) -> Result {
        self.commit_with(&mut self.metadata.lock())
    }

    /// The same, unless another commit has done it by now: nobody asked for a flush. Process context.
    fn commit_dirty(&self) -> Result {
        let mut guard = self.metadata.lock();
        if guard.committer.is_clean(&self.map) {
            return Ok(());
        }
        self.commit_with(&mut guard)
    }

    fn commit_with(&self, metadata: &mut Metadata) -> Result {
        let Metadata { committer, buffer } = metadata;
        self.allocator.lock().begin_commit();
        let done = committer.commit(&self.map, &mut LeafDisk::new(&self.leaf, buffer));
        self.settle(metadata, Step::Commit, done)
    }

    /// Frees the slabs whose emptying a commit has made durable. Process context; waits for all
    /// requests in flight, with no lock held: they may need a commit to end.
    ///
    /// R5: the record is durable; and nobody reads from or writes to the old homes any more.
    fn release(&self) {
        while self.begin_release() {
            self.grace.wait(&self.tags);
            self.discard_leaving();
            // Between two commits, as in `begin_release`: one may have these slabs on its list.
            let _metadata = self.metadata.lock();
            let mut allocator = self.allocator.lock();
            allocator.end_release(&self.map);
            self.events.space(allocator.used(), allocator.slabs());
        }
    }

    /// Picks what the next grace period is for: whether there is anything.
    fn begin_release(&self) -> bool {
        // Between two commits: what one has only begun to tell is not durable.
        let metadata = self.metadata.lock();
        let mut allocator = self.allocator.lock();
        metadata.committer.failed().is_none()
            && allocator.begin_release(&self.map, metadata.committer.is_clean(&self.map))
    }

    fn discard_leaving(&self) {
        let g = self.geometry();
        let mut from = 0;
        loop {
            let range = self.allocator.lock().leaving(from);
            let Some(range) = range else {
                break;
            };
            from = range.end;
            range.clone().for_each(|leaf| self.map.forget(leaf));
            let first = g.leaf_slab_start(range.start);
            let end = g.leaf_slab_start(range.end);
            // A hint: where it fails, the space is ours to use all the same.
            let _ = self.leaf.discard(first, end.saturating_sub(first));
            self.events.released(first, end.saturating_sub(first));
        }
    }

    fn checkpoint_if_due(&self) {
        let mut guard = self.metadata.lock();
        if guard.committer.wants_checkpoint() {
            let Metadata { committer, buffer } = &mut *guard;
            let done = committer.checkpoint(&self.map, &mut LeafDisk::new(&self.leaf, buffer));
            let _ = self.settle(&guard, Step::Checkpoint, done);
        }
    }

    /// The last commit: no request is in flight or will come. Process context.
    pub(crate) fn detach(this: &Arc<Self>) -> Result {
        workqueue::cancel_delayed_work_sync::<_, 2>(this);
        workqueue::flush_work::<_, 1>(this);
        workqueue::flush_work::<_, 3>(this);
        workqueue::flush_work::<_, 4>(this);
        if this.asked_read_only {
            return Ok(());
        }
        let mut guard = this.metadata.lock();
        let Metadata { committer, buffer } = &mut *guard;
        let done = committer.detach(&this.map, &mut LeafDisk::new(&this.leaf, buffer));
        this.settle(&guard, Step::Checkpoint, done)
    }

    /// Tells those without the lock how a commit or a checkpoint has ended.
    fn settle(&self, metadata: &Metadata, step: Step, done: Result) -> Result {
        let committed = metadata.committer.committed();
        let changes = committed.wrapping_sub(self.durable.load(Relaxed));
        // The event first: whoever sees the counters finds it in the trace.
        let after = Committed::of(&metadata.committer);
        self.events
            .step_ended(step, &self.stats.committed(), &after, changes, done);
        self.stats.publish(&after);
        match done {
            Ok(()) => self.durable.store(committed, Release),
            Err(e) => {
                self.failure.populate(e);
                if !self.read_only.xchg(true, Full) {
                    self.events.read_only();
                    pr_err!(
                        "{}: leaf {}: the map cannot be committed: {}: the union is read-only \
                         from now on; what was flushed before is safe\n",
                        self.name(),
                        self.leaf,
                        core::format_args!("{e}"),
                    );
                }
            }
        }
        done
    }
}

/// A kernel error of a metadata read as a core one.
pub(crate) fn io(side: Side, sector: u64, e: kernel::error::Error) -> Error {
    if e == ENOMEM {
        Error::NoMemory
    } else if e == EIO {
        Error::Io(side, sector)
    } else {
        Error::Os(number(e))
    }
}
