// SPDX-License-Identifier: GPL-2.0

//! A block device below: open, ask, and synchronous I/O on it.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::ffi;
use core::{
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fmt,
    module::this_module,
    prelude::*,
    str::CStrExt, //
};

/// What a write is ordered against.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Nothing.
    Plain,
    /// It is durable itself when it completes.
    Fua,
    /// All that completed before is durable before it is written, and it is itself when it
    /// completes.
    FlushFua,
}

/// An open block device.
///
/// Writes from here pass the page cache of the device by. A device opened exclusively has its page
/// cache written back and dropped when it is opened, and dropped when it is closed, so that tools
/// see what is there.
///
/// # Invariants
///
/// - `file` is an open file of the block device `bdev`, which stays there as long as `file`.
/// - `holder`, if there is one, is the address by which the device is held exclusively.
pub(crate) struct BlockDevice {
    file: NonNull<bindings::file>,
    bdev: NonNull<bindings::block_device>,
    holder: Option<KBox<u8>>,
    /// Whether it was opened for writing.
    writable: bool,
}

// SAFETY: An open block device is not tied to the thread that opened it.
unsafe impl Send for BlockDevice {}

// SAFETY: All methods on a shared reference may run at the same time.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens a device for reading, shared with all others that open it so: `EBUSY` if anyone else
    /// holds it, as a mount does, and nobody else can from now on.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_shared(path: &CStr) -> Result<Self> {
        // SAFETY: `path` is a string that outlives the call.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_open_shared(path.as_char_ptr()) })?;

        // SAFETY: Just opened.
        unsafe { Self::from_file(file, None) }
    }

    /// Opens a device for a look at it, whoever holds it.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_plain(path: &CStr) -> Result<Self> {
        // SAFETY: `path` is a string that outlives the call.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_open_plain(path.as_char_ptr()) })?;

        // SAFETY: Just opened.
        unsafe { Self::from_file(file, None) }
    }

    /// Opens a device for reading and, if `write`, writing. `EBUSY` if anyone holds it: a mount, a
    /// swap area, another stacked device, or one of ours.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_exclusive(path: &CStr, write: bool) -> Result<Self> {
        // What holds a device is an address. This one is of nobody else as long as we have it.
        let holder = KBox::new(0u8, GFP_KERNEL)?;
        let by = ptr::from_ref(&*holder).cast_mut().cast();
        let path = path.as_char_ptr();
        // SAFETY: `path` is a string that outlives the call; `by` is only compared.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_open_exclusive(path, by, write) })?;

        // SAFETY: Just opened, held by `holder`.
        let mut dev = unsafe { Self::from_file(file, Some(holder))? };
        dev.writable = write;
        dev.drop_cache();
        Ok(dev)
    }

    /// # Safety
    ///
    /// `file` must be the open file of a block device, to be given up to the new value, held by
    /// the address of `holder` if that is there.
    unsafe fn from_file(file: *mut bindings::file, holder: Option<KBox<u8>>) -> Result<Self> {
        // SAFETY: It is a file of a block device, as promised.
        let bdev = unsafe { bindings::file_bdev(file) };
        let dev = Self {
            // INVARIANT: Promised by the caller; `bdev` is what the file is of.
            // SAFETY: An open file is not null, nor is the device of one.
            file: unsafe { NonNull::new_unchecked(file) },
            // SAFETY: As above.
            bdev: unsafe { NonNull::new_unchecked(bdev) },
            holder,
            writable: false,
        };

        // What somebody wrote through the page cache is to be seen below it.
        // SAFETY: The device is open.
        to_result(unsafe { bindings::sync_blockdev(dev.as_raw()) })?;
        Ok(dev)
    }

    pub(super) fn as_raw(&self) -> *mut bindings::block_device {
        self.bdev.as_ptr()
    }

    /// Its size, in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: By the invariant the device is open. A resize may change it meanwhile.
        unsafe { (&raw const (*self.as_raw()).bd_nr_sectors).read_volatile() }
    }

    /// Its smallest unit of I/O, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: By the invariant the device is open. Its driver may change it meanwhile.
        unsafe { ffi::ub_bdev_logical_block_size(self.as_raw()) }
    }

    /// Whether requests can be sent to it by [`Way::Requests`](super::Way).
    pub(crate) fn takes_clones(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        unsafe { ffi::ub_bdev_takes_clones(self.as_raw()) }
    }

    /// Whether its driver may sleep where it takes a request. For those with
    /// [`BlockDevice::takes_clones`].
    pub(crate) fn may_sleep(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        self.takes_clones() && unsafe { ffi::ub_bdev_may_sleep(self.as_raw()) }
    }

    /// Whether it has a volatile cache, so that what was written needs a flush. Any context.
    pub(crate) fn has_cache(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        unsafe { ffi::ub_bdev_has_cache(self.as_raw()) }
    }

    /// Whether a single write can be durable when it ends. Any context.
    pub(crate) fn has_fua(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        !self.has_cache() || unsafe { ffi::ub_bdev_has_fua(self.as_raw()) }
    }

    /// Whether it is zoned.
    pub(super) fn is_zoned(&self) -> bool {
        // SAFETY: By the invariant the device is open. Its driver may change it meanwhile.
        unsafe { ffi::ub_bdev_features(self.as_raw()) & ffi::BLK_FEAT_ZONED != 0 }
    }

    /// Whether both share sectors: one device twice, or a disk and a partition of it.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let place = |dev: &Self| {
            let raw = dev.as_raw();
            // SAFETY: By the invariant the device is open; these do not change while it is.
            let (disk, start) = unsafe { ((*raw).bd_disk, (*raw).bd_start_sect) };
            (disk, start, start.saturating_add(dev.sectors()))
        };
        let (disk, start, end) = place(self);
        let (other_disk, other_start, other_end) = place(other);
        disk == other_disk && start < other_end && other_start < end
    }

    /// Whether it is a disk of this very module.
    pub(crate) fn is_own(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        let owner = unsafe { ffi::ub_bdev_owner(self.as_raw()) };
        owner == this_module::<crate::LocalModule>().as_ptr()
    }

    /// Whether it refuses writes.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: By the invariant the device is open.
        unsafe { ffi::ub_bdev_read_only(self.as_raw()) }
    }

    /// Reads into the bytes `at` of `buf` and waits for it. Allocates nothing.
    ///
    /// The stretch of the device and that of the buffer must be made of logical blocks.
    ///
    /// Context: process, sleeps. Not from [`Driver::queue`](super::Driver::queue).
    pub(crate) fn read(&self, sector: u64, buf: &mut IoBuffer, at: Range<usize>) -> Result {
        let len = self.check(sector, &at)?;
        let bytes = buf.as_mut_slice().get_mut(at).ok_or(EINVAL)?;
        let opf = bindings::req_op_REQ_OP_READ | ffi::REQ_SYNC | ffi::REQ_META;

        // SAFETY: The device is open; `bytes` are ours to write for the call, and by the invariant
        // of `IoBuffer` they lie in one physical stretch.
        to_result(unsafe {
            ffi::ub_bdev_rw(self.as_raw(), sector, bytes.as_mut_ptr().cast(), len, opf)
        })
    }

    /// Writes the bytes `at` of `buf` and waits for it. Allocates nothing.
    ///
    /// The stretch of the device and that of the buffer must be made of logical blocks.
    ///
    /// Context: process, sleeps. Not from [`Driver::queue`](super::Driver::queue).
    pub(crate) fn write(
        &self,
        sector: u64,
        buf: &IoBuffer,
        at: Range<usize>,
        order: Order,
    ) -> Result {
        let len = self.check(sector, &at)?;
        let bytes = buf.as_slice().get(at).ok_or(EINVAL)?;
        let order = self.flushed(order)?;
        let opf = bindings::req_op_REQ_OP_WRITE
            | ffi::REQ_SYNC
            | ffi::REQ_META
            | match order {
                Order::Plain => 0,
                Order::Fua => ffi::REQ_FUA,
                Order::FlushFua => ffi::REQ_FUA | ffi::REQ_PREFLUSH,
            };

        if !self.writable {
            return Err(EBADF);
        }
        // SAFETY: The device is open; `bytes` do not change for the call, a write only reads them,
        // and by the invariant of `IoBuffer` they lie in one physical stretch.
        to_result(unsafe {
            let bytes = bytes.as_ptr().cast_mut();
            ffi::ub_bdev_rw(self.as_raw(), sector, bytes.cast(), len, opf)
        })
    }

    /// What is left of an order once the flush that a driver could lose was sent on its own.
    ///
    /// Device mapper sends the flush before a write first and then the write, whatever has become of
    /// the flush (`__dm_io_complete()`, at `requeue_flush_with_data`). A driver that takes requests
    /// has the block layer do it, which does not forget.
    fn flushed(&self, order: Order) -> Result<Order> {
        // SAFETY: By the invariant the device is open.
        if order != Order::FlushFua || unsafe { ffi::ub_bdev_takes_requests(self.as_raw()) } {
            return Ok(order);
        }
        self.flush()?;
        Ok(Order::Fua)
    }

    /// Makes all writes that completed before durable, and waits for it. Allocates nothing.
    ///
    /// Context: process, sleeps. Not from [`Driver::queue`](super::Driver::queue).
    pub(crate) fn flush(&self) -> Result {
        // SAFETY: By the invariant the device is open.
        to_result(unsafe { ffi::ub_bdev_flush(self.as_raw()) })
    }

    /// Tells the device that the content of a stretch is of no use any more, if it wants to know.
    ///
    /// Context: process, sleeps. Not from [`Driver::queue`](super::Driver::queue).
    pub(crate) fn discard(&self, sector: u64, sectors: u64) -> Result {
        // SAFETY: By the invariant the device is open; the block layer checks the range.
        to_result(unsafe { ffi::ub_bdev_discard(self.as_raw(), sector, sectors) })
    }

    /// Zeroes a stretch, and waits for it. With `keep` the device keeps space for it.
    ///
    /// Context: process, sleeps. Not from [`Driver::queue`](super::Driver::queue).
    pub(crate) fn zero(&self, sector: u64, sectors: u64, keep: bool) -> Result {
        if !self.writable {
            return Err(EBADF);
        }
        // SAFETY: By the invariant the device is open; the block layer checks the range.
        to_result(unsafe { ffi::ub_bdev_zero(self.as_raw(), sector, sectors, keep) })
    }

    /// The length of the I/O, if it is made of logical blocks and lies within the device.
    fn check(&self, sector: u64, at: &Range<usize>) -> Result<u32> {
        let block = self.logical_block_size();
        let len = at.end.checked_sub(at.start).ok_or(EINVAL)?;
        let len = u32::try_from(len)?;
        let sectors = u64::from(len >> ffi::SECTOR_SHIFT);
        let blocks = u64::from(block >> ffi::SECTOR_SHIFT);
        // A power of two, so that the lowest bits tell.
        let odd = (len | (at.start & 0xffff_ffff) as u32) & (block - 1) != 0
            || sector & (blocks - 1) != 0;

        if len == 0 || odd {
            return Err(EINVAL);
        }
        match sector.checked_add(sectors) {
            Some(end) if end <= self.sectors() => Ok(len),
            _ => Err(EINVAL),
        }
    }

    fn drop_cache(&self) {
        // SAFETY: By the invariant the device is open. Dirty pages stay.
        unsafe { bindings::invalidate_bdev(self.as_raw()) };
    }
}

