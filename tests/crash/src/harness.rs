// SPDX-License-Identifier: GPL-2.0

//! A union on a disk that records, with its oracle. Does each operation as the driver does it, and
//! returns the moments in it at which the power might fail.

use std::rc::Rc;

use ubcore::alloc::Denied;
use ubcore::attach::{read_superblock, Probe};
use ubcore::disk::{Disk, Order};
use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, LeafSlab, MapPage};
use ubcore::grow::{grow, Sizes};
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::reset::reset;
use ubcore::stack::chain::Seal;
use ubcore::stack::source::NoLayers;

use crate::op::{Operation, Range};
use sim::disk::{DiskState, Moment, Sector, SimDisk};
use sim::oracle::{content, tag, Oracle, ROOT, ZERO};
use sim::union::{format_as, load, superblock, SimUnion};

/// The devices of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    pub geometry: Geometry,
    /// Discarded slabs show the root again.
    pub reveal: bool,
}

/// A moment at which the power might fail, and which contents are valid then.
#[derive(Clone)]
pub struct Point {
    pub moment: Moment,
    pub oracle: Rc<Oracle>,
    /// The freeze that this is a moment of.
    pub freeze: Option<FreezeOutcome>,
    /// The reset that this is a moment of.
    pub reset: Option<ResetOutcome>,
    /// The sizes that the union may have.
    pub union_sectors: [u64; 2],
}

/// The contents that a reset may leave: the former one, or that of an empty leaf.
#[derive(Clone)]
pub struct ResetOutcome {
    /// The generation of the superblock that makes the leaf empty.
    pub generation: u64,
    /// The one content of an empty leaf.
    pub content: Rc<Oracle>,
}

/// What a freeze must leave.
#[derive(Clone)]
pub struct FreezeOutcome {
    /// The one content that a frozen leaf may have.
    pub content: Rc<Oracle>,
    /// The freeze was reported, so the leaf must be frozen.
    pub reported: bool,
}

/// By how many sectors growth makes the union and the leaf larger: the union ends in another slab,
/// in a part of it, and the leaf has two slabs more.
const GROWN: (u64, u64) = (75, 2 * 128);

/// The seal of all leaves that are frozen here.
pub const SEAL: Seal = Seal([0x5e; 16]);

pub struct Harness {
    pub devices: Devices,
    pub oracle: Oracle,
    /// The contents that were valid before the last commit that wrote something, because the
    /// journal's last write looks like a torn write if it rots.
    pub before_commit: Oracle,
    disk: SimDisk,
    union: SimUnion,
    last_write: Option<Range>,
    /// Where the next step of a checkpoint continues.
    store_from: MapPage,
    flying: Vec<Range>,
    points: Vec<Point>,
    /// The generation of the reset in this step, and the number of points up to its end.
    reset: Option<(u64, usize)>,
    /// The sizes that the union may have on the leaf.
    union_sectors: [u64; 2],
}

/// The content of data sectors that were never written.
const JUNK: Sector = [0xee; 512];

pub fn explain(what: &str, e: Error) -> String {
    format!("{what}: {e}")
}

impl Harness {
    /// Formats and attaches a leaf.
    pub fn new(devices: Devices) -> std::result::Result<Harness, String> {
        let g = devices.geometry;
        let mut disk = SimDisk::new();
        let mut sb = superblock(g);
        sb.reveal = devices.reveal;
        format_as(&mut disk, &sb);
        let first = g.leaf_slab_start(LeafSlab(0));
        let count = u64::from(g.leaf_slabs()) * u64::from(g.slab_sectors());
        let junk = vec![JUNK; count as usize];
        disk.write_sectors(first, &junk)
            .and_then(|()| disk.flush())
            .map_err(|e| explain("junk", e))?;
        Harness::over(devices, disk, Oracle::default())
    }

