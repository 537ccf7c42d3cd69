// SPDX-License-Identifier: GPL-2.0

//! The smallest driver: does what the kernel's driver does with the core, one request at a time.

use ubcore::alloc::{Allocated, Allocator};
use ubcore::disk::{Disk, Order};
use ubcore::error::Result;
use ubcore::format::below_list::PATH_BYTES;
use ubcore::format::directory::PageEntry;
use ubcore::format::new_leaf::NewLeaf;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Base, Map};
use ubcore::plan::{self, Source};
use ubcore::salvage::{Losses, Lost, NoLoss};
use ubcore::stack::source::NoLayers;

use crate::disk::{Sector, SimDisk};
use crate::memory::SimMemory;
use crate::oracle::{content, Oracle, ROOT};
use crate::parts::{self, page_set, SimCommitter};
use crate::reclaim::{begin_reclaim, end_reclaim};

pub struct SimUnion {
    pub map: Map<SimMemory>,
    pub allocator: Allocator<Vec<u64>>,
    pub committer: SimCommitter,
    pub disk: SimDisk,
}

/// Returns a superblock as `ubctl format` makes it.
pub fn superblock(geometry: Geometry) -> Superblock {
    Superblock::new(*b"simulated leaf 0", 0x5eed_5eed, geometry, 512, [0; 32])
}

pub fn format(disk: &mut SimDisk, geometry: Geometry) {
    format_as(disk, &superblock(geometry));
}

pub fn format_as<D: Disk>(disk: &mut D, superblock: &Superblock) {
    try_format(disk, superblock).unwrap();
}

/// Writes what `ubctl format` writes.
pub fn try_format<D: Disk>(disk: &mut D, superblock: &Superblock) -> Result {
    NewLeaf::new(superblock, &[0; PATH_BYTES], &[])?.write(|block, bytes| {
        disk.block().copy_from_slice(bytes);
        disk.write(block, 1, Order::FlushFua)
    })
}

/// Does all of an attach that only reads.
pub fn load(disk: &SimDisk, root_sectors: u64, leaf_sectors: u64) -> Result<SimUnion> {
    load_with(disk, root_sectors, leaf_sectors, &mut NoLoss)
}

/// Does the same for a damaged leaf, and returns what was lost.
pub fn salvage(disk: &SimDisk, g: &Geometry) -> Result<(SimUnion, Lost<Vec<u64>>)> {
    let mut lost = Lost::new(page_set(g));
    let u = load_with(disk, g.root_sectors(), g.leaf_sectors(), &mut lost)?;
    Ok((u, lost))
}

fn load_with<L: Losses>(
    disk: &SimDisk,
    root_sectors: u64,
    leaf_sectors: u64,
    lost: &mut L,
) -> Result<SimUnion> {
    let mut disk = disk.clone();
    let parts = parts::salvage(&mut disk, root_sectors, leaf_sectors, SimMemory::new, lost)?;
    Ok(SimUnion {
        map: parts.map,
        allocator: parts.allocator,
        committer: parts.committer,
        disk,
    })
}

impl SimUnion {
    pub fn attach(disk: &SimDisk, root_sectors: u64, leaf_sectors: u64) -> Result<SimUnion> {
        let mut u = load(disk, root_sectors, leaf_sectors)?;
        u.committer.checkpoint(&u.map, &mut u.disk)?;
        Ok(u)
    }

    pub fn attach_to(disk: &SimDisk, g: &Geometry) -> Result<SimUnion> {
        Self::attach(disk, g.root_sectors(), g.leaf_sectors())
    }

    pub fn read(&self, sector: u64) -> Sector {
        let run = plan::read(&self.map, NoLayers, sector, 1).next().unwrap();
        match run.source {
            Source::Root(s) => content(ROOT, s),
            Source::Leaf(s) => self.disk.read_sector(s),
            Source::Zero => [0; 512],
            Source::Layer(..) => panic!("no layers"),
            Source::Lost => panic!("a lost sector is not to be read"),
            Source::Broken => panic!("the map is broken"),
        }
    }

