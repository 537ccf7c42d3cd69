// SPDX-License-Identifier: GPL-2.0

//! The atomics of the driver. The core has its own file, with the same ones. No other file names
//! the atomics of `core` or of the kernel, and `scripts/check-strata.sh` checks this.
//!
//! They are those of `core`, although the kernel's guidelines ask for `kernel::sync::atomic`. On
//! x86, the only machine of the driver, both come to the same instruction: `mov`, `xchg`, `lock
//! xadd`, `lock cmpxchg`. But each access to one of the kernel's is a call of a C helper, unless
//! `CONFIG_RUST_INLINE_HELPERS` is set, which the stock kernel does not do. The helper of a load is
//! `endbr64`, `mov` and a return, so the call is at least three instructions more, and the caller
//! has to save registers. A build in which only the lists, counters and events used the kernel's
//! atomics had 113 such calls. The 21 that are left are of `SetOnce` and of messages printed once.
//!
//! The accesses of two requests, counted in the source. One of each is locked, the exchange:
//!
//! ```text
//!                                             4 KiB read,   4 KiB
//!                                             mapped        overwrite
//!   start      word, round_end (stores)          2             2
//!              queue_data                        1             1
//!   queue      may_wait (store)                  1             1
//!              turned_read_only                  -             1
//!              round_end                         1             1
//!   enter      epoch, word, word (exchange)      3             3
//!   look-up    page and entry of the table       2             2
//!              page and word of the bits         2             -
//!   submit     round_end, may_wait, queue_data   3             3
//!              round_start, round_end (stores)   2             2
//!   complete   queue_data                        1             1
//!              round_start, round_end, word      -             3
//!              map:  table, bits, both counts    -             6
//!              leave: word, word (store)         2             2
//!              round_end                         1             1
//!                                               21            29
//! ```
//!
//! So the kernel's atomics would cost a read 63 instructions or more. If helpers become inline,
//! only this file and the core's have to change.

pub(crate) use core::sync::atomic::{
    AtomicBool,
    AtomicI32,
    AtomicPtr,
    AtomicU32,
    AtomicU64,
    Ordering, //
};
