// SPDX-License-Identifier: GPL-2.0

//! Leaves that the core has written.

use std::path::{Path, PathBuf};

use map_memory::Heap;
use sim::parts::{load, SimCommitter};
use ubcore::alloc::Allocator;
use ubcore::attach::read_superblock;
use ubcore::error::Role;
use ubcore::geometry::Geometry;
use ubcore::map::Map;
use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;
use ubctl::device::{Access, Device};

use crate::{ubctl, Folder, MIB};

/// A union without its data. Makes the changes that the driver makes to a leaf's metadata.
pub struct MetadataUnion {
    pub device: Device,
    pub map: Map<Heap>,
    pub allocator: Allocator<Vec<u64>>,
    pub committer: SimCommitter,
}

impl MetadataUnion {
    pub fn attach(root: &Path, leaf: &Path) -> MetadataUnion {
        let root = Device::open(root, Role::Root, Access::Read).unwrap();
        let mut device = Device::open(leaf, Role::Leaf, Access::Exclusive).unwrap();
        let sectors = device.sectors();
        let parts = load(&mut device, root.sectors(), sectors, Heap::new).unwrap();
        MetadataUnion {
            device,
            map: parts.map,
            allocator: parts.allocator,
            committer: parts.committer,
        }
    }

    /// Does what the driver does when a first write completes.
    pub fn write(&mut self, sector: u64, count: u32) {
        let g = *self.map.geometry();
        for slab in g.slab_of(sector)..=g.slab_of(sector + u64::from(count) - 1) {
            self.allocator.allocate(&self.map, slab).unwrap();
        }
        assert!(self.map.map_sectors(sector, count).unwrap());
    }

    /// Does the same and writes data: each sector is full of the low byte of its number.
    pub fn fill(&mut self, sector: u64, count: u32) {
        self.write(sector, count);
        for at in sector..sector + u64::from(count) {
            let run = plan::read(&self.map, NoLayers, at, 1).next().unwrap();
            let Source::Leaf(to) = run.source else {
                panic!("{at} is not in the leaf");
            };
            self.device.write_at(to * 512, &[at as u8; 512]).unwrap();
        }
    }

    pub fn commit(&mut self) {
        self.committer.commit(&self.map, &mut self.device).unwrap();
    }

    pub fn detach(mut self) {
        self.committer.detach(&self.map, &mut self.device).unwrap();
    }
}

pub fn pair(f: &Folder) -> (PathBuf, PathBuf) {
    let (root, leaf) = (f.root("root", 16 * MIB), f.image("leaf", 8 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    (root, leaf)
}

pub fn geometry(leaf: &Path) -> Geometry {
    let mut device = Device::open(leaf, Role::Leaf, Access::Read).unwrap();
    read_superblock(&mut device).unwrap().superblock.geometry
}