    /// Allocates a leaf slab for each root slab of a range.
    pub fn allocate_range(&mut self, sector: u64, sectors: u64) -> Allocated {
        let unallocated: Vec<u32> = plan::unallocated(&self.map, sector, sectors as u32).collect();
        unallocated
            .into_iter()
            .try_for_each(|s| self.allocator.allocate(&self.map, s).map(drop))
    }

    /// Writes and completes. If `done` is false, the data is written and the power is about to
    /// fail.
    pub fn write(&mut self, sector: u64, sectors: u64, tag: u64, done: bool) -> Allocated {
        let n = sectors as u32;
        self.allocate_range(sector, sectors)?;
        let mut at = sector;
        for run in plan::write(&self.map, sector, n) {
            let Source::Leaf(to) = run.source else {
                panic!("a write goes to the leaf")
            };
            let data: Vec<Sector> = (0..u64::from(run.sectors))
                .map(|i| content(tag, at + i))
                .collect();
            self.disk.write_sectors(to, &data)?;
            at += u64::from(run.sectors);
        }
        assert_eq!(at, sector + sectors);
        if done {
            self.map.map_sectors(sector, n).unwrap();
        }
        Ok(())
    }

    pub fn flush(&mut self) -> Result {
        self.allocator.begin_commit();
        self.committer.commit(&self.map, &mut self.disk)?;
        if self.committer.wants_checkpoint() {
            self.committer.checkpoint(&self.map, &mut self.disk)?;
        }
        self.discard_and_free()
    }

    pub fn checkpoint(&mut self) -> Result {
        self.allocator.begin_commit();
        self.committer.checkpoint(&self.map, &mut self.disk)?;
        self.discard_and_free()
    }

    /// Discards and frees after a commit. Nothing is in flight here, so the grace period ends at
    /// once.
    pub fn discard_and_free(&mut self) -> Result {
        let durable = self.committer.is_committed(&self.map);
        if !begin_reclaim(&mut self.allocator, &self.map, durable) {
            return Ok(());
        }
        let mut from = LeafSlab(0);
        while let Some(range) = self.allocator.reclaimable(from) {
            from = range.end;
            for leaf_slab in LeafSlab::each(range) {
                // A discarded slab reads as anything.
                let g = self.map.geometry();
                let junk = vec![[0xdd; 512]; g.slab_sectors() as usize];
                self.disk
                    .write_sectors(g.leaf_slab_start(leaf_slab), &junk)?;
            }
        }
        end_reclaim(&mut self.allocator, &self.map);
        Ok(())
    }

    /// Empties whole slabs.
    pub fn empty(&mut self, slabs: std::ops::Range<u32>, base: Base) -> Result<bool> {
        self.allocator.empty(&self.map, slabs, base)
    }

    /// Resets the leaf as the driver does it, with a new map. Returns the union that continues.
    pub fn reset(&mut self) -> Result<SimUnion> {
        let g = *self.map.geometry();
        let map = Map::new(g, SimMemory::new(&g));
        let entries = vec![PageEntry::EMPTY; g.pages() as usize];
        let sets = [page_set(&g), page_set(&g)];
        let committer = self.committer.after_reset(&map, entries, sets)?;
        self.committer.reset(&self.map, &mut self.disk)?;
        let mut allocator = parts::allocator(&g);
        allocator.set_limit(committer.superblock().features.limit());
        Ok(SimUnion {
            map,
            allocator,
            committer,
            disk: self.disk.clone(),
        })
    }

    pub fn detach(mut self) -> Result {
        self.committer.detach(&self.map, &mut self.disk)
    }

    /// Compares every sector with what a running union must hold.
    pub fn verify_running(&self, oracle: &Oracle) {
        for s in 0..self.map.geometry().union_sectors() {
            let expected = content(oracle.current(s), s);
            assert!(self.read(s) == expected, "sector {s} of a running union");
        }
    }
}
