// SPDX-License-Identifier: GPL-2.0

//! A lower block device: opening, properties and synchronous I/O.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{
    claim::{
        Claim,
        ClaimKind,
        Claims,
        Place, //
    },
    ffi, //
};
use core::{
    ops::Range,
    ptr::NonNull,
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
    str::CStrExt,
    sync::Arc, //
};

#[cfg(not(MODULE))]
compile_error!("`BlockDevice::is_own` needs the owner of a module: build unionblk as a module");

/// The ordering and durability of a write.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteOrder {
    /// No ordering.
    Plain,
    /// The write is durable when it completes.
    Fua,
    /// All writes that completed before are durable before this one is written, and this one is
    /// durable when it completes.
    FlushFua,
}

/// An open block device.
///
/// I/O through this type bypasses the page cache of the device. The page cache of a device that is
/// opened exclusively is written back and dropped at open, and dropped again at close, so that
/// tools see the content of the device.
///
/// # Invariants
///
/// `file` is an open file of the block device `bdev`, which stays valid as long as `file` is open.
pub(crate) struct BlockDevice {
    bdev: NonNull<bindings::block_device>,
    /// Whether the device was opened for writing.
    writable: bool,
    file: Arc<OpenFile>,
}

/// An open file of a block device. It is closed, and its claim ends, when the last [`BlockDevice`]
/// of it is dropped.
///
/// # Invariants
///
/// - `file` is an open file of a block device.
/// - `claim`, if there is one, is on the address of that device.
struct OpenFile {
    file: NonNull<bindings::file>,
    claim: Option<Claim>,
}

// SAFETY: An open file is not tied to the thread that opened it.
unsafe impl Send for OpenFile {}

// SAFETY: The methods on a shared reference only read fields.
unsafe impl Sync for OpenFile {}

// SAFETY: An open block device is not tied to the thread that opened it.
unsafe impl Send for BlockDevice {}

// SAFETY: By the invariant the device is open as long as the value exists. The methods on a shared
// reference only read fields, or submit I/O, which any number of threads may do at the same time.
unsafe impl Sync for BlockDevice {}

