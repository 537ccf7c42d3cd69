// SPDX-License-Identifier: GPL-2.0

//! Tests that a request that waits for a page of the map holds up no other request.

use std::sync::mpsc::channel;
use std::thread::spawn;
use std::time::Duration;

use sim::host::{fresh_without_pages, Handle, Outcome};
use ubcore::geometry::{Geometry, TABLE_ENTRIES};
use ubcore::map::Memory;

const SLAB: u64 = 32;

/// Longer than anything here takes. A request that is still without an answer then has none while
/// memory is short.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A slab whose entry lies on the second page of the table, which does not exist yet.
const FAR: u64 = TABLE_ENTRIES as u64 * SLAB;

/// Makes a root with two pages of the table, and a leaf of eight slabs. The map has no page yet.
fn union() -> Handle {
    let root = FAR + 2 * SLAB;
    fresh_without_pages(Geometry::new(root, root, 2048 + 8 * SLAB, SLAB as u32, 16).unwrap())
}

/// Sends a request that must be answered although memory is short.
fn answers(u: &Handle, what: &str, request: fn(&Handle) -> Outcome) {
    let (sender, answer) = channel();
    let u = u.clone();
    spawn(move || sender.send(request(&u)));
    assert_eq!(answer.recv_timeout(TIMEOUT), Ok(Outcome::Ok), "{what}");
}

/// A deferred write waits until no request uses the slabs that a discard has freed, and so does a
/// zeroing of parts of slabs. A first write that waits for memory must use none.
#[test]
fn a_write_that_waits_for_memory_holds_up_no_other_request() {
    let u = union();
    for slab in [0, 1, 2] {
        assert_eq!(u.write(slab * SLAB..slab * SLAB + 8, 1, true), Outcome::Ok);
    }
    u.set_shortage(true);
    let waits = u.write_later(FAR..FAR + 8, 2);
    answers(&u, "a read", |u| u.read(0..96));
    answers(&u, "an overwrite", |u| u.write(0..8, 3, false));
    answers(&u, "a flush", |u| u.flush());
    answers(&u, "a discard", |u| u.discard(0..SLAB));
    answers(&u, "a deferred write", |u| u.write(0..8, 4, false));
    answers(&u, "a zeroing of parts of slabs", |u| u.zero(62..66));
    answers(&u, "a write after it", |u| u.write(60..70, 5, true));
    assert!(u.map.memory().table(1).is_none(), "the write did not wait");
    u.set_shortage(false);
    assert_eq!(waits.wait(), Outcome::Ok);
    assert!(u.map.memory().table(1).is_some());
    u.quiesce();
    assert!(u.is_committed() && !u.any_emptied());
    u.detach();
}
