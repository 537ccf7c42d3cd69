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

impl Attached {
    /// Fills in the answer of the STATUS ioctl. Waits for nothing.
    pub(crate) fn fill_status(&self, c: &mut abi::Status) {
        let disk = &self.disk;
        (c.major, c.minor) = disk.dev();
        c.openers = disk.openers();
        c.queues = disk.queues();
        disk.with_queue_data(|union| union.fill_status(c));
    }

    /// Fills in the answer of the LOST ioctl. Waits for nothing.
    pub(crate) fn fill_lost(&self, c: &mut abi::LostCall) {
        self.disk.with_queue_data(|union| union.loss.fill(c));
    }
}

impl Union {
    /// Fills in what [`Attached::fill_status`] does not know. Under RCU.
    fn fill_status(&self, c: &mut abi::Status) {
        let g = self.geometry();
        c.id = self.name.0;
        c.flags = 0;
        c.mode = self.mode();
        c.root = self.lower.paths.root;
        c.leaf = self.lower.paths.leaf;
        c.uuid = self.leaf.uuid;
        c.sectors = g.union_sectors();
        c.root_sectors = g.root_sectors();
        c.leaf_sectors = g.leaf_sectors();
        c.slab_sectors = g.slab_sectors();
        c.slabs = g.leaf_slabs();
        let allocator = self.allocator.lock();
        (c.slabs_used, c.limit_slabs) = (allocator.used(), allocator.limit());
        drop(allocator);
        c.journal_blocks = g.journal_blocks();
        c.dirty = u32::from(!self.is_committed());
        c.first_writes = self.stats.first_writes();
        c.io_errors = self.stats.io_errors();
        c.no_space = self.stats.failed_for_space();
        if let Some(stack) = &self.lower.stack {
            c.layers = self.layer_count();
            c.stack_unions = stack.unions();
            c.stack_bytes = stack.bytes();
        }
        c.map_bytes = self.map.memory().bytes();
        c.discard = self.discard_policy();
        c.name = self.leaf.name.field();
        let totals = self.loss.totals();
        c.damaged_blocks = totals.blocks;
        c.lost_sectors = totals.sectors;
        c.last_error = self.failure.as_ref().map_or(0, |(_, e)| e.to_wire().0);
        c.journal_used = self.stats.journal_used();
        c.commits = self.stats.commits();
        c.checkpoints = self.stats.checkpoints();
        c.journal_written = self.stats.journal_written();
    }

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