    /// Attaches to a leaf as it was found, whose contents `oracle` knows.
    pub fn over(
        devices: Devices,
        disk: SimDisk,
        oracle: Oracle,
    ) -> std::result::Result<Harness, String> {
        disk.state.borrow_mut().fence = Some(devices.geometry.leaf_slab_start(LeafSlab(0)));
        let union = attach(&disk, &devices.geometry).map_err(|e| explain("attach", e))?;
        // The leaf may have grown.
        let union_sectors = [union.map.geometry().union_sectors(); 2];
        let harness = Harness {
            devices,
            before_commit: oracle.clone(),
            oracle,
            disk,
            union,
            last_write: None,
            store_from: MapPage(0),
            flying: Vec::new(),
            points: Vec::new(),
            reset: None,
            union_sectors,
        };
        harness.verify()?;
        Ok(harness)
    }

    /// Does `op`; returns the moments in it at which the power might fail, the last one after its
    /// end.
    pub fn step(&mut self, op: &Operation) -> std::result::Result<Vec<Point>, String> {
        self.disk.state.borrow_mut().trail = Some(Vec::new());
        let done = self.apply(op);
        self.note();
        self.disk.state.borrow_mut().trail = None;
        done.map_err(|e| explain(&op.to_string(), e))?;
        self.verify()?;
        let moment = self.disk.state.borrow().moment();
        let oracle = Rc::new(self.oracle.clone());
        if matches!(op, Operation::Freeze | Operation::FreezeDetached) {
            for point in &mut self.points {
                point.freeze = Some(FreezeOutcome {
                    content: oracle.clone(),
                    reported: false,
                });
            }
        }
        // Once the reset has been reported, the leaf must be empty.
        if let Some((generation, points)) = self.reset.take() {
            for point in self.points.iter_mut().take(points) {
                let content = oracle.clone();
                point.reset = Some(ResetOutcome {
                    generation,
                    content,
                });
            }
        }
        let freeze = self.points.last().and_then(|p| p.freeze.clone());
        self.points.push(Point {
            moment,
            oracle,
            freeze: freeze.map(|f| FreezeOutcome {
                reported: true,
                ..f
            }),
            // A reset was reported, so the leaf must be empty.
            reset: None,
            union_sectors: self.union_sectors,
        });
        Ok(std::mem::take(&mut self.points))
    }

    /// Does `op` without recording.
    pub fn run(&mut self, op: &Operation) -> std::result::Result<(), String> {
        self.apply(op).map_err(|e| explain(&op.to_string(), e))?;
        self.points.clear();
        self.reset = None;
        Ok(())
    }

    /// Assigns what was recorded up to here to the oracle as it is now.
    fn note(&mut self) {
        let mut state = self.disk.state.borrow_mut();
        let Some(trail) = &mut state.trail else {
            return;
        };
        let oracle = Rc::new(self.oracle.clone());
        self.points.extend(trail.drain(..).map(|moment| Point {
            moment,
            oracle: oracle.clone(),
            freeze: None,
            reset: None,
            union_sectors: self.union_sectors,
        }));
    }

    fn apply(&mut self, op: &Operation) -> Result {
        match op {
            Operation::Write(r) => self.write(*r, false),
            Operation::Fua(r) => self.write(*r, true),
            Operation::Overwrite(r) => self.write(self.last_write.unwrap_or(*r), false),
            Operation::Zero(r) => self.zero(*r),
            Operation::Discard(r) => {
                let base = if self.devices.reveal {
                    Base::Below
                } else {
                    Base::Zero
                };
                self.empty(*r, base)
            }
            Operation::Flush => self.flush(),
            Operation::Store => {
                let u = &mut self.union;
                let next = u
                    .committer
                    .store_some(&u.map, &mut u.disk, self.store_from)?;
                self.store_from = next.unwrap_or(MapPage(0));
                Ok(())
            }
            Operation::Checkpoint => {
                let u = &mut self.union;
                u.committer.checkpoint(&u.map, &mut u.disk)?;
                self.all_durable();
                self.before_commit = self.oracle.clone();
                Ok(())
            }
            Operation::Reattach => self.reattach(),
            Operation::Freeze => self.freeze(),
            Operation::FreezeDetached => {
                self.apply(&Operation::End)?;
                self.flush()?;
                let g = &self.devices.geometry;
                self.union = load(&self.disk, g.root_sectors(), g.leaf_sectors())?;
                self.freeze()
            }
            Operation::Reset => self.reset(),
            Operation::ResetDetached => self.reset_detached(),
            Operation::GrowDetached => self.grow_detached(),
            Operation::Begin(r) => self.begin(*r),
            Operation::End => {
                for r in std::mem::take(&mut self.flying).into_iter().rev() {
                    self.union.map.map_sectors(r.at, r.len as u32).unwrap();
                }
                Ok(())
            }
            Operation::PowerFailure(..) | Operation::Again(..) | Operation::Rot => Ok(()),
        }
    }

