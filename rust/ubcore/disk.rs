// SPDX-License-Identifier: GPL-2.0

//! What the core asks of the device under the metadata: whole blocks, in a stated order.

use super::error::Result;

/// Blocks that a [`Disk`]'s buffer holds: the most that one metadata I/O moves (32 KiB).
pub const BUFFER_BLOCKS: usize = 8;

/// How durable a write must be when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It may sit in the device's cache, and land after what is written later.
    Plain,
    /// Everything that had completed before is durable, and so is the write itself
    /// (`REQ_PREFLUSH | REQ_FUA`).
    FlushFua,
    /// The write itself is durable (`REQ_FUA`).
    Fua,
}

/// The leaf, as a synchronous array of 4096-byte blocks, with one buffer of its own.
///
/// Called in process context, by one caller at a time; may sleep, must not allocate.
pub trait Disk {
    /// The buffer of [`BUFFER_BLOCKS`] blocks that reads fill and writes take from.
    fn buffer(&mut self) -> &mut [u8];

    /// Reads `count` blocks (1 to [`BUFFER_BLOCKS`]) from `block` into the start of the buffer.
    fn read(&mut self, block: u64, count: usize) -> Result;

    /// Writes the first `count` blocks (1 to [`BUFFER_BLOCKS`]) of the buffer to `block`.
    fn write(&mut self, block: u64, count: usize, order: Order) -> Result;

    /// Makes everything that has completed durable.
    fn flush(&mut self) -> Result;

    /// Gives way to other tasks. An error ends the work that calls it.
    ///
    /// Attach calls it between steps that are bounded each by a block or a page: the leaf's content
    /// decides how many steps there are, and its writer decides the content.
    fn give_way(&mut self) -> Result {
        Ok(())
    }
}
