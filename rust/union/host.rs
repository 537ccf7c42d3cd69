// SPDX-License-Identifier: GPL-2.0

//! The kernel side of the core's protocol: locks, lists, works and lower I/O.
//!
//! [`crate::ubcore::protocol`] defines the steps. This file implements the operations that the
//! steps use.

use super::{
    io,
    leaf_disk::{
        LeafDisk,
        Metadata,
        UnionCommitter, //
    },
    stats::Committed,
    Union, //
};
use crate::{
    blk::{
        Op,
        Request,
        Started,
        Status,
        Way, //
    },
    error::{
        errno,
        number, //
    },
    memory::MapMemory,
    sys::task,
    ubcore::{
        alloc::Allocator,
        error::{
            Error,
            Result,
            Side, //
        },
        format::directory::PageEntry,
        map::Map,
        plan::Source,
        protocol::{
            self,
            Accepted, //
            Event,
            Host,
            Shared,
            State,
            Step,
        },
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Full,
        barrier::smp_mb,
        ArcBorrow, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};

/// How long to wait before the requests in flight are checked again, in µs: first and maximum.
const PAUSE_FIRST: i64 = 100;
const PAUSE_MOST: i64 = 20_000;

impl protocol::Request for Request<Union> {
    fn op(&self) -> protocol::Op {
        match Started::op(self) {
            Op::Read => protocol::Op::Read,
            Op::Write => protocol::Op::Write,
            Op::Flush => protocol::Op::Flush,
            Op::Discard => protocol::Op::Discard,
            Op::WriteZeroes => protocol::Op::WriteZeroes,
            Op::Other(_) => protocol::Op::Other,
        }
    }

    fn sector(&self) -> u64 {
        Started::sector(self)
    }

    fn sectors(&self) -> u32 {
        Started::sectors(self)
    }

    fn is_fua(&self) -> bool {
        Started::is_fua(self)
    }

    fn fail_bios(&self, sector: u64, sectors: u32) -> bool {
        self.fail_bios(sector, sectors, Status::NOSPC)
    }

    fn next_bio(&self, sector: u64) -> Option<(u64, u32)> {
        self.next_bio(sector)
    }

    fn rest(&self) -> (u64, u32) {
        Started::rest(self)
    }

    fn part(&self) -> (u64, u32) {
        Started::part(self)
    }

    fn state(&self) -> State {
        State::from_word(self.cookie())
    }

    fn set_state(&self, state: State) {
        self.set_cookie(state.to_word());
    }

    fn publish_state(&self, state: State) {
        self.swap_cookie(state.to_word());
    }

    fn release_state(&self, state: State) {
        self.release_cookie(state.to_word());
    }
}

impl protocol::EndStatus for Status {
    const OK: Self = Status::OK;
    const UNSUPPORTED: Self = Status::NOTSUPP;
    const IO_ERROR: Self = Status::IOERR;

    fn is_ok(self) -> bool {
        self.is_ok()
    }

    fn is_no_space(self) -> bool {
        self == Status::NOSPC
    }
}

impl From<Error> for Status {
    fn from(e: Error) -> Self {
        match e {
            Error::Full => Status::NOSPC,
            e => errno(e).into(),
        }
    }
}

impl Host for ArcBorrow<'_, Union> {
    type Memory = MapMemory;
    type Slabs = KVVec<u64>;
    type PageSet = KVVec<u64>;
    type Entries = KVVec<PageEntry>;
    type Disk<'d> = LeafDisk<'d>;
    type Request = Request<Union>;
    type Status = Status;

    fn map(&self) -> &Map<MapMemory> {
        &self.map
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn is_attached_read_only(&self) -> bool {
        self.read_only_requested
    }

    fn reveals(&self) -> bool {
        self.leaf.reveal
    }

    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<KVVec<u64>>) -> R) -> R {
        f(&mut self.allocator.lock())
    }

    fn with_committer<R>(&self, f: impl FnOnce(&mut UnionCommitter, &mut LeafDisk<'_>) -> R) -> R {
        let mut guard = self.metadata.lock();
        let Metadata { committer, buffer } = &mut *guard;
        f(committer, &mut LeafDisk::new(&self.lower.leaf, buffer))
    }

    fn wait_for_memory(&self) -> Result {
        self.map.memory().wait()
    }

    #[inline]
    fn submit(&self, rq: Request<Union>, whole: Option<Source>, fua: bool) -> Accepted<Self> {
        io::send(rq, whole, fua)
    }

    fn has_fua(&self) -> bool {
        // For a bio, the block layer emulates FUA if the device lacks it.
        self.lower.way == Way::Bios || self.lower.leaf.has_fua()
    }

    fn has_cache(&self) -> bool {
        self.lower.leaf.has_cache()
    }

    fn again(&self, rq: Request<Union>) {
        rq.again();
    }

    fn end(&self, rq: Request<Union>, status: Status) {
        rq.end(status);
    }

    fn add_commit_waiter(&self, rq: Request<Union>) {
        self.lists.commit_waiters.push(rq);
    }

    fn take_commit_waiters(&self) -> impl Iterator<Item = Request<Union>> {
        self.lists.commit_waiters.take_all()
    }

    fn add_deferred(&self, rq: Request<Union>) {
        self.lists.deferred.push(rq);
    }

    fn take_deferred(&self) -> impl Iterator<Item = Request<Union>> {
        self.lists.deferred.take_all()
    }

    fn add_discard(&self, rq: Request<Union>) {
        self.lists.discards.push(rq);
    }

    fn take_discards(&self) -> impl Iterator<Item = Request<Union>> {
        self.lists.discards.take_all()
    }

    fn add_starved(&self, rq: Request<Union>) {
        self.lists.starved.push(rq);
    }

    fn take_starved(&self) -> impl Iterator<Item = Request<Union>> {
        self.lists.starved.take_all()
    }

    fn queue_commit(&self) {
        Union::queue_commit(*self);
    }

    fn queue_timer(&self) {
        Union::queue_timer(*self);
    }

    fn queue_checkpoint(&self) {
        Union::queue_checkpoint(*self);
    }

    fn queue_reclaim(&self) {
        Union::queue_reclaim(*self);
    }

    fn queue_discard(&self) {
        Union::queue_discard(*self);
    }

    fn queue_memory(&self) {
        Union::queue_memory(*self);
    }

    fn barrier(&self) {
        smp_mb(Full);
    }

    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool {
        self.tags.any(f, with)
    }

    fn give_way(&self) {
        // Ignore the result, because a worker never has a fatal signal pending.
        let _ = task::give_way();
    }

    fn pause(&self, n: u32) {
        let pause = PAUSE_FIRST.checked_shl(n.min(16)).unwrap_or(PAUSE_MOST);
        fsleep(Delta::from_micros(pause.min(PAUSE_MOST)));
    }

    fn zero(&self, sector: u64, sectors: u64) -> Result {
        self.lower
            .leaf
            .zero(sector, sectors, self.leaf.keep)
            .map_err(|e| {
                // The storage below the leaf is full, which is not an I/O error of the leaf.
                if e == ENOSPC {
                    Error::Os(number(e))
                } else {
                    Error::Io(Side::Leaf, sector)
                }
            })
    }

    fn discard(&self, sector: u64, sectors: u64) {
        if !self.leaf.keep {
            // A discard is a hint. If it fails, the slabs are free even so.
            let _ = self.lower.leaf.discard(sector, sectors);
        }
    }

    fn note(&self, event: Event) {
        match event {
            Event::FirstWrite(sector, sectors) => {
                self.stats.first_write();
                self.events.first_write(sector, sectors);
            }
            Event::IoError => self.stats.io_error(),
            Event::Full => self.events.full(),
            Event::Space(used, slabs) => self.events.space(used, slabs),
            Event::Freed(sector, sectors) => self.events.released(sector, sectors),
            Event::ReadOnly(e) => self.turned_read_only(e),
        }
    }

    fn note_step(&self, step: Step, committer: &UnionCommitter, done: Result) {
        let changes = committer.committed().wrapping_sub(self.shared.durable());
        // Trace before publishing, so that a reader who sees the counters finds the event in the
        // trace.
        let after = Committed::of(committer);
        self.events
            .step_ended(step, &self.stats.committed(), &after, changes, done);
        self.stats.publish(&after);
    }
}
