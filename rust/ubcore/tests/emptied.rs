// SPDX-License-Identifier: GPL-2.0

//! Tests slabs that are emptied during a commit, and writes to them that complete late.

use std::rc::Rc;

use sim::disk::{Random, SimDisk};
use sim::hooked::Scenario;
use sim::oracle::{content, Oracle, ROOT, ZERO};
use sim::reclaim::{begin_reclaim, end_reclaim};
use sim::union::{format, SimUnion};
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::Base;

const SLAB: u64 = 128;

fn geometry() -> Geometry {
    Geometry::new(6400, 6400, 2048 + 2 * SLAB, SLAB as u32, 16).unwrap()
}

fn recovered(disk: &SimDisk, seed: u64) -> SimUnion {
    disk.state.borrow_mut().crash(&mut Random(seed));
    SimUnion::attach_to(disk, &geometry()).unwrap()
}

fn empty(s: &Scenario, slab: u32, base: Base) {
    let mut allocator = s.allocator.borrow_mut();
    allocator.empty(&s.map, slab..slab + 1, base).unwrap();
}

/// Does what the driver does after a commit when nothing is in flight.
fn free(s: &Scenario) {
    let durable = s.committer.borrow().is_committed(&s.map);
    let mut allocator = s.allocator.borrow_mut();
    if begin_reclaim(&mut allocator, &s.map, durable) {
        end_reclaim(&mut allocator, &s.map);
    }
}

fn commit(s: &Scenario) {
    s.allocator.borrow_mut().begin_commit();
    let mut committer = s.committer.borrow_mut();
    committer.commit(&s.map, &mut s.disk.clone()).unwrap();
}

/// A write completes, then a FLUSH runs, and the slab is emptied during the FLUSH. After a power
/// failure the slab holds the write, because the FLUSH covers it, or is empty, because it was
/// emptied later. It does not hold what was there before.
#[test]
fn emptied_while_a_flush_runs_is_emptied_or_not() {
    let ways: [fn(&Scenario); 2] = [|s| empty(s, 1, Base::Zero), |s| empty(s, 1, Base::Below)];
    for checkpoint in [false, true] {
        for before in [false, true] {
            for (way, then) in ways.into_iter().enumerate() {
                let after = [ZERO, ROOT][way];
                let mut n = 0;
                loop {
                    let s = Scenario::new(geometry());
                    if before {
                        s.write(SLAB, 8, 7).unwrap();
                        s.flush();
                    }
                    s.write(SLAB, 8, 1).unwrap();
                    s.write(SLAB + 60, 8, 2).unwrap();
                    if !s.interrupt(checkpoint, n, then) {
                        break;
                    }
                    let u = recovered(&s.disk, u64::from(n));
                    let found = [SLAB + 2, SLAB + 62].map(|at| {
                        let tag = [1, 2, 7, ROOT, ZERO].into_iter();
                        let mut is = tag.filter(|&t| u.read(at) == content_of(t, at));
                        is.next().unwrap()
                    });
                    let valid = found == [1, 2] || found == [after, after];
                    let what = format!("checkpoint {checkpoint}, way {way}, access {n}");
                    assert!(valid, "{what}: {found:x?}");
                    n += 1;
                }
                assert!(n > 3, "{n}");
            }
        }
    }
}

/// A FLUSH has begun, and runs to its end while the slab of the write that it covers is emptied.
/// After a power failure the slab holds the write or is empty. It does not hold what was there
/// before the write.
#[test]
fn a_flush_that_runs_while_a_slab_is_emptied_keeps_its_write() {
    let mut n = 0;
    loop {
        let s = Scenario::new(geometry());
        s.write(SLAB, 8, 1).unwrap();
        s.allocator.borrow_mut().begin_commit();
        let inner = s.clone();
        let hook = Box::new(move || {
            let mut committer = inner.committer.borrow_mut();
            committer
                .commit(&inner.map, &mut inner.disk.clone())
                .unwrap();
        });
        let accesses = s
            .map
            .memory()
            .watch
            .interrupt(n, hook, || empty(&s, 1, Base::Zero));
        if n >= accesses {
            break;
        }
        let u = recovered(&s.disk, u64::from(n));
        let at = SLAB + 2;
        let valid = [content(1, at), [0; 512]].contains(&u.read(at));
        assert!(valid, "access {n}");
        n += 1;
    }
    assert!(n > 3, "{n}");
}

fn content_of(tag: u64, sector: u64) -> [u8; 512] {
    if tag == ZERO {
        [0; 512]
    } else {
        content(tag, sector)
    }
}

