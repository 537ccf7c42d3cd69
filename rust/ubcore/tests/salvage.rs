// SPDX-License-Identifier: GPL-2.0

//! Tests what is left of a damaged leaf. Each sector that is not lost reads as before the damage,
//! no more is lost than the damaged block covers, and nothing is ever written. `WORKLOADS` sets how
//! many workloads run.

use sim::disk::{DiskState, Random, SimDisk};
use sim::inspect::workloads::{in_use, workloads};
use sim::inspect::{block_of_page, edit, edit_page, edit_slots, edit_with_checksum, look};
use sim::union::{format, load, salvage, SimUnion};
use ubcore::alloc::Denied;
use ubcore::check::repair::is_of_slot;
use ubcore::check::{check_superblocks, Finding, FindingKind, Grade};
use ubcore::error::{Area, Error};
use ubcore::format::directory;
use ubcore::geometry::{superblock_block, Geometry, LeafSlab, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::{Base, Emptied, Entry};
use ubcore::pages::{bits_page_of, store, table_page_of};
use ubcore::plan::{self, Run, Source};
use ubcore::salvage::{lost_ranges, Losses};
use ubcore::slot::Slot;
use ubcore::stack::source::NoLayers;

/// Large slabs, so that a leaf of few slabs has several pages of bits.
const SLAB: u64 = 512;
/// The root ends within a slab, and so does the union.
const ROOT: u64 = 2500 * SLAB + 9;
const UNION: u64 = 2600 * SLAB - 5;
const PLACES: [u64; 14] = [
    0, 1, 2, 3, 900, 1023, 1024, 1500, 2047, 2048, 2499, 2500, 2598, 2599,
];

fn geometry() -> Geometry {
    Geometry::new(ROOT, UNION, 2048 + 150 * SLAB, SLAB as u32, 16).unwrap()
}

fn step(u: &mut SimUnion, random: &mut Random, tag: u64) -> ubcore::error::Result {
    let slab = PLACES[random.below(14) as usize];
    match random.below(14) {
        0 | 1 => u.flush(),
        2 => u.checkpoint(),
        3 => {
            let bases = [Base::Zero, Base::Below];
            let end = (slab + 2).min(2600) as u32;
            u.empty(slab as u32..end, bases[random.below(2) as usize])?;
            u.flush()
        }
        _ => {
            let len = 1 + random.below(50);
            let at = (slab * SLAB + random.below(SLAB)).min(UNION - len);
            match u.write(at, len, tag, true) {
                Ok(()) => Ok(()),
                Err(Denied::Later | Denied::Failed(Error::Full)) => u.flush(),
                Err(Denied::Failed(e)) => Err(e),
            }
        }
    }
}

/// Runs a workload that ends in a detach, or in a power failure at I/O `fails_at`.
fn workload(random: &mut Random, fails_at: Option<u64>) -> SimDisk {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for tag in 0..random.below(30) {
        step(&mut u, random, tag + 1).unwrap();
    }
    u.detach().unwrap();
    disk.state.borrow_mut().power_fails_in = fails_at;
    disk.state.borrow_mut().random = Some(random.clone());
    let _ = SimUnion::attach_to(&disk, &g).and_then(|mut u| {
        for tag in 40..40 + random.below(25) {
            step(&mut u, random, tag)?;
        }
        u.detach()
    });
    disk.state.borrow_mut().crash(random);
    disk
}

/// Returns a separate disk with the same bytes.
fn copy(disk: &SimDisk) -> SimDisk {
    SimDisk::with(DiskState::restored(disk.image()))
}

fn runs(u: &SimUnion) -> Vec<Run> {
    plan::read(&u.map, NoLayers, 0, u.map.geometry().union_sectors() as u32).collect()
}

/// Calls `f` for each range in which neither of two unions changes its source, with both sources.
fn side_by_side(a: &[Run], b: &[Run], mut f: impl FnMut(u64, u64, Source, Source)) {
    let at = |run: &Run, n: u64| match run.source {
        Source::Root(s) => Source::Root(s + n),
        Source::Leaf(s) => Source::Leaf(s + n),
        other => other,
    };
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let (mut from_a, mut from_b, mut sector) = (0, 0, 0);
    while let (Some(&x), Some(&y)) = (a.peek(), b.peek()) {
        let len = (u64::from(x.sectors) - from_a).min(u64::from(y.sectors) - from_b);
        f(sector, len, at(x, from_a), at(y, from_b));
        (from_a, from_b, sector) = (from_a + len, from_b + len, sector + len);
        if from_a == u64::from(x.sectors) {
            (_, from_a) = (a.next(), 0);
        }
        if from_b == u64::from(y.sectors) {
            (_, from_b) = (b.next(), 0);
        }
    }
    assert!(a.next().is_none() && b.next().is_none());
}

/// Compares what was salvaged with the union as it was. Each sector is the same, or lost because of
/// one of `pages`. Returns how many are lost.
fn check(truth: &SimUnion, found: &SimUnion, pages: &[u32]) -> u64 {
    let g = truth.map.geometry();
    let mut lost = 0;
    side_by_side(&runs(truth), &runs(found), |sector, len, was, is| {
        let slab = g.slab_of(sector);
        let leaf_slab = truth.map.entry(slab).leaf_slab;
        let must = pages.contains(&table_page_of(slab).0)
            || leaf_slab.is_some_and(|l| pages.contains(&bits_page_of(&truth.map, l).0));
        let wanted = if must { Source::Lost } else { was };
        assert_eq!(is, wanted, "sector {sector}, {len} sectors, was {was:?}");
        lost += if must { len } else { 0 };
    });
    let mut sum = 0;
    lost_ranges(&found.map, |_| false, || Ok(()), |_, count| sum += count).unwrap();
    assert_eq!(sum, lost, "lost sectors as ranges");
    lost
}

/// A damage to a block of metadata.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Bit,
    Zeroes,
    Unreadable,
}

