// SPDX-License-Identifier: GPL-2.0

//! The map's memory, with limits on accesses and pages that follow from the leaf.

use std::cell::Cell;

use ubcore::geometry::Geometry;

use crate::leaf::Leaf;
use sim::memory::{MemoryAccess, Watch, Watched};

/// The look-ups of a slab that is lost: two to mark it, one to report it, two to compare blocks.
const LOOKS_AT_LOST: u64 = 6;

/// MemoryLimits the work on a map and its size.
pub struct MemoryLimits {
    /// The accesses that are left, and the pages that it may still allocate.
    looks: Cell<u64>,
    pages: Cell<u64>,
}

pub type Bounded = Watched<MemoryLimits>;

/// Makes memory for a map that is read from `leaf`. The limits on work and size are several times
/// what the leaf holds.
pub fn bounded(g: &Geometry, leaf: &Leaf) -> Bounded {
    let held = leaf.blocks.len() as u64;
    let ring = 3..2 + u64::from(g.journal_blocks());
    let ring = leaf.blocks.range(ring).count() as u64 + 1;
    // A block of the journal: 508 times a page of the table. A page: its slabs with their bits.
    let looks = ring * 508 * 1024 * 6 + held * 300_000 + u64::from(g.pages()) * 16 + 100_000;
    // A page of bits needs a page of owners.
    let pages = 2 * (held + u64::from(g.journal_blocks()) * 16) + 2 * 32 * 512;
    let limits = MemoryLimits {
        looks: Cell::new(looks),
        pages: Cell::new(pages),
    };
    Watched::new(g, limits)
}

impl MemoryLimits {
    /// Raises the limit for pages that are lost, because the leaf holds nothing of them, and still
    /// each of their slabs is marked as lost and looked at.
    pub fn allow_for_lost(&self, pages: u64) {
        let looks = self.looks.get() + pages * 1024 * LOOKS_AT_LOST;
        self.looks.set(looks);
    }
}

impl Watch for MemoryLimits {
    fn before(&self, access: MemoryAccess) {
        let (left, what) = match access {
            MemoryAccess::Page => (&self.looks, "more work than the leaf gives reason for"),
            MemoryAccess::Grow => (&self.pages, "more memory than the leaf gives reason for"),
            MemoryAccess::Marks => return,
        };
        left.set(left.get().checked_sub(1).expect(what));
    }
}