impl BlockDevice {
    /// Opens a device for reading, shared with every other user that opens it by this function.
    ///
    /// Returns `EBUSY` if another holder, such as a mount, has the device, or a disk of this
    /// module has it exclusively, or writes to a device that overlaps it. No other holder can claim
    /// the device afterwards.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_shared(path: &CStr, claims: &Arc<Claims>) -> Result<Self> {
        Self::open_claimed(path, claims, ClaimKind::Shared)
    }

    /// Opens a device for reading and, if `write`, writing.
    ///
    /// Returns `EBUSY` if the device has a holder: a mount, a swap area, another stacked device, or
    /// a disk of this module. So too if a disk of this module has a device that overlaps this one,
    /// and one of both is to be written.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_exclusive(path: &CStr, claims: &Arc<Claims>, write: bool) -> Result<Self> {
        Self::open_claimed(path, claims, ClaimKind::Exclusive { write })
    }

    fn open_claimed(path: &CStr, claims: &Arc<Claims>, kind: ClaimKind) -> Result<Self> {
        let write = kind.writes();
        // SAFETY: By the invariant of `CStr` `path` ends with NUL; it outlives the call.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_open_claimed(path.as_char_ptr(), write) })?;
        // SAFETY: `file` was opened above as the file of a block device, and this function owns it
        // and gives it up.
        let mut open = unsafe { OpenFile::new(file) };
        // INVARIANT: The claim is on the address of the device.
        open.claim = Some(Claims::claim(claims, open.place(), kind)?);
        let dev = Self::new(open, write)?;
        if kind.is_exclusive() {
            dev.drop_cache();
        }
        Ok(dev)
    }

    /// Opens a device to inspect it, even if another user holds it.
    ///
    /// Context: process; the path is looked up and permissions are checked as the current task.
    pub(crate) fn open_plain(path: &CStr) -> Result<Self> {
        // SAFETY: By the invariant of `CStr` `path` ends with NUL; it outlives the call.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_open_plain(path.as_char_ptr()) })?;

        // SAFETY: `file` was opened above as the file of a block device, and this function owns it
        // and gives it up.
        let open = unsafe { OpenFile::new(file) };
        Self::new(open, false)
    }

    /// Opens the device once more for reading, shared. If this value has an exclusive claim, that
    /// claim lasts until the value is dropped. From then on others can open the device shared. No
    /// other holder can claim the device in between.
    ///
    /// Returns `EINVAL` for a device of [`BlockDevice::open_plain`].
    ///
    /// Context: process.
    pub(crate) fn again_shared(&self) -> Result<Self> {
        let claim = self.file.claim.as_ref().ok_or(EINVAL)?.share()?;
        // SAFETY: By the invariant the device is open.
        let file = from_err_ptr(unsafe { ffi::ub_bdev_again_claimed(self.as_raw()) })?;

        // SAFETY: `file` was opened above as the file of a block device, and this function owns it
        // and gives it up.
        let mut open = unsafe { OpenFile::new(file) };
        // INVARIANT: The claim is on the address of the device of `self`, which is the same one.
        open.claim = Some(claim);
        Self::new(open, false)
    }

    /// Returns the same open device once more, with the same claim.
    pub(crate) fn share(&self) -> Self {
        // INVARIANT: By the invariant of `self`, whose open file the value shares.
        Self {
            bdev: self.bdev,
            writable: self.writable,
            file: self.file.clone(),
        }
    }

    fn new(open: OpenFile, writable: bool) -> Result<Self> {
        let dev = Self {
            // INVARIANT: `bdev` is the device of `file`.
            bdev: open.bdev(),
            writable,
            // If there is no memory, this closes the file.
            file: Arc::new(open, GFP_KERNEL)?,
        };
        dev.write_cache_back()?;
        Ok(dev)
    }

    /// Writes back the page cache, so that our I/O, which bypasses it, reads that data.
    fn write_cache_back(&self) -> Result {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        to_result(unsafe { bindings::sync_blockdev(self.as_raw()) })
    }

    pub(super) fn as_raw(&self) -> *mut bindings::block_device {
        self.bdev.as_ptr()
    }

    /// Returns the size, in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: By the invariant the device is open. The read is volatile, because a resize may
        // change the size concurrently.
        unsafe { (&raw const (*self.as_raw()).bd_nr_sectors).read_volatile() }
    }

    /// Returns the smallest unit of I/O, in bytes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: By the invariant the device is open. The C side reads the value once, because the
        // driver of the device may change it concurrently.
        unsafe { ffi::ub_bdev_logical_block_size(self.as_raw()) }
    }

    /// Returns whether the device takes requests by [`SendAs::Requests`](super::SendAs).
    pub(crate) fn accepts_clones(&self) -> bool {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        unsafe { ffi::ub_bdev_accepts_clones(self.as_raw()) }
    }

    /// Returns whether the driver may sleep when it takes a request. `false` without
    /// [`BlockDevice::accepts_clones`].
    pub(crate) fn may_sleep(&self) -> bool {
        // SAFETY: By the invariant the device is open. It has a tag set, because it takes clones.
        self.accepts_clones() && unsafe { ffi::ub_bdev_may_sleep(self.as_raw()) }
    }

    /// Returns whether the device has a volatile cache, so that writes need a flush. Any context.
    pub(crate) fn has_cache(&self) -> bool {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        unsafe { ffi::ub_bdev_has_cache(self.as_raw()) }
    }

    /// Returns whether a single write can be made durable when it ends. Any context.
    pub(crate) fn has_fua(&self) -> bool {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        !self.has_cache() || unsafe { ffi::ub_bdev_has_fua(self.as_raw()) }
    }

    /// Returns whether the device is zoned.
    pub(super) fn is_zoned(&self) -> bool {
        // SAFETY: By the invariant the device is open. The C side reads the value once, because the
        // driver of the device may change it concurrently.
        unsafe { ffi::ub_bdev_features(self.as_raw()) & ffi::BLK_FEAT_ZONED != 0 }
    }

    /// Returns whether both devices share sectors: they are the same device, a disk and a partition
    /// of it, or two partitions that overlap.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.file.place().overlaps(&other.file.place())
    }

    /// Returns whether both are open files of one device.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.bdev == other.bdev
    }

    /// Returns whether the device belongs to this module. Built into the kernel, this driver and
    /// all others there have the same owner: none. So this file refuses to be built in.
    pub(crate) fn is_own(&self) -> bool {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        let owner = unsafe { ffi::ub_bdev_owner(self.as_raw()) };
        owner == this_module::<crate::LocalModule>().as_ptr()
    }

    /// Returns whether the device refuses writes.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        unsafe { ffi::ub_bdev_read_only(self.as_raw()) }
    }

    /// Reads into the bytes `at` of `buf`, and waits for completion. Allocates nothing.
    ///
    /// The ranges of the device and of the buffer must consist of whole logical blocks.
    ///
    /// Context: process, sleeps. Not from [`Operations::queue`](super::Operations::queue).
    pub(crate) fn read<const PAGES: usize>(
        &self,
        sector: u64,
        buf: &mut IoBuffer<PAGES>,
        at: Range<usize>,
    ) -> Result {
        let len = self.check(sector, &at)?;
        let bytes = buf.as_mut_slice().get_mut(at).ok_or(EINVAL)?;
        let opf = bindings::req_op_REQ_OP_READ | ffi::REQ_SYNC | ffi::REQ_META;

        // SAFETY: By the invariant the device is open. `bytes` is borrowed exclusively for the
        // call, and by the invariant of `IoBuffer` it is physically contiguous.
        to_result(unsafe {
            ffi::ub_bdev_rw(self.as_raw(), sector, bytes.as_mut_ptr().cast(), len, opf)
        })
    }

    /// Writes the bytes `at` of `buf`, and waits for completion. Allocates nothing.
    ///
    /// The ranges of the device and of the buffer must consist of whole logical blocks.
    ///
    /// Context: process, sleeps. Not from [`Operations::queue`](super::Operations::queue).
    pub(crate) fn write<const PAGES: usize>(
        &self,
        sector: u64,
        buf: &IoBuffer<PAGES>,
        at: Range<usize>,
        order: WriteOrder,
    ) -> Result {
        let len = self.check(sector, &at)?;
        let bytes = buf.as_slice().get(at).ok_or(EINVAL)?;
        let order = self.flushed(order)?;
        let opf = bindings::req_op_REQ_OP_WRITE
            | ffi::REQ_SYNC
            | ffi::REQ_META
            | match order {
                WriteOrder::Plain => 0,
                WriteOrder::Fua => ffi::REQ_FUA,
                WriteOrder::FlushFua => ffi::REQ_FUA | ffi::REQ_PREFLUSH,
            };

        if !self.writable {
            return Err(EBADF);
        }
        // SAFETY: By the invariant the device is open. `bytes` is borrowed for the call, a write
        // only reads it, and by the invariant of `IoBuffer` it is physically contiguous.
        to_result(unsafe {
            let bytes = bytes.as_ptr().cast_mut();
            ffi::ub_bdev_rw(self.as_raw(), sector, bytes.cast(), len, opf)
        })
    }

    /// Sends a separate flush if the device could lose the flush of `order`, and returns the rest
    /// of the order.
    ///
    /// Device mapper splits a write with a flush into the flush and the write, and sends the write
    /// even if the flush failed (`__dm_io_complete()`, at `requeue_flush_with_data`). For a driver
    /// that takes requests, the block layer sends the flush and handles its failure.
    fn flushed(&self, order: WriteOrder) -> Result<WriteOrder> {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        if order != WriteOrder::FlushFua || unsafe { ffi::ub_bdev_accepts_requests(self.as_raw()) }
        {
            return Ok(order);
        }
        self.flush()?;
        Ok(WriteOrder::Fua)
    }

    /// Makes all writes that completed before durable, and waits for completion. Allocates nothing.
    ///
    /// Context: process, sleeps. Not from [`Operations::queue`](super::Operations::queue).
    pub(crate) fn flush(&self) -> Result {
        // SAFETY: By the invariant of `BlockDevice` the device is open as long as `self` exists.
        to_result(unsafe { ffi::ub_bdev_flush(self.as_raw()) })
    }

    /// Discards a range, if the device supports discard.
    ///
    /// Context: process, sleeps. Not from [`Operations::queue`](super::Operations::queue).
    pub(crate) fn discard(&self, sector: u64, sectors: u64) -> Result {
        if !self.writable {
            return Err(EBADF);
        }
        // SAFETY: By the invariant the device is open; the block layer checks the range.
        to_result(unsafe { ffi::ub_bdev_discard(self.as_raw(), sector, sectors) })
    }

    /// Zeroes a range, and waits for completion. With `keep`, the device keeps the range allocated.
    ///
    /// Context: process, sleeps. Not from [`Operations::queue`](super::Operations::queue).
    pub(crate) fn zero(&self, sector: u64, sectors: u64, keep: bool) -> Result {
        if !self.writable {
            return Err(EBADF);
        }
        // SAFETY: By the invariant the device is open; the block layer checks the range.
        to_result(unsafe { ffi::ub_bdev_zero(self.as_raw(), sector, sectors, keep) })
    }

    /// Returns the length of an I/O in bytes, or `EINVAL` if the I/O does not consist of whole
    /// logical blocks or does not lie within the device.
    fn check(&self, sector: u64, at: &Range<usize>) -> Result<u32> {
        let block = self.logical_block_size();
        let len = at.end.checked_sub(at.start).ok_or(EINVAL)?;
        let len = u32::try_from(len)?;
        let sectors = u64::from(len >> ffi::SECTOR_SHIFT);
        let blocks = u64::from(block >> ffi::SECTOR_SHIFT);
        // `block` is a power of two, so the low bits show whether a value is a multiple of it.
        // CAST: `at.start` is masked to 32 bits.
        let is_misaligned = (len | (at.start & 0xffff_ffff) as u32) & (block - 1) != 0
            || sector & (blocks - 1) != 0;

        if len == 0 || is_misaligned {
            return Err(EINVAL);
        }
        match sector.checked_add(sectors) {
            Some(end) if end <= self.sectors() => Ok(len),
            _ => Err(EINVAL),
        }
    }

    fn drop_cache(&self) {
        // SAFETY: By the invariant the device is open. The call does not drop dirty pages.
        unsafe { bindings::invalidate_bdev(self.as_raw()) };
    }
}

