// SPDX-License-Identifier: GPL-2.0

//! How requests, commits and reclaim work together.
//!
//! These are the steps that the driver takes between its locks, as core code over [`Host`]. The
//! kernel module runs them over blk-mq and work queues. The race models run the same lines over a
//! scheduler that chooses every interleaving. [`io`] has reads and writes. [`flush`] has FLUSH, the
//! commit waiters, the commit timer and the turn to read-only. [`discard`] has discards, zeroing,
//! deferred requests and reclaim. [`epoch`] finds out for reclaim which requests may still use an
//! old leaf slab.
//!
//! A host consists of five traits: [`Requests`] sends and ends requests, [`WorkItems`] holds the
//! waiting ones, [`LeafDevice`] writes to the leaf for the reclaim work, [`Observer`] counts and
//! reports, and [`Host`] has the rest: the map, the locks and the memory.
//!
//! Lock order: the committer's lock, then the allocator's lock.

pub mod discard;
pub mod epoch;
pub mod flush;
pub mod io;

pub use self::epoch::RequestState;

use core::ops::DerefMut;

use super::alloc::Allocator;
use super::commit::Committer;
use super::disk::Disk;
use super::error::{Checked, Error, Result};
use super::format::directory::PageEntry;
use super::map::{Map, Memory};
use super::plan::Source;
use super::stack::source::StackLookup;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make everything that has completed before durable. Carries no sectors.
    Flush,
    /// Discard the content of the sectors.
    Discard,
    /// Zero the sectors.
    WriteZeroes,
    /// An operation that the driver did not announce.
    Other,
}

/// A request that the protocol owns. It is a bug to drop it without [`Requests::end`].
pub trait Request {
    /// Returns the operation.
    fn op(&self) -> Op;
    /// Returns the first sector; 0 for a flush.
    fn sector(&self) -> u64;
    /// Returns the length in sectors; 0 for a flush.
    fn sectors(&self) -> u32;
    /// Returns the sectors for which no lower I/O was sent yet: first and count. Fails if more were
    /// sent than the request has.
    fn rest(&self) -> Checked<(u64, u32)>;
    /// Returns the number of sectors for which no lower I/O was sent yet. Fails as
    /// [`Request::rest`] does.
    fn unsent(&self) -> Checked<u32>;
    /// Returns the sectors that the last [`Requests::submit`] has sent: first and count. Fails if
    /// the last round ends before it starts, which is a bug.
    fn sent(&self) -> Checked<(u64, u32)>;
    /// Returns whether the write must be durable when it ends.
    fn is_fua(&self) -> bool;
    /// Lets those bios of the request that overlap a range end with an error for lack of space, and
    /// the others with the request's status. Returns whether there are others.
    fn fail_bios(&mut self, sector: u64, sectors: u32) -> bool;
    /// Returns the sectors of the first bio that ends after `sector` and does not fail, without
    /// those before `sector`: first and count.
    fn next_bio(&self, sector: u64) -> Option<(u64, u32)>;
    /// Returns the word that stays with the request, [`RequestState::NEW`] at first. A thread finds
    /// it by [`Requests::any_in_flight`].
    fn word(&self) -> &AtomicU64;
    /// Returns whether the request is read-ahead, which a device below may fail at any time.
    fn is_read_ahead(&self) -> bool;
}

/// The status with which lower I/O or a request ends, a `blk_status_t`.
pub trait BlkStatus: Copy + From<Error> {
    /// The I/O succeeded.
    const OK: Self;
    /// The operation is not supported.
    const UNSUPPORTED: Self;
    /// The request failed, or the union does not accept it.
    const IO_ERROR: Self;
    /// Returns whether the I/O succeeded.
    fn is_ok(self) -> bool;
    /// Returns whether the device below has no space left.
    fn is_no_space(self) -> bool;
}

/// An event that a host counts and reports.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A write made a mapping: first sector, sectors.
    FirstWrite(u64, u32),
    /// A request failed, in its lower I/O or because it touches sectors that are lost. Not
    /// read-ahead, and not for lack of space.
    IoError,
    /// A request found too few free slabs.
    Full,
    /// A request failed because the storage below the leaf has no space.
    NoSpaceBelow,
    /// The number of slabs in use changed: that number, and how many may be in use. Under the
    /// allocator's lock.
    Space(u32, u32),
    /// Leaf sectors are free: first sector, sectors. Under the allocator's lock.
    Freed(u64, u64),
    /// The union turned read-only because this step failed with this error. Reported once.
    ReadOnly(CommitterStep, Error),
}

