// SPDX-License-Identifier: GPL-2.0

//! If an invariant of the core is broken, the operation fails with `Internal`, and writes nothing.

use sim::disk::SimDisk;
use sim::memory::SimMemory;
use sim::union::{format, format_as, load, superblock, SimUnion};
use ubcore::alloc::{bitmap_words, Allocator};
use ubcore::attach::{self, fits_blocks};
use ubcore::error::{Broken, Error, Result};
use ubcore::format::directory::PageEntry;
use ubcore::format::ring::NUMBERS;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, LeafSlab, MapPage};
use ubcore::map::{words_for, Base, Entry, Map, Marks};
use ubcore::pages::PageSet;
use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

const SLAB: u64 = 32;

fn geometry() -> Geometry {
    Geometry::new(100 * SLAB, 100 * SLAB, 2048 + 40 * SLAB, SLAB as u32, 16).unwrap()
}

fn formatted() -> SimDisk {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    disk
}

/// Attaches with lists of these lengths.
fn load_with(disk: &SimDisk, entries: usize, words: [usize; 2]) -> Result<SimUnion> {
    let (g, mut disk) = (geometry(), disk.clone());
    let probe = attach::probe(&mut disk, g.root_sectors(), g.leaf_sectors())?;
    let map = Map::new(g, SimMemory::new(&g));
    let bitmaps = bitmap_words(g.leaf_slabs()).map(|n| vec![0; n]);
    let mut allocator = Allocator::new(bitmaps, g.leaf_slabs());
    let entries = vec![PageEntry::EMPTY; entries];
    let sets = words.map(|n| PageSet::new(vec![0; n]));
    let committer = attach::load(&mut disk, probe, &map, &mut allocator, entries, sets)?;
    Ok(SimUnion {
        map,
        allocator,
        committer,
        disk,
    })
}

/// Checks that nothing can be made durable, and that nothing on the leaf changes.
fn is_stopped(mut u: SimUnion) {
    let image = u.disk.image();
    let broken = Err(Error::Internal);
    assert_eq!(u.committer.commit(&u.map, &mut u.disk), broken);
    assert_eq!(u.committer.failed(), Some(Error::Internal));
    assert_eq!(u.committer.checkpoint(&u.map, &mut u.disk), broken);
    let disk = u.disk.clone();
    assert_eq!(u.detach(), broken);
    assert!(disk.image() == image);
}

#[test]
fn a_list_that_lacks_pages_is_no_empty_directory() {
    let (disk, g) = (formatted(), geometry());
    let (pages, words) = (g.pages() as usize, words_for(g.pages()));
    assert!(load_with(&disk, pages, [words; 2]).is_ok());
    let short = load_with(&disk, pages - 1, [words; 2]);
    assert_eq!(short.err(), Some(Error::Internal));
}

#[test]
fn a_page_that_the_set_of_changed_pages_has_no_bit_for_is_not_forgotten() {
    let (disk, g) = (formatted(), geometry());
    let pages = g.pages() as usize;
    let words = words_for(g.pages());
    // By a commit.
    let mut u = load_with(&disk, pages, [0, words]).unwrap();
    u.write(3, 1, 1, true).unwrap();
    is_stopped(u);
    // By a replay.
    let mut u = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
    u.write(3, 1, 1, true).unwrap();
    u.committer.commit(&u.map, &mut u.disk).unwrap();
    let replayed = load_with(&disk, pages, [0, words]);
    assert_eq!(replayed.err(), Some(Error::Internal));
    // By a checkpoint, of what is stored.
    let disk = formatted();
    let mut u = load_with(&disk, pages, [words, 0]).unwrap();
    u.write(3, 1, 1, true).unwrap();
    let image = disk.image();
    let done = u.committer.checkpoint(&u.map, &mut u.disk);
    assert_eq!(done, Err(Error::Internal));
    assert!(disk.image() == image);
}

