// SPDX-License-Identifier: GPL-2.0

//! The map's memory on the host.

use std::sync::atomic::{AtomicU32 as Plain, Ordering};
use std::sync::OnceLock;

use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::{BitsPage, Marks, Memory, Pages, TablePage};
use ubcore::sync::{AtomicU32, AtomicU64};

pub struct SimMemory {
    table: Vec<OnceLock<Box<TablePage>>>,
    bits: Vec<OnceLock<Box<BitsPage>>>,
    owners: Vec<OnceLock<Box<TablePage>>>,
    marks: [Vec<AtomicU64>; Marks::COUNT],
    /// The number of pages that can still be made without waiting.
    free: Plain,
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

fn pages<T>(n: u32) -> Vec<OnceLock<T>> {
    (0..n).map(|_| OnceLock::new()).collect()
}

fn table_page() -> Box<TablePage> {
    Box::new([const { AtomicU32::new(0) }; 1024])
}

impl SimMemory {
    pub fn new(g: &Geometry) -> Self {
        SimMemory {
            table: pages(g.table_pages()),
            bits: pages(g.bits_pages()),
            owners: pages(g.leaf_slabs().div_ceil(1024)),
            marks: Marks::ALL.map(|marks| words(marks.words(g))),
            free: Plain::new(u32::MAX),
        }
    }

    /// Sets how many pages can still be made without waiting.
    pub fn set_free(&self, pages: u32) {
        self.free.store(pages, Ordering::SeqCst);
    }

    fn grow_in<T>(&self, page: &OnceLock<T>, make: impl FnOnce() -> T) -> Result {
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
    fn grow(&self, pages: Pages, page: u32) -> Result {
        let page = page as usize;
        let bits_page = || Box::new([const { AtomicU64::new(0) }; 512]);
        match pages {
            Pages::Table => self.grow_in(&self.table[page], table_page),
            Pages::Bits => self.grow_in(&self.bits[page], bits_page),
            Pages::Owners => self.grow_in(&self.owners[page], table_page),
        }
    }
    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        &self.marks[marks as usize]
    }
}
