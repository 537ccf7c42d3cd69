// SPDX-License-Identifier: GPL-2.0

//! Tests leaves made to do harm, with right checksums. The work and the memory of an attach are
//! bounded by what such a leaf really holds, and a signal ends the work.

use std::cell::Cell;

use sim::disk::SimDisk;
use sim::inspect::{edit, edit_with_checksum, look};
use sim::memory::{MemoryAccess, Watch, Watched};
use sim::oracle::content;
use sim::parts::{fill, page_set};
use sim::union::{salvage, superblock, SimUnion};
use ubcore::attach;
use ubcore::check::{FindingKind, Grade};
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::{Area, Error, Result};
use ubcore::format::below_list::PATH_BYTES;
use ubcore::format::crc::crc32c;
use ubcore::format::directory::{self, PageEntry};
use ubcore::format::new_leaf::NewLeaf;
use ubcore::format::record::{Record, SlabRun};
use ubcore::format::ring::{self, RingHead};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Block, Geometry, LeafSlab, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::{Base, Entry, Map};
use ubcore::pages;
use ubcore::salvage::Lost;
use ubcore::slot::Slot;

/// Counts the accesses to a memory and the pages that it allocated.
#[derive(Default)]
struct Counting {
    asked: Cell<u64>,
    made: Cell<u64>,
    /// The accesses up to the last yield of the disk, and the most accesses between two yields.
    way: Cell<u64>,
    longest: Cell<u64>,
}

impl Counting {
    fn give_way(&self) {
        let asked = self.asked.get();
        let since = asked - self.way.replace(asked);
        self.longest.set(self.longest.get().max(since));
    }
}

impl Watch for Counting {
    fn before(&self, access: MemoryAccess) {
        match access {
            MemoryAccess::Page => self.asked.set(self.asked.get() + 1),
            MemoryAccess::Grow => self.made.set(self.made.get() + 1),
            MemoryAccess::Marks => {}
        }
    }
}

/// A leaf that is read for a task that gets a fatal signal.
struct WatchedDisk<'a> {
    disk: SimDisk,
    count: &'a Counting,
    /// How many more times it may yield before the signal comes.
    left: u64,
}

impl Disk for WatchedDisk<'_> {
    fn buffer(&mut self) -> &mut Buffer {
        self.disk.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.disk.read(block, count)
    }
    fn write(&mut self, _: LeafBlock, _: usize, _: Order) -> Result {
        panic!("a write");
    }
    fn flush(&mut self) -> Result {
        panic!("a flush");
    }
    fn give_way(&mut self) -> Result {
        self.count.give_way();
        self.left = self.left.checked_sub(1).ok_or(SIGNAL)?;
        Ok(())
    }
}

/// The error by which the driver reports a signal.
const SIGNAL: Error = Error::Os(4);

/// The cost of reading a leaf.
struct Cost {
    done: Result,
    asked: u64,
    made: u64,
    /// The most accesses to the memory between two yields of the disk, and the number of yields.
    longest: u64,
    ways: u64,
}

fn cost(disk: &SimDisk, g: &Geometry) -> Cost {
    cost_until(disk, g, u64::MAX)
}

/// Does all of the driver's attach that only reads.
fn cost_until(disk: &SimDisk, g: &Geometry, signal: u64) -> Cost {
    let map = Map::new(*g, Watched::new(g, Counting::default()));
    let count = &map.memory().watch;
    let mut disk = WatchedDisk {
        disk: disk.clone(),
        count,
        left: signal,
    };
    let probe = attach::probe(&mut disk, g.root_sectors(), g.leaf_sectors()).unwrap();
    let mut lost = Lost::new(page_set(g));
    let done = fill(&mut disk, probe, &map, page_set(g), &mut lost).map(drop);
    let done = done.and_then(|()| attach::fits_blocks(&mut disk, &map, 1).map(drop));
    count.give_way();
    Cost {
        done,
        longest: count.longest.get(),
        ways: signal - disk.left,
        asked: count.asked.get(),
        made: count.made.get(),
    }
}

fn write(disk: &mut SimDisk, block: LeafBlock, bytes: impl FnOnce(&mut Block)) {
    disk.block().fill(0);
    bytes(disk.block());
    disk.write(block, 1, Order::FlushFua).unwrap();
}

fn write_superblock(disk: &mut SimDisk, sb: &Superblock) {
    for slot in 0..2 {
        write(disk, LeafBlock(slot), |b| sb.encode(b));
    }
}

