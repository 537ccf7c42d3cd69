// SPDX-License-Identifier: GPL-2.0

//! A disk of blk-mq that a driver serves.
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
        Request,
        Status, //
    },
    tags::Tags, //
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

/// What serves the requests of a disk.
pub(crate) trait Driver: Send + Sync + Sized + 'static {
    /// What sysfs shows of the driver's disks.
    const ATTRIBUTES: Attributes<Self>;

    /// A request has arrived and was started. With an error it is as it was and comes again soon:
    /// the driver would have to wait.
    ///
    /// Context: process. Must not wait: the task may hold requests of any disk in its plug, and bios
    /// of its own are held back until it returns. May sleep only if a device below may.
    fn queue(
        this: ArcBorrow<'_, Self>,
        rq: Request<Self>,
    ) -> core::result::Result<(), Request<Self>>;

    /// All lower I/O of a request that was submitted has ended; `status` is the first error.
    ///
    /// Context: any, also hard interrupts; must not sleep. A reference made from `this` may be
    /// queued as work; whoever takes the disk away keeps another until that work is done.
    fn complete(this: ArcBorrow<'_, Self>, rq: Request<Self>, status: Status);
}

/// What the requests of a disk share: `request_queue::queuedata` and `gendisk::private_data`.
///
/// `driver` is what each request reads; it stands first, away from what is written.
#[repr(C)]
pub(super) struct Shared<D: Driver> {
    pub(super) driver: Arc<D>,
    tags: Arc<Tags<D>>,
    /// Where the lower bios come from.
    _bios: Arc<Bios>,
    /// Whether the disk is about to go: no opener any more. Under `gendisk::open_mutex`.
    claimed: UnsafeCell<bool>,
}

impl<D: Driver> Shared<D> {
    /// What the disk of `rq` shares.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `Disk<D>`.
    pub(super) unsafe fn of(rq: *mut bindings::request) -> *const Self {
        // SAFETY: `Disk::new` set `queuedata` before there was a request.
        unsafe { (*(*rq).q).queuedata }.cast_const().cast()
    }

    pub(super) fn driver(&self) -> ArcBorrow<'_, D> {
        self.driver.as_arc_borrow()
    }
}

/// A disk in the system, with its partitions: `/dev/<name>`.
///
/// To take it away: [`Disk::claim`], which makes sure that nobody has it open, then drop it. Once
/// the drop has returned, no request is left, and the driver is called no more.
///
/// Never drop it from [`Driver::queue`] or [`Driver::complete`]: it waits for them.
///
/// # Invariants
///
/// - `disk` was added to the system, and is there.
/// - Its `queuedata` and `private_data` point to `shared`.
pub(crate) struct Disk<D: Driver> {
    disk: NonNull<bindings::gendisk>,
    shared: KBox<Shared<D>>,
    /// The devices below, as far as sysfs shows them.
    linked: KVec<Below<D>>,
}

/// How a device below a disk is found in its driver.
pub(crate) type Below<D> = fn(&D) -> &BlockDevice;

/// A disk's place in memory, whether it is still in the system or not.
///
/// # Invariants
///
/// The pointer is to a disk of which a reference is held.
pub(crate) struct DiskRef(NonNull<bindings::gendisk>);

// SAFETY: A reference is not tied to a thread.
unsafe impl Send for DiskRef {}

// SAFETY: All methods on a shared reference may run at the same time.
unsafe impl Sync for DiskRef {}

impl DiskRef {
    /// Lets the system know that the disk is, or is not, read-only (`ro` in sysfs, and an event).
    /// Writes under way still come: it is for the driver to refuse them.
    ///
    /// Context: process, sleeps.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        // SAFETY: By the invariant the disk's memory is there.
        unsafe { bindings::set_disk_ro(self.0.as_ptr(), read_only) };
    }
}

impl DiskRef {
    /// Sends a `change` event for the disk with one more variable, `NAME=value`. Only while the
    /// disk is in the system.
    ///
    /// Context: process, sleeps, allocates with all means.
    pub(crate) fn event(&self, variable: &CStr) {
        // SAFETY: By the invariant the disk's memory is there; the string outlives the call.
        unsafe { ffi::ub_disk_event(self.0.as_ptr(), variable.as_char_ptr()) };
    }

