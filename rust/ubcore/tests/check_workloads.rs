// SPDX-License-Identifier: GPL-2.0

//! Tests `check` over random workloads. It reports no damage after a power failure, and finds each
//! damage. A repaired leaf reads as before. `WORKLOADS` sets how many workloads run.

use sim::disk::{Random, SimDisk};
use sim::inspect::workloads::*;
use sim::inspect::{
    edit, edit_page, edit_slots, edit_with_checksum, look, look_at, repair, Inspection,
};
use sim::union::load;
use ubcore::check::{Finding, FindingKind, Grade};
use ubcore::error::Error;
use ubcore::geometry::MapPage;
use ubcore::leaf_block::LeafBlock;
use ubcore::slot::Slot;

#[test]
fn a_detached_leaf_is_whole_and_is_not_written_to() {
    let mut random = Random(11);
    for _ in 0..workloads() {
        let disk = workload(&mut random, None);
        let l = look(&disk).unwrap();
        let odd = l
            .findings
            .iter()
            .find(|f| !matches!(f.kind, FindingKind::Unowned { .. }));
        assert_eq!(odd, None);
        let u = load(&disk, ROOT, LEAF).unwrap();
        assert_eq!(l.totals.slabs_used, u.allocator.used());
        let before = (disk.image(), disk.counts());
        repair(&disk, &l).unwrap();
        let after = disk.counts();
        assert!(disk.image() == before.0);
        assert_eq!(
            (after.writes, after.fua_writes),
            (before.1.writes, before.1.fua_writes)
        );
        assert_eq!(after.flush_fua_writes, before.1.flush_fua_writes);
    }
}

#[test]
fn no_power_failure_looks_like_damage_and_a_repair_changes_no_sector() {
    let mut random = Random(12);
    let (mut undetached, mut stale) = (0, 0);
    for _ in 0..workloads() {
        let fails_at = random.below(60);
        let disk = workload(&mut random, Some(fails_at));
        let l = look(&disk).unwrap();
        assert!(worst_is_note(&l), "{:?}", l.findings);
        let is = |wanted: fn(&Finding) -> bool| u64::from(l.findings.iter().any(wanted));
        undetached += is(|f| matches!(f.kind, FindingKind::NotDetached { .. }));
        stale += is(|f| f.kind == FindingKind::SlotStale);

        // The power fails during the repair as well.
        let before = content(&disk);
        disk.state.borrow_mut().power_fails_in = Some(random.below(12));
        let _ = repair(&disk, &l);
        disk.state.borrow_mut().crash(&mut random);
        let l = look(&disk).unwrap();
        assert!(worst_is_note(&l), "{:?}", l.findings);
        assert!(content(&disk) == before);
        repair(&disk, &l).unwrap();
        let l = look(&disk).unwrap();
        assert!(
            l.findings.iter().all(|f| !f.kind.is_repairable()),
            "{:?}",
            l.findings
        );
        assert!(content(&disk) == before);
    }
    assert!(undetached > workloads() / 3, "{undetached} not detached");
    assert!(stale > 0, "{stale} stale");
}

#[test]
fn any_bit_of_an_active_block() {
    let mut random = Random(13);
    let mut blocks = 0;
    for n in 0..workloads() / 5 {
        let fails_at = Some(20 + random.below(60)).filter(|_| n % 2 == 1);
        let disk = workload(&mut random, fails_at);
        let l = look(&disk).unwrap();
        for (block, bytes, last) in in_use(&disk, &l) {
            for _ in 0..4 {
                let byte = match random.below(3) {
                    0 => random.below(64),
                    _ => random.below(bytes as u64),
                } as usize;
                let bit = 1 << random.below(8);
                edit(&disk, block, |b| b[byte] ^= bit);
                let found = look(&disk).unwrap().findings;
                let new = found
                    .iter()
                    .filter(|f| f.block == block && !l.findings.contains(f));
                let worst = new.map(|f| f.kind.grade()).max();
                let least = if last { Grade::Note } else { Grade::Minor };
                assert!(
                    worst >= Some(least),
                    "block {block}, byte {byte}: {found:?}, was {:?}",
                    l.findings
                );
                edit(&disk, block, |b| b[byte] ^= bit);
            }
            blocks += 1;
        }
        assert_eq!(look(&disk).unwrap().findings, l.findings);
    }
    assert!(blocks > 200, "{blocks} blocks");
}

/// Changes some bytes of a block and corrects all checksums that cover them.
fn lie(disk: &SimDisk, l: &Inspection, block: LeafBlock, random: &mut Random) {
    let g = &l.sb.geometry;
    let (at, value) = (random.below(512), random.draw().to_le_bytes());
    let len = 1 + random.below(8) as usize;
    let put = |b: &mut [u8], at: u64, room: usize| {
        let at = at as usize % (room - len);
        b[at..at + len].copy_from_slice(&value[..len]);
    };
    let page = (0..g.pages()).find(|&p| {
        [Slot::A, Slot::B]
            .iter()
            .any(|&s| g.page_block(MapPage(p), s) == block)
    });
    match page {
        // The fields of a superblock lie before the directory's slots.
        None if block.0 < 2 => edit_slots(disk, &[block.0, 1 - block.0], |b| put(b, at % 264, 512)),
        None => edit_with_checksum(disk, block, 4096, 4, |b| put(b, 8 + at % 128, 4096)),
        Some(page) => {
            let used = if page < g.table_pages() { 4096 } else { 512 };
            let at = at * 8 % used;
            edit_page(disk, &l.sb, page, |b| put(b, at, 4096));
        }
    }
}

/// If attach refuses a leaf, check finds damage. Otherwise a repair changes no sector.
#[test]
fn attach_takes_what_check_lets_pass() {
    let mut random = Random(14);
    let (mut refused, mut taken, mut repaired) = (0, 0, 0);
    for n in 0..workloads() * 4 {
        let disk = if n % 3 == 0 {
            committed().0
        } else {
            workload(&mut random, None)
        };
        let l = look(&disk).unwrap();
        let blocks = in_use(&disk, &l);
        let (block, bytes, _) = blocks[random.below(blocks.len() as u64) as usize];
        if random.chance(8) {
            edit(&disk, block, |b| {
                b[random.below(bytes as u64) as usize] ^= 4
            });
        } else {
            lie(&disk, &l, block, &mut random);
        }
        let attached = load(&disk, ROOT, LEAF).err();
        match look_at(&disk, Some(LEAF)) {
            Err(e) => assert_eq!(attached, Some(e)),
            Ok(l) if l.worst() == Some(Grade::Damage) => refused += 1,
            // Another root would be accepted, and check was not given one.
            Ok(_) if matches!(attached, Some(Error::RootSize(..))) => {}
            Ok(l) => {
                assert_eq!(attached, None, "{:?}", l.findings);
                let (before, image) = (content(&disk), disk.image());
                if let Err(e) = l.sb.features.writable() {
                    let done = repair(&disk, &l);
                    assert!(done.is_ok() || done == Err(e));
                    assert!(disk.image() == image, "{e}: written");
                    continue;
                }
                repair(&disk, &l).unwrap();
                assert!(content(&disk) == before, "{:?}", l.findings);
                let left = look(&disk).unwrap().findings;
                assert!(left.iter().all(|f| !f.kind.is_repairable()), "{left:?}");
                repaired += u64::from(l.worst() == Some(Grade::Minor));
                taken += 1;
            }
        }
    }
    let all = workloads() * 4;
    assert!(
        refused > all / 8 && taken > all / 8 && repaired > 0,
        "{refused} {taken} {repaired}"
    );
}
