// SPDX-License-Identifier: GPL-2.0

//! From a leaf's bytes to a map: superblock, directory, pages, journal, and whether it all agrees.
//!
//! Nothing here writes. Wrong metadata is reported and never followed.
//! [`Committer::checkpoint_in_steps`] makes the first write, after everything has been read. If
//! something is lost, it makes none.

use core::ops::{DerefMut, Range};

use super::alloc::Allocator;
use super::changed_pages::ChangedPages;
use super::commit::Committer;
use super::disk::{Disk, BUFFER_BLOCKS};
use super::error::{Area, Error, Result};
use super::format::directory::{self, PageEntry};
use super::format::superblock::{choose, sector_of, Superblock, SUPERBLOCK_BYTES};
use super::geometry::{superblock_block, MapPage};
use super::journal::{self, Ring};
use super::leaf_block::LeafBlock;
use super::map::{Emptied, Entry, Map, Memory};
use super::num::u32_as_usize;
use super::pages::{self, bits_page_of, PageSet};
use super::salvage::{self, Damage, Losses, NoLoss};
use super::slot::Slot;

/// A leaf's superblock, and which slot held it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The active superblock.
    pub superblock: Superblock,
    pub(super) slot: Slot,
    /// Why the other slot could not be read. It may hold a newer superblock, even one that froze
    /// the leaf, so nothing may be written by this one.
    unreadable: Option<Error>,
}

