// SPDX-License-Identifier: GPL-2.0

//! The superblock: 512 bytes at the start of the leaf's blocks 0 and 1, written in turn.
//!
//! Both slots carry the same content once a checkpoint has ended. The valid slot with the higher
//! generation is active. It alone decides what else on the leaf is in use.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute_mut, transmute_ref, FromBytes, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::error::{Area, Error, Result, Role};
use super::super::geometry::{
    is_journal_size, Block, Geometry, SparePages, BLOCK_BYTES, DIRECTORY_BLOCKS_MAX,
};
use super::super::leaf_block::LeafBlock;
use super::super::num::u32_as_usize;
use super::super::slot::Slot;
use super::super::stack::chain::{ChainId, Seal};
use super::crc::{block_crc, crc32c};
use super::features::{Features, COMPAT_BYTES, FROZEN, LAYERED, NO_ROOT, ROOT_LISTED};
use super::first_wrong;
use super::name::{LeafName, NAME_BYTES};
use super::ring::NUMBERS;

/// Bytes of a superblock: one sector, so that it is written as a whole or not at all.
pub const SUPERBLOCK_BYTES: usize = 512;
/// The first bytes of a leaf.
pub const MAGIC: [u8; 8] = *b"UNIONBLK";
const CRC_AT: usize = 8;
/// Bytes of the active slots of the directory blocks: two bits for each.
pub const DIRECTORY_SLOTS_BYTES: usize = u32_as_usize(DIRECTORY_BLOCKS_MAX / 4);

/// The union was detached, and nothing is left in the journal. If no block follows the tail either,
/// attach does not read the rest of the ring. Nothing else in attach depends on the flag.
pub const FLAG_CLEAN: u32 = 1;
/// Discarded sectors show again what lies below the leaf, instead of zeroes.
pub const FLAG_REVEAL: u32 = 2;
/// The leaf's space was allocated when it was made, and stays allocated. The driver passes no
/// discard down.
pub const FLAG_PREALLOCATED: u32 = 4;
const FLAGS_KNOWN: u32 = FLAG_CLEAN | FLAG_REVEAL | FLAG_PREALLOCATED;

/// The superblock as it lies on the leaf.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DiskSuperblock {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    generation: U64,
    features_compat: U64,
    features_ro_compat: U64,
    features_incompat: U64,
    uuid: [u8; 16],
    nonce: U64,
    root_sectors: U64,
    union_sectors: U64,
    leaf_sectors: U64,
    root_block_bytes: U32,
    slab_sectors: U32,
    journal_blocks: U32,
    flags: U32,
    journal_tail: U32,
    layers: U32,
    journal_sequence: U64,
    root_digest: [u8; 32],
    name: [u8; NAME_BYTES],
    compat_bytes: [u8; COMPAT_BYTES],
    seal: [u8; 16],
    chain: [u8; 32],
    directory_slots: [u8; DIRECTORY_SLOTS_BYTES],
    spare_table_pages: U32,
    spare_bits_pages: U32,
}

const _: () = assert!(size_of::<DiskSuperblock>() == SUPERBLOCK_BYTES);

/// The block that a superblock begins.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskSuperblockBlock {
    superblock: DiskSuperblock,
    rest: [u8; BLOCK_BYTES - SUPERBLOCK_BYTES],
}

/// A superblock, decoded and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// One higher for each new content. The higher of two valid slots is active.
    pub generation: u64,
    /// Names the leaf.
    pub uuid: [u8; 16],
    /// Random for each format. Blocks left over from an earlier format do not carry it.
    pub nonce: u64,
    /// The layout of the leaf.
    pub geometry: Geometry,
    /// Logical block size that the root's content was made for, in bytes.
    pub root_block_bytes: u32,
    /// [`FLAG_CLEAN`].
    pub clean: bool,
    /// [`FLAG_REVEAL`].
    pub reveal: bool,
    /// [`FLAG_PREALLOCATED`].
    pub preallocated: bool,
    /// Ring position of the first block that replay has to read.
    pub journal_tail: u32,
    /// The sequence number that this block must carry.
    pub journal_sequence: u64,
    /// SHA-256 over the root's samples, see `root_samples`.
    pub root_digest: [u8; 32],
    /// The name that the user gave to the leaf.
    pub name: LeafName,
    /// Features of this code and of later code.
    pub features: Features,
    /// The layers below the leaf, which `geometry` counts.
    pub chain: ChainId,
    /// The seal of a frozen leaf. Nothing writes to such a leaf.
    pub frozen: Option<Seal>,
    /// The active slot, two bits for each directory block.
    pub directory_slots: [u8; DIRECTORY_SLOTS_BYTES],
}