fn harm(disk: &SimDisk, block: LeafBlock, bytes: usize, harm: Harm, random: &mut Random) {
    match harm {
        Harm::Bit => {
            let (byte, bit) = (random.below(bytes as u64) as usize, 1 << random.below(8));
            edit(disk, block, |b| b[byte] ^= bit);
        }
        Harm::Zeroes => edit(disk, block, |b| b.fill(0)),
        Harm::Unreadable => drop(disk.state.borrow_mut().unreadable.insert(block.0)),
    }
}

/// Returns the map pages that a block covers if the block is active.
fn pages_behind(block: LeafBlock) -> Vec<u32> {
    let kind = FindingKind::Unreadable;
    let f = Finding {
        kind,
        block,
        byte: 0,
    };
    MapPage::each(f.pages(&geometry())).map(|p| p.0).collect()
}

/// Salvages a leaf with damaged metadata and compares it with the state before the damage.
fn salvaged(disk: &SimDisk, truth: &SimUnion, pages: &[u32]) -> Option<u64> {
    let g = geometry();
    let (before, counts) = (disk.image(), disk.counts());
    let strict = load(disk, g.root_sectors(), g.leaf_sectors());
    let found = salvage(disk, &g);
    let lost = match (strict, found) {
        (Ok(strict), Ok((u, lost))) => {
            assert!(lost.blocks() == 0 && runs(&u) == runs(&strict) && pages.is_empty());
            Some(0)
        }
        (Ok(_), Err(e)) => panic!("whole, and refused: {e}"),
        (Err(_), Err(e)) => {
            assert!(pages.is_empty(), "refused for want of pages: {e}");
            None
        }
        (Err(e), Ok((u, lost))) => {
            assert_eq!(lost.first(), Some(e));
            Some(check(truth, &u, pages))
        }
    };
    let after = disk.counts();
    assert_eq!(
        (after.writes, after.fua_writes, after.flush_fua_writes),
        (counts.writes, counts.fua_writes, counts.flush_fua_writes)
    );
    assert!(disk.image() == before);
    lost
}

