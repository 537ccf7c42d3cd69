// SPDX-License-Identifier: GPL-2.0

//! The list of the layers below a leaf, the lowest first. Format writes it once, and nothing
//! changes it later.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, transmute_ref, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::geometry::Block;
use super::super::num::{saturating_u32, u32_as_usize, usize_as_u64, SECTOR_BYTES};
use super::super::stack::chain::LayerId;
use super::checksum::has_valid_checksum;
use super::crc::crc32c;
use super::first_wrong;

const MAGIC: [u8; 4] = *b"UBly";
/// Bytes of a path with its NUL, as in the ioctl structures.
pub const PATH_BYTES: usize = 256;
/// Layers that one block of the list names.
pub const LAYERS_PER_BLOCK: u32 = 13;

/// A layer, as the list of a leaf names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLayer {
    /// What the layer must be.
    pub id: LayerId,
    /// The byte of the device or image at which the layer began when the leaf was formatted.
    pub offset: u64,
    /// Where the layer was when the leaf was formatted: a path that ends with NUL, then NULs. It
    /// may be empty. It is a hint, and decides nothing.
    pub path: [u8; PATH_BYTES],
}

impl ListedLayer {
    /// Returns the path, without its NULs.
    pub fn path(&self) -> &[u8] {
        let end = self.path.iter().position(|&b| b == 0);
        // A path without NUL does not decode.
        end.and_then(|end| self.path.get(..end)).unwrap_or_default()
    }
}

/// A layer as it lies on the leaf.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskLayer {
    kind: u8,
    reserved0: [u8; 7],
    offset: U64,
    id: [u8; 32],
    path: [u8; PATH_BYTES],
    reserved1: [u8; 8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskListHead {
    magic: [u8; 4],
    crc: U32,
    nonce: U64,
    index: U32,
    count: U32,
    reserved: [u8; 16],
}

/// A block of the list as it lies on the leaf.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskListBlock {
    head: DiskListHead,
    layers: [DiskLayer; LAYERS_PER_BLOCK as usize],
}

/// Returns how many of `layers` layers block `index` of their list names.
pub fn count_in(layers: u32, index: u32) -> u32 {
    let before = index.saturating_mul(LAYERS_PER_BLOCK);
    layers.saturating_sub(before).min(LAYERS_PER_BLOCK)
}

/// Encodes block `index` of a list. `layers` are those of the block, at most
/// [`LAYERS_PER_BLOCK`]; more are left out.
pub fn encode(block: &mut Block, index: u32, nonce: u64, layers: &[ListedLayer]) {
    block.fill(0);
    let disk: &mut DiskListBlock = transmute_mut!(block);
    for (room, layer) in disk.layers.iter_mut().zip(layers) {
        room.kind = layer.id.kind();
        room.offset = U64::new(layer.offset);
        room.id = layer.id.bytes();
        room.path = layer.path;
    }
    disk.head = DiskListHead {
        magic: MAGIC,
        crc: U32::ZERO,
        nonce: U64::new(nonce),
        index: U32::new(index),
        count: U32::new(saturating_u32(usize_as_u64(layers.len())).min(LAYERS_PER_BLOCK)),
        reserved: [0; 16],
    };
    let crc = crc32c(0, disk.as_bytes());
    disk.head.crc = U32::new(crc);
}

