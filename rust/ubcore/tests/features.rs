// SPDX-License-Identifier: GPL-2.0

//! Leaves of a later unionblk: tests what each class of feature bits makes this code do. The tests
//! make the leaves by editing bytes at the offsets of the format's table, not with the encoder
//! under test.

use sim::disk::{Random, SimDisk};
use sim::inspect::workloads::*;
use sim::inspect::{self, edit_slots, look, repair};
use sim::union::{load, SimUnion};
use ubcore::alloc::Allocated;
use ubcore::check::{repair, Finding, FindingKind};
use ubcore::error::{Area, Error};
use ubcore::format::superblock::Superblock;
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;

const COMPAT: usize = 24;
const RO_COMPAT: usize = 32;
const INCOMPAT: usize = 40;
/// The bytes of compatible features.
const KEPT: core::ops::Range<usize> = 192..208;
/// Flags that other features may use.
const ANNOUNCED: [usize; 2] = [109, 111];
/// The bytes of known features: the number of layers, the seal, and the chain.
const OF_KNOWN: [usize; 4] = [116, 208, 224, 255];

fn set(disk: &SimDisk, slots: &[u64], at: usize, bits: u64) {
    edit_slots(disk, slots, |b| {
        b[at..at + 8].copy_from_slice(&bits.to_le_bytes())
    });
}

/// Writes both slots as a later unionblk with compatible features does.
fn with_compat(disk: &SimDisk) {
    set(disk, &[0, 1], COMPAT, 0x8000_0000_0000_0102);
    edit_slots(disk, &[0, 1], |b| {
        for (n, byte) in b[KEPT].iter_mut().enumerate() {
            *byte = n as u8 ^ 0xa5;
        }
    });
}

/// Returns whether a slot has what [`with_compat`] wrote.
fn has_compat(disk: &SimDisk, slot: u64) -> bool {
    let b = disk.read_sector(slot * 8);
    b[COMPAT..COMPAT + 8] == 0x8000_0000_0000_0102u64.to_le_bytes()
        && b[KEPT]
            .iter()
            .enumerate()
            .all(|(n, &byte)| byte == n as u8 ^ 0xa5)
}

/// What a check notes of a leaf that [`with_compat`] wrote to; it finds nothing worse.
const NOTED: FindingKind = FindingKind::UnknownFeatures {
    compat: 0x8000_0000_0000_0102,
    ro_compat: 0,
};

fn whats(disk: &SimDisk) -> Vec<FindingKind> {
    let list = look(disk).unwrap().findings;
    list.iter().map(|f| f.kind).collect()
}

#[track_caller]
fn kept(disk: &SimDisk, when: &str) {
    assert!(
        has_compat(disk, 0) && has_compat(disk, 1),
        "the compatible feature is lost {when}"
    );
}

fn why(done: Result<SimUnion, Error>) -> String {
    done.err().map_or("attached".to_owned(), |e| e.to_string())
}

#[test]
fn a_compatible_feature_outlives_everything() {
    let (disk, _) = used();
    with_compat(&disk);
    let before = content(&disk);
    let mut u = attach(&disk).unwrap();
    kept(&disk, "by attach");
    for slab in [3, 1024, 2047] {
        u.write(slab * SLAB, 9, 40 + slab, true).unwrap();
        u.flush().unwrap();
    }
    u.empty(900..901, Base::Zero).unwrap();
    u.checkpoint().unwrap();
    kept(&disk, "by a checkpoint");
    u.detach().unwrap();
    kept(&disk, "by detach");
    assert!(content(&disk) != before);
    assert_eq!(whats(&disk), [NOTED]);
    // A repair of one slot from the other.
    for slot in [0, 1] {
        inspect::edit(&disk, LeafBlock(slot), |b| b[7] ^= 1);
        repair(&disk, &look(&disk).unwrap()).unwrap();
        kept(&disk, "by the repair of a slot");
    }
    // A checkpoint.
    let mut u = attach(&disk).unwrap();
    u.write(5 * SLAB, 9, 77, true).unwrap();
    u.flush().unwrap();
    drop(u);
    assert_eq!(
        whats(&disk),
        [NOTED, FindingKind::NotDetached { blocks: 1 }]
    );
    repair(&disk, &look(&disk).unwrap()).unwrap();
    kept(&disk, "by the repair of a leaf that was not detached");
    assert_eq!(whats(&disk), [NOTED]);
}

#[test]
fn bytes_of_compatible_features_are_no_damage_without_their_bits() {
    let (disk, _) = used();
    edit_slots(&disk, &[0, 1], |b| b[KEPT].fill(7));
    attach(&disk).unwrap().detach().unwrap();
    for slot in [0, 8] {
        assert!(disk.read_sector(slot)[KEPT] == [7; 16]);
    }
}

