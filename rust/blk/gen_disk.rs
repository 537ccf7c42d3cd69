// SPDX-License-Identifier: GPL-2.0

//! A blk-mq disk.
//!
//! C header: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h)
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    attributes::ATTRIBUTES_MAX,
    bdev::BlockDevice,
    bio_set::BioSet,
    disk_data::DiskData,
    ffi,
    file_systems::FrozenFileSystems,
    limits::Limits,
    operations::Operations,
    tag_set::TagSet, //
};
use crate::sys::{
    atomic::{
        AtomicU32,
        Ordering::Relaxed, //
    },
    bug::warn_on_once, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::c_int,
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
        Arc, //
    },
};

/// A disk in the system, with its partitions: `/dev/<name>`.
///
/// To remove the disk, call [`GenDisk::forbid_open`], which ensures that no one has it open, and
/// then drop it. After the drop has returned, no request is left, and no function of
/// [`Operations`] is called any more.
///
/// The drop waits for [`Operations::queue`], [`Operations::complete`] and [`Operations::resume`],
/// so it must not be done from any of them.
///
/// # Invariants
///
/// - `disk` was added to the system, and has not been removed. The value owns the reference of its
///   allocation.
/// - Its `queuedata` and `private_data` point to `shared`.
/// - `linked` is the number of the devices that [`GenDisk::link`] has linked in sysfs and
///   [`GenDisk::unlink`] has not unlinked.
pub(crate) struct GenDisk<D: Operations> {
    disk: NonNull<bindings::gendisk>,
    shared: KBox<DiskData<D>>,
    tags: Arc<TagSet<D>>,
    /// The function that numbers the lower devices, and how many of them are linked in sysfs.
    device: NthDevice<D>,
    linked: AtomicU32,
}

/// The limits that a disk had before [`GenDisk::set_limits`].
pub(crate) struct LimitsBefore(bindings::queue_limits);

/// A function that returns a lower device of queue data by its number, from 0. Returns `None` if
/// the queue data has no more devices.
pub(crate) type NthDevice<D> = fn(&D, usize) -> Option<&BlockDevice>;

/// The properties of a new disk, and what it needs.
pub(crate) struct NewDisk<D: Operations> {
    pub(crate) limits: Limits,
    /// Numbers the lower devices.
    pub(crate) device: NthDevice<D>,
    /// The size, in sectors.
    pub(crate) sectors: u64,
    /// The disk is read-only before the kernel announces it, so the partitions, the `add` uevent
    /// and every opener see it as read-only.
    pub(crate) read_only: bool,
    /// Keeps the block layer from merging bios into one request, because all bios of a request end
    /// with one status. The setting is `queue/nomerges` in sysfs, where the user can change it.
    pub(crate) no_merges: bool,
    /// The disk's requests. No other disk may use them.
    pub(crate) tags: Arc<TagSet<D>>,
    /// The set from which lower bios are allocated.
    pub(crate) bios: Arc<BioSet>,
}

/// A reference to the memory of a disk, whether the disk is still in the system or not.
///
/// # Invariants
///
/// The pointer is to a disk, and the value holds a reference to it.
pub(crate) struct GenDiskRef(NonNull<bindings::gendisk>);

// SAFETY: By the invariant the value holds a counted reference, which any thread may drop.
unsafe impl Send for GenDiskRef {}

// SAFETY: By the invariant the disk exists. The methods on a shared reference call functions of the
// block layer that take the locks that they need.
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

    /// Sends a `change` uevent for the disk with an additional variable, `NAME=value`.
    ///
    /// Must only be called while the disk is in the system.
    ///
    /// Context: process, sleeps, allocates with `GFP_KERNEL`.
    pub(crate) fn event(&self, variable: &CStr) {
        // SAFETY: By the invariant the value holds a reference, which keeps the disk's memory. The
        // string outlives the call.
        unsafe { ffi::ub_disk_event(self.0.as_ptr(), variable.as_char_ptr()) };
    }

    /// Returns the pointer to the disk, for other wrappers of C functions.
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

// SAFETY: By the invariant the disk exists. The methods on a shared reference call functions of the
// block layer that take the locks that they need, or methods of the queue data, which is `Sync`.
unsafe impl<D: Operations> Sync for GenDisk<D> {}