    fn all_durable(&mut self) {
        self.note();
        // No answer has promised a write in flight, so its content stays a possible one.
        let flying = self.flying_tags();
        self.oracle.flushed();
        for (sector, tag, before) in flying {
            self.oracle.durable(sector, 1, before);
            self.oracle.begun(sector, 1, tag);
        }
    }

    /// Returns the sectors whose last write has not completed: its tag, and the content before it.
    fn flying_tags(&self) -> Vec<(u64, u64, u64)> {
        let ranges = self.flying.iter().flat_map(|r| r.at..r.at + r.len);
        ranges
            .map(|s| {
                let [before, last] = self.oracle.last_two(s);
                (s, last, before)
            })
            .collect()
    }

    /// Does what the driver's worker does: the commit, its answer, the reclaim of emptied slabs,
    /// and a checkpoint if one is due.
    fn commit(&mut self, answer: impl FnOnce(&mut Harness)) -> Result {
        let before = self.oracle.clone();
        let u = &mut self.union;
        u.allocator.begin_commit();
        let written = u.committer.counters();
        u.committer.commit(&u.map, &mut u.disk)?;
        if u.committer.counters().journal_written != written.journal_written {
            self.before_commit = before;
        }
        self.note();
        answer(self);
        let u = &mut self.union;
        if u.committer.wants_checkpoint() {
            u.committer.checkpoint(&u.map, &mut u.disk)?;
            self.before_commit = self.oracle.clone();
        }
        u.discard_and_free()
    }

    fn flush(&mut self) -> Result {
        let u = &mut self.union;
        if u.committer.is_committed(&u.map) {
            u.disk.flush()?;
            self.all_durable();
            return Ok(());
        }
        self.commit(Harness::all_durable)
    }

    fn reattach(&mut self) -> Result {
        self.apply(&Operation::End)?;
        let u = &mut self.union;
        u.committer.detach(&u.map, &mut u.disk)?;
        self.all_durable();
        self.before_commit = self.oracle.clone();
        self.union = attach(&self.disk, &self.devices.geometry)?;
        Ok(())
    }

    /// Ends all writes, and makes the last checkpoint, by which the leaf becomes a layer.
    fn freeze(&mut self) -> Result {
        self.apply(&Operation::End)?;
        let u = &mut self.union;
        u.committer.freeze(&u.map, &mut u.disk, SEAL)?;
        self.all_durable();
        self.before_commit = self.oracle.clone();
        Ok(())
    }

    /// Ends all writes, and makes the leaf empty. The union continues with an empty map.
    fn reset(&mut self) -> Result {
        self.apply(&Operation::End)?;
        self.union = self.union.reset()?;
        self.forget_all()
    }

    fn reset_detached(&mut self) -> Result {
        self.while_detached(|harness, probe| {
            reset(&mut harness.disk, probe)?;
            harness.forget_all()
        })
    }

    /// Ends all writes, commits them, runs `change` without a union, and attaches again.
    fn while_detached(&mut self, change: impl FnOnce(&mut Harness, &Probe) -> Result) -> Result {
        self.apply(&Operation::End)?;
        self.flush()?;
        let probe = read_superblock(&mut self.disk)?;
        change(self, &probe)?;
        self.union = attach(&self.disk, &self.devices.geometry)?;
        self.before_commit = self.oracle.clone();
        Ok(())
    }