impl Superblock {
    /// Returns the active slot of directory block `at` (below 992).
    pub fn directory_slot(&self, at: u32) -> Result<Option<Slot>> {
        let byte = self.directory_slots.get(u32_as_usize(at / 4));
        let byte = byte.ok_or(Error::Internal)?;
        Slot::from_bits(byte.wrapping_shr((at % 4).wrapping_mul(2)) & 3)
            .map_err(|_| Error::Damaged(Area::Superblock, LeafBlock(0)))
    }

    /// Makes `slot` the active slot of directory block `at` (below 992).
    pub fn set_directory_slot(&mut self, at: u32, slot: Slot) -> Result {
        let shift = (at % 4).wrapping_mul(2);
        let byte = self.directory_slots.get_mut(u32_as_usize(at / 4));
        let byte = byte.ok_or(Error::Internal)?;
        let bits = Slot::to_bits(Some(slot));
        *byte = (*byte & !3u8.wrapping_shl(shift)) | bits.wrapping_shl(shift);
        Ok(())
    }

    /// Freezes the leaf: nothing writes to it after this superblock.
    pub fn freeze(&mut self, seal: Seal) {
        self.frozen = Some(seal);
        self.features.ro_compat |= FROZEN;
    }

    /// Returns whether the bottom is a root. If not, it reads as zeroes.
    pub fn has_root(&self) -> bool {
        self.features.incompat & NO_ROOT == 0
    }

    fn flags(&self) -> u32 {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        flag(self.clean, FLAG_CLEAN)
            | flag(self.reveal, FLAG_REVEAL)
            | flag(self.preallocated, FLAG_PREALLOCATED)
    }

    /// Writes the superblock into the first 512 bytes of `block` and zeroes the rest of it.
    pub fn encode(&self, block: &mut Block) {
        let disk: &mut DiskSuperblockBlock = transmute_mut!(block);
        let g = &self.geometry;
        let spare = g.spare_pages();
        disk.rest.fill(0);
        disk.superblock = DiskSuperblock {
            magic: MAGIC,
            crc: U32::ZERO,
            version: U32::new(super::VERSION),
            generation: U64::new(self.generation),
            features_compat: U64::new(self.features.compat),
            features_ro_compat: U64::new(self.features.ro_compat),
            features_incompat: U64::new(self.features.incompat),
            uuid: self.uuid,
            nonce: U64::new(self.nonce),
            root_sectors: U64::new(g.root_sectors()),
            union_sectors: U64::new(g.union_sectors()),
            leaf_sectors: U64::new(g.leaf_sectors()),
            root_block_bytes: U32::new(self.root_block_bytes),
            slab_sectors: U32::new(g.slab_sectors()),
            journal_blocks: U32::new(g.journal_blocks()),
            flags: U32::new(self.flags()),
            journal_tail: U32::new(self.journal_tail),
            layers: U32::new(g.layers()),
            journal_sequence: U64::new(self.journal_sequence),
            root_digest: self.root_digest,
            name: self.name.field(),
            compat_bytes: self.features.compat_bytes,
            seal: self.frozen.map_or([0; 16], |Seal(seal)| seal),
            chain: self.chain.0,
            directory_slots: self.directory_slots,
            spare_table_pages: U32::new(spare.table),
            spare_bits_pages: U32::new(spare.bits),
        };
        let crc = crc32c(0, disk.superblock.as_bytes());
        disk.superblock.crc = U32::new(crc);
    }

