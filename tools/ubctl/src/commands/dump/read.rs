// SPDX-License-Identifier: GPL-2.0

//! Reads a leaf from front to back: superblocks, directory, pages, journal.

use std::num::NonZeroU32;

use ubcore::disk::Disk;
use ubcore::error::{Area, Error, Role};
use ubcore::format::below_list::{Listed, ListedLayer};
use ubcore::format::directory::{self, PageEntry};
use ubcore::format::superblock::{choose, Superblock};
use ubcore::format::VERSION;
use ubcore::geometry::{Geometry, MapPage, BLOCK_BYTES, BLOCK_SECTORS, SUPERBLOCKS};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::{words_for, Map};
use ubcore::num::{u32_as_usize, usize_as_u64};
use ubcore::pages::{self, PageSet};
use ubcore::slot::Slot;
use ubcore::stack::chain::{LayerId, Seal};
use ubcore::stack::listed;

use super::report::{
    DirectoryReport, DumpReport, GeometryReport, LayerReport, SlotReport, SuperblockReport,
};
use super::{journal, map};
use crate::device::Device;
use crate::output;
use map_memory::sha256::Sha256;
use map_memory::Heap;

/// Reads everything that can be read.
pub fn read(device: &mut Device, all: bool) -> DumpReport {
    let mut report = DumpReport {
        leaf: device.path().display().to_string(),
        sectors: device.sectors(),
        ..DumpReport::default()
    };
    let least = SUPERBLOCKS * BLOCK_SECTORS;
    if device.sectors() < least {
        report.unreadable = Some(Error::LeafTooSmall(least, device.sectors()));
        return report;
    }
    match superblocks(device, &mut report) {
        Ok(sb) => behind(device, &sb, all, &mut report),
        Err(e) => report.unreadable = Some(e),
    }
    report
}

/// Returns the name of a slot for people.
pub fn slot_name(slot: Option<Slot>) -> &'static str {
    match slot {
        Some(Slot::A) => "A",
        Some(Slot::B) => "B",
        None => "none",
    }
}

fn superblocks(device: &mut Device, report: &mut DumpReport) -> Result<Superblock, Error> {
    let mut slots = [[0; BLOCK_BYTES]; 2];
    let mut io = None;
    for (block, room) in (0..).zip(&mut slots) {
        let at = LeafBlock(block);
        let read = one_block(device, at, room);
        let decoded = read.and_then(|()| Superblock::decode(room, at));
        if let Err(e @ Error::Io(..)) = decoded {
            io = Some(e);
        }
        let state = match &decoded {
            Ok(_) => "valid".to_owned(),
            Err(Error::NotFormatted) => "no superblock".to_owned(),
            Err(Error::Damaged(..)) => "damaged".to_owned(),
            Err(e) => e.to_string(),
        };
        report.slots.push(SlotReport {
            slot: if block == 0 { "A" } else { "B" },
            block,
            state,
            superblock: decoded.ok().map(|sb| superblock(&sb)),
        });
    }
    let chosen = choose(&slots[0], &slots[1]);
    // Blank bytes stand for a slot that could not be read. The read error is reported, not that the
    // bytes are blank.
    let (sb, slot) = chosen.map_err(|e| io.unwrap_or(e))?;
    report.active = Some(slot_name(Some(slot)));
    for s in report.slots.iter().filter(|s| s.superblock.is_none()) {
        report.problems.push(format!(
            "superblock slot {} at block {}: {}",
            s.slot, s.block, s.state
        ));
    }
    Ok(sb)
}

fn superblock(sb: &Superblock) -> SuperblockReport {
    SuperblockReport {
        // No other version decodes.
        version: VERSION,
        generation: sb.generation,
        uuid: output::uuid(&sb.uuid),
        name: output::name(sb.name),
        nonce: format!("{:016x}", sb.nonce),
        clean: sb.clean,
        reveal: sb.reveal,
        preallocated: sb.preallocated,
        root_block_bytes: sb.root_block_bytes,
        root_digest: output::hex(&sb.root_digest),
        journal_tail: sb.journal_tail,
        journal_sequence: sb.journal_sequence,
        limit_slabs: sb.features.limit().map(NonZeroU32::get),
        limit: limit(sb),
        features: output::features(&sb.features),
        features_compat: hex_bits(sb.features.compat),
        features_ro_compat: hex_bits(sb.features.ro_compat),
        features_incompat: hex_bits(sb.features.incompat),
        compat_bytes: output::hex(&sb.features.compat_bytes),
        chain: (sb.geometry.layers() > 0).then(|| output::hex(&sb.chain.0)),
        seal: sb.frozen.map(|seal| output::hex(&seal.0)),
    }
}

