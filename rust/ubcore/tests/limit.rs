// SPDX-License-Identifier: GPL-2.0

//! The limit of a leaf: what it refuses and what not, that it is stored, and that a change of it
//! changes nothing else.

use std::num::NonZeroU32;

use sim::disk::{Counts, Random, SimDisk};
use sim::inspect::look;
use sim::inspect::workloads::*;
use sim::union::{load, SimUnion};
use ubcore::alloc::{Allocated, Denied};
use ubcore::attach::read_superblock;
use ubcore::error::{Error, Result};
use ubcore::format::superblock::Superblock;
use ubcore::limit::set;
use ubcore::map::Base;
use ubcore::stack::chain::Seal;

fn slabs(n: u32) -> Option<NonZeroU32> {
    Some(NonZeroU32::new(n).unwrap())
}

fn set_at_rest(disk: &SimDisk, limit: Option<NonZeroU32>) -> Result<Superblock> {
    let mut disk = disk.clone();
    let probe = read_superblock(&mut disk)?;
    set(&mut disk, &probe, limit)
}

fn set_live(u: &mut SimUnion, limit: Option<NonZeroU32>) -> Result {
    u.committer.set_limit(&mut u.disk, limit)?;
    u.allocator.set_limit(limit);
    Ok(())
}

fn write(u: &mut SimUnion, slab: u64) -> Allocated {
    u.allocator.allocate_range(&u.map, slab * SLAB, 1)?;
    u.write(slab * SLAB, 1, slab + 1, true)
}

const FULL: Allocated = Err(Denied::Failed(Error::Full));

#[test]
fn at_the_limit_it_is_as_if_the_leaf_were_full() {
    let (disk, _) = used();
    set_at_rest(&disk, slabs(6)).unwrap();
    let mut u = attach(&disk).unwrap();
    assert_eq!((u.allocator.used(), u.allocator.limit()), (4, 6));
    // All of a range, or nothing of it.
    let three = u
        .allocator
        .allocate_range(&u.map, 10 * SLAB, 3 * SLAB as u32);
    assert_eq!((three, u.allocator.used()), (FULL, 4));
    assert_eq!((write(&mut u, 10), write(&mut u, 11)), (Ok(()), Ok(())));
    assert_eq!(write(&mut u, 12), FULL);
    assert_eq!(
        u.allocator.allocate(&u.map, 12).err(),
        Some(Denied::Failed(Error::Full))
    );
    // Overwrites, and first writes to a slab that is there.
    u.write(10 * SLAB, 9, 70, true).unwrap();
    u.flush().unwrap();
    // A slab that is about to be free makes the write wait, and then there is room.
    u.empty(10..11, Base::Zero).unwrap();
    assert_eq!(write(&mut u, 12), Err(Denied::Later));
    u.flush().unwrap();
    assert_eq!(write(&mut u, 12), Ok(()));
    assert_eq!(write(&mut u, 13), FULL);
    // Changed while it is used. It may be below what is used.
    set_live(&mut u, slabs(7)).unwrap();
    assert_eq!((write(&mut u, 13), write(&mut u, 14)), (Ok(()), FULL));
    set_live(&mut u, slabs(3)).unwrap();
    assert_eq!((u.allocator.used(), write(&mut u, 14)), (7, FULL));
    u.write(11 * SLAB, 3, 71, true).unwrap();
    u.detach().unwrap();
    assert_eq!(look(&disk).unwrap().findings, []);
    let mut u = attach(&disk).unwrap();
    assert_eq!((u.allocator.limit(), write(&mut u, 14)), (3, FULL));
    set_live(&mut u, None).unwrap();
    for slab in 14..14 + u64::from(u.allocator.slabs() - 7) {
        assert_eq!(write(&mut u, slab), Ok(()));
    }
    assert_eq!(write(&mut u, 400), FULL);
}

