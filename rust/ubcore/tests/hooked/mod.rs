// SPDX-License-Identifier: GPL-2.0

//! A map's memory at every access to which something else can happen: what interrupts, and other
//! CPUs, do to code that runs without a lock.

use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

use ubcore::error::Result;
use ubcore::geometry::Geometry;
use ubcore::map::{BitsPage, Memory, TablePage};

use crate::sim::memory::SimMemory;

pub type Hook = Box<dyn FnOnce()>;

/// Memory that counts how often it is asked for, and does something once before an answer.
pub struct Hooked {
    memory: SimMemory,
    calls: Cell<u32>,
    hook: RefCell<Option<(u32, Hook)>>,
}

impl Hooked {
    pub fn new(g: &Geometry) -> Self {
        Hooked {
            memory: SimMemory::new(g),
            calls: Cell::new(0),
            hook: RefCell::new(None),
        }
    }

    /// Runs `code`; before its access `n` to this memory, `hook` runs. How many there were.
    pub fn interrupt(&self, n: u32, hook: Hook, code: impl FnOnce()) -> u32 {
        self.calls.set(0);
        *self.hook.borrow_mut() = Some((n, hook));
        code();
        self.hook.borrow_mut().take();
        self.calls.get()
    }

    fn asked(&self) -> &SimMemory {
        let n = self.calls.get();
        self.calls.set(n + 1);
        let due = self.hook.borrow().as_ref().is_some_and(|h| h.0 == n);
        if due {
            let hook = self.hook.borrow_mut().take().unwrap().1;
            hook();
        }
        &self.memory
    }
}

impl Memory for Hooked {
    fn table(&self, page: u32) -> Option<&TablePage> {
        self.asked().table(page)
    }
    fn bits(&self, page: u32) -> Option<&BitsPage> {
        self.asked().bits(page)
    }
    fn owners(&self, page: u32) -> Option<&TablePage> {
        self.asked().owners(page)
    }
    fn grow_table(&self, page: u32) -> Result {
        self.asked().grow_table(page)
    }
    fn grow_bits(&self, page: u32) -> Result {
        self.asked().grow_bits(page)
    }
    fn grow_owners(&self, page: u32) -> Result {
        self.asked().grow_owners(page)
    }
    fn dirty(&self) -> &[AtomicU64] {
        self.asked().dirty()
    }
    fn dirty_words(&self) -> &[AtomicU64] {
        self.asked().dirty_words()
    }
    fn fresh(&self) -> &[AtomicU64] {
        self.asked().fresh()
    }
    fn emptied(&self) -> &[AtomicU64] {
        self.asked().emptied()
    }
}
