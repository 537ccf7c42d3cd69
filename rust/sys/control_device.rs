// SPDX-License-Identifier: GPL-2.0

//! A control device: a misc device that passes its ioctls to an object of the driver.
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

/// The handler of a control device's ioctls.
pub(crate) trait IoctlHandler: Send + Sync + Sized + 'static {
    /// Handles one ioctl. Context: process, that of the caller.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;
}

/// A registered control device.
///
/// # Invariants
///
/// Every `MiscDeviceRegistration<ControlNode<C>>` is the first field of a `ControlDevice<C>`,
/// because only [`ControlDevice::register`] registers a `ControlNode`. The provenance of a pointer
/// to all of the `ControlDevice<C>` is exposed.
#[pin_data]
#[repr(C)]
pub(crate) struct ControlDevice<C: IoctlHandler> {
    #[pin]
    registration: MiscDeviceRegistration<ControlNode<C>>,
    handler: Arc<C>,
}

impl<C: IoctlHandler> ControlDevice<C> {
    /// Registers `/dev/<name>`, whose ioctls `handler` answers.
    pub(crate) fn register(name: &'static CStr, handler: Arc<C>) -> impl PinInit<Self, Error> {
        // The fields are set in this order, because an open must find `handler` set.
        // INVARIANT: The registration is the first field, and the pointer to the whole is exposed.
        try_pin_init!(&this in Self {
            handler: {
                this.as_ptr().expose_provenance();
                handler
            },
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        }? Error)
    }
}

pub(crate) struct ControlNode<C>(PhantomData<fn(C)>);

#[vtable]
impl<C: IoctlHandler> MiscDevice for ControlNode<C> {
    type Ptr = Arc<C>;

    fn open(_file: &File, misc: &MiscDeviceRegistration<Self>) -> Result<Arc<C>> {
        // The reference may be used for the registration only, so take the provenance that
        // `register` has exposed.
        let at = core::ptr::from_ref(misc).addr();
        let device = core::ptr::with_exposed_provenance::<ControlDevice<C>>(at);
        // SAFETY: By the invariant of `ControlDevice` the registration is its first field, and the
        // struct is `repr(C)`, so this is its address, and the provenance of a pointer to all of it
        // is exposed. While it is registered, the struct exists, `handler` is set, and no one
        // writes it.
        Ok(unsafe { (*device).handler.clone() })
    }

    fn ioctl(this: ArcBorrow<'_, C>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        C::ioctl(this, cmd, arg)
    }
}

/// Returns whether the current task may administer the system (`CAP_SYS_ADMIN`).
pub(crate) fn is_admin() -> bool {
    // SAFETY: `ub_is_admin()` only reads the credentials of the current task, which exist as long
    // as it runs.
    unsafe { ffi::ub_is_admin() }
}
