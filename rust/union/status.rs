// SPDX-License-Identifier: GPL-2.0

//! The answers of the ioctls about a union.

use super::{
    Attached,
    Union, //
};
use crate::ubcore::{
    abi,
    protocol::WriteMode, //
};
use kernel::sync::Arc;

impl Attached {
    /// Fills in the answer of the STATUS ioctl. Waits for no I/O.
    ///
    /// Returns the union. If a freeze replaces it meanwhile, or a detach ends it, this may be the
    /// last reference, and dropping it waits for devices.
    pub(crate) fn fill_status(&self, c: &mut abi::Status) -> Arc<Union> {
        let (disk, union) = (&self.disk, self.union());
        let g = union.geometry();
        (c.major, c.minor) = disk.dev();
        c.id = union.name.0;
        c.flags = 0;
        c.mode = union.mode();
        c.openers = disk.openers();
        c.queues = disk.queues();
        c.root = union.lower.paths.root;
        c.leaf = union.lower.paths.leaf;
        c.uuid = union.leaf.uuid;
        c.sectors = g.union_sectors();
        c.root_sectors = g.root_sectors();
        c.leaf_sectors = g.leaf_sectors();
        c.slab_sectors = g.slab_sectors();
        c.slabs = g.leaf_slabs();
        c.slabs_used = union.allocator.lock().used();
        c.journal_blocks = g.journal_blocks();
        c.dirty = u32::from(!union.is_committed());
        c.first_writes = union.stats.first_writes();
        c.io_errors = union.stats.io_errors();
        if let Some(stack) = &union.lower.stack {
            c.layers = union.layer_count();
            c.stack_unions = stack.unions();
            c.stack_bytes = stack.bytes();
        }
        c.map_bytes = union.map.memory().bytes();
        c.discard = union.discard_policy();
        c.name = union.leaf.name.field();
        let totals = union.loss.totals();
        c.damaged_blocks = totals.blocks;
        c.lost_sectors = totals.sectors;
        c.last_error = union.failure.as_ref().map_or(0, |e| e.to_wire().0);
        c.journal_used = union.stats.journal_used();
        c.commits = union.stats.commits();
        c.checkpoints = union.stats.checkpoints();
        c.journal_written = union.stats.journal_written();
        union
    }

    /// Fills in the answer of the LOST ioctl. Returns what [`Attached::fill_status`] does.
    pub(crate) fn fill_lost(&self, c: &mut abi::LostCall) -> Arc<Union> {
        let union = self.union();
        union.loss.fill(c);
        union
    }
}

impl Union {
    /// Returns the mode's number in the ABI. Any context.
    pub(super) fn mode(&self) -> u32 {
        match self.shared.write_mode() {
            WriteMode::Writable => abi::MODE_WRITABLE,
            WriteMode::AttachedReadOnly => abi::MODE_READ_ONLY_REQUESTED,
            WriteMode::TurnedReadOnly => abi::MODE_READ_ONLY,
        }
    }

    /// Returns the discard policy's number in the ABI.
    pub(super) fn discard_policy(&self) -> u32 {
        if self.shared.reveals() {
            abi::DISCARD_REVEAL
        } else {
            abi::DISCARD_ZERO
        }
    }
}