/// As the kernel writes it: the name under `/dev`, of a partition too.
impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0u8; 40];
        // SAFETY: The device is open; `name` takes the length given, with the null byte.
        let len = unsafe { ffi::ub_bdev_name(self.as_raw(), name.as_mut_ptr().cast(), name.len()) };
        let name = usize::try_from(len).ok().and_then(|len| name.get(..len));

        match name.map(core::str::from_utf8) {
            Some(Ok(name)) => f.write_str(name),
            _ => f.write_str("?"),
        }
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        if self.holder.is_some() {
            self.drop_cache();
        }
        // SAFETY: By the invariant the file is open, and nobody uses it after this. The claim is
        // given back before this returns, so the holder's address may be used again.
        unsafe { bindings::bdev_fput(self.file.as_ptr()) };
    }
}

#[derive(Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

const PAGE: usize = 4096;

/// Memory for synchronous I/O: zeroed at first, aligned to 4 KiB, at most some MiB.
///
/// # Invariants
///
/// The memory is physically contiguous: it came from `kmalloc()`.
pub(crate) struct IoBuffer(KVec<Page>);

impl IoBuffer {
    /// A buffer of `len` bytes, rounded up to whole pages of 4 KiB.
    pub(crate) fn new(len: usize) -> Result<Self> {
        // INVARIANT: `KVec` allocates with `kmalloc()`.
        Ok(Self(KVec::zeroed(len.div_ceil(PAGE), GFP_KERNEL)?))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        size_of_val(self.0.as_slice())
    }

    /// Its bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: A `Page` is its bytes and nothing else.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.len()) }
    }

    /// Its bytes.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len();

        // SAFETY: A `Page` is its bytes and nothing else, and any byte will do.
        unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}