/// Makes a leaf whose ring holds these records, each block a transaction.
fn ring_of(g: Geometry, blocks: u32, record: impl Fn(u64) -> u64) -> SimDisk {
    let sb = Superblock {
        clean: false,
        ..superblock(g)
    };
    let mut disk = SimDisk::new();
    write_superblock(&mut disk, &sb);
    for n in 0..blocks {
        let head = RingHead {
            sequence: 1 + u64::from(n),
            origin: LeafSlab(0),
            count: 508,
            last: true,
            before: 0,
        };
        write(&mut disk, g.journal_block(n), |b| {
            for at in 0..508 {
                ring::put_word(b, at, record(u64::from(n) * 508 + at as u64)).unwrap();
            }
            ring::write_head(b, sb.nonce, &head);
        });
    }
    disk
}

/// Makes a leaf whose directory names pages, all of them in slot A, each with this content.
fn pages_of(g: Geometry, named: impl Fn(u32) -> bool, content: impl Fn(u32) -> Vec<u8>) -> SimDisk {
    let mut disk = SimDisk::new();
    let mut sb = superblock(g);
    for at in 0..g.directory_blocks() {
        let list: Vec<PageEntry> = directory::indices_of(at, g.pages())
            .map(|page| match named(page as u32) {
                true => PageEntry {
                    slot: Some(Slot::A),
                    crc: crc32c(0, &content(page as u32)),
                },
                false => PageEntry::EMPTY,
            })
            .collect();
        write(&mut disk, g.directory_block(at, Slot::A), |b| {
            directory::encode(b, at, 1, sb.nonce, &list).unwrap();
        });
        sb.set_directory_slot(at, Slot::A).unwrap();
    }
    for page in (0..g.pages()).filter(|&p| named(p)) {
        let bytes = content(page);
        if bytes.iter().any(|&b| b != 0) {
            write(&mut disk, g.page_block(MapPage(page), Slot::A), |b| {
                b.copy_from_slice(&bytes)
            });
        }
    }
    NewLeaf::new(&sb, &[0; PATH_BYTES], &[])
        .unwrap()
        .encode_list(disk.block(), 0);
    disk.write(g.below_list_block(0), 1, Order::FlushFua)
        .unwrap();
    write_superblock(&mut disk, &sb);
    disk
}

/// The tag of *Zero*, and a range of 2^26 slabs from the first, as the format once allowed.
const ZERO_ALL: u64 = ((0x1fff << 19) | (0x1fff << 6)) | 4;

/// A ring full of records that empty everything, each as long as a record could once be.
#[test]
fn a_ring_full_of_ranges() {
    let slabs = 1 << 26;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 21, 32, 64).unwrap();
    let disk = ring_of(g, 64, |_| ZERO_ALL);
    let c = cost(&disk, &g);
    let at = g.journal_block(0);
    assert_eq!(c.done, Err(Error::Damaged(Area::Journal, at)));
    assert!(c.asked < 1000 && c.made < 64, "{} {}", c.asked, c.made);
    let l = look(&disk).unwrap();
    assert!(l.has(FindingKind::JournalRecord), "{:?}", l.findings);
}

/// The most that a valid ring can contain: each record empties a whole page of the table.
#[test]
fn a_ring_full_of_whole_pages() {
    let slabs = 1 << 26;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 21, 32, 64).unwrap();
    let disk = ring_of(g, 64, |n| {
        let (slab, count) = (1024 * (n as u32 % 7), 1024);
        match n % 3 {
            0 => Record::Reset { slab, count },
            _ => Record::Zero { slab, count },
        }
        .encode()
    });
    let c = cost(&disk, &g);
    assert_eq!(c.done, Ok(()));
    assert_eq!(c.made, 7);
    // For each slab of a record: two reads of its entry and one store.
    let named = 64 * 508 * 1024;
    assert!(c.asked < 5 * named, "{} for {named} slabs", c.asked);
    assert_eq!(SimUnion::attach_to(&disk, &g).err(), None);
}

