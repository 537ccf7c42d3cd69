// SPDX-License-Identifier: GPL-2.0

//! `check`: what a cut of power leaves is no damage, every damage is found, and what is mended reads
//! as before. `LIVES` sets how many lives are led.

mod inspect;
mod sim;

use inspect::{
    block_of_page, edit, edit_page, edit_sealed, edit_slots, look, look_at, repair, Look,
};
use sim::disk::{Random, SimDisk};
use sim::union::{format, load, SimUnion};
use ubcore::check::{Finding, Grade, What};
use ubcore::error::{Area, Error, Result};
use ubcore::format::record::Record;
use ubcore::format::ring::{self, RingHead};
use ubcore::geometry::Geometry;
use ubcore::map::Base;

const SLAB: u64 = 32;
/// The root ends within a slab, and so does the union; the leaf has a few sectors too many.
const ROOT: u64 = 2500 * SLAB + 9;
const UNION: u64 = 2600 * SLAB - 5;
const LEAF: u64 = 2048 + 40 * SLAB + 11;

fn geometry() -> Geometry {
    Geometry::new(ROOT, UNION, LEAF, SLAB as u32, 16).unwrap()
}

fn attach(disk: &SimDisk) -> Result<SimUnion> {
    SimUnion::attach_to(disk, &geometry())
}

/// Places all over the union, so that each table page is used, and the last slab.
fn place(random: &mut Random, len: u64) -> u64 {
    let slabs = [
        0, 1, 2, 3, 900, 1023, 1024, 1500, 2047, 2048, 2499, 2500, 2598, 2599,
    ];
    let at = slabs[random.below(14) as usize] * SLAB + random.below(SLAB);
    at.min(UNION - len)
}

fn step(u: &mut SimUnion, random: &mut Random, tag: u64) -> Result {
    match random.below(12) {
        0 | 1 => u.flush(),
        2 => u.checkpoint(),
        3 => {
            let first = u.map.geometry().slab_of(place(random, 1));
            let base = if random.chance(2) {
                Base::Zero
            } else {
                Base::Root
            };
            u.empty(first..(first + 2).min(2600), base)?;
            u.flush()
        }
        _ => {
            let len = 1 + random.below(50);
            match u.write(place(random, len), len, tag, true) {
                // A full leaf, or a slab that waits for a commit.
                Err(Error::Full | Error::Emptied) => u.flush(),
                done => done,
            }
        }
    }
}

/// A life that ends in a detach, or in a cut of power at I/O `cut`.
fn life(random: &mut Random, cut: Option<u64>) -> SimDisk {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = attach(&disk).unwrap();
    for tag in 0..random.below(15) {
        step(&mut u, random, tag + 1).unwrap();
    }
    u.detach().unwrap();
    disk.state.borrow_mut().cut_in = cut;
    disk.state.borrow_mut().random = Some(random.clone());
    let _ = attach(&disk).and_then(|mut u| {
        for tag in 20..20 + random.below(25) {
            step(&mut u, random, tag)?;
        }
        u.detach()
    });
    disk.state.borrow_mut().crash(random);
    disk
}

fn lives() -> u64 {
    std::env::var("LIVES").map_or(150, |n| n.parse().unwrap())
}

/// Every sector that lives use, as an attach would show it, up to the end that the leaf claims.
fn content(disk: &SimDisk) -> Vec<[u8; 512]> {
    let u = load(disk, ROOT, LEAF).unwrap();
    let slabs = [
        0, 1, 2, 3, 4, 700, 900, 901, 1023, 1024, 1025, 1500, 2047, 2048, 2499, 2500, 2598,
    ];
    let all = slabs.iter().flat_map(|s| s * SLAB..(s + 1) * SLAB);
    let end = u.map.geometry().union_sectors();
    let used = all.chain(2599 * SLAB..UNION).filter(|&s| s < end);
    used.map(|s| u.read(s)).collect()
}

fn worst_is_note(l: &Look) -> bool {
    l.worst().is_none_or(|g| g == Grade::Note)
}

