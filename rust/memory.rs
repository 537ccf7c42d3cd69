// SPDX-License-Identifier: GPL-2.0

//! The memory of a union's map, and the reserve of pages for it.
//!
//! A page of the map is allocated on first use and stays until the union is detached, or until a
//! freeze or a reset replaces the map. If the system has no free page, the page comes from the
//! reserve.
//!
//! A first write may need pages for the map, and memory reclaim may depend on that very write. For
//! this reason no thread waits for a page while it holds a lock. All unions share the reserve,
//! which is refilled as it is used. If the reserve is empty too, the write waits for memory in
//! [`MapMemory::wait`], without holding up other writes.

use crate::{
    sys::{
        mm::NoIo,
        once_box::OnceBox,
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
            BitsPage,
            Marks,
            Memory,
            Pages,
            TablePage, //
        },
        num::{
            u32_as_usize,
            usize_as_u64, //
        },
        sync::{
            AtomicBool,
            AtomicU32,
            AtomicU64,
            Ordering::Relaxed, //
        },
    },
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
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

type MapPageList<T> = KVVec<OnceBox<T>>;

/// The number of pages of each kind in the reserve: 256 KiB in total, for all unions.
const RESERVE: usize = 32;

struct Spare {
    table: KVec<KBox<TablePage>>,
    bits: KVec<KBox<BitsPage>>,
}

/// Pages for the maps of all unions, used if an allocation fails without waiting.
#[pin_data]
pub(crate) struct Reserve {
    /// The innermost lock. Held only for a push or a pop.
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
        // No I/O waits for this work, so it may wait for any I/O.
        while this.wants_more() && this.add().is_ok() {}
    }
}

impl Reserve {
    /// Returns a full reserve. Process context.
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

    /// Allocates a page of each kind and keeps each one that there is room for. Waits for memory,
    /// and for I/O unless the caller holds a `NoIo`.
    fn add(&self) -> kernel::error::Result {
        let table = KBox::init(empty_table(), GFP_KERNEL)?;
        let bits = KBox::init(empty_bits(), GFP_KERNEL)?;
        let mut spare = self.spare.lock();
        // Free a surplus page only after the lock is released.
        let more = (
            spare.table.push_within_capacity(table).err(),
            spare.bits.push_within_capacity(bits).err(),
        );
        drop(spare);
        drop(more);
        Ok(())
    }

    /// Removes a page from the reserve, and queues the work that replaces it.
    fn remove<T>(
        this: &Arc<Self>,
        pick: impl FnOnce(&mut Spare) -> Option<KBox<T>>,
    ) -> Option<KBox<T>> {
        let page = pick(&mut this.spare.lock());
        let _ = system().enqueue(this.clone());
        page
    }

    /// Waits until the refill work has ended. Called before the module is unloaded, when no map is
    /// left.
    pub(crate) fn quiesce(this: &Arc<Self>) {
        flush_work(this);
    }
}

/// The memory of one map, see [`Memory`].
///
/// Look-ups take no lock. Only the holder of the allocator's lock makes pages, except during
/// attach, when no other thread knows the map.
pub(crate) struct MapMemory {
    reserve: Arc<Reserve>,
    /// The union takes requests, so no thread may wait for a page where it is made.
    live: AtomicBool,
    table: MapPageList<TablePage>,
    bits: MapPageList<BitsPage>,
    owners: MapPageList<TablePage>,
    dirty: KVVec<AtomicU64>,
    dirty_words: KVVec<AtomicU64>,
    fresh: KVVec<AtomicU64>,
    emptied: KVVec<AtomicU64>,
    pending: KVVec<AtomicU64>,
    bytes: AtomicU64,
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
    usize_as_u64(size_of_val(v))
}

