// SPDX-License-Identifier: GPL-2.0

//! The map's memory on the host.

use std::sync::OnceLock;

use ubcore::error::Result;
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
        }
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
        self.table[page as usize].get_or_init(table_page);
        Ok(())
    }
    fn grow_bits(&self, page: u32) -> Result {
        self.bits[page as usize].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 512]));
        Ok(())
    }
    fn grow_owners(&self, page: u32) -> Result {
        self.owners[page as usize].get_or_init(table_page);
        Ok(())
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
