// SPDX-License-Identifier: GPL-2.0

//! Plays a scenario: requests at once, a power failure at each of their accesses, and the end.

use shuttle::rand::{thread_rng, Rng};
use shuttle::thread;
use ubcore::geometry::Geometry;
use ubcore::sync::quietly;

use sim::host::{fresh, Handle};

/// A thread of a scenario.
pub type Part = fn(&Handle);

/// Of the moments of a schedule at which the power can fail, the number that is checked besides
/// those at which an answer promised durability.
const CHECKED: usize = 6;

/// Three slabs of 32 sectors over so many on the leaf.
pub fn geometry(leaf_slabs: u64) -> Geometry {
    Geometry::new(96, 96, 2048 + leaf_slabs * 32, 32, 16).expect("sizes within bounds")
}

/// Runs `before` alone, then all `parts` at once; then waits for all requests, works and timers.
/// Checks power failures within that time. Finally flushes or detaches, and checks again.
pub fn play(leaf_slabs: u64, before: Part, parts: &[Part]) {
    let union = fresh(geometry(leaf_slabs));
    before(&union);
    let threads: Vec<_> = parts
        .iter()
        .map(|part| {
            let (union, part) = (union.clone(), *part);
            thread::spawn(move || part(&union))
        })
        .collect();
    for part in threads {
        part.join().expect("a part of the scenario");
    }
    union.quiesce();
    let mut random = thread_rng();
    let mode = random.gen_range(0..3);
    let mut land = move || match mode {
        0 => false,
        1 => true,
        _ => thread_rng().gen_range(0..2) == 0,
    };
    let [mut moments, promises] = union.moments();
    while moments.len() > CHECKED {
        moments.swap_remove(random.gen_range(0..moments.len()));
    }
    for moment in promises.into_iter().chain(moments) {
        union.check(moment, &mut land);
    }
    if union.is_read_only() {
        return;
    }
    assert!(union.is_committed(), "no timer has committed what changed");
    assert!(
        !union.any_emptied(),
        "nothing has reclaimed what was emptied"
    );
    union.fail_in(None);
    quietly(|| {
        union.read(0..96);
        union.quiesce();
        if mode == 0 {
            union.detach();
        } else {
            union.flush();
        }
    });
    union.check(union.moment(), || mode == 2);
}