/// Writes the name of the device, or of the partition, as `%pg` does.
impl fmt::Display for BlockDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0u8; 40];
        // SAFETY: By the invariant the device is open. `name` has room for `name.len()` bytes,
        // which include the terminating NUL.
        let len = unsafe { ffi::ub_bdev_name(self.as_raw(), name.as_mut_ptr().cast(), name.len()) };
        let name = usize::try_from(len).ok().and_then(|len| name.get(..len));

        match name.map(core::str::from_utf8) {
            Some(Ok(name)) => f.write_str(name),
            _ => f.write_str("?"),
        }
    }
}

impl OpenFile {
    /// Takes ownership of an open file, without a claim.
    ///
    /// # Safety
    ///
    /// `file` must be the open file of a block device. The caller must give up `file`.
    unsafe fn new(file: *mut bindings::file) -> Self {
        // INVARIANT: By the contract of this function.
        OpenFile {
            // SAFETY: By the contract of this function the file is open, so it is not null.
            file: unsafe { NonNull::new_unchecked(file) },
            claim: None,
        }
    }

    fn bdev(&self) -> NonNull<bindings::block_device> {
        // SAFETY: By the invariant the file is an open file of a block device, so `file_bdev()`
        // does not return null.
        unsafe { NonNull::new_unchecked(bindings::file_bdev(self.file.as_ptr())) }
    }

