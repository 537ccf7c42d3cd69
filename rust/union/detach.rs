// SPDX-License-Identifier: GPL-2.0

//! Detach: ends a union.

use super::{
    work_items,
    Attached,
    Union, //
};
use crate::{
    sys::{
        bug::warn_on_once,
        workqueue, //
    },
    ubcore::{
        error::Result,
        protocol::flush, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Attached {
    /// Detaches the union and commits its dirty mappings. Process context.
    ///
    /// The caller must have the only reference, and must have called [`Attached::forbid_open`], so
    /// that no one has the disk open. ([`Attached::new`] ends a union without that call if it fails
    /// after it has added the disk. A process that has the disk open then finds its queue dead.)
    pub(crate) fn detach(this: Arc<Self>) -> Result {
        let union = this.union();
        let done = end(&union, this);
        close(union);
        done
    }
}

/// Drops the last reference to a union, whose devices are closed when this returns.
pub(super) fn close(union: Arc<Union>) {
    // If there is another reference, the devices stay open.
    warn_on_once!(Arc::into_unique_or_drop(union).is_none());
}

/// Ends a union. `disk` is the only reference to its disk.
pub(super) fn end<D>(union: &Arc<Union>, disk: D) -> Result {
    union.events.close();
    // After this no request is in flight, and none arrives.
    drop(disk);
    stop_work(union);
    let done = flush::detach(&union.as_arc_borrow());
    union.events.end();
    match done {
        Ok(()) => pr_info!("{}: detached from leaf {}\n", union.name, union.lower.leaf),
        Err(e) => pr_err!(
            "{}: the last commit to leaf {} failed ({}): {}\n",
            union.name,
            union.lower.leaf,
            core::format_args!("{e}"),
            union.leaf_content(),
        ),
    }
    done
}

/// Waits for the discards and the reclaim that are under way. Requests may run, and cause more.
pub(super) fn flush_reclaim(union: &Arc<Union>) {
    workqueue::flush_work::<_, { work_items::DISCARD }>(union);
    workqueue::flush_work::<_, { work_items::RECLAIM }>(union);
}

/// Waits for all work items. No request is in flight, and none arrives meanwhile.
pub(super) fn stop_work(union: &Arc<Union>) {
    // The work items timer, commit and discard can queue reclaim and checkpoint. Reclaim can queue
    // checkpoint. So wait for them in this order. All other work, and the timer, is queued only for
    // a request. A work item that has put a request on a list queues the work for it after that,
    // perhaps when the request has already ended. So a second pass waits for what work items queued
    // that ran in the first pass. Its lists are empty.
    workqueue::cancel_delayed_work_sync::<_, { work_items::TIMER }>(union);
    for _ in 0..2 {
        workqueue::flush_work::<_, { work_items::COMMIT }>(union);
        workqueue::flush_work::<_, { work_items::DISCARD }>(union);
        workqueue::flush_work::<_, { work_items::RECLAIM }>(union);
        workqueue::flush_work::<_, { work_items::READS }>(union);
        workqueue::flush_work::<_, { work_items::WRITES }>(union);
        workqueue::flush_work::<_, { work_items::CHECKPOINT }>(union);
        workqueue::flush_work::<_, { work_items::MEMORY }>(union);
    }
}