/// If a leaf makes the work long, the work is in steps of a block or a page each, and can end
/// between any two.
#[test]
fn a_signal_ends_it() {
    let g = Geometry::new(1 << 27, 1 << 27, 1 << 21, 32, 16).unwrap();
    let whole = |n: u64| Record::Zero {
        slab: 1024 * (n as u32 % 64),
        count: 1024,
    };
    let ring = ring_of(g, 16, |n| whole(n).encode());
    // Many pages of a table and of bits, all of them full, and one more block that is lost.
    let table = |page: u32| -> Vec<u8> {
        (0..1024)
            .flat_map(|n| {
                Entry::allocated(LeafSlab(1024 * page + n), Base::Zero)
                    .encode()
                    .to_le_bytes()
            })
            .collect()
    };
    let tables = 24;
    let full = pages_of(
        g,
        |page| page < tables || page >= g.table_pages(),
        |page| match page < tables {
            true => table(page),
            false => vec![0xff; 4096],
        },
    );
    let lost = pages_of(g, |page| page < tables + 9, |_| vec![0x55; 4096]);
    for page in 0..tables + 9 {
        edit(&lost, g.page_block(MapPage(page), Slot::A), |b| b[9] ^= 1);
    }
    for (name, disk) in [("ring", ring), ("full", full), ("lost", lost)] {
        let before = disk.image();
        let c = cost(&disk, &g);
        assert_eq!(c.done, Ok(()), "{name}");
        assert!(c.ways > 30, "{name}: {} times", c.ways);
        // The most that a block of the journal contains, and a page of a map with its bits.
        let most = 5 * 508 * 1024;
        assert!(c.longest < most, "{name}: {} at a time", c.longest);
        for n in (0..c.ways).step_by(1 + c.ways as usize / 40) {
            let ended = cost_until(&disk, &g, n).done;
            assert_eq!(ended, Err(SIGNAL), "{name}: after {n}");
        }
        assert!(disk.image() == before);
    }
}

/// A short journal whose records touch a page each: as many pages as the ring may fill, and one
/// more.
#[test]
fn a_ring_that_fills_many_pages() {
    let slabs = 1 << 22;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 21, 32, 64).unwrap();
    let most = 16 * 64 + 1024;
    for (pages, valid) in [(most, true), (most + 1, false), (4096, false)] {
        let disk = ring_of(g, 64, |n| {
            let page = n.min(pages - 1) as u32;
            let (slab, count) = (1024 * page, 1);
            Record::Zero { slab, count }.encode()
        });
        let c = cost(&disk, &g);
        let block = g.journal_block((most / 508) as u32);
        let wanted = if valid {
            Ok(())
        } else {
            Err(Error::Damaged(Area::Journal, block))
        };
        assert_eq!(c.done, wanted, "{pages} pages");
        assert!(c.made <= most, "{pages} pages: {} made", c.made);
        let worst = look(&disk).unwrap().worst();
        assert_eq!(worst == Some(Grade::Damage), !valid, "{pages} pages");
    }
    // New leaf slabs touch a page of the table and a page of the bits each.
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 26, 32, 64).unwrap();
    let run = SlabRun { first: 0, count: 1 };
    let disk = ring_of(g, 64, |n| {
        let (at, is_origin) = (n as u32 / 2 % 2000, n % 2 == 0);
        match is_origin {
            true => Record::Origin(LeafSlab(1024 * at)),
            false => Record::New {
                slab: 1024 * at,
                step: 1,
                run,
            },
        }
        .encode()
    });
    let c = cost(&disk, &g);
    assert!(matches!(c.done, Err(Error::Damaged(Area::Journal, _))));
    assert!(c.made <= most, "{} made", c.made);
}

/// A union cannot write a journal that exceeds that bound, because it never reaches the bound.
#[test]
fn a_union_that_fills_many_pages() {
    let pages = 1700;
    let slabs = 1024 * u64::from(pages);
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 21, 32, 16).unwrap();
    let mut disk = SimDisk::new();
    write_superblock(&mut disk, &superblock(g));
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let again = |disk: &SimDisk, filled: &dyn Fn(u32) -> Base| {
        let u = sim::union::load(disk, g.root_sectors(), g.leaf_sectors()).unwrap();
        for page in 0..pages {
            assert_eq!(u.map.entry(page * 1024).base, filled(page), "page {page}");
        }
    };
    // First a few with each commit, then very many with one commit, and again with the other base.
    for page in 0..900 {
        u.empty(page * 1024..page * 1024 + 1, Base::Zero).unwrap();
        u.flush().unwrap();
        if page % 100 == 99 {
            again(&disk, &|p| {
                [Base::Below, Base::Zero][usize::from(p <= page)]
            });
        }
    }
    for base in [Base::Zero, Base::Below, Base::Zero, Base::Zero] {
        for page in 0..pages {
            u.empty(page * 1024..page * 1024 + 1, base).unwrap();
        }
        u.flush().unwrap();
        again(&disk, &|_| base);
        // After a change back to the root the pages hold zeroes. Entries that fill them next count
        // anew.
        u.checkpoint().unwrap();
        again(&disk, &|_| base);
    }
    u.write(32 * 1024 * 1600, 1, 5, true).unwrap();
    u.flush().unwrap();
    again(&disk, &|_| Base::Zero);
    u.detach().unwrap();
    again(&disk, &|_| Base::Zero);
}