    /// Decodes one slot. `at` is the block that it was read from, for the error.
    ///
    /// The version and the features are checked before the other fields, because a newer format is
    /// not a damaged one.
    pub fn decode(block: &[u8], at: LeafBlock) -> Result<Superblock> {
        let (disk, _) = DiskSuperblock::read_from_prefix(block).map_err(|_| Error::NotFormatted)?;
        if disk.magic != MAGIC {
            return Err(Error::NotFormatted);
        }
        if block_crc(disk.as_bytes(), CRC_AT) != Some(disk.crc.get()) {
            return Err(Error::Damaged(Area::Superblock, at));
        }
        if disk.version.get() > super::VERSION {
            return Err(Error::NewerVersion(disk.version.get()));
        }
        disk.features().readable()?;
        disk.check()
            .map_err(|_| Error::Damaged(Area::Superblock, at))
    }

    /// Returns whether a slot's checksum is right, whatever its content.
    pub fn has_valid_crc(block: &[u8]) -> bool {
        DiskSuperblock::ref_from_prefix(block)
            .is_ok_and(|(disk, _)| block_crc(disk.as_bytes(), CRC_AT) == Some(disk.crc.get()))
    }

    /// Returns the byte of the first impossible field, in a slot whose checksum is right.
    pub fn bad_field(block: &[u8]) -> Option<usize> {
        let (disk, _) = DiskSuperblock::read_from_prefix(block).ok()?;
        disk.check().err()
    }
}

impl DiskSuperblock {
    fn features(&self) -> Features {
        Features {
            compat: self.features_compat.get(),
            ro_compat: self.features_ro_compat.get(),
            incompat: self.features_incompat.get(),
            compat_bytes: self.compat_bytes,
        }
    }

    fn geometry(&self) -> core::result::Result<Geometry, usize> {
        let made = Geometry::new(
            self.root_sectors.get(),
            self.union_sectors.get(),
            self.leaf_sectors.get(),
            self.slab_sectors.get(),
            self.journal_blocks.get(),
        );
        let lists_root = self.features_incompat.get() & ROOT_LISTED != 0;
        let made = made.and_then(|g| {
            if lists_root {
                Ok(g)
            } else {
                g.without_listed_root()
            }
        });
        let over = made.and_then(|g| g.over(self.layers.get()));
        let over = over.map_err(|e| match e {
            Error::SlabSize(_) => offset_of!(Self, slab_sectors),
            _ if !is_journal_size(self.journal_blocks.get()) => offset_of!(Self, journal_blocks),
            Error::LayerCount(..) => offset_of!(Self, layers),
            Error::TooLarge(Role::Root, _) => offset_of!(Self, union_sectors),
            _ => offset_of!(Self, leaf_sectors),
        })?;
        let spare = SparePages {
            table: self.spare_table_pages.get(),
            bits: self.spare_bits_pages.get(),
        };
        over.with_spare_pages(spare)
            .map_err(|_| offset_of!(Self, spare_table_pages))
    }

    /// Fails with the byte of the first field that is impossible by itself or in this layout.
    fn check_fields(&self, g: &Geometry) -> core::result::Result<(), usize> {
        let block = self.root_block_bytes.get();
        let block_fits = block.is_power_of_two() && (512..=65536).contains(&block);
        // A feature that writers must know may use bytes that are zero without it.
        let announced = self.features().unknown_ro_compat() != 0;
        let has = |word: U64, bit: u64| word.get() & bit != 0;
        let layered = has(self.features_incompat, LAYERED);
        first_wrong(&[
            (self.version.get() != 0, offset_of!(Self, version)),
            (
                self.generation.get() < NUMBERS,
                offset_of!(Self, generation),
            ),
            (
                self.journal_sequence.get() < NUMBERS,
                offset_of!(Self, journal_sequence),
            ),
            (block_fits, offset_of!(Self, root_block_bytes)),
            (
                announced || self.flags.get() & !FLAGS_KNOWN == 0,
                offset_of!(Self, flags),
            ),
            (
                self.journal_tail.get() < g.journal_blocks(),
                offset_of!(Self, journal_tail),
            ),
            (
                has(self.features_incompat, NO_ROOT) == (self.root_sectors.get() == 0),
                offset_of!(Self, root_sectors),
            ),
            (
                !has(self.features_incompat, ROOT_LISTED) || self.root_sectors.get() != 0,
                offset_of!(Self, features_incompat),
            ),
            (
                layered == (self.layers.get() != 0),
                offset_of!(Self, layers),
            ),
            (
                layered || self.chain == ChainId::BOTTOM.0,
                offset_of!(Self, chain),
            ),
            (
                has(self.features_ro_compat, FROZEN) || self.seal == [0; 16],
                offset_of!(Self, seal),
            ),
        ])
    }

