// SPDX-License-Identifier: GPL-2.0

//! Does what `ubctl check` does with the core, over a simulated disk, and makes damage.

pub mod workloads;

use ubcore::attach;
use ubcore::check::{self, repair, Check, Finding, FindingKind, Grade, Totals};
use ubcore::disk::{Disk, Order};
use ubcore::error::Result;
use ubcore::format::crc::{block_crc, crc32c};
use ubcore::format::directory::{self, PageEntry};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Block, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Map;
use ubcore::salvage::NoLoss;
use ubcore::slot::Slot;

use crate::disk::SimDisk;
use crate::memory::SimMemory;
use crate::parts::{fill, page_set};

pub struct Inspection {
    pub sb: Superblock,
    pub slot: Slot,
    pub totals: Totals,
    pub findings: Vec<Finding>,
}

impl Inspection {
    pub fn worst(&self) -> Option<Grade> {
        self.findings.iter().map(|f| f.kind.grade()).max()
    }

    pub fn has(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|f| f.kind == kind)
    }
}

/// Looks at a device that has the leaf's size.
pub fn look(disk: &SimDisk) -> Result<Inspection> {
    look_at(disk, None)
}

/// Looks at a device of `sectors`.
pub fn look_at(disk: &SimDisk, sectors: Option<u64>) -> Result<Inspection> {
    let mut disk = disk.clone();
    let mut findings = Vec::new();
    let (sb, slot) = check::check_superblocks(&mut disk, &mut |f| findings.push(f))?;
    let g = sb.geometry;
    let map = Map::new(g, SimMemory::new(&g));
    let mut entries = vec![PageEntry::EMPTY; g.pages() as usize];
    let sets = [page_set(&g), page_set(&g)];
    let mut push = |f| findings.push(f);
    let c = Check::new(&mut disk, &sb, &map, &mut entries, sets, &mut push);
    let totals = c.run(sectors.unwrap_or(g.leaf_sectors()))?;
    Ok(Inspection {
        sb,
        slot,
        totals,
        findings,
    })
}

/// Repairs in the order that `repair` requires.
pub fn repair(disk: &SimDisk, first: &Inspection) -> Result {
    let mut d = disk.clone();
    let all = &first.findings;
    if all.iter().any(|f| repair::is_of_slot(f.kind)) {
        repair::repair_slot(&mut d, &first.sb, first.slot)?;
    }
    let rest = |f: &&Finding| {
        f.kind.is_repairable() && !repair::is_of_slot(f.kind) && !repair::is_of_block(f.kind)
    };
    if first.worst() != Some(Grade::Damage) && all.iter().any(|f| rest(&f)) {
        checkpoint(&mut d, first)?;
    }
    let second = look(disk)?;
    if second.worst() == Some(Grade::Damage) {
        return Ok(());
    }
    for f in second
        .findings
        .iter()
        .filter(|f| repair::is_of_block(f.kind))
    {
        repair::repair_block(&mut d, &second.sb, f)?;
    }
    Ok(())
}

fn checkpoint(disk: &mut SimDisk, found: &Inspection) -> Result {
    let g = found.sb.geometry;
    let map = Map::new(g, SimMemory::new(&g));
    let mut changed = page_set(&g);
    for f in &found.findings {
        repair::add_changed_pages(&map, f.kind, &mut changed)?;
    }
    let probe = attach::probe(disk, g.root_sectors(), g.leaf_sectors())?;
    let (_, mut committer) = fill(disk, probe, &map, changed, &mut NoLoss)?;
    for f in &found.findings {
        repair::repair_map(&map, f.kind)?;
    }
    committer.detach(&map, disk)
}

/// Changes a block.
pub fn edit(disk: &SimDisk, block: LeafBlock, f: impl FnOnce(&mut Block)) {
    let mut d = disk.clone();
    d.read(block, 1).unwrap();
    f(d.block());
    d.write(block, 1, Order::FlushFua).unwrap();
}

/// Changes a block that has its checksum at `crc`, and corrects the checksum.
pub fn edit_with_checksum(
    disk: &SimDisk,
    block: LeafBlock,
    len: usize,
    crc: usize,
    f: impl FnOnce(&mut Block),
) {
    edit(disk, block, |b| {
        f(b);
        let sum = block_crc(&b[..len], crc).unwrap();
        b[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
    });
}

/// Changes superblock slots and corrects their checksums.
pub fn edit_slots(disk: &SimDisk, slots: &[u64], f: impl Fn(&mut Block)) {
    for &slot in slots {
        edit_with_checksum(disk, LeafBlock(slot), 512, 8, &f);
    }
}

/// Returns the directory's entry of a page, and the active directory block.
pub fn entry_of(disk: &SimDisk, sb: &Superblock, page: u32) -> (PageEntry, LeafBlock) {
    let g = &sb.geometry;
    let at = directory::block_of(MapPage(page));
    let slot = sb.directory_slot(at).unwrap().unwrap();
    let block = g.directory_block(at, slot);
    let mut d = disk.clone();
    d.read(block, 1).unwrap();
    let range = directory::indices_of(at, g.pages());
    let mut list = vec![PageEntry::EMPTY; range.len()];
    directory::decode(d.block(), at, sb.generation, sb.nonce, block, &mut list).unwrap();
    (list[page as usize - range.start], block)
}

/// Returns the block that holds a map page.
pub fn block_of_page(disk: &SimDisk, sb: &Superblock, page: u32) -> LeafBlock {
    let (entry, _) = entry_of(disk, sb, page);
    sb.geometry
        .page_block(MapPage(page), entry.slot.expect("a page that was written"))
}

/// Changes an active map page, and corrects the directory's checksums.
pub fn edit_page(disk: &SimDisk, sb: &Superblock, page: u32, f: impl FnOnce(&mut Block)) {
    let (_, directory) = entry_of(disk, sb, page);
    let block = block_of_page(disk, sb, page);
    let mut sum = 0;
    edit(disk, block, |b| {
        f(b);
        sum = crc32c(0, b);
    });
    let at = 32 + 8 * (page as usize % 508);
    edit_with_checksum(disk, directory, 4096, 4, |b| {
        b[at..at + 4].copy_from_slice(&sum.to_le_bytes())
    });
}
