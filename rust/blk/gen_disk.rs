// SPDX-License-Identifier: GPL-2.0

//! A blk-mq disk that a driver serves.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    attributes::{
        Attributes,
        Groups, //
    },
    bdev::BlockDevice,
    bios::Bios,
    ffi,
    limits::Limits,
    pdu::Pdu,
    request::{
        BlkStatus, //
        Request,
    },
    tag_set::TagSet, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    fmt::{
        self,
        Write, //
    },
    module::this_module,
    prelude::*,
    static_lock_class,
    str::{
        CStrExt,
        NullTerminatedFormatter, //
    },
    sync::{
        rcu,
        Arc,
        ArcBorrow, //
    },
};

/// A driver that handles the requests of a disk.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// The sysfs attributes of the driver's disks.
    const ATTRIBUTES: Attributes<Self>;

    /// Handles a request that has arrived and was started.
    ///
    /// Returns the request, unchanged, if the driver would have to wait. blk-mq then queues it
    /// again soon.
    ///
    /// Context: process. Must not wait, because the task may hold requests of any disk in its plug,
    /// and the task's own bios are held back until this returns. May sleep only if a lower driver
    /// may.
    fn queue(
        this: ArcBorrow<'_, Self>,
        rq: Request<Self>,
    ) -> core::result::Result<(), Request<Self>>;

    /// Handles a submitted request whose lower I/O has all ended. `status` is the first error.
    /// Returns the request and the status to end it with, or `None` if the request continues. The
    /// driver must not end it here, because this is called under RCU, and the end of an upper bio
    /// may sleep.
    ///
    /// Context: any, including hard interrupts; must not sleep. The driver may queue a reference
    /// made from `this` as work. The code that removes the disk holds another reference until that
    /// work has ended.
    fn complete(
        this: ArcBorrow<'_, Self>,
        rq: Request<Self>,
        status: BlkStatus,
    ) -> Option<(Request<Self>, BlkStatus)>;
}

/// The data that the requests of a disk share: `request_queue::queuedata` and
/// `gendisk::private_data`.
///
/// Every request reads `driver`. It is the first field, away from the field that is written.
#[repr(C)]
pub(super) struct QueueData<D: Operations> {
    pub(super) driver: Arc<D>,
    tags: Arc<TagSet<D>>,
    /// The set from which lower bios are allocated.
    _bios: Arc<Bios>,
    /// Whether the disk is claimed for its removal, so that it cannot be opened any more. Accessed
    /// under `gendisk::open_mutex`.
    claimed: UnsafeCell<bool>,
}

impl<D: Operations> QueueData<D> {
    /// Returns the shared data of the disk of `rq`.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `GenDisk<D>`.
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *const Self {
        // SAFETY: By the contract of this function `rq` is a request of a `GenDisk<D>`, and
        // `GenDisk::new` set `queuedata` before any request existed.
        unsafe { (*(*rq).q).queuedata }.cast_const().cast()
    }

    pub(super) fn driver(&self) -> ArcBorrow<'_, D> {
        self.driver.as_arc_borrow()
    }
}

/// A disk in the system, with its partitions: `/dev/<name>`.
///
/// To remove the disk, call [`GenDisk::claim`], which ensures that no one has it open, and then
/// drop it. After the drop has returned, no request is left, and the driver is not called any more.
///
/// The drop waits for [`Operations::queue`] and [`Operations::complete`], so it must not be done
/// from either.
///
/// # Invariants
///
/// - `disk` was added to the system, and has not been removed. The value owns the reference of its
///   allocation.
/// - Its `queuedata` and `private_data` point to `shared`.
pub(crate) struct GenDisk<D: Operations> {
    disk: NonNull<bindings::gendisk>,
    shared: KBox<QueueData<D>>,
    /// The lower devices that are linked in sysfs.
    linked: KVec<Below<D>>,
}

/// A function that returns a lower device of a disk from its driver.
pub(crate) type Below<D> = fn(&D) -> &BlockDevice;

/// A reference to the memory of a disk, whether the disk is still in the system or not.
///
/// # Invariants
///
/// The pointer is to a disk, and the value holds a reference to it.
pub(crate) struct GenDiskRef(NonNull<bindings::gendisk>);

// SAFETY: By the invariant the value holds a counted reference, which any thread may drop.
unsafe impl Send for GenDiskRef {}

// SAFETY: All methods on a shared reference may run at the same time.
unsafe impl Sync for GenDiskRef {}

impl GenDiskRef {
    /// Sets whether the kernel treats the disk as read-only (`ro` in sysfs, and an event).
    ///
    /// Writes that are under way still arrive. The driver must refuse them.
    ///
    /// Context: process, sleeps.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        // SAFETY: By the invariant the value holds a reference, which keeps the disk's memory.
        unsafe { bindings::set_disk_ro(self.0.as_ptr(), read_only) };
    }
}