/// A directory that names all pages, each empty, costs the memory of no page.
#[test]
fn pages_of_zeroes_take_no_memory() {
    let slabs = 1024 * 40_000;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 25, 32, 16).unwrap();
    let disk = pages_of(g, |_| true, |_| vec![0; 4096]);
    let c = cost(&disk, &g);
    assert_eq!((c.done, c.made), (Ok(()), 0));
    let l = look(&disk).unwrap();
    assert_eq!(
        (l.findings.as_slice(), l.totals.pages),
        (&[][..], g.pages())
    );
    // Their checksum is known without a look at each byte.
    let mut page = [0; 4096];
    assert_eq!(pages::crc(&page), crc32c(0, &page));
    page[4095] = 1;
    assert_eq!(pages::crc(&page), crc32c(0, &page));
}

/// Leaf slabs with no mapped sector, each in a separate page of owners, belong to no root slab. A
/// root slab that had such a leaf slab can be written.
#[test]
fn leaf_slabs_without_bits_take_no_memory() {
    let slabs = 1 << 20;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 26, 32, 16).unwrap();
    let far = |n: u32| n * 1024 + 7;
    let table: Vec<u8> = (0..1024u32)
        .flat_map(|n| {
            Entry::allocated(LeafSlab(far(n)), Base::Below)
                .encode()
                .to_le_bytes()
        })
        .collect();
    let disk = pages_of(g, |page| page == 3, |_| table.clone());
    let c = cost(&disk, &g);
    assert_eq!((c.done, c.made), (Ok(()), 1));
    let (slab, leaf_slab) = (3 * 1024 + 5, LeafSlab(far(5)));
    assert!(look(&disk)
        .unwrap()
        .has(FindingKind::Leaked { slab, leaf_slab }));

    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    assert_eq!(u.allocator.used(), 0);
    let sector = u64::from(slab) * 32 + 3;
    u.write(sector, 2, 77, true).unwrap();
    u.flush().unwrap();
    assert_eq!(u.read(sector), content(77, sector));
    let u = SimUnion::attach_to(&disk, &g).unwrap();
    assert_eq!(u.read(sector), content(77, sector));
    assert_eq!(u.allocator.used(), 1);
    assert_eq!(look(&disk).unwrap().totals.slabs_used, 1);
}

/// A superblock names directory blocks that are not there. The loss is bounded.
#[test]
fn a_superblock_that_claims_losses() {
    let slabs = 1024 * 40_000;
    let g = Geometry::new(32 * slabs, 32 * slabs, 1 << 20, 32, 16).unwrap();
    for (blocks, kept) in [(32, true), (33, false), (g.directory_blocks(), false)] {
        let mut sb = superblock(g);
        (0..blocks).for_each(|at| sb.set_directory_slot(at, Slot::B).unwrap());
        let mut disk = SimDisk::new();
        write_superblock(&mut disk, &sb);
        let c = cost(&disk, &g);
        let first = |n| Error::Damaged(Area::Directory, g.directory_block(n, Slot::B));
        let wanted = if kept { Ok(()) } else { Err(first(32)) };
        assert_eq!(c.done, wanted, "{blocks} blocks");
        assert!(c.made <= 32 * 508, "{blocks} blocks: {} made", c.made);
        let e = SimUnion::attach_to(&disk, &g).err();
        assert_eq!(e, Some(first(0)), "{blocks} blocks");
    }
    // Journal records of lost pages do not count as filled pages.
    let mut disk = ring_of(g, 16, |n| {
        let slab = 1024 * (n as u32 % 1500);
        Record::Zero { slab, count: 1 }.encode()
    });
    for slot in [0, 1] {
        edit_with_checksum(&disk, LeafBlock(slot), 512, 8, |b| b[256] = 0b01_01_01);
    }
    assert!(salvage(&disk, &g).is_ok());
    for at in 0..3 {
        write(&mut disk, g.directory_block(at, Slot::A), |b| {
            directory::encode(b, at, 1, superblock(g).nonce, &[]).unwrap();
        });
    }
    let e = salvage(&disk, &g).err();
    let block = g.journal_block(1280 / 508);
    assert_eq!(e, Some(Error::Damaged(Area::Journal, block)));
}
