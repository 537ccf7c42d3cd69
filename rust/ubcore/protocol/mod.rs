// SPDX-License-Identifier: GPL-2.0

//! How requests, commits and reclaim work together.
//!
//! These are the steps that the driver takes between its locks, as core code over [`Host`]: the
//! module runs them over blk-mq and work queues, and the models of races run the same lines over a
//! scheduler that chooses every interleaving. [`io`] has reads and writes, [`flush`] has FLUSH, the
//! commit waiters, the commit timer and the turn to read-only, [`discard`] has discards, zeroing,
//! deferred requests and reclaim, [`epoch`] tells reclaim which requests may still use an old home.
//!
//! Lock order: the committer's lock, then the allocator's.

pub mod discard;
pub mod epoch;
pub mod flush;
pub mod io;

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
    /// Make all that completed before durable. Carries no sectors.
    Flush,
    /// The content is not needed any more.
    Discard,
    /// Zero the sectors.
    WriteZeroes,
    /// An operation that the driver did not announce.
    Other,
}

/// A request that the protocol owns. Dropping it without [`Host::end`] is a fault.
pub trait Request {
    /// What it asks for.
    fn op(&self) -> Op;
    /// Its first sector; 0 for a flush.
    fn sector(&self) -> u64;
    /// Its length in sectors; 0 for a flush.
    fn sectors(&self) -> u32;
    /// The sectors that no lower I/O was sent for yet: first and count.
    fn rest(&self) -> (u64, u32);
    /// The sectors that the last [`Host::submit`] has sent: first and count.
    fn part(&self) -> (u64, u32);
    /// Whether the write must be durable when it ends.
    fn is_fua(&self) -> bool;
    /// The word that stays with the request, 0 at first: [`epoch`] and [`io`] say what is in it.
    fn word(&self) -> u64;
    /// Sets the word.
    fn set_word(&self, word: u64);
    /// Sets the word; a full barrier follows.
    fn publish_word(&self, word: u64);
    /// Sets the word, so that who finds it by [`Host::any_in_flight`] sees all that was done before.
    fn release_word(&self, word: u64);
}

/// How lower I/O ended.
pub trait Status: Copy + From<Error> {
    /// It worked.
    const OK: Self;
    /// The operation is not supported.
    const UNSUPPORTED: Self;
    /// The union takes no such request any more.
    const IO_ERROR: Self;
    /// Whether it worked.
    fn is_ok(self) -> bool;
    /// Whether the device below has no space left.
    fn is_no_space(self) -> bool;
}

/// What a host counts and reports.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A write made a mapping: first sector, sectors.
    FirstWrite(u64, u32),
    /// Lower I/O of a request failed.
    IoError,
    /// A write found no free slab.
    Full,
    /// Slabs in use changed: used, all. Under the allocator's lock.
    Space(u32, u32),
    /// Leaf sectors were freed: first sector, sectors.
    Freed(u64, u64),
    /// The union turned read-only because of this error. Once.
    ReadOnly(Error),
}

/// What the committer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A commit, which becomes a checkpoint if the ring is full.
    Commit,
    /// A checkpoint.
    Checkpoint,
}

/// What all requests and works of a union share, besides its map.
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
    /// For a map of which `durable` changes are durable.
    pub const fn new(durable: u64) -> Self {
        Shared {
            durable: AtomicU64::new(durable),
            timer: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            checkpoint_due: AtomicBool::new(false),
        }
    }

    /// The map's count of changes that is durable. Any context.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Whether the map cannot be committed any more. Any context.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }
}

/// Whether a request was taken, or is the caller's still.
pub type Taken<H> = core::result::Result<(), <H as Host>::Request>;

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
    type Status: Status;

    /// The map.
    fn map(&self) -> &Map<Self::Memory>;
    /// What requests and works share.
    fn shared(&self) -> &Shared;
    /// Whether the union was attached read-only.
    fn is_attached_read_only(&self) -> bool;
    /// Whether a discarded slab shows the root again.
    fn reveals(&self) -> bool;

    /// Runs `f` under the allocator's lock, a spinlock. Process context; not held for long.
    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<Self::Slabs>) -> R) -> R;
    /// Runs `f` under the committer's lock, in which metadata I/O waits. Process context.
    fn with_committer<R>(
        &self,
        f: impl FnOnce(&mut HostCommitter<Self>, &mut Self::Disk<'_>) -> R,
    ) -> R;
    /// Waits until there is memory for a map page of each kind. Process context, no lock held.
    fn wait_for_memory(&self) -> Result;

    /// Sends what is left of a read or a write down, or the first part of it: to `whole`, if one look
    /// has found the place of all of it, else as it is planned. When all lower I/O has ended, the host
    /// calls [`io::complete`]. `fua` makes each lower write durable
    /// when it ends, if [`Host::has_fua`]. The error is the request, of which nothing was sent: that
    /// would have to wait.
    fn submit(&self, rq: Self::Request, whole: Option<Source>, fua: bool) -> Taken<Self>;
    /// Whether a single write of the leaf can be made durable.
    fn has_fua(&self) -> bool;
    /// Whether the leaf has a volatile cache.
    fn has_cache(&self) -> bool;
    /// Has the host call [`io::queue`] once more, soon. Any context.
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

    /// Has [`flush::commit_work`] run soon. Any context.
    fn queue_commit(&self);
    /// Has [`flush::timer_work`] run within a second. Any context.
    fn queue_timer(&self);
    /// Has [`flush::checkpoint_work`] run soon. Any context.
    fn queue_checkpoint(&self);
    /// Has [`discard::reclaim_work`] run soon. Any context.
    fn queue_reclaim(&self);
    /// Has [`discard::discard_work`] run soon. Any context.
    fn queue_discard(&self);
    /// Has [`io::memory_work`] run soon. Any context.
    fn queue_memory(&self);

    /// A full memory barrier.
    fn barrier(&self);
    /// Whether `f`, with `with`, holds for the word of a request that was started and has not ended.
    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool;
    /// Lets tasks run that wait for the CPU. Process context, no lock held.
    fn give_way(&self);
    /// Sleeps before the `n`-th look at the requests in flight. Process context.
    fn pause(&self, n: u32);

    /// Zeroes sectors of the leaf and waits. Process context.
    fn zero(&self, sector: u64, sectors: u64) -> Result;
    /// Discards sectors of the leaf and waits, if the leaf knows discard. Process context.
    fn discard(&self, sector: u64, sectors: u64);

    /// Counts and reports. The context is the caller's.
    fn note(&self, event: Event);
    /// Publishes what the committer did: before [`Shared`] says so. Under the committer's lock.
    fn note_step(&self, step: Step, committer: &HostCommitter<Self>, done: Result);
}

/// Whether all that was mapped before this call is durable. Any context.
pub fn is_clean<H: Host>(host: &H) -> bool {
    host.shared().durable() == host.map().changes()
}

/// Whether writes are refused, for either reason. Any context.
pub fn refuses_writes<H: Host>(host: &H) -> bool {
    host.is_attached_read_only() || host.shared().is_read_only()
}
