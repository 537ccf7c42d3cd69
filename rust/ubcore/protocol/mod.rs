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
//! Lock order: the committer's lock, then the allocator's lock.

pub mod discard;
pub mod epoch;
pub mod flush;
pub mod io;
mod state;

pub use self::state::State;

use core::ops::DerefMut;

use super::alloc::Allocator;
use super::commit::Committer;
use super::disk::Disk;
use super::error::{Error, Result};
use super::format::directory::PageEntry;
use super::map::{Map, Memory};
use super::plan::Source;
use super::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read sectors.
    Read,
    /// Write sectors.
    Write,
    /// Make everything that has completed before durable. Carries no sectors.
    Flush,
    /// The content is not needed any more.
    Discard,
    /// Zero the sectors.
    WriteZeroes,
    /// An operation that the driver did not announce.
    Other,
}

/// A request that the protocol owns. It is a bug to drop it without [`Host::end`].
pub trait Request {
    /// Returns what the request asks for.
    fn op(&self) -> Op;
    /// Returns the first sector; 0 for a flush.
    fn sector(&self) -> u64;
    /// Returns the length in sectors; 0 for a flush.
    fn sectors(&self) -> u32;
    /// Returns the sectors for which no lower I/O was sent yet: first and count.
    fn rest(&self) -> (u64, u32);
    /// Returns the sectors that the last [`Host::submit`] has sent: first and count.
    fn part(&self) -> (u64, u32);
    /// Returns whether the write must be durable when it ends.
    fn is_fua(&self) -> bool;
    /// Lets those bios of the request that overlap a range end with an error for lack of space, and
    /// the others with the request's status. Returns whether there are others.
    fn fail_bios(&self, sector: u64, sectors: u32) -> bool;
    /// Returns the sectors of the first bio that ends after `sector` and does not fail, without
    /// those before `sector`: first and count.
    fn next_bio(&self, sector: u64) -> Option<(u64, u32)>;
    /// Returns the state that stays with the request, [`State::NEW`] at first.
    fn state(&self) -> State;
    /// Sets the state.
    fn set_state(&self, state: State);
    /// Sets the state. A full barrier follows.
    fn publish_state(&self, state: State);
    /// Sets the state, so that a thread that finds it by [`Host::any_in_flight`] sees everything
    /// that was done before.
    fn release_state(&self, state: State);
}

/// The status with which lower I/O ended.
pub trait EndStatus: Copy + From<Error> {
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
    /// Lower I/O of a request failed.
    IoError,
    /// A request found too few free slabs.
    Full,
    /// The number of slabs in use changed: used, all. Under the allocator's lock.
    Space(u32, u32),
    /// Leaf sectors were freed: first sector, sectors.
    Freed(u64, u64),
    /// The union turned read-only because of this error. Reported once.
    ReadOnly(Error),
}

/// What the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A commit. It becomes a checkpoint if the ring is full or replay would fill too many pages.
    Commit,
    /// A checkpoint.
    Checkpoint,
}

/// The state that all requests and works of a union share, besides its map.
pub struct Shared {
    /// The map's count of changes that is durable.
    durable: AtomicU64,
    /// The commit timer is armed.
    timer: AtomicBool,
    /// The map cannot be committed any more.
    read_only: AtomicBool,
    /// The current epoch.
    epoch: AtomicU32,
    /// A checkpoint is due, as the last commit or checkpoint found.
    checkpoint_due: AtomicBool,
}

impl Shared {
    /// Returns the state for a map of which `durable` changes are durable.
    pub const fn new(durable: u64) -> Self {
        Shared {
            durable: AtomicU64::new(durable),
            timer: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            checkpoint_due: AtomicBool::new(false),
        }
    }

    /// Returns the map's count of changes that is durable. Any context.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Returns whether the map cannot be committed any more. Any context.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }
}

/// Whether a request was accepted. If not, the error is the request, which the caller still owns.
pub type Accepted<H> = core::result::Result<(), <H as Host>::Request>;

/// The committer of a host.
pub type HostCommitter<H> = Committer<<H as Host>::PageSet, <H as Host>::Entries>;

/// What the protocol runs on: a handle on one union.
pub trait Host: Clone {
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
    /// A request.
    type Request: Request;
    /// How lower I/O ended.
    type Status: EndStatus;

    /// Returns the map.
    fn map(&self) -> &Map<Self::Memory>;
    /// Returns the state that requests and works share.
    fn shared(&self) -> &Shared;
    /// Returns whether the union was attached read-only.
    fn is_attached_read_only(&self) -> bool;
    /// Returns whether a discarded slab shows the root again.
    fn reveals(&self) -> bool;