#[test]
fn each_block_in_turn() {
    let g = geometry();
    let mut random = Random(21);
    let (mut refused, mut partly) = (0, 0);
    for n in 0..workloads() / 4 {
        let fails_at = Some(20 + random.below(60)).filter(|_| n % 4 > 0);
        let disk = workload(&mut random, fails_at);
        let truth = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        let l = look(&disk).unwrap();
        for (block, bytes, _) in in_use(&disk, &l) {
            for h in [Harm::Bit, Harm::Zeroes, Harm::Unreadable] {
                let whole = disk.image();
                let disk = copy(&disk);
                harm(&disk, block, bytes, h, &mut random);
                // A page can hold nothing but zeroes.
                let is_same = matches!(h, Harm::Zeroes) && disk.image() == whole;
                let pages = if is_same {
                    Vec::new()
                } else {
                    pages_behind(block)
                };
                match salvaged(&disk, &truth, &pages) {
                    None => refused += 1,
                    Some(lost) if 0 < lost && lost < UNION => partly += 1,
                    Some(_) => {}
                }
            }
        }
    }
    // Only a damaged journal is refused; any damage to a superblock slot leaves the other one.
    assert!(
        refused > 0 && partly > workloads() / 4,
        "{refused} {partly}"
    );
}

#[test]
fn workloads_with_several_damages() {
    let g = geometry();
    let mut random = Random(22);
    let mut partly = 0;
    for _ in 0..workloads() {
        let fails_at = Some(random.below(80)).filter(|_| random.chance(2));
        let disk = workload(&mut random, fails_at);
        let truth = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        let l = look(&disk).unwrap();
        let blocks: Vec<_> = in_use(&disk, &l)
            .into_iter()
            .filter(|b| !pages_behind(b.0).is_empty())
            .collect();
        // A damage to the only directory block would lose everything.
        let skip = usize::from(!random.chance(10) && blocks.len() > 1);
        let mut pages = Vec::new();
        for _ in 0..=random.below(4) {
            let at = skip + random.below((blocks.len() - skip).max(1) as u64) as usize;
            let Some(&(block, bytes, _)) = blocks.get(at) else {
                continue;
            };
            let h = [Harm::Bit, Harm::Zeroes, Harm::Unreadable][random.below(3) as usize];
            let more = pages_behind(block);
            // A bit that is flipped twice has its old value.
            if !pages.contains(&more[0]) {
                harm(&disk, block, bytes, h, &mut random);
                pages.extend(more);
            }
        }
        let lost = salvaged(&disk, &truth, &pages).unwrap();
        partly += u64::from(0 < lost && lost < UNION);
    }
    assert!(partly > workloads() / 3, "{partly}");
}

/// Makes a leaf with a slab on each page of the table, the first two sectors of each mapped.
fn used() -> (SimDisk, SimUnion) {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for slab in [3, 1500, 2100] {
        u.write(slab * SLAB, 2, slab, true).unwrap();
    }
    u.committer.detach(&u.map, &mut u.disk).unwrap();
    (disk, u)
}

fn spoil_page(disk: &SimDisk, page: u32) {
    let sb = look(disk).unwrap().sb;
    let block = block_of_page(disk, &sb, page);
    edit(disk, block, |b| b[100] ^= 1);
}

/// A device that cannot read one superblock slot: the other one is enough to read the leaf. Nothing
/// is written, because the slot may hold a newer superblock, even one that froze the leaf. If
/// neither can be read, or the other one is no superblock, the read error is the reason.
#[test]
fn one_readable_superblock_slot_is_enough() {
    let g = geometry();
    let (disk, u) = used();
    let wanted = runs(&u);
    for slot in [Slot::A, Slot::B] {
        let block = superblock_block(slot);
        let disk = copy(&disk);
        disk.state.borrow_mut().unreadable.insert(block.0);
        let (found, lost) = salvage(&disk, &g).unwrap();
        let unread = Error::Io(ubcore::error::Role::Leaf, block.0 * 8);
        assert_eq!(
            (lost.first(), found.committer.failed()),
            (None, Some(unread))
        );
        assert_eq!(runs(&found), wanted);
        let mut damage = Vec::new();
        check_superblocks(&mut disk.clone(), &mut |f: Finding| damage.push(f)).unwrap();
        assert!(
            matches!(&damage[..], [f] if f.kind == FindingKind::SlotUnreadable
            && f.kind.grade() == Grade::Damage && !is_of_slot(f.kind))
        );

        let other = superblock_block(slot.other());
        let error = Error::Io(ubcore::error::Role::Leaf, block.0 * 8);
        edit(&disk, other, |b| b.fill(0));
        assert_eq!(salvage(&disk, &g).err(), Some(error));
        disk.state.borrow_mut().unreadable.insert(other.0);
        let error = Error::Io(ubcore::error::Role::Leaf, 0);
        assert_eq!(salvage(&disk, &g).err(), Some(error));
    }
}

