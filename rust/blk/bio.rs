// SPDX-License-Identifier: GPL-2.0

//! The bios of a request that the driver got.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)

use super::ffi;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::bindings;

/// A bio of a request.
///
/// # Invariants
///
/// The pointer is to a bio of a started request that does not end during `'r`.
#[derive(Copy, Clone)]
#[repr(transparent)]
pub(super) struct Bio<'r>(NonNull<bindings::bio>, PhantomData<&'r ()>);

impl Bio<'_> {
    /// Returns the bio at `raw`, or `None` if `raw` is null.
    ///
    /// # Safety
    ///
    /// `raw` must be null, or point to a bio of a started request that does not end as long as the
    /// returned value is used.
    #[inline]
    pub(super) unsafe fn from_raw(raw: *mut bindings::bio) -> Option<Self> {
        // INVARIANT: By the contract of this function.
        NonNull::new(raw).map(|bio| Self(bio, PhantomData))
    }

    #[inline]
    pub(super) fn as_raw(self) -> *mut bindings::bio {
        self.0.as_ptr()
    }

    /// Returns the length in sectors.
    #[inline]
    pub(super) fn sectors(self) -> u32 {
        // SAFETY: By the invariant the bio exists, and the block layer does not change the bios of
        // a started request. This copies the field, because the iterator is packed.
        unsafe { (*self.as_raw()).bi_iter.bi_size >> ffi::SECTOR_SHIFT }
    }

    /// Returns the next bio of the request.
    #[inline]
    pub(super) fn next(self) -> Option<Self> {
        // SAFETY: By the invariant the bio is one of a request that does not end. So is the bio
        // that it links to, because the links of a request's bios lead to the last of them, which
        // links to none.
        unsafe { Self::from_raw((*self.as_raw()).bi_next) }
    }

    /// Zeroes at most `sectors` sectors from sector `skip` of the bio on, as far as the bio holds
    /// them, if the bio is a read. Any context.
    pub(super) fn zero(self, skip: u32, sectors: u32) {
        let sectors = sectors.min(self.sectors().saturating_sub(skip));
        // SAFETY: By the invariant the bio exists, and the block layer does not change the bios of
        // a started request. The bio holds the range. Its pages belong to the request, and they may
        // be written if it is a read.
        unsafe {
            let op = (*self.as_raw()).bi_opf & ffi::REQ_OP_MASK;
            if sectors > 0 && op == bindings::req_op_REQ_OP_READ {
                ffi::ub_bio_zero(self.as_raw(), skip, sectors);
            }
        }
    }
}
