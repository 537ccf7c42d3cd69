// SPDX-License-Identifier: GPL-2.0

//! Layers for the tests of stacks: leaves after random workloads, and memory that counts.

use std::cell::Cell;

use map_memory::StackHeap;
use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::Base;
use ubcore::stack::extent::{Extent, Extents};
use ubcore::stack::map::{StackMemory, StackPage, StackPages};

use crate::disk::{Random, SimDisk};
use crate::oracle::{ROOT, ZERO};
use crate::union::{format, SimUnion};

/// Makes a leaf with a random geometry: slabs of 16 KiB to 4 MiB, a union of at most `most`
/// sectors, which can be larger than its root, and end within a slab.
pub fn random_leaf(random: &mut Random, most: u64) -> (SimDisk, SimUnion) {
    let widest = if random.chance(3) { 9 } else { 4 };
    let slab = 32 << random.below(widest);
    let size = 1 + random.below(most);
    let root = random.below(size + 1);
    let slabs = size.div_ceil(slab) + 8;
    let leaf = 8192 + (slabs + 1) * slab;
    let g = Geometry::new(root, size, leaf, slab as u32, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let union = SimUnion::attach_to(&disk, &g).unwrap();
    (disk, union)
}

/// Writes and empties a leaf at random, with tags from `first` on. Returns the tag of each sector,
/// which is [`ROOT`] where the leaf maps nothing.
pub fn run_workload(u: &mut SimUnion, random: &mut Random, steps: u64, first: u64) -> Vec<u64> {
    let g = *u.map.geometry();
    let size = g.union_sectors();
    let mut tags = vec![ROOT; size as usize];
    for n in 0..steps {
        let at = random.below(size);
        if random.below(4) > 0 {
            let sectors = (1 + random.below(300)).min(size - at);
            // A slab that was emptied a moment ago cannot be written yet.
            if u.write(at, sectors, first + n, true).is_ok() {
                tags[at as usize..(at + sectors) as usize].fill(first + n);
            }
        } else {
            let first = g.slab_of(at);
            let end = (first + 1 + random.below(3) as u32).min(g.root_slabs());
            let (base, tag) = [(Base::Below, ROOT), (Base::Zero, ZERO)][random.below(2) as usize];
            u.empty(first..end, base).unwrap();
            let sectors = g.slab_start(first)..g.slab_start(end).min(size);
            tags[sectors.start as usize..sectors.end as usize].fill(tag);
        }
        if random.chance(4) {
            u.flush().unwrap();
        }
    }
    u.flush().unwrap();
    tags
}

/// Extents from a list.
pub struct List<'a>(pub &'a [Extent]);

impl Extents for List<'_> {
    fn next(&mut self) -> Result<Option<Extent>> {
        let Some((first, rest)) = self.0.split_first() else {
            return Ok(None);
        };
        self.0 = rest;
        Ok(Some(*first))
    }
}

/// The memory of a stack map, which counts, and can run out.
pub struct CountedStack {
    heap: StackHeap,
    /// The accesses to pages.
    pub looks: Cell<u64>,
    /// How often the builder has let other tasks run. It fails for good at this number.
    pub pauses: u32,
    pub signal_at: u32,
    /// How often the builder has copied all records.
    pub copies: u32,
    /// The number of pages that can still be made.
    pub free: u32,
    /// The most pages that there were at one time.
    pub most: usize,
}

impl CountedStack {
    pub fn new() -> CountedStack {
        CountedStack {
            heap: StackHeap::new(),
            looks: Cell::new(0),
            pauses: 0,
            signal_at: u32::MAX,
            copies: 0,
            free: u32::MAX,
            most: 0,
        }
    }

    pub fn pages(&self) -> usize {
        self.heap.pages()
    }

    fn look(&self) {
        self.looks.set(self.looks.get() + 1);
    }
}

impl Default for CountedStack {
    fn default() -> Self {
        Self::new()
    }
}

impl StackMemory for CountedStack {
    fn page(&self, pages: StackPages, n: u32) -> Option<&StackPage> {
        self.look();
        self.heap.page(pages, n)
    }

    fn page_mut(&mut self, pages: StackPages, n: u32) -> Option<&mut StackPage> {
        self.look();
        self.heap.page_mut(pages, n)
    }

    fn grow(&mut self, pages: StackPages, n: u32) -> Result {
        if self.heap.page(pages, n).is_none() {
            self.free = self.free.checked_sub(1).ok_or(Error::NoMemory)?;
        }
        self.heap.grow(pages, n)?;
        self.most = self.most.max(self.heap.pages());
        Ok(())
    }

    fn give_way(&mut self) -> Result {
        self.pauses += 1;
        if self.pauses > self.signal_at {
            return Err(Error::Os(4));
        }
        Ok(())
    }

    fn keep_copies(&mut self) {
        self.copies += 1;
        self.heap.keep_copies();
    }
}
