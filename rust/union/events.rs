// SPDX-License-Identifier: GPL-2.0

//! The events of a union: uevents for monitoring, trace events for analysis.
//!
//! Sending a uevent allocates memory, and memory reclaim may have to write to this very union. For
//! this reason neither the I/O path nor the commit work sends uevents. They only mark an event as
//! due, and a separate work item on the system's queue sends it.

use super::stats::CommitterCounters;
use crate::{
    blk::GenDiskRef,
    error::errno,
    sys::{
        atomic::{
            AtomicBool,
            Ordering::{
                Acquire,
                Relaxed,
                Release,
                SeqCst, //
            }, //
        },
        workqueue, //
    },
    ubcore::{
        error::Result,
        protocol::CommitterStep, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

/// Space is low if fewer than 1/`LOW` of the slabs that may be in use are left.
const LOW: u64 = 10;
/// Space is sufficient again if more than 1/`ENOUGH` of the slabs that may be in use are left.
const ENOUGH: u64 = 8;

/// The percentages of the slabs that may be in use at which an event is sent.
const USED_THRESHOLDS: [u64; 2] = [80, 95];
/// How far the use must fall below a threshold, in per cent, before its event is sent again.
const USED_HYSTERESIS: u64 = 5;

/// A uevent. The code that detects it sets `due`, in any context; the work clears it.
struct DueUevent {
    due: AtomicBool,
    text: &'static CStr,
}

impl DueUevent {
    const fn new(text: &'static CStr) -> Self {
        DueUevent {
            due: AtomicBool::new(false),
            text,
        }
    }
}

/// The events of one union.
#[pin_data]
pub(super) struct Events {
    disk: SetOnce<GenDiskRef>,
    /// The disk is about to be removed, so the work sends no more uevents.
    closed: AtomicBool,
    low_space: DueUevent,
    full: DueUevent,
    read_only: DueUevent,
    frozen: DueUevent,
    reset: DueUevent,
    /// For each of [`USED_THRESHOLDS`]: the uevent, and whether it was reported. The latter is
    /// accessed under the allocator's lock.
    used: [DueUevent; 2],
    is_used: [AtomicBool; 2],
    /// `low_space` or `full` was reported. Each is reported again only after space was sufficient.
    /// `is_low` is accessed under the allocator's lock.
    is_low: AtomicBool,
    is_full: AtomicBool,
    #[pin]
    work: Work<Events>,
}

impl_has_work! {
    impl HasWork<Self> for Events { self.work }
}

impl WorkItem for Events {
    type Pointer = Arc<Events>;

    fn run(this: Arc<Events>) {
        let Some(disk) = this.disk.as_ref() else {
            // `set_disk` queues the work again.
            return;
        };
        let events = [
            &this.low_space,
            &this.full,
            &this.read_only,
            &this.frozen,
            &this.reset,
            &this.used[0],
            &this.used[1],
        ];
        for event in events {
            if !event.due.swap(false, SeqCst) || this.closed.load(Acquire) {
                continue;
            }
            if core::ptr::eq(event, &this.read_only) {
                disk.set_read_only(true);
            }
            disk.event(event.text);
        }
    }
}

impl Events {
    pub(super) fn new() -> kernel::error::Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                disk: SetOnce::new(),
                closed: AtomicBool::new(false),
                low_space: DueUevent::new(c"UNIONBLK_EVENT=low_space"),
                full: DueUevent::new(c"UNIONBLK_EVENT=full"),
                read_only: DueUevent::new(c"UNIONBLK_EVENT=read_only"),
                frozen: DueUevent::new(c"UNIONBLK_EVENT=frozen"),
                reset: DueUevent::new(c"UNIONBLK_EVENT=reset"),
                used: [
                    DueUevent::new(c"UNIONBLK_EVENT=used_80"),
                    DueUevent::new(c"UNIONBLK_EVENT=used_95"),
                ],
                is_used: [const { AtomicBool::new(false) }; 2],
                is_low: AtomicBool::new(false),
                is_full: AtomicBool::new(false),
                work <- new_work!("unionblk events"),
            }),
            GFP_KERNEL,
        )
    }

    /// Sets the disk, and sends the uevents that are already due.
    pub(super) fn set_disk(self: &Arc<Self>, disk: GenDiskRef) {
        self.disk.populate(disk);
        let _ = workqueue::system().enqueue(self.clone());
    }

    /// Returns the disk, once [`Events::set_disk`] has set it.
    pub(super) fn disk(&self) -> Option<&GenDiskRef> {
        self.disk.as_ref()
    }

    /// Sends the uevents that are due, and stops all later ones, because the disk is about to be
    /// removed. Process context, waits.
    pub(super) fn close(self: &Arc<Self>) {
        workqueue::flush_work(self);
        self.closed.store(true, Release);
        workqueue::flush_work(self);
    }

    /// Waits until the work has run for the last time. Process context.
    ///
    /// The caller must have called [`Events::close`] and must have stopped every thread that
    /// reports events.
    pub(super) fn end(self: &Arc<Self>) {
        workqueue::flush_work(self);
    }

    fn send(self: &Arc<Self>, event: &DueUevent) {
        event.due.store(true, Release);
        let _ = workqueue::system().enqueue(self.clone());
    }

    /// Reports that the map could not be committed. Once for a union; any context.
    pub(super) fn read_only(self: &Arc<Self>) {
        self.send(&self.read_only);
    }

    /// Reports that the union continues in a new leaf. Process context.
    pub(super) fn frozen(self: &Arc<Self>) {
        self.send(&self.frozen);
    }

    /// Reports that the leaf is empty again. Process context.
    pub(super) fn reset(self: &Arc<Self>) {
        self.send(&self.reset);
    }

    /// Reports that a request found too few free slabs. Any context.
    #[cold]
    pub(super) fn full(self: &Arc<Self>) {
        if !self.is_full.load(Relaxed) && !self.is_full.swap(true, Relaxed) {
            self.send(&self.full);
        }
    }

    /// Updates the space state after slabs were allocated or freed, or the limit has changed.
    /// `slabs` is how many may be in use. Under the allocator's lock.
    pub(super) fn space(self: &Arc<Self>, used: u32, slabs: u32) {
        self.used_up_to(used.into(), slabs.into());
        let free = u64::from(slabs.saturating_sub(used));
        let slabs = u64::from(slabs);
        if free.saturating_mul(LOW) < slabs {
            if !self.is_low.load(Relaxed) {
                self.is_low.store(true, Relaxed);
                self.send(&self.low_space);
            }
        } else if free.saturating_mul(ENOUGH) > slabs {
            // A large request may have found too few slabs although space was not low.
            for reported in [&self.is_low, &self.is_full] {
                if reported.load(Relaxed) {
                    reported.store(false, Relaxed);
                }
            }
        }
    }

    /// Sends the event of each threshold that the use has reached. Under the allocator's lock.
    fn used_up_to(self: &Arc<Self>, used: u64, slabs: u64) {
        let hundredths = used.saturating_mul(100);
        let events = self.used.iter().zip(&self.is_used);
        for (threshold, (event, is_used)) in USED_THRESHOLDS.iter().zip(events) {
            let again = threshold.saturating_sub(USED_HYSTERESIS);
            let reported = is_used.load(Relaxed);
            if hundredths >= slabs.saturating_mul(*threshold) {
                if !reported {
                    is_used.store(true, Relaxed);
                    self.send(event);
                }
            } else if reported && hundredths < slabs.saturating_mul(again) {
                is_used.store(false, Relaxed);
            }
        }
    }

    /// Traces a write that has made a mapping. Any context.
    pub(super) fn first_write(&self, sector: u64, sectors: u32) {
        if let Some(disk) = self.disk() {
            disk.trace_first_write(sector, sectors);
        }
    }

    /// Traces that sectors of the leaf are free. Under the allocator's lock.
    pub(super) fn freed(&self, sector: u64, sectors: u64) {
        if let Some(disk) = self.disk() {
            disk.trace_free(sector, sectors);
        }
    }

    /// Traces a commit or a checkpoint that has ended.
    ///
    /// `before` and `after` are the committer's counters, `changes` is the number of map changes
    /// that became durable. A commit that became a checkpoint is traced as both. A reset and a
    /// change of the limit are neither.
    pub(super) fn step_ended(
        &self,
        step: CommitterStep,
        before: &CommitterCounters,
        after: &CommitterCounters,
        changes: u64,
        done: Result,
    ) {
        let Some(disk) = self.disk() else {
            return;
        };
        if matches!(step, CommitterStep::Reset | CommitterStep::Limit) {
            return;
        }
        let error = done.err().map_or(0, |e| errno(e).to_errno());
        let blocks = after.journal_written.saturating_sub(before.journal_written);
        let freed = before.journal_used.saturating_sub(after.journal_used);
        let checkpoint = step == CommitterStep::Checkpoint;
        if checkpoint && error != 0 || after.checkpoints != before.checkpoints {
            disk.trace_checkpoint(freed.into(), error);
        }
        if !checkpoint && (error != 0 || changes != 0 || blocks != 0) {
            disk.trace_commit(blocks, changes, error);
        }
    }
}
