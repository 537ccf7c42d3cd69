// SPDX-License-Identifier: GPL-2.0

//! The works of a union: what each runs, and on which queue. The protocol says when.

use super::{
    io,
    Union, //
};
use crate::ubcore::protocol::{
    discard,
    flush,
    io as protocol_io, //
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

/// The works of a union, by which [`WorkItem`] tells them apart.
pub(super) const COMMIT: u64 = 1;
pub(super) const TIMER: u64 = 2;
pub(super) const CHECKPOINT: u64 = 3;
pub(super) const DISCARD: u64 = 4;
pub(super) const RECLAIM: u64 = 5;
pub(super) const SEND: u64 = 6;
pub(super) const MEMORY: u64 = 7;

impl_has_work! {
    impl HasWork<Self, COMMIT> for Union { self.commit }
    impl HasWork<Self, CHECKPOINT> for Union { self.checkpoint }
    impl HasWork<Self, DISCARD> for Union { self.discard }
    impl HasWork<Self, RECLAIM> for Union { self.reclaim }
    impl HasWork<Self, SEND> for Union { self.send }
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

/// The reclaim work, queued when emptied slabs can be freed or requests were deferred. It waits for
/// requests in flight and for discards of the leaf, so it does not share a queue with the commits.
impl WorkItem<RECLAIM> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        discard::reclaim_work(&this.as_arc_borrow());
    }
}

/// The send work: submits requests whose lower I/O may have to wait.
impl WorkItem<SEND> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        io::send_work(this.as_arc_borrow());
    }
}

/// The memory work, queued when requests wait for memory for the map.
impl WorkItem<MEMORY> for Union {
    type Pointer = Arc<Union>;

    fn run(this: Arc<Union>) {
        protocol_io::memory_work(&this.as_arc_borrow());
    }
}

/// These queue a work that is not queued yet. Any context.
impl Union {
    pub(super) fn queue_commit(this: ArcBorrow<'_, Self>) {
        let _ = this.resources.commits.enqueue::<_, COMMIT>(Arc::from(this));
    }

    pub(super) fn queue_timer(this: ArcBorrow<'_, Self>) {
        let after = msecs_to_jiffies(COMMIT_AFTER_MS);
        let queue = &this.resources.background;
        let _ = queue.enqueue_delayed::<_, TIMER>(Arc::from(this), after);
    }

    pub(super) fn queue_checkpoint(this: ArcBorrow<'_, Self>) {
        let queue = &this.resources.background;
        let _ = queue.enqueue::<_, CHECKPOINT>(Arc::from(this));
    }

    pub(super) fn queue_discard(this: ArcBorrow<'_, Self>) {
        let queue = &this.resources.commits;
        let _ = queue.enqueue::<_, DISCARD>(Arc::from(this));
    }

    pub(super) fn queue_reclaim(this: ArcBorrow<'_, Self>) {
        let queue = &this.resources.reclaims;
        let _ = queue.enqueue::<_, RECLAIM>(Arc::from(this));
    }

    pub(super) fn queue_send(this: ArcBorrow<'_, Self>) {
        let _ = this.resources.sends.enqueue::<_, SEND>(Arc::from(this));
    }

    pub(super) fn queue_memory(this: ArcBorrow<'_, Self>) {
        let _ = this.resources.memory.enqueue::<_, MEMORY>(Arc::from(this));
    }
}