    /// Fails with the byte of the first impossible field.
    fn check(&self) -> core::result::Result<Superblock, usize> {
        let g = self.geometry()?;
        let name = LeafName::from_field(self.name).ok_or(offset_of!(Self, name))?;
        self.check_fields(&g)?;
        let sb = Superblock {
            generation: self.generation.get(),
            uuid: self.uuid,
            nonce: self.nonce.get(),
            geometry: g,
            root_block_bytes: self.root_block_bytes.get(),
            clean: self.flags.get() & FLAG_CLEAN != 0,
            reveal: self.flags.get() & FLAG_REVEAL != 0,
            preallocated: self.flags.get() & FLAG_PREALLOCATED != 0,
            journal_tail: self.journal_tail.get(),
            journal_sequence: self.journal_sequence.get(),
            root_digest: self.root_digest,
            name,
            features: self.features(),
            chain: ChainId(self.chain),
            frozen: (self.features_ro_compat.get() & FROZEN != 0).then_some(Seal(self.seal)),
            directory_slots: self.directory_slots,
        };
        for n in 0..DIRECTORY_BLOCKS_MAX {
            let at = offset_of!(Self, directory_slots).wrapping_add(u32_as_usize(n / 4));
            let slot = sb.directory_slot(n).map_err(|_| at)?;
            if n >= g.directory_blocks() && slot.is_some() {
                return Err(at);
            }
        }
        Ok(sb)
    }
}

/// Returns the bytes of a block that a superblock takes.
pub fn sector_of(block: &Block) -> &[u8; SUPERBLOCK_BYTES] {
    let disk: &DiskSuperblockBlock = transmute_ref!(block);
    transmute_ref!(&disk.superblock)
}

/// Picks the active slot from the bytes of blocks 0 and 1. Returns the superblock and its slot.
///
/// One valid slot is enough if the other one is damaged or holds no superblock, because slots are
/// written one after the other and one of them is always whole. Fails if either slot has a newer
/// version or an unknown incompatible feature.
pub fn choose(a: &[u8], b: &[u8]) -> Result<(Superblock, Slot)> {
    match (
        Superblock::decode(a, LeafBlock(0)),
        Superblock::decode(b, LeafBlock(1)),
    ) {
        (Ok(a), Ok(b)) => {
            // If the slots are of two formats, the first is active, because formatting writes it
            // first.
            let same = a.uuid == b.uuid && a.nonce == b.nonce;
            if same && b.generation > a.generation {
                Ok((b, Slot::B))
            } else {
                Ok((a, Slot::A))
            }
        }
        (Err(e @ (Error::NewerVersion(_) | Error::UnknownFeatures(..))), _)
        | (_, Err(e @ (Error::NewerVersion(_) | Error::UnknownFeatures(..)))) => Err(e),
        (Ok(sb), Err(_)) => Ok((sb, Slot::A)),
        (Err(_), Ok(sb)) => Ok((sb, Slot::B)),
        (Err(e @ Error::Damaged(..)), _) | (_, Err(e)) => Err(e),
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_superblock))]
mod tests {
    use super::super::super::error::{Area, Error, FeatureClass};
    use super::super::super::geometry::Geometry;
    use super::super::super::leaf_block::LeafBlock;
    use super::super::super::slot::Slot;
    use super::super::super::stack::chain::{ChainId, Seal};
    use super::super::features::{Features, FROZEN, LAYERED, NO_ROOT, ROOT_LISTED};
    use super::super::name::LeafName;
    use super::{choose, Superblock};

