// SPDX-License-Identifier: GPL-2.0

//! The map's memory: with a limit on its pages, and with something that runs before each access.

use std::sync::atomic::{AtomicU32, Ordering};

use map_memory::Heap;
use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::{BitsPage, Marks, Memory, Pages, TablePage};
use ubcore::sync::AtomicU64;

pub struct SimMemory {
    heap: Heap,
    /// The number of pages that can still be made without waiting.
    free: AtomicU32,
}

impl SimMemory {
    pub fn new(g: &Geometry) -> Self {
        SimMemory {
            heap: Heap::new(g),
            free: AtomicU32::new(u32::MAX),
        }
    }

    /// Sets how many pages can still be made without waiting.
    pub fn set_free(&self, pages: u32) {
        self.free.store(pages, Ordering::SeqCst);
    }
}

impl Memory for SimMemory {
    fn table(&self, page: u32) -> Option<&TablePage> {
        self.heap.table(page)
    }
    fn bits(&self, page: u32) -> Option<&BitsPage> {
        self.heap.bits(page)
    }
    fn owners(&self, page: u32) -> Option<&TablePage> {
        self.heap.owners(page)
    }
    fn grow(&self, pages: Pages, page: u32) -> Result {
        if self.heap.has(pages, page) {
            return Ok(());
        }
        let take = |free: u32| free.checked_sub(1);
        let taken = self
            .free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.map_err(|_| Error::NoMemory)?;
        self.heap.grow(pages, page)
    }
    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        self.heap.marks(marks)
    }
}

/// What the core asks of a map's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryAccess {
    /// A look at a page.
    Page,
    /// A page that may have to be made.
    Grow,
    Marks,
}

/// Runs before each access to a [`Watched`] memory.
pub trait Watch {
    fn before(&self, access: MemoryAccess);
}

/// Memory with a watch over it.
pub struct Watched<W> {
    heap: Heap,
    pub watch: W,
}

impl<W: Watch> Watched<W> {
    pub fn new(g: &Geometry, watch: W) -> Self {
        let heap = Heap::new(g);
        Watched { heap, watch }
    }

    fn heap(&self, access: MemoryAccess) -> &Heap {
        self.watch.before(access);
        &self.heap
    }
}

impl<W: Watch> Memory for Watched<W> {
    fn table(&self, page: u32) -> Option<&TablePage> {
        self.heap(MemoryAccess::Page).table(page)
    }
    fn bits(&self, page: u32) -> Option<&BitsPage> {
        self.heap(MemoryAccess::Page).bits(page)
    }
    fn owners(&self, page: u32) -> Option<&TablePage> {
        self.heap(MemoryAccess::Page).owners(page)
    }
    fn grow(&self, pages: Pages, page: u32) -> Result {
        self.heap(MemoryAccess::Grow).grow(pages, page)
    }
    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        self.heap(MemoryAccess::Marks).marks(marks)
    }
}
