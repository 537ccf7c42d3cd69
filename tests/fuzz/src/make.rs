// SPDX-License-Identifier: GPL-2.0

//! Makes a leaf from a fuzzer's bytes. The first byte chooses how: the bytes as they are; the same
//! with correct checksums; a real leaf with patches; a leaf made field by field.

use ubcore::format::crc::{block_crc, crc32c};
use ubcore::format::directory::{self, PageEntry};
use ubcore::format::features::Features;
use ubcore::format::record::{Record, SlabRun};
use ubcore::format::ring::{self, RingHead};
use ubcore::format::superblock::{choose, Superblock, DIRECTORY_SLOTS_BYTES};
use ubcore::geometry::{Block, Geometry, LeafSlab, MapPage, SparePages};
use ubcore::slot::Slot;

use crate::leaf::{Blocks, Leaf};
use crate::real;
use crate::source::Numbers;
use sim::union::superblock as formatted;

/// The size of a device that has room for each layout that is small enough to be tried often.
pub const SECTORS: u64 = 1 << 24;

/// Makes a leaf.
pub fn leaf(data: &[u8]) -> Leaf {
    let mut source = Numbers(data);
    match source.byte() & 3 {
        0 => raw(&mut source),
        1 => {
            let mut leaf = raw(&mut source);
            set_checksums(&mut leaf);
            leaf
        }
        2 => patched(&mut source),
        _ => structured(&mut source),
    }
}

fn raw(source: &mut Numbers<'_>) -> Leaf {
    let mut leaf = Leaf::new(Blocks::new(), SECTORS);
    for (at, bytes) in (0..).zip(source.0.chunks(4096)) {
        leaf.edit(at)[..bytes.len()].copy_from_slice(bytes);
    }
    leaf
}

/// Makes a real leaf and changes a few of its bytes.
fn patched(source: &mut Numbers<'_>) -> Leaf {
    let how = source.byte();
    let mut leaf = real::leaf(usize::from(how >> 1));
    let there: Vec<u64> = leaf.blocks.keys().copied().collect();
    while !source.is_empty() {
        let at = usize::from(source.byte());
        let offset = source.below(4096) as usize;
        let len = usize::from(source.byte() % 16) + 1;
        let bytes = source.take(len);
        let block = match at {
            // The index of a block that is there, or any of the first blocks.
            0..192 => there[at % there.len()],
            _ => at as u64 - 192,
        };
        for (room, byte) in leaf.edit(block).iter_mut().skip(offset).zip(bytes) {
            *room ^= byte;
        }
    }
    if how & 1 == 0 {
        set_checksums(&mut leaf);
    }
    leaf
}

