// SPDX-License-Identifier: GPL-2.0

//! Warnings of conditions that cannot occur.
//!
//! C header: [`include/asm-generic/bug.h`](srctree/include/asm-generic/bug.h)

/// If the condition is true, prints a warning with a backtrace, once for each place in the code:
/// `WARN_ON_ONCE()`.
macro_rules! warn_on_once {
    ($cond:expr) => {
        if $cond {
            kernel::do_once_lite! {
                kernel::warn_on!(true);
            }
        }
    };
}

pub(crate) use warn_on_once;