/// Returns the limit for people, if there is one.
fn limit(sb: &Superblock) -> Option<String> {
    let size = |slabs: u32| output::size(u64::from(slabs) * u64::from(sb.geometry.slab_sectors()));
    let text = |slabs| format!("{} ({})", output::counted(slabs, "slab"), size(slabs));
    sb.features.limit().map(NonZeroU32::get).map(text)
}

fn hex_bits(bits: u64) -> String {
    format!("{bits:#x}")
}

fn geometry(g: &Geometry) -> GeometryReport {
    GeometryReport {
        union_sectors: g.union_sectors(),
        root_sectors: g.root_sectors(),
        leaf_sectors: g.leaf_sectors(),
        slab_sectors: g.slab_sectors(),
        root_slabs: g.root_slabs(),
        leaf_slabs: g.leaf_slabs(),
        journal_start: g.journal_block(0).0,
        journal_blocks: g.journal_blocks(),
        directory_start: g.directory_block(0, Slot::A).0,
        directory_blocks: g.directory_blocks(),
        pages_start: g.page_block(MapPage(0), Slot::A).0,
        table_pages: g.table_pages(),
        bits_pages: g.bits_pages(),
        spare_table_pages: g.spare_pages().table,
        spare_bits_pages: g.spare_pages().bits,
        below_list_start: g.below_list_block(0).0,
        layers: g.layers(),
        data_start_sectors: g.data_start(),
    }
}

/// Reads what the superblock refers to.
fn behind(device: &mut Device, sb: &Superblock, all: bool, report: &mut DumpReport) {
    let g = &sb.geometry;
    report.geometry = Some(geometry(g));
    if g.leaf_sectors() > device.sectors() {
        report
            .problems
            .push(Error::LeafSize(g.leaf_sectors(), device.sectors()).to_string());
    }
    below(device, sb, report);
    let entries = directory(device, sb, report);
    let map = Map::new(*g, Heap::to_read(g));
    map_pages(device, &map, &entries, report);
    let mut changed = PageSet::new(vec![0u64; words_for(g.pages())]);
    report.journal = Some(journal::read(
        device,
        (sb, &entries),
        &map,
        &mut changed,
        all,
        &mut report.problems,
    ));
    report.map = Some(map::read(&map, all, &mut report.problems));
}

/// Reads the list of root and layers.
fn below(device: &mut Device, sb: &Superblock, report: &mut DumpReport) {
    let read = listed::read::<Sha256, _>(device, sb, |listed| {
        match listed {
            Listed::Root(root) => {
                let path = String::from_utf8_lossy(root.path()).into_owned();
                report.root_path = Some(path);
            }
            Listed::Layer(layer) => report.layers.push(layer_report(layer)),
        }
        Ok(())
    });
    if let Err(e) = read {
        let unknown = match sb.geometry.layers() {
            0 => "it is unknown where the root was",
            _ => "it is unknown which layers the leaf was made on",
        };
        report.problems.push(format!("{} ({unknown})", short(e)));
    }
}

fn layer_report(layer: &ListedLayer) -> LayerReport {
    let (kind, uuid, seal, digest) = match layer.id {
        LayerId::Frozen(uuid, Seal(seal)) => ("frozen", Some(uuid), Some(seal), None),
        LayerId::Sealed(digest) => ("sealed", None, None, Some(digest)),
    };
    LayerReport {
        kind,
        uuid: uuid.map(|uuid| output::uuid(&uuid)),
        seal: seal.map(|seal| output::hex(&seal)),
        digest: digest.map(|digest| output::hex(&digest)),
        path: String::from_utf8_lossy(layer.path()).into_owned(),
        offset: layer.offset,
    }
}