/// Empties a slab in one way, and in the other way while a commit runs.
#[test]
fn emptied_twice_is_one_or_the_other() {
    let mut n = 0;
    loop {
        let s = Scenario::new(geometry());
        s.write(SLAB, 8, 1).unwrap();
        s.flush();
        empty(&s, 1, Base::Zero);
        if !s.interrupt(false, n, |s| empty(s, 1, Base::Below)) {
            break;
        }
        let u = recovered(&s.disk, 1);
        let at = SLAB + 3;
        assert!(
            u.read(at) == [0; 512] || u.read(at) == content(ROOT, at),
            "access {n}"
        );
        n += 1;
    }
    assert!(n > 4);
}

/// A write to a slab completes late: it has found the leaf slab, and is held up while the slab is
/// emptied and a commit records that. Its marks then have no owner, and the leaf slab's next owner
/// must not be affected by them.
#[test]
fn marks_that_come_late_do_not_harm_the_next_owner() {
    let mut n = 0;
    loop {
        let s = Scenario::new(geometry());
        // Both leaf slabs are allocated, the second to a write that is in flight.
        s.write(0, 8, 1).unwrap();
        let mut allocator = s.allocator.borrow_mut();
        allocator.allocate_range(&s.map, SLAB, 8).unwrap();
        drop(allocator);
        s.flush();
        let inner = s.clone();
        let mut reached = Rc::new(());
        let held = reached.clone();
        let hook = Box::new(move || {
            empty(&inner, 1, Base::Zero);
            commit(&inner);
            drop(held);
        });
        s.map.memory().watch.interrupt(n, hook, || {
            s.map.map_sectors(SLAB, 8).unwrap();
        });
        if s.map.entry(1).leaf_slab.is_some() {
            break;
        }
        assert!(Rc::get_mut(&mut reached).is_some());
        // Only now has the write completed, and its leaf slab may be freed.
        free(&s);
        s.allocator.borrow_mut().begin_commit();
        free(&s);
        next_owner(&s, n);
        n += 1;
    }
    assert!(n > 3, "{n}");
}

/// Gives the leaf slab to another root slab, with a commit between the allocation and its first
/// write.
fn next_owner(s: &Rc<Scenario>, n: u32) {
    let mut oracle = Oracle::default();
    let third = 30 * SLAB;
    s.allocator
        .borrow_mut()
        .allocate_range(&s.map, third, 1)
        .unwrap();
    commit(s);
    s.write(third + 5, 3, 9).unwrap();
    oracle.begun(third + 5, 3, 9);
    commit(s);
    s.disk.state.borrow_mut().crash(&mut Random(u64::from(n)));
    let u = match SimUnion::attach_to(&s.disk, &geometry()) {
        Ok(u) => u,
        Err(e) => panic!("access {n}: {e}"),
    };
    for at in third..third + SLAB {
        let same = u.read(at) == content(oracle.current(at), at);
        assert!(same, "access {n}, sector {at}");
    }
    assert!(u.read(SLAB) == [0; 512] && u.read(3) == content(1, 3));
}

/// A slab that is emptied, and durably so, while a grace period runs for another slab waits for a
/// separate grace period. The running one does not wait for I/O that may be in flight to this
/// slab's old leaf slab.
#[test]
fn a_grace_period_is_for_what_left_before_it() {
    let s = Scenario::new(geometry());
    s.write(SLAB, 8, 1).unwrap();
    s.write(2 * SLAB, 8, 2).unwrap();
    s.flush();
    empty(&s, 1, Base::Zero);
    commit(&s);
    assert!(begin_reclaim(&mut s.allocator.borrow_mut(), &s.map, true));
    empty(&s, 2, Base::Zero);
    commit(&s);
    let place = |slab| s.allocator.borrow_mut().allocate(&s.map, slab).is_ok();
    assert!(!place(1) && !place(2));
    {
        let mut allocator = s.allocator.borrow_mut();
        assert!(
            !begin_reclaim(&mut allocator, &s.map, true),
            "one at a time"
        );
        assert_eq!(allocator.used(), 2);
        end_reclaim(&mut allocator, &s.map);
        assert_eq!(allocator.used(), 1);
        assert!(allocator.any_emptied(&s.map));
    }
    assert!(place(1) && !place(2));
    // No other request waits for a commit, so no commit has to come first.
    free(&s);
    assert!(place(2));
    assert!(!s.allocator.borrow().any_emptied(&s.map));
}