#[test]
fn a_detached_leaf_is_whole_and_is_not_written_to() {
    let mut random = Random(11);
    for _ in 0..lives() {
        let disk = life(&mut random, None);
        let l = look(&disk).unwrap();
        let odd = l
            .findings
            .iter()
            .find(|f| !matches!(f.what, What::Unowned { .. }));
        assert_eq!(odd, None);
        let u = load(&disk, ROOT, LEAF).unwrap();
        assert_eq!(l.counts.slabs_used, u.allocator.used());
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
fn no_cut_of_power_looks_like_damage_and_a_repair_changes_no_sector() {
    let mut random = Random(12);
    let (mut undetached, mut stale) = (0, 0);
    for _ in 0..lives() {
        let cut = random.below(60);
        let disk = life(&mut random, Some(cut));
        let l = look(&disk).unwrap();
        assert!(worst_is_note(&l), "{:?}", l.findings);
        let is = |wanted: fn(&Finding) -> bool| u64::from(l.findings.iter().any(wanted));
        undetached += is(|f| matches!(f.what, What::NotDetached { .. }));
        stale += is(|f| f.what == What::SlotStale);

        // The power goes in the repair as well.
        let before = content(&disk);
        disk.state.borrow_mut().cut_in = Some(random.below(12));
        let _ = repair(&disk, &l);
        disk.state.borrow_mut().crash(&mut random);
        let l = look(&disk).unwrap();
        assert!(worst_is_note(&l), "{:?}", l.findings);
        assert!(content(&disk) == before);
        repair(&disk, &l).unwrap();
        let l = look(&disk).unwrap();
        assert!(
            l.findings.iter().all(|f| !f.what.is_mendable()),
            "{:?}",
            l.findings
        );
        assert!(content(&disk) == before);
    }
    assert!(undetached > lives() / 3, "{undetached} not detached");
    assert!(stale > 0, "{stale} stale");
}

/// The blocks of a leaf that count, with how many bytes of each, and whether it is of the last write
/// of the journal, whose rot looks as a torn write does.
fn in_use(disk: &SimDisk, l: &Look) -> Vec<(u64, usize, bool)> {
    let g = &l.sb.geometry;
    let mut list = vec![(0, 512, false), (1, 512, false)];
    for at in 0..g.directory_blocks() {
        if let Some(slot) = l.sb.directory_slot(at).unwrap().number() {
            list.push((g.directory_block(at, slot), 4096, false));
        }
    }
    if list.len() > 2 {
        for page in 0..g.pages() {
            let (entry, _) = inspect::entry_of(disk, &l.sb, page);
            if let Some(slot) = entry.slot.number() {
                list.push((g.page_block(page, slot), 4096, false));
            }
        }
    }
    for n in 0..l.counts.to_replay {
        let at = (l.sb.journal_tail + n) % g.journal_blocks();
        // One commit is one write here, of a block or a few.
        list.push((g.journal_block(at), 4096, n + 4 > l.counts.to_replay));
    }
    list
}

#[test]
fn any_bit_of_a_block_that_counts() {
    let mut random = Random(13);
    let mut blocks = 0;
    for n in 0..lives() / 5 {
        let cut = Some(20 + random.below(60)).filter(|_| n % 2 == 1);
        let disk = life(&mut random, cut);
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
                let worst = new.map(|f| f.what.grade()).max();
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

/// Changes some bytes of a block, and makes all checksums right that go with it.
fn lie(disk: &SimDisk, l: &Look, block: u64, random: &mut Random) {
    let g = &l.sb.geometry;
    let (at, value) = (random.below(512), random.next().to_le_bytes());
    let len = 1 + random.below(8) as usize;
    let put = |b: &mut [u8], at: u64, room: usize| {
        let at = at as usize % (room - len);
        b[at..at + len].copy_from_slice(&value[..len]);
    };
    let page = (0..g.pages()).find(|&p| (0..2).any(|s| g.page_block(p, s) == block));
    match page {
        // A superblock's fields lie before the directory's slots.
        None if block < 2 => edit_slots(disk, &[block, 1 - block], |b| put(b, at % 264, 512)),
        None => edit_sealed(disk, block, 4096, 4, |b| put(b, 8 + at % 128, 4096)),
        Some(page) => {
            let used = if page < g.table_pages() { 4096 } else { 512 };
            let at = at * 8 % used;
            edit_page(disk, &l.sb, page, |b| put(b, at, 4096));
        }
    }
}

/// What attach refuses is damage; and beside what is not, a repair changes no sector.
#[test]
fn attach_takes_what_check_lets_pass() {
    let mut random = Random(14);
    let (mut refused, mut taken, mut mended) = (0, 0, 0);
    for n in 0..lives() * 4 {
        let disk = if n % 3 == 0 {
            committed().0
        } else {
            life(&mut random, None)
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
            // Another root would do, and check was not shown one.
            Ok(_) if matches!(attached, Some(Error::RootSize(..))) => {}
            Ok(l) => {
                assert_eq!(attached, None, "{:?}", l.findings);
                let before = content(&disk);
                repair(&disk, &l).unwrap();
                assert!(content(&disk) == before, "{:?}", l.findings);
                let left = look(&disk).unwrap().findings;
                assert!(left.iter().all(|f| !f.what.is_mendable()), "{left:?}");
                mended += u64::from(l.worst() == Some(Grade::Minor));
                taken += 1;
            }
        }
    }
    let all = lives() * 4;
    assert!(
        refused > all / 8 && taken > all / 8 && mended > 0,
        "{refused} {taken} {mended}"
    );
}

/// A detached leaf with slabs on two table pages and in the union's last slab.
fn used() -> (SimDisk, Look) {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = attach(&disk).unwrap();
    for at in [0, 1, 1024, 2599] {
        u.write(at * SLAB, 3, at + 1, true).unwrap();
    }
    u.detach().unwrap();
    let l = look(&disk).unwrap();
    assert_eq!(l.findings, []);
    (disk, l)
}

/// The same with three commits after it, and no detach.
fn committed() -> (SimDisk, Look) {
    let (disk, _) = used();
    let mut u = attach(&disk).unwrap();
    for at in [5, 6, 7] {
        u.write(at * SLAB, 3, at, true).unwrap();
        u.flush().unwrap();
    }
    let l = look(&disk).unwrap();
    assert_eq!(l.counts.to_replay, 3);
    (disk, l)
}

fn home(disk: &SimDisk, slab: u32) -> u32 {
    load(disk, ROOT, LEAF)
        .unwrap()
        .map
        .entry(slab)
        .leaf
        .unwrap()
}

/// `what` alone is found beside `others`; mended, the union reads as before, or nothing is written.
#[track_caller]
fn found(disk: &SimDisk, what: What, others: &[What]) {
    let l = look(disk).unwrap();
    let rest: Vec<What> = l
        .findings
        .iter()
        .map(|f| f.what)
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
        edit(&disk, slot, |b| b[200] ^= 1);
        found(&disk, What::SlotChecksum, &[]);
        let (disk, _) = used();
        edit(&disk, slot, |b| b.fill(0));
        found(&disk, What::SlotEmpty, &[]);
        let (disk, _) = used();
        edit_slots(&disk, &[slot], |b| b[200] = 1);
        found(&disk, What::SlotField, &[]);
        let (disk, _) = used();
        edit_slots(&disk, &[slot], |b| b[16] -= 1);
        found(&disk, What::SlotStale, &[]);
        let (disk, l) = used();
        edit_slots(&disk, &[slot], |b| b[16] += 7);
        let (newer, older) = (l.sb.generation + 7, l.sb.generation);
        found(&disk, What::SlotGap { newer, older }, &[]);
        for field in [48, 64, 128] {
            let (disk, _) = used();
            edit_slots(&disk, &[slot], |b| b[field] ^= 1);
            let l = look(&disk).unwrap();
            assert!(
                l.has(What::SlotsDisagree),
                "field {field}: {:?}",
                l.findings
            );
        }
    }
    let (disk, _) = used();
    edit(&disk, 0, |b| b[200] ^= 1);
    edit(&disk, 1, |b| b[200] ^= 1);
    assert_eq!(look(&disk).err(), Some(Error::Damaged(Area::Superblock, 0)));
    let (disk, _) = used();
    edit_slots(&disk, both, |b| b[88] += 1);
    let (wanted, short) = (LEAF, LEAF - 1);
    let l = look_at(&used().0, Some(short)).unwrap();
    let what = l.findings.first().map(|f| f.what);
    assert_eq!(
        what,
        Some(What::LeafCut {
            wanted,
            found: short
        })
    );
    let (disk, _) = used();
    edit_slots(&disk, both, |b| b[108] &= !1);
    found(&disk, What::NotDetached { blocks: 0 }, &[]);
}

#[test]
fn journals_that_are_wrong() {
    let both = &[0, 1];
    let three = What::NotDetached { blocks: 3 };
    let (disk, l) = committed();
    let g = l.sb.geometry;
    let block = |n: u32| g.journal_block((l.sb.journal_tail + n) % 16);
    edit_slots(&disk, both, |b| b[108] |= 1);
    found(&disk, What::CleanFlag { blocks: 3 }, &[]);

    let (disk, _) = committed();
    edit(&disk, block(1), |b| b[100] ^= 1);
    found(
        &disk,
        What::JournalHole,
        &[What::SpareJournal, What::NotDetached { blocks: 1 }],
    );
    let (disk, _) = committed();
    edit(&disk, block(2), |b| b[100] ^= 1);
    found(
        &disk,
        What::SpareJournal,
        &[What::NotDetached { blocks: 2 }],
    );

    // The tail is wrong, with and without the flag that says there is nothing.
    let first = l.sb.journal_sequence;
    let (disk, _) = committed();
    let tail = (l.sb.journal_tail + 5) % 16;
    edit_slots(&disk, both, |b| b[112] = tail as u8);
    let misplaced = What::JournalMisplaced { sequence: first };
    found(&disk, misplaced, &[What::NotDetached { blocks: 0 }]);
    edit_slots(&disk, both, |b| b[108] |= 1);
    found(&disk, What::CleanButNewer { sequence: first }, &[]);

    // A record of no kind, of a slab that is not there, of one that has no home.
    for (word, value) in [
        (0, 6u64),
        (0, 0xffff_ffff_0000_0002),
        (0, 0x0000_0063_0000_0002),
    ] {
        let (disk, _) = committed();
        edit_sealed(&disk, block(1), 4096, 4, |b| {
            ring::put_word(b, word, value);
        });
        found(&disk, What::JournalRecord, &[three]);
        let l = look(&disk).unwrap();
        let place = l
            .findings
            .iter()
            .find(|f| f.what == What::JournalRecord)
            .unwrap();
        assert_eq!((place.block, place.byte), (block(1), 32));
    }
}

#[test]
fn maps_that_are_wrong() {
    let g = geometry();
    let put = |page: u32, at: usize, entry: u32| {
        let (disk, l) = used();
        let n = at * 4;
        edit_page(&disk, &l.sb, page, |b| {
            b[n..n + 4].copy_from_slice(&entry.to_le_bytes())
        });
        let block = block_of_page(&disk, &l.sb, page);
        (disk, block)
    };
    let (disk, _) = used();
    let leaf = home(&disk, 0);
    let taken = (leaf + 1) << 1;
    let second = 700;
    let shared = What::Shared {
        leaf,
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
        What::PastLeaf {
            slab: 9,
            leaf: past,
        },
        &[],
    );
    found(&put(0, 9, 0xffff_fffe).0, What::Moving { slab: 9 }, &[]);
    found(
        &put(2, 552, 40 << 1).0,
        What::PastUnion {
            slab: 2600,
            leaf: 39,
        },
        &[],
    );
    found(&put(2, 552, 1).0, What::PastUnionBare { slab: 2600 }, &[]);
    found(
        &put(0, 700, 31 << 1).0,
        What::Leaked {
            slab: 700,
            leaf: 30,
        },
        &[],
    );
    found(
        &put(0, 700, (31 << 1) | 1).0,
        What::Leaked {
            slab: 700,
            leaf: 30,
        },
        &[],
    );
    // An entry that was lost leaves bits that are nobody's.
    let l = look(&put(0, 0, 0).0).unwrap();
    assert!(
        l.has(What::Unowned {
            first: leaf,
            count: 1
        }),
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
    let last = home(&used().0, 2599);
    let behind = u64::from(last) * SLAB + SLAB - 5;
    let slab = 2599;
    for bit in [behind, behind + 4] {
        found(&set(bit), What::BitsPastUnion { slab, leaf: last }, &[]);
    }
    let end = u64::from(g.leaf_slabs()) * SLAB;
    for bit in [end, 32767] {
        found(&set(bit), What::BitsPastLeaf { page: 0 }, &[]);
    }
    // The sector before them is the union's last: mapped by right.
    assert_eq!(look(&set(behind - 1)).unwrap().findings, []);
}

#[test]
fn pages_and_directories_that_are_wrong() {
    let (disk, l) = used();
    let block = block_of_page(&disk, &l.sb, 0);
    edit(&disk, block, |b| b[4095] ^= 1);
    found(&disk, What::Page { page: 0 }, &[]);
    // Without the bits no slab seems to have anything in it: that follows, and is not told.
    let (disk, _) = used();
    let bits = l.sb.geometry.table_pages();
    let block = block_of_page(&disk, &l.sb, bits);
    edit(&disk, block, |b| b[2048] ^= 1);
    found(&disk, What::Page { page: bits }, &[]);
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
            edit_sealed(&disk, directory, 4096, 4, |b| b[byte] ^= 0x40);
        } else {
            edit(&disk, directory, |b| b[byte] ^= 0x40);
        }
        let last = l.sb.geometry.pages() - 1;
        found(&disk, What::Directory { first: 0, last }, &[]);
    }
    // The other slot of the directory does not count.
    let (disk, _) = used();
    let other = if directory == l.sb.geometry.directory_block(0, 0) {
        1
    } else {
        0
    };
    let spare = l.sb.geometry.directory_block(0, other);
    edit(&disk, spare, |b| b[..4].copy_from_slice(b"UBdr"));
    found(&disk, What::SpareDirectory, &[]);
}

/// A block that is broken and spare may be in use after the checkpoint of the repair itself.
#[test]
fn what_was_spare_is_not_emptied_when_it_is_no_more() {
    let (disk, l) = committed();
    let counts = l.sb.directory_slot(0).unwrap().other().number().unwrap();
    let spare = l.sb.geometry.directory_block(0, counts);
    edit(&disk, spare, |b| b[..4].copy_from_slice(b"UBdr"));
    let what = What::SpareDirectory;
    found(&disk, what, &[What::NotDetached { blocks: 3 }]);
}

/// One write of two blocks, of which the second alone landed: no damage.
#[test]
fn a_write_torn_between_its_blocks() {
    let (disk, l) = committed();
    let at = (l.sb.journal_tail + 4) % 16;
    let place = l.sb.geometry.journal_block(at);
    let sealed = |before| {
        edit(&disk, place, |b| {
            let head = RingHead {
                sequence: l.sb.journal_sequence + 4,
                base: 0,
                count: 1,
                last: true,
                before,
            };
            b.fill(0);
            ring::put_word(b, 0, Record::Place(0).encode());
            ring::seal(b, l.sb.nonce, &head);
        });
    };
    sealed(0);
    assert!(look(&disk).unwrap().has(What::JournalHole));
    sealed(1);
    found(&disk, What::NotDetached { blocks: 3 }, &[]);
}

/// Damage that cannot be mended keeps the rest from being mended, but for the superblock's slot.
#[test]
fn beside_damage_only_a_slot_is_mended() {
    let (disk, l) = committed();
    let page = block_of_page(&disk, &l.sb, 0);
    edit(&disk, page, |b| b[7] ^= 1);
    edit(&disk, 1, |b| b[300] ^= 1);
    let before = disk.image();
    let l = look(&disk).unwrap();
    assert!(l.has(What::SlotChecksum) && l.has(What::Page { page: 0 }));
    repair(&disk, &l).unwrap();
    let after = disk.image();
    let changed: Vec<u64> = after
        .iter()
        .filter(|(s, d)| before.get(s) != Some(d))
        .map(|c| *c.0)
        .collect();
    assert_eq!(changed, [8]);
    let l = look(&disk).unwrap();
    assert!(!l.has(What::SlotChecksum) && l.has(What::Page { page: 0 }));
}
