// SPDX-License-Identifier: GPL-2.0

//! A union as the host of the core's protocol: its locks, its leaf, its memory, and its events.
//! Two more traits of the host are in [`requests`](super::requests) and
//! [`work_items`](super::work_items).

use super::{
    metadata_disk::{
        write_error,
        Metadata,
        MetadataDisk,
        UnionCommitter, //
    },
    stats::CommitterCounters,
    Union, //
};
use crate::{
    blk::SendAs,
    memory::MapMemory,
    sys::task,
    ubcore::{
        alloc::Allocator,
        error::Result,
        format::directory::PageEntry,
        map::Map,
        protocol::{
            CommitterStep, //
            Event,
            Host,
            LeafDevice,
            Observer,
            Shared,
        },
        stack::source::StackLookup,
    },
};
use kernel::{
    prelude::KVVec,
    sync::ArcBorrow, //
};

impl Host for ArcBorrow<'_, Union> {
    type Memory = MapMemory;
    type Slabs = KVVec<u64>;
    type PageSet = KVVec<u64>;
    type Entries = KVVec<PageEntry>;
    type Disk<'d> = MetadataDisk<'d>;

    fn map(&self) -> &Map<MapMemory> {
        &self.map
    }

    fn below(&self) -> impl StackLookup {
        self.lower.stack_map()
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<KVVec<u64>>) -> R) -> R {
        f(&mut self.allocator.lock())
    }

    fn with_committer<R>(
        &self,
        f: impl FnOnce(&mut UnionCommitter, &mut MetadataDisk<'_>) -> R,
    ) -> R {
        let mut guard = self.metadata.lock();
        let Metadata { committer, buffer } = &mut *guard;
        f(committer, &mut MetadataDisk::new(&self.lower.leaf, buffer))
    }

    fn note_step(&self, step: CommitterStep, committer: &UnionCommitter, done: Result) {
        let changes = committer.committed().wrapping_sub(self.shared.durable());
        // Trace before the counters are stored, so that a reader who sees them finds the event in
        // the trace.
        let after = CommitterCounters::of(committer);
        self.events.step_ended(
            step,
            &self.stats.committer_counters(),
            &after,
            changes,
            done,
        );
        self.stats.store(&after);
    }

    fn wait_for_memory(&self) -> Result {
        self.map.memory().wait()
    }

    fn give_way(&self) {
        // Ignore the result. A worker never has a fatal signal pending. A freeze, whose checkpoints
        // also get here, looks for one in its merge.
        let _ = task::give_way();
    }
}

/// The leaf of a union, for what its work items write without a request.
impl LeafDevice for ArcBorrow<'_, Union> {
    fn has_fua(&self) -> bool {
        // For a bio, the block layer emulates FUA if the device lacks it.
        self.lower.send_as == SendAs::Bios || self.lower.leaf.has_fua()
    }

    fn has_cache(&self) -> bool {
        self.lower.leaf.has_cache()
    }

    fn zero(&self, sector: u64, sectors: u64) -> Result {
        self.lower
            .leaf
            .zero(sector, sectors, self.leaf.preallocated)
            .map_err(|e| write_error(e, sector))
    }

    fn discard(&self, sector: u64, sectors: u64) {
        if !self.leaf.preallocated {
            // A discard is a hint. If it fails, the slabs are free even so.
            let _ = self.lower.leaf.discard(sector, sectors);
        }
    }
}

impl Observer for ArcBorrow<'_, Union> {
    // The caller passes a constant variant, so the compiler removes the match.
    #[inline(always)]
    fn note(&self, event: Event) {
        match event {
            Event::FirstWrite(sector, sectors) => {
                self.stats.first_write();
                self.events.first_write(sector, sectors);
            }
            Event::IoError => self.stats.io_error(),
            Event::Full => {
                self.stats.no_space();
                self.events.full();
            }
            Event::NoSpaceBelow => self.stats.no_space(),
            Event::Space(used, slabs) => self.events.space(used, slabs),
            Event::Freed(sector, sectors) => self.events.freed(sector, sectors),
            Event::ReadOnly(step, e) => self.turned_read_only(step, e),
        }
    }
}