impl GenDiskRef {
    /// Sends a `change` uevent for the disk with an additional variable, `NAME=value`.
    ///
    /// Must only be called while the disk is in the system.
    ///
    /// Context: process, sleeps, allocates with `GFP_KERNEL`.
    pub(crate) fn event(&self, variable: &CStr) {
        // SAFETY: By the invariant a reference keeps the disk's memory. The string outlives the
        // call.
        unsafe { ffi::ub_disk_event(self.0.as_ptr(), variable.as_char_ptr()) };
    }

    /// For other wrappers of C functions.
    pub(crate) fn as_raw(&self) -> *mut bindings::gendisk {
        self.0.as_ptr()
    }
}

impl Drop for GenDiskRef {
    fn drop(&mut self) {
        // SAFETY: By the invariant the value holds a reference, which is dropped here.
        unsafe { bindings::put_disk(self.0.as_ptr()) };
    }
}

// SAFETY: A disk is not tied to the thread that added it, and `Operations` requires `Send` and
// `Sync`.
unsafe impl<D: Operations> Send for GenDisk<D> {}

// SAFETY: All methods on a shared reference may run at the same time.
unsafe impl<D: Operations> Sync for GenDisk<D> {}

impl<D: Operations> GenDisk<D> {
    /// Adds a disk of `sectors`, served by `driver`. No other disk may use `tags`.
    ///
    /// A `read_only` disk is read-only before the kernel announces it, so the partitions, the `add`
    /// uevent and every opener see it as read-only.
    ///
    /// The kernel scans for partitions before this returns, so `driver` must be ready to handle
    /// requests. The kernel chooses the device number (`BLOCK_EXT_MAJOR`), see [`GenDisk::dev`].
    pub(crate) fn new(
        name: fmt::Arguments<'_>,
        driver: Arc<D>,
        limits: Limits,
        (sectors, read_only): (u64, bool),
        (tags, bios): (Arc<TagSet<D>>, Arc<Bios>),
    ) -> Result<Self> {
        let shared = KBox::new(
            QueueData {
                driver,
                tags,
                _bios: bios,
                claimed: UnsafeCell::new(false),
            },
            GFP_KERNEL,
        )?;
        let data = (&raw const *shared).cast_mut();
        let mut limits = limits.into_raw();
        // SAFETY: By the invariant of `TagSet` the tag set is initialised. `shared` holds a
        // reference to it and outlives the disk.
        let raw = from_err_ptr(unsafe {
            bindings::__blk_mq_alloc_disk(
                shared.tags.as_raw(),
                &mut limits,
                data.cast(),
                static_lock_class!().as_ptr(),
            )
        })?;

        // SAFETY: The disk was allocated above, and no one else has a pointer to it yet.
        let added = unsafe {
            (*raw).fops = &OperationsVTable::<D>::DISK;
            (*raw).private_data = data.cast();
            ffi::ub_disk_setup(raw, static_lock_class!().as_ptr());
            bindings::set_capacity(raw, sectors);
            // The uevent of this call reaches no listener, because the disk has no name yet.
            bindings::set_disk_ro(raw, read_only);
            Self::add(raw, name)
        };
        if let Err(e) = added {
            // SAFETY: The disk was allocated and not added, so this drops the only reference.
            unsafe { bindings::put_disk(raw) };
            return Err(e);
        }
        // INVARIANT: The disk was added above, with both pointers set.
        Ok(Self {
            // SAFETY: `from_err_ptr` has checked the pointer, and the allocation never returns
            // null.
            disk: unsafe { NonNull::new_unchecked(raw) },
            shared,
            linked: KVec::new(),
        })
    }

    /// Links a lower device in sysfs: the device among the disk's `slaves`, and the disk among the
    /// device's `holders`. The driver must keep the device open as long as the driver lives.
    pub(crate) fn link(&mut self, below: Below<D>) -> Result {
        self.linked.reserve(1, GFP_KERNEL)?;
        let dev = below(&self.shared.driver);
        // SAFETY: By the invariant the disk is in the system. By the invariant of `BlockDevice` the
        // device is open, and the driver keeps it open.
        to_result(unsafe { ffi::ub_disk_link(self.disk.as_ptr(), dev.as_raw()) })?;
        self.linked.push_within_capacity(below).map_err(|_| ENOMEM)
    }

    /// Keeps the block layer from merging bios into one request, because all bios of a request end
    /// with one status.
    pub(crate) fn forbid_merges(&self) {
        // SAFETY: By the invariant the disk is in the system. The call sets a bit of its queue.
        unsafe { ffi::ub_disk_forbid_merges(self.disk.as_ptr()) };
    }

