// SPDX-License-Identifier: GPL-2.0

//! Tests two writes of one sector whose completions overlap, with a FLUSH or a FUA write in
//! between.
//!
//! The first write's completion is interrupted at each access to the map's memory. At that access
//! the second write completes. A FLUSH after it must not take the mapping for durable too early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sim::disk::{Random, SimDisk};
use sim::hooked::{hooked, Hooked};
use sim::oracle::content;
use sim::parts::{load, Parts, SimCommitter};
use sim::union::{format, SimUnion};
use ubcore::disk::Order;
use ubcore::geometry::Geometry;
use ubcore::map::Map;
use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

const SECTOR: u64 = 130;

struct Scenario {
    disk: SimDisk,
    map: Map<Hooked>,
    committer: RefCell<SimCommitter>,
    to: u64,
}

fn geometry() -> Geometry {
    Geometry::new(2_097_152, 2_097_152, 262_144, 128, 64).unwrap()
}

/// Makes a union with a leaf slab for the sector, and one write to it that is about to complete.
fn scenario() -> Rc<Scenario> {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let (root, leaf) = (g.root_sectors(), g.leaf_sectors());
    let Parts {
        map,
        mut allocator,
        mut committer,
    } = load(&mut disk, root, leaf, hooked).unwrap();
    committer.checkpoint(&map, &mut disk).unwrap();
    allocator.allocate(&map, g.slab_of(SECTOR)).unwrap();
    let Some(Source::Leaf(to)) = plan::write(&map, SECTOR, 1).next().map(|r| r.source) else {
        panic!("no leaf slab")
    };
    disk.write_sectors(to, &[content(1, SECTOR)]).unwrap();
    Rc::new(Scenario {
        disk,
        map,
        committer: RefCell::new(committer),
        to,
    })
}

/// Completes the first write; before access `n` to the memory, `then` runs. Returns the number of
/// accesses.
fn complete_first(s: &Rc<Scenario>, n: u32, then: impl FnOnce(&Scenario) + 'static) -> u32 {
    let inner = s.clone();
    let hook = Box::new(move || then(&inner));
    s.map.memory().watch.interrupt(n, hook, || {
        s.map.map_sectors(SECTOR, 1).unwrap();
    })
}

fn after_power_failure(s: &Scenario) -> bool {
    s.disk.state.borrow_mut().crash(&mut Random(1));
    let u = SimUnion::attach_to(&s.disk, &geometry()).unwrap();
    u.read(SECTOR) == content(2, SECTOR)
}

#[test]
fn a_flush_covers_a_write_that_found_another_writes_bit() {
    let mut n = 0;
    loop {
        let s = scenario();
        let held = Rc::new(Cell::new(None));
        let result = held.clone();
        let calls = complete_first(&s, n, move |s| {
            // The second write, to the same place, completes; then a FLUSH is sent and completes.
            s.disk.write_sectors(s.to, &[content(2, SECTOR)]).unwrap();
            s.map.map_sectors(SECTOR, 1).unwrap();
            let mut committer = s.committer.borrow_mut();
            committer.commit(&s.map, &mut s.disk.clone()).unwrap();
            drop(committer);
            result.set(Some(after_power_failure(s)));
        });
        match held.get() {
            Some(held) => assert!(held, "lost, interrupted at access {n}"),
            None => assert!(n > 3 && calls <= n),
        }
        if held.get().is_none() {
            break;
        }
        n += 1;
    }
}

#[test]
fn a_fua_write_that_takes_itself_for_durable_is() {
    let mut n = 0;
    let mut alone = 0;
    loop {
        let s = scenario();
        let found = Rc::new(Cell::new(None));
        let result = found.clone();
        complete_first(&s, n, move |s| {
            // The driver checks in this order: first the map, then whether the map is durable.
            let mapped =
                plan::read(&s.map, NoLayers, SECTOR, 1).all(|r| r.source == Source::Leaf(s.to));
            let durable = mapped && s.committer.borrow().is_committed(&s.map);
            if durable {
                let data = [content(2, SECTOR)];
                let mut state = s.disk.state.borrow_mut();
                state.write(s.to, &data, Order::Fua).unwrap();
            }
            result.set(Some(!durable || after_power_failure(s)));
        });
        match found.get() {
            Some(held) => assert!(held, "lost, interrupted at access {n}"),
            None => break,
        }
        n += 1;
    }
    assert!(n > 3);
    // If no completion is in progress, the write may go alone.
    let s = scenario();
    complete_first(&s, u32::MAX, |_| ());
    let mut committer = s.committer.borrow_mut();
    committer.commit(&s.map, &mut s.disk.clone()).unwrap();
    alone += u32::from(committer.is_committed(&s.map));
    assert_eq!(alone, 1);
}

#[test]
fn an_overwrite_beside_a_first_write_elsewhere_stays_free() {
    let s = scenario();
    complete_first(&s, u32::MAX, |_| ());
    let mut committer = s.committer.borrow_mut();
    committer.commit(&s.map, &mut s.disk.clone()).unwrap();
    let changes = s.map.changes();
    assert!(!s.map.map_sectors(SECTOR, 1).unwrap());
    assert_eq!(s.map.changes(), changes);
    assert!(s.map.map_sectors(SECTOR, 2).unwrap());
    assert_eq!(s.map.changes(), changes + 1);
}