/// Every commit asks whether slabs were emptied, under the allocator's lock. The bitmap of a large
/// root has up to 64 KiB, so the answer must not need a search of it.
#[test]
fn no_search_tells_whether_slabs_were_emptied() {
    let s = Scenario::new(geometry());
    let asks = |expected| {
        let code = || assert_eq!(s.allocator.borrow().any_emptied(&s.map), expected);
        assert_eq!(s.map.memory().watch.interrupt(0, Box::new(|| ()), code), 0);
    };
    asks(false);
    s.write(SLAB, 8, 1).unwrap();
    s.flush();
    asks(false);
    for round in 0..2 {
        // The second slab had no leaf slab. Both are on one page, which counts once.
        empty(&s, 1, [Base::Zero, Base::Below][round]);
        empty(&s, 2, [Base::Zero, Base::Below][round]);
        asks(true);
        commit(&s);
        asks(true);
        free(&s);
        asks(false);
    }
}

/// A leaf slab gets its next owner while a commit runs that has taken a late mark of the previous
/// owner. After a power failure the next owner's write, which was flushed afterwards, must be
/// found.
#[test]
fn a_slab_that_changes_hands_during_a_commit_keeps_its_new_record() {
    let whole_write = [false, true];
    for whole in whole_write {
        let mut n = 0;
        loop {
            let s = late_mark();
            let reached = {
                let inner = s.clone();
                let called = Rc::new(std::cell::Cell::new(false));
                let seen = called.clone();
                let hook = Box::new(move || {
                    seen.set(true);
                    if whole {
                        let _ = inner.write(THIRD + 5, 3, 9);
                    } else {
                        let _ = inner
                            .allocator
                            .borrow_mut()
                            .allocate_range(&inner.map, THIRD, 1);
                    }
                });
                s.map.memory().watch.interrupt(n, hook, || commit(&s));
                called.get()
            };
            if !reached {
                break;
            }
            if s.write(THIRD + 5, 3, 9).is_err() {
                // The slab was not free yet at that access. It is free after a commit and a
                // reclaim.
                commit(&s);
                free(&s);
                s.write(THIRD + 5, 3, 9).unwrap();
            }
            commit(&s);
            s.disk.state.borrow_mut().crash(&mut Random(u64::from(n)));
            let u = match SimUnion::attach_to(&s.disk, &geometry()) {
                Ok(u) => u,
                Err(e) => panic!("whole write {whole}, access {n}: {e}"),
            };
            for at in THIRD..THIRD + SLAB {
                let written = (THIRD + 5..THIRD + 8).contains(&at);
                let expected = if written { 9 } else { ROOT };
                let same = u.read(at) == content(expected, at);
                assert!(same, "whole write {whole}, access {n}, sector {at}");
            }
            n += 1;
        }
        assert!(n > 3, "{n}");
    }
}

const THIRD: u64 = 30 * SLAB;

/// Makes a scenario in which both leaf slabs had an owner. Slab 1 was emptied while its write was
/// completing, and its leaf slab is free again.
fn late_mark() -> Rc<Scenario> {
    let mut best = None;
    for n in 0.. {
        let s = Scenario::new(geometry());
        s.write(0, 8, 1).unwrap();
        s.allocator
            .borrow_mut()
            .allocate_range(&s.map, SLAB, 8)
            .unwrap();
        s.flush();
        let inner = s.clone();
        let hook = Box::new(move || {
            empty(&inner, 1, Base::Zero);
            commit(&inner);
        });
        s.map.memory().watch.interrupt(n, hook, || {
            s.map.map_sectors(SLAB, 8).unwrap();
        });
        if s.map.entry(1).leaf_slab.is_some() {
            break;
        }
        let late = s.map.is_mapped(LeafSlab(1)).unwrap();
        free(&s);
        if late {
            best = Some(s);
        }
    }
    best.expect("a mark that comes late")
}

/// A transaction that empties slabs takes the last block of the ring, so a checkpoint follows. The
/// block is counted nevertheless.
#[test]
fn the_last_block_of_the_ring_is_counted() {
    let g = Geometry::new(8000, 8000, 32_768, 32, 64).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let counted = |u: &SimUnion| u.committer.counters().journal_written;
    let numbered = |u: &SimUnion| u.committer.superblock().journal_sequence;
    let before = (counted(&u), numbered(&u));
    for n in 1..u64::from(g.journal_blocks()) {
        u.write(n * 32, 8, n, true).unwrap();
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        assert_eq!(counted(&u), before.0 + n);
    }
    assert_eq!(u.empty(1..2, Base::Zero), Ok(true));
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert_eq!(numbered(&u) - before.1, u64::from(g.journal_blocks()));
    assert_eq!(counted(&u) - before.0, u64::from(g.journal_blocks()));
}