    /// Returns a reference to the disk's memory that may outlive this value.
    pub(crate) fn reference(&self) -> GenDiskRef {
        // SAFETY: By the invariant the disk was added and not removed, so its memory exists.
        unsafe { ffi::ub_disk_get(self.disk.as_ptr()) };
        // INVARIANT: The call above took the reference.
        GenDiskRef(self.disk)
    }

    /// Names the disk and adds it to the system.
    ///
    /// # Safety
    ///
    /// `raw` must be allocated and set up, and not yet added.
    unsafe fn add(raw: *mut bindings::gendisk, name: fmt::Arguments<'_>) -> Result {
        // SAFETY: By the contract of this function the disk is not added yet, so no one else
        // accesses its name.
        let field = unsafe { &mut (*raw).disk_name };
        let mut writer = NullTerminatedFormatter::new(field).ok_or(EINVAL)?;
        writer.write_fmt(name).map_err(|_| ENAMETOOLONG)?;
        // SAFETY: By the contract of this function the disk is allocated, set up and not yet added.
        // `groups` is a constant list that ends with null.
        to_result(unsafe {
            // The kernel only reads the list, so the cast to a mutable pointer is sound.
            let groups = Groups::<D>::LIST.as_ptr().cast_mut();
            bindings::device_add_disk(core::ptr::null_mut(), raw, groups)
        })
    }

    /// Claims the disk for its removal. It cannot be opened afterwards.
    ///
    /// Returns `EBUSY` if the disk is open, or was claimed before. A claim cannot be undone.
    pub(crate) fn claim(&self) -> Result {
        let claimed = self.shared.claimed.get();

        // SAFETY: By the invariant the disk is in the system. `claimed` is only accessed under the
        // disk's `open_mutex`, which the call takes.
        to_result(unsafe { ffi::ub_disk_claim(self.disk.as_ptr(), claimed) })
    }

    /// Returns how often the disk or a partition of it is open.
    pub(crate) fn openers(&self) -> u32 {
        // SAFETY: By the invariant the disk was added and not removed, so its memory exists.
        unsafe { ffi::ub_disk_openers(self.disk.as_ptr()) }
    }

    /// Returns the number of hardware queues, which is at most the number of CPUs.
    pub(crate) fn queues(&self) -> u32 {
        self.shared.tags.queues()
    }

    /// Returns the device number: major and minor.
    pub(crate) fn dev(&self) -> (u32, u32) {
        // SAFETY: By the invariant the disk is in the system, and its number does not change.
        let dev = unsafe { (*(*self.disk.as_ptr()).part0).bd_dev };

        (dev >> ffi::MINORBITS, dev & ((1 << ffi::MINORBITS) - 1))
    }
}

impl<D: Operations> Drop for GenDisk<D> {
    fn drop(&mut self) {
        for below in &self.linked {
            let dev = below(&self.shared.driver);
            // SAFETY: By the invariant the disk is in the system, and `link` has linked the device.
            unsafe { ffi::ub_disk_unlink(self.disk.as_ptr(), dev.as_raw()) };
        }
        // SAFETY: By the invariant the disk was added, and it is removed only here. The call
        // returns when all requests have ended. A process that still has the disk open finds its
        // queue dead.
        unsafe { bindings::del_gendisk(self.disk.as_ptr()) };
        // SAFETY: By the invariant the value owns the reference of the allocation, and drops it
        // only here.
        unsafe { bindings::put_disk(self.disk.as_ptr()) };
        // A request may have ended before the call that queued it has returned, so wait for all
        // such calls.
        // SAFETY: By the invariant of `TagSet` the tag set is initialised, and `shared` holds a
        // reference to it.
        unsafe { bindings::blk_mq_wait_quiesce_done(self.shared.tags.as_raw()) };
        // A request may also have ended before the call that completed it has returned, see
        // `Request::complete`.
        rcu::synchronize_rcu();
    }
}

/// The C operations of a driver's disks.
pub(super) struct OperationsVTable<D: Operations>(PhantomData<D>);

impl<D: Operations> OperationsVTable<D> {
    pub(super) const TABLE: bindings::blk_mq_ops = bindings::blk_mq_ops {
        queue_rq: Some(Self::queue_rq),
        queue_rqs: Some(Self::queue_rqs),
        init_hctx: Some(Self::init_hctx),
        init_request: Some(Self::init_request),
        ..pin_init::zeroed()
    };

    const DISK: bindings::block_device_operations = bindings::block_device_operations {
        open: Some(Self::open),
        // The module cannot be unloaded while one of its disks is open.
        owner: this_module::<crate::LocalModule>().as_ptr(),
        ..pin_init::zeroed()
    };

