// SPDX-License-Identifier: GPL-2.0

//! The device under the metadata, as the core uses it: whole blocks, in a stated order.

use super::error::{Error, Result};
use super::geometry::{Block, BLOCK_BYTES};
use super::leaf_block::LeafBlock;

/// The number of blocks that a [`Disk`]'s buffer holds, which is the most that one metadata I/O
/// moves (32 KiB).
pub const BUFFER_BLOCKS: usize = 8;

/// The buffer of a [`Disk`].
pub type Buffer = [Block; BUFFER_BLOCKS];

/// Returns a buffer of zeroes.
pub const fn zeroes() -> Buffer {
    [[0; BLOCK_BYTES]; BUFFER_BLOCKS]
}

/// How durable a write must be when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The write may stay in the device's cache, and may reach the medium after later writes.
    Plain,
    /// Everything that had completed before is durable, and so is the write itself
    /// (`REQ_PREFLUSH | REQ_FUA`).
    FlushFua,
    /// The write itself is durable (`REQ_FUA`).
    Fua,
}

/// A leaf or a layer, as a synchronous array of 4096-byte blocks, with its own buffer. A layer is
/// only read.
///
/// Called in process context, by one caller at a time; may sleep, must not allocate.
pub trait Disk {
    /// Returns the buffer that reads fill and writes take from.
    fn buffer(&mut self) -> &mut Buffer;

    /// Returns the first block of the buffer.
    fn block(&mut self) -> &mut Block {
        let [first, ..] = self.buffer();
        first
    }

    /// Returns block `n` (below [`BUFFER_BLOCKS`]) of the buffer.
    fn nth_block(&mut self, n: usize) -> Result<&mut Block> {
        self.buffer().get_mut(n).ok_or(Error::Internal)
    }

    /// Reads `count` blocks (1 to [`BUFFER_BLOCKS`]) from `block` into the start of the buffer.
    fn read(&mut self, block: LeafBlock, count: usize) -> Result;

    /// Writes the first `count` blocks (1 to [`BUFFER_BLOCKS`]) of the buffer to `block`.
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result;

    /// Makes everything that has completed durable.
    fn flush(&mut self) -> Result;

    /// Gives way to other tasks. An error ends the work that calls it. In the driver it fails if
    /// the task has a fatal signal pending.
    ///
    /// Attach calls it between its steps. Each step is bounded by a block or a page. The leaf's
    /// content decides how many steps there are, and the writer of the leaf decides the content.
    fn give_way(&mut self) -> Result {
        Ok(())
    }
}