    pub(super) fn as_raw(&self) -> *mut bindings::gendisk {
        self.0.as_ptr()
    }
}

impl Drop for DiskRef {
    fn drop(&mut self) {
        // SAFETY: By the invariant the reference is ours.
        unsafe { bindings::put_disk(self.0.as_ptr()) };
    }
}

// SAFETY: A disk is not tied to the thread that made it, and a `Driver` is `Send` and `Sync`.
unsafe impl<D: Driver> Send for Disk<D> {}

// SAFETY: All methods on a shared reference may run at the same time.
unsafe impl<D: Driver> Sync for Disk<D> {}

impl<D: Driver> Disk<D> {
    /// Adds a disk of `sectors`, served by `driver`. The tags are this disk's alone.
    ///
    /// A `read_only` disk is read-only before the kernel announces it: the partitions, the `add`
    /// event and every opener find it so.
    ///
    /// The kernel looks for partitions before this returns: `driver` must be ready to serve. The
    /// numbers are the kernel's choice (`BLOCK_EXT_MAJOR`), see [`Disk::dev`].
    pub(crate) fn new(
        name: fmt::Arguments<'_>,
        driver: Arc<D>,
        limits: Limits,
        (sectors, read_only): (u64, bool),
        (tags, bios): (Arc<Tags<D>>, Arc<Bios>),
    ) -> Result<Self> {
        let shared = KBox::new(
            Shared {
                driver,
                tags,
                _bios: bios,
                claimed: UnsafeCell::new(false),
            },
            GFP_KERNEL,
        )?;
        let data = (&raw const *shared).cast_mut();
        let mut limits = limits.into_raw();
        // SAFETY: The tag set is initialised, and outlives the disk in `shared`.
        let raw = from_err_ptr(unsafe {
            bindings::__blk_mq_alloc_disk(
                shared.tags.as_raw(),
                &mut limits,
                data.cast(),
                static_lock_class!().as_ptr(),
            )
        })?;

        // SAFETY: The disk is allocated, and nobody else knows it yet.
        let added = unsafe {
            (*raw).fops = &Operations::<D>::DISK;
            (*raw).private_data = data.cast();
            ffi::ub_disk_setup(raw, static_lock_class!().as_ptr());
            bindings::set_capacity(raw, sectors);
            // The event of this call reaches no listener: the disk has no name yet.
            bindings::set_disk_ro(raw, read_only);
            Self::add(raw, name)
        };
        if let Err(e) = added {
            // SAFETY: The disk was allocated and not added: this is how it goes.
            unsafe { bindings::put_disk(raw) };
            return Err(e);
        }
        // INVARIANT: Added just now, with both pointers set.
        Ok(Self {
            // SAFETY: Checked by `from_err_ptr`; the allocation never returns null.
            disk: unsafe { NonNull::new_unchecked(raw) },
            shared,
            linked: KVec::new(),
        })
    }

    /// Shows a device below in sysfs: among the disk's `slaves`, and the disk among its `holders`.
    /// The driver must hold the device open as long as it lives.
    pub(crate) fn link(&mut self, below: Below<D>) -> Result {
        self.linked.reserve(1, GFP_KERNEL)?;
        let dev = below(&self.shared.driver);
        // SAFETY: By the invariant the disk is there; the device is open, and held.
        to_result(unsafe { ffi::ub_disk_link(self.disk.as_ptr(), dev.as_raw()) })?;
        self.linked.push_within_capacity(below).map_err(|_| ENOMEM)
    }

    /// A reference to the disk that may outlive it.
    pub(crate) fn reference(&self) -> DiskRef {
        // SAFETY: By the invariant the disk is there.
        unsafe { ffi::ub_disk_get(self.disk.as_ptr()) };
        // INVARIANT: Taken just now.
        DiskRef(self.disk)
    }

