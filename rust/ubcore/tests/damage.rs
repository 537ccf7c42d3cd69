// SPDX-License-Identifier: GPL-2.0

//! Promise 6: wrong metadata is named and not followed, even if its checksums are right. A flag
//! that claims too much does no harm.

use sim::disk::SimDisk;
use sim::oracle::content;
use sim::union::{format, load, SimUnion};
use ubcore::disk::Disk;
use ubcore::error::{Area, Error, Role};
use ubcore::format::record::{Record, SlabRun};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::journal::{Ring, Space, Transaction};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::{Base, Emptied, Entry};
use ubcore::pages::{bits_page_of, table_page_of};
use ubcore::slot::Slot;

fn geometry() -> Geometry {
    Geometry::new(8000, 8000, 32_768, 32, 64).unwrap()
}

/// Makes a detached leaf with three slabs in use.
fn used() -> (SimDisk, SimUnion) {
    let g = geometry();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for at in [0, 320, 7990] {
        u.write(at, 8, at + 1, true).unwrap();
    }
    u.committer.detach(&u.map, &mut u.disk).unwrap();
    (disk, u)
}

fn refused(disk: &SimDisk) -> Option<Error> {
    let image = disk.image();
    let e = SimUnion::attach_to(disk, &geometry()).err();
    assert!(
        e.is_none() || disk.image() == image,
        "written although refused"
    );
    e
}

/// Flips each bit of an active page, in use or not. The page's other slot may rot.
#[test]
fn an_active_page_is_believed_as_a_whole_or_not_at_all() {
    let g = geometry();
    let (_, u) = used();
    for page in [table_page_of(0), bits_page_of(&u.map, LeafSlab(0))] {
        let mut counts = 0;
        for slot in [Slot::A, Slot::B] {
            let block = g.page_block(page, slot);
            let mut named = 0;
            for (sector, byte) in (0..8).flat_map(|s| [0, 100, 511].map(|b| (s, b))) {
                let (disk, _) = used();
                disk.rot(block.0 * 8 + sector, byte);
                match refused(&disk) {
                    Some(Error::Damaged(Area::Page, at)) if at == block => named += 1,
                    Some(e) => panic!("page {page}, slot {slot:?}: {e}"),
                    None => {}
                }
            }
            assert!(named == 0 || named == 24, "page {page}: {named}");
            counts += u32::from(named == 24);
        }
        assert_eq!(counts, 1, "active slots of page {page}");
    }
}

/// A root slab, and an entry of it that no leaf may have.
type Wrong<'a> = &'a dyn Fn(&SimUnion) -> (u32, Entry);

/// Writes a map that contradicts itself, with the right checksums.
#[test]
fn a_map_that_contradicts_itself_is_refused() {
    let g = geometry();
    let taken = |u: &SimUnion| u.map.entry(0).leaf_slab.unwrap();
    let wrongs: [Wrong<'_>; 5] = [
        &|u| (100, Entry::allocated(taken(u), Base::Below)),
        &|_| (100, Entry::allocated(LeafSlab(g.leaf_slabs()), Base::Below)),
        &|_| {
            (
                g.root_slabs(),
                Entry::allocated(LeafSlab(g.leaf_slabs() - 1), Base::Below),
            )
        },
        &|_| (100, Entry::allocated(LeafSlab(0x7fff_0000), Base::Zero)),
        &|_| {
            (
                g.root_slabs() + 5,
                Entry::allocated(LeafSlab(77), Base::Zero),
            )
        },
    ];
    for (n, wrong) in wrongs.iter().enumerate() {
        let (disk, mut u) = used();
        let (slab, entry) = wrong(&u);
        u.map.set_entry(slab, entry).unwrap();
        // A new write to the same page, so that the page is written.
        u.write(6400, 1, 9, true).unwrap();
        u.committer.detach(&u.map, &mut u.disk).unwrap();
        let e = refused(&disk);
        assert!(
            matches!(e, Some(Error::Damaged(Area::Map, _))),
            "wrong {n}: {e:?}"
        );
    }
}

