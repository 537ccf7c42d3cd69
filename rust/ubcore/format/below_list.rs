// SPDX-License-Identifier: GPL-2.0

//! The list of root and layers: what lies below a leaf. The first entry is the root, if the leaf
//! has the feature `ROOT_LISTED`, and the layers follow, the lowest first. Format writes the list,
//! and later only a repair of a leaf without layers writes it again. The driver never writes it, so
//! it keeps no path of it in memory.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, transmute_ref, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::geometry::Block;
use super::super::num::{next, u32_as_usize, SECTOR_BYTES};
use super::super::stack::chain::LayerId;
use super::checksum::has_valid_checksum;
use super::crc::crc32c;
use super::first_wrong;
use super::superblock::Superblock;

const MAGIC: [u8; 4] = *b"UBbl";
/// The kind of the entry of the root. [`LayerId::kind`] has those of layers.
const KIND_ROOT: u8 = 3;
/// Bytes of a path with its NUL, as in the ioctl structures.
pub const PATH_BYTES: usize = 256;
/// Entries of one block of the list.
pub const ENTRIES_PER_BLOCK: u32 = 13;

/// The path of a device or image when the leaf was formatted. It ends with NUL, then there are only
/// NULs. It may be empty. It is a hint, and decides nothing.
pub type PathField = [u8; PATH_BYTES];

/// The root, as the list of a leaf names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedRoot {
    /// What the root must be: the digest of the superblock.
    pub digest: [u8; 32],
    /// Where the root was.
    pub path: PathField,
}

impl ListedRoot {
    /// Returns the path, without its NULs.
    pub fn path(&self) -> &[u8] {
        text_of(&self.path)
    }
}

/// A layer, as the list of a leaf names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLayer {
    /// What the layer must be.
    pub id: LayerId,
    /// The byte of the device or image at which the layer began when the leaf was formatted.
    pub offset: u64,
    /// Where the layer was.
    pub path: PathField,
}

impl ListedLayer {
    /// Returns the path, without its NULs.
    pub fn path(&self) -> &[u8] {
        text_of(&self.path)
    }
}

/// Returns the bytes of a path before its first NUL, or all of them if there is none.
fn text_of(path: &PathField) -> &[u8] {
    let end = path.iter().position(|&b| b == 0);
    end.and_then(|end| path.get(..end)).unwrap_or(path)
}

/// An entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// The root, which is the first entry if it is listed.
    Root(ListedRoot),
    /// A layer.
    Layer(ListedLayer),
}

/// A whole list.
#[derive(Clone, Copy, Debug)]
pub struct BelowList<'a> {
    /// The root, if it is listed.
    pub root: Option<ListedRoot>,
    /// The layers, the lowest first.
    pub layers: &'a [ListedLayer],
}

impl BelowList<'_> {
    fn entries(&self) -> impl Iterator<Item = Listed> + '_ {
        let layers = self.layers.iter().copied().map(Listed::Layer);
        self.root.map(Listed::Root).into_iter().chain(layers)
    }

    /// Encodes block `index` of the list: the entries that belong there. A block past the last has
    /// none.
    pub fn encode(&self, block: &mut Block, index: u32, nonce: u64) {
        block.fill(0);
        let disk: &mut DiskListBlock = transmute_mut!(block);
        let before = u32_as_usize(index.saturating_mul(ENTRIES_PER_BLOCK));
        let mut count = 0;
        for (room, entry) in disk.entries.iter_mut().zip(self.entries().skip(before)) {
            *room = DiskListEntry::new(&entry);
            count = next(count);
        }
        disk.head = DiskListHead {
            magic: MAGIC,
            crc: U32::ZERO,
            nonce: U64::new(nonce),
            index: U32::new(index),
            count: U32::new(count),
            reserved: [0; 16],
        };
        let crc = crc32c(0, disk.as_bytes());
        disk.head.crc = U32::new(crc);
    }
}

/// An entry as it lies on the leaf.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskListEntry {
    kind: u8,
    reserved0: [u8; 7],
    offset: U64,
    id: [u8; 32],
    path: PathField,
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
    entries: [DiskListEntry; ENTRIES_PER_BLOCK as usize],
}