    /// Names the disk and adds it to the system.
    ///
    /// # Safety
    ///
    /// `raw` must be allocated and set up, and not yet added.
    unsafe fn add(raw: *mut bindings::gendisk, name: fmt::Arguments<'_>) -> Result {
        // SAFETY: As nobody else knows the disk, its name is ours to write.
        let field = unsafe { &mut (*raw).disk_name };
        let mut writer = NullTerminatedFormatter::new(field).ok_or(EINVAL)?;
        writer.write_fmt(name).map_err(|_| ENAMETOOLONG)?;
        // SAFETY: The disk is set up.
        to_result(unsafe {
            // What the list points to is only read.
            let groups = Groups::<D>::LIST.as_ptr().cast_mut();
            bindings::device_add_disk(core::ptr::null_mut(), raw, groups)
        })
    }

    /// Claims the disk for its removal: from now on nobody can open it.
    ///
    /// `EBUSY` if it is open, or was claimed before. There is no way back but to drop it.
    pub(crate) fn claim(&self) -> Result {
        let claimed = self.shared.claimed.get();

        // SAFETY: By the invariant the disk is there; `claimed` is accessed under its mutex only.
        to_result(unsafe { ffi::ub_disk_claim(self.disk.as_ptr(), claimed) })
    }

    /// How often the disk or a partition of it is open.
    pub(crate) fn openers(&self) -> u32 {
        // SAFETY: By the invariant the disk is there.
        unsafe { ffi::ub_disk_openers(self.disk.as_ptr()) }
    }

    /// How many hardware queues it got: not more than there are CPUs.
    pub(crate) fn queues(&self) -> u32 {
        self.shared.tags.queues()
    }

    /// Its number: major and minor.
    pub(crate) fn dev(&self) -> (u32, u32) {
        // SAFETY: By the invariant the disk is there; its number does not change.
        let dev = unsafe { (*(*self.disk.as_ptr()).part0).bd_dev };

        (dev >> ffi::MINORBITS, dev & ((1 << ffi::MINORBITS) - 1))
    }
}

impl<D: Driver> Drop for Disk<D> {
    fn drop(&mut self) {
        for below in &self.linked {
            let dev = below(&self.shared.driver);
            // SAFETY: By the invariant the disk is there; the device was linked.
            unsafe { ffi::ub_disk_unlink(self.disk.as_ptr(), dev.as_raw()) };
        }
        // SAFETY: By the invariant the disk was added, and this happens once. It returns when all
        // requests have ended; whoever still has the disk open finds its queue dead.
        unsafe { bindings::del_gendisk(self.disk.as_ptr()) };
        // SAFETY: The reference of the allocation is ours.
        unsafe { bindings::put_disk(self.disk.as_ptr()) };
        // A request may have ended before the call that queued it returned: wait for the calls.
        // SAFETY: The tag set is initialised.
        unsafe { bindings::blk_mq_wait_quiesce_done(self.shared.tags.as_raw()) };
        // And before the call that completed it returned, see `Request::complete`.
        rcu::synchronize_rcu();
    }
}

/// The operations of a driver's disks, as C calls them.
pub(super) struct Operations<D: Driver>(PhantomData<D>);

impl<D: Driver> Operations<D> {
    pub(super) const TABLE: bindings::blk_mq_ops = bindings::blk_mq_ops {
        queue_rq: Some(Self::queue_rq),
        queue_rqs: Some(Self::queue_rqs),
        init_hctx: Some(Self::init_hctx),
        init_request: Some(Self::init_request),
        ..pin_init::zeroed()
    };

