// SPDX-License-Identifier: GPL-2.0

//! The ioctl itself: the only unsafe code of the tool.

use std::os::fd::AsFd;

use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};
use ubcore::abi::Call;

/// A call of the control device, over the structure that it reads and fills.
struct Request<'a, T>(&'a mut T);

// SAFETY: `Call::COMMAND` names the size of `T`, and the driver copies no more than that from and to
// the pointer, which is valid for as many bytes while the request is borrowed. Any bytes are a `T`,
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
    // SAFETY: the command carries unionblk's own type byte and the size of `T`: a driver that knows
    // it touches `T`'s bytes only, one that does not answers ENOTTY and touches none.
    unsafe { ioctl(fd, Request(value)) }
}
