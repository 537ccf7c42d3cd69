// SPDX-License-Identifier: GPL-2.0

//! A reset: that the write of one superblock slot commits it, that nothing from before it is found
//! again, and that its cost does not depend on what the leaf holds.

use sim::disk::{Counts, Random, SimDisk};
use sim::inspect::workloads::*;
use sim::inspect::{edit, edit_slots, look};
use sim::oracle::{content as tagged, ROOT as OF_ROOT};
use sim::union::{load, SimUnion};
use ubcore::attach::read_superblock;
use ubcore::error::{Error, Result};
use ubcore::format::superblock::Superblock;
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;
use ubcore::reset::reset;
use ubcore::stack::chain::Seal;

/// Resets a leaf that is not attached.
fn reset_at_rest(disk: &SimDisk) -> Result<Superblock> {
    let mut disk = disk.clone();
    let probe = read_superblock(&mut disk)?;
    reset(&mut disk, &probe)
}

/// Returns what an empty leaf reads as.
fn empty() -> Vec<[u8; 512]> {
    let mut disk = SimDisk::new();
    sim::union::format(&mut disk, geometry());
    content(&disk)
}

/// Checks that a leaf is empty, and stays so for what is not written to it.
fn check_empty(disk: &SimDisk, empty: &[[u8; 512]]) {
    assert!(content(disk) == empty);
    let looked = look(disk).unwrap();
    assert_eq!(looked.totals.to_replay, 0);
    let mut u = attach(disk).unwrap();
    assert_eq!(u.allocator.used(), 0);
    // Where there may be a stale slab, table page or transaction.
    for at in [1, 900, 1024, 2047] {
        u.write(at * SLAB + 7, 1, 500 + at, true).unwrap();
        u.flush().unwrap();
    }
    drop(u);
    let u = load(disk, ROOT, LEAF).unwrap();
    for at in [1, 900, 1024, 2047] {
        for s in at * SLAB..(at + 1) * SLAB {
            let tag = if s == at * SLAB + 7 {
                500 + at
            } else {
                OF_ROOT
            };
            assert!(u.read(s) == tagged(tag, s), "sector {s}");
        }
    }
    assert_eq!(u.allocator.used(), 4);
}

/// Returns a leaf that was used and not detached, with something to replay.
fn busy() -> SimDisk {
    let (disk, _) = used();
    let mut u = attach(&disk).unwrap();
    use_more(&mut u).unwrap();
    assert!(u.committer.journal_used() > 0);
    drop(u);
    disk
}

fn use_more(u: &mut SimUnion) -> Result {
    for slab in [3, 900, 2047] {
        u.write(slab * SLAB, 9, 40 + slab, true).unwrap();
    }
    u.empty(1024..1025, Base::Zero)?;
    u.committer.commit(&u.map, &mut u.disk)
}

#[test]
fn nothing_is_left_of_any_workload() {
    let mut random = Random(72);
    let empty = empty();
    let mut replayed = 0;
    for _ in 0..workloads() {
        let fails_at = Some(random.below(60));
        let disk = workload(&mut random, fails_at);
        let before = read_superblock(&mut disk.clone()).unwrap().superblock;
        replayed += u32::from(look(&disk).unwrap().totals.to_replay > 0);
        let after = reset_at_rest(&disk).unwrap();
        assert_eq!(after.generation, before.generation + 1);
        assert!(after.clean);
        let same = Superblock {
            generation: before.generation,
            journal_sequence: before.journal_sequence,
            clean: before.clean,
            directory_slots: before.directory_slots,
            ..after
        };
        assert!(same == before, "a reset changes something else");
        check_empty(&disk, &empty);
    }
    assert!(replayed > 10, "{replayed}");
}