fn directory(device: &mut Device, sb: &Superblock, report: &mut DumpReport) -> Vec<PageEntry> {
    let g = &sb.geometry;
    let mut entries = vec![PageEntry::EMPTY; u32_as_usize(g.pages())];
    let mut bytes = [0; BLOCK_BYTES];
    for at in 0..g.directory_blocks() {
        let named = sb.directory_slot(at);
        let slot = named.ok().flatten();
        let block = slot.map(|slot| g.directory_block(at, slot));
        let range = directory::indices_of(at, g.pages());
        let mut list = vec![PageEntry::EMPTY; range.len()];
        let decoded = named.and_then(|_| {
            let Some(block) = block else {
                return Ok(());
            };
            one_block(device, block, &mut bytes)?;
            directory::decode(&bytes, at, sb.generation, sb.nonce, block, &mut list)
        });
        if let Err(e) = decoded {
            let pages = format!(
                "map pages {} to {}",
                range.start,
                range.end.saturating_sub(1)
            );
            report
                .problems
                .push(format!("{} ({pages} are unknown)", short(e)));
            list.fill(PageEntry::EMPTY);
        }
        report.directory.push(DirectoryReport {
            index: at,
            slot: slot_name(slot),
            block: block.map(|block| block.0),
            pages_written: list.iter().filter(|e| e.slot.is_some()).count(),
            sound: decoded.is_ok(),
        });
        if let Some(room) = entries.get_mut(range) {
            room.copy_from_slice(&list);
        }
    }
    entries
}

fn map_pages(device: &mut Device, map: &Map<Heap>, entries: &[PageEntry], report: &mut DumpReport) {
    let g = map.geometry();
    let mut bytes = [0; BLOCK_BYTES];
    for (page, entry) in (0..g.pages()).zip(entries) {
        let Some(slot) = entry.slot else {
            continue;
        };
        report.pages.written += 1;
        let block = g.page_block(MapPage(page), slot);
        let loaded = one_block(device, block, &mut bytes).and_then(|()| {
            if pages::crc(&bytes) != entry.crc {
                return Err(Error::Damaged(Area::Page, block));
            }
            pages::load(map, MapPage(page), &bytes)
        });
        match loaded {
            Ok(()) => report.pages.sound += 1,
            Err(e) => report
                .problems
                .push(format!("{} ({})", short(e), covers(map, page))),
        }
    }
}

/// Returns the part of the union that is lost with a map page.
fn covers(map: &Map<Heap>, page: u32) -> String {
    match pages::kind_of(map, MapPage(page)) {
        pages::PageKind::Table(n) => {
            let first = n * ubcore::geometry::TABLE_ENTRIES;
            let last =
                (first + ubcore::geometry::TABLE_ENTRIES - 1).min(map.geometry().root_slabs() - 1);
            format!("page {page}: where root slabs {first} to {last} are")
        }
        pages::PageKind::Bits(n) => {
            let per = usize_as_u64(u32_as_usize(n)) * ubcore::geometry::BITS_SECTORS;
            format!("page {page}: which of the leaf's data sectors from {per} on are mapped")
        }
    }
}

/// Returns a core error for a list with many entries: what and where.
pub fn short(e: Error) -> String {
    match e {
        Error::Damaged(..) => {
            let text = e.to_string();
            text.split(':').next().unwrap_or(&text).to_owned()
        }
        e => e.to_string(),
    }
}

/// Reads one block. Where the device ends does not matter.
pub fn one_block(
    device: &mut Device,
    block: LeafBlock,
    room: &mut [u8; BLOCK_BYTES],
) -> Result<(), Error> {
    let ends = block
        .0
        .checked_add(1)
        .and_then(|b| b.checked_mul(BLOCK_SECTORS));
    if ends.is_none_or(|end| end > device.sectors()) {
        return Err(Error::Io(
            Role::Leaf,
            block.first_sector().unwrap_or(u64::MAX),
        ));
    }
    device.read(block, 1)?;
    *room = *device.block();
    Ok(())
}