    /// Returns the device's address, its disk's address and its sectors.
    fn place(&self) -> Place {
        let bdev = self.bdev();
        let raw = bdev.as_ptr();
        // SAFETY: By the invariant the device is open; these fields do not change while it is.
        let (disk, start) = unsafe { ((*raw).bd_disk, (*raw).bd_start_sect) };
        // SAFETY: By the invariant the device is open. The read is volatile, because a resize may
        // change the size concurrently.
        let sectors = unsafe { (&raw const (*raw).bd_nr_sectors).read_volatile() };
        Place {
            device: bdev.addr().get(),
            disk: disk.addr(),
            sectors: start..start.saturating_add(sectors),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.claim.as_ref().is_some_and(Claim::is_exclusive) {
            // SAFETY: By the invariant the device is open. The call does not drop dirty pages.
            unsafe { bindings::invalidate_bdev(self.bdev().as_ptr()) };
        }
        // End our claim before the kernel's, because the address is the device's only while the
        // device is open.
        self.claim = None;
        // SAFETY: By the invariant the file is open, and no one uses it afterwards. The call
        // releases the kernel's claim before it returns.
        unsafe { bindings::bdev_fput(self.file.as_ptr()) };
    }
}

#[derive(Zeroable)]
#[repr(C, align(4096))]
struct BufferPage([u8; PAGE]);

const PAGE: usize = 4096;

/// A buffer of `PAGES` pages of 4 KiB for synchronous I/O: zeroed at first, and aligned to a page.
///
/// # Invariants
///
/// The memory is physically contiguous, because it was allocated with `kmalloc()`.
pub(crate) struct IoBuffer<const PAGES: usize>(KBox<[BufferPage; PAGES]>);

impl<const PAGES: usize> IoBuffer<PAGES> {
    /// Allocates a buffer.
    pub(crate) fn new() -> Result<Self> {
        // INVARIANT: `KBox` allocates with `kmalloc()`.
        Ok(Self(KBox::zeroed(GFP_KERNEL)?))
    }