#[test]
fn what_was_salvaged_is_never_written() {
    let g = geometry();
    let (disk, _) = used();
    spoil_page(&disk, 1);
    let before = disk.image();
    let (mut u, lost) = salvage(&disk, &g).unwrap();
    let why = lost.first().unwrap();
    let damaged = Err(Error::Damaged(Area::Map, g.page_block(MapPage(1), Slot::A)));
    assert!(matches!(why, Error::Damaged(Area::Page, _)));
    assert_eq!(u.committer.failed(), Some(why));

    // A lost slab gets no leaf slab and no new base.
    let taken = u.allocator.used();
    let place = u.allocate_range(1500 * SLAB, 1);
    assert_eq!(place, damaged.map_err(Denied::Failed));
    let place = u.allocator.allocate_range(&u.map, 1600 * SLAB, 1);
    assert_eq!(place, damaged.map_err(Denied::Failed));
    assert_eq!(u.empty(1023..1026, Base::Zero), damaged.map(|()| true));
    assert_eq!(u.allocator.used(), taken);
    let write = plan::write(&u.map, 1500 * SLAB, 8).next().unwrap();
    assert_eq!((write.source, write.sectors), (Source::Lost, 8));

    // The same with something to commit on the slabs that are known.
    u.write(2100 * SLAB + 7, 1, 9, true).unwrap();
    let image = disk.image();
    assert_eq!(u.committer.commit(&u.map, &mut u.disk), Err(why));
    assert_eq!(u.committer.checkpoint(&u.map, &mut u.disk), Err(why));
    assert_eq!(u.committer.detach(&u.map, &mut u.disk), Err(why));
    assert_eq!(disk.image(), image);
    let is_data = |s: &u64| *s >= g.leaf_slab_start(LeafSlab(0));
    assert!(image
        .iter()
        .all(|(s, d)| is_data(s) || before.get(s) == Some(d)));

    // A page with such an entry has no form on disk.
    let mut block = [0; 4096];
    assert_eq!(store(&u.map, MapPage(1), &mut block), damaged);
    assert_eq!(store(&u.map, MapPage(0), &mut block), Ok(()));
}

/// A journal record of a lost slab does not make the slab known; a record that empties it does.
#[test]
fn records_over_lost_pages() {
    let g = geometry();
    let (disk, u) = used();
    let leaf_slabs = [3, 1500, 2100].map(|s| u.map.entry(s).leaf_slab.unwrap());
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    // More of a lost slab, a new slab on its page, an emptied slab, and a slab in many runs.
    u.write(1500 * SLAB + 9, 3, 90, true).unwrap();
    u.write(1501 * SLAB, 3, 91, true).unwrap();
    u.empty(3..4, Base::Zero).unwrap();
    for n in 0..40 {
        u.write(1502 * SLAB + 2 * n, 1, 92, true).unwrap();
    }
    u.flush().unwrap();
    let truth = load(&disk, ROOT, g.leaf_sectors()).unwrap();
    let bits = leaf_slabs.map(|l| bits_page_of(&u.map, l).0);
    for pages in [vec![1], vec![bits[0]], vec![bits[1]], vec![1, bits[2]]] {
        let disk = copy(&disk);
        pages.iter().for_each(|&p| spoil_page(&disk, p));
        let (u, lost) = salvage(&disk, &g).unwrap();
        assert_eq!(lost.blocks() as usize, pages.len());
        assert!(check(&truth, &u, &pages) > 0 || pages == [bits[0]]);
        // Its bits are gone, but it was emptied afterwards, so it is known to be zero.
        assert_eq!(u.map.entry(3), Entry::unallocated(Base::Zero, Emptied::No));
    }
}

