// SPDX-License-Identifier: GPL-2.0

//! A map's memory in which something else can happen at each access: what interrupts and other CPUs
//! do to code that runs without a lock.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ubcore::alloc::{Allocated, Allocator};
use ubcore::disk::Disk;
use ubcore::geometry::Geometry;
use ubcore::map::Map;
use ubcore::plan::{self, Source};

use crate::disk::SimDisk;
use crate::memory::{MemoryAccess, Watch, Watched};
use crate::oracle::content;
use crate::parts::{load, Parts, SimCommitter};
use crate::union::format;

pub type Hook = Box<dyn FnOnce()>;

/// Counts the accesses to a memory, and runs a hook once before one of them.
#[derive(Default)]
pub struct Interrupt {
    calls: Cell<u32>,
    hook: RefCell<Option<(u32, Hook)>>,
}

pub type Hooked = Watched<Interrupt>;

/// Makes memory for a map that is interrupted.
pub fn hooked(g: &Geometry) -> Hooked {
    Watched::new(g, Interrupt::default())
}

impl Interrupt {
    /// Runs `code`; before its access `n` to this memory, `hook` runs. Returns the number of
    /// accesses.
    pub fn interrupt(&self, n: u32, hook: Hook, code: impl FnOnce()) -> u32 {
        self.calls.set(0);
        *self.hook.borrow_mut() = Some((n, hook));
        code();
        self.hook.borrow_mut().take();
        self.calls.get()
    }
}

impl Watch for Interrupt {
    fn before(&self, _: MemoryAccess) {
        let n = self.calls.get();
        self.calls.set(n + 1);
        let due = self.hook.borrow().as_ref().is_some_and(|h| h.0 == n);
        if due {
            let hook = self.hook.borrow_mut().take().unwrap().1;
            hook();
        }
    }
}

/// A union over such memory, used as the driver uses it.
pub struct Scenario {
    pub disk: SimDisk,
    pub map: Map<Hooked>,
    pub allocator: RefCell<Allocator<Vec<u64>>>,
    pub committer: RefCell<SimCommitter>,
}

impl Scenario {
    pub fn new(g: Geometry) -> Rc<Scenario> {
        let mut disk = SimDisk::new();
        format(&mut disk, g);
        let (root, leaf) = (g.root_sectors(), g.leaf_sectors());
        let Parts {
            map,
            allocator,
            mut committer,
        } = load(&mut disk, root, leaf, hooked).unwrap();
        committer.checkpoint(&map, &mut disk).unwrap();
        Rc::new(Scenario {
            disk,
            map,
            allocator: RefCell::new(allocator),
            committer: RefCell::new(committer),
        })
    }

    pub fn write(&self, sector: u64, sectors: u32, tag: u64) -> Allocated {
        let mut allocator = self.allocator.borrow_mut();
        allocator.allocate_range(&self.map, sector, sectors)?;
        let mut at = sector;
        for run in plan::write(&self.map, sector, sectors) {
            let Source::Leaf(to) = run.source else {
                panic!("a write goes to the leaf")
            };
            let end = at + u64::from(run.sectors);
            let data: Vec<_> = (at..end).map(|s| content(tag, s)).collect();
            self.disk.write_sectors(to, &data)?;
            at = end;
        }
        self.map.map_sectors(sector, sectors).unwrap();
        Ok(())
    }

    /// Does what the driver does for a FLUSH.
    pub fn flush(&self) {
        let mut disk = self.disk.clone();
        let mut committer = self.committer.borrow_mut();
        if committer.is_committed(&self.map) {
            disk.flush().unwrap();
        } else {
            committer.commit(&self.map, &mut disk).unwrap();
        }
    }

    /// Commits (or makes a checkpoint); before access `n` to the map, `then` runs. Returns whether
    /// access `n` was reached.
    pub fn interrupt(self: &Rc<Scenario>, checkpoint: bool, n: u32, then: fn(&Scenario)) -> bool {
        let reached = Rc::new(Cell::new(false));
        let (called, inner) = (reached.clone(), self.clone());
        let hook = Box::new(move || {
            called.set(true);
            then(&inner);
        });
        self.map.memory().watch.interrupt(n, hook, || {
            let mut disk = self.disk.clone();
            let mut committer = self.committer.borrow_mut();
            if checkpoint {
                committer.checkpoint(&self.map, &mut disk).unwrap();
            } else {
                committer.commit(&self.map, &mut disk).unwrap();
            }
        });
        reached.get()
    }
}
