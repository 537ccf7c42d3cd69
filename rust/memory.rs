// SPDX-License-Identifier: GPL-2.0

//! The memory of a union's map: pages that are made on first use, and stay; and the reserve that
//! they come from where the system has none.
//!
//! A first write may need pages for the map, and may itself be what frees memory: so no page is
//! waited for with a lock held, and all unions share a reserve, refilled as it is used. Where even
//! that is empty, the write waits for the system, alone, in [`MapMemory::wait`].

use crate::{
    blk::{
        mm::NoIo,
        slot::Slot,
        workqueue::{
            flush_work,
            system, //
        }, //
    },
    ubcore::{
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
    },
};
use core::sync::atomic::{
    AtomicU32,
    AtomicU64, //
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

type Pages<T> = KVVec<Slot<T>>;

/// Pages of each kind in reserve, for all unions: 256 KiB in all.
const RESERVE: usize = 32;

struct Spare {
    table: KVec<KBox<TablePage>>,
    bits: KVec<KBox<BitsPage>>,
}

/// Pages for maps to grow by when the system gives none at once.
#[pin_data]
pub(crate) struct Reserve {
    /// Inside all other locks; held for a push or a pop.
    #[pin]
    spare: SpinLock<Spare>,
    #[pin]
    refill: Work<Reserve>,
}

impl_has_work! {
    impl HasWork<Self> for Reserve { self.refill }
}

impl WorkItem for Reserve {
    type Pointer = Arc<Reserve>;

    fn run(this: Arc<Reserve>) {
        // Nobody's I/O waits for this work: it may wait for any.
        while this.wants_more() && this.add().is_ok() {}
    }
}

impl Reserve {
    /// A full reserve. Process context.
    pub(crate) fn new() -> kernel::error::Result<Arc<Self>> {
        let spare = Spare {
            table: KVec::with_capacity(RESERVE, GFP_KERNEL)?,
            bits: KVec::with_capacity(RESERVE, GFP_KERNEL)?,
        };
        let this = Arc::pin_init(
            pin_init!(Self {
                spare <- new_spinlock!(spare, "unionblk spare pages"),
                refill <- new_work!("unionblk refill"),
            }),
            GFP_KERNEL,
        )?;
        while this.wants_more() {
            this.add()?;
        }
        Ok(this)
    }

    fn wants_more(&self) -> bool {
        let spare = self.spare.lock();
        spare.table.len() < RESERVE || spare.bits.len() < RESERVE
    }

    /// Makes a page of each kind and keeps what there is room for. Waits for memory, and for I/O
    /// unless the caller holds a `NoIo`.
    fn add(&self) -> kernel::error::Result {
        let table = KBox::init(empty_table(), GFP_KERNEL)?;
        let bits = KBox::init(empty_bits(), GFP_KERNEL)?;
        let mut spare = self.spare.lock();
        // What is one too many goes when the lock has gone.
        let more = (
            spare.table.push_within_capacity(table).err(),
            spare.bits.push_within_capacity(bits).err(),
        );
        drop(spare);
        drop(more);
        Ok(())
    }

    fn take<T>(
        this: &Arc<Self>,
        pick: impl FnOnce(&mut Spare) -> Option<KBox<T>>,
    ) -> Option<KBox<T>> {
        let page = pick(&mut this.spare.lock());
        let _ = system().enqueue(this.clone());
        page
    }

    /// Waits until nothing of it runs: before the module goes, when no map is left.
    pub(crate) fn quiesce(this: &Arc<Self>) {
        flush_work::<_, 0>(this);
    }
}

/// See [`Memory`]. Look-ups take no lock. Pages are made by the holder of the allocator's lock, or
/// before there is another.
pub(crate) struct MapMemory {
    reserve: Arc<Reserve>,
    /// Requests come: nobody may wait for a page.
    live: Atomic<bool>,
    table: Pages<TablePage>,
    bits: Pages<BitsPage>,
    owners: Pages<TablePage>,
    dirty: KVVec<AtomicU64>,
    dirty_words: KVVec<AtomicU64>,
    fresh: KVVec<AtomicU64>,
    emptied: KVVec<AtomicU64>,
    pending: KVVec<AtomicU64>,
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
    pub(crate) fn new(g: &Geometry, reserve: Arc<Reserve>) -> Result<Self> {
        let dirty = words(words_for(g.leaf_slabs()))?;
        let dirty_words = words(dirty.len().div_ceil(64))?;
        let fresh = words(dirty.len())?;
        let owner_pages = g.leaf_slabs().div_ceil(TABLE_ENTRIES);
        let memory = MapMemory {
            reserve,
            live: Atomic::new(false),
            table: filled(index(g.table_pages()), Slot::new)?,
            bits: filled(index(g.bits_pages()), Slot::new)?,
            owners: filled(index(owner_pages), Slot::new)?,
            dirty,
            dirty_words,
            fresh,
            emptied: words(words_for(g.table_pages()))?,
            pending: words(words_for(g.table_pages()))?,
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

    /// From now on no page is waited for where it is made.
    pub(crate) fn set_live(&self) {
        self.live.store(true, Relaxed);
    }

    /// Makes a page: once live, without waiting, and `NoMemory` if there is none at once.
    fn grow<T: Send>(
        &self,
        pages: &Pages<T>,
        page: u32,
        make: impl Init<T>,
        spare: impl FnOnce(&mut Spare) -> Option<KBox<T>>,
    ) -> Result {
        let slot = pages.get(index(page)).ok_or(Error::Internal)?;
        if slot.get().is_some() {
            return Ok(());
        }
        let new = if self.live.load(Relaxed) {
            KBox::init(make, GFP_NOWAIT | __GFP_NOWARN)
                .ok()
                .or_else(|| Reserve::take(&self.reserve, spare))
        } else {
            KBox::init(make, GFP_KERNEL).ok()
        };
        let new = new.ok_or(Error::NoMemory)?;
        if slot.populate(new) {
            self.bytes
                .fetch_add(u64::try_from(size_of::<T>()).unwrap_or(0), Relaxed);
        }
        Ok(())
    }

    /// After `NoMemory`: waits for memory, so that another try has a page of each kind, unless
    /// somebody else was faster. Process context, with no lock held; starts no I/O.
    pub(crate) fn wait(&self) -> Result {
        let _no_io = NoIo::new();
        self.reserve.add().map_err(|_| Error::NoMemory)
    }
}

fn page<T>(pages: &Pages<T>, page: u32) -> Option<&T> {
    pages.get(index(page))?.get()
}

fn empty_table() -> impl Init<TablePage> {
    pin_init::init_array_from_fn(|_| AtomicU32::new(0))
}

fn empty_bits() -> impl Init<BitsPage> {
    pin_init::init_array_from_fn(|_| AtomicU64::new(0))
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
        self.grow(&self.table, n, empty_table(), |s| s.table.pop())
    }

    fn grow_bits(&self, n: u32) -> Result {
        self.grow(&self.bits, n, empty_bits(), |s| s.bits.pop())
    }

    fn grow_owners(&self, n: u32) -> Result {
        self.grow(&self.owners, n, empty_table(), |s| s.table.pop())
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