/// What the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitterStep {
    /// A commit. It becomes a checkpoint if the ring is full or replay would fill too many pages.
    Commit,
    /// A checkpoint.
    Checkpoint,
    /// A reset.
    Reset,
    /// A change of the limit.
    Limit,
}

/// A work item of a union. It is queued at most once, and runs in process context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkId {
    /// [`flush::commit_work`], soon.
    Commit,
    /// [`flush::timer_work`], within a second.
    Timer,
    /// [`flush::checkpoint_work`], soon.
    Checkpoint,
    /// [`discard::discard_work`], soon.
    Discard,
    /// [`discard::reclaim_work`], soon.
    Reclaim,
    /// [`io::memory_work`], soon.
    Memory,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The next commit: a commit waiter.
    Commit,
    /// The discard work: a discard or a zeroing.
    Discard,
    /// The next round of reclaim: a deferred request.
    Reclaim,
    /// Memory for the map.
    Memory,
}

impl Waiting {
    /// Returns the work that takes the requests.
    fn work(self) -> WorkId {
        match self {
            Waiting::Commit => WorkId::Commit,
            Waiting::Discard => WorkId::Discard,
            Waiting::Reclaim => WorkId::Reclaim,
            Waiting::Memory => WorkId::Memory,
        }
    }
}

/// What is decided at attach and does not change.
#[derive(Clone, Copy, Debug)]
pub struct AttachMode {
    /// The union is attached read-only, so nothing is dirty and nothing is written.
    pub read_only: bool,
    /// A discarded slab shows again what lies below the leaf.
    pub reveal: bool,
}

/// Whether a union takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// It takes them.
    Writable,
    /// It was attached read-only.
    AttachedReadOnly,
    /// It has turned read-only, because the map cannot be committed any more.
    TurnedReadOnly,
}

/// The state that all requests and work items of a union share, besides its map.
pub struct Shared {
    attach_mode: AttachMode,
    /// The map's count of changes that is durable.
    durable: AtomicU64,
    /// The commit timer is armed.
    timer: AtomicBool,
    /// The map cannot be committed any more.
    turned_read_only: AtomicBool,
    /// The current epoch.
    epoch: AtomicU32,
    /// A checkpoint is due, as the last commit or checkpoint found.
    checkpoint_due: AtomicBool,
}

impl Shared {
    /// Returns the state for a map of which `durable` changes are durable.
    pub const fn new(durable: u64, attach_mode: AttachMode) -> Self {
        Shared {
            attach_mode,
            durable: AtomicU64::new(durable),
            timer: AtomicBool::new(false),
            turned_read_only: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            checkpoint_due: AtomicBool::new(false),
        }
    }

    /// Returns whether the union takes writes. Any context.
    #[inline]
    pub fn write_mode(&self) -> WriteMode {
        if self.turned_read_only.load(Ordering::Acquire) {
            WriteMode::TurnedReadOnly
        } else if self.attach_mode.read_only {
            WriteMode::AttachedReadOnly
        } else {
            WriteMode::Writable
        }
    }

    /// Returns whether a discarded slab shows again what lies below the leaf. Any context.
    pub fn reveals(&self) -> bool {
        self.attach_mode.reveal
    }

    /// Returns the map's count of changes that is durable. Any context.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Returns whether all that was mapped before this call is durable. Any context.
    #[inline]
    pub fn is_committed<M: Memory>(&self, map: &Map<M>) -> bool {
        self.durable() == map.changes()
    }
}

/// Whether a request was accepted. If not, the error is the request, which the caller still owns.
pub type Accepted<H> = core::result::Result<(), <H as Requests>::Request>;

/// The committer of a host.
pub type HostCommitter<H> = Committer<<H as Host>::PageSet, <H as Host>::Entries>;

/// Sends the requests of a union, and ends them.
pub trait Requests: Sized {
    /// A request.
    type Request: Request;
    /// The status with which lower I/O or a request ends.
    type Status: BlkStatus;

