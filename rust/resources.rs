// SPDX-License-Identifier: GPL-2.0

//! The resources that all unions share: work queues, bios, and pages for maps.
//!
//! If there is no memory for more threads, a work queue has one thread, its rescuer. So work items
//! that wait for each other are on different queues. `Documentation/concurrency.rst` says for each
//! what it waits for.
//!
//! Each queue has one work item of each union. So on a machine with one NUMA node, unions whose
//! devices hang do not fill a queue: see [`UNIONS_MAX`].

use crate::{
    blk::{
        bio_set::BioSet,
        Claims, //
    },
    memory::Reserve,
    sys::workqueue::OwnedQueue,
    union::Stacks, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The maximum number of unions at a time: the number of work items that a work queue runs.
pub(crate) const UNIONS_MAX: usize = OwnedQueue::LIMIT;

/// The resources that all unions share.
pub(crate) struct Resources {
    /// Runs commits. They wait only for the leaf.
    pub(crate) commits: OwnedQueue,
    /// Runs discards and zeroings in the map. They wait for commits and checkpoints.
    pub(crate) discards: OwnedQueue,
    /// Submits reads that may have to wait for a lower device, so that a root or a layer that hangs
    /// does not block commits and writes.
    pub(crate) reads: OwnedQueue,
    /// Submits other requests that may have to wait for the leaf.
    pub(crate) writes: OwnedQueue,
    /// Runs reclaim, which waits for commits and for requests in flight.
    pub(crate) reclaims: OwnedQueue,
    /// Waits for memory for a map, and does nothing else.
    pub(crate) memory: OwnedQueue,
    /// Runs the commit timer. No request waits for it. The system freezes this queue, because
    /// metadata written after a hibernation image was made would be newer than the map in the
    /// image.
    pub(crate) timers: OwnedQueue,
    /// Runs the checkpoint work. No request waits for it, and the system freezes this queue too.
    pub(crate) checkpoints: OwnedQueue,
    /// The bios of lower I/O.
    pub(crate) bios: Arc<BioSet>,
    /// The pages for maps when the system has none.
    pub(crate) reserve: Arc<Reserve>,
    /// The claims on lower devices.
    pub(crate) claims: Arc<Claims>,
    /// The stacks of layers.
    pub(crate) stacks: Arc<Stacks>,
}

impl Resources {
    /// Allocates all of them. Process context.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let resources = Resources {
            commits: OwnedQueue::new(c"unionblk_commit")?,
            discards: OwnedQueue::new(c"unionblk_discard")?,
            reads: OwnedQueue::new(c"unionblk_read")?,
            writes: OwnedQueue::new(c"unionblk_write")?,
            reclaims: OwnedQueue::new(c"unionblk_reclaim")?,
            memory: OwnedQueue::new(c"unionblk_memory")?,
            timers: OwnedQueue::new_freezable(c"unionblk_timer")?,
            checkpoints: OwnedQueue::new_freezable(c"unionblk_checkpoint")?,
            bios: Arc::new(BioSet::new()?, GFP_KERNEL)?,
            reserve: Reserve::new()?,
            claims: Claims::new()?,
            stacks: Stacks::new()?,
        };
        Ok(Arc::new(resources, GFP_KERNEL)?)
    }
}