#[test]
fn nothing_is_left_after_many_workloads_of_one_leaf() {
    let mut random = Random(73);
    let empty = empty();
    let mut disk = SimDisk::new();
    sim::union::format(&mut disk, geometry());
    for n in 0..workloads() {
        disk.state.borrow_mut().power_fails_in = Some(random.below(90));
        disk.state.borrow_mut().random = Some(random.clone());
        let _ = attach(&disk).and_then(|mut u| {
            for tag in 0..random.below(40) {
                if n % 2 == 0 && random.chance(10) {
                    u = u.reset()?;
                }
                step(&mut u, &mut random, tag + 1)?;
            }
            u.detach()
        });
        disk.state.borrow_mut().crash(&mut random);
        reset_at_rest(&disk).unwrap();
        check_empty(&disk, &empty);
    }
}

#[test]
fn the_cost_does_not_depend_on_what_the_leaf_holds() {
    let cost = |disk: &SimDisk| {
        disk.state.borrow_mut().counts = Counts::default();
        reset_at_rest(disk).unwrap();
        disk.counts()
    };
    let wanted = Counts {
        reads: 1,
        flush_fua_writes: 1,
        fua_writes: 1,
        blocks_written: 2,
        ..Counts::default()
    };
    let mut blank = SimDisk::new();
    sim::union::format(&mut blank, geometry());
    assert_eq!(cost(&blank), wanted);
    assert_eq!(cost(&used().0), wanted);
    assert_eq!(cost(&busy()), wanted);
    // The same without the read, if the leaf is attached.
    let mut u = attach(&busy()).unwrap();
    u.disk.state.borrow_mut().counts = Counts::default();
    let u = u.reset().unwrap();
    assert_eq!(u.disk.counts(), Counts { reads: 0, ..wanted });
}

#[test]
fn a_power_failure_resets_all_or_nothing() {
    let (plain, empty) = (content(&busy()), empty());
    assert!(plain != empty);
    for live in [false, true] {
        let (mut old, mut new) = (0, 0);
        for seed in 0..16 {
            for at in 0.. {
                let disk = busy();
                let mut u = attach(&disk).unwrap();
                use_more(&mut u).unwrap();
                let mut random = Random(seed * 1000 + at);
                disk.state.borrow_mut().power_fails_in = Some(at);
                disk.state.borrow_mut().random = Some(random.clone());
                let done = match live {
                    true => u.reset().map(drop),
                    false => reset_at_rest(&disk).map(drop),
                };
                disk.state.borrow_mut().crash(&mut random);
                let found = content(&disk);
                if found == empty {
                    new += 1;
                } else {
                    old += 1;
                    assert!(found == plain, "between, at I/O {at}");
                    assert!(done.is_err(), "an answered reset is gone");
                    reset_at_rest(&disk).unwrap();
                }
                check_empty(&disk, &empty);
                if done.is_ok() {
                    break;
                }
            }
        }
        assert!(old > 10 && new > 20, "{old} {new}");
    }
}

#[test]
fn a_failed_write_resets_all_or_nothing() {
    let (plain, empty) = (content(&busy()), empty());
    for (live, landed) in [(false, false), (false, true), (true, false), (true, true)] {
        for at in 0.. {
            let disk = busy();
            let mut u = attach(&disk).unwrap();
            use_more(&mut u).unwrap();
            disk.state.borrow_mut().fail_in = Some((at, landed));
            let done = match live {
                true => u.reset().map(drop),
                false => reset_at_rest(&disk).map(drop),
            };
            let failed = disk.state.borrow_mut().fail_in.take().is_none();
            // At rest the first I/O reads both superblock slots. If it fails, they are read one by
            // one.
            assert_eq!(failed && (live || at > 0), done.is_err());
            let found = content(&disk);
            assert!(found == plain || found == empty);
            if !failed {
                assert!(at > 1, "{at}");
                break;
            }
            if live {
                // Nothing writes by the old map, because it may not be the leaf's any more.
                let before = disk.image();
                u.map.map_sectors(3 * SLAB, 20).unwrap();
                assert!(u.flush().is_err() && u.checkpoint().is_err() && u.detach().is_err());
                assert!(disk.image() == before);
            }
            reset_at_rest(&disk).unwrap();
            check_empty(&disk, &empty);
        }
    }
}

