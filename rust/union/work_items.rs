// SPDX-License-Identifier: GPL-2.0

//! The work items of a union: what each runs, on which queue, and the requests that wait for it.
//! The protocol says when.

use super::{
    requests,
    Lists,
    Sends,
    Union, //
};
use crate::{
    blk::{
        ReqOp,
        Request,
        RequestList, //
    },
    ubcore::protocol::{
        discard,
        flush,
        io,
        Waiting,
        WorkId,
        WorkItems, //
    },
};
use kernel::{
    sync::{
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

/// The longest time from a change of the map until the timer starts to commit it, in ms.
const COMMIT_AFTER_MS: u32 = 1000;

/// The numbers by which [`WorkItem`] tells the work items of a union apart.
pub(super) const COMMIT: u64 = 1;
pub(super) const TIMER: u64 = 2;
pub(super) const CHECKPOINT: u64 = 3;
pub(super) const DISCARD: u64 = 4;
pub(super) const RECLAIM: u64 = 5;
pub(super) const READS: u64 = 6;
pub(super) const WRITES: u64 = 7;
pub(super) const MEMORY: u64 = 8;

impl_has_work! {
    impl HasWork<Self, COMMIT> for Union { self.commit }
    impl HasWork<Self, CHECKPOINT> for Union { self.checkpoint }
    impl HasWork<Self, DISCARD> for Union { self.discard }
    impl HasWork<Self, RECLAIM> for Union { self.reclaim }
    impl HasWork<Self, READS> for Union { self.reads }
    impl HasWork<Self, WRITES> for Union { self.writes }
    impl HasWork<Self, MEMORY> for Union { self.memory }
}
impl_has_delayed_work! {
    impl HasDelayedWork<Self, TIMER> for Union { self.timer }
}

/// The commit work, queued when requests wait for a commit.
impl WorkItem<COMMIT> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::commit_work(&this.as_arc_borrow());
    }
}

/// The commit timer.
impl WorkItem<TIMER> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::timer_work(&this.as_arc_borrow());
    }
}

/// The checkpoint work, queued when a checkpoint is due: see `Committer::wants_checkpoint`.
impl WorkItem<CHECKPOINT> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        flush::checkpoint_work(&this.as_arc_borrow());
    }
}

/// The discard work, queued for discards and zeroings.
impl WorkItem<DISCARD> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        discard::discard_work(&this.as_arc_borrow());
    }
}

/// The reclaim work, queued when unowned leaf slabs can be freed or requests were deferred. It
/// waits for requests in flight, and for discards and zeroing on the leaf, so it does not share a
/// queue with the commits.
impl WorkItem<RECLAIM> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        discard::reclaim_work(&this.as_arc_borrow());
    }
}

/// The send work for reads: submits those whose lower I/O may have to wait.
impl WorkItem<READS> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        requests::send_work(&this.as_arc_borrow(), &this.lists.reads);
    }
}

/// The send work for other requests.
impl WorkItem<WRITES> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        requests::send_work(&this.as_arc_borrow(), &this.lists.writes);
    }
}

/// The memory work, queued when requests wait for memory for the map.
impl WorkItem<MEMORY> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        io::memory_work(&this.as_arc_borrow());
    }
}

/// A work item that is queued already stays queued once.
impl WorkItems for ArcBorrow<'_, Union> {
    fn schedule(&self, work: WorkId) {
        let (this, queues) = (Arc::<Union>::from(*self), &self.resources);
        // Ignore the result, which says whether the work was queued already.
        let _ = match work {
            WorkId::Commit => queues.commits.enqueue::<_, COMMIT>(this),
            WorkId::Timer => {
                let after = msecs_to_jiffies(COMMIT_AFTER_MS);
                queues.timers.enqueue_delayed::<_, TIMER>(this, after)
            }
            WorkId::Checkpoint => queues.checkpoints.enqueue::<_, CHECKPOINT>(this),
            WorkId::Discard => queues.discards.enqueue::<_, DISCARD>(this),
            WorkId::Reclaim => queues.reclaims.enqueue::<_, RECLAIM>(this),
            WorkId::Memory => queues.memory.enqueue::<_, MEMORY>(this),
        };
    }

    fn add(&self, rq: Request<Union>, waiting: Waiting) {
        self.lists.of(waiting).push(rq);
    }

    fn take_waiting(&self, waiting: Waiting) -> impl Iterator<Item = Request<Union>> {
        self.lists.of(waiting).take_all()
    }
}

impl Lists {
    pub(super) fn sends(&self, op: ReqOp) -> &Sends {
        match op {
            ReqOp::Read => &self.reads,
            _ => &self.writes,
        }
    }

    fn of(&self, waiting: Waiting) -> &RequestList<Union> {
        match waiting {
            Waiting::Commit => &self.commit_waiters,
            Waiting::Discard => &self.discards,
            Waiting::Reclaim => &self.deferred,
            Waiting::Memory => &self.starved,
        }
    }
}

impl Union {
    /// Schedules the send work for requests like this one. Any context.
    pub(super) fn schedule_send(this: ArcBorrow<'_, Self>, op: ReqOp) {
        let (this, queues) = (Arc::<Union>::from(this), &this.resources);
        let _ = match op {
            ReqOp::Read => queues.reads.enqueue::<_, READS>(this),
            _ => queues.writes.enqueue::<_, WRITES>(this),
        };
    }
}