/// Returns how many entries block `index` of a list of `entries` has.
pub fn count_in(entries: u32, index: u32) -> u32 {
    let before = index.saturating_mul(ENTRIES_PER_BLOCK);
    entries.saturating_sub(before).min(ENTRIES_PER_BLOCK)
}

/// Decodes block `index` of the list of the leaf that `sb` describes, and calls `each` with each
/// entry. Fails with the byte of the first thing that is wrong. It has called `each` for none then.
pub fn decode(
    block: &Block,
    index: u32,
    sb: &Superblock,
    mut each: impl FnMut(Listed),
) -> Result<(), usize> {
    let disk: &DiskListBlock = transmute_ref!(block);
    let head = &disk.head;
    let count = count_in(sb.geometry.below_entries(), index);
    first_wrong(&[
        (head.magic == MAGIC, offset_of!(DiskListHead, magic)),
        (has_valid_checksum(block), offset_of!(DiskListHead, crc)),
        (
            head.nonce.get() == sb.nonce,
            offset_of!(DiskListHead, nonce),
        ),
        (head.index.get() == index, offset_of!(DiskListHead, index)),
        (head.count.get() == count, offset_of!(DiskListHead, count)),
        (head.reserved == [0; 16], offset_of!(DiskListHead, reserved)),
    ])?;
    let root = (index == 0 && sb.geometry.lists_root()).then_some(&sb.root_digest);
    let root_at = |n: u32| root.filter(|_| n == 0);
    let mut start = size_of::<DiskListHead>();
    for (n, entry) in (0..).zip(&disk.entries) {
        let sound = if n < count {
            entry.decode(root_at(n)).map(drop)
        } else {
            entry.check_unused()
        };
        sound.map_err(|at| start.wrapping_add(at))?;
        start = start.wrapping_add(size_of::<DiskListEntry>());
    }
    for (n, entry) in (0..count).zip(&disk.entries) {
        each(entry.decode(root_at(n))?);
    }
    Ok(())
}

impl DiskListEntry {
    fn new(entry: &Listed) -> Self {
        let (kind, offset, id, path) = match entry {
            Listed::Root(root) => (KIND_ROOT, 0, root.digest, root.path),
            Listed::Layer(layer) => (layer.id.kind(), layer.offset, layer.id.bytes(), layer.path),
        };
        DiskListEntry {
            kind,
            reserved0: [0; 7],
            offset: U64::new(offset),
            id,
            path,
            reserved1: [0; 8],
        }
    }

    /// Decodes an entry, which is that of the root with the digest `root`, or of a layer. Fails
    /// with the byte of the first thing that is wrong.
    fn decode(&self, root: Option<&[u8; 32]>) -> Result<Listed, usize> {
        let layer = LayerId::from_bytes(self.kind, self.id);
        let (kind_fits, id_fits) = match root {
            Some(digest) => (self.kind == KIND_ROOT, self.id == *digest),
            None => (layer.is_some(), true),
        };
        let offset = self.offset.get();
        let offset_fits = offset % SECTOR_BYTES == 0 && (root.is_none() || offset == 0);
        // Behind its first NUL a path has only NULs.
        let end = self.path.iter().position(|&b| b == 0);
        let tail = end.and_then(|end| self.path.get(end..));
        let path_fits = tail.is_some_and(|t| t.iter().all(|&b| b == 0));
        first_wrong(&[
            (kind_fits, offset_of!(Self, kind)),
            (self.reserved0 == [0; 7], offset_of!(Self, reserved0)),
            (offset_fits, offset_of!(Self, offset)),
            (id_fits, offset_of!(Self, id)),
            (path_fits, offset_of!(Self, path)),
            (self.reserved1 == [0; 8], offset_of!(Self, reserved1)),
        ])?;
        let path = self.path;
        match (root, layer) {
            (Some(&digest), _) => Ok(Listed::Root(ListedRoot { digest, path })),
            (None, Some(id)) => Ok(Listed::Layer(ListedLayer { id, offset, path })),
            (None, None) => Err(offset_of!(Self, kind)),
        }
    }

    /// Fails with the first byte that is not zero.
    fn check_unused(&self) -> Result<(), usize> {
        let first = self.as_bytes().iter().position(|&b| b != 0);
        first.map_or(Ok(()), Err)
    }
}