    fn sample(generation: u64) -> Option<Superblock> {
        Some(Superblock {
            generation,
            uuid: [7; 16],
            nonce: 0x1122_3344,
            geometry: Geometry::new(204_800, 204_800, 65_536, 128, 16).ok()?,
            root_block_bytes: 512,
            clean: true,
            reveal: true,
            preallocated: false,
            journal_tail: 3,
            journal_sequence: 99,
            root_digest: [9; 32],
            name: LeafName::from_text("web-01")?,
            features: Features {
                compat: 1 << 63,
                incompat: ROOT_LISTED,
                compat_bytes: [0x5a; 16],
                ..Features::NONE
            },
            chain: ChainId::BOTTOM,
            frozen: None,
            directory_slots: [0; super::DIRECTORY_SLOTS_BYTES],
        })
    }

    #[test]
    fn round_trip_and_every_bit_is_guarded() {
        let mut sb = sample(4).unwrap();
        sb.set_directory_slot(0, Slot::B).unwrap();
        let mut block = [0u8; 4096];
        sb.encode(&mut block);
        assert!(Superblock::decode(&block, LeafBlock(0)) == Ok(sb.clone()));
        for bits in 0..8u32 {
            (sb.clean, sb.reveal, sb.preallocated) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            sb.encode(&mut block);
            assert!(Superblock::decode(&block, LeafBlock(0)) == Ok(sb.clone()));
        }
        for byte in 0..512 {
            block[byte] ^= 0x10;
            assert!(Superblock::decode(&block, LeafBlock(0)).is_err());
            block[byte] ^= 0x10;
        }
    }

    #[test]
    fn layers_and_their_bits_agree() {
        let mut sb = sample(4).unwrap();
        let mut block = [0u8; 4096];
        sb.freeze(Seal([3; 16]));
        sb.geometry = sb.geometry.over(14).unwrap();
        sb.features.incompat = LAYERED | ROOT_LISTED;
        sb.chain = ChainId([6; 32]);
        sb.encode(&mut block);
        assert!(Superblock::decode(&block, LeafBlock(0)) == Ok(sb.clone()));
        assert!((sb.geometry.below_list_block(1).0 + 1) * 8 <= sb.geometry.data_start());
        for (ro_compat, incompat, at) in [
            (0, LAYERED | ROOT_LISTED, 208),
            (FROZEN, ROOT_LISTED, 116),
            (FROZEN, LAYERED | NO_ROOT | ROOT_LISTED, 72),
        ] {
            sb.features.ro_compat = ro_compat;
            sb.features.incompat = incompat;
            sb.encode(&mut block);
            assert_eq!(Superblock::bad_field(&block), Some(at));
        }
        sb.features.incompat = ROOT_LISTED;
        sb.geometry = sb.geometry.over(0).unwrap();
        sb.encode(&mut block);
        assert_eq!(Superblock::bad_field(&block), Some(224));
        assert!(sb.geometry.over(255) == Err(Error::LayerCount(254, 255)));
        // Formatted before the list had roots: the data begins 1 MiB earlier.
        let g = Geometry::new(1 << 21, 1 << 21, 194 << 11, 128, 194).unwrap();
        let mut old = Superblock::new([1; 16], 2, g, 512, [0; 32]);
        old.geometry = g.without_listed_root().unwrap();
        old.features.incompat = 0;
        old.encode(&mut block);
        assert!(Superblock::decode(&block, LeafBlock(0)).as_ref() == Ok(&old));
        assert_eq!((g.data_start(), g.below_list_blocks()), (4096, 1));
        let g = old.geometry;
        assert_eq!((g.data_start(), g.below_list_blocks()), (2048, 0));
        // Nothing but zeroes below.
        let bare = Geometry::new(0, 204_800, 65_536, 128, 16).unwrap();
        let mut sb = Superblock::new([1; 16], 2, bare, 512, [0; 32]);
        assert!(!sb.has_root());
        sb.encode(&mut block);
        assert!(Superblock::decode(&block, LeafBlock(0)).as_ref() == Ok(&sb));
        sb.features.incompat |= ROOT_LISTED;
        sb.encode(&mut block);
        assert_eq!(Superblock::bad_field(&block), Some(40));
    }

