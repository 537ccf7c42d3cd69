// SPDX-License-Identifier: GPL-2.0

//! Declarations of the C functions that [`kernel::bindings`] lacks.
//!
//! C header: [`helpers.h`](helpers.h)

use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int,
        c_void, //
    },
};

extern "C" {
    /// From `include/linux/crc32.h`.
    pub(super) fn crc32c(crc: u32, bytes: *const c_void, len: usize) -> u32;

    pub(super) fn ub_alloc_workqueue(
        name: *const c_char,
        freezable: bool,
    ) -> *mut bindings::workqueue_struct;
    pub(super) fn ub_give_way() -> c_int;
    pub(super) fn ub_wait_for_tasks();
    pub(super) fn ub_is_admin() -> bool;
    pub(super) fn ub_noio_save() -> u32;
    pub(super) fn ub_noio_restore(flags: u32);
}
