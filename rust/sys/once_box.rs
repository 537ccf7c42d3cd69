// SPDX-License-Identifier: GPL-2.0

//! A cell that is set once and may be read concurrently.
//!
//! It does what `SetOnce<KBox<T>>` does, with half the memory and with one load instead of a call
//! for each read. This matters because a map reads several cells for each request.

use super::atomic::{
    AtomicPtr,
    Ordering, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::prelude::*;

/// A cell that is empty at first. Once it is set, it holds one `T` until the cell is dropped.
///
/// # Invariants
///
/// `held` is null, or the pointer that `KBox::into_raw` returned for a box that the cell owns. Once
/// `held` is not null, it does not change.
pub(crate) struct OnceBox<T> {
    held: AtomicPtr<T>,
    _owns: PhantomData<KBox<T>>,
}

impl<T> OnceBox<T> {
    /// Returns an empty cell.
    pub(crate) const fn new() -> Self {
        // INVARIANT: `held` is null.
        Self {
            held: AtomicPtr::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Returns the value that the cell holds. Any context.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // The acquire pairs with the release in `populate`, so that the value is initialised.
        // SAFETY: By the invariant `held` is null, or points to a value that the cell owns as long
        // as the cell lives.
        unsafe { self.held.load(Ordering::Acquire).as_ref() }
    }

    /// Sets the cell, and returns whether this call set it. If the cell is set already, `new` is
    /// dropped.
    ///
    /// `T` must be `Send`, because another thread may drop the cell.
    pub(crate) fn populate(&self, new: KBox<T>) -> bool
    where
        T: Send,
    {
        let new = KBox::into_raw(new);
        // INVARIANT: If the exchange succeeds, `held` was null before, and the cell owns the box.
        let done =
            self.held
                .compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
        if done.is_err() {
            // SAFETY: `new` came from `KBox::into_raw` above, and no one else has the pointer.
            drop(unsafe { KBox::from_raw(new) });
        }
        done.is_ok()
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        if !held.is_null() {
            // SAFETY: By the invariant `held` came from a box that the cell owns, and no reference
            // from `get` exists any more.
            drop(unsafe { KBox::from_raw(held) });
        }
    }
}

#[kunit_tests(unionblk_once_box)]
mod tests {
    use super::*;
    use kernel::sync::Arc;

    #[test]
    fn the_first_stays_and_nothing_is_left_behind() -> Result {
        let counted = Arc::new(7u32, GFP_KERNEL)?;
        let cell = OnceBox::new();
        assert!(cell.get().is_none());
        assert!(cell.populate(KBox::new((1u32, counted.clone()), GFP_KERNEL)?));
        assert!(!cell.populate(KBox::new((2u32, counted.clone()), GFP_KERNEL)?));
        assert_eq!(cell.get().map(|held| held.0), Some(1));
        drop(cell);
        // `counted` is the last reference, so the refused value and the held one were both dropped.
        assert!(Arc::into_unique_or_drop(counted).is_some());
        Ok(())
    }
}