    #[test]
    fn the_newer_valid_slot_is_active() {
        // A kernel thread has a stack of 16 KiB, so there are two blocks on it and no more.
        let junk = &[0u8; 4096];
        let (mut a, mut b) = (*junk, *junk);
        sample(4).unwrap().encode(&mut a);
        // The slots are of two formats, under one UUID or one nonce.
        for (uuid, nonce) in [
            ([8; 16], sample(5).unwrap().nonce),
            (sample(5).unwrap().uuid, 5),
        ] {
            let other = Superblock {
                uuid,
                nonce,
                ..sample(5).unwrap()
            };
            other.encode(&mut b);
            assert_eq!(choose(&a, &b).unwrap().0.generation, 4);
        }
        sample(5).unwrap().encode(&mut b);
        assert_eq!(choose(&a, &b).unwrap().0.generation, 5);
        assert_eq!(choose(&b, &a).unwrap().0.generation, 5);
        assert_eq!(choose(&a, junk).unwrap().0.generation, 4);
        assert_eq!(choose(junk, &b).unwrap().0.generation, 5);
        assert!(choose(junk, junk) == Err(Error::NotFormatted));
        b[100] ^= 1;
        assert_eq!(choose(&a, &b).unwrap().0.generation, 4);
        a[100] ^= 1;
        assert!(choose(&a, &b) == Err(Error::Damaged(Area::Superblock, LeafBlock(0))));
        assert!(choose(junk, &b) == Err(Error::Damaged(Area::Superblock, LeafBlock(1))));
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let mut a = [0u8; 4096];
        sample(4).unwrap().encode(&mut a);
        let b = a;
        a[12] = 2;
        let crc = super::block_crc(&a[..512], 8).unwrap();
        a[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(choose(&a, &b) == Err(Error::NewerVersion(2)));
        a[12] = 1;
        a[40] = 8;
        let crc = super::block_crc(&a[..512], 8).unwrap();
        a[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(choose(&b, &a) == Err(Error::UnknownFeatures(FeatureClass::Incompat, 8)));
    }

    #[test]
    fn fields_that_cannot_be_are_damage() {
        let mut good = [0u8; 4096];
        sample(1).unwrap().encode(&mut good);
        assert_eq!(Superblock::bad_field(&good), None);
        // A dot before the name, a byte after it, an unknown flag, reserved bytes, the tail.
        for (at, byte, field) in [
            (160, b'.', 160),
            (170, b'x', 160),
            (161, b'/', 160),
            (23, 0x80, 16),
            (127, 0x80, 120),
            (108, 8, 108),
            (116, 1, 116),
            (224, 1, 224),
            (255, 1, 224),
            (112, 16, 112),
            (99, 1, 96),
            (97, 3, 96),
            (100, 129, 100),
            (104, 8, 104),
            (81, 0, 80),
            (256, 0x10, 256),
            (507, 1, 504),
            (511, 0xff, 504),
        ] {
            let mut a = good;
            a[at] = byte;
            let crc = super::block_crc(&a[..512], 8).unwrap();
            a[8..12].copy_from_slice(&crc.to_le_bytes());
            let damaged = Err(Error::Damaged(Area::Superblock, LeafBlock(1)));
            assert!(Superblock::decode(&a, LeafBlock(1)) == damaged);
            assert_eq!(Superblock::bad_field(&a), Some(field));
        }
    }

    #[test]
    fn directory_slots_are_two_bits_each() {
        let mut sb = sample(1).unwrap();
        sb.set_directory_slot(5, Slot::A).unwrap();
        sb.set_directory_slot(6, Slot::B).unwrap();
        sb.set_directory_slot(5, Slot::B).unwrap();
        assert!(sb.directory_slot(4) == Ok(None));
        assert!(sb.directory_slot(5) == Ok(Some(Slot::B)));
        assert!(sb.directory_slot(6) == Ok(Some(Slot::B)));
        sb.directory_slots[0] = 3;
        assert!(sb.directory_slot(0).is_err());
        assert!(sb.directory_slot(992) == Err(Error::Internal));
        let before = sb.clone();
        assert!(sb.set_directory_slot(992, Slot::A) == Err(Error::Internal));
        assert!(sb == before);
        assert!(Slot::A.other() == Slot::B && Slot::B.other() == Slot::A);
    }
}