#[test]
fn no_leaf_has_a_limit_unless_it_was_set() {
    let (disk, l) = used();
    assert_eq!(l.sb.features.limit(), None);
    let u = attach(&disk).unwrap();
    assert_eq!(u.allocator.limit(), u.allocator.slabs());
    // More than there is, and none at all.
    for limit in [slabs(u32::MAX), None] {
        set_at_rest(&disk, limit).unwrap();
        let u = attach(&disk).unwrap();
        assert_eq!(u.allocator.limit(), u.allocator.slabs());
    }
    assert_eq!(look(&disk).unwrap().sb.features, l.sb.features);
}

#[test]
fn the_limit_survives_commits_checkpoints_and_a_reset() {
    let (disk, _) = used();
    set_at_rest(&disk, slabs(9)).unwrap();
    let mut u = attach(&disk).unwrap();
    write(&mut u, 20).unwrap();
    u.flush().unwrap();
    u.checkpoint().unwrap();
    let mut u = u.reset().unwrap();
    assert_eq!((u.allocator.used(), u.allocator.limit()), (0, 9));
    write(&mut u, 20).unwrap();
    u.detach().unwrap();
    let sb = read_superblock(&mut disk.clone()).unwrap().superblock;
    assert_eq!(sb.features.limit(), slabs(9));
    let probe = read_superblock(&mut disk.clone()).unwrap();
    ubcore::reset::reset(&mut disk.clone(), &probe).unwrap();
    assert_eq!(attach(&disk).unwrap().allocator.limit(), 9);
}

/// A change of the limit is two writes. Whatever lands of them, the leaf holds what it held.
#[test]
fn a_power_failure_leaves_the_old_limit_or_the_new_one() {
    let wanted = Counts {
        flush_fua_writes: 1,
        fua_writes: 1,
        blocks_written: 2,
        ..Counts::default()
    };
    for live in [false, true] {
        let mut seen = [0; 2];
        for seed in 0..40 {
            let (disk, _) = committed();
            let plain = content(&disk);
            let mut u = load(&disk, ROOT, LEAF).unwrap();
            let mut random = Random(seed);
            disk.state.borrow_mut().counts = Counts::default();
            disk.state.borrow_mut().power_fails_in = Some(seed % 4);
            disk.state.borrow_mut().random = Some(random.clone());
            let done = match live {
                true => set_live(&mut u, slabs(5)),
                false => set_at_rest(&disk, slabs(5)).map(drop),
            };
            if done.is_ok() && live {
                assert_eq!(disk.counts(), wanted);
            }
            disk.state.borrow_mut().crash(&mut random);
            assert!(content(&disk) == plain);
            let found = read_superblock(&mut disk.clone()).unwrap().superblock;
            let is_new = match found.features.limit().map(NonZeroU32::get) {
                Some(5) => true,
                None => false,
                other => panic!("{other:?}"),
            };
            assert!(is_new || done.is_err(), "an answered change is gone");
            seen[usize::from(is_new)] += 1;
            attach(&disk).unwrap().detach().unwrap();
            assert!(content(&disk) == plain);
        }
        assert!(seen.iter().all(|&n| n > 5), "{seen:?}");
    }
}

#[test]
fn a_failed_change_is_a_failed_commit() {
    let (disk, _) = committed();
    let mut u = attach(&disk).unwrap();
    disk.state.borrow_mut().fail_in = Some((1, true));
    assert!(set_live(&mut u, slabs(5)).is_err());
    assert!(u.flush().is_err() && u.checkpoint().is_err());
    let (disk, _) = used();
    let mut u = load(&disk, ROOT, LEAF).unwrap();
    u.committer
        .freeze(&u.map, &mut u.disk, Seal([1; 16]))
        .unwrap();
    let before = disk.image();
    assert_eq!(set_at_rest(&disk, slabs(1)).err(), Some(Error::Frozen));
    assert!(disk.image() == before);
}