/// A leaf slab without a page of bits. Attach makes no such entry, see `hostile.rs`.
#[test]
fn a_mark_that_has_no_bit_stops_the_union() {
    for (slab, sector, count) in [(5, 5 * SLAB + 3, 1), (5, 4 * SLAB, 2 * SLAB as u32)] {
        let disk = formatted();
        let mut u = SimUnion::attach_to(&disk, &geometry()).unwrap();
        assert_eq!(u.map.check(), Ok(()));
        u.map
            .set_entry(slab, Entry::allocated(LeafSlab(7), Base::Below))
            .unwrap();
        assert_eq!(u.map.map_sectors(sector, count), Err(Broken));
        assert_eq!(u.map.check(), Err(Error::Internal));
        assert!(u.map.quiescent_changes().is_some());
        // The root may be older than what the leaf slab holds, so the slab cannot be read.
        let run = plan::read(&u.map, NoLayers, sector, count).last().unwrap();
        assert_eq!(
            (run.source, u.map.word(LeafSlab(7), 0)),
            (Source::Broken, Err(Broken))
        );
        assert_eq!(fits_blocks(&mut u.disk, &u.map, 8), Err(Error::Internal));
        assert!(!u.committer.is_committed(&u.map));
        u.committer
            .store_some(&u.map, &mut u.disk, MapPage(0))
            .unwrap();
        is_stopped(u);
    }
}

/// A block or a superblock with the next number would not be valid for any reader.
#[test]
fn numbers_that_are_used_up_stop_the_union() {
    let g = geometry();
    for (generation, sequence) in [(NUMBERS - 1, 1), (1, NUMBERS - 1)] {
        let mut disk = SimDisk::new();
        let sb = Superblock {
            generation,
            journal_sequence: sequence,
            ..superblock(g)
        };
        format_as(&mut disk, &sb);
        let mut u = load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        if sequence == 1 {
            let image = disk.image();
            assert_eq!(
                u.committer.checkpoint(&u.map, &mut u.disk),
                Err(Error::Internal)
            );
            assert!(disk.image() == image);
        } else {
            u.write(3, 1, 1, true).unwrap();
            is_stopped(u);
        }
        assert!(load(&disk, g.root_sectors(), g.leaf_sectors()).is_ok());
    }
}

#[test]
fn a_slab_that_got_no_owner_is_free_again() {
    let mut u = SimUnion::attach_to(&formatted(), &geometry()).unwrap();
    u.map.memory().set_free(0);
    assert_eq!(u.allocator.allocate(&u.map, 9), Err(Error::NoMemory.into()));
    assert_eq!(u.allocator.used(), 0);
    assert!((0..u.allocator.slabs()).all(|leaf| u.allocator.is_free(LeafSlab(leaf))));
    u.map.memory().set_free(u32::MAX);
    let leaf = u.allocator.allocate(&u.map, 9).unwrap();
    assert!(!u.allocator.is_free(leaf) && u.allocator.used() == 1);
}

/// The bitmap of used slabs has no words.
#[test]
fn a_slab_without_a_bit_is_not_free() {
    let [_, flags, _] = bitmap_words(100);
    let bitmaps = [vec![], vec![0u64; flags], vec![0; flags]];
    let mut allocator = Allocator::new(bitmaps, 100);
    assert!((0..200)
        .all(|leaf| !allocator.is_free(LeafSlab(leaf))
            && !allocator.mark_used(LeafSlab(leaf)).unwrap()));
    let u = SimUnion::attach_to(&formatted(), &geometry()).unwrap();
    assert_eq!(allocator.allocate(&u.map, 9), Err(Error::Internal.into()));
    assert!(allocator.used() == 0 && u.map.entry(9).leaf_slab.is_none());
}

#[test]
fn each_bitmap_has_a_bit_for_each_number() {
    for (n, marks) in Marks::ALL.into_iter().enumerate() {
        assert_eq!(marks as usize, n);
    }
    // 16 KiB slabs: 4097 of them on the leaf, 200,000 in the union.
    let g = Geometry::new(6_400_000, 6_400_000, 4096 + 4097 * 32, 32, 16).unwrap();
    assert_eq!((g.leaf_slabs(), g.table_pages()), (4097, 196));
    let words = Marks::ALL.map(|marks| marks.words(&g));
    assert_eq!(words, [65, 2, 65, 4, 4]);
}
