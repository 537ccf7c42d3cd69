// SPDX-License-Identifier: GPL-2.0

//! Attributes of a disk in sysfs: files with one value each, in a separate directory. They exist
//! before the disk is announced.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::{
    disk_data::DiskData, //
    ffi,
};
use kernel::{
    bindings,
    ffi::c_char,
    fmt::{
        self,
        Write, //
    },
    page::PAGE_SIZE,
    prelude::*,
};

/// The maximum number of attributes of a disk.
pub(super) const ATTRIBUTES_MAX: usize = 32;

/// Writes one value, without a newline.
pub(crate) type Show<D> = fn(&D, &mut Text<'_>) -> fmt::Result;

/// One file in sysfs, readable by all users.
///
/// # Invariants
///
/// `raw` is the first field, and its callback is [`Attribute::show_raw`] for the same `D`.
#[repr(C)]
pub(crate) struct Attribute<D> {
    raw: bindings::device_attribute,
    show: Show<D>,
}

/// The attributes that a disk shows.
pub(crate) struct Attributes<D: 'static> {
    /// The name of the directory.
    pub(crate) directory: &'static CStr,
    /// The files in it.
    pub(crate) list: &'static [Attribute<D>],
}

impl<D> Attribute<D> {
    /// Returns a file `name` that holds the value that `show` writes, and a newline.
    ///
    /// `show` runs in the context of the reader. Removal of the disk waits until `show` returns,
    /// and `show` is not called afterwards. `show` runs under RCU, so it must not sleep.
    pub(crate) const fn new(name: &'static CStr, show: Show<D>) -> Self {
        let mut raw: bindings::device_attribute = pin_init::zeroed();
        raw.attr.name = name.to_bytes_with_nul().as_ptr();
        raw.attr.mode = 0o444;
        raw.__bindgen_anon_1.show = Some(Self::show_raw);
        // INVARIANT: The callback of `raw` was set above.
        Attribute { raw, show }
    }

    pub(super) const fn as_raw(&self) -> *const bindings::attribute {
        &raw const self.raw.attr
    }

    /// Fills a page with the attribute's value, for sysfs.
    ///
    /// # Safety
    ///
    /// Must only be called by sysfs, for an attribute of a disk with queue data `D` and a page
    /// to fill.
    unsafe extern "C" fn show_raw(
        dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the invariant of `Attribute`, an attribute with this callback is the first
        // field of an `Attribute<D>`. Attributes live in constants.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: `dev` is the device of a disk, because only `GenDisk::new` passes the attribute
        // on.
        let data = unsafe { ffi::ub_disk_data(dev) };
        // SAFETY: `GenDisk::new` set `private_data` before it added the disk. Removal of the disk
        // waits for this call to return before it frees `DiskData`.
        let shared = unsafe { &*data.cast_const().cast::<DiskData<D>>() };
        // SAFETY: sysfs passes a page that it has cleared, and no one else uses the page.
        let page = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE) };

        let mut text = Text { page, len: 0 };
        let done = shared
            .with_queue_data(|queue_data| (attribute.show)(queue_data, &mut text))
            .and_then(|()| text.write_str("\n"));
        match done {
            // CAST: `len` is at most `PAGE_SIZE`.
            Ok(()) => text.len as isize,
            Err(_) => EFBIG.to_errno() as isize,
        }
    }
}

/// The page that a value is written to.
///
/// # Invariants
///
/// The first `len` bytes of the page are written.
pub(crate) struct Text<'a> {
    page: &'a mut [u8],
    len: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.len.checked_add(s.len()).ok_or(fmt::Error)?;
        let room = self.page.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        // INVARIANT: The bytes up to `end` were written above.
        self.len = end;
        Ok(())
    }
}
