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

type StackPageList = KVVec<Option<KBox<StackPage>>>;

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
            table: KVVec::new(),
            mixed_records: KVVec::new(),
            copies: KVVec::new(),
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

    /// Returns the number of bytes in use: the pages, and the lists of them.
    pub(crate) fn bytes(&self) -> u64 {
        let of = |list: &StackPageList| {
            let pages = list.iter().flatten().count();
            let pages = usize_as_u64(pages).saturating_mul(usize_as_u64(size_of::<StackPage>()));
            let slots = usize_as_u64(list.capacity());
            let slots = slots.saturating_mul(usize_as_u64(size_of::<Option<KBox<StackPage>>>()));
            pages.saturating_add(slots)
        };
        // All of it is in memory, so the sum does not saturate.
        [&self.table, &self.mixed_records, &self.copies]
            .into_iter()
            .map(of)
            .fold(0, u64::saturating_add)
    }
}

impl StackMemory for StackPageLists {
    #[inline]
    fn page(&self, pages: StackPages, n: u32) -> Option<&StackPage> {
        self.list(pages).get(u32_as_usize(n))?.as_deref()
    }

    fn page_mut(&mut self, pages: StackPages, n: u32) -> Option<&mut StackPage> {
        self.list_mut(pages)
            .get_mut(u32_as_usize(n))?
            .as_deref_mut()
    }

    fn grow(&mut self, pages: StackPages, n: u32) -> Result {
        let list = self.list_mut(pages);
        let n = u32_as_usize(n);
        let no_memory = |_| Error::NoMemory;
        while list.len() <= n {
            list.push(None, GFP_KERNEL).map_err(no_memory)?;
        }
        let slot = list.get_mut(n).ok_or(Error::Internal)?;
        if slot.is_none() {
            let page = pin_init::init_array_from_fn(|_| Word(0));
            *slot = Some(KBox::init(page, GFP_KERNEL).map_err(|_| Error::NoMemory)?);
        }
        Ok(())
    }

    fn keep_copies(&mut self) {
        self.mixed_records = core::mem::replace(&mut self.copies, KVVec::new());
    }

    fn give_way(&mut self) -> Result {
        to_core(task::give_way())
    }
}
