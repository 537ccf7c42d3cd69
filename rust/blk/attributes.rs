// SPDX-License-Identifier: GPL-2.0

//! Attributes of a disk in sysfs: files that hold one value each, in a folder of their own. They
//! are there when the disk is announced.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::{
    disk::{
        Driver,
        Shared, //
    },
    ffi,
};
use core::{
    marker::PhantomData,
    ptr, //
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

/// Most attributes of a disk.
const MOST: usize = 32;

/// Says one value, without a newline.
pub(crate) type Show<D> = fn(&D, &mut Text<'_>) -> fmt::Result;

/// One file in sysfs, for all to read.
///
/// # Invariants
///
/// `raw` stands first, and its callback is [`Attribute::show_raw`] for the same `D`.
#[repr(C)]
pub(crate) struct Attribute<D: Driver> {
    raw: bindings::device_attribute,
    show: Show<D>,
}

/// What a driver has to show.
pub(crate) struct Attributes<D: Driver> {
    /// The folder's name.
    pub(crate) folder: &'static CStr,
    /// Its files.
    pub(crate) list: &'static [Attribute<D>],
}

impl<D: Driver> Attribute<D> {
    /// A file `name` that holds what `show` says and a newline.
    ///
    /// `show` is called in the context of whoever reads, and not any more once the disk is gone:
    /// the one who takes it away waits for it, so it must not wait for anything that takes long.
    pub(crate) const fn new(name: &'static CStr, show: Show<D>) -> Self {
        let mut raw: bindings::device_attribute = pin_init::zeroed();
        raw.attr.name = name.to_bytes_with_nul().as_ptr();
        raw.attr.mode = 0o444;
        raw.__bindgen_anon_1.show = Some(Self::show_raw);
        // INVARIANT: Set just now.
        Attribute { raw, show }
    }

    /// # Safety
    ///
    /// Called by sysfs for an attribute of a disk with this driver, with a page to fill.
    unsafe extern "C" fn show_raw(
        dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the invariant, the attribute that has this callback is the first field of an
        // `Attribute<D>`; those live in constants.
        let attribute = unsafe { &*attr.cast_const().cast::<Self>() };
        // SAFETY: The device is a disk's: only `Disk::new` hands out the attribute.
        let data = unsafe { ffi::ub_disk_data(dev) };
        // SAFETY: `private_data` was set by `Disk::new` before the disk was added. Its removal
        // waits for this call to return before it lets go of it.
        let shared = unsafe { &*data.cast_const().cast::<Shared<D>>() };
        // SAFETY: sysfs hands in a page that it has cleared, for us alone.
        let page = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE) };

        let mut text = Text { page, len: 0 };
        let done = (attribute.show)(&shared.driver, &mut text).and_then(|()| text.write_str("\n"));
        match done {
            // CAST: at most a page.
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
        // INVARIANT: Up to here it is.
        self.len = end;
        Ok(())
    }
}

/// A driver's attributes as C wants them.
pub(super) struct Groups<D: Driver>(PhantomData<fn(D)>);

impl<D: Driver> Groups<D> {
    const FILES: &'static [*const bindings::attribute; MOST + 1] = &{
        let list = D::ATTRIBUTES.list;
        let mut files = [ptr::null(); MOST + 1];
        let mut n = 0;
        // The last one stays null, and an index beyond does not compile.
        assert!(list.len() <= MOST);
        while n < list.len() {
            files[n] = &raw const list[n].raw.attr;
            n += 1;
        }
        files
    };

    const GROUP: &'static bindings::attribute_group = &{
        let mut group: bindings::attribute_group = pin_init::zeroed();
        group.name = D::ATTRIBUTES.folder.to_bytes_with_nul().as_ptr();
        group.__bindgen_anon_2.attrs_const = Self::FILES.as_ptr();
        group
    };

    /// A list of groups with a null at its end.
    pub(super) const LIST: &'static [*const bindings::attribute_group; 2] =
        &[ptr::from_ref(Self::GROUP), ptr::null()];
}
