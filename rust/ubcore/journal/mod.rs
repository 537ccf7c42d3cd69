// SPDX-License-Identifier: GPL-2.0

//! The journal ring: its writer, the scan of its blocks, and the replay of its transactions.
//!
//! A *transaction* is what one commit covers: blocks of consecutive sequence numbers. The last
//! block is marked as the last and is written with `PREFLUSH | FUA`. A transaction is valid if all
//! its blocks are there. A power failure may tear what one write carries (up to 8 blocks). The
//! flush of that write made everything before it durable. So if a later, finished transaction
//! follows a hole, the hole is damage.

mod replay;
mod scan;
mod writer;

pub use self::replay::replay;
pub use self::scan::{scan, Found};
pub use self::writer::{Space, Transaction};

use super::error::{Error, Result};
use super::format::ring::NUMBERS;

/// The state of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    blocks: u32,
    head: u32,
    used: u32,
    sequence: u64,
    /// The disk's buffer begins with a block of the ring that has so many words, followed by
    /// zeroes. `None` if the content of the buffer is unknown.
    in_buffer: Option<u16>,
}

impl Ring {
    /// Returns a ring of `blocks`. Its next block goes to `head` with sequence number `sequence`.
    pub fn new(blocks: u32, head: u32, used: u32, sequence: u64) -> Ring {
        Ring {
            blocks,
            head,
            used,
            sequence,
            in_buffer: None,
        }
    }

    /// Returns the position of the next block.
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Returns the number of blocks that the last checkpoint does not cover.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Returns the sequence number of the next block.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns whether a checkpoint should be made, before the ring is full and one must be made.
    pub fn is_half_full(&self) -> bool {
        self.used > self.blocks / 2
    }

    /// Frees all blocks, because a checkpoint that covers them is durable. It has used the disk's
    /// buffer.
    pub fn free_all(&mut self) {
        self.used = 0;
        self.forget_buffer();
    }

    /// Notes that another writer uses the disk's buffer.
    pub fn forget_buffer(&mut self) {
        self.in_buffer = None;
    }

    /// Returns the number of blocks that can be written before a checkpoint, 0 if the ring is full.
    fn free_blocks(&self) -> u32 {
        self.blocks.saturating_sub(self.used)
    }

    /// Returns the sequence number `n` blocks after the next one. Fails before the numbers are used
    /// up, because no reader would take such a block.
    fn sequence_after(&self, n: u16) -> Result<u64> {
        let sequence = self.sequence.checked_add(u64::from(n));
        let sequence = sequence.filter(|&s| s < NUMBERS);
        sequence.ok_or(Error::Internal)
    }

    /// Returns the ring as it is when `blocks` of its free blocks have been written.
    fn advanced(&self, blocks: u16) -> Result<Ring> {
        Ok(Ring {
            sequence: self.sequence_after(blocks)?,
            head: after(self.head, u32::from(blocks), self.blocks),
            used: self.used.wrapping_add(u32::from(blocks)),
            ..*self
        })
    }
}

/// Returns the ring position `n` blocks after `at`. `at` is below the ring's size of `blocks`, and
/// `n` is at most that size.
pub(super) fn after(at: u32, n: u32, blocks: u32) -> u32 {
    // A ring has at most 2^16 blocks.
    let sum = at.wrapping_add(n);
    match sum.checked_sub(blocks) {
        Some(past) => past,
        None => sum,
    }
}