    /// Sends the rest of a read or a write down, or the first part of the rest. If one look-up has
    /// found the place of the whole rest, `whole` is that place. Otherwise the host plans it. When
    /// all lower I/O has ended, the host calls [`io::complete`], and does what that decides. `fua`
    /// makes each lower write durable when it ends, if [`LeafDevice::has_fua`]. If sending would
    /// have to wait, nothing is sent, and the error is the request. In a worker that may wait, the
    /// host may wait instead.
    fn submit(&self, rq: Self::Request, whole: Option<Source>, fua: bool) -> Accepted<Self>;
    /// Makes the host call [`io::queue`] once more, soon. Any context.
    fn requeue(&self, rq: Self::Request);
    /// Ends a request. Any context.
    fn end(&self, rq: Self::Request, status: Self::Status);
    /// Returns whether `f`, called with `with`, holds for the word of a request that was started
    /// and has not ended.
    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool;
    /// Sleeps before the `n`-th look at the requests in flight. Process context.
    fn pause(&self, n: u32);
}

/// Runs the work items of a union, and holds the requests that wait for them.
pub trait WorkItems: Requests {
    /// Makes a work item run. Any context.
    fn schedule(&self, work: WorkId);
    /// Adds a request to the waiting ones. Any context.
    fn add(&self, rq: Self::Request, waiting: Waiting);
    /// Takes all requests that were added with `waiting`, the oldest first.
    fn take_waiting(&self, waiting: Waiting) -> impl Iterator<Item = Self::Request>;
}

/// The leaf, for what the protocol writes to it without a request.
pub trait LeafDevice {
    /// Returns whether a single write can be made durable.
    fn has_fua(&self) -> bool;
    /// Returns whether there is a volatile cache.
    fn has_cache(&self) -> bool;
    /// Zeroes sectors and waits. Fails with [`Error::Os`] only if the storage below has no space.
    /// Process context.
    fn zero(&self, sector: u64, sectors: u64) -> Result;
    /// Discards sectors and waits, if the leaf supports discard. Process context.
    fn discard(&self, sector: u64, sectors: u64);
}

/// Counts and reports what happens in a union.
pub trait Observer {
    /// Notes an event. The context is the caller's.
    fn note(&self, event: Event);
}

/// What the protocol runs on: a handle on one union.
pub trait Host: WorkItems + LeafDevice + Observer + Clone {
    /// The map's memory.
    type Memory: Memory;
    /// A bitmap of the allocator.
    type Slabs: DerefMut<Target = [u64]>;
    /// A set of map pages of the committer.
    type PageSet: DerefMut<Target = [u64]>;
    /// The committer's directory.
    type Entries: DerefMut<Target = [PageEntry]>;
    /// The leaf, for metadata.
    type Disk<'d>: Disk;

    /// Returns the map.
    fn map(&self) -> &Map<Self::Memory>;
    /// Returns what lies below the leaf.
    fn below(&self) -> impl StackLookup;
    /// Returns the state that requests and work items share.
    fn shared(&self) -> &Shared;
    /// Runs `f` under the allocator's lock, a spinlock. Process context; not held for long.
    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<Self::Slabs>) -> R) -> R;
    /// Runs `f` under the committer's lock. Metadata I/O waits under this lock. Process context.
    fn with_committer<R>(
        &self,
        f: impl FnOnce(&mut HostCommitter<Self>, &mut Self::Disk<'_>) -> R,
    ) -> R;
    /// Reports what the committer did, before [`Shared`] shows it. Under the committer's lock.
    fn note_step(&self, step: CommitterStep, committer: &HostCommitter<Self>, done: Result);
    /// Waits until there is memory for a map page of each kind. Process context, no lock held.
    fn wait_for_memory(&self) -> Result;
    /// Gives way to other tasks, see [`Disk::give_way`], and never fails. Process context, no lock
    /// held.
    ///
    /// [`Disk::give_way`]: super::disk::Disk::give_way
    fn give_way(&self);
}

/// Makes a request wait, and the work run that takes it. Any context.
fn make_wait<H: Host>(host: &H, rq: H::Request, waiting: Waiting) {
    host.add(rq, waiting);
    host.schedule(waiting.work());
}

/// Returns whether all that was mapped before this call is durable. Any context.
pub fn is_committed<H: Host>(host: &H) -> bool {
    host.shared().is_committed(host.map())
}

/// Returns whether writes are refused, for either reason. Any context.
pub fn refuses_writes<H: Host>(host: &H) -> bool {
    host.shared().write_mode() != WriteMode::Writable
}