    /// Runs `f` under the allocator's lock, a spinlock. Process context; not held for long.
    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<Self::Slabs>) -> R) -> R;
    /// Runs `f` under the committer's lock. Metadata I/O waits under this lock. Process context.
    fn with_committer<R>(
        &self,
        f: impl FnOnce(&mut HostCommitter<Self>, &mut Self::Disk<'_>) -> R,
    ) -> R;
    /// Waits until there is memory for a map page of each kind. Process context, no lock held.
    fn wait_for_memory(&self) -> Result;

    /// Sends the rest of a read or a write down, or the first part of the rest. If one look-up has
    /// found the place of the whole rest, `whole` is that place. Otherwise the host plans it. When
    /// all lower I/O has ended, the host calls [`io::complete`]. `fua` makes each lower write
    /// durable when it ends, if [`Host::has_fua`]. If sending would have to wait, nothing is sent,
    /// and the error is the request.
    fn submit(&self, rq: Self::Request, whole: Option<Source>, fua: bool) -> Accepted<Self>;
    /// Returns whether a single write of the leaf can be made durable.
    fn has_fua(&self) -> bool;
    /// Returns whether the leaf has a volatile cache.
    fn has_cache(&self) -> bool;
    /// Makes the host call [`io::queue`] once more, soon. Any context.
    fn again(&self, rq: Self::Request);
    /// Ends a request. Any context.
    fn end(&self, rq: Self::Request, status: Self::Status);

    /// Adds a commit waiter. Any context.
    fn add_commit_waiter(&self, rq: Self::Request);
    /// Takes all commit waiters, the oldest first.
    fn take_commit_waiters(&self) -> impl Iterator<Item = Self::Request>;
    /// Adds a deferred request. Any context.
    fn add_deferred(&self, rq: Self::Request);
    /// Takes all deferred requests, the oldest first.
    fn take_deferred(&self) -> impl Iterator<Item = Self::Request>;
    /// Adds a discard or a zeroing. Any context.
    fn add_discard(&self, rq: Self::Request);
    /// Takes all discards and zeroings, the oldest first.
    fn take_discards(&self) -> impl Iterator<Item = Self::Request>;
    /// Adds a write that waits for memory of the map. Any context.
    fn add_starved(&self, rq: Self::Request);
    /// Takes all writes that wait for memory, the oldest first.
    fn take_starved(&self) -> impl Iterator<Item = Self::Request>;

    /// Schedules [`flush::commit_work`] to run soon. Any context.
    fn queue_commit(&self);
    /// Schedules [`flush::timer_work`] to run within a second. Any context.
    fn queue_timer(&self);
    /// Schedules [`flush::checkpoint_work`] to run soon. Any context.
    fn queue_checkpoint(&self);
    /// Schedules [`discard::reclaim_work`] to run soon. Any context.
    fn queue_reclaim(&self);
    /// Schedules [`discard::discard_work`] to run soon. Any context.
    fn queue_discard(&self);
    /// Schedules [`io::memory_work`] to run soon. Any context.
    fn queue_memory(&self);

    /// Issues a full memory barrier.
    fn barrier(&self);
    /// Returns whether `f`, called with `with`, holds for the word of a request that was started
    /// and has not ended.
    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool;
    /// Lets other tasks run that wait for the CPU. Process context, no lock held.
    fn give_way(&self);
    /// Sleeps before the `n`-th look at the requests in flight. Process context.
    fn pause(&self, n: u32);

    /// Zeroes sectors of the leaf and waits. Process context.
    fn zero(&self, sector: u64, sectors: u64) -> Result;
    /// Discards sectors of the leaf and waits, if the leaf supports discard. Process context.
    fn discard(&self, sector: u64, sectors: u64);

    /// Counts and reports an event. The context is the caller's.
    fn note(&self, event: Event);
    /// Publishes what the committer did, before [`Shared`] shows it. Under the committer's lock.
    fn note_step(&self, step: Step, committer: &HostCommitter<Self>, done: Result);
}

/// Returns whether all that was mapped before this call is durable. Any context.
pub fn is_committed<H: Host>(host: &H) -> bool {
    host.shared().durable() == host.map().changes()
}

/// Returns whether writes are refused, for either reason. Any context.
pub fn refuses_writes<H: Host>(host: &H) -> bool {
    host.is_attached_read_only() || host.shared().is_read_only()
}
