// SPDX-License-Identifier: GPL-2.0

//! A leaf or a layer as the core's disk, for synchronous I/O of metadata.

use crate::{
    blk::{
        BlockDevice,
        IoBuffer,
        WriteOrder, //
    },
    error::{
        errno_number,
        to_core, //
    },
    sys::task,
    ubcore::{
        commit::Committer,
        disk::{
            Buffer,
            Disk,
            Order,
            BUFFER_BLOCKS, //
        },
        error::{
            Error,
            Result,
            Role, //
        },
        format::directory::PageEntry,
        geometry::{
            Block,
            BLOCK_BYTES, //
        },
        leaf_block::LeafBlock,
        num::{
            u64_as_usize,
            usize_as_u64, //
        },
        sealed, //
    },
};
use kernel::prelude::*;

/// The committer, over the memory that the kernel provides.
pub(super) type UnionCommitter = Committer<KVVec<u64>, KVVec<PageEntry>>;

/// The memory of the core's buffer.
pub(super) type MetadataBuffer = IoBuffer<BUFFER_BLOCKS>;

/// The state that a commit uses. One commit runs at a time.
pub(super) struct Metadata {
    pub(super) committer: UnionCommitter,
    pub(super) buffer: MetadataBuffer,
}

/// A leaf, or a layer, as the core's disk. Process context; allocates nothing.
pub(crate) struct MetadataDisk<'a> {
    device: &'a BlockDevice,
    /// The sector of the device at which the layer begins. 0 for a leaf.
    offset: u64,
    /// A layer is never written.
    is_layer: bool,
    buffer: &'a mut MetadataBuffer,
}

impl<'a> MetadataDisk<'a> {
    pub(super) fn new(leaf: &'a BlockDevice, buffer: &'a mut MetadataBuffer) -> Self {
        MetadataDisk {
            device: leaf,
            offset: 0,
            is_layer: false,
            buffer,
        }
    }

    /// Returns a layer, which is only read, as a disk.
    pub(super) fn of_layer(
        layer: &'a BlockDevice,
        offset: u64,
        buffer: &'a mut MetadataBuffer,
    ) -> Self {
        MetadataDisk {
            device: layer,
            offset,
            is_layer: true,
            buffer,
        }
    }

    /// Returns a buffer of the size that the core needs.
    pub(super) fn new_buffer() -> Result<MetadataBuffer> {
        MetadataBuffer::new().map_err(|_| Error::NoMemory)
    }
}

/// Returns the first sector of `block`, and the length of `count` blocks in bytes.
fn block_range(block: LeafBlock, count: usize) -> Result<(u64, usize)> {
    let sector = block.first_sector().ok_or(Error::Internal)?;
    let bytes = count.checked_mul(BLOCK_BYTES).ok_or(Error::Internal)?;
    Ok((sector, bytes))
}

/// Returns the core error for a failed write, zeroing or flush of the leaf.
pub(super) fn write_error(e: kernel::error::Error, sector: u64) -> Error {
    if e == ENOSPC {
        // The storage below the leaf is full: a thin pool, or the file system of an image.
        Error::Os(errno_number(e))
    } else {
        Error::Io(Role::Leaf, sector)
    }
}

impl Disk for MetadataDisk<'_> {
    fn buffer(&mut self) -> &mut Buffer {
        self.buffer.as_mut_pages()
    }

    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        let (sector, bytes) = block_range(block, count)?;
        let at = sector.checked_add(self.offset).ok_or(Error::Internal)?;
        let role = if self.is_layer {
            Role::Layer
        } else {
            Role::Leaf
        };
        // An error of the medium is `Io` too, so that a salvage continues without the block.
        self.device
            .read(at, self.buffer, 0..bytes)
            .map_err(|e| read_error(role, sector, e))
    }

    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        let (sector, bytes) = block_range(block, count)?;
        if self.is_layer {
            return Err(Error::Internal);
        }
        let order = match order {
            Order::Plain => WriteOrder::Plain,
            Order::Fua => WriteOrder::Fua,
            Order::FlushFua => WriteOrder::FlushFua,
        };
        self.device
            .write(sector, self.buffer, 0..bytes, order)
            .map_err(|e| write_error(e, sector))
    }

    fn flush(&mut self) -> Result {
        self.device.flush().map_err(|e| write_error(e, 0))
    }

    fn give_way(&mut self) -> Result {
        to_core(task::give_way())
    }
}

/// A sealed layer, as the core reads it.
impl sealed::Reader for MetadataDisk<'_> {
    fn read(&mut self, block: u64, most: u64) -> Result<usize> {
        let count = u64_as_usize(most.min(usize_as_u64(BUFFER_BLOCKS)));
        Disk::read(self, LeafBlock(block), count)?;
        Ok(count)
    }

    fn buffer(&self) -> &[Block] {
        self.buffer.as_pages()
    }

    fn give_way(&mut self) -> Result {
        Disk::give_way(self)
    }
}

/// Returns the core error for a failed synchronous read.
pub(super) fn read_error(role: Role, sector: u64, e: kernel::error::Error) -> Error {
    if e == ENOMEM {
        Error::NoMemory
    } else {
        // A medium error is not EIO, and the sector says more than the number of the error.
        Error::Io(role, sector)
    }
}
