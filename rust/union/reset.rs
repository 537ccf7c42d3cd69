// SPDX-License-Identifier: GPL-2.0

//! Reset: makes the leaf of a union forget all its changes, and keeps the disk.
//!
//! A map in memory cannot be emptied. So a reset makes a second [`Union`] on the same devices with
//! an empty map, and puts it in the place of the first, as a freeze does.

use super::{
    attach::{
        self as union_attach,
        LoadedLeaf, //
    },
    detach::{
        flush_reclaim,
        stop_work, //
    },
    leaf_memory::empty_leaf,
    loss::Loss,
    metadata_disk::MetadataDisk,
    Attached,
    LeafProperties,
    LowerDevices,
    Union, //
};
use crate::{
    blk::ClosedDisk,
    resources::Resources,
    ubcore::{
        error::{
            Error,
            Result, //
        },
        protocol::{
            flush,
            refuses_writes, //
        }, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Attached {
    /// Keeps the disk closed until the result is dropped. Fails with `EBUSY` if it is open.
    pub(crate) fn keep_closed(&self) -> kernel::error::Result<ClosedDisk<'_, Union>> {
        self.disk.keep_closed()
    }

    /// Makes the leaf forget all its changes. If the call fails, the union is as it was, or
    /// read-only if the leaf failed. `closed` keeps the disk closed meanwhile.
    ///
    /// Process context. One call at a time.
    pub(crate) fn reset(
        &self,
        mut closed: ClosedDisk<'_, Union>,
        resources: &Arc<Resources>,
    ) -> Result {
        let old = self.union();
        if refuses_writes(&old.as_arc_borrow()) {
            return Err(Error::ReadOnlyUnion);
        }
        let lower = old.lower.shared()?;
        let replaced = self
            .disk
            .replace_queue_data(|| switch(&old, lower, resources), Error::RequestsInFlight);
        if replaced.is_err() {
            // `switch` may have cancelled the timer, as in a freeze.
            flush::timer_work(&old.as_arc_borrow());
        }
        let replaced = replaced?;
        // Until `replace_queue_data` had waited, threads that ended a request could queue work of
        // the old union.
        stop_work(&old);
        // The partitions are now those of what lies below the leaf.
        closed.scan_partitions();
        drop(closed);
        let union = self.union();
        pr_info!(
            "{}: leaf {} was reset, {} slabs are free again\n",
            union.name,
            union.lower.leaf,
            old.allocator.lock().used(),
        );
        let allocator = union.allocator.lock();
        union.events.space(allocator.used(), allocator.limit());
        drop(allocator);
        union.events.reset();
        drop((replaced, old));
        Ok(())
    }
}

/// Stops the work of the old union, and makes its leaf empty. Returns the union that continues. The
/// leaf changes only in the last step, so after an error before that step the old union continues.
///
/// Context: no request is in flight, and new ones wait.
#[inline(never)]
fn switch(old: &Arc<Union>, lower: LowerDevices, resources: &Arc<Resources>) -> Result<Arc<Union>> {
    stop_work(old);
    let loaded = empty(old, resources)?;
    let new = union_attach::union_in_place_of(old, lower, loaded, resources)?;
    flush::reset(&old.as_arc_borrow())?;
    // A thread that queued a request may have queued reclaim since. From now on no reclaim begins,
    // and one that has begun must not discard what the new union writes.
    flush_reclaim(old);
    Ok(new.into())
}

/// Returns the metadata of the leaf as it is after the reset.
#[inline(never)]
fn empty(old: &Union, resources: &Resources) -> Result<LoadedLeaf> {
    let filled = empty_leaf(&old.metadata.lock().committer, &resources.reserve)?;
    let buffer = MetadataDisk::new_buffer()?;
    Ok(LoadedLeaf {
        leaf: LeafProperties {
            uuid: old.leaf.uuid,
            name: old.leaf.name,
            preallocated: old.leaf.preallocated,
        },
        filled,
        buffer,
        loss: Loss::none(),
    })
}

impl LowerDevices {
    /// Returns the same open devices once more.
    fn shared(&self) -> Result<Self> {
        Ok(LowerDevices {
            root: self.root.as_ref().map(|root| root.share()),
            leaf: self.leaf.share(),
            stack: self.stack.as_ref().map(|stack| stack.again()).transpose()?,
            send_as: self.send_as,
            paths: self.paths.copied()?,
        })
    }
}