#[test]
fn the_union_that_was_reset_continues() {
    let empty = empty();
    let disk = busy();
    let mut old = attach(&disk).unwrap();
    use_more(&mut old).unwrap();
    // Pages that a checkpoint has stored before its superblock.
    let stored = old
        .committer
        .store_some(&old.map, &mut old.disk, ubcore::geometry::MapPage(0));
    stored.unwrap();
    // Changes that no commit has covered are forgotten too, and the timer finds nothing to commit.
    old.write(7 * SLAB, 5, 70, true).unwrap();
    assert!(!old.committer.is_committed(&old.map));
    let mut u = old.reset().unwrap();
    assert!(old.committer.is_committed(&old.map));
    let before = disk.image();
    old.map.map_sectors(3 * SLAB, 20).unwrap();
    assert_eq!(old.flush(), Err(Error::Internal));
    assert!(disk.image() == before);
    assert!(content(&disk) == empty);
    assert_eq!(u.read(3 * SLAB), tagged(OF_ROOT, 3 * SLAB));
    // More than the ring takes, so that it wraps over what the old union wrote.
    for n in 0..40 {
        u.write((n % 20) * SLAB + n / 20, 1, 600 + n, true).unwrap();
        u.flush().unwrap();
        let again = load(&disk, ROOT, LEAF).unwrap();
        let at = (n % 20) * SLAB + n / 20;
        assert!(again.read(at) == tagged(600 + n, at));
        assert_eq!(u64::from(again.allocator.used()), (n + 1).min(20));
    }
    u.detach().unwrap();
    assert_eq!(look(&disk).unwrap().findings, []);
}

/// Damage to anything but both superblock slots is forgotten with the rest.
#[test]
fn a_damaged_leaf_is_whole_after_a_reset() {
    let empty = empty();
    let (_, l) = committed();
    for (block, bytes, _) in in_use(&committed().0, &l) {
        // The list of root and layers says what the leaf lies on, and stays.
        if (0..l.sb.geometry.below_list_blocks())
            .any(|n| l.sb.geometry.below_list_block(n) == block)
        {
            continue;
        }
        let (disk, _) = committed();
        edit(&disk, block, |b| b[bytes / 2] ^= 4);
        disk.state.borrow_mut().unreadable.insert(block.0);
        if block.0 < 2 {
            disk.state.borrow_mut().unreadable.clear();
        }
        reset_at_rest(&disk).unwrap();
        disk.state.borrow_mut().unreadable.clear();
        check_empty(&disk, &empty);
    }
}

#[test]
fn what_cannot_be_reset_is_unchanged() {
    let refused = |disk: &SimDisk, wanted: Error| {
        let before = disk.image();
        assert_eq!(reset_at_rest(disk).err(), Some(wanted));
        assert!(disk.image() == before);
    };
    let (disk, _) = used();
    let mut u = load(&disk, ROOT, LEAF).unwrap();
    u.committer
        .freeze(&u.map, &mut u.disk, Seal([1; 16]))
        .unwrap();
    refused(&disk, Error::Frozen);
    let mut u = load(&disk, ROOT, LEAF).unwrap();
    assert_eq!(u.reset().err(), Some(Error::Frozen));
    // Numbers that are used up: no leaf gets there, but its writer may choose them.
    for field in [16, 120] {
        let (disk, _) = used();
        let last = ((1u64 << 63) - 1).to_le_bytes();
        edit_slots(&disk, &[0, 1], |b| {
            b[field..field + 8].copy_from_slice(&last)
        });
        refused(&disk, Error::Internal);
    }
    let (disk, _) = used();
    for at in [0, 1] {
        edit(&disk, LeafBlock(at), |b| b[100] ^= 1);
    }
    let found = read_superblock(&mut disk.clone()).err();
    refused(&disk, found.unwrap());
}
