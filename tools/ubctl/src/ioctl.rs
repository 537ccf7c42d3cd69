// SPDX-License-Identifier: GPL-2.0

//! The ioctls. This is the only unsafe code of the tool.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{ioctl, Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, Updater};
use ubcore::abi::{Call, Create, Layer};

/// A call of the control device. The call reads and fills the structure.
struct ControlIoctl<'a, T>(&'a mut T);

// SAFETY: The first word of the structure is its size, which `call` has set. The driver copies no
// more than that from and to the pointer, which is valid for as many bytes while the request is
// borrowed. Any bytes are a `T` because it is `FromBytes`; it has no padding because it is
// `IntoBytes`. The output is only the return value of the system call and owns nothing.
unsafe impl<T: Call> Ioctl for ControlIoctl<'_, T> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        T::COMMAND
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Makes a call of the control device. The driver may write into `value` even if it fails.
pub fn call<T: Call>(fd: impl AsFd, value: &mut T) -> rustix::io::Result<()> {
    value.set_size(size_of::<T>() as u32);
    // SAFETY: The command carries unionblk's type byte, and the structure its own size, set above.
    // A driver that knows the command touches no more bytes than that. Another driver answers
    // ENOTTY and touches none.
    unsafe { ioctl(fd, ControlIoctl(value)) }
}

/// Attaches a union on these layers.
pub fn create(fd: impl AsFd, request: &mut Create, layers: &[Layer]) -> rustix::io::Result<()> {
    request.layers_count = u32::try_from(layers.len()).map_err(|_| Errno::INVAL)?;
    // The driver reads so many layers from this address, and `layers` outlives the call.
    request.layers = layers.as_ptr().expose_provenance() as u64;
    call(fd, request)
}

/// `struct loop_info64` of `linux/loop.h`: what a loop device shows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LoopInfo {
    pub device: u64,
    pub inode: u64,
    pub rdevice: u64,
    pub offset: u64,
    pub sizelimit: u64,
    pub number: u32,
    pub encrypt: [u32; 2],
    pub flags: u32,
    pub file_name: [u8; 64],
    pub crypt_name: [u8; 64],
    pub key: [u8; 32],
    pub init: [u64; 2],
}

/// `struct loop_config`: how a loop device is configured.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LoopConfig {
    pub fd: u32,
    /// 0 takes the block size that the file system under the file wants.
    pub block_size: u32,
    pub info: LoopInfo,
    pub reserved: [u64; 8],
}

impl LoopInfo {
    pub const ZERO: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt: [0; 2],
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        key: [0; 32],
        init: [0; 2],
    };
}

// The kernel copies as many bytes as its structures have.
const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

const LOOP_CLR_FD: Opcode = 0x4c01;
const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;

/// The call of /dev/loop-control that returns the number of a free loop device.
struct GetFree;

// SAFETY: The call takes no argument and touches no memory. Its output is its return value.
unsafe impl Ioctl for GetFree {
    type Output = u32;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        number: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<u32> {
        Ok(number.unsigned_abs())
    }
}

/// Returns the number of a free loop device, which the kernel makes if there is none; `control` is
/// /dev/loop-control.
pub fn loop_get_free(control: impl AsFd) -> rustix::io::Result<u32> {
    // SAFETY: The type byte is the loop driver's; another driver answers ENOTTY.
    unsafe { ioctl(control, GetFree) }
}