    fn grow_detached(&mut self) -> Result {
        self.while_detached(Harness::grow)
    }

    fn grow(&mut self, probe: &Probe) -> Result {
        let g = &mut self.devices.geometry;
        let sizes = Sizes {
            union_sectors: g.union_sectors() + GROWN.0,
            leaf_sectors: g.leaf_sectors() + GROWN.1,
        };
        let old = g.union_sectors();
        *g = g.grown(sizes.union_sectors, sizes.leaf_sectors)?;
        // The new sectors lie beyond the root.
        for sector in old..sizes.union_sectors {
            self.oracle.durable(sector, 1, ZERO);
        }
        self.union_sectors = [old, sizes.union_sectors];
        grow(&mut self.disk, probe, sizes)?;
        self.note();
        self.union_sectors = [sizes.union_sectors; 2];
        self.note_reported();
        Ok(())
    }

    /// Adds a point at this moment: a change has been reported, and nothing that follows has made
    /// it durable.
    fn note_reported(&mut self) {
        self.points.push(Point {
            moment: self.disk.state.borrow().moment(),
            oracle: Rc::new(self.oracle.clone()),
            freeze: None,
            reset: None,
            union_sectors: self.union_sectors,
        });
    }

    /// Notes that the leaf is empty, which the last write has made it.
    fn forget_all(&mut self) -> Result {
        self.note();
        let generation = read_superblock(&mut self.disk)?.superblock.generation;
        self.reset = Some((generation, self.points.len()));
        self.store_from = MapPage(0);
        for sector in 0..self.devices.geometry.union_sectors() {
            self.oracle.durable(sector, 1, ROOT);
        }
        self.before_commit = self.oracle.clone();
        self.note_reported();
        Ok(())
    }

    /// Allocates leaf slabs for a range; returns false if there is no space, and checks that there
    /// is none.
    fn allocate(&mut self, r: Range) -> Result<bool> {
        for _ in 0..2 {
            let u = &mut self.union;
            match u.allocator.allocate_range(&u.map, r.at, r.len as u32) {
                Ok(()) => return Ok(true),
                // The request is deferred. It continues after the next commit and its reclaim.
                Err(Denied::Later) => self.commit(|_| ())?,
                Err(Denied::Failed(Error::Full)) => {
                    let missing = plan::unallocated(&u.map, r.at, r.len as u32).count();
                    let free = u.allocator.slabs() - u.allocator.used();
                    if missing as u32 <= free {
                        return Err(Error::Full);
                    }
                    return Ok(false);
                }
                Err(Denied::Failed(e)) => return Err(e),
            }
        }
        Err(Error::Internal)
    }

    fn send(&mut self, r: Range, tag: u64, order: Order) -> Result {
        let mut at = r.at;
        for run in plan::write(&self.union.map, r.at, r.len as u32) {
            let end = at + u64::from(run.sectors);
            if let Source::Leaf(to) = run.source {
                let data: Vec<_> = (at..end).map(|s| content(tag, s)).collect();
                self.disk.state.borrow_mut().write(to, &data, order)?;
            }
            at = end;
        }
        Ok(())
    }

    fn is_mapped(&self, r: Range) -> bool {
        plan::read(&self.union.map, NoLayers, r.at, r.len as u32)
            .all(|run| matches!(run.source, Source::Leaf(_)))
    }

    fn write(&mut self, r: Range, fua: bool) -> Result {
        if self.overlaps_flying(r) || !self.allocate(r)? {
            return Ok(());
        }
        let tag = self.oracle.new_tag();
        self.oracle.begun(r.at, r.len, tag);
        self.last_write = Some(r);
        let alone = fua && self.is_mapped(r) && self.union.committer.is_committed(&self.union.map);
        self.send(r, tag, if alone { Order::Fua } else { Order::Plain })?;
        self.union.map.map_sectors(r.at, r.len as u32).unwrap();
        if alone {
            self.note();
            self.oracle.durable(r.at, r.len, tag);
        } else if fua {
            return self.commit(|w| w.oracle.durable(r.at, r.len, tag));
        }
        Ok(())
    }

