// SPDX-License-Identifier: GPL-2.0

//! Tests that a slab gets its leaf slab in one step for all that runs beside the assignment:
//! another write of the slab, which takes no lock when it finds the leaf slab, and a FLUSH after
//! that write.

use std::cell::Cell;
use std::rc::Rc;

use sim::disk::Random;
use sim::hooked::Scenario;
use sim::oracle::content;
use sim::union::SimUnion;
use ubcore::geometry::Geometry;
use ubcore::plan::{self, Source};

const SLAB: u64 = 128;
const AT: u64 = SLAB + 60;

fn geometry() -> Geometry {
    Geometry::new(6400, 6400, 2048 + 2 * SLAB, SLAB as u32, 16).unwrap()
}

/// Writes as a request does that finds the leaf slab, and flushes. Returns whether it has found it.
fn write_and_flush(s: &Scenario) -> bool {
    let run = plan::write(&s.map, AT, 1).next().unwrap();
    let Source::Leaf(to) = run.source else {
        return false;
    };
    s.disk.write_sectors(to, &[content(2, AT)]).unwrap();
    s.map.map_sectors(AT, 1).unwrap();
    s.flush();
    true
}

/// A FLUSH has covered the other write, so a power failure does not lose it.
#[test]
fn a_write_that_finds_the_new_leaf_slab_is_covered_by_the_next_flush() {
    let mut n = 0;
    loop {
        let s = Scenario::new(geometry());
        let flushed = Rc::new(Cell::new(false));
        let (inner, done) = (s.clone(), flushed.clone());
        let hook = Box::new(move || done.set(write_and_flush(&inner)));
        let accesses = s.map.memory().watch.interrupt(n, hook, || {
            let mut allocator = s.allocator.borrow_mut();
            allocator.allocate_range(&s.map, SLAB, 8).unwrap();
        });
        let is_last = n >= accesses;
        if is_last {
            // The leaf slab is assigned, so the write finds it.
            assert!(write_and_flush(&s));
            flushed.set(true);
        }
        s.disk.state.borrow_mut().crash(&mut Random(u64::from(n)));
        let u = SimUnion::attach_to(&s.disk, &geometry()).unwrap();
        let is_kept = u.read(AT) == content(2, AT);
        assert!(is_kept || !flushed.get(), "access {n}");
        if is_last {
            break;
        }
        n += 1;
    }
    assert!(n > 3, "{n}");
}