impl MapMemory {
    /// Returns the memory for a map over `g`, without any pages. Process context.
    pub(crate) fn new(g: &Geometry, reserve: Arc<Reserve>) -> Result<Self> {
        let words = |marks: Marks| words(marks.words(g));
        let owner_pages = g.leaf_slabs().div_ceil(TABLE_ENTRIES);
        let memory = MapMemory {
            reserve,
            live: AtomicBool::new(false),
            table: filled(u32_as_usize(g.table_pages()), OnceBox::new)?,
            bits: filled(u32_as_usize(g.bits_pages()), OnceBox::new)?,
            owners: filled(u32_as_usize(owner_pages), OnceBox::new)?,
            dirty: words(Marks::Dirty)?,
            dirty_words: words(Marks::DirtyWords)?,
            fresh: words(Marks::Fresh)?,
            emptied: words(Marks::Emptied)?,
            pending: words(Marks::Pending)?,
            bytes: AtomicU64::new(0),
        };
        let lists = [
            bytes_of(&memory.table),
            bytes_of(&memory.bits),
            bytes_of(&memory.owners),
            bytes_of(&memory.dirty),
            bytes_of(&memory.dirty_words),
            bytes_of(&memory.fresh),
            bytes_of(&memory.emptied),
            bytes_of(&memory.pending),
        ];
        // The lists are in memory, so the sum does not saturate.
        let fixed = lists.into_iter().fold(0, u64::saturating_add);
        memory.bytes.store(fixed, Relaxed);
        Ok(memory)
    }

    /// Returns the number of bytes in use.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Makes all later page allocations non-blocking.
    pub(crate) fn set_live(&self) {
        self.live.store(true, Relaxed);
    }

    /// Makes a page, if it does not exist. Once the memory is live, this does not wait: it returns
    /// `NoMemory` if neither the system nor the reserve has a page.
    fn grow_in<T: Send>(
        &self,
        pages: &MapPageList<T>,
        page: u32,
        make: impl Init<T>,
        spare: impl FnOnce(&mut Spare) -> Option<KBox<T>>,
    ) -> Result {
        let slot = pages.get(u32_as_usize(page)).ok_or(Error::Internal)?;
        if slot.get().is_some() {
            return Ok(());
        }
        let new = if self.live.load(Relaxed) {
            KBox::init(make, GFP_NOWAIT | __GFP_NOWARN)
                .ok()
                .or_else(|| Reserve::remove(&self.reserve, spare))
        } else {
            KBox::init(make, GFP_KERNEL).ok()
        };
        let new = new.ok_or(Error::NoMemory)?;
        if slot.populate(new) {
            self.bytes.fetch_add(usize_as_u64(size_of::<T>()), Relaxed);
        }
        Ok(())
    }

    /// Waits for memory after `NoMemory`. The reserve then has a page of each kind for another
    /// attempt, unless another thread has taken it first. Process context, with no lock held;
    /// starts no I/O.
    pub(crate) fn wait(&self) -> Result {
        let _no_io = NoIo::new();
        self.reserve.add().map_err(|_| Error::NoMemory)
    }
}

fn page<T>(pages: &MapPageList<T>, page: u32) -> Option<&T> {
    pages.get(u32_as_usize(page))?.get()
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

    fn grow(&self, pages: Pages, n: u32) -> Result {
        match pages {
            Pages::Table => self.grow_in(&self.table, n, empty_table(), |s| s.table.pop()),
            Pages::Bits => self.grow_in(&self.bits, n, empty_bits(), |s| s.bits.pop()),
            Pages::Owners => self.grow_in(&self.owners, n, empty_table(), |s| s.table.pop()),
        }
    }

    // The caller passes a constant, so the compiler removes the match.
    #[inline(always)]
    fn marks(&self, marks: Marks) -> &[AtomicU64] {
        match marks {
            Marks::Dirty => &self.dirty,
            Marks::DirtyWords => &self.dirty_words,
            Marks::Fresh => &self.fresh,
            Marks::Emptied => &self.emptied,
            Marks::Pending => &self.pending,
        }
    }
}
