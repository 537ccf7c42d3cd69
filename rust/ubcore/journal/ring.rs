// SPDX-License-Identifier: GPL-2.0

//! The state of the journal ring in memory.

use super::super::error::{Error, Result};
use super::super::format::ring::NUMBERS;

/// The state of the ring.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub(super) blocks: u32,
    pub(super) head: u32,
    used: u32,
    sequence: u64,
    /// The number of words of the block that the writer left first in the disk's buffer. After
    /// these words the block is zero. `None` if another user of the disk has filled the buffer.
    pub(super) in_buffer: Option<u16>,
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
    /// Fails if more blocks are in use than there are.
    pub(super) fn free_blocks(&self) -> Result<u32> {
        self.blocks.checked_sub(self.used).ok_or(Error::Internal)
    }

    /// Returns the sequence number `n` blocks after the next one. Fails before the numbers are used
    /// up, because no reader would take such a block.
    pub(super) fn sequence_after(&self, n: u16) -> Result<u64> {
        let sequence = self.sequence.checked_add(u64::from(n));
        let sequence = sequence.filter(|&s| s < NUMBERS);
        sequence.ok_or(Error::Internal)
    }

    /// Returns the ring as it is when `blocks` of its free blocks have been written.
    pub(super) fn advanced(&self, blocks: u16) -> Result<Ring> {
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
pub fn after(at: u32, n: u32, blocks: u32) -> u32 {
    // A ring has at most 2^16 blocks.
    let sum = at.wrapping_add(n);
    match sum.checked_sub(blocks) {
        Some(past) => past,
        None => sum,
    }
}
