// SPDX-License-Identifier: GPL-2.0

//! From a leaf's bytes to a map: superblock, directory, pages, journal, and whether it all agrees.
//!
//! Nothing here writes. Wrong metadata is reported and never followed. [`Committer::checkpoint`]
//! makes the first write, after everything has been read. If something is lost, it makes none.

use core::ops::{DerefMut, Range};

use super::alloc::Allocator;
use super::changed::ChangedPages;
use super::commit::Committer;
use super::disk::{Disk, BUFFER_BLOCKS};
use super::error::{Area, Error, Result};
use super::format::directory::{self, PageEntry};
use super::format::superblock::{choose, Slot, Superblock};
use super::geometry::{BLOCK_BYTES, TABLE_ENTRIES};
use super::journal::{self, Ring};
use super::map::{Emptied, Entry, Map, Memory};
use super::num::{saturating_u32, u32_as_usize, usize_as_u64};
use super::pages::{self, bits_page_of, PageKind, PageSet};
use super::salvage::{self, Damage, Losses, Nothing};

/// A leaf's superblock, and which slot held it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The active superblock.
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

/// Reads only the superblock.
pub fn read_superblock<D: Disk>(disk: &mut D) -> Result<Probe> {
    disk.read(0, 2)?;
    let (a, b) = disk
        .buffer()
        .split_at_checked(BLOCK_BYTES)
        .unwrap_or_default();
    let (superblock, slot) = choose(a, b)?;
    Ok(Probe { superblock, slot })
}

/// Fills an empty map and an empty allocator from the leaf. Refuses any damage.
///
/// `entries` and both of `sets` have room for each map page. `entries` and the second of `sets` are
/// empty. The first of `sets` collects the pages that the next checkpoint writes, and the caller
/// may have put pages into it. Process context.
pub fn load<D, M, A, B, E>(
    disk: &mut D,
    probe: Probe,
    map: &Map<M>,
    allocator: &mut Allocator<A>,
    entries: E,
    sets: [PageSet<B>; 2],
) -> Result<Committer<B, E>>
where
    D: Disk,
    M: Memory,
    A: DerefMut<Target = [u64]>,
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
{
    salvage(disk, probe, map, allocator, entries, sets, &mut Nothing)
}

/// Does the same as [`load`], but gives up what `lost` takes. The map marks the slabs concerned as
/// lost. Of every other slab it says what [`load`] would have said without the damage.
///
/// If anything was lost, the committer has failed with it from the start. No commit, no checkpoint
/// and no detach will ever write, so such a union can only be read. The same holds for a leaf that
/// has features which a writer must know, and which this code does not know.
pub fn salvage<D, M, A, B, E, L>(
    disk: &mut D,
    probe: Probe,
    map: &Map<M>,
    allocator: &mut Allocator<A>,
    mut entries: E,
    sets: [PageSet<B>; 2],
    lost: &mut L,
) -> Result<Committer<B, E>>
where
    D: Disk,
    M: Memory,
    A: DerefMut<Target = [u64]>,
    B: DerefMut<Target = [u64]>,
    E: DerefMut<Target = [PageEntry]>,
    L: Losses,
{
    let [mut changed, stored] = sets;
    let sb = probe.superblock;
    read_directory(disk, &sb, &mut entries, lost)?;
    read_pages(disk, &sb, map, &entries, lost)?;
    let found = journal::scan(disk, &sb)?;
    let from = (&sb, &*entries);
    journal::replay(disk, from, &found, map, &mut changed, |p| lost.is_lost(p))?;
    mark_slabs_used(disk, map, allocator, &mut changed, lost)?;
    allocator.clear_free(map, || disk.give_way())?;
    salvage::mark(map, lost, || disk.give_way())?;
    let failed = sb.features.writable().err().or(lost.first());
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
        ChangedPages::new(entries, [changed, stored]),
        map.changes(),
        failed,
    ))
}

/// Reads all directory blocks that were ever written.
///
/// Refuses a block that is wrong although its checksum is right. Either the block is not in its
/// place, or the superblock is not the newest, and then it is unknown what else is old.
fn read_directory<D: Disk, L: Losses>(
    disk: &mut D,
    sb: &Superblock,
    entries: &mut [PageEntry],
    lost: &mut L,
) -> Result {
    let g = &sb.geometry;
    for at in 0..g.directory_blocks() {
        let Some(slot) = sb.directory_slot(at)?.number() else {
            continue;
        };
        let block = g.directory_block(at, slot);
        disk.give_way()?;
        let pages = directory::pages_of(at, g.pages());
        let list = entries.get_mut(pages.clone()).unwrap_or_default();
        let read = disk.read(block, 1);
        let bytes = disk.buffer().get(..BLOCK_BYTES).unwrap_or_default();
        let known = match read {
            Ok(()) => directory::decode(bytes, at, sb.generation, sb.nonce, block, list),
            failed => failed,
        };
        let Err(error) = known else {
            continue;
        };
        if read.is_ok() && directory::has_valid_crc(bytes) {
            return Err(error);
        }
        list.fill(PageEntry::EMPTY);
        let pages =
            saturating_u32(usize_as_u64(pages.start))..saturating_u32(usize_as_u64(pages.end));
        lose(lost, pages, (Area::Directory, block), error)?;
    }
    Ok(())
}

