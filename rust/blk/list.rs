// SPDX-License-Identifier: GPL-2.0

//! A list of requests that any context may push to.
//!
//! C header: [`include/linux/llist.h`](srctree/include/linux/llist.h)

use super::{
    operations::Operations,
    pdu::Pdu,
    request::Request, //
};
use crate::sys::atomic::{
    AtomicPtr,
    Ordering::{
        Relaxed,
        SeqCst, //
    },
};
use core::{
    marker::PhantomData,
    ptr, //
};
use kernel::bindings;

/// A list of owned requests, linked through their private data, without locks or allocations.
///
/// Requests that are left in the list when it is dropped end with an error.
///
/// # Invariants
///
/// `head` starts a chain of requests that the list owns, newest first, terminated by null.
pub(crate) struct RequestList<D: Operations> {
    head: AtomicPtr<bindings::request>,
    _owns: PhantomData<Request<D>>,
}

// SAFETY: By the invariant the list owns the requests of its chain, and a `Request` is `Send`.
unsafe impl<D: Operations> Send for RequestList<D> {}

// SAFETY: `head` is atomic, and a thread that takes the chain from it owns the whole chain.
unsafe impl<D: Operations> Sync for RequestList<D> {}

impl<D: Operations> RequestList<D> {
    /// Returns an empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: The chain is empty.
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            _owns: PhantomData,
        }
    }

    /// Adds a request. Any context.
    pub(crate) fn push(&self, rq: Request<D>) {
        let rq = rq.into_raw();
        // SAFETY: By the invariants of `Request` we own `rq`, it has an initialised `Pdu`, and no
        // list holds it.
        let link = unsafe { (*Pdu::of(rq)).link.get() };
        let mut old = self.head.load(Relaxed);
        loop {
            // SAFETY: Until the exchange below succeeds, we own the request, so by the invariant of
            // `Pdu` only we access its link.
            unsafe { *link = old };
            // INVARIANT: The new head links to the chain that the old head started. The exchange is
            // a full barrier, so that a thread that takes the chain sees its links and everything
            // that was done before the push.
            match self.head.compare_exchange(old, rq, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Takes all requests, in the order in which they were pushed.
    pub(crate) fn take_all(&self) -> Drain<D> {
        // INVARIANT: The list is empty afterwards, and we own the chain.
        let mut newest = self.head.swap(ptr::null_mut(), SeqCst);
        let mut oldest = ptr::null_mut();
        while !newest.is_null() {
            // SAFETY: By the invariant of the list we now own the requests of the chain, and each
            // has an initialised `Pdu`.
            let link = unsafe { (*Pdu::of(newest)).link.get() };
            // SAFETY: By the invariant of `Pdu` only the owner of the request, which we are,
            // accesses `link`.
            let next = unsafe { link.replace(oldest) };
            oldest = newest;
            newest = next;
        }
        // INVARIANT: The loop has reversed the chain, so it starts with the oldest request.
        Drain {
            next: oldest,
            _owns: PhantomData,
        }
    }
}

impl<D: Operations> Drop for RequestList<D> {
    fn drop(&mut self) {
        drop(self.take_all());
    }
}

/// Requests taken from a [`RequestList`].
///
/// Requests that are left in it when it is dropped end with an error.
///
/// # Invariants
///
/// `next` starts a chain of requests that this value owns, terminated by null.
pub(crate) struct Drain<D: Operations> {
    next: *mut bindings::request,
    _owns: PhantomData<Request<D>>,
}

// SAFETY: By the invariant the value owns the requests of its chain, and a `Request` is `Send`.
unsafe impl<D: Operations> Send for Drain<D> {}

impl<D: Operations> Iterator for Drain<D> {
    type Item = Request<D>;

    fn next(&mut self) -> Option<Request<D>> {
        let rq = self.next;
        if rq.is_null() {
            return None;
        }
        // SAFETY: By the invariant we own the request, so by the invariant of `Pdu` only we access
        // its link.
        self.next = unsafe { *(*Pdu::of(rq)).link.get() };
        // SAFETY: By the invariant we own the request, and it is no longer on the chain.
        Some(unsafe { Request::from_raw(rq) })
    }
}

impl<D: Operations> Drop for Drain<D> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}