    /// Returns the length, in bytes.
    fn len(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Returns the bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: The pointer and the length are those of the buffer's own pages, and a
        // `BufferPage` consists of its bytes only, without padding.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast(), self.len()) }
    }

    /// Returns the bytes, for writing.
    fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len();

        // SAFETY: A `BufferPage` consists of its bytes only, without padding, and all values are
        // valid.
        unsafe { slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }

    /// Returns the pages.
    pub(crate) fn as_pages(&self) -> &[[u8; PAGE]; PAGES] {
        // SAFETY: A `BufferPage` consists of its bytes only, without padding, and all values are
        // valid. So an array of `BufferPage` has the layout of an array of their bytes. The pointer
        // is valid for as long as `self` is borrowed.
        unsafe { &*self.0.as_ptr().cast() }
    }

    /// Returns the pages, for writing.
    pub(crate) fn as_mut_pages(&mut self) -> &mut [[u8; PAGE]; PAGES] {
        // SAFETY: A `BufferPage` consists of its bytes only, without padding, and all values are
        // valid. So an array of `BufferPage` has the layout of an array of their bytes. The pointer
        // is valid for as long as `self` is borrowed, and is not used otherwise meanwhile.
        unsafe { &mut *self.0.as_mut_ptr().cast() }
    }
}
