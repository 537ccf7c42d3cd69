// SPDX-License-Identifier: GPL-2.0

//! The resources that all unions share: work queues, bios, and pages for maps.
//!
//! Without memory for more threads a work queue has one thread. So works that wait for each other
//! are on different queues. `Documentation/concurrency.rst` says for each work what it waits for.

use crate::{
    blk::bios::Bios,
    memory::Reserve,
    sys::workqueue::OwnedQueue, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The resources that all unions share.
pub(crate) struct Resources {
    /// Runs commits, and discards in the map. They wait only for the leaf.
    pub(crate) commits: OwnedQueue,
    /// Submits requests whose lower I/O may have to wait for root or leaf, so that a root that
    /// hangs does not block commits.
    pub(crate) sends: OwnedQueue,
    /// Runs reclaim, which waits for commits and for requests in flight.
    pub(crate) reclaims: OwnedQueue,
    /// Waits for memory for a map, and does nothing else.
    pub(crate) memory: OwnedQueue,
    /// Runs the commit timer and the checkpoint work, because no request waits for them. The system
    /// freezes this queue, because metadata written after a hibernation image was made would be
    /// newer than the map in the image.
    pub(crate) background: OwnedQueue,
    /// The bios of lower I/O.
    pub(crate) bios: Arc<Bios>,
    /// The pages for maps when the system has none.
    pub(crate) reserve: Arc<Reserve>,
}

impl Resources {
    /// Allocates all of them. Process context.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let resources = Resources {
            commits: OwnedQueue::new(c"unionblk")?,
            sends: OwnedQueue::new(c"unionblk_send")?,
            reclaims: OwnedQueue::new(c"unionblk_reclaim")?,
            memory: OwnedQueue::new(c"unionblk_memory")?,
            background: OwnedQueue::new_freezable(c"unionblk_idle")?,
            bios: Arc::new(Bios::new()?, GFP_KERNEL)?,
            reserve: Reserve::new()?,
        };
        Ok(Arc::new(resources, GFP_KERNEL)?)
    }
}