    /// Returns whether a range overlaps a write in flight. Two such writes have no order, so no
    /// workload has them.
    fn overlaps_flying(&self, r: Range) -> bool {
        let mut flying = self.flying.iter();
        flying.any(|f| f.at < r.at + r.len && r.at < f.at + f.len)
    }

    fn begin(&mut self, r: Range) -> Result {
        if self.overlaps_flying(r) || !self.allocate(r)? {
            return Ok(());
        }
        let tag = self.oracle.new_tag();
        self.oracle.begun(r.at, r.len, tag);
        self.send(r, tag, Order::Plain)?;
        self.flying.push(r);
        Ok(())
    }

    /// Zeroes whole slabs in the map, and the ends on the leaf unless they are zero already.
    fn zero(&mut self, r: Range) -> Result {
        if self.overlaps_flying(r) {
            return Ok(());
        }
        for end in self.ends(r) {
            let runs = plan::read(&self.union.map, NoLayers, end.at, end.len as u32);
            if runs.into_iter().all(|run| run.source == Source::Zero) {
                continue;
            }
            if !self.allocate(end)? {
                return Ok(());
            }
            self.oracle.begun(end.at, end.len, ZERO);
            self.send(end, ZERO, Order::Plain)?;
            self.union.map.map_sectors(end.at, end.len as u32).unwrap();
        }
        self.empty(r, Base::Zero)
    }

    /// Returns the parts of a range outside its whole slabs, slab by slab.
    fn ends(&self, r: Range) -> Vec<Range> {
        let g = &self.devices.geometry;
        let whole = g.whole_slabs(r.at, r.len as u32);
        let (mut at, end, mut found) = (r.at, r.at + r.len, Vec::new());
        while at < end {
            let slab = g.slab_of(at);
            let next = g.slab_start(slab + 1).min(end);
            if !whole.contains(&slab) {
                found.push(Range { at, len: next - at });
            }
            at = next;
        }
        found
    }

    fn empty(&mut self, r: Range, base: Base) -> Result {
        if self.overlaps_flying(r) {
            return Ok(());
        }
        let g = self.devices.geometry;
        let whole = g.whole_slabs(r.at, r.len as u32);
        let tag = if base == Base::Zero { ZERO } else { ROOT };
        for slab in whole.clone() {
            let at = g.slab_start(slab);
            let end = g.slab_start(slab + 1).min(g.union_sectors());
            self.oracle.begun(at, end - at, tag);
        }
        self.union.empty(whole, base)?;
        Ok(())
    }

    /// Checks each sector of the running union.
    fn verify(&self) -> std::result::Result<(), String> {
        for s in 0..self.devices.geometry.union_sectors() {
            let found = tag(&self.union.read(s), s);
            let wanted = self.oracle.current(s);
            let flying = self.overlaps_flying(Range { at: s, len: 1 });
            if found != Some(wanted) && !flying {
                return Err(format!(
                    "running: sector {s} reads {found:x?}, not {wanted:x}"
                ));
            }
        }
        Ok(())
    }
}

/// Attaches to `disk`, whose first write is that of the checkpoint. The leaf may have grown from
/// the layout `g`.
pub fn attach(disk: &SimDisk, g: &Geometry) -> Result<SimUnion> {
    SimUnion::attach(disk, g.root_sectors(), grown(g)?.leaf_sectors())
}

/// Returns the layout of a leaf after its growth.
pub fn grown(g: &Geometry) -> Result<Geometry> {
    g.grown(g.union_sectors() + GROWN.0, g.leaf_sectors() + GROWN.1)
}

/// Returns a disk that holds `image` durably, with metadata kept below the data.
pub fn disk_of(image: std::collections::BTreeMap<u64, Sector>, g: &Geometry) -> SimDisk {
    let mut state = DiskState::restored(image);
    state.fence = Some(g.leaf_slab_start(LeafSlab(0)));
    SimDisk::with(state)
}
