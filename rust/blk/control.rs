// SPDX-License-Identifier: GPL-2.0

//! A control device: a misc device whose calls reach an object of the driver's.
//!
//! C header: [`include/linux/miscdevice.h`](srctree/include/linux/miscdevice.h)

use super::ffi;
use core::marker::PhantomData;
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

/// What answers the calls.
pub(crate) trait Control: Send + Sync + Sized + 'static {
    /// One ioctl. Context: process, the caller's.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;
}

/// A registered control device.
///
/// # Invariants
///
/// Every `MiscDeviceRegistration<Node<C>>` is the first field of a `ControlDevice<C>`: `Node` is
/// private, and [`ControlDevice::register`] the only one that registers it.
#[pin_data]
#[repr(C)]
pub(crate) struct ControlDevice<C: Control> {
    #[pin]
    registration: MiscDeviceRegistration<Node<C>>,
    answers: Arc<C>,
}

impl<C: Control> ControlDevice<C> {
    /// Registers `/dev/<name>`, whose calls `answers` answers.
    pub(crate) fn register(name: &'static CStr, answers: Arc<C>) -> impl PinInit<Self, Error> {
        // The fields are set in this order: an open must find `answers`.
        // INVARIANT: The registration is the first field.
        try_pin_init!(Self {
            answers,
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        }? Error)
    }
}

pub(crate) struct Node<C>(PhantomData<fn(C)>);

#[vtable]
impl<C: Control> MiscDevice for Node<C> {
    type Ptr = Arc<C>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<C>> {
        let device = core::ptr::from_ref(misc).cast::<ControlDevice<C>>();
        // SAFETY: By the invariant of `ControlDevice` the registration is the first field of one,
        // `repr(C)`; it is there, with `answers` set, while it is registered.
        Ok(unsafe { (*device).answers.clone() })
    }

    fn ioctl(this: ArcBorrow<'_, C>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        C::ioctl(this, cmd, arg)
    }
}

/// Whether the current task may administer the system (`CAP_SYS_ADMIN`).
pub(crate) fn is_admin() -> bool {
    // SAFETY: It only looks at the current task.
    unsafe { ffi::ub_is_admin() }
}
