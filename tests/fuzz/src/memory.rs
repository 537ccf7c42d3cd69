// SPDX-License-Identifier: GPL-2.0

//! The map's memory, with limits on accesses and pages that follow from the leaf.

use std::cell::Cell;

use ubcore::error::Result;
use ubcore::geometry::Geometry;
use ubcore::map::{BitsPage, Marks, Memory, Pages, TablePage};
use ubcore::sync::AtomicU64;

use crate::leaf::Leaf;
use sim::memory::SimMemory;

/// The looks at a slab that is lost: two to mark it, one to report it, two to compare blocks.
const LOOKS_AT_LOST: u64 = 6;

pub struct Bounded {
    memory: SimMemory,
    /// The accesses that are left, and the pages that it may still allocate.
    looks: Cell<u64>,
    pages: Cell<u64>,
}

impl Bounded {
    /// Makes memory for a map that is read from `leaf`. The limits on work and size are several
    /// times what the leaf holds.
    pub fn new(g: &Geometry, leaf: &Leaf) -> Self {
        let held = leaf.blocks.len() as u64;
        let ring = 3..2 + u64::from(g.journal_blocks());
        let ring = leaf.blocks.range(ring).count() as u64 + 1;
        // A block of the journal: 508 times a page of the table. A page: its slabs with their bits.
        let looks = ring * 508 * 1024 * 6 + held * 300_000 + u64::from(g.pages()) * 16 + 100_000;
        Bounded {
            memory: SimMemory::new(g),
            looks: Cell::new(looks),
            // A page of bits needs a page of owners.
            pages: Cell::new(2 * (held + u64::from(g.journal_blocks()) * 16) + 2 * 32 * 512),
        }
    }

    /// Raises the limit for pages that are lost: the leaf holds nothing of them, and still each of
    /// their slabs is marked as lost and looked at.
    pub fn allow_for_lost(&self, pages: u64) {
        let looks = self.looks.get() + pages * 1024 * LOOKS_AT_LOST;
        self.looks.set(looks);
    }

    fn asked(&self) -> &SimMemory {
        let left = self.looks.get().checked_sub(1);
        self.looks
            .set(left.expect("more work than the leaf gives reason for"));
        &self.memory
    }

    fn made(&self) -> &SimMemory {
        let left = self.pages.get().checked_sub(1);
        self.pages
            .set(left.expect("more memory than the leaf gives reason for"));
        &self.memory
    }
}

impl Memory for Bounded {
    fn table(&self, page: u32) -> Option<&TablePage> {
        self.asked().table(page)
    }
    fn bits(&self, page: u32) -> Option<&BitsPage> {
        self.asked().bits(page)
    }
    fn owners(&self, page: u32) -> Option<&TablePage> {
        self.asked().owners(page)
    }
    fn grow(&self, pages: Pages, page: u32) -> Result {
        self.made().grow(pages, page)
    }
    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        self.memory.marks(marks)
    }
}
