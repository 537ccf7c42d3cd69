// SPDX-License-Identifier: GPL-2.0

//! The memory of a union's map: pages that are made on first use, and stay.

use crate::ubcore::{
    error::{
        Error,
        Result, //
    },
    geometry::{
        Geometry,
        TABLE_ENTRIES, //
    },
    map::{
        words_for,
        BitsPage,
        Memory,
        TablePage, //
    },
    num::index,
};
use core::sync::atomic::{
    AtomicU32,
    AtomicU64, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SetOnce, //
    },
};

type Pages<T> = KVVec<SetOnce<KBox<T>>>;

/// See [`Memory`]. Look-ups take no lock; growing races well with growing.
pub(crate) struct MapMemory {
    table: Pages<TablePage>,
    bits: Pages<BitsPage>,
    owners: Pages<TablePage>,
    dirty: KVVec<AtomicU64>,
    dirty_words: KVVec<AtomicU64>,
    fresh: KVVec<AtomicU64>,
    emptied: KVVec<AtomicU64>,
    bytes: Atomic<u64>,
}

fn filled<T>(n: usize, mut make: impl FnMut() -> T) -> Result<KVVec<T>> {
    let mut v = KVVec::with_capacity(n, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    for _ in 0..n {
        v.push(make(), GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    }
    Ok(v)
}

fn words(n: usize) -> Result<KVVec<AtomicU64>> {
    filled(n, || AtomicU64::new(0))
}

fn bytes_of<T>(v: &[T]) -> u64 {
    u64::try_from(size_of_val(v)).unwrap_or(0)
}

impl MapMemory {
    /// Room for a map over `g`, without a page yet. Process context.
    pub(crate) fn new(g: &Geometry) -> Result<Self> {
        let dirty = words(words_for(g.leaf_slabs()))?;
        let dirty_words = words(dirty.len().div_ceil(64))?;
        let fresh = words(dirty.len())?;
        let owner_pages = g.leaf_slabs().div_ceil(TABLE_ENTRIES);
        let memory = MapMemory {
            table: filled(index(g.table_pages()), SetOnce::new)?,
            bits: filled(index(g.bits_pages()), SetOnce::new)?,
            owners: filled(index(owner_pages), SetOnce::new)?,
            dirty,
            dirty_words,
            fresh,
            emptied: words(words_for(g.table_pages()))?,
            bytes: Atomic::new(0),
        };
        let fixed = bytes_of(&memory.table)
            + bytes_of(&memory.bits)
            + bytes_of(&memory.owners)
            + bytes_of(&memory.dirty) * 2
            + bytes_of(&memory.dirty_words);
        memory.bytes.store(fixed, Relaxed);
        Ok(memory)
    }

    /// Bytes of memory in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Makes a page. In the I/O path the caller holds a `NoIo`, so that no allocation waits for I/O.
    fn grow<T>(&self, pages: &Pages<T>, page: u32, make: impl Init<T>) -> Result {
        let slot = pages.get(index(page)).ok_or(Error::NoMemory)?;
        if slot.as_ref().is_some() {
            return Ok(());
        }
        let new = KBox::init(make, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
        // Who comes second finds a page there, and drops its own.
        if slot.populate(new) {
            self.bytes
                .fetch_add(u64::try_from(size_of::<T>()).unwrap_or(0), Relaxed);
        }
        Ok(())
    }
}

fn page<T>(pages: &Pages<T>, page: u32) -> Option<&T> {
    pages.get(index(page))?.as_ref().map(|p| &**p)
}

fn empty_table() -> impl Init<TablePage> {
    pin_init::init_array_from_fn(|_| AtomicU32::new(0))
}

impl Memory for MapMemory {
    fn table(&self, n: u32) -> Option<&TablePage> {
        page(&self.table, n)
    }

    fn bits(&self, n: u32) -> Option<&BitsPage> {
        page(&self.bits, n)
    }

    fn owners(&self, n: u32) -> Option<&TablePage> {
        page(&self.owners, n)
    }

    fn grow_table(&self, n: u32) -> Result {
        self.grow(&self.table, n, empty_table())
    }

    fn grow_bits(&self, n: u32) -> Result {
        self.grow(
            &self.bits,
            n,
            pin_init::init_array_from_fn(|_| AtomicU64::new(0)),
        )
    }

    fn grow_owners(&self, n: u32) -> Result {
        self.grow(&self.owners, n, empty_table())
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
}
