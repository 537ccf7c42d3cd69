// SPDX-License-Identifier: GPL-2.0

//! Runs the protocol on system threads: tests the works that it schedules, and what each answer
//! promises.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;

use sim::disk::Random;
use sim::host::{fresh, fresh_without_pages, DeviceFeatures, Handle, Outcome};
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Base, Entry, Memory};

/// Makes three slabs of 32 sectors over so many on the leaf.
fn geometry(leaf_slabs: u64) -> Geometry {
    Geometry::new(96, 96, 2048 + leaf_slabs * 32, 32, 16).unwrap()
}

fn union(leaf_slabs: u64) -> Handle {
    fresh(geometry(leaf_slabs))
}

/// Checks each moment at which the power can fail, with nothing, all, and some of the cache landed.
fn check_all(u: &Handle, seed: u64) {
    let mut random = Random(seed);
    let [moments, promises] = u.moments();
    for moment in moments.into_iter().chain(promises) {
        u.check(moment.clone(), || false);
        u.check(moment.clone(), || true);
        u.check(moment, || random.chance(2));
    }
}

#[test]
fn every_change_is_committed_without_a_flush() {
    let ways: [fn(&Handle); 4] = [
        |u| assert_eq!(u.write(0..8, 1, false), Outcome::Ok),
        |u| assert_eq!(u.zero(0..32), Outcome::Ok),
        |u| assert_eq!(u.zero(30..34), Outcome::Ok),
        |u| {
            u.write(0..8, 1, false);
            assert_eq!(u.discard(0..32), Outcome::Ok);
        },
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let u = union(2);
        way(&u);
        u.quiesce();
        assert!(u.is_committed(), "way {n}: a change that no timer commits");
        assert!(!u.any_emptied(), "way {n}: space that nothing reclaims");
        check_all(&u, n as u64);
    }
}

/// Zeroes two slabs in part, while one slab is free.
#[test]
fn zeroing_without_space_for_all_of_it_changes_nothing() {
    let u = union(1);
    assert_eq!(u.zero(30..34), Outcome::Full);
    u.quiesce();
    assert!(u.is_committed());
    assert_eq!(u.read(28..36), Outcome::Ok);
    // No leaf slab was allocated for it.
    assert_eq!(u.write(70..72, 1, true), Outcome::Ok);
    check_all(&u, 1);
}

/// The block layer merges an overwrite with a write that needs a slab, and no slab is free. The
/// overwrite succeeds, and the other write fails.
#[test]
fn a_full_leaf_fails_only_the_bios_that_need_space() {
    let u = union(1);
    assert_eq!(u.write(0..32, 1, false), Outcome::Ok);
    assert_eq!(
        u.write_merged(&[24..28, 28..32, 32..40], 2),
        [true, true, false]
    );
    assert_eq!(u.write_merged(&[24..28, 28..36], 3), [true, false]);
    assert_eq!(u.write_merged(&[32..36, 36..40], 4), [false, false]);
    assert_eq!(u.read(0..96), Outcome::Ok);
    u.quiesce();
    assert_eq!(u.discard(0..32), Outcome::Ok);
    u.quiesce();
    assert_eq!(u.write_merged(&[24..32, 32..40], 5), [false, false]);
    assert_eq!(u.write(32..33, 6, true), Outcome::Ok);
    assert_eq!(u.read(0..96), Outcome::Ok);
    check_all(&u, 2);
}

/// The second of two parts cannot be written. The first has already changed the map, and that is
/// committed.
#[test]
fn zeroing_that_fails_half_way_is_committed() {
    for n in 0..4 {
        let u = union(3);
        u.write(70..71, 1, true);
        u.quiesce();
        // The commit for deferred requests comes first, with one flush. Then come two parts.
        u.fail_in(Some(n));
        let outcome = u.zero(30..34);
        u.fail_in(None);
        u.quiesce();
        // The timer's commit may take the access that fails.
        assert_ne!(outcome, Outcome::Full, "access {n}");
        let all = n < 3 && outcome == Outcome::Ok && !u.is_read_only();
        assert!(!all, "access {n}: nothing has failed");
        assert!(u.is_committed() || u.is_read_only(), "access {n}");
        check_all(&u, n);
    }
}

/// Only an error of a device is counted. Failed read-ahead is not, nor is a lack of space below the
/// leaf.
#[test]
fn what_is_no_error_of_a_device_does_not_count() {
    let u = union(3);
    let errors = || *u.io_errors.lock().unwrap();
    assert_eq!(u.read_ahead(0..8), Outcome::IoError);
    let no_space = || *u.no_space.lock().unwrap();
    assert_eq!((errors(), no_space()), (0, 0), "read-ahead");
    *u.host_full.lock().unwrap() = true;
    assert_eq!(u.zero(30..34), Outcome::IoError);
    assert_eq!((errors(), no_space()), (0, 1), "no space");
    *u.host_full.lock().unwrap() = false;
    u.quiesce();
    u.fail_in(Some(0));
    assert_eq!(u.write(0..8, 1, false), Outcome::IoError);
    assert_eq!((errors(), no_space()), (1, 1));
    u.fail_in(None);
    u.quiesce();
}