impl<D: Operations> GenDisk<D> {
    const FOPS: bindings::block_device_operations = bindings::block_device_operations {
        open: Some(Self::open),
        // The module cannot be unloaded while one of its disks is open.
        owner: this_module::<crate::LocalModule>().as_ptr(),
        ..pin_init::zeroed()
    };

    /// Adds a disk with this queue data.
    ///
    /// The kernel scans for partitions before this returns, so `queue_data` must be ready to handle
    /// requests. The kernel chooses the device number (`BLOCK_EXT_MAJOR`), see [`GenDisk::dev`].
    pub(crate) fn new(
        name: fmt::Arguments<'_>,
        queue_data: Arc<D>,
        new: NewDisk<D>,
    ) -> Result<Self> {
        let shared = KBox::new(DiskData::new(queue_data, new.bios), GFP_KERNEL)?;
        let data = (&raw const *shared).cast_mut();
        let mut limits = new.limits.into_raw();
        // SAFETY: By the invariant of `TagSet` the tag set is initialised. The value that this
        // function returns holds a reference to it until the disk is removed.
        let raw = from_err_ptr(unsafe {
            bindings::__blk_mq_alloc_disk(
                new.tags.as_raw(),
                &mut limits,
                data.cast(),
                static_lock_class!().as_ptr(),
            )
        })?;

        // SAFETY: The disk was allocated above, and no one else has a pointer to it yet.
        let added = unsafe {
            (*raw).fops = &Self::FOPS;
            (*raw).private_data = data.cast();
            ffi::ub_disk_setup(raw, static_lock_class!().as_ptr(), new.no_merges);
            bindings::set_capacity(raw, new.sectors);
            // The uevent of this call reaches no listener, because the disk has no name yet.
            bindings::set_disk_ro(raw, new.read_only);
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
            tags: new.tags,
            device: new.device,
            linked: AtomicU32::new(0),
        })
    }

    /// Links all lower devices in sysfs: each among the disk's `slaves`, and the disk among its
    /// `holders`. The queue data must keep the devices as long as it is the disk's queue data.
    pub(crate) fn link_all(&self) -> Result {
        let queue_data = self.shared.queue_data_counted();
        let mut n = 0;
        while let Some(dev) = (self.device)(&queue_data, n) {
            self.link(dev)?;
            n = n.saturating_add(1);
        }
        Ok(())
    }

    /// Links one more device. Until the device is unlinked, it must be open, or be a device of the
    /// queue data.
    pub(crate) fn link(&self, dev: &BlockDevice) -> Result {
        // SAFETY: By the invariant the disk is in the system. By the invariant of `BlockDevice` the
        // device is open.
        to_result(unsafe { ffi::ub_disk_link(self.disk.as_ptr(), dev.as_raw()) })?;
        self.linked.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Removes the link of a device that [`GenDisk::link`] has linked.
    pub(crate) fn unlink(&self, dev: &BlockDevice) {
        // SAFETY: By the invariant the disk is in the system. By the invariant of `BlockDevice` the
        // device is open. If it was not linked, the kernel warns and does nothing.
        unsafe { ffi::ub_disk_unlink(self.disk.as_ptr(), dev.as_raw()) };
        self.linked.fetch_sub(1, Relaxed);
    }

    /// Replaces the queue data between two requests. `prepare` returns the new queue data. If it
    /// fails, the old queue data stays. While it runs, no request is in flight, and new ones wait.
    /// Returns the old queue data. When this returns, other threads use the old queue data only
    /// through counted references. The new queue data must have all devices that are linked in
    /// sysfs.
    ///
    /// Fails with `busy` if the requests in flight do not end.
    ///
    /// Context: process, sleeps.
    pub(crate) fn replace_queue_data<E>(
        &self,
        prepare: impl FnOnce() -> core::result::Result<Arc<D>, E>,
        busy: E,
    ) -> core::result::Result<Arc<D>, E> {
        let mut memflags = 0;
        // SAFETY: By the invariant the disk is in the system. The call waits until all requests
        // have ended, or gives up.
        if unsafe { ffi::ub_disk_freeze(self.disk.as_ptr(), &mut memflags) } != 0 {
            return Err(busy);
        }
        // SAFETY: The queue is frozen, so no request is in flight. The old queue data is kept
        // below until all RCU readers have ended.
        let done = prepare().map(|new| unsafe { self.shared.replace_queue_data(new) });
        // SAFETY: The queue was frozen above, by this task, and `memflags` are from there.
        unsafe { ffi::ub_disk_unfreeze(self.disk.as_ptr(), memflags) };
        self.wait_for_callers();
        done
    }

    /// Returns a counted reference to the queue data. The reference keeps the lower devices open.
    /// So only a call that excludes the removal of the disk takes one, and all others use
    /// [`GenDisk::with_queue_data`].
    pub(crate) fn queue_data(&self) -> Arc<D> {
        self.shared.queue_data_counted()
    }

    /// Calls `f` with the queue data. After [`GenDisk::replace_queue_data`] has returned, no call
    /// uses the old queue data any more.
    ///
    /// `f` must not sleep.
    pub(crate) fn with_queue_data<R>(&self, f: impl FnOnce(&D) -> R) -> R {
        self.shared.with_queue_data(f)
    }

    /// Waits for each call that queued or resumed a request that has ended.
    fn wait_for_callers(&self) {
        // A request may have ended before the call that queued it has returned, so wait for all
        // such calls.
        // SAFETY: By the invariant of `TagSet` the tag set is initialised, and `tags` is a
        // reference to it.
        unsafe { bindings::blk_mq_wait_quiesce_done(self.tags.as_raw()) };
        // A request that continues may also have ended before the call that resumed it has
        // returned, see `Request::resume`.
        rcu::synchronize_rcu();
    }

    /// Sets the limits of the disk, and returns the old ones. The settings that a user made in
    /// sysfs stay, and so does `BLK_FEAT_NOWAIT`. The logical block size must not change, because
    /// openers rely on it. If the call fails, the limits are unchanged.
    ///
    /// Context: process, sleeps. Waits until all requests have ended. Returns [`EBUSY`] if they
    /// have not after 30 s.
    pub(crate) fn set_limits(&self, limits: Limits) -> Result<LimitsBefore> {
        let limits = limits.into_raw();
        let mut before = pin_init::zeroed();
        // SAFETY: By the invariant the disk is in the system. Both limits outlive the call.
        to_result(unsafe { ffi::ub_disk_set_limits(self.disk.as_ptr(), &limits, &mut before) })?;
        Ok(LimitsBefore(before))
    }

    /// Sets the limits that the disk had before.
    ///
    /// Context: process, sleeps. Waits as [`GenDisk::set_limits`] does.
    pub(crate) fn restore_limits(&self, before: &LimitsBefore) -> Result {
        // SAFETY: By the invariant the disk is in the system. The limits outlive the call.
        to_result(unsafe { ffi::ub_disk_restore_limits(self.disk.as_ptr(), &before.0) })
    }

    /// Returns the smallest unit of I/O, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: By the invariant the disk is in the system.
        unsafe { ffi::ub_disk_logical_block_size(self.disk.as_ptr()) }
    }

    /// Freezes the file systems on the disk and its partitions, until the result is dropped. They
    /// are clean on the disk then.
    ///
    /// Context: process, sleeps. The caller must hold no lock that a file system may need.
    pub(crate) fn freeze_file_systems(&self) -> Result<FrozenFileSystems> {
        FrozenFileSystems::new(self.reference())
    }

    /// Returns a reference to the disk's memory that may outlive this value.
    pub(crate) fn reference(&self) -> GenDiskRef {
        // SAFETY: By the invariant the disk was added and not removed, so its memory exists.
        unsafe { ffi::ub_disk_get(self.disk.as_ptr()) };
        // INVARIANT: The call above took the reference.
        GenDiskRef(self.disk)
    }

    /// Opens a disk, unless that is forbidden.
    ///
    /// # Safety
    ///
    /// Must only be called for a live disk of a `GenDisk<D>`, under its `open_mutex`.
    unsafe extern "C" fn open(disk: *mut bindings::gendisk, _mode: bindings::blk_mode_t) -> c_int {
        // SAFETY: `GenDisk::new` set `private_data`. A live disk has not passed `del_gendisk()`, so
        // `shared` still exists.
        let shared = unsafe { &*(*disk).private_data.cast_const().cast::<DiskData<D>>() };

        // SAFETY: By the contract of this function `open_mutex` is held, and `open_forbidden` is
        // only accessed under it.
        if unsafe { *shared.open_forbidden.get() } {
            ENXIO.to_errno()
        } else {
            0
        }
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
            bindings::device_add_disk(ptr::null_mut(), raw, groups)
        })
    }

    /// Prepares the removal of the disk: it cannot be opened afterwards.
    ///
    /// Returns `EBUSY` if the disk is open, or if opens of it are forbidden already.
    pub(crate) fn forbid_open(&self) -> Result {
        let forbidden = self.shared.open_forbidden.get();

        // SAFETY: By the invariant the disk is in the system. `open_forbidden` is only accessed
        // under the disk's `open_mutex`, which the call takes.
        to_result(unsafe { ffi::ub_disk_forbid_open(self.disk.as_ptr(), forbidden) })
    }

    /// Keeps the disk closed until the result is dropped: until then each open fails with `ENXIO`.
    /// Its page cache is empty, because the last close has dropped it. Returns `EBUSY` if the disk
    /// or a partition is open.
    ///
    /// Context: process, sleeps.
    pub(crate) fn keep_closed(&self) -> Result<ClosedDisk<'_, D>> {
        self.forbid_open()?;
        // INVARIANT: The call above has forbidden to open the disk, which was not open.
        Ok(ClosedDisk {
            disk: self,
            has_new_partitions: false,
        })
    }

    /// Returns how often the disk or a partition of it is open.
    pub(crate) fn openers(&self) -> u32 {
        // SAFETY: By the invariant the disk was added and not removed, so its memory exists.
        unsafe { ffi::ub_disk_openers(self.disk.as_ptr()) }
    }

    /// Returns the number of hardware queues, which is at most the number of CPUs.
    pub(crate) fn queues(&self) -> u32 {
        self.tags.queues()
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
        let queue_data = self.shared.queue_data_counted();
        for n in 0..self.linked.load(Relaxed) as usize {
            match (self.device)(&queue_data, n) {
                Some(dev) => self.unlink(dev),
                // The queue data must have all devices that are linked.
                None => warn_on_once!(true),
            }
        }
        drop(queue_data);
        // SAFETY: By the invariant the disk was added, and it is removed only here. The call
        // returns when all requests have ended. A process that still has the disk open finds its
        // queue dead.
        unsafe { bindings::del_gendisk(self.disk.as_ptr()) };
        // SAFETY: By the invariant the value owns the reference of the allocation, and drops it
        // only here.
        unsafe { bindings::put_disk(self.disk.as_ptr()) };
        self.wait_for_callers();
    }
}

