// SPDX-License-Identifier: GPL-2.0

//! The memory of a stack map, on the heap.

use std::collections::BTreeMap;

use ubcore::error::Result;
use ubcore::stack::map::{StackMemory, StackPage, StackPages, PAGE_WORDS};
use ubcore::stack::word::Word;

type StackHeapPages = BTreeMap<u32, Box<StackPage>>;

/// Pages that are allocated on first use. The sizes that a layer claims cost no memory here.
#[derive(Default)]
pub struct StackHeap {
    table: StackHeapPages,
    mixed_records: StackHeapPages,
    copies: StackHeapPages,
}

impl StackHeap {
    /// Makes memory without pages.
    pub fn new() -> StackHeap {
        StackHeap::default()
    }

    /// Returns the number of pages.
    pub fn pages(&self) -> usize {
        self.table.len() + self.mixed_records.len() + self.copies.len()
    }

    fn list(&self, pages: StackPages) -> &StackHeapPages {
        match pages {
            StackPages::Table => &self.table,
            StackPages::MixedRecords => &self.mixed_records,
            StackPages::Copies => &self.copies,
        }
    }

    fn list_mut(&mut self, pages: StackPages) -> &mut StackHeapPages {
        match pages {
            StackPages::Table => &mut self.table,
            StackPages::MixedRecords => &mut self.mixed_records,
            StackPages::Copies => &mut self.copies,
        }
    }
}

impl StackMemory for StackHeap {
    fn page(&self, pages: StackPages, n: u32) -> Option<&StackPage> {
        self.list(pages).get(&n).map(Box::as_ref)
    }

    fn page_mut(&mut self, pages: StackPages, n: u32) -> Option<&mut StackPage> {
        self.list_mut(pages).get_mut(&n).map(Box::as_mut)
    }

    fn grow(&mut self, pages: StackPages, n: u32) -> Result {
        let new = || Box::new([Word(0); PAGE_WORDS]);
        self.list_mut(pages).entry(n).or_insert_with(new);
        Ok(())
    }

    fn keep_copies(&mut self) {
        self.mixed_records = std::mem::take(&mut self.copies);
    }
}