#[test]
fn a_directory_block_of_two() {
    let pages = 600;
    let slabs = 1024 * pages;
    let g = Geometry::new(32 * slabs, 32 * slabs, 12288 + 64 * 32, 32, 16).unwrap();
    assert_eq!(g.directory_blocks(), 2);
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for page in [0, 1, 507, 508, 599] {
        u.write(32 * 1024 * page + 5, 2, page + 1, true).unwrap();
    }
    u.detach().unwrap();
    let truth = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
    let sb = look(&disk).unwrap().sb;
    for at in 0..2 {
        let disk = copy(&disk);
        let slot = sb.directory_slot(at).unwrap().unwrap();
        edit(&disk, g.directory_block(at, slot), |b| b[50] ^= 4);
        let (u, lost) = salvage(&disk, &g).unwrap();
        let range = directory::indices_of(at, g.pages());
        let gone: Vec<u32> = range.map(|p| p as u32).collect();
        let lost_sectors = check(&truth, &u, &gone);
        let of_table = [508, 92][at as usize] * 1024 * 32;
        // The second block also covers the bits, so three slabs of the first block's pages are lost
        // with it.
        assert_eq!(lost_sectors, of_table + 3 * 32 * u64::from(at));
        assert!(matches!(
            lost.first(),
            Some(Error::Damaged(Area::Directory, _))
        ));
    }
}

/// Damage whose extent cannot be determined is still refused, beside a page that alone could be
/// lost.
#[test]
fn refused_anyway() {
    let g = geometry();
    let taken = |u: &SimUnion| u.map.entry(3).leaf_slab.unwrap();
    let refusal = |disk: &SimDisk| {
        spoil_page(disk, 1);
        salvage(disk, &g).err()
    };
    // With right checksums: a shared slab, a slab past the leaf, a state that exists only in
    // memory.
    let (_, u) = used();
    for entry in [
        Entry::allocated(taken(&u), Base::Below),
        Entry::allocated(LeafSlab(g.leaf_slabs()), Base::Below),
        Entry::LOST,
        Entry::unallocated(Base::Zero, Emptied::Durable),
    ] {
        let (disk, _) = used();
        let sb = look(&disk).unwrap().sb;
        edit_page(&disk, &sb, 0, |b| {
            b[400..404].copy_from_slice(&entry.encode().to_le_bytes())
        });
        let e = refusal(&disk);
        assert!(matches!(e, Some(Error::Damaged(Area::Map, _))), "{e:?}");
    }
    // A directory that is newer than its superblock.
    let (disk, _) = used();
    let sb = look(&disk).unwrap().sb;
    let block = g.directory_block(0, sb.directory_slot(0).unwrap().unwrap());
    edit_with_checksum(&disk, block, 4096, 4, |b| b[16] += 9);
    let e = salvage(&disk, &g).err();
    assert_eq!(e, Some(Error::Damaged(Area::Directory, block)));
    // Both superblocks are damaged; a leaf is too short.
    let (disk, _) = used();
    edit_slots(&disk, &[0, 1], |b| b[30] ^= 1);
    edit(&disk, LeafBlock(0), |b| b[31] ^= 1);
    edit(&disk, LeafBlock(1), |b| b[31] ^= 1);
    let e = salvage(&disk, &g).err();
    assert!(
        matches!(e, Some(Error::Damaged(Area::Superblock, _))),
        "{e:?}"
    );
}

/// A hole in the journal, and a journal block that cannot be read.
#[test]
fn a_damaged_journal_is_refused() {
    let g = geometry();
    let (disk, _) = used();
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for n in 0..3 {
        u.write(2100 * SLAB + 8 * n, 1, 9, true).unwrap();
        u.flush().unwrap();
    }
    let tail = g.journal_block(u.committer.superblock().journal_tail);
    for h in [Harm::Bit, Harm::Zeroes, Harm::Unreadable] {
        for with_page in [false, true] {
            let disk = copy(&disk);
            if with_page {
                spoil_page(&disk, 1);
            }
            harm(&disk, tail, 4096, h, &mut Random(1));
            let wanted = match h {
                Harm::Unreadable => Error::Io(ubcore::error::Role::Leaf, tail.0 * 8),
                _ => Error::Damaged(Area::Journal, tail),
            };
            assert_eq!(salvage(&disk, &g).err(), Some(wanted), "{h:?}");
        }
    }
}
