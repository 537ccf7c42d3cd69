// SPDX-License-Identifier: GPL-2.0

//! A sealed layer: the packed, canonical form of what a layer maps.
//!
//! The same content always gives the same bytes, and so the same digest. `sealed-layer.rst`
//! describes them. `seal` writes a sealed layer, `open` reads and verifies all of it but the data,
//! and `chunk` verifies the data. None of them keeps more in memory than buffers of a fixed size.
//! `full_digest` is the same list of digests for what has none in it: a root, or a frozen leaf.

pub mod chunk;
pub mod digests;
pub mod fault;
pub mod full_digest;
pub mod header;
pub mod index;
pub mod open;
pub mod packing;
pub mod seal;
pub mod stand_in;
pub mod units;

pub use super::sha256::Sha256;

use super::error::Result;
use super::geometry::Block;

/// The format version that this code writes and the newest that it reads.
pub const VERSION: u32 = 1;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Returns whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == 0)
}

/// The device that a sealed layer is read from, with its own buffer. Blocks count from the start of
/// the layer, wherever that is on the device.
///
/// Called in process context, by one caller at a time; may sleep.
pub trait Reader {
    /// Reads at least one and at most `most` blocks (at least 1) from `block` on into the start of
    /// the buffer. Returns how many it has read.
    fn read(&mut self, block: u64, most: u64) -> Result<usize>;

    /// Returns the buffer.
    fn buffer(&self) -> &[Block];

    /// Gives way to other tasks, as [`Disk::give_way`](super::disk::Disk::give_way) does.
    fn give_way(&mut self) -> Result {
        Ok(())
    }
}

/// The device that a sealed layer is written to. Blocks count from the start of the layer.
pub trait Writer {
    /// Writes blocks from `block` on. They are durable after [`Writer::flush`].
    fn write(&mut self, block: u64, blocks: &[Block]) -> Result;

    /// Makes everything that was written durable.
    fn flush(&mut self) -> Result;
}

/// The data of the layer that is being sealed.
pub trait SourceData {
    /// Reads whole sectors into `buf`, from sector `position` of the layer's device on. Positions
    /// are those of [`Data`](super::stack::extent::Content::Data).
    fn read(&mut self, position: u64, buf: &mut [u8]) -> Result;
}
