// SPDX-License-Identifier: GPL-2.0

//! A shortage of memory: requests that wait for a page of the map wait until it ends.

use super::Handle;
use crate::threads::{Condvar, Mutex};

pub(super) struct Shortage {
    lasts: Mutex<bool>,
    ended: Condvar,
}

impl Default for Shortage {
    fn default() -> Shortage {
        Shortage {
            lasts: Mutex::new(false),
            ended: Condvar::new(),
        }
    }
}

impl Shortage {
    /// Waits until there is memory.
    pub(super) fn wait(&self) {
        let mut lasts = self.lasts.lock().expect("no thread has panicked");
        while *lasts {
            lasts = self.ended.wait(lasts).expect("no thread has panicked");
        }
    }

    fn set(&self, lasts: bool) {
        *self.lasts.lock().expect("no thread has panicked") = lasts;
        self.ended.notify_all();
    }
}

impl Handle {
    /// Begins or ends a shortage: there is no page for the map, and no request that waits for one
    /// gets it.
    pub fn set_shortage(&self, lasts: bool) {
        self.map.memory().set_free(0);
        self.shortage.set(lasts);
    }
}