/// A disk that is not open, and cannot be opened until this is dropped.
///
/// # Invariants
///
/// `open_forbidden` of the disk is set, and this value is the only one that may clear it.
pub(crate) struct ClosedDisk<'a, D: Operations> {
    disk: &'a GenDisk<D>,
    has_new_partitions: bool,
}

impl<D: Operations> ClosedDisk<'_, D> {
    /// Makes the drop read the partition table again, before the disk can be opened. The drop then
    /// queues requests.
    pub(crate) fn scan_partitions(&mut self) {
        self.has_new_partitions = true;
    }
}

impl<D: Operations> Drop for ClosedDisk<'_, D> {
    fn drop(&mut self) {
        let (raw, forbidden) = (self.disk.disk, self.disk.shared.open_forbidden.get());

        // SAFETY: By the invariant of `GenDisk` the disk is in the system as long as `self.disk`
        // exists. `open_forbidden` is only accessed under the disk's `open_mutex`, which the call
        // takes.
        unsafe { ffi::ub_disk_permit_open(raw.as_ptr(), forbidden, self.has_new_partitions) };
    }
}

/// The attributes of a disk in the form that the C side takes.
struct Groups<D: Operations>(PhantomData<fn(D)>);

impl<D: Operations> Groups<D> {
    const FILES: &'static [*const bindings::attribute; ATTRIBUTES_MAX + 1] = &{
        let list = D::ATTRIBUTES.list;
        let mut files = [ptr::null(); ATTRIBUTES_MAX + 1];
        let mut n = 0;
        // The last entry stays null. A longer list does not compile.
        assert!(list.len() <= ATTRIBUTES_MAX);
        while n < list.len() {
            files[n] = list[n].as_raw();
            n += 1;
        }
        files
    };

    const GROUP: &'static bindings::attribute_group = &{
        let mut group: bindings::attribute_group = pin_init::zeroed();
        group.name = D::ATTRIBUTES.directory.to_bytes_with_nul().as_ptr();
        group.__bindgen_anon_2.attrs_const = Self::FILES.as_ptr();
        group
    };

    /// The list of groups, terminated by null.
    const LIST: &'static [*const bindings::attribute_group; 2] =
        &[ptr::from_ref(Self::GROUP), ptr::null()];
}
