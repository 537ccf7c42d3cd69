// SPDX-License-Identifier: GPL-2.0

//! The bios of lower I/O beyond those in the requests' own data.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The set of bios that all disks of the module share. There is one value at most.
///
/// # Invariants
///
/// The C side's set is initialised.
pub(crate) struct Bios(());

impl Bios {
    /// Makes the set: `EBUSY` if it is there. Process context.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The C side refuses a second call.
        to_result(unsafe { ffi::ub_bios_init() })?;
        // INVARIANT: Initialised just now.
        Ok(Self(()))
    }
}

impl Drop for Bios {
    fn drop(&mut self) {
        // SAFETY: By the invariant the set is there. Every disk that takes bios of it holds a
        // reference to this value, so none is left.
        unsafe { ffi::ub_bios_exit() };
    }
}
