// SPDX-License-Identifier: GPL-2.0

//! Tests `check` with each kind of damage. It finds only that damage, finds it where it is, and
//! repairs it or leaves it alone.

use sim::disk::SimDisk;
use sim::inspect::workloads::*;
use sim::inspect::{
    self, block_of_page, edit, edit_page, edit_slots, edit_with_checksum, look, look_at, repair,
};
use sim::union::{format, load, SimUnion};
use ubcore::check::{FindingKind, Grade};
use ubcore::error::{Area, Error};
use ubcore::format::record::{Record, SlabRun};
use ubcore::format::ring::{self, RingHead};
use ubcore::geometry::{Geometry, LeafSlab, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::slot::Slot;

fn leaf_slab(disk: &SimDisk, slab: u32) -> LeafSlab {
    load(disk, ROOT, LEAF)
        .unwrap()
        .map
        .entry(slab)
        .leaf_slab
        .unwrap()
}

/// Checks that only `what` is found beside `others`. If it is repaired, the union reads as before;
/// otherwise nothing is written.
#[track_caller]
fn found(disk: &SimDisk, what: FindingKind, others: &[FindingKind]) {
    let l = look(disk).unwrap();
    let rest: Vec<FindingKind> = l
        .findings
        .iter()
        .map(|f| f.kind)
        .filter(|w| *w != what)
        .collect();
    assert!(l.has(what), "{what:?} is not among {:?}", l.findings);
    assert_eq!(rest, others, "beside {what:?}");
    if what.grade() == Grade::Damage {
        let before = disk.image();
        repair(disk, &l).unwrap();
        assert!(disk.image() == before, "{what:?}: written");
        return;
    }
    let before = content(disk);
    repair(disk, &l).unwrap();
    assert_eq!(look(disk).unwrap().findings, [], "{what:?} is left");
    assert!(content(disk) == before, "{what:?}: reads otherwise");
    assert!(attach(disk).is_ok());
}

#[test]
fn superblocks_that_are_wrong() {
    let both = &[0, 1];
    for slot in [0, 1] {
        let (disk, _) = used();
        edit(&disk, LeafBlock(slot), |b| b[200] ^= 1);
        found(&disk, FindingKind::SlotChecksum, &[]);
        let (disk, _) = used();
        edit(&disk, LeafBlock(slot), |b| b.fill(0));
        found(&disk, FindingKind::SlotEmpty, &[]);
        let (disk, _) = used();
        edit_slots(&disk, &[slot], |b| b[230] = 1);
        found(&disk, FindingKind::SlotField, &[]);
        let (disk, _) = used();
        edit_slots(&disk, &[slot], |b| b[16] -= 1);
        found(&disk, FindingKind::SlotStale, &[]);
        let (disk, l) = used();
        edit_slots(&disk, &[slot], |b| b[16] += 7);
        let (newer, older) = (l.sb.generation + 7, l.sb.generation);
        found(&disk, FindingKind::SlotGap { newer, older }, &[]);
        for field in [48, 64, 128] {
            let (disk, _) = used();
            edit_slots(&disk, &[slot], |b| b[field] ^= 1);
            let l = look(&disk).unwrap();
            assert!(
                l.has(FindingKind::SlotsDisagree),
                "field {field}: {:?}",
                l.findings
            );
        }
        // The slot of another leaf, as old as a slot may be.
        for field in [48, 64] {
            let (disk, _) = used();
            edit_slots(&disk, &[1], |b| {
                b[field] ^= 1;
                b[16] -= 1;
            });
            assert!(look(&disk).unwrap().has(FindingKind::SlotsDisagree));
        }
    }
    let (disk, _) = used();
    edit(&disk, LeafBlock(0), |b| b[200] ^= 1);
    edit(&disk, LeafBlock(1), |b| b[200] ^= 1);
    assert_eq!(
        look(&disk).err(),
        Some(Error::Damaged(Area::Superblock, LeafBlock(0)))
    );
    let (disk, _) = used();
    edit_slots(&disk, both, |b| b[88] += 1);
    let (wanted, short) = (LEAF, LEAF - 1);
    let l = look_at(&used().0, Some(short)).unwrap();
    let what = l.findings.first().map(|f| f.kind);
    assert_eq!(
        what,
        Some(FindingKind::LeafTruncated {
            wanted,
            found: short
        })
    );
    let (disk, _) = used();
    edit_slots(&disk, both, |b| b[108] &= !1);
    found(&disk, FindingKind::NotDetached { blocks: 0 }, &[]);
}

#[test]
fn journals_that_are_wrong() {
    let both = &[0, 1];
    let (disk, l) = committed();
    let g = l.sb.geometry;
    let block = |n: u32| g.journal_block((l.sb.journal_tail + n) % 16);
    edit_slots(&disk, both, |b| b[108] |= 1);
    found(&disk, FindingKind::CleanFlag { blocks: 3 }, &[]);

    let (disk, _) = committed();
    edit(&disk, block(1), |b| b[100] ^= 1);
    found(
        &disk,
        FindingKind::JournalHole,
        &[
            FindingKind::InactiveJournal,
            FindingKind::NotDetached { blocks: 1 },
        ],
    );
    let (disk, _) = committed();
    edit(&disk, block(2), |b| b[100] ^= 1);
    found(
        &disk,
        FindingKind::InactiveJournal,
        &[FindingKind::NotDetached { blocks: 2 }],
    );
}

/// The tail is wrong, with and without the flag that says that the journal is empty.
#[test]
fn a_tail_that_is_wrong() {
    let both = &[0, 1];
    let (disk, l) = committed();
    let first = l.sb.journal_sequence;
    let tail = (l.sb.journal_tail + 5) % 16;
    edit_slots(&disk, both, |b| b[112] = tail as u8);
    let misplaced = FindingKind::JournalMisplaced { sequence: first };
    found(&disk, misplaced, &[FindingKind::NotDetached { blocks: 0 }]);
    edit_slots(&disk, both, |b| b[108] |= 1);
    found(&disk, FindingKind::CleanButNewer { sequence: first }, &[]);
}

/// If the second of two records leads nowhere, the finding names it, and so for each kind of
/// record.
#[test]
fn a_record_that_leads_nowhere_is_named() {
    let (_, l) = committed();
    let g = l.sb.geometry;
    let first = l.sb.journal_sequence;
    let block = g.journal_block((l.sb.journal_tail + 1) % 16);
    let run = SlabRun { first: 3, count: 2 };
    let (root, leaf) = (g.root_slabs(), g.leaf_slabs());
    for wrong in [
        Record::New {
            slab: root,
            step: 1,
            run,
        },
        Record::New {
            slab: 9,
            step: leaf,
            run,
        },
        Record::More { slab: root, run },
        Record::Words { slab: 5, words: 1 },
        Record::Words {
            slab: root,
            words: 1,
        },
        Record::Zero {
            slab: root - 1,
            count: 2,
        },
    ] {
        let (disk, _) = committed();
        edit(&disk, block, |b| {
            let head = RingHead {
                sequence: first + 1,
                origin: LeafSlab(0),
                count: 2,
                last: true,
                before: 0,
            };
            ring::put_word(b, 0, Record::Origin(LeafSlab(0)).encode()).unwrap();
            ring::put_word(b, 1, wrong.encode()).unwrap();
            ring::write_head(b, l.sb.nonce, &head);
        });
        let l = look(&disk).unwrap();
        let place = l
            .findings
            .iter()
            .find(|f| f.kind == FindingKind::JournalRecord);
        let place = place.map(|f| (f.block, f.byte));
        assert_eq!(place, Some((block, 40)), "{wrong:?}");
    }
}

/// A record of no kind, of a slab that is not there, and of a slab that has no leaf slab.
#[test]
fn a_record_that_cannot_be_is_named() {
    let (_, l) = committed();
    let three = FindingKind::NotDetached { blocks: 3 };
    let block = l.sb.geometry.journal_block((l.sb.journal_tail + 1) % 16);
    for (word, value) in [
        (0, 6u64),
        (0, 0xffff_ffff_0000_0002),
        (0, 0x0000_0063_0000_0002),
    ] {
        let (disk, _) = committed();
        edit_with_checksum(&disk, block, 4096, 4, |b| {
            ring::put_word(b, word, value).unwrap();
        });
        found(&disk, FindingKind::JournalRecord, &[three]);
        let l = look(&disk).unwrap();
        let place = l
            .findings
            .iter()
            .find(|f| f.kind == FindingKind::JournalRecord)
            .unwrap();
        assert_eq!((place.block, place.byte), (block, 32));
    }
}

/// Makes a leaf with this entry in a page of the slab table; returns the page's block, too.
fn put(page: u32, at: usize, entry: u32) -> (SimDisk, LeafBlock) {
    let (disk, l) = used();
    let n = at * 4;
    edit_page(&disk, &l.sb, page, |b| {
        b[n..n + 4].copy_from_slice(&entry.to_le_bytes())
    });
    let block = block_of_page(&disk, &l.sb, page);
    (disk, block)
}

#[test]
fn maps_that_are_wrong() {
    let g = geometry();
    let (disk, _) = used();
    let first = leaf_slab(&disk, 0);
    let taken = (first.0 + 1) << 1;
    let second = 700;
    let shared = FindingKind::Shared {
        leaf_slab: first,
        first: 0,
        second,
    };
    let (disk, block) = put(0, 700, taken);
    found(&disk, shared, &[]);
    let place = *look(&disk).unwrap().findings.first().unwrap();
    assert_eq!((place.block, place.byte), (block, 2800));

    let past = g.leaf_slabs();
    found(
        &put(0, 9, (past + 1) << 1).0,
        FindingKind::PastLeaf {
            slab: 9,
            leaf_slab: LeafSlab(past),
        },
        &[],
    );
    found(
        &put(0, 9, 0xffff_fffe).0,
        FindingKind::Moving { slab: 9 },
        &[],
    );
    found(
        &put(2, 552, 40 << 1).0,
        FindingKind::PastUnion {
            slab: 2600,
            leaf_slab: LeafSlab(39),
        },
        &[],
    );
    found(
        &put(2, 552, 1).0,
        FindingKind::PastUnionBare { slab: 2600 },
        &[],
    );
    found(
        &put(0, 700, 31 << 1).0,
        FindingKind::Leaked {
            slab: 700,
            leaf_slab: LeafSlab(30),
        },
        &[],
    );
    found(
        &put(0, 700, (31 << 1) | 1).0,
        FindingKind::Leaked {
            slab: 700,
            leaf_slab: LeafSlab(30),
        },
        &[],
    );
}

/// If an entry is lost, its bits have no owner.
#[test]
fn an_entry_that_is_lost() {
    let first = leaf_slab(&used().0, 0);
    let l = look(&put(0, 0, 0).0).unwrap();
    assert!(
        l.has(FindingKind::Unowned { first, count: 1 }),
        "{:?}",
        l.findings
    );
}

#[test]
fn bits_that_are_wrong() {
    let g = geometry();
    let bits = g.table_pages();
    let set = |bit: u64| {
        let (disk, l) = used();
        edit_page(&disk, &l.sb, bits, |b| {
            b[(bit / 8) as usize] |= 1 << (bit % 8)
        });
        disk
    };
    let last = leaf_slab(&used().0, 2599);
    let behind = u64::from(last.0) * SLAB + SLAB - 5;
    let slab = 2599;
    for bit in [behind, behind + 4] {
        found(
            &set(bit),
            FindingKind::BitsPastUnion {
                slab,
                leaf_slab: last,
            },
            &[],
        );
    }
    let end = u64::from(g.leaf_slabs()) * SLAB;
    for bit in [end, 32767] {
        found(&set(bit), FindingKind::BitsPastLeaf { page: 0 }, &[]);
    }
    // The sector before them is the union's last, so it is correctly mapped.
    assert_eq!(look(&set(behind - 1)).unwrap().findings, []);
}

/// A finding names the byte, and adjacent slabs make one finding.
#[test]
fn bits_that_are_wrong_are_named() {
    let g = geometry();
    let bits = g.table_pages();
    let named = |set: &[u64], what: FindingKind, bit: u64| {
        let (disk, l) = used();
        edit_page(&disk, &l.sb, bits, |b| {
            for bit in set {
                b[(bit / 8) as usize] |= 1 << (bit % 8);
            }
        });
        let block = block_of_page(&disk, &l.sb, bits);
        let l = look(&disk).unwrap();
        let f = l.findings.iter().find(|f| f.kind == what);
        let place = f.map(|f| (f.block, u64::from(f.byte)));
        assert_eq!(place, Some((block, bit / 8)), "{:?}", l.findings);
    };
    let last = leaf_slab(&used().0, 2599);
    let behind = u64::from(last.0) * SLAB + SLAB - 5;
    let what = FindingKind::BitsPastUnion {
        slab: 2599,
        leaf_slab: last,
    };
    named(&[behind + 3], what, behind);
    let end = u64::from(g.leaf_slabs()) * SLAB;
    named(&[end + 99], FindingKind::BitsPastLeaf { page: 0 }, end + 99);
    let unowned = |first, count| FindingKind::Unowned { first, count };
    let stray = [33, 34, 36].map(|leaf| leaf * SLAB + 7);
    named(&stray, unowned(LeafSlab(33), 2), 33 * SLAB);
    named(&stray, unowned(LeafSlab(36), 1), 36 * SLAB);
}

/// Checks counts over several pages of bits.
#[test]
fn what_is_mapped_is_counted_once() {
    let g = Geometry::new(2_097_152, 2_097_152, 262_144, 128, 64).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    // None of them is on the first page.
    for (n, leaf) in [300, 511, 512, 1500].into_iter().enumerate() {
        u.map.assign(leaf, LeafSlab(leaf)).unwrap();
        assert!(u
            .map
            .map_sectors(u64::from(leaf) * 128 + 60, 10 + n as u32)
            .unwrap());
    }
    u.flush().unwrap();
    u.detach().unwrap();
    let totals = look(&disk).unwrap().totals;
    assert_eq!((totals.slabs_used, totals.sectors_mapped), (4, 46));
}

#[test]
fn what_is_repairable() {
    assert!(
        FindingKind::SlotEmpty.is_repairable()
            && FindingKind::BitsPastLeaf { page: 0 }.is_repairable()
    );
    assert!(!FindingKind::JournalHole.is_repairable());
    assert!(!FindingKind::Unowned {
        first: LeafSlab(0),
        count: 1
    }
    .is_repairable());
}

#[test]
fn pages_and_directories_that_are_wrong() {
    let (disk, l) = used();
    let block = block_of_page(&disk, &l.sb, 0);
    edit(&disk, block, |b| b[4095] ^= 1);
    found(&disk, FindingKind::Page { page: MapPage(0) }, &[]);
    // Without the bits, each slab seems to be empty. That follows from the lost page and is not
    // reported.
    let (disk, _) = used();
    let bits = l.sb.geometry.table_pages();
    let block = block_of_page(&disk, &l.sb, bits);
    edit(&disk, block, |b| b[2048] ^= 1);
    found(
        &disk,
        FindingKind::Page {
            page: MapPage(bits),
        },
        &[],
    );
    let (_, directory) = inspect::entry_of(&used().0, &l.sb, 0);
    for (byte, sealed) in [
        (40, false),
        (8, true),
        (12, true),
        (24, true),
        (36, true),
        (4090, true),
    ] {
        let (disk, _) = used();
        if sealed {
            edit_with_checksum(&disk, directory, 4096, 4, |b| b[byte] ^= 0x40);
        } else {
            edit(&disk, directory, |b| b[byte] ^= 0x40);
        }
        let last = l.sb.geometry.pages() - 1;
        found(
            &disk,
            FindingKind::Directory {
                first: MapPage(0),
                last: MapPage(last),
            },
            &[],
        );
    }
    // The other slot of the directory is inactive.
    let (disk, _) = used();
    let other = if directory == l.sb.geometry.directory_block(0, Slot::A) {
        Slot::B
    } else {
        Slot::A
    };
    let inactive = l.sb.geometry.directory_block(0, other);
    edit(&disk, inactive, |b| b[..4].copy_from_slice(b"UBdr"));
    found(&disk, FindingKind::InactiveDirectory, &[]);
}

/// A broken inactive block may come into use by the checkpoint of the repair itself.
#[test]
fn a_block_that_becomes_active_is_not_zeroed() {
    let (disk, l) = committed();
    let inactive = Slot::inactive(l.sb.directory_slot(0).unwrap());
    let inactive = l.sb.geometry.directory_block(0, inactive);
    edit(&disk, inactive, |b| b[..4].copy_from_slice(b"UBdr"));
    let what = FindingKind::InactiveDirectory;
    found(&disk, what, &[FindingKind::NotDetached { blocks: 3 }]);
}

/// One write of two blocks of which only the second landed is no damage.
#[test]
fn a_write_torn_between_its_blocks() {
    let (disk, l) = committed();
    let at = (l.sb.journal_tail + 4) % 16;
    let place = l.sb.geometry.journal_block(at);
    let sealed = |before| {
        edit(&disk, place, |b| {
            let head = RingHead {
                sequence: l.sb.journal_sequence + 4,
                origin: LeafSlab(0),
                count: 1,
                last: true,
                before,
            };
            b.fill(0);
            ring::put_word(b, 0, Record::Origin(LeafSlab(0)).encode()).unwrap();
            ring::write_head(b, l.sb.nonce, &head);
        });
    };
    sealed(0);
    assert!(look(&disk).unwrap().has(FindingKind::JournalHole));
    sealed(1);
    found(&disk, FindingKind::NotDetached { blocks: 3 }, &[]);
}

/// A transaction whose end was never written is not applied, and is no damage.
#[test]
fn a_transaction_without_an_end() {
    let (disk, l) = committed();
    let at = (l.sb.journal_tail + 3) % 16;
    edit(&disk, l.sb.geometry.journal_block(at), |b| {
        let head = RingHead {
            sequence: l.sb.journal_sequence + 3,
            origin: LeafSlab(0),
            count: 1,
            last: false,
            before: 0,
        };
        b.fill(0);
        ring::put_word(b, 0, Record::Origin(LeafSlab(0)).encode()).unwrap();
        ring::write_head(b, l.sb.nonce, &head);
    });
    let unfinished = FindingKind::JournalUnfinished { blocks: 1 };
    found(&disk, unfinished, &[FindingKind::NotDetached { blocks: 3 }]);
}

/// Damage that cannot be repaired prevents other repairs, except that of the superblock's slot.
#[test]
fn beside_damage_only_a_slot_is_repaired() {
    let (disk, l) = committed();
    let page = block_of_page(&disk, &l.sb, 0);
    edit(&disk, page, |b| b[7] ^= 1);
    edit(&disk, LeafBlock(1), |b| b[300] ^= 1);
    let before = disk.image();
    let l = look(&disk).unwrap();
    assert!(l.has(FindingKind::SlotChecksum) && l.has(FindingKind::Page { page: MapPage(0) }));
    repair(&disk, &l).unwrap();
    let after = disk.image();
    let changed: Vec<u64> = after
        .iter()
        .filter(|(s, d)| before.get(s) != Some(d))
        .map(|c| *c.0)
        .collect();
    assert_eq!(changed, [8]);
    let l = look(&disk).unwrap();
    assert!(!l.has(FindingKind::SlotChecksum) && l.has(FindingKind::Page { page: MapPage(0) }));
}