/// Puts records of slabs that are not there, or have no leaf slab, in a journal with the right
/// checksums.
#[test]
fn a_journal_that_leads_nowhere_is_refused() {
    let g = geometry();
    let run = SlabRun { first: 3, count: 2 };
    let new = |slab, leaf: u32| {
        let step = 1;
        [
            Record::Origin(LeafSlab(leaf - 1)),
            Record::New { slab, step, run },
        ]
    };
    let (root, leaf) = (g.root_slabs(), g.leaf_slabs());
    let wrongs: [&[Record]; 8] = [
        &new(root, leaf - 1),
        &new(100, leaf),
        &new(root, leaf),
        &[Record::More { slab: root, run }],
        &[Record::More { slab: 100, run }],
        &[Record::Words { slab: 0, words: 1 }],
        &[Record::Zero {
            slab: root - 1,
            count: 2,
        }],
        &[Record::Reset {
            slab: root,
            count: 1,
        }],
    ];
    for wrong in wrongs.into_iter().chain([&new(100, leaf - 1)[..]]) {
        let (mut disk, u) = used();
        let sb = u.committer.superblock();
        let mut ring = Ring::new(g.journal_blocks(), sb.journal_tail, 0, sb.journal_sequence);
        let mut transaction = Transaction::new(&mut ring, &mut disk, sb);
        assert_eq!(transaction.put(wrong), Ok(Space::Left));
        assert_eq!(transaction.finish(), Ok(1));
        let block = g.journal_block(sb.journal_tail);
        let valid = wrong == new(100, leaf - 1);
        let damage = Some(Error::Damaged(Area::Journal, block)).filter(|_| !valid);
        assert_eq!(refused(&disk), damage, "{wrong:?}");
    }
}

/// A reason says what and where, also through the ioctl.
#[test]
fn a_reason_names_the_place() {
    let areas = [
        (Area::Superblock, "superblock"),
        (Area::Directory, "page directory"),
        (Area::Page, "map page"),
        (Area::Journal, "journal"),
        (Area::Map, "map"),
    ];
    for (area, name) in areas {
        let e = Error::Damaged(area, LeafBlock(9));
        let start = match area {
            Area::Map => "the leaf's map contradicts itself in the map page with slot A at block 9"
                .to_owned(),
            _ => format!("the leaf's {name} is damaged at block 9: "),
        };
        assert!(e.to_string().starts_with(&start), "{e}");
        let (reason, a, b) = e.to_wire();
        assert_eq!(Error::from_wire(reason, a, b), Some(e));
    }
    for (role, name) in [(Role::Root, "root"), (Role::Leaf, "leaf")] {
        let e = Error::Io(role, 7);
        assert_eq!(
            e.to_string(),
            format!("I/O error on the {name} at sector 7")
        );
        let (reason, a, b) = e.to_wire();
        assert_eq!(Error::from_wire(reason, a, b), Some(e));
    }
}

/// On disk, the states that exist only in memory are at rest.
#[test]
fn emptied_slabs_are_at_rest_on_disk() {
    let (disk, mut u) = used();
    let done = u.allocator.empty(&u.map, 0..1, Base::Zero);
    assert_eq!(done, Ok(true));
    assert_eq!(u.map.entry(0).emptied, Emptied::Pending);
    u.committer.checkpoint(&u.map, &mut u.disk).unwrap();
    assert_eq!(u.map.entry(0).emptied, Emptied::Durable);
    assert_eq!(refused(&disk), None);
    let u = load(&disk, 8000, 32_768).unwrap();
    assert_eq!(u.map.entry(0), Entry::unallocated(Base::Zero, Emptied::No));
    assert!(u.read(3) == [0; 512] && u.read(325) == content(321, 325));
}

/// A slab was emptied and its leaf slab allocated again. If that record rots, replay does not
/// return to the map before it, in which the old slab would show another slab's data. Rot of the
/// very last block does no harm.
#[test]
fn a_rotten_record_of_an_emptied_slab_is_damage() {
    let g = geometry();
    let scenario = || {
        let (disk, u) = used();
        drop(u);
        let mut u = SimUnion::attach_to(&disk, &g).unwrap();
        let before = u.committer.counters().journal_written;
        u.allocator.empty(&u.map, 0..1, Base::Zero).unwrap();
        u.flush().unwrap();
        assert_eq!(u.committer.counters().journal_written - before, 2);
        (disk, u.committer.superblock().journal_tail)
    };
    for (rotten, named) in [(0, true), (1, false)] {
        let (disk, tail) = scenario();
        let block = g.journal_block((tail + rotten) % g.journal_blocks());
        disk.rot(block.0 * 8, 40);
        match SimUnion::attach_to(&disk, &g) {
            Err(Error::Damaged(Area::Journal, at)) if at == block => assert!(named),
            Err(e) => panic!("{e}"),
            Ok(u) => assert!(!named && u.read(3) == [0; 512]),
        }
    }
}

/// A superblock says clean although the journal is not empty.
#[test]
fn clean_saves_time_and_decides_nothing() {
    let g = geometry();
    let (disk, u) = used();
    drop(u);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for at in [640, 960] {
        u.write(at, 3, at, true).unwrap();
        u.flush().unwrap();
    }
    drop(u);
    for slot in 0..2 {
        let mut sb = Superblock::decode(&disk.read_sector(slot * 8), LeafBlock(slot)).unwrap();
        assert!(!sb.clean);
        sb.clean = true;
        let mut d = disk.clone();
        sb.encode(d.block());
        d.write(LeafBlock(slot), 1, ubcore::disk::Order::Fua)
            .unwrap();
    }
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    for at in [640, 960] {
        assert!(u.read(at + 2) == content(at, at + 2));
    }
}
