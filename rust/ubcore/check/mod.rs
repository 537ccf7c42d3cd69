// SPDX-License-Identifier: GPL-2.0

//! Checks whether a leaf is whole. It finds and names every damage, and repairs what can be
//! repaired without a guess.
//!
//! Attach stops at the first thing that is wrong. The check continues as far as the format allows,
//! checks with the same code, and passes each finding to a visitor. Only [`repair`] writes.

mod map;
pub mod repair;
mod ring;
mod structure;

use core::ops::{DerefMut, Range};

use super::disk::Disk;
use super::error::{Error, Result};
use super::format::directory::{self, PageEntry};
use super::format::superblock::Superblock;
use super::geometry::{superblock_block, Geometry, LeafSlab, MapPage};
use super::leaf_block::LeafBlock;
use super::map::{Map, Memory};
use super::num::{saturating_u32, u32_as_usize};
use super::pages::PageSet;
use super::slot::Slot;

pub use self::structure::check_superblocks;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// No damage: a power failure or normal operation explains it.
    Note,
    /// Damage that has cost nothing yet. It can be repaired.
    Minor,
    /// Damage that only a guess could repair.
    Damage,
}

/// What was found. Sizes and positions are in sectors, slabs or pages, as named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what its fields are by their names")]
pub enum FindingKind {
    /// A superblock slot has no superblock in it, but the other slot has one.
    SlotEmpty,
    /// A superblock slot fails its checksum.
    SlotChecksum,
    /// A superblock slot has a field with an impossible value.
    SlotField,
    /// A superblock slot could not be read.
    SlotUnreadable,
    /// The older slot was not renewed after the newer one.
    SlotStale,
    /// The slots are further apart than any power failure leaves them.
    SlotGap { newer: u64, older: u64 },
    /// The slots belong to different leaves, or have different content in one generation.
    SlotsDisagree,
    /// The leaf has features that this code does not know. Only a reader may ignore those of the
    /// second kind.
    UnknownFeatures { compat: u64, ro_compat: u64 },
    /// The device is smaller than the leaf on it.
    LeafTruncated { wanted: u64, found: u64 },
    /// The superblock says that the union was detached, but the journal is not empty.
    CleanFlag { blocks: u32 },
    /// The superblock says that the union was detached, but the ring holds transactions that the
    /// superblock does not know.
    CleanButNewer { sequence: u64 },
    /// The union was not detached: the journal has this many blocks to replay.
    NotDetached { blocks: u32 },
    /// The block could not be read.
    Unreadable,
    /// An active directory block is damaged: pages `first` to `last` are unknown.
    Directory { first: MapPage, last: MapPage },
    /// An inactive directory block is torn or rotten.
    InactiveDirectory,
    /// A map page fails its checksum.
    Page { page: MapPage },
    /// A block of the list of root and layers is damaged, and there are layers.
    BelowList,
    /// The list of root and layers is damaged, and has only the root. The superblock has all of it
    /// but the path, which is a hint.
    RootEntry,
    /// A journal block is missing, and finished transactions follow it.
    JournalHole,
    /// A journal block is at a ring position that its sequence number does not fit.
    JournalMisplaced { sequence: u64 },
    /// A journal record has an impossible value.
    JournalRecord,
    /// A transaction of this many blocks has no end, so replay does not apply it.
    JournalUnfinished { blocks: u32 },
    /// A journal block that replay does not apply is torn or rotten.
    InactiveJournal,
    /// An entry past the union's end names a leaf slab.
    PastUnion { slab: u32, leaf_slab: LeafSlab },
    /// An entry past the union's end names no leaf slab.
    PastUnionBare { slab: u32 },
    /// An entry names a leaf slab that the leaf does not have.
    PastLeaf { slab: u32, leaf_slab: LeafSlab },
    /// An entry is in a state that exists only in memory.
    Moving { slab: u32 },
    /// Two root slabs name one leaf slab.
    Shared {
        leaf_slab: LeafSlab,
        first: u32,
        second: u32,
    },
    /// A root slab has a leaf slab, but nothing is mapped in it.
    Leaked { slab: u32, leaf_slab: LeafSlab },
    /// Sectors of a root slab beyond the union's end are mapped.
    BitsPastUnion { slab: u32, leaf_slab: LeafSlab },
    /// Sectors after the leaf's last slab are mapped.
    BitsPastLeaf { page: u32 },
    /// Leaf slabs that no root slab names have mapped sectors, as those of emptied root slabs
    /// may have.
    Unowned { first: LeafSlab, count: u32 },
}

impl FindingKind {
    /// Returns how bad the finding is.
    pub fn grade(self) -> Grade {
        use FindingKind::*;
        match self {
            SlotStale
            | UnknownFeatures { .. }
            | NotDetached { .. }
            | InactiveDirectory
            | JournalUnfinished { .. }
            | InactiveJournal
            | Unowned { .. } => Grade::Note,
            SlotEmpty
            | SlotChecksum
            | SlotField
            | SlotGap { .. }
            | RootEntry
            | CleanFlag { .. }
            | PastUnionBare { .. }
            | Leaked { .. }
            | BitsPastUnion { .. }
            | BitsPastLeaf { .. } => Grade::Minor,
            SlotUnreadable
            | SlotsDisagree
            | LeafTruncated { .. }
            | CleanButNewer { .. }
            | Unreadable
            | Directory { .. }
            | Page { .. }
            | BelowList
            | JournalHole
            | JournalMisplaced { .. }
            | JournalRecord
            | PastUnion { .. }
            | PastLeaf { .. }
            | Moving { .. }
            | Shared { .. } => Grade::Damage,
        }
    }

