// SPDX-License-Identifier: GPL-2.0

//! The leaf below a host. Other threads may run at each access, and for each access the state is
//! kept that a power failure would leave.

use std::sync::{Arc as StdArc, Mutex as StdMutex, MutexGuard as StdGuard};

use ubcore::disk::{self, Buffer, Disk, Order};
use ubcore::error::Result;
use ubcore::geometry::BLOCK_BYTES;
use ubcore::leaf_block::LeafBlock;
use ubcore::plan::Source;
use ubcore::sync::{AtomicU64, Ordering};

use crate::disk::{DiskState, Moment, Sector};
use crate::history::History;
use crate::oracle::{tag, ROOT, ZERO};

/// The leaf, for metadata: other threads may run before each access.
pub struct Leaf {
    pub(crate) union: Option<StdArc<SimLower>>,
    pub(crate) state: StdArc<StdMutex<DiskState>>,
    buffer: Box<Buffer>,
}

impl Leaf {
    pub(crate) fn alone(state: DiskState) -> Leaf {
        Leaf {
            union: None,
            state: StdArc::new(StdMutex::new(state)),
            buffer: Box::new(disk::zeroes()),
        }
    }

    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut DiskState) -> R) -> R {
        match &self.union {
            Some(lower) => lower.access(f),
            None => f(&mut locked(&self.state)),
        }
    }
}

impl Disk for Leaf {
    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        let sectors = block.0 * 8..(block.0 + count as u64) * 8;
        let found: Vec<Sector> = self.with(|s| sectors.map(|at| s.sector(at)).collect());
        for (room, data) in self.buffer.as_flattened_mut().chunks_mut(512).zip(found) {
            room.copy_from_slice(&data);
        }
        Ok(())
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        let bytes = self.buffer.as_flattened()[..count * BLOCK_BYTES].chunks(512);
        let data: Vec<Sector> = bytes.map(|c| c.try_into().expect("512 bytes")).collect();
        self.with(|s| s.write(block.0 * 8, &data, order))
    }
    fn flush(&mut self) -> Result {
        self.with(DiskState::flush_now)
    }
}

pub(crate) fn locked<T>(m: &StdMutex<T>) -> StdGuard<'_, T> {
    m.lock().expect("no thread has panicked")
}

/// The leaf below a union, and the history of the requests.
pub(crate) struct SimLower {
    pub(crate) state: StdArc<StdMutex<DiskState>>,
    /// Each access touches it, so that other threads may run before the access.
    pub(crate) bus: AtomicU64,
    pub(crate) history: StdMutex<History>,
    /// What the leaf held after each access that changed what a power failure can leave.
    pub(crate) moments: StdMutex<Vec<(Moment, u64)>>,
    /// The moments at which an answer promised durability.
    pub(crate) promises: StdMutex<Vec<(Moment, u64)>>,
}

impl SimLower {
    pub(crate) fn access<R>(&self, f: impl FnOnce(&mut DiskState) -> R) -> R {
        self.bus.load(Ordering::SeqCst);
        let mut history = locked(&self.history);
        let mut state = locked(&self.state);
        let done = f(&mut state);
        let trail = state.trail.as_mut().map(std::mem::take).unwrap_or_default();
        if !trail.is_empty() {
            let when = history.tick();
            locked(&self.moments).extend(trail.into_iter().map(|m| (m, when)));
        }
        done
    }

    pub(crate) fn promised(&self) {
        let mut history = locked(&self.history);
        let moment = locked(&self.state).moment();
        locked(&self.promises).push((moment, history.tick()));
    }
}

/// Returns the tag of the bytes found; `None` if no write made them.
pub(crate) fn found(source: Source, at: u64, sector: u64, state: &DiskState) -> Option<u64> {
    match source {
        Source::Root(_) => Some(ROOT),
        Source::Zero => Some(ZERO),
        Source::Layer(..) | Source::Lost | Source::Broken => None,
        Source::Leaf(from) => tag(&state.sector(from + at), sector),
    }
}
