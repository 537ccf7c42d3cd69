// SPDX-License-Identifier: GPL-2.0

//! The journal ring: its writer, the scan of its blocks, and the replay of its transactions.
//!
//! A *transaction* is the blocks that one commit writes, with consecutive sequence numbers. The
//! last block has the flag *last*, and is written with `PREFLUSH | FUA`. A transaction is valid if
//! all its blocks are there. A power failure may tear what one write carries (up to 8 blocks). The
//! flush of that write made everything before it durable. So if a later, finished transaction
//! follows a hole, the hole is damage.

mod replay;
mod ring;
mod scan;
mod writer;

pub use self::replay::replay;
pub use self::ring::{after, Ring};
pub use self::scan::{find_valid_blocks, scan, ScanResult};
pub use self::writer::{Space, Transaction};