    /// Returns whether [`repair`] can repair it, if nothing worse is found.
    pub fn is_repairable(self) -> bool {
        let stays = matches!(
            self,
            FindingKind::Unowned { .. } | FindingKind::UnknownFeatures { .. }
        );
        self.grade() != Grade::Damage && !stays
    }
}

/// Something that is wrong, and where: a block of 4096 bytes, and a byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The block of the leaf.
    pub block: LeafBlock,
    /// The byte in the block.
    pub byte: u32,
}

impl Finding {
    /// Returns the map pages that are not known because of the finding. There are none if it is
    /// about something else.
    pub fn pages(&self, g: &Geometry) -> Range<MapPage> {
        match self.kind {
            FindingKind::Page { page } => page..page.next(),
            FindingKind::Directory { first, last } => first..last.next(),
            FindingKind::Unreadable => pages_of_block(self.block, g),
            _ => MapPage(0)..MapPage(0),
        }
    }
}

/// Returns the map pages that a block of the directory or of the map names or holds.
fn pages_of_block(block: LeafBlock, g: &Geometry) -> Range<MapPage> {
    let index_in = |first: LeafBlock, count: u32| {
        let at = block.0.checked_sub(first.0)?;
        let slot = at.checked_div(u64::from(count))?;
        let at = at.checked_rem(u64::from(count))?;
        (slot < 2).then_some(saturating_u32(at))
    };
    if let Some(at) = index_in(g.directory_block(0, Slot::A), g.directory_blocks()) {
        return directory::pages_of(at, g.pages());
    }
    let page = index_in(g.page_block(MapPage(0), Slot::A), g.pages());
    page.map_or(MapPage(0)..MapPage(0), |n| MapPage(n)..MapPage(n).next())
}

/// Receives the findings.
pub type Visitor<'a> = &'a mut dyn FnMut(Finding);

/// A check of a leaf beyond its superblock.
pub struct Check<'a, D, M, B> {
    disk: &'a mut D,
    sb: &'a Superblock,
    map: &'a Map<M>,
    entries: &'a mut [PageEntry],
    /// The pages that replay changes. The check does not use them.
    changed: PageSet<B>,
    /// Map pages that are not known.
    lost: PageSet<B>,
    out: Visitor<'a>,
    /// A part of the map is not known. The check reports no finding that follows from that.
    blind: bool,
}

/// Sums over the leaf, which a check beyond the superblock returns besides its findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Map pages that were ever written.
    pub pages: u32,
    /// Journal blocks that attach would replay.
    pub to_replay: u32,
    /// Leaf slabs with an owner.
    pub slabs_used: u32,
    /// Mapped sectors of these leaf slabs.
    pub sectors_mapped: u64,
}

impl<'a, D, M, B> Check<'a, D, M, B>
where
    D: Disk,
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    /// Returns a check of the leaf that `sb` belongs to. `map` is empty. `entries`, `changed` and
    /// `lost` have room for each of its pages and are empty.
    pub fn new(
        disk: &'a mut D,
        sb: &'a Superblock,
        map: &'a Map<M>,
        entries: &'a mut [PageEntry],
        [changed, lost]: [PageSet<B>; 2],
        out: Visitor<'a>,
    ) -> Self {
        Check {
            disk,
            sb,
            map,
            entries,
            changed,
            lost,
            out,
            blind: false,
        }
    }

    /// Checks everything. `sectors` is the device's size. Fails only if memory runs out, or if an
    /// invariant of this code is broken.
    pub fn run(mut self, sectors: u64) -> Result<Totals> {
        let wanted = self.geometry().leaf_sectors();
        if wanted > sectors {
            let found = sectors;
            self.report(
                FindingKind::LeafTruncated { wanted, found },
                superblock_block(Slot::A),
                88,
            );
        }
        let mut totals = Totals::default();
        self.check_directory()?;
        self.check_below_list();
        self.check_pages(&mut totals)?;
        self.check_journal(&mut totals)?;
        self.check_table(&mut totals)?;
        self.check_bits(&mut totals)?;
        Ok(totals)
    }

    fn geometry(&self) -> &'a Geometry {
        &self.sb.geometry
    }

    fn report(&mut self, kind: FindingKind, block: LeafBlock, byte: u32) {
        (self.out)(Finding { kind, block, byte });
    }

    /// Notes map pages that are not known. The check reports no finding that follows from that.
    fn lose(&mut self, pages: Range<MapPage>) -> Result {
        self.blind = true;
        for page in MapPage::each(pages) {
            self.lost.insert(page)?;
        }
        Ok(())
    }

    /// Reads a block into the disk's buffer. Reports it if that fails.
    fn read(&mut self, block: LeafBlock) -> bool {
        let read = self.disk.read(block, 1);
        if read.is_err() {
            self.report(FindingKind::Unreadable, block, 0);
        }
        read.is_ok()
    }

    /// Returns the block that holds a map page, or that would be the first to hold it.
    fn block_of(&self, page: MapPage) -> LeafBlock {
        let entry = self.entries.get(u32_as_usize(page.0));
        // A page that was never written is reported in slot A.
        let slot = entry.and_then(|e| e.slot).unwrap_or(Slot::A);
        self.geometry().page_block(page, slot)
    }
}

/// Returns whether an error ends the check, because it is not about the leaf.
fn ends_check(e: Error) -> bool {
    matches!(e, Error::NoMemory | Error::Internal)
}