/// Gives pages up, if the error is about the block that was read.
fn lose<L: Losses>(
    lost: &mut L,
    pages: Range<u32>,
    (area, block): (Area, u64),
    error: Error,
) -> Result {
    match error {
        Error::Damaged(..) | Error::Io(..) => lost.lose(pages, Damage { area, block, error }),
        e => Err(e),
    }
}

/// Reads all map pages that were ever written, as many at once as lie together. If that fails, it
/// reads them one by one.
fn read_pages<D: Disk, M: Memory, L: Losses>(
    disk: &mut D,
    sb: &Superblock,
    map: &Map<M>,
    entries: &[PageEntry],
    lost: &mut L,
) -> Result {
    let g = &sb.geometry;
    let entry = |p: u32| {
        entries
            .get(u32_as_usize(p))
            .copied()
            .unwrap_or(PageEntry::EMPTY)
    };
    let mut page = 0;
    while page < g.pages() {
        let first = entry(page);
        let Some(slot) = first.slot.number() else {
            page = page.saturating_add(1);
            continue;
        };
        let mut count = 1u32;
        while u32_as_usize(count) < BUFFER_BLOCKS
            && page.saturating_add(count) < g.pages()
            && entry(page.saturating_add(count)).slot == first.slot
        {
            count = count.saturating_add(1);
        }
        disk.give_way()?;
        let all = disk.read(g.page_block(page, slot), u32_as_usize(count));
        for p in page..page.saturating_add(count) {
            let block = g.page_block(p, slot);
            let (read, at) = match all {
                Ok(()) => (all, p.saturating_sub(page)),
                Err(_) => (disk.read(block, 1), 0),
            };
            let sound = read.and_then(|()| {
                let start = u32_as_usize(at).saturating_mul(BLOCK_BYTES);
                let bytes = disk.buffer().get(start..).unwrap_or_default();
                let bytes = bytes.get(..BLOCK_BYTES).unwrap_or_default();
                if pages::crc(bytes) != entry(p).crc {
                    return Err(Error::Damaged(Area::Page, block));
                }
                pages::load(map, p, bytes)
            });
            if let Err(error) = sound {
                lose(lost, p..p.saturating_add(1), (Area::Page, block), error)?;
            }
        }
        page = page.saturating_add(count);
    }
    Ok(())
}

/// Returns whether no block of `sectors` sectors, a power of two, is mapped in part. Then a device
/// with such blocks can read each block from one place.
///
/// Fails only if the disk says that the work is to end.
pub fn fits_blocks<D: Disk, M: Memory>(disk: &mut D, map: &Map<M>, sectors: u32) -> Result<bool> {
    let g = map.geometry();
    let whole = |leaf| {
        let mut at = 0;
        while at < g.slab_sectors() {
            let (_, len) = map.mapped_run(leaf, at, g.slab_sectors().saturating_sub(at));
            if len == 0 || len & sectors.saturating_sub(1) != 0 {
                return false;
            }
            at = at.saturating_add(len);
        }
        true
    };
    for page in 0..g.table_pages() {
        if map.memory().table(page).is_none() {
            continue;
        }
        disk.give_way()?;
        let first = page.saturating_mul(TABLE_ENTRIES);
        let mut slabs = first..first.saturating_add(TABLE_ENTRIES);
        if !slabs.all(|slab| map.entry(slab).leaf.is_none_or(whole)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes every slab that the table names, and refuses a table that names a slab twice (I2). If a
/// slab is about to be lost, it gets no owner, because its root slab will not name it any more.
///
/// If the page of bits of a leaf slab does not exist, nothing is mapped in the leaf slab. No union
/// makes such an entry, and a write to it would find no bits to set. So the root slab has no leaf
/// slab from now on.
fn mark_slabs_used<D, M, A, B>(
    disk: &mut D,
    map: &Map<M>,
    allocator: &mut Allocator<A>,
    changed: &mut PageSet<B>,
    lost: &impl Losses,
) -> Result
where
    D: Disk,
    M: Memory,
    A: DerefMut<Target = [u64]>,
    B: DerefMut<Target = [u64]>,
{
    let g = map.geometry();
    for page in 0..g.table_pages() {
        // A page that does not exist names nothing.
        if map.memory().table(page).is_none() {
            continue;
        }
        debug_assert!(pages::page(map, page) == PageKind::Table(page));
        disk.give_way()?;
        for n in 0..TABLE_ENTRIES {
            let slab = page.saturating_mul(TABLE_ENTRIES).saturating_add(n);
            let entry = map.entry(slab);
            let bad = Error::Damaged(Area::Map, g.page_block(page, 0));
            if entry.is_of_memory() {
                return Err(bad);
            }
            let Some(leaf) = entry.leaf else {
                continue;
            };
            if slab >= g.root_slabs() || leaf >= g.leaf_slabs() {
                return Err(bad);
            }
            let known = !lost.is_lost(page) && !lost.is_lost(bits_page_of(map, leaf));
            if known && !pages::has_bits(map, leaf) {
                map.set_entry(slab, Entry::unallocated(entry.base, Emptied::No))?;
                changed.add(page);
                continue;
            }
            if !allocator.mark_used(leaf) {
                return Err(bad);
            }
            if known {
                map.set_owner(leaf, Some(slab))?;
            }
        }
    }
    Ok(())
}
