// SPDX-License-Identifier: GPL-2.0

//! Leaves to check: after random workloads, and two that are always the same.

use ubcore::alloc::Denied;
use ubcore::check::Grade;
use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Base;

use super::{entry_of, look, Inspection};
use crate::disk::{Random, SimDisk};
use crate::union::{format, load, SimUnion};

pub const SLAB: u64 = 32;
/// The root ends within a slab, and so does the union; the leaf has a few sectors too many.
pub const ROOT: u64 = 2500 * SLAB + 9;
pub const UNION: u64 = 2600 * SLAB - 5;
pub const LEAF: u64 = 2048 + 40 * SLAB + 11;

pub fn geometry() -> Geometry {
    Geometry::new(ROOT, UNION, LEAF, SLAB as u32, 16).unwrap()
}

pub fn attach(disk: &SimDisk) -> Result<SimUnion> {
    SimUnion::attach_to(disk, &geometry())
}

/// Returns places all over the union, so that each table page is used, and the last slab.
pub fn place(random: &mut Random, len: u64) -> u64 {
    let slabs = [
        0, 1, 2, 3, 900, 1023, 1024, 1500, 2047, 2048, 2499, 2500, 2598, 2599,
    ];
    let at = slabs[random.below(14) as usize] * SLAB + random.below(SLAB);
    at.min(UNION - len)
}

pub fn step(u: &mut SimUnion, random: &mut Random, tag: u64) -> Result {
    match random.below(12) {
        0 | 1 => u.flush(),
        2 => u.checkpoint(),
        3 => {
            let first = u.map.geometry().slab_of(place(random, 1));
            let base = if random.chance(2) {
                Base::Zero
            } else {
                Base::Below
            };
            u.empty(first..(first + 2).min(2600), base)?;
            u.flush()
        }
        _ => {
            let len = 1 + random.below(50);
            match u.write(place(random, len), len, tag, true) {
                Ok(()) => Ok(()),
                // The leaf is full, or a slab waits for a commit.
                Err(Denied::Later | Denied::Failed(Error::Full)) => u.flush(),
                Err(Denied::Failed(e)) => Err(e),
            }
        }
    }
}

/// Runs a random workload that ends in a detach, or in a power failure at I/O `fails_at`.
pub fn workload(random: &mut Random, fails_at: Option<u64>) -> SimDisk {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = attach(&disk).unwrap();
    for tag in 0..random.below(15) {
        step(&mut u, random, tag + 1).unwrap();
    }
    u.detach().unwrap();
    disk.state.borrow_mut().power_fails_in = fails_at;
    disk.state.borrow_mut().random = Some(random.clone());
    let _ = attach(&disk).and_then(|mut u| {
        for tag in 20..20 + random.below(25) {
            step(&mut u, random, tag)?;
        }
        u.detach()
    });
    disk.state.borrow_mut().crash(random);
    disk
}

pub fn workloads() -> u64 {
    std::env::var("WORKLOADS").map_or(150, |n| n.parse().unwrap())
}

/// Returns each sector that workloads use, as an attach would show it, up to the end that the leaf
/// claims.
pub fn content(disk: &SimDisk) -> Vec<[u8; 512]> {
    let u = load(disk, ROOT, LEAF).unwrap();
    let slabs = [
        0, 1, 2, 3, 4, 700, 900, 901, 1023, 1024, 1025, 1500, 2047, 2048, 2499, 2500, 2598,
    ];
    let all = slabs.iter().flat_map(|s| s * SLAB..(s + 1) * SLAB);
    let end = u.map.geometry().union_sectors();
    let used = all.chain(2599 * SLAB..UNION).filter(|&s| s < end);
    used.map(|s| u.read(s)).collect()
}

pub fn worst_is_note(l: &Inspection) -> bool {
    l.worst().is_none_or(|g| g == Grade::Note)
}

/// Returns the blocks of a leaf that count, with how many bytes of each, and whether the block is
/// of the last journal write, whose rot looks like a torn write.
pub fn in_use(disk: &SimDisk, l: &Inspection) -> Vec<(LeafBlock, usize, bool)> {
    let g = &l.sb.geometry;
    let mut list = vec![(LeafBlock(0), 512, false), (LeafBlock(1), 512, false)];
    for at in 0..g.directory_blocks() {
        if let Some(slot) = l.sb.directory_slot(at).unwrap() {
            list.push((g.directory_block(at, slot), 4096, false));
        }
    }
    if list.len() > 2 {
        for page in 0..g.pages() {
            let (entry, _) = entry_of(disk, &l.sb, page);
            if let Some(slot) = entry.slot {
                list.push((g.page_block(MapPage(page), slot), 4096, false));
            }
        }
    }
    for n in 0..g.below_list_blocks() {
        list.push((g.below_list_block(n), 4096, false));
    }
    for n in 0..l.totals.to_replay {
        let at = (l.sb.journal_tail + n) % g.journal_blocks();
        // Here one commit is one write, of one block or a few.
        list.push((g.journal_block(at), 4096, n + 4 > l.totals.to_replay));
    }
    list
}

/// Makes a detached leaf with slabs on two table pages and in the union's last slab.
pub fn used() -> (SimDisk, Inspection) {
    let mut disk = SimDisk::new();
    format(&mut disk, geometry());
    let mut u = attach(&disk).unwrap();
    for at in [0, 1, 1024, 2599] {
        u.write(at * SLAB, 3, at + 1, true).unwrap();
    }
    u.detach().unwrap();
    let l = look(&disk).unwrap();
    assert_eq!(l.findings, []);
    (disk, l)
}

/// Makes the same leaf with three more commits and no detach.
pub fn committed() -> (SimDisk, Inspection) {
    let (disk, _) = used();
    let mut u = attach(&disk).unwrap();
    for at in [5, 6, 7] {
        u.write(at * SLAB, 3, at, true).unwrap();
        u.flush().unwrap();
    }
    let l = look(&disk).unwrap();
    assert_eq!(l.totals.to_replay, 3);
    (disk, l)
}