fn set_checksum(bytes: &mut [u8], at: usize) {
    let crc = block_crc(bytes, at).expect("a block");
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Returns the superblock of a leaf.
pub fn superblock_of(leaf: &Leaf) -> Option<Superblock> {
    let empty = [0; 4096];
    let slot = |n| leaf.block(n).unwrap_or(&empty);
    choose(slot(0), slot(1)).ok().map(|(sb, _)| sb)
}

/// Corrects the checksum of a superblock slot.
pub fn set_slot_checksum(slot: &mut [u8; 512]) {
    set_checksum(slot, 8);
}

/// Corrects all checksums that count.
pub fn set_checksums(leaf: &mut Leaf) {
    for slot in 0..2 {
        if leaf.blocks.contains_key(&slot) {
            set_checksum(&mut leaf.edit(slot)[..512], 8);
        }
    }
    let Some(sb) = superblock_of(leaf) else {
        return;
    };
    let g = &sb.geometry;
    let end = g.journal_block(0).0 + u64::from(g.journal_blocks());
    let held: Vec<u64> = leaf.blocks.range(2..end).map(|(at, _)| *at).collect();
    for at in held {
        set_checksum(leaf.edit(at), 4);
    }
    for at in 0..g.directory_blocks().min(64) {
        let Some(slot) = sb.directory_slot(at).ok().flatten() else {
            continue;
        };
        let block = g.directory_block(at, slot);
        let Some(mut bytes) = leaf.block(block.0).copied() else {
            continue;
        };
        for page in directory::indices_of(at, g.pages()) {
            let entry = &mut bytes[32 + page % 508 * 8..][..8];
            if let Ok(Some(slot)) = Slot::from_bits(entry[4]) {
                let crc = crc_of(leaf.block(g.page_block(MapPage(page as u32), slot).0));
                entry[..4].copy_from_slice(&crc.to_le_bytes());
            }
        }
        set_checksum(&mut bytes, 4);
        *leaf.edit(block.0) = bytes;
    }
}

fn crc_of(page: Option<&Block>) -> u32 {
    page.map_or(0x98f9_4189, |p| crc32c(0, p))
}

/// Returns a layout, mostly a small one.
pub fn geometry(source: &mut Numbers<'_>) -> Option<Geometry> {
    let slab = 32u32 << (source.byte() % 9);
    let slabs = match source.byte() % 8 {
        0 => 1 + u64::from(source.byte()),
        1 => 508 * 1024 + u64::from(source.byte()),
        2 => u64::from(source.word() >> 4),
        _ => 1 + source.below(4000) as u64,
    };
    let union = (slabs * u64::from(slab))
        .saturating_sub(u64::from(source.byte() % 32))
        .max(1);
    let root = union - u64::from(source.byte()).min(union);
    let more = u32::from(source.byte());
    let journal = 16 + more % 8;
    let spare = SparePages {
        table: (more >> 3) & 3,
        bits: (more >> 5) & 3,
    };
    let pages = slabs.div_ceil(1024) + 14;
    let least = 8 * (2 + u64::from(journal) + 2 * pages.div_ceil(508) + 2 * pages) + 8192;
    let leaf = least + u64::from(source.half()) * 8;
    let g = Geometry::new(root, union, leaf, slab, journal).ok()?;
    g.with_spare_pages(spare).ok()
}

pub fn superblock(source: &mut Numbers<'_>, g: Geometry) -> Superblock {
    let flags = source.byte();
    Superblock {
        generation: 7,
        root_block_bytes: 512 << (flags & 3),
        clean: flags & 4 != 0,
        reveal: flags & 8 != 0,
        journal_tail: source.below(g.journal_blocks()),
        journal_sequence: 100,
        features: features(source.byte()),
        ..formatted(g)
    }
}

/// Returns feature bits, mostly none.
fn features(how: u8) -> Features {
    let mut features = Features::NONE;
    match how {
        1 => features.compat = 1 << 63,
        2 => features.ro_compat = 1 << 62,
        3 => features.incompat = 8,
        4 => features.compat_bytes[0] = 1,
        _ => {}
    }
    features
}

/// Returns a root slab near a boundary of the union.
fn slab(source: &mut Numbers<'_>, g: &Geometry) -> u32 {
    let last = u64::from(g.root_slabs());
    match source.byte() % 8 {
        0 => source.near(&[last, last - 1, 1023, 1024]) as u32,
        1 => source.below(g.root_slabs().min(4096)),
        _ => u32::from(source.byte()) % g.root_slabs().min(64),
    }
}

fn leaf_slab(source: &mut Numbers<'_>, g: &Geometry) -> u32 {
    match source.byte() % 8 {
        0 => source.near(&[u64::from(g.leaf_slabs())]) as u32,
        _ => source.below(g.leaf_slabs().min(300)),
    }
}

fn run(source: &mut Numbers<'_>, g: &Geometry) -> SlabRun {
    let sectors = g.slab_sectors();
    let first = source.below(sectors);
    let count = match source.byte() % 8 {
        0 => u32::from(source.half()) % 8192 + 1,
        1 => sectors - first,
        _ => 1 + source.below(sectors - first),
    };
    SlabRun { first, count }
}

/// Appends the words of one record, and what follows it.
pub fn record(source: &mut Numbers<'_>, g: &Geometry, out: &mut Vec<u64>) {
    let kind = source.byte();
    let record = match kind % 16 {
        0 => {
            out.push(source.long());
            return;
        }
        1 => Record::Origin(LeafSlab(leaf_slab(source, g).wrapping_sub(1))),
        2..5 => {
            let slab = slab(source, g);
            let count = match kind >> 4 {
                0 => source.word() & 0x3ff_ffff,
                1 => 1024 - slab % 1024,
                n => u32::from(n),
            };
            match kind % 2 {
                0 => Record::Zero { slab, count },
                _ => Record::Reset { slab, count },
            }
        }
        5..7 => {
            let words = g.slab_sectors().div_ceil(64);
            let slab = slab(source, g);
            out.push(Record::Words { slab, words }.encode());
            let there = if kind >> 4 == 0 {
                source.below(words + 1)
            } else {
                words
            };
            out.extend((0..there).map(|_| source.long()));
            return;
        }
        7..9 => Record::More {
            slab: slab(source, g),
            run: run(source, g),
        },
        _ => {
            if kind & 0x80 != 0 {
                out.push(Record::Origin(LeafSlab(leaf_slab(source, g).wrapping_sub(1))).encode());
            }
            let step = if kind & 0x40 != 0 {
                u32::from(source.byte() % 57)
            } else {
                1
            };
            Record::New {
                slab: slab(source, g),
                step,
                run: run(source, g),
            }
        }
    };
    out.push(record.encode());
}

/// Makes a ring with blocks that are correct in themselves, mostly in a chain.
pub fn ring(source: &mut Numbers<'_>, sb: &Superblock, leaf: &mut Leaf) {
    let g = &sb.geometry;
    let blocks = u32::from(source.byte() % 8);
    let mut sequence = sb.journal_sequence;
    for n in 0..blocks.min(g.journal_blocks()) {
        let how = source.byte();
        let mut words = Vec::new();
        let records = source.byte() % 40;
        for _ in 0..records {
            if words.len() < 500 {
                record(source, g, &mut words);
            }
        }
        words.truncate(508);
        if words.is_empty() {
            words.push(Record::Origin(LeafSlab(0)).encode());
        }
        if how % 16 == 1 {
            sequence = source.near(&[sequence, sb.journal_sequence]);
        }
        let head = RingHead {
            sequence,
            origin: if how % 16 == 2 {
                LeafSlab(source.word())
            } else {
                LeafSlab(u32::from(source.byte()).wrapping_sub(1))
            },
            count: if how % 16 == 3 {
                source.half()
            } else {
                words.len() as u16
            },
            last: how & 0x40 == 0,
            before: u16::from((how >> 4) & 3),
        };
        sequence = sequence.wrapping_add(1);
        let at = (sb.journal_tail + n) % g.journal_blocks();
        let nonce = if how % 16 == 4 { 5 } else { sb.nonce };
        let block = leaf.edit(g.journal_block(at).0);
        block.fill(0);
        for (at, word) in words.iter().enumerate() {
            ring::put_word(block, at, *word).expect("a word of the block");
        }
        ring::write_head(block, nonce, &head);
    }
}

/// Makes pages of the table and of the bits, and a directory that names them.
pub fn pages(source: &mut Numbers<'_>, sb: &mut Superblock, leaf: &mut Leaf) {
    let g = sb.geometry;
    let mut entries = vec![PageEntry::EMPTY; g.pages() as usize];
    for _ in 0..source.byte() % 8 {
        page(source, &g, leaf, &mut entries);
    }
    // The directory names every page, all of zeroes, so that their cost shows.
    if source.chance(32) {
        let crc = 0x98f9_4189;
        for entry in entries.iter_mut().filter(|e| e.slot.is_none()) {
            *entry = PageEntry {
                slot: Some(Slot::B),
                crc,
            };
        }
    }
    for at in 0..g.directory_blocks() {
        directory_block(source, sb, leaf, &entries, at);
    }
}

/// Makes a page and its entry in the directory.
fn page(source: &mut Numbers<'_>, g: &Geometry, leaf: &mut Leaf, entries: &mut [PageEntry]) {
    let how = source.byte();
    let page = match how & 3 {
        0 => source.near(&[u64::from(g.table_pages()), u64::from(g.pages()) - 1]) as u32,
        1 => g.table_pages(),
        _ => 0,
    } % g.pages();
    let slot = if how & 4 == 0 { Slot::A } else { Slot::B };
    let mut bytes = [0; 4096];
    let is_table = page < g.table_pages();
    for _ in 0..source.byte() % 24 {
        if is_table {
            let at = source.below(1024) as usize;
            let entry = match source.byte() % 16 {
                0 => source.word(),
                1 => 1,
                low => (leaf_slab(source, g).wrapping_add(1) << 1) | u32::from(low & 1),
            };
            bytes[at * 4..at * 4 + 4].copy_from_slice(&entry.to_le_bytes());
        } else {
            let at = source.below(512) as usize;
            let fill = source.take(8);
            bytes[at * 8..at * 8 + fill.len()].copy_from_slice(fill);
        }
    }
    let crc = if how & 0xf0 == 0x10 {
        source.word()
    } else {
        crc32c(0, &bytes)
    };
    entries[page as usize] = PageEntry {
        slot: Some(slot),
        crc,
    };
    if bytes != [0; 4096] {
        *leaf.edit(g.page_block(MapPage(page), slot).0) = bytes;
    }
}

/// Makes directory block `at`, unless it would name no page.
fn directory_block(
    source: &mut Numbers<'_>,
    sb: &mut Superblock,
    leaf: &mut Leaf,
    entries: &[PageEntry],
    at: u32,
) {
    let g = sb.geometry;
    let list = &entries[directory::indices_of(at, g.pages())];
    let how = source.byte();
    if how & 0x7f != 1 && list.iter().all(|e| e.slot.is_none()) {
        return;
    }
    let slot = if how & 0x80 == 0 { Slot::A } else { Slot::B };
    sb.set_directory_slot(at, slot).expect("below 992");
    let generation = if how & 0x7f == 2 {
        source.long()
    } else {
        sb.generation
    };
    let block = leaf.edit(g.directory_block(at, slot).0);
    directory::encode(block, at, generation, sb.nonce, list).expect("entries of a block");
    if how & 0x7f == 3 {
        let at = source.below(4096) as usize;
        block[at] ^= source.byte();
        set_checksum(block, 4);
    }
}

fn structured(source: &mut Numbers<'_>) -> Leaf {
    let Some(g) = geometry(source) else {
        return Leaf::new(Blocks::new(), SECTORS);
    };
    let sectors = match source.byte() % 16 {
        0 => source.near(&[g.leaf_sectors()]).min(SECTORS),
        _ => g.leaf_sectors(),
    };
    let mut leaf = Leaf::new(Blocks::new(), sectors);
    let mut sb = superblock(source, g);
    pages(source, &mut sb, &mut leaf);
    ring(source, &sb, &mut leaf);
    let slots = source.byte();
    for slot in 0..2u8 {
        let how = slots >> (4 * slot);
        if how & 7 == 1 {
            continue;
        }
        let mut this = sb.clone();
        match how & 7 {
            2 => this.generation = source.near(&[7]),
            3 => this.clean = !this.clean,
            4 => this.journal_tail = source.below(g.journal_blocks()),
            5 => {
                let at = source.below(DIRECTORY_SLOTS_BYTES as u32) as usize;
                this.directory_slots[at] ^= source.byte();
            }
            _ => {}
        }
        let block = leaf.edit(u64::from(slot));
        this.encode(block);
        if how & 15 == 6 {
            block[source.below(512) as usize] ^= source.byte();
            set_checksum(&mut block[..512], 8);
        }
    }
    leaf
}

/// Returns whether a layout is one of the large ones that are skipped, because each costs as much
/// as thousands of others.
pub fn is_too_large(g: &Geometry, data: &[u8]) -> bool {
    let odd = data.iter().fold(0u8, |sum, b| sum.rotate_left(3) ^ b);
    // This is a quarter of the largest, because a repair reads all of it five times, which takes
    // half a second.
    let largest = 1 << 17;
    g.leaf_sectors() > SECTORS || g.pages() > if odd % 64 == 0 { largest } else { 4096 }
}