    const DISK: bindings::block_device_operations = bindings::block_device_operations {
        open: Some(Self::open),
        // Nobody unloads the module while a disk of it is open.
        owner: this_module::<crate::LocalModule>().as_ptr(),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by blk-mq for a queue of a `Disk<D>`; `bd` holds a request that is the driver's from
    /// now on.
    unsafe extern "C" fn queue_rq(
        _hctx: *mut bindings::blk_mq_hw_ctx,
        bd: *const bindings::blk_mq_queue_data,
    ) -> bindings::blk_status_t {
        // SAFETY: blk-mq hands in valid pointers; the request is the driver's, or blk-mq's again.
        if unsafe { Self::start((*bd).rq) } {
            // CAST: 0.
            bindings::BLK_STS_OK as bindings::blk_status_t
        } else {
            ffi::BLK_STS_RESOURCE
        }
    }

    /// The requests that a task has held back in its plug. Those that stay on the list come by
    /// `queue_rq`.
    ///
    /// # Safety
    ///
    /// Called by blk-mq with a list of requests for queues of `Disk<D>`s, which are the driver's
    /// from now on.
    unsafe extern "C" fn queue_rqs(list: *mut bindings::rq_list) {
        // SAFETY: blk-mq hands in a valid list, which is ours to change.
        let bindings::rq_list { mut head, tail } = unsafe { core::mem::take(&mut *list) };

        while !head.is_null() {
            let rq = head;
            // SAFETY: The request is on a list that is ours, so it is there, and so is its link; it
            // is off the list before somebody else gets it.
            let taken = unsafe {
                head =
                    core::mem::replace(&mut (*rq).__bindgen_anon_1.rq_next, core::ptr::null_mut());
                Self::start(rq)
            };
            if !taken {
                // It was started, so it cannot stay on the list.
                // SAFETY: It is ours, and as it was.
                unsafe { bindings::blk_mq_requeue_request(rq, true) };
                break;
            }
        }
        if !head.is_null() {
            // SAFETY: As above. The rest of the list is as it was.
            unsafe { *list = bindings::rq_list { head, tail } };
        }
    }

    /// Hands a request to the driver. `false` if it is the caller's again, started.
    ///
    /// # Safety
    ///
    /// `rq` must be a request of a `Disk<D>`, not started, that is the driver's from now on, and
    /// the caller one that `Disk::drop` waits for.
    unsafe fn start(rq: *mut bindings::request) -> bool {
        // SAFETY: `queuedata` was set by `Disk::new`, and `Disk::drop` waits for the caller before
        // it lets go of it. The request is ours; `init_request` made its `Pdu`.
        let (rq, shared) = unsafe {
            // As it comes again it keeps what it carries; nor may it be merged with then.
            if (*rq).rq_flags & ffi::RQF_DONTPREP == 0 {
                (*rq).rq_flags |= ffi::RQF_DONTPREP;
                (*Pdu::of(rq)).renew();
            }
            bindings::blk_mq_start_request(rq);
            (Request::from_raw(rq), &*Shared::<D>::of(rq))
        };

        match D::queue(shared.driver(), rq) {
            Ok(()) => true,
            Err(rq) => {
                let _ = rq.into_raw();
                false
            }
        }
    }

    /// # Safety
    ///
    /// Called by blk-mq for each new hardware queue of the disk.
    unsafe extern "C" fn init_hctx(
        hctx: *mut bindings::blk_mq_hw_ctx,
        _data: *mut c_void,
        _hctx_idx: c_uint,
    ) -> c_int {
        // A flush below may end ours while the flush machinery below holds its lock: ours is of
        // another class, or lockdep would take the two for one.
        // SAFETY: The queue is there and not in use yet; the key is static.
        unsafe {
            bindings::blk_mq_hctx_set_fq_lock_class(hctx, static_lock_class!().as_ptr());
        }
        0
    }

    /// # Safety
    ///
    /// Called by blk-mq for each new request of the tag set, also for those that flush.
    unsafe extern "C" fn init_request(
        _set: *mut bindings::blk_mq_tag_set,
        rq: *mut bindings::request,
        _hctx_idx: c_uint,
        _node: c_int,
    ) -> c_int {
        // SAFETY: `cmd_size` is that of `Pdu`, and the request is not in use yet.
        unsafe { Pdu::of(rq).write(Pdu::new()) };
        0
    }

    /// # Safety
    ///
    /// Called for a live disk of a `Disk<D>`, under its `open_mutex`.
    unsafe extern "C" fn open(disk: *mut bindings::gendisk, _mode: bindings::blk_mode_t) -> c_int {
        // SAFETY: `private_data` was set by `Disk::new`, and a disk that is live has not passed
        // `del_gendisk()`, so `shared` is there.
        let shared = unsafe { &*(*disk).private_data.cast_const().cast::<Shared<D>>() };

        // SAFETY: `open_mutex` is held.
        if unsafe { *shared.claimed.get() } {
            ENXIO.to_errno()
        } else {
            0
        }
    }
}