impl Probe {
    /// Fails if nothing may be written to the leaf: it has features that a writer must know, and
    /// which this code does not know, or one of its superblock slots cannot be read.
    pub fn writable(&self) -> Result {
        self.superblock.features.writable()?;
        self.unreadable.map_or(Ok(()), Err)
    }
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

/// Reads only the superblock, in one read if the device can read both slots. If it cannot read
/// one of them, the other one is enough to read the leaf, and not to write to it.
pub fn read_superblock<D: Disk>(disk: &mut D) -> Result<Probe> {
    let mut unreadable = None;
    let (superblock, slot) = match disk.read(superblock_block(Slot::A), 2) {
        Ok(()) => {
            let [a, b, ..] = disk.buffer();
            choose(a, b)?
        }
        Err(Error::Io(..)) => {
            let slots = read_slots(disk)?;
            let [a, b] = slots.unreadable;
            unreadable = a.or(b);
            slots.choose()?
        }
        Err(e) => return Err(e),
    };
    Ok(Probe {
        superblock,
        slot,
        unreadable,
    })
}

/// Both superblock slots, each read by itself.
pub(super) struct Slots {
    /// The bytes of the slots A and B. They are zeroes if the device cannot read the slot.
    pub(super) bytes: [[u8; SUPERBLOCK_BYTES]; 2],
    /// Why the slots could not be read.
    pub(super) unreadable: [Option<Error>; 2],
}

/// Reads both superblock slots, one by one. Fails only if the cause is not in the slot.
pub(super) fn read_slots<D: Disk>(disk: &mut D) -> Result<Slots> {
    let mut bytes = [[0; SUPERBLOCK_BYTES]; 2];
    let mut unreadable = [None; 2];
    let places = bytes.iter_mut().zip(&mut unreadable);
    for (slot, (bytes, unreadable)) in [Slot::A, Slot::B].into_iter().zip(places) {
        match disk.read(superblock_block(slot), 1) {
            Ok(()) => *bytes = *sector_of(disk.block()),
            Err(e @ Error::Io(..)) => *unreadable = Some(e),
            Err(e) => return Err(e),
        }
    }
    Ok(Slots { bytes, unreadable })
}

impl Slots {
    /// Picks the active slot. Returns the read error if a slot could not be read and the other one
    /// holds no superblock.
    pub(super) fn choose(&self) -> Result<(Superblock, Slot)> {
        let [a, b] = &self.bytes;
        choose(a, b).map_err(|e| {
            let [a, b] = self.unreadable;
            a.or(b).filter(|_| e == Error::NotFormatted).unwrap_or(e)
        })
    }
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
    salvage(disk, probe, map, allocator, entries, sets, &mut NoLoss)
}

/// Does the same as [`load`], but continues if a map page is damaged or cannot be read. It passes
/// such pages to `lost`, which may refuse them. The map then marks the slabs that need these pages
/// as lost. All other slabs are as [`load`] would have found them without the damage.
///
/// If anything was lost, the committer has failed with it from the start. No commit, no checkpoint
/// and no detach will ever write, so such a union can only be read. The same holds for a leaf that
/// has features which a writer must know, and which this code does not know, and for one with a
/// superblock slot that cannot be read.
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
    let (writable, sb) = (probe.writable(), probe.superblock);
    read_directory(disk, &sb, &mut entries, lost)?;
    read_pages(disk, &sb, map, &entries, lost)?;
    let found = journal::scan(disk, &sb)?;
    let from = (&sb, &*entries);
    journal::replay(disk, from, &found, map, &mut changed, |p| lost.is_lost(p))?;
    mark_slabs_used(disk, map, allocator, &mut changed, lost)?;
    allocator.set_limit(sb.features.limit());
    allocator.clear_free(map, || disk.give_way())?;
    salvage::mark_lost(map, lost, || disk.give_way())?;
    let failed = writable.err().or(lost.first());
    let blocks = sb.geometry.journal_blocks();
    let head = journal::after(sb.journal_tail, found.valid, blocks);
    let ring = Ring::new(blocks, head, found.valid, found.sequence);
    Ok(Committer::new(
        sb,
        probe.slot,
        ring,
        ChangedPages::new(entries, [changed, stored])?,
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
        let Some(slot) = sb.directory_slot(at)? else {
            continue;
        };
        let block = g.directory_block(at, slot);
        disk.give_way()?;
        let pages = directory::indices_of(at, g.pages());
        let list = entries.get_mut(pages).ok_or(Error::Internal)?;
        let read = disk.read(block, 1);
        let bytes = &disk.block()[..];
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
        let pages = directory::pages_of(at, g.pages());
        lose(lost, pages, (Area::Directory, block), error)?;
    }
    Ok(())
}

/// Gives pages up, if the error is about the block that was read.
fn lose<L: Losses>(
    lost: &mut L,
    pages: Range<MapPage>,
    (area, block): (Area, LeafBlock),
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
    let entries = entries
        .get(..u32_as_usize(g.pages()))
        .ok_or(Error::Internal)?;
    let all = MapPage::each(MapPage(0)..MapPage(g.pages()));
    let mut pages = all.zip(entries).peekable();
    while let Some((first, &entry)) = pages.next() {
        let Some(slot) = entry.slot else {
            continue;
        };
        let mut batch = [(first, entry.crc); BUFFER_BLOCKS];
        let mut count = 1usize;
        for room in batch.iter_mut().skip(1) {
            let Some((page, entry)) = pages.next_if(|(_, e)| e.slot == Some(slot)) else {
                break;
            };
            *room = (page, entry.crc);
            // At most the blocks of the buffer.
            count = count.wrapping_add(1);
        }
        disk.give_way()?;
        let all = disk.read(g.page_block(first, slot), count);
        for (at, (page, crc)) in batch.into_iter().take(count).enumerate() {
            let block = g.page_block(page, slot);
            let (read, at) = match all {
                Ok(()) => (all, at),
                Err(_) => (disk.read(block, 1), 0),
            };
            let sound = read.and_then(|()| {
                let bytes = disk.nth_block(at)?;
                if pages::crc(bytes) != crc {
                    return Err(Error::Damaged(Area::Page, block));
                }
                pages::load(map, page, bytes)
            });
            if let Err(error) = sound {
                lose(lost, page..page.next(), (Area::Page, block), error)?;
            }
        }
    }
    Ok(())
}

/// Returns whether no block of `sectors` sectors, a power of two, is mapped in part. If so, root
/// and leaf can have blocks of that size, because the driver reads each block from one of them.
///
/// Fails only with an error of [`Disk::give_way`], or if an invariant of the map is broken.
pub fn fits_blocks<D: Disk, M: Memory>(disk: &mut D, map: &Map<M>, sectors: u32) -> Result<bool> {
    let g = map.geometry();
    let whole = |leaf_slab| -> Result<bool> {
        let mut at = 0;
        while at < g.slab_sectors() {
            let run = map.mapped_run(leaf_slab, at, g.slab_sectors().wrapping_sub(at))?;
            if run.sectors == 0 || run.sectors & sectors.wrapping_sub(1) != 0 {
                return Ok(false);
            }
            at = at.wrapping_add(run.sectors);
        }
        Ok(true)
    };
    for page in 0..g.table_pages() {
        if map.memory().table(page).is_none() {
            continue;
        }
        disk.give_way()?;
        for slab in g.root_slabs_of(page) {
            if let Some(leaf_slab) = map.entry(slab).leaf_slab {
                if !whole(leaf_slab)? {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Marks every slab that the table names as used, and refuses a table that names a slab twice (I2).
/// If a slab is about to be lost, it gets no owner, because its root slab will not name it any
/// more.
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
        let map_page = MapPage::table(page);
        disk.give_way()?;
        for slab in g.root_slabs_of(page) {
            let entry = map.entry(slab);
            let bad = Error::Damaged(Area::Map, g.page_block(map_page, Slot::A));
            if entry.is_in_memory_only() {
                return Err(bad);
            }
            let Some(leaf_slab) = entry.leaf_slab else {
                continue;
            };
            if slab >= g.root_slabs() || !g.has_leaf_slab(leaf_slab) {
                return Err(bad);
            }
            let known = !lost.is_lost(map_page) && !lost.is_lost(bits_page_of(map, leaf_slab));
            if known && !pages::has_bits(map, leaf_slab) {
                map.set_entry(slab, Entry::unallocated(entry.base, Emptied::No))?;
                changed.insert(map_page)?;
                continue;
            }
            if !allocator.mark_used(leaf_slab)? {
                return Err(bad);
            }
            if known {
                map.set_owner(leaf_slab, Some(slab))?;
            }
        }
    }
    Ok(())
}