/// Decodes block `index` of a list of `layers` layers, and calls `each` with each of them. Fails
/// with the byte of the first thing that is wrong, and has called `each` for none then.
pub fn decode(
    block: &Block,
    index: u32,
    nonce: u64,
    layers: u32,
    mut each: impl FnMut(ListedLayer),
) -> Result<(), usize> {
    let disk: &DiskListBlock = transmute_ref!(block);
    let head = &disk.head;
    let count = count_in(layers, index);
    first_wrong(&[
        (head.magic == MAGIC, offset_of!(DiskListHead, magic)),
        (has_valid_checksum(block), offset_of!(DiskListHead, crc)),
        (head.nonce.get() == nonce, offset_of!(DiskListHead, nonce)),
        (head.index.get() == index, offset_of!(DiskListHead, index)),
        (head.count.get() == count, offset_of!(DiskListHead, count)),
        (head.reserved == [0; 16], offset_of!(DiskListHead, reserved)),
    ])?;
    let mut start = size_of::<DiskListHead>();
    for (n, layer) in (0..).zip(&disk.layers) {
        layer
            .check(n < count)
            .map_err(|at| start.wrapping_add(at))?;
        start = start.wrapping_add(size_of::<DiskLayer>());
    }
    for layer in disk.layers.iter().take(u32_as_usize(count)) {
        if let Some(id) = LayerId::from_bytes(layer.kind, layer.id) {
            each(ListedLayer {
                id,
                offset: layer.offset.get(),
                path: layer.path,
            });
        }
    }
    Ok(())
}

impl DiskLayer {
    /// Fails with the byte of the first thing that is wrong. An entry that is not `used` is zero.
    fn check(&self, used: bool) -> Result<(), usize> {
        if !used {
            let first = self.as_bytes().iter().position(|&b| b != 0);
            return first.map_or(Ok(()), Err);
        }
        // Behind its first NUL a path has only NULs.
        let end = self.path.iter().position(|&b| b == 0);
        let tail = end.and_then(|end| self.path.get(end..));
        first_wrong(&[
            (
                LayerId::from_bytes(self.kind, self.id).is_some(),
                offset_of!(Self, kind),
            ),
            (self.reserved0 == [0; 7], offset_of!(Self, reserved0)),
            (
                self.offset.get() % SECTOR_BYTES == 0,
                offset_of!(Self, offset),
            ),
            (
                tail.is_some_and(|t| t.iter().all(|&b| b == 0)),
                offset_of!(Self, path),
            ),
            (self.reserved1 == [0; 8], offset_of!(Self, reserved1)),
        ])
    }
}

/// Returns the number of blocks that a list of `layers` layers takes.
pub const fn blocks_for(layers: u32) -> u32 {
    layers.div_ceil(LAYERS_PER_BLOCK)
}

const _: () = assert!(size_of::<DiskListBlock>() == super::super::geometry::BLOCK_BYTES);

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_layer_list))]
mod tests {
    use super::super::super::stack::chain::{LayerId, Seal};
    use super::{blocks_for, count_in, decode, encode, ListedLayer, PATH_BYTES};

    fn layer(n: u8) -> ListedLayer {
        let mut path = [0; PATH_BYTES];
        path[0] = b'a' + n;
        let id = if n % 2 == 0 {
            LayerId::Frozen([n; 16], Seal([n + 1; 16]))
        } else {
            LayerId::Sealed([n; 32])
        };
        let offset = u64::from(n) * 512;
        ListedLayer { id, offset, path }
    }

    #[test]
    fn a_block_comes_back() {
        let layers = [layer(0), layer(1), layer(2)];
        let mut block = [0; 4096];
        encode(&mut block, 1, 9, &layers);
        let mut n = 0;
        let done = decode(&block, 1, 9, 16, |l| {
            assert!(layers[n] == l);
            n += 1;
        });
        assert!(done.is_ok() && n == 3);
        // Another leaf's, another place, another number of layers.
        assert!(decode(&block, 1, 8, 16, |_| ()) == Err(8));
        assert!(decode(&block, 0, 9, 16, |_| ()) == Err(16));
        assert!(decode(&block, 1, 9, 17, |_| ()) == Err(20));
        block[4000] ^= 1;
        assert!(decode(&block, 1, 9, 16, |_| ()) == Err(4));
        block[0] = 0;
        assert!(decode(&block, 1, 9, 16, |_| ()) == Err(0));
    }

    #[test]
    fn lists_fill_their_blocks() {
        assert_eq!(blocks_for(0), 0);
        assert_eq!(blocks_for(13), 1);
        assert_eq!(blocks_for(254), 20);
        assert_eq!(count_in(254, 19), 7);
        assert_eq!(count_in(254, 20), 0);
        assert_eq!(count_in(3, 0), 3);
    }
}