/// Returns the number of blocks that a list of `entries` takes.
pub const fn blocks_for(entries: u32) -> u32 {
    entries.div_ceil(ENTRIES_PER_BLOCK)
}

const _: () = assert!(size_of::<DiskListBlock>() == super::super::geometry::BLOCK_BYTES);

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_below_list))]
mod tests {
    use super::super::super::geometry::Geometry;
    use super::super::super::stack::chain::{LayerId, Seal};
    use super::super::superblock::Superblock;
    use super::{blocks_for, count_in, decode, BelowList, ListedLayer, ListedRoot, PATH_BYTES};

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

    fn superblock(root_sectors: u64, layers: u32) -> Superblock {
        let g = Geometry::new(root_sectors, 204_800, 65_536, 128, 16).unwrap();
        Superblock::new([1; 16], 9, g.over(layers).unwrap(), 512, [7; 32])
    }

    #[test]
    fn a_block_comes_back() {
        let layers = [layer(0), layer(1), layer(2)];
        let path = layers[0].path;
        for root_sectors in [0, 100] {
            let sb = superblock(root_sectors, 3);
            let digest = sb.root_digest;
            let root = sb.has_root().then_some(ListedRoot { digest, path });
            let list = BelowList {
                root,
                layers: &layers,
            };
            let mut block = [0; 4096];
            list.encode(&mut block, 0, 9);
            let mut wanted = list.entries();
            let done = decode(&block, 0, &sb, |found| {
                assert!(wanted.next() == Some(found))
            });
            assert!(done.is_ok() && wanted.next().is_none());
            // Another leaf's, another place, another number of entries, another root.
            let nonce = Superblock {
                nonce: 8,
                ..sb.clone()
            };
            assert!(decode(&block, 0, &nonce, |_| ()) == Err(8));
            assert!(decode(&block, 1, &sb, |_| ()) == Err(16));
            assert!(decode(&block, 0, &superblock(root_sectors, 4), |_| ()) == Err(20));
            let root_digest = [8; 32];
            let other = Superblock { root_digest, ..sb };
            let found = decode(&block, 0, &other, |_| ());
            assert!(found == root.map_or(Ok(()), |_| Err(40 + 16)));
            block[4000] ^= 1;
            assert!(decode(&block, 0, &other, |_| ()) == Err(4));
            block[0] = 0;
            assert!(decode(&block, 0, &other, |_| ()) == Err(0));
        }
    }

    #[test]
    fn the_root_is_the_first_entry_and_no_other() {
        let path = [0; PATH_BYTES];
        let digest = [7; 32];
        let root = Some(ListedRoot { digest, path });
        let mut block = [0; 4096];
        // A layer where the root belongs, and a root where a layer belongs.
        let layers = [layer(0), layer(1)];
        let list = BelowList {
            root: None,
            layers: &layers,
        };
        list.encode(&mut block, 0, 9);
        assert!(decode(&block, 0, &superblock(100, 1), |_| ()) == Err(40));
        let list = BelowList {
            root,
            layers: &layers,
        };
        list.encode(&mut block, 0, 9);
        assert!(decode(&block, 0, &superblock(0, 3), |_| ()) == Err(40));
        assert!(decode(&block, 0, &superblock(100, 2), |_| ()).is_ok());
    }

    #[test]
    fn lists_fill_their_blocks() {
        assert_eq!(blocks_for(0), 0);
        assert_eq!(blocks_for(13), 1);
        assert_eq!(blocks_for(255), 20);
        assert_eq!(count_in(255, 19), 8);
        assert_eq!(count_in(255, 20), 0);
        assert_eq!(count_in(3, 0), 3);
        let layers = [layer(0); 14];
        let path = [0; PATH_BYTES];
        let root = Some(ListedRoot {
            digest: [7; 32],
            path,
        });
        let list = BelowList {
            root,
            layers: &layers,
        };
        let mut block = [0; 4096];
        for index in 0..3 {
            list.encode(&mut block, index, 9);
            let count = count_in(15, index);
            assert_eq!(block[20..24], count.to_le_bytes());
            let mut found = 0;
            assert!(decode(&block, index, &superblock(100, 14), |_| found += 1).is_ok());
            assert_eq!(found, count);
        }
    }
}
