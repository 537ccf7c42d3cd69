// SPDX-License-Identifier: GPL-2.0

//! The memory of a stack map.

use crate::{
    error::to_core,
    sys::task,
    ubcore::{
        error::{
            Error,
            Result, //
        },
        num::{
            u32_as_usize,
            usize_as_u64, //
        },
        stack::{
            map::{
                StackMemory,
                StackPage,
                StackPages, //
            },
            word::Word,
        },
    },
};
use kernel::prelude::*;

/// Pages of one kind.
struct StackPageList {
    pages: KVVec<Option<KBox<StackPage>>>,
    /// The number of pages that exist, so that a status need not walk through the list.
    count: usize,
}

impl StackPageList {
    const fn new() -> Self {
        StackPageList {
            pages: KVVec::new(),
            count: 0,
        }
    }

    /// Returns the number of bytes in use: the pages, and the list of them.
    fn bytes(&self) -> u64 {
        // All of it is in memory, so neither product nor sum saturates.
        let of = |n, size| usize_as_u64(n).saturating_mul(usize_as_u64(size));
        let slots = of(self.pages.capacity(), size_of::<Option<KBox<StackPage>>>());
        of(self.count, size_of::<StackPage>()).saturating_add(slots)
    }
}

/// Pages that are allocated on first use. Only a task that builds a stack map allocates them: an
/// attach or a freeze, in process context.
pub(crate) struct StackPageLists {
    table: StackPageList,
    mixed_records: StackPageList,
    copies: StackPageList,
}

impl StackPageLists {
    /// Returns memory without pages.
    pub(crate) const fn new() -> Self {
        StackPageLists {
            table: StackPageList::new(),
            mixed_records: StackPageList::new(),
            copies: StackPageList::new(),
        }
    }

    fn list(&self, pages: StackPages) -> &StackPageList {
        match pages {
            StackPages::Table => &self.table,
            StackPages::MixedRecords => &self.mixed_records,
            StackPages::Copies => &self.copies,
        }
    }

    fn list_mut(&mut self, pages: StackPages) -> &mut StackPageList {
        match pages {
            StackPages::Table => &mut self.table,
            StackPages::MixedRecords => &mut self.mixed_records,
            StackPages::Copies => &mut self.copies,
        }
    }

    /// Returns the number of bytes in use: the pages, and the lists of them. Any context.
    pub(crate) fn bytes(&self) -> u64 {
        [&self.table, &self.mixed_records, &self.copies]
            .into_iter()
            .map(StackPageList::bytes)
            .fold(0, u64::saturating_add)
    }
}

impl StackMemory for StackPageLists {
    #[inline]
    fn page(&self, pages: StackPages, n: u32) -> Option<&StackPage> {
        self.list(pages).pages.get(u32_as_usize(n))?.as_deref()
    }

    fn page_mut(&mut self, pages: StackPages, n: u32) -> Option<&mut StackPage> {
        self.list_mut(pages)
            .pages
            .get_mut(u32_as_usize(n))?
            .as_deref_mut()
    }

    fn grow(&mut self, pages: StackPages, n: u32) -> Result {
        let list = self.list_mut(pages);
        let n = u32_as_usize(n);
        let no_memory = |_| Error::NoMemory;
        while list.pages.len() <= n {
            list.pages.push(None, GFP_KERNEL).map_err(no_memory)?;
        }
        let slot = list.pages.get_mut(n).ok_or(Error::Internal)?;
        if slot.is_none() {
            let page = pin_init::init_array_from_fn(|_| Word(0));
            *slot = Some(KBox::init(page, GFP_KERNEL).map_err(|_| Error::NoMemory)?);
            // A list has fewer than 2^32 pages.
            list.count = list.count.saturating_add(1);
        }
        Ok(())
    }

    fn keep_copies(&mut self) {
        self.mixed_records = core::mem::replace(&mut self.copies, StackPageList::new());
    }

    fn give_way(&mut self) -> Result {
        to_core(task::give_way())
    }
}
