// SPDX-License-Identifier: GPL-2.0

//! From a leaf's bytes to a map: superblock, directory, pages, journal, and whether it all agrees.
//!
//! Nothing here writes. What is wrong is named and never followed; only when everything has been
//! read does [`Committer::checkpoint`] make the first write.

use core::ops::DerefMut;

use super::alloc::Allocator;
use super::commit::Committer;
use super::disk::{Disk, BUFFER_BLOCKS};
use super::error::{Area, Error, Result};
use super::format::crc::crc32c;
use super::format::directory::{self, PageEntry};
use super::format::superblock::{choose, Slot, Superblock};
use super::geometry::{BLOCK_BYTES, TABLE_ENTRIES};
use super::journal::{self, Ring};
use super::map::{Emptied, Map, Memory};
use super::num::index;
use super::pages::{self, Page, PageSet};

/// A leaf's superblock, and which slot held it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The superblock that counts.
    pub superblock: Superblock,
    slot: Slot,
}

/// Reads the superblock and checks it against the devices' sizes, in sectors.
pub fn probe<D: Disk>(disk: &mut D, root_sectors: u64, leaf_sectors: u64) -> Result<Probe> {
    let probe = read_superblock(disk)?;
    let g = &probe.superblock.geometry;
    if g.leaf_sectors() > leaf_sectors {
        return Err(Error::LeafSize(g.leaf_sectors(), leaf_sectors));
    }
    if g.root_sectors() != root_sectors {
        return Err(Error::RootSize(g.root_sectors(), root_sectors));
    }
    Ok(probe)
}

/// Reads the superblock alone.
pub fn read_superblock<D: Disk>(disk: &mut D) -> Result<Probe> {
    disk.read(0, 2)?;
    let (a, b) = disk
        .buffer()
        .split_at_checked(BLOCK_BYTES)
        .unwrap_or_default();
    let (superblock, slot) = choose(a, b)?;
    Ok(Probe { superblock, slot })
}

/// Fills an empty map and an empty allocator from the leaf.
///
/// `entries` and `changed` have room for each map page and are empty. Process context.
pub fn load<D, M, A, B, E>(
    disk: &mut D,
    probe: Probe,
    map: &Map<M>,
    allocator: &mut Allocator<A>,
    mut entries: E,
    mut changed: PageSet<B>,
) -> Result<Committer<B, E>>
where
    D: Disk,
    M: Memory,
    A: DerefMut<Target = [u64]>,
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
{
    let sb = probe.superblock;
    read_directory(disk, &sb, &mut entries)?;
    read_pages(disk, &sb, map, &entries)?;
    let found = journal::scan(disk, &sb)?;
    journal::replay(disk, &sb, &found, map, &mut changed)?;
    take_slabs(&sb, map, allocator)?;
    let blocks = sb.geometry.journal_blocks();
    let head = sb
        .journal_tail
        .saturating_add(found.chained)
        .checked_rem(blocks)
        .unwrap_or(0);
    let ring = Ring::new(blocks, head, found.chained, found.sequence);
    Ok(Committer::new(
        sb,
        probe.slot,
        ring,
        entries,
        changed,
        map.changes(),
    ))
}

/// Reads all directory blocks that were ever written.
pub fn read_directory<D: Disk>(disk: &mut D, sb: &Superblock, entries: &mut [PageEntry]) -> Result {
    let g = &sb.geometry;
    for at in 0..g.directory_blocks() {
        let Some(slot) = sb.directory_slot(at)?.number() else {
            continue;
        };
        let block = g.directory_block(at, slot);
        disk.read(block, 1)?;
        let bytes = disk.buffer().get(..BLOCK_BYTES).unwrap_or_default();
        let list = entries
            .get_mut(directory::pages_of(at, g.pages()))
            .unwrap_or_default();
        directory::decode(bytes, at, sb.generation, sb.nonce, block, list)?;
    }
    Ok(())
}

/// Reads all map pages that were ever written, as many at once as lie together.
fn read_pages<D: Disk, M: Memory>(
    disk: &mut D,
    sb: &Superblock,
    map: &Map<M>,
    entries: &[PageEntry],
) -> Result {
    let g = &sb.geometry;
    let entry = |p: u32| entries.get(index(p)).copied().unwrap_or(PageEntry::EMPTY);
    let mut page = 0;
    while page < g.pages() {
        let first = entry(page);
        let Some(slot) = first.slot.number() else {
            page = page.saturating_add(1);
            continue;
        };
        let start = g.page_block(page, slot);
        let mut count = 1u32;
        while index(count) < BUFFER_BLOCKS
            && page.saturating_add(count) < g.pages()
            && entry(page.saturating_add(count)).slot == first.slot
        {
            count = count.saturating_add(1);
        }
        disk.read(start, index(count))?;
        let blocks = disk.buffer().chunks_exact(BLOCK_BYTES).take(index(count));
        for (n, bytes) in (0..count).zip(blocks) {
            let p = page.saturating_add(n);
            if crc32c(0, bytes) != entry(p).crc {
                return Err(Error::Damaged(
                    Area::Page,
                    start.saturating_add(u64::from(n)),
                ));
            }
            pages::load(map, p, bytes)?;
        }
        page = page.saturating_add(count);
    }
    Ok(())
}

/// Whether no block of so many sectors, a power of two, is mapped in part: so that a device with
/// such blocks can read it from one place.
pub fn fits_blocks<M: Memory>(map: &Map<M>, sectors: u32) -> bool {
    let g = map.geometry();
    let whole = |leaf| {
        let mut at = 0;
        while at < g.slab_sectors() {
            let (_, len) = map.stretch(leaf, at, g.slab_sectors().saturating_sub(at));
            if len == 0 || len & sectors.saturating_sub(1) != 0 {
                return false;
            }
            at = at.saturating_add(len);
        }
        true
    };
    (0..g.table_pages())
        .filter(|&page| map.memory().table(page).is_some())
        .flat_map(|page| {
            let first = page.saturating_mul(TABLE_ENTRIES);
            first..first.saturating_add(TABLE_ENTRIES)
        })
        .filter_map(|slab| map.entry(slab).leaf)
        .all(whole)
}

/// Takes every slab that the table names, and refuses a table that names one twice.
fn take_slabs<M: Memory, A: DerefMut<Target = [u64]>>(
    sb: &Superblock,
    map: &Map<M>,
    allocator: &mut Allocator<A>,
) -> Result {
    let g = &sb.geometry;
    for page in 0..g.table_pages() {
        // A page that is not there names nothing.
        if map.memory().table(page).is_none() {
            continue;
        }
        debug_assert!(pages::page(map, page) == Page::Table(page));
        for n in 0..TABLE_ENTRIES {
            let slab = page.saturating_mul(TABLE_ENTRIES).saturating_add(n);
            let entry = map.entry(slab);
            let bad = Error::Damaged(Area::Map, g.page_block(page, 0));
            if entry.emptied != Emptied::No {
                return Err(bad);
            }
            let Some(leaf) = entry.leaf else {
                continue;
            };
            let taken = cfg!(mutant = "free-after-reload") || allocator.take(leaf);
            if slab >= g.root_slabs() || !taken {
                return Err(bad);
            }
            map.set_owner(leaf, Some(slab))?;
        }
    }
    Ok(())
}