#[test]
fn a_commit_that_fails_turns_the_union_read_only() {
    let u = union(2);
    // The data is written. The next access is that of a commit, by the flush or by the timer.
    u.fail_in(Some(1));
    u.write(0..8, 1, false);
    u.quiesce();
    assert!(u.is_read_only());
    u.fail_in(None);
    assert_eq!(u.flush(), Outcome::IoError);
    assert_eq!(u.write(0..8, 2, false), Outcome::IoError);
    assert_eq!(u.discard(0..32), Outcome::IoError);
    assert_eq!(u.zero(0..32), Outcome::IoError);
    assert_eq!(u.read(0..8), Outcome::Ok);
    u.quiesce();
    check_all(&u, 2);
}

/// The slab has a leaf slab without a page of bits, which no code makes.
#[test]
fn a_write_that_cannot_be_recorded_fails_and_stops_the_union() {
    let u = fresh_without_pages(geometry(2));
    u.map
        .set_entry(0, Entry::allocated(LeafSlab(1), Base::Below))
        .unwrap();
    assert_eq!(u.write(0..8, 1, false), Outcome::IoError);
    u.quiesce();
    assert!(u.is_read_only());
    assert_eq!(u.flush(), Outcome::IoError);
    assert_eq!(u.write(40..48, 1, false), Outcome::IoError);
}

/// A write is deferred while another thread writes, discards and flushes one slab after another, so
/// that each round of reclaim leaves slabs for the next.
#[test]
fn a_deferred_write_does_not_wait_for_the_discards_of_others() {
    const ROUNDS: u32 = 50;
    let u = union(3);
    u.write(0..8, 1, true);
    let written = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU32::new(0));
    let (ended, count) = (written.clone(), rounds.clone());
    u.on_discard(move |u| {
        let n = count.fetch_add(1, Relaxed);
        if n < ROUNDS && !ended.load(Relaxed) {
            let slab = (1 + u64::from(n % 2)) * 32;
            assert_eq!(u.write(slab..slab + 8, 2, false), Outcome::Ok);
            assert_eq!(u.discard(slab..slab + 32), Outcome::Ok);
            assert_eq!(u.flush(), Outcome::Ok);
        }
    });
    assert_eq!(u.discard(0..32), Outcome::Ok);
    assert_eq!(u.write(0..8, 3, false), Outcome::Ok);
    written.store(true, Relaxed);
    let waited = rounds.load(Relaxed);
    u.quiesce();
    assert!(waited > 0, "the write was not deferred");
    assert!(waited < ROUNDS, "the write waited for {waited} rounds");
    check_all(&u, 3);
}

/// Runs four threads on three slabs, two of them on the leaf.
fn many_requests(u: &Handle, seed: u64) {
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let u = u.clone();
            std::thread::spawn(move || some_requests(&u, seed * 4 + n))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    u.quiesce();
    assert!(u.is_committed() && !u.any_emptied(), "seed {seed}");
    check_all(u, seed);
    u.detach();
}

#[test]
fn many_requests_at_once_are_answered_and_valid() {
    for seed in 0..20 {
        many_requests(&union(2), seed);
    }
}

/// The same over a leaf without FUA, without a volatile cache, and without both.
#[test]
fn many_requests_over_other_devices() {
    for seed in 0..9 {
        let u = union(2);
        u.set_device(DeviceFeatures {
            fua: seed % 3 == 1,
            cache: seed % 3 == 0,
        });
        many_requests(&u, seed);
    }
}

/// The map has no page, and the first requests must wait for each.
#[test]
fn many_requests_without_memory_for_the_map() {
    for seed in 0..6 {
        let u = fresh_without_pages(geometry(2));
        u.map.memory().set_free(0);
        many_requests(&u, seed);
        // A request has waited for this page.
        assert!(u.map.memory().table(0).is_some());
    }
}

fn some_requests(u: &Handle, seed: u64) {
    let mut random = Random(seed);
    for n in 0..12 {
        let at = random.below(90);
        let sectors = at..at + 1 + random.below(6);
        let tag = 1 + seed * 100 + n;
        match random.below(6) {
            0 => u.read(sectors),
            1 => u.flush(),
            2 => u.zero(sectors),
            3 => u.discard(at / 32 * 32..at / 32 * 32 + 32),
            fua => u.write(sectors, tag, fua == 5),
        };
    }
}
