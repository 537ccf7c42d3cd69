// SPDX-License-Identifier: GPL-2.0

//! Checks the blocks that name other blocks (superblock slots, directory), and the checksums of
//! pages.

use core::ops::DerefMut;

use super::super::attach::read_slots;
use super::super::disk::Disk;
use super::super::error::{Error, Result};
use super::super::format::below_list;
use super::super::format::directory::{self, PageEntry};
use super::super::format::superblock::{Superblock, SUPERBLOCK_BYTES};
use super::super::geometry::{superblock_block, MapPage};
use super::super::leaf_block::LeafBlock;
use super::super::map::Memory;
use super::super::num::{next, saturating_u32, usize_as_u64};
use super::super::pages;
use super::super::slot::Slot;
use super::{Check, Finding, FindingKind, Totals, Visitor};

type Bytes = [u8; SUPERBLOCK_BYTES];

/// Checks both superblock slots. Returns the active superblock, and its slot.
///
/// Fails as attach does if no slot is valid, and if a slot is of a newer format.
pub fn check_superblocks<D: Disk>(disk: &mut D, out: Visitor<'_>) -> Result<(Superblock, Slot)> {
    let slots = read_slots(disk)?;
    let (sb, slot) = slots.choose()?;
    let (compat, ro_compat) = (
        sb.features.unknown_compat(),
        sb.features.unknown_ro_compat(),
    );
    if compat != 0 || ro_compat != 0 {
        out(Finding {
            kind: FindingKind::UnknownFeatures { compat, ro_compat },
            block: superblock_block(slot),
            byte: 24,
        });
    }
    let ([a, b], [unread_a, unread_b]) = (&slots.bytes, slots.unreadable);
    let (active, other, unread) = match slot {
        Slot::A => (a, b, unread_b),
        Slot::B => (b, a, unread_a),
    };
    let block = superblock_block(slot.other());
    let found = match unread {
        Some(_) => Some((FindingKind::SlotUnreadable, 0)),
        None => check_other(&sb, active, other, block),
    };
    if let Some((kind, byte)) = found {
        out(Finding {
            kind,
            block,
            byte: saturating_u32(usize_as_u64(byte)),
        });
    }
    Ok((sb, slot))
}

/// Returns what is wrong with the inactive slot, and where.
fn check_other(
    sb: &Superblock,
    active: &Bytes,
    other: &Bytes,
    block: LeafBlock,
) -> Option<(FindingKind, usize)> {
    let first = active.iter().zip(other).position(|(a, b)| a != b)?;
    let old = match Superblock::decode(other, block) {
        Ok(old) => old,
        Err(Error::NotFormatted) => return Some((FindingKind::SlotEmpty, 0)),
        Err(_) => {
            return Some(match Superblock::bad_field(other) {
                Some(at) if Superblock::has_valid_crc(other) => (FindingKind::SlotField, at),
                _ => (FindingKind::SlotChecksum, first),
            })
        }
    };
    let newer = sb.generation;
    Some(match newer.checked_sub(old.generation) {
        _ if old.uuid != sb.uuid || old.nonce != sb.nonce => (FindingKind::SlotsDisagree, first),
        Some(1) => (FindingKind::SlotStale, first),
        None | Some(0) => (FindingKind::SlotsDisagree, first),
        Some(_) => {
            let older = old.generation;
            (FindingKind::SlotGap { newer, older }, first)
        }
    })
}

impl<D, M, B> Check<'_, D, M, B>
where
    D: Disk,
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    /// Checks the directory blocks, both slots of each.
    pub(super) fn check_directory(&mut self) -> Result {
        for at in 0..self.geometry().directory_blocks() {
            let active = self.sb.directory_slot(at)?;
            for slot in [Slot::A, Slot::B] {
                let block = self.geometry().directory_block(at, slot);
                if active == Some(slot) {
                    self.check_directory_block(at, block)?;
                } else {
                    self.check_inactive_directory_block(at, block);
                }
            }
        }
        Ok(())
    }

    /// Checks the blocks of the list of root and layers. The caller compares the layers with the
    /// chain, which takes SHA-256.
    pub(super) fn check_below_list(&mut self) {
        let what = if self.geometry().layers() > 0 {
            FindingKind::BelowList
        } else {
            FindingKind::RootEntry
        };
        for n in 0..self.geometry().below_list_blocks() {
            let block = self.geometry().below_list_block(n);
            if self.disk.read(block, 1).is_err() {
                // No attach reads a list of the root alone, and a repair can write it again.
                let kind = if what == FindingKind::RootEntry {
                    what
                } else {
                    FindingKind::Unreadable
                };
                self.report(kind, block, 0);
                continue;
            }
            let decoded = below_list::decode(self.disk.block(), n, self.sb, |_| ());
            if let Err(byte) = decoded {
                let byte = saturating_u32(usize_as_u64(byte));
                self.report(what, block, byte);
            }
        }
    }

    fn check_directory_block(&mut self, at: u32, block: LeafBlock) -> Result {
        let (generation, nonce) = (self.sb.generation, self.sb.nonce);
        let range = directory::indices_of(at, self.geometry().pages());
        let pages = directory::pages_of(at, self.geometry().pages());
        if !self.read(block) {
            return self.lose(pages);
        }
        let bytes = &self.disk.block()[..];
        let list = self.entries.get_mut(range).ok_or(Error::Internal)?;
        if let Err(byte) = directory::check(bytes, at, generation, nonce, list) {
            list.fill(PageEntry::EMPTY);
            let byte = saturating_u32(usize_as_u64(byte));
            let first = pages.start;
            // A directory block names one page at least.
            let last = MapPage(pages.end.0.wrapping_sub(1));
            self.lose(pages)?;
            self.report(FindingKind::Directory { first, last }, block, byte);
        }
        Ok(())
    }

    /// Checks an inactive slot. It may hold an older block, a block of a checkpoint that
    /// a power failure ended, or no block of this leaf.
    fn check_inactive_directory_block(&mut self, at: u32, block: LeafBlock) {
        let nonce = self.sb.nonce;
        let read = self.disk.read(block, 1).is_ok();
        let bytes = &self.disk.block()[..];
        let broken = !directory::is_sound(bytes, at, nonce) && directory::was_of_leaf(bytes, nonce);
        if broken || !read {
            self.report(FindingKind::InactiveDirectory, block, 0);
        }
    }

    /// Checks the active pages against their checksums, and loads them into the map.
    pub(super) fn check_pages(&mut self, totals: &mut Totals) -> Result {
        for page in MapPage::each(MapPage(0)..MapPage(self.geometry().pages())) {
            let entry = directory::entry(self.entries, page)?;
            if entry.slot.is_none() {
                continue;
            }
            totals.pages = next(totals.pages);
            let block = self.block_of(page);
            let alone = page..page.next();
            if !self.read(block) {
                self.lose(alone)?;
                continue;
            }
            let map = self.map;
            let bytes = &*self.disk.block();
            let sound = pages::crc(bytes) == entry.crc;
            if sound {
                pages::load(map, page, bytes)?;
            } else {
                self.lose(alone)?;
                self.report(FindingKind::Page { page }, block, 0);
            }
        }
        Ok(())
    }
}
