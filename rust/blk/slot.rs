// SPDX-License-Identifier: GPL-2.0

//! A place for something that is made once, while others look.
//!
//! What `SetOnce<KBox<T>>` is, in half the memory, and a look is one load instead of a call: a
//! map looks at several for each request.

use core::{
    marker::PhantomData,
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};
use kernel::prelude::*;

/// Holds nothing at first, and then one `T` for as long as it lives.
///
/// # Invariants
///
/// `held` is null, or what `KBox::into_raw` gave for a box that the slot owns; once it is not null
/// it does not change.
pub(crate) struct Slot<T> {
    held: AtomicPtr<T>,
    _owns: PhantomData<KBox<T>>,
}

impl<T> Slot<T> {
    /// Nothing in it.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null.
        Self {
            held: AtomicPtr::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// What it holds. Any context.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // Acquire: with the release in `populate`, what is found is complete.
        // SAFETY: By the invariant it is null, or points to what the slot owns as long as it lives.
        unsafe { self.held.load(Ordering::Acquire).as_ref() }
    }

    /// Puts something in, and says whether that was done; if it holds something already, the new
    /// goes. Who drops the slot may be another thread.
    pub(crate) fn populate(&self, new: KBox<T>) -> bool
    where
        T: Send,
    {
        let new = KBox::into_raw(new);
        // INVARIANT: The box is the slot's now; it was null before.
        let done =
            self.held
                .compare_exchange(ptr::null_mut(), new, Ordering::Release, Ordering::Relaxed);
        if done.is_err() {
            // SAFETY: It came from a box just now, and nobody else got it.
            drop(unsafe { KBox::from_raw(new) });
        }
        done.is_ok()
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let held = *self.held.get_mut();
        if !held.is_null() {
            // SAFETY: By the invariant it came from a box that is ours; nobody looks any more.
            drop(unsafe { KBox::from_raw(held) });
        }
    }
}

#[kunit_tests(unionblk_slot)]
mod tests {
    use super::*;
    use kernel::sync::Arc;

    #[test]
    fn the_first_stays_and_nothing_is_left_behind() -> Result {
        let counted = Arc::new(7u32, GFP_KERNEL)?;
        let slot = Slot::new();
        assert!(slot.get().is_none());
        assert!(slot.populate(KBox::new((1u32, counted.clone()), GFP_KERNEL)?));
        assert!(!slot.populate(KBox::new((2u32, counted.clone()), GFP_KERNEL)?));
        assert_eq!(slot.get().map(|held| held.0), Some(1));
        drop(slot);
        // Ours is the last reference: what was refused is gone, and what was held.
        assert!(Arc::into_unique_or_drop(counted).is_some());
        Ok(())
    }
}
