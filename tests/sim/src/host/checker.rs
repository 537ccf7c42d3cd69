// SPDX-License-Identifier: GPL-2.0

//! Power failures: what a host's leaf holds at each moment, and whether the history allows what
//! attach finds there. And checks of a union that is attached.

use ubcore::alloc::Allocator;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Marks, Memory};
use ubcore::plan::{self, Run};
use ubcore::stack::source::NoLayers;

use super::{load, HostUnion, Metadata};
use crate::disk::{DiskState, Moment};
use crate::leaf::{found, locked, Leaf};
use crate::threads::quietly;

impl HostUnion {
    /// Returns what the leaf holds now, and the time.
    pub fn moment(&self) -> (Moment, u64) {
        let moment = self.lower.access(|s| s.moment());
        (moment, self.tick())
    }

    /// Returns the moments at which the power can fail: all, and those of a promise.
    pub fn moments(&self) -> [Vec<(Moment, u64)>; 2] {
        let lower = &self.lower;
        [&lower.moments, &lower.promises].map(|m| std::mem::take(&mut *locked(m)))
    }

    /// Fails the power at a moment; `land` picks what landed. Attach must succeed and each sector
    /// be valid, and again after attach's checkpoint is written and read back.
    pub fn check(&self, (moment, when): (Moment, u64), mut land: impl FnMut() -> bool) {
        let g = *self.map.geometry();
        let mut image = moment.durable;
        for (sector, data) in moment.cache {
            if land() {
                image.insert(sector, data);
            }
        }
        quietly(|| {
            let after = self.recovered(g, DiskState::restored(image), when);
            if when % 4 != 0 {
                return;
            }
            let state = {
                let mut metadata = after.metadata.lock().expect("no thread has panicked");
                let Metadata { committer, leaf } = &mut *metadata;
                committer.checkpoint(&after.map, leaf).expect("it works");
                DiskState::restored(locked(&after.lower.state).moment().durable)
            };
            self.recovered(g, state, when);
        });
    }

    fn recovered(&self, g: Geometry, state: DiskState, when: u64) -> HostUnion {
        let after = match load(g, Leaf::alone(state)) {
            Ok(after) => after,
            Err(e) => panic!("power failure at {when}: attach: {e}"),
        };
        let runs: Vec<Run> =
            plan::read(&after.map, NoLayers, 0, g.union_sectors() as u32).collect();
        let state = locked(&after.lower.state);
        let history = locked(&self.lower.history);
        let mut sector = 0;
        for run in runs {
            for n in 0..u64::from(run.sectors) {
                let tag = found(run.source, n, sector + n, &state);
                let is_valid = tag.is_some_and(|t| history.may_survive(sector + n, t, when));
                assert!(
                    is_valid,
                    "power failure at {when}: sector {} holds {tag:x?}: {history:#?}",
                    sector + n
                );
            }
            sector += u64::from(run.sectors);
        }
        drop((state, history));
        after
    }
}

impl HostUnion {
    /// A mark of an earlier owner could be taken for one of the next owner.
    pub(super) fn assert_free_is_blank(&self, allocator: &Allocator<Vec<u64>>) {
        let all = (0..self.map.geometry().leaf_slabs()).map(LeafSlab);
        for leaf_slab in all.filter(|&l| allocator.is_free(l)) {
            let dirty = ubcore::bits::is_set(self.map.memory().marks(Marks::Dirty), leaf_slab.0);
            let marks =
                dirty || self.map.is_fresh(leaf_slab) || self.map.is_mapped(leaf_slab) == Ok(true);
            assert!(!marks, "a free leaf slab has bits or marks");
        }
    }
}