#[test]
fn no_power_failure_takes_a_compatible_feature() {
    for fails_at in 0..40 {
        let (disk, _) = used();
        with_compat(&disk);
        let mut random = Random(fails_at);
        disk.state.borrow_mut().power_fails_in = Some(fails_at);
        let run = || -> Allocated {
            let mut u = attach(&disk)?;
            for slab in [3, 1500, 2599] {
                u.write(slab * SLAB, 9, slab, true)?;
                u.flush()?;
                u.checkpoint()?;
            }
            Ok(u.detach()?)
        };
        let done = run().is_ok();
        disk.state.borrow_mut().crash(&mut random);
        assert!(done || fails_at < 39, "the workload never ended early");
        attach(&disk).unwrap();
        kept(&disk, "after a power failure");
    }
}

/// Makes a leaf with a feature that only readers may ignore.
fn with_ro_compat() -> SimDisk {
    let (disk, _) = used();
    set(&disk, &[0, 1], RO_COMPAT, 1 << 40);
    edit_slots(&disk, &[0, 1], |b| {
        for at in ANNOUNCED {
            b[at] = 0x40;
        }
    });
    disk
}

#[test]
fn a_read_only_compatible_feature_is_read_and_never_written_over() {
    let plain = content(&used().0);
    let disk = with_ro_compat();
    let before = disk.image();
    assert!(content(&disk) == plain, "read-only, it reads otherwise");
    let text = why(attach(&disk));
    for word in [
        "0x10000000000",
        "read-only compatible",
        "--read-only",
        "newer unionblk",
    ] {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
    // The leaf does not become writable later or in another way.
    let g = geometry();
    for way in 0..3 {
        let mut u = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        let done = match way {
            0 => u.committer.commit(&u.map, &mut u.disk),
            1 => u.committer.checkpoint(&u.map, &mut u.disk),
            _ => u.detach(),
        };
        assert!(done.is_err());
    }
    let l = look(&disk).unwrap();
    let mut d = disk.clone();
    assert!(repair::repair_slot(&mut d, &l.sb, l.slot).is_err());
    let (kind, block, byte) = (FindingKind::InactiveJournal, LeafBlock(3), 0);
    let found = Finding { kind, block, byte };
    assert!(repair::repair_block(&mut d, &l.sb, &found).is_err());
    assert!(disk.image() == before, "written");
}

#[test]
fn an_incompatible_feature_is_refused_by_name() {
    for slots in [&[0u64, 1][..], &[0], &[1]] {
        let (disk, _) = used();
        set(&disk, slots, INCOMPAT, 1 << 33);
        // The strictest class decides.
        set(&disk, slots, RO_COMPAT, 1 << 40);
        set(&disk, slots, COMPAT, 1);
        let before = disk.image();
        let g = geometry();
        for done in [
            attach(&disk),
            load(&disk, g.root_sectors(), g.leaf_sectors()),
        ] {
            let text = why(done);
            assert!(text.contains("0x200000000 "), "{text}");
            assert!(text.contains("(incompatible)"), "{text}");
            assert!(!text.contains("--read-only"), "{text}");
        }
        assert!(look(&disk).is_err());
        assert!(disk.image() == before, "written");
    }
}

#[test]
fn bytes_that_no_feature_announces_are_damage() {
    for at in ANNOUNCED.into_iter().chain(OF_KNOWN) {
        let (disk, _) = used();
        // A compatible feature may not use these bytes.
        set(&disk, &[0, 1], COMPAT, u64::MAX);
        edit_slots(&disk, &[0, 1], |b| b[at] = 0x40);
        let refused = attach(&disk).err();
        assert_eq!(
            refused,
            Some(Error::Damaged(Area::Superblock, LeafBlock(0))),
            "{at}"
        );
    }
}

#[test]
fn the_active_slot_decides() {
    let newer = |slot: u64| {
        let (disk, _) = used();
        edit_slots(&disk, &[slot], |b| b[16] += 1);
        disk
    };
    for (counts, bits, writable) in [(0, 1, true), (1, 0, true), (0, 0, false), (1, 1, false)] {
        let disk = newer(counts);
        set(&disk, &[bits], RO_COMPAT, 4);
        assert_eq!(attach(&disk).is_ok(), writable, "{counts} {bits}");
    }
    let disk = newer(1);
    edit_slots(&disk, &[0], |b| b[KEPT].fill(1));
    edit_slots(&disk, &[1], |b| b[KEPT].fill(2));
    attach(&disk).unwrap();
    for slot in [0, 1] {
        assert!(disk.read_sector(slot * 8)[KEPT] == [2; 16]);
        assert!(Superblock::decode(&disk.read_sector(slot * 8), LeafBlock(slot)).is_ok());
    }
}
