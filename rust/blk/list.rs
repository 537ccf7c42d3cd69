// SPDX-License-Identifier: GPL-2.0

//! A list of requests that any context may push to.
//!
//! C header: [`include/linux/llist.h`](srctree/include/linux/llist.h)

use super::{
    disk::Driver,
    pdu::Pdu,
    request::Request, //
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::{
    bindings,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

/// A list of owned requests, linked through their own data: no lock, no allocation.
///
/// Requests left in it when it is dropped end with an error.
///
/// # Invariants
///
/// From `head` along the links hang requests that the list owns, newest first; null ends it.
pub(crate) struct RequestList<D: Driver> {
    head: Atomic<*mut bindings::request>,
    _owns: PhantomData<Request<D>>,
}

// SAFETY: The list owns its requests, which are `Send`.
unsafe impl<D: Driver> Send for RequestList<D> {}

// SAFETY: `head` is atomic; whoever takes the chain from it owns the whole chain.
unsafe impl<D: Driver> Sync for RequestList<D> {}

impl<D: Driver> RequestList<D> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Nothing hangs from null.
        Self {
            head: Atomic::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Adds a request. `true` if the list was empty before. Any context.
    pub(crate) fn push(&self, rq: Request<D>) -> bool {
        let rq = rq.into_raw();
        // SAFETY: The request is ours, so it has an initialised `Pdu` and the link is free.
        let link = unsafe { (*Pdu::of(rq)).link.get() };
        let mut old = self.head.load(Relaxed);
        loop {
            // SAFETY: Until the exchange below succeeds the request is ours, and so is its link.
            unsafe { *link = old };
            // INVARIANT: The new head links to the chain that hung from the old one. Full, so that
            // whoever takes the chain sees its links and all that went before.
            match self.head.cmpxchg(old, rq, Full) {
                Ok(_) => return old.is_null(),
                Err(now) => old = now,
            }
        }
    }

    /// Takes all requests, in the order of the pushes.
    pub(crate) fn take_all(&self) -> Taken<D> {
        // INVARIANT: An empty list. The chain is the caller's.
        let mut newest = self.head.xchg(ptr::null_mut(), Full);
        let mut oldest = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: The chain is ours, so its links are.
            let link = unsafe { (*Pdu::of(newest)).link.get() };
            // SAFETY: As above.
            let next = unsafe { link.replace(oldest) };
            oldest = newest;
            newest = next;
        }
        // INVARIANT: The chain was turned round: it starts with the oldest.
        Taken {
            next: oldest,
            _owns: PhantomData,
        }
    }
}

impl<D: Driver> Drop for RequestList<D> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

/// Requests taken from a [`RequestList`]. Those not asked for end with an error.
///
/// # Invariants
///
/// From `next` along the links hang requests that this value owns; null ends it.
pub(crate) struct Taken<D: Driver> {
    next: *mut bindings::request,
    _owns: PhantomData<Request<D>>,
}

// SAFETY: It owns its requests, which are `Send`.
unsafe impl<D: Driver> Send for Taken<D> {}

impl<D: Driver> Iterator for Taken<D> {
    type Item = Request<D>;

    fn next(&mut self) -> Option<Request<D>> {
        let rq = self.next;
        if rq.is_null() {
            return None;
        }
        // SAFETY: By the invariant the request and its link are ours.
        self.next = unsafe { *(*Pdu::of(rq)).link.get() };
        // SAFETY: By the invariant we own the request; it is off the chain now.
        Some(unsafe { Request::from_raw(rq) })
    }
}

impl<D: Driver> Drop for Taken<D> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