/// Configures a loop device as `config` says. EBUSY if another process was faster.
pub fn loop_configure(fd: impl AsFd, config: LoopConfig) -> rustix::io::Result<()> {
    // SAFETY: The kernel reads a `loop_config`, which has the size of `LoopConfig`, during the
    // call.
    unsafe { ioctl(fd, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// Returns what a loop device shows. ENXIO if it shows nothing.
pub fn loop_status(fd: impl AsFd) -> rustix::io::Result<LoopInfo> {
    // SAFETY: The kernel fills a `loop_info64`, which has the size of `LoopInfo`; any bytes are
    // one.
    unsafe { ioctl(fd, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }
}

/// Detaches a loop device from its file, at the latest on its last close.
pub fn loop_clear(fd: impl AsFd) -> rustix::io::Result<()> {
    // SAFETY: The call takes no argument and touches no memory. The type byte is the loop driver's;
    // another driver answers ENOTTY.
    unsafe { ioctl(fd, NoArg::<LOOP_CLR_FD>::new()) }
}

const BLKROGET: Opcode = 0x125e;

/// Returns whether a block device is write-protected.
pub fn is_read_only(fd: impl AsFd) -> rustix::io::Result<bool> {
    // SAFETY: The kernel fills an int, and any bytes are an int.
    unsafe { ioctl(fd, Getter::<BLKROGET, i32>::new()) }.map(|n| n != 0)
}

/// Bytes of `struct dm_ioctl`, which starts each call of device mapper.
pub const DM_HEAD: usize = 312;
const DM_TABLE_STATUS: Opcode = 0xc138_fd0c;

/// The call of /dev/mapper/control that returns a table. The buffer says how long it is.
struct DmTable<'a>(&'a mut [u8]);

// SAFETY: The kernel reads the head, and [`dm_table`] has checked that it is there. The kernel
// writes no more bytes than the head gives as the buffer's size, which is its length. Any bytes are
// a `u8`.
unsafe impl Ioctl for DmTable<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        DM_TABLE_STATUS
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Reads a device's table from device mapper. `buffer` starts with a `dm_ioctl`; this function sets
/// its `data_size`.
pub fn dm_table(control: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<()> {
    let len = u32::try_from(buffer.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    if buffer.len() < DM_HEAD {
        return Err(rustix::io::Errno::INVAL);
    }
    buffer[12..16].copy_from_slice(&len.to_ne_bytes());
    // SAFETY: The type byte is device mapper's; another driver answers ENOTTY and touches nothing.
    // The head is there, and its `data_size` is the buffer's length.
    unsafe { ioctl(control, DmTable(buffer)) }
}

/// How many extents one call returns.
pub const EXTENTS: usize = 32;

/// `struct fiemap` of `linux/fiemap.h`, with room for extents behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Fiemap {
    pub start: u64,
    pub length: u64,
    pub flags: u32,
    pub mapped: u32,
    /// Never more than [`EXTENTS`].
    room: u32,
    reserved: u32,
    pub extents: [FiemapExtent; EXTENTS],
}

/// `struct fiemap_extent`: a range of a file that has blocks.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct FiemapExtent {
    pub logical: u64,
    pub physical: u64,
    pub length: u64,
    pub reserved64: [u64; 2],
    pub flags: u32,
    pub reserved: [u32; 3],
}

impl Fiemap {
    /// Returns a request for where a file has blocks. The kernel first gives blocks to all written
    /// data.
    pub fn of(start: u64, length: u64) -> Fiemap {
        const SYNC: u32 = 1;
        let none = FiemapExtent {
            logical: 0,
            physical: 0,
            length: 0,
            reserved64: [0; 2],
            flags: 0,
            reserved: [0; 3],
        };
        Fiemap {
            start,
            length,
            flags: SYNC,
            mapped: 0,
            room: EXTENTS as u32,
            reserved: 0,
            extents: [none; EXTENTS],
        }
    }
}

// The command contains the size of the structure without its extents.
const FS_IOC_FIEMAP: Opcode = 0xc020_660b;
const _: () = assert!(size_of::<Fiemap>() == 32 + EXTENTS * 56);

/// Returns where a file has blocks. EOPNOTSUPP or ENOTTY if its file system cannot say.
pub fn fiemap(fd: impl AsFd, map: &mut Fiemap) -> rustix::io::Result<()> {
    // SAFETY: The kernel reads the header and fills at most `room` extents. `room` is private and
    // is the number of extents that the structure has. Any bytes are an extent.
    unsafe { ioctl(fd, Updater::<FS_IOC_FIEMAP, Fiemap>::new(map)) }
}
