// SPDX-License-Identifier: GPL-2.0

//! The ioctls themselves: the only unsafe code of the tool.

use std::os::fd::AsFd;

use rustix::ioctl::{ioctl, Getter, Ioctl, IoctlOutput, Opcode, Setter, Updater};
use ubcore::abi::Call;

/// A call of the control device, over the structure that it reads and fills.
struct Request<'a, T>(&'a mut T);

// SAFETY: The first word of the structure is its size, which `call` has checked, and the driver copies
// no more than that from and to the pointer, which is valid for as many bytes while the request is
// borrowed. Any bytes are a `T`,
// as it is `FromBytes`; it has no padding, as it is `IntoBytes`. The output is the return value of
// the system call alone and owns nothing.
unsafe impl<T: Call> Ioctl for Request<'_, T> {
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

/// Makes a call of the control device. What the driver wrote into `value` is there after a failure
/// too.
pub fn call<T: Call>(fd: impl AsFd, value: &mut T) -> rustix::io::Result<()> {
    value.set_size(size_of::<T>() as u32);
    // SAFETY: The command carries unionblk's own type byte, and the structure its size: a driver that
    // knows it touches `T`'s bytes only, one that does not answers ENOTTY and touches none.
    unsafe { ioctl(fd, Request(value)) }
}

/// `struct loop_info64` of `linux/loop.h`: what a loop device is over.
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

/// `struct loop_config`: what a loop device shall be.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct LoopConfig {
    pub fd: u32,
    /// 0: what the file system under the file wants.
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

// The kernel copies as many bytes as its own structures have.
const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

const LOOP_GET_STATUS64: Opcode = 0x4c05;
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;

/// The call of /dev/loop-control that returns a number.
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

/// The number of a loop device that is free, made if there is none; `control` is /dev/loop-control.
pub fn loop_get_free(control: impl AsFd) -> rustix::io::Result<u32> {
    // SAFETY: The type byte is the loop driver's; another driver answers ENOTTY.
    unsafe { ioctl(control, GetFree) }
}

/// Makes a loop device what `config` says. EBUSY if another was faster.
pub fn loop_configure(fd: impl AsFd, config: LoopConfig) -> rustix::io::Result<()> {
    // SAFETY: The kernel reads a `loop_config`, which has the size of ours, while the call lasts.
    unsafe { ioctl(fd, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

/// What a loop device is over. ENXIO if it is over nothing.
pub fn loop_status(fd: impl AsFd) -> rustix::io::Result<LoopInfo> {
    // SAFETY: The kernel fills a `loop_info64`, which has the size of ours; any bytes are one.
    unsafe { ioctl(fd, Getter::<LOOP_GET_STATUS64, LoopInfo>::new()) }
}

const BLKROGET: Opcode = 0x125e;

/// Whether a block device is write-protected.
pub fn is_read_only(fd: impl AsFd) -> rustix::io::Result<bool> {
    // SAFETY: The kernel fills an int, in which any bytes are a value.
    unsafe { ioctl(fd, Getter::<BLKROGET, i32>::new()) }.map(|n| n != 0)
}

/// Bytes of `struct dm_ioctl`, which a call of device mapper starts with.
pub const DM_HEAD: usize = 312;
const DM_TABLE_STATUS: Opcode = 0xc138_fd0c;

/// The call of /dev/mapper/control that gives a table, over a buffer that says how long it is.
struct DmTable<'a>(&'a mut [u8]);

// SAFETY: The kernel reads the head, which [`dm_table`] has checked to be there, and writes no more
// bytes than the head says the buffer has, which is its length. Any bytes are a `u8`.
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

/// Asks device mapper for a device's table. `buffer` starts with a `dm_ioctl`, whose `data_size`
/// is written here.
pub fn dm_table(control: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<()> {
    let len = u32::try_from(buffer.len()).map_err(|_| rustix::io::Errno::INVAL)?;
    if buffer.len() < DM_HEAD {
        return Err(rustix::io::Errno::INVAL);
    }
    buffer[12..16].copy_from_slice(&len.to_ne_bytes());
    // SAFETY: The type byte is device mapper's; another driver answers ENOTTY and touches nothing.
    // The head is there, and `data_size` in it is the buffer's length.
    unsafe { ioctl(control, DmTable(buffer)) }
}

/// How many extents one call tells of.
pub const EXTENTS: usize = 32;

/// `struct fiemap` of `linux/fiemap.h`, with room behind it.
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
    pub extents: [Extent; EXTENTS],
}

/// `struct fiemap_extent`: a stretch of a file that has blocks.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Extent {
    pub logical: u64,
    pub physical: u64,
    pub length: u64,
    pub reserved64: [u64; 2],
    pub flags: u32,
    pub reserved: [u32; 3],
}

impl Fiemap {
    /// The question where a file has blocks, of which all that was written is given some first.
    pub fn of(start: u64, length: u64) -> Fiemap {
        const SYNC: u32 = 1;
        let none = Extent {
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

// The command names the size of the structure without its extents.
const FS_IOC_FIEMAP: Opcode = 0xc020_660b;
const _: () = assert!(size_of::<Fiemap>() == 32 + EXTENTS * 56);

/// Where a file has blocks. EOPNOTSUPP or ENOTTY if its file system cannot say.
pub fn fiemap(fd: impl AsFd, map: &mut Fiemap) -> rustix::io::Result<()> {
    // SAFETY: The kernel reads the header and fills as many extents as `room` says, which is private
    // and the number that the structure has; any bytes are one.
    unsafe { ioctl(fd, Updater::<FS_IOC_FIEMAP, Fiemap>::new(map)) }
}
