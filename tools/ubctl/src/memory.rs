// SPDX-License-Identifier: GPL-2.0

//! The memory of a map, on the heap. The driver uses kernel pages instead.

use std::array;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::OnceLock;

use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, TABLE_ENTRIES};
use ubcore::map::{words_for, BitsPage, Memory, TablePage};
use ubcore::num::u32_as_usize;

type Pages<P> = Vec<OnceLock<Box<P>>>;

/// Pages that are allocated on first use.
pub struct Heap {
    table: Pages<TablePage>,
    bits: Pages<BitsPage>,
    owners: Pages<TablePage>,
    dirty: Vec<AtomicU64>,
    dirty_words: Vec<AtomicU64>,
    fresh: Vec<AtomicU64>,
    emptied: Vec<AtomicU64>,
    pending: Vec<AtomicU64>,
}

fn pages<P>(count: u32) -> Pages<P> {
    (0..count).map(|_| OnceLock::new()).collect()
}

fn words(bits: u32) -> Vec<AtomicU64> {
    (0..words_for(bits)).map(|_| AtomicU64::new(0)).collect()
}

impl Heap {
    /// Makes the memory for a map that is changed and committed.
    pub fn new(g: &Geometry) -> Heap {
        let dirty = words(g.leaf_slabs());
        let dirty_words = words(u32::try_from(dirty.len()).unwrap_or(u32::MAX));
        Heap {
            dirty,
            dirty_words,
            fresh: words(g.leaf_slabs()),
            emptied: words(g.table_pages()),
            pending: words(g.table_pages()),
            ..Heap::to_read(g)
        }
    }

    /// Makes the memory for a map that is only filled and read, so nothing in it is ever dirty. The
    /// sizes that a leaf claims cost no memory here.
    pub fn to_read(g: &Geometry) -> Heap {
        Heap {
            table: pages(g.table_pages()),
            bits: pages(g.bits_pages()),
            owners: pages(g.leaf_slabs().div_ceil(TABLE_ENTRIES)),
            dirty: Vec::new(),
            dirty_words: Vec::new(),
            fresh: Vec::new(),
            emptied: Vec::new(),
            pending: Vec::new(),
        }
    }
}

fn get<P>(pages: &Pages<P>, page: u32) -> Option<&P> {
    pages.get(u32_as_usize(page))?.get().map(Box::as_ref)
}

fn grow<P>(pages: &Pages<P>, page: u32, new: impl FnOnce() -> Box<P>) -> Result {
    pages
        .get(u32_as_usize(page))
        .ok_or(Error::NoMemory)?
        .get_or_init(new);
    Ok(())
}

fn table_page() -> Box<TablePage> {
    Box::new(array::from_fn(|_| AtomicU32::new(0)))
}

impl Memory for Heap {
    fn table(&self, page: u32) -> Option<&TablePage> {
        get(&self.table, page)
    }

    fn bits(&self, page: u32) -> Option<&BitsPage> {
        get(&self.bits, page)
    }

    fn owners(&self, page: u32) -> Option<&TablePage> {
        get(&self.owners, page)
    }

    fn grow_table(&self, page: u32) -> Result {
        grow(&self.table, page, table_page)
    }

    fn grow_bits(&self, page: u32) -> Result {
        grow(&self.bits, page, || {
            Box::new(array::from_fn(|_| AtomicU64::new(0)))
        })
    }

    fn grow_owners(&self, page: u32) -> Result {
        grow(&self.owners, page, table_page)
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
