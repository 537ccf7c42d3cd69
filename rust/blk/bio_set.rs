// SPDX-License-Identifier: GPL-2.0

//! The bios of lower I/O that are not embedded in a request's private data.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::ffi;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// The bio set that all disks of the module share. At most one value exists.
///
/// # Invariants
///
/// The bio set of the C side is initialised.
pub(crate) struct BioSet(());

impl BioSet {
    /// Initialises the set. `EBUSY` if it is initialised already. Process context.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: The C side refuses a second call while the set is initialised.
        to_result(unsafe { ffi::ub_bios_init() })?;
        // INVARIANT: The call above initialised the set.
        Ok(Self(()))
    }
}

impl Drop for BioSet {
    fn drop(&mut self) {
        // SAFETY: By the invariant the set is initialised. Every disk that allocates bios from it
        // holds a reference to this value, so no such disk is left.
        unsafe { ffi::ub_bios_exit() };
    }
}
