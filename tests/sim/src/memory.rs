// SPDX-License-Identifier: GPL-2.0

//! The map's memory on the host.

use std::sync::atomic::{AtomicU32 as Plain, Ordering};
use std::sync::OnceLock;

use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::{words_for, BitsPage, Memory, TablePage};
use ubcore::sync::{AtomicU32, AtomicU64};

pub struct SimMemory {
    table: Vec<OnceLock<Box<TablePage>>>,
    bits: Vec<OnceLock<Box<BitsPage>>>,
    owners: Vec<OnceLock<Box<TablePage>>>,
    dirty: Vec<AtomicU64>,
    dirty_words: Vec<AtomicU64>,
    fresh: Vec<AtomicU64>,
    emptied: Vec<AtomicU64>,
    pending: Vec<AtomicU64>,
    /// The number of pages that can still be made without waiting.
    free: Plain,
}

fn words(bits: u32) -> Vec<AtomicU64> {
    (0..words_for(bits)).map(|_| AtomicU64::new(0)).collect()
}

fn pages<T>(n: u32) -> Vec<OnceLock<T>> {
    (0..n).map(|_| OnceLock::new()).collect()
}

fn table_page() -> Box<TablePage> {
    Box::new([const { AtomicU32::new(0) }; 1024])
}

impl SimMemory {
    pub fn new(g: &Geometry) -> Self {
        let dirty = words(g.leaf_slabs());
        SimMemory {
            table: pages(g.table_pages()),
            bits: pages(g.bits_pages()),
            owners: pages(g.leaf_slabs().div_ceil(1024)),
            dirty_words: words(dirty.len() as u32),
            dirty,
            fresh: words(g.leaf_slabs()),
            emptied: words(g.table_pages()),
            pending: words(g.table_pages()),
            free: Plain::new(u32::MAX),
        }
    }

    /// Sets how many pages can still be made without waiting.
    pub fn set_free(&self, pages: u32) {
        self.free.store(pages, Ordering::SeqCst);
    }

    fn grow<T>(&self, page: &OnceLock<T>, make: impl FnOnce() -> T) -> Result {
        if page.get().is_some() {
            return Ok(());
        }
        let take = |free: u32| free.checked_sub(1);
        let taken = self
            .free
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        taken.map_err(|_| Error::NoMemory)?;
        page.get_or_init(make);
        Ok(())
    }
}

impl Memory for SimMemory {
    fn table(&self, page: u32) -> Option<&TablePage> {
        self.table.get(page as usize)?.get().map(|p| &**p)
    }
    fn bits(&self, page: u32) -> Option<&BitsPage> {
        self.bits.get(page as usize)?.get().map(|p| &**p)
    }
    fn owners(&self, page: u32) -> Option<&TablePage> {
        self.owners.get(page as usize)?.get().map(|p| &**p)
    }
    fn grow_table(&self, page: u32) -> Result {
        self.grow(&self.table[page as usize], table_page)
    }
    fn grow_bits(&self, page: u32) -> Result {
        let make = || Box::new([const { AtomicU64::new(0) }; 512]);
        self.grow(&self.bits[page as usize], make)
    }
    fn grow_owners(&self, page: u32) -> Result {
        self.grow(&self.owners[page as usize], table_page)
    }
    fn dirty(&self) -> &[AtomicU64] {
        &self.dirty
    }
    fn dirty_words(&self) -> &[AtomicU64] {
        &self.dirty_words
    }
    fn fresh(&self) -> &[AtomicU64] {
        &self.fresh
    }
    fn emptied(&self) -> &[AtomicU64] {
        &self.emptied
    }
    fn pending(&self) -> &[AtomicU64] {
        &self.pending
    }
}
