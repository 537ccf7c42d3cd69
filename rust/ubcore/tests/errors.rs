// SPDX-License-Identifier: GPL-2.0

//! Promise 5, in the core: each I/O of the metadata fails in turn, after it has landed or before.
//! The core keeps each promise that it made before, makes none after, and the running union can
//! still read.

use sim::disk::{Random, SimDisk};
use sim::oracle::{self, content, Oracle, ROOT};
use sim::union::{format, SimUnion};
use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::Base;

fn geometry() -> Geometry {
    Geometry::new(1280, 1280, 2048 + 24 * 32, 32, 16).unwrap()
}

/// Makes a union with durable and with uncommitted changes: writes and an emptied slab.
fn scenario() -> (SimDisk, SimUnion, Oracle) {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    let mut o = Oracle::default();
    let write = |u: &mut SimUnion, o: &mut Oracle, at, len| {
        let tag = o.new_tag();
        o.begun(at, len, tag);
        u.write(at, len, tag, true).unwrap();
    };
    write(&mut u, &mut o, 0, 40);
    write(&mut u, &mut o, 100, 64);
    u.flush().unwrap();
    o.flushed();
    write(&mut u, &mut o, 8, 4);
    write(&mut u, &mut o, 600, 8);
    o.begun(128, 32, oracle::ZERO);
    u.empty(4..5, Base::Zero).unwrap();
    (disk, u, o)
}

fn valid(disk: &SimDisk, mut o: Oracle, seed: u64, what: &str) {
    disk.state.borrow_mut().crash(&mut Random(seed));
    let u = match SimUnion::attach_to(disk, &geometry()) {
        Ok(u) => u,
        Err(e) => panic!("{what}: {e}"),
    };
    for s in 0..geometry().union_sectors() {
        let tag = oracle::tag(&u.read(s), s);
        let valid = tag.is_some_and(|t| o.after_power_failure(s, t));
        assert!(valid, "{what}: sector {s} holds {tag:?}");
    }
}

/// Runs `act` with its n-th I/O failing, for each n, and returns the number of its I/Os.
fn each(what: &str, act: fn(&mut SimUnion, &mut Oracle) -> Result) -> u64 {
    for n in 0.. {
        for landed in [false, true] {
            let (disk, mut u, mut o) = scenario();
            disk.state.borrow_mut().fail_in = Some((n, landed));
            let done = act(&mut u, &mut o);
            if disk.state.borrow_mut().fail_in.take().is_some() {
                // The failing I/O was not reached, so everything succeeded.
                done.unwrap();
                o.flushed();
                valid(&disk, o, n, what);
                return n;
            }
            let what = format!("{what}, I/O {n}, landed {landed}");
            assert!(matches!(done, Err(Error::Io(..))), "{what}: {done:?}");
            // The failure is permanent. The device works again, but no later commit succeeds.
            assert_eq!(u.committer.failed(), done.err(), "{what}");
            let before = disk.counts();
            assert_eq!(u.committer.commit(&u.map, &mut u.disk), done, "{what}");
            assert_eq!(u.committer.checkpoint(&u.map, &mut u.disk), done, "{what}");
            assert_eq!(u.committer.detach(&u.map, &mut u.disk), done, "{what}");
            assert!(!u.committer.wants_checkpoint(), "{what}");
            assert_eq!(disk.counts(), before, "{what}: written even so");
            u.verify_running(&o);
            for seed in 0..8 {
                let again = SimDisk::with(sim::disk::DiskState::of(&disk.state.borrow().moment()));
                valid(&again, o.clone(), seed, &what);
            }
        }
    }
    0
}

#[test]
fn of_a_commit() {
    // The transaction, and the empty one after it.
    let n = each("commit", |u, _| u.committer.commit(&u.map, &mut u.disk));
    assert_eq!(n, 2);
}

#[test]
fn of_a_checkpoint() {
    // Pages, the directory, two superblocks.
    let n = each("checkpoint", |u, _| {
        u.committer.checkpoint(&u.map, &mut u.disk)
    });
    assert_eq!(n, 4);
}

#[test]
fn of_a_detach() {
    let n = each("detach", |u, _| u.committer.detach(&u.map, &mut u.disk));
    assert_eq!(n, 4);
}

/// A commit that finds the ring full makes a checkpoint, and a failure there fails the commit.
#[test]
fn of_a_commit_without_space() {
    let n = each("commit without space", |u, o| {
        let fail = u.disk.state.borrow_mut().fail_in.take();
        for at in 700.. {
            let tag = o.new_tag();
            o.begun(at, 1, tag);
            u.write(at, 1, tag, true).unwrap();
            if u.committer.journal_used() == 16 {
                break;
            }
            u.committer.commit(&u.map, &mut u.disk)?;
            o.flushed();
        }
        u.disk.state.borrow_mut().fail_in = fail;
        u.committer.commit(&u.map, &mut u.disk)
    });
    assert_eq!(n, 4);
}

/// An attach that fails does no harm: the next attach finds everything.
#[test]
fn of_an_attach() {
    for n in 0.. {
        let (disk, u, o) = scenario();
        drop(u);
        disk.state.borrow_mut().fail_in = Some((n, n % 2 == 0));
        let done = SimUnion::attach_to(&disk, &geometry()).map(drop);
        let reached = disk.state.borrow_mut().fail_in.take().is_none();
        // If attach cannot read both superblock slots at once, it reads them one by one.
        assert_eq!(done.is_err(), reached && n > 0, "I/O {n}: {done:?}");
        valid(&disk, o, n, "attach");
        if !reached {
            assert!(n > 10, "{n}");
            return;
        }
    }
}

/// The driver decides by what the committer reports about itself.
#[test]
fn what_a_committer_tells() {
    let (_, mut u, _) = scenario();
    assert!(u.committer.failed().is_none() && !u.committer.is_committed(&u.map));
    let used = u.committer.journal_used();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert_eq!(u.committer.journal_used(), used + 2);
    assert_eq!(u.committer.committed(), u.map.changes());
    assert!(u.committer.committed() > 1 && u.committer.is_committed(&u.map));
    while u.committer.journal_used() <= 8 {
        assert!(!u.committer.wants_checkpoint());
        let at = 700 + u64::from(u.committer.journal_used());
        u.write(at, 1, 9, true).unwrap();
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        assert_eq!(u.committer.committed(), u.map.changes());
    }
    assert!(u.committer.wants_checkpoint());
    u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
    assert!(!u.committer.wants_checkpoint() && u.committer.journal_used() == 0);
    assert!(u.read(700) == content(ROOT, 700));
}
