// SPDX-License-Identifier: GPL-2.0

//! What the core asks of its caller, for the tool and the tests: the memory of a map, on the heap,
//! and SHA-256, from a crate. The driver uses kernel pages and the kernel's SHA-256 instead. The
//! atomics are the core's, so the models of races use this memory too.

#![deny(unsafe_code, missing_docs)]

pub mod sha256;
mod stack;

pub use stack::StackHeap;

use std::sync::OnceLock;

use ubcore::error::{Error, Result};
use ubcore::geometry::{Geometry, TABLE_ENTRIES};
use ubcore::map::{BitsPage, Marks, Memory, Pages, TablePage};
use ubcore::num::u32_as_usize;
use ubcore::sync::{AtomicU32, AtomicU64};

type HeapPages<P> = Vec<OnceLock<Box<P>>>;

/// Pages that are allocated on first use.
pub struct Heap {
    table: HeapPages<TablePage>,
    bits: HeapPages<BitsPage>,
    owners: HeapPages<TablePage>,
    marks: [Vec<AtomicU64>; Marks::COUNT],
}

fn pages<P>(count: u32) -> HeapPages<P> {
    (0..count).map(|_| OnceLock::new()).collect()
}

fn words(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl Heap {
    /// Makes the memory for a map that is changed and committed.
    pub fn new(g: &Geometry) -> Heap {
        Heap {
            marks: Marks::ALL.map(|marks| words(marks.words(g))),
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
            marks: Default::default(),
        }
    }
}

impl Heap {
    /// Returns whether a page of the memory exists.
    pub fn has(&self, pages: Pages, page: u32) -> bool {
        match pages {
            Pages::Table => get(&self.table, page).is_some(),
            Pages::Bits => get(&self.bits, page).is_some(),
            Pages::Owners => get(&self.owners, page).is_some(),
        }
    }
}

fn get<P>(pages: &HeapPages<P>, page: u32) -> Option<&P> {
    pages.get(u32_as_usize(page))?.get().map(Box::as_ref)
}

fn grow<P>(pages: &HeapPages<P>, page: u32, new: impl FnOnce() -> Box<P>) -> Result {
    pages
        .get(u32_as_usize(page))
        .ok_or(Error::NoMemory)?
        .get_or_init(new);
    Ok(())
}

fn table_page() -> Box<TablePage> {
    Box::new([const { AtomicU32::new(0) }; TABLE_ENTRIES as usize])
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

    fn grow(&self, pages: Pages, page: u32) -> Result {
        let bits_page = || Box::new([const { AtomicU64::new(0) }; 512]);
        match pages {
            Pages::Table => grow(&self.table, page, table_page),
            Pages::Bits => grow(&self.bits, page, bits_page),
            Pages::Owners => grow(&self.owners, page, table_page),
        }
    }

    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        &self.marks[marks as usize]
    }
}
