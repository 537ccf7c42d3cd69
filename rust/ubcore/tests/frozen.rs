// SPDX-License-Identifier: GPL-2.0

//! A frozen leaf: what the freeze keeps, that the write of one superblock slot commits it, and that
//! nothing writes to the leaf later.

use sim::disk::{Random, SimDisk};
use sim::inspect::workloads::*;
use sim::inspect::{look, repair};
use sim::union::{load, SimUnion};
use ubcore::check::{repair, FindingKind};
use ubcore::error::{Error, Result};
use ubcore::format::superblock::choose;
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;
use ubcore::stack::chain::Seal;

const SEAL: Seal = Seal([0x5e; 16]);

fn freeze(disk: &SimDisk) -> Result {
    // A freeze needs no checkpoint of an attach before it.
    let mut u = load(disk, ROOT, LEAF)?;
    u.committer.freeze(&u.map, &mut u.disk, SEAL)
}

fn seal(disk: &SimDisk) -> Option<Seal> {
    let slots = [0, 8].map(|at| disk.read_sector(at));
    choose(&slots[0], &slots[1]).unwrap().0.frozen
}

#[test]
fn a_freeze_keeps_what_the_leaf_holds() {
    let mut random = Random(71);
    let mut replayed = 0;
    for _ in 0..workloads() {
        let fails_at = Some(random.below(60));
        let disk = workload(&mut random, fails_at);
        let before = content(&disk);
        replayed += u32::from(!look(&disk).unwrap().findings.is_empty());
        freeze(&disk).unwrap();
        assert!(content(&disk) == before);
        assert_eq!(seal(&disk), Some(SEAL));
        let findings = look(&disk).unwrap().findings;
        assert!(findings
            .iter()
            .all(|f| matches!(f.kind, FindingKind::Unowned { .. })));
    }
    assert!(replayed > 10, "{replayed}");
}

#[test]
fn nothing_writes_to_a_frozen_leaf() {
    let (disk, _) = used();
    freeze(&disk).unwrap();
    let before = disk.image();
    assert_eq!(attach(&disk).err(), Some(Error::Frozen));
    assert_eq!(freeze(&disk), Err(Error::Frozen));
    let mut u = load(&disk, ROOT, LEAF).unwrap();
    assert_eq!(u.committer.failed(), Some(Error::Frozen));
    u.write(7 * SLAB, 3, 9, true).unwrap();
    u.empty(9..10, Base::Zero).unwrap();
    assert_eq!(u.flush(), Err(Error::Frozen));
    assert_eq!(u.checkpoint(), Err(Error::Frozen));
    assert_eq!(u.detach(), Err(Error::Frozen));
    // The data of the write is on the leaf, where no map leads to it.
    let end = geometry().data_start();
    assert!(disk.image().range(..end).eq(before.range(..end)));
}

#[test]
fn the_committer_that_froze_writes_no_more() {
    let (disk, _) = used();
    let mut u = attach(&disk).unwrap();
    u.write(7 * SLAB, 3, 9, true).unwrap();
    u.committer.freeze(&u.map, &mut u.disk, SEAL).unwrap();
    let before = disk.image();
    u.map.map_sectors(7 * SLAB, 5).unwrap();
    assert_eq!(u.flush(), Err(Error::Frozen));
    assert!(disk.image() == before);
    let u = load(&disk, ROOT, LEAF).unwrap();
    assert!(u.read(7 * SLAB + 2) == sim::oracle::content(9, 7 * SLAB + 2));
}

/// Returns a leaf that was used and not detached, with something to replay.
fn busy() -> SimDisk {
    let (disk, _) = used();
    let mut u = attach(&disk).unwrap();
    for slab in [3, 900, 2047] {
        u.write(slab * SLAB, 9, 40 + slab, true).unwrap();
    }
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    assert!(u.committer.journal_used() > 0);
    drop(u);
    disk
}

#[test]
fn a_power_failure_freezes_all_or_nothing() {
    let plain = content(&busy());
    let (mut frozen, mut live) = (0, 0);
    for seed in 0..4 {
        for at in 0.. {
            let disk = busy();
            let mut random = Random(seed * 1000 + at);
            disk.state.borrow_mut().power_fails_in = Some(at);
            disk.state.borrow_mut().random = Some(random.clone());
            let done = freeze(&disk);
            disk.state.borrow_mut().crash(&mut random);
            assert!(content(&disk) == plain, "the power fails at I/O {at}");
            if seal(&disk).is_some() {
                frozen += 1;
                assert_eq!(attach(&disk).err(), Some(Error::Frozen));
            } else {
                live += 1;
                assert!(done.is_err(), "an answered freeze is gone");
                // It is a leaf like any other, and can be frozen again.
                let mut u = attach(&disk).unwrap();
                u.write(5 * SLAB, 1, 77, true).unwrap();
                u.flush().unwrap();
                drop(u);
                freeze(&disk).unwrap();
                assert_eq!(seal(&disk), Some(SEAL));
            }
            if done.is_ok() {
                break;
            }
        }
    }
    assert!(frozen > 4 && live > 8, "{frozen} {live}");
}

#[test]
fn a_failed_write_freezes_all_or_nothing() {
    let plain = content(&busy());
    for landed in [false, true] {
        for at in 0.. {
            let disk = busy();
            disk.state.borrow_mut().fail_in = Some((at, landed));
            let done = freeze(&disk);
            // A read that fails may be repeated.
            let failed = disk.state.borrow_mut().fail_in.take().is_none();
            assert!(content(&disk) == plain);
            match seal(&disk) {
                Some(_) => assert_eq!(attach(&disk).err(), Some(Error::Frozen)),
                None => drop(attach(&disk).unwrap()),
            }
            if !failed {
                assert!(done.is_ok() && at > 7, "{at}");
                break;
            }
        }
    }
}

/// The second slot may be damaged, or be older after a power failure. The check reports it. It is
/// not repaired, because a repair would write to a frozen leaf.
#[test]
fn a_frozen_leaf_is_not_repaired() {
    let (disk, _) = used();
    freeze(&disk).unwrap();
    sim::inspect::edit(&disk, LeafBlock(1), |b| b[100] ^= 1);
    let before = disk.image();
    let looked = look(&disk).unwrap();
    assert_eq!(looked.findings.len(), 1);
    assert!(repair(&disk, &looked).is_err());
    assert!(disk.image() == before);
    let slot = repair::repair_slot(&mut disk.clone(), &looked.sb, looked.slot);
    assert_eq!(slot, Err(Error::Frozen));
}

#[test]
fn a_union_can_be_frozen_as_it_is_attached() {
    let (disk, _) = used();
    let u = SimUnion::attach_to(&disk, &geometry()).unwrap();
    drop(u);
    freeze(&disk).unwrap();
    assert_eq!(seal(&disk), Some(SEAL));
}