    /// Queues one request.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq for a queue of a `GenDisk<D>`. `bd` must hold a request whose
    /// ownership passes to the driver.
    unsafe extern "C" fn queue_rq(
        _hctx: *mut bindings::blk_mq_hw_ctx,
        bd: *const bindings::blk_mq_queue_data,
    ) -> bindings::blk_status_t {
        // SAFETY: blk-mq passes valid pointers, and by the contract of this function the driver
        // owns the request. The returned status gives it back to blk-mq if `start` did not take it.
        if unsafe { Self::start((*bd).rq) } {
            // CAST: The value is 0.
            bindings::BLK_STS_OK as bindings::blk_status_t
        } else {
            ffi::BLK_STS_RESOURCE
        }
    }

    /// Queues the requests from a task's plug. blk-mq passes requests that stay on the list to
    /// `queue_rq`.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, with a list of requests for queues of `GenDisk<D>`s whose
    /// ownership passes to the driver.
    unsafe extern "C" fn queue_rqs(list: *mut bindings::rq_list) {
        // SAFETY: blk-mq passes a valid list, which this function may change.
        let bindings::rq_list { mut head, tail } = unsafe { core::mem::take(&mut *list) };

        while !head.is_null() {
            let rq = head;
            // SAFETY: We own the list, so the request and its link are valid. The request is taken
            // off the list before another owner gets it.
            let taken = unsafe {
                head =
                    core::mem::replace(&mut (*rq).__bindgen_anon_1.rq_next, core::ptr::null_mut());
                Self::start(rq)
            };
            if !taken {
                // The request was started, so it cannot stay on the list.
                // SAFETY: `start` has returned `false`, so by its contract we own the request
                // again, and it is started.
                unsafe { bindings::blk_mq_requeue_request(rq, true) };
                break;
            }
        }
        if !head.is_null() {
            // SAFETY: The list is valid, as above. `head` and `tail` are its unchanged rest.
            unsafe { *list = bindings::rq_list { head, tail } };
        }
    }

    /// Starts a request and passes it to the driver. Returns `false` if the caller owns the request
    /// again, which is then started.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `GenDisk<D>` that is not started, and the caller must pass on
    /// its ownership. `GenDisk::drop` must wait for the caller.
    unsafe fn start(rq: *mut bindings::request) -> bool {
        // SAFETY: `GenDisk::new` set `queuedata`, and `GenDisk::drop` waits for the caller before
        // it frees `QueueData`. We own the request, and `init_request` initialised its `Pdu`.
        let (rq, shared) = unsafe {
            // A request that is queued again keeps its private data. The flag also prevents merges
            // with it.
            if (*rq).rq_flags & ffi::RQF_DONTPREP == 0 {
                (*rq).rq_flags |= ffi::RQF_DONTPREP;
                (*Pdu::of(rq)).renew();
            }
            bindings::blk_mq_start_request(rq);
            (Request::from_raw(rq), &*QueueData::<D>::of(rq))
        };

        match D::queue(shared.driver(), rq) {
            Ok(()) => true,
            Err(rq) => {
                let _ = rq.into_raw();
                false
            }
        }
    }

    /// Initialises a hardware queue.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, for a new hardware queue of the disk.
    unsafe extern "C" fn init_hctx(
        hctx: *mut bindings::blk_mq_hw_ctx,
        _data: *mut c_void,
        _hctx_idx: c_uint,
    ) -> c_int {
        // A lower flush may end our flush while the lower flush machinery holds its lock. Our lock
        // therefore has a separate class, so that lockdep does not take the two for one lock.
        // SAFETY: The queue is allocated and not in use yet. The key is static.
        unsafe {
            bindings::blk_mq_hctx_set_fq_lock_class(hctx, static_lock_class!().as_ptr());
        }
        0
    }

    /// Initialises the private data of a request.
    ///
    /// # Safety
    ///
    /// Must only be called by blk-mq, for a new request of the tag set, including flush requests.
    unsafe extern "C" fn init_request(
        _set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hctx_idx: c_uint,
        _node: c_int,
    ) -> c_int {
        // SAFETY: By the invariant of `TagSet` `cmd_size` is the size of `Pdu`, and the request is
        // not in use yet.
        unsafe { Pdu::of(rq).write(Pdu::new()) };
        0
    }

    /// Opens a disk, unless it is claimed.
    ///
    /// # Safety
    ///
    /// Must only be called for a live disk of a `GenDisk<D>`, under its `open_mutex`.
    unsafe extern "C" fn open(disk: *mut bindings::gendisk, _mode: bindings::blk_mode_t) -> c_int {
        // SAFETY: `GenDisk::new` set `private_data`. A live disk has not passed `del_gendisk()`, so
        // `shared` still exists.
        let shared = unsafe { &*(*disk).private_data.cast_const().cast::<QueueData<D>>() };

        // SAFETY: By the contract of this function `open_mutex` is held, and `claimed` is only
        // accessed under it.
        if unsafe { *shared.claimed.get() } {
            ENXIO.to_errno()
        } else {
            0
        }
    }
}
