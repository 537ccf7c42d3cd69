// SPDX-License-Identifier: GPL-2.0

//! The header: what a sealed layer holds, where its parts lie, and its digest.
//!
//! It is written last. Without it there is no sealed layer.

use core::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{transmute, transmute_mut, transmute_ref, IntoBytes};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::format::crc::{block_crc, crc32c};
use super::super::format::first_wrong;
use super::super::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use super::digests::{CHUNK_BLOCKS, DIGESTS_IN_BLOCK};
use super::fault::{Fault, LayerPart};
use super::index::EXTENTS_IN_BLOCK;
use super::packing::{Packing, UNIT};
use super::{Digest, Sha256, VERSION};

/// The first bytes of a sealed layer.
pub const MAGIC: [u8; 8] = *b"UBSEALED";
/// The first bytes that the digest covers.
pub const PREFIX: &[u8] = b"unionblk sealed layer 1\n";
/// The first block of data.
pub const DATA_BLOCK: u64 = 2;
/// The size of the largest union that a layer can be a part of, in sectors.
pub const UNION_SECTORS_MAX: u64 = 1 << 48;
/// The number of all blocks is below this.
const BLOCKS: u64 = 1 << 45;
const CRC_AT: usize = 8;
/// Bytes of the header: one sector, so that it is written as a whole or not at all.
pub const HEADER_BYTES: usize = 512;
/// The bits of incompatible features that this code knows.
const INCOMPAT_KNOWN: u64 = 0;

/// The header as it lies on the device.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskHeader {
    magic: [u8; 8],
    crc: U32,
    version: U32,
    features_compat: U64,
    features_ro_compat: U64,
    features_incompat: U64,
    union_sectors: U64,
    block_bytes: U32,
    reserved0: U32,
    extents: U64,
    data_sectors: U64,
    zero_sectors: U64,
    data_block: U64,
    data_blocks: U64,
    index_block: U64,
    index_blocks: U64,
    digest_block: U64,
    digest_blocks: U64,
    blocks: U64,
    reserved1: [u8; 24],
    digest: Digest,
    reserved2: [u8; 320],
}

const _: () = assert!(size_of::<DiskHeader>() == HEADER_BYTES);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskHeaderBlock {
    header: DiskHeader,
    rest: [u8; BLOCK_BYTES - HEADER_BYTES],
}

/// A header, decoded and checked.
///
/// # Invariants
///
/// All blocks together are fewer than 2^45, and index blocks are fewer than 2^32. Even before this
/// is checked, there are at most 2^48 extents and fewer than 2^50 blocks of data, so no sum of
/// blocks wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Feature bits: compatible, read-only compatible, incompatible.
    pub features: [u64; 3],
    /// Size of the union that the layer is a part of.
    pub union_sectors: u64,
    /// Logical block size that the content was made for, in bytes.
    pub block_bytes: u32,
    /// The number of extents.
    pub extents: u64,
    /// The sectors that have data.
    pub data_sectors: u64,
    /// The sectors that read as zeroes.
    pub zero_sectors: u64,
    /// The blocks of data, with the gaps in it.
    pub data_blocks: u64,
    /// The digest, which identifies the layer.
    pub digest: Digest,
}

impl Header {
    /// Returns the header of a layer with these extents, still without a digest. Fails if the union
    /// or the layer is larger than the format can say.
    pub fn new(union_sectors: u64, block_bytes: u32, packing: &Packing) -> Result<Header, Fault> {
        let header = Header {
            features: [0; 3],
            union_sectors,
            block_bytes,
            extents: packing.extents,
            data_sectors: packing.data_sectors,
            zero_sectors: packing.zero_sectors,
            data_blocks: packing.data_blocks(),
            digest: [0; 32],
        };
        if !(1..=UNION_SECTORS_MAX).contains(&union_sectors) {
            return Err(Fault::TooLarge);
        }
        // INVARIANT: With the size of the union, the invariants of `Packing` bound the extents and
        // the data. The rest is checked here.
        if header.index_blocks() > u64::from(u32::MAX) || header.blocks() >= BLOCKS {
            return Err(Fault::TooLarge);
        }
        Ok(header)
    }

    /// Returns the first block of the index.
    pub fn index_block(&self) -> u64 {
        DATA_BLOCK.wrapping_add(self.data_blocks)
    }

    /// Returns the number of blocks of the index.
    pub fn index_blocks(&self) -> u64 {
        self.extents.div_ceil(EXTENTS_IN_BLOCK)
    }

    /// Returns the number of chunks of data, each with a digest.
    pub fn chunks(&self) -> u64 {
        self.data_blocks.div_ceil(CHUNK_BLOCKS)
    }

    /// Returns the first block of digests.
    pub fn digest_block(&self) -> u64 {
        self.index_block().wrapping_add(self.index_blocks())
    }

    /// Returns the number of blocks of digests.
    pub fn digest_blocks(&self) -> u64 {
        self.chunks().div_ceil(DIGESTS_IN_BLOCK)
    }

    /// Returns the number of all blocks.
    pub fn blocks(&self) -> u64 {
        self.digest_block().wrapping_add(self.digest_blocks())
    }

    fn to_disk(self) -> DiskHeader {
        let [compat, ro_compat, incompat] = self.features.map(U64::new);
        DiskHeader {
            magic: MAGIC,
            crc: U32::ZERO,
            version: U32::new(VERSION),
            features_compat: compat,
            features_ro_compat: ro_compat,
            features_incompat: incompat,
            union_sectors: U64::new(self.union_sectors),
            block_bytes: U32::new(self.block_bytes),
            reserved0: U32::ZERO,
            extents: U64::new(self.extents),
            data_sectors: U64::new(self.data_sectors),
            zero_sectors: U64::new(self.zero_sectors),
            data_block: U64::new(DATA_BLOCK),
            data_blocks: U64::new(self.data_blocks),
            index_block: U64::new(self.index_block()),
            index_blocks: U64::new(self.index_blocks()),
            digest_block: U64::new(self.digest_block()),
            digest_blocks: U64::new(self.digest_blocks()),
            blocks: U64::new(self.blocks()),
            reserved1: [0; 24],
            digest: self.digest,
            reserved2: [0; 320],
        }
    }

    /// Writes the header into a block.
    pub fn encode(&self, block: &mut Block) {
        let disk: &mut DiskHeaderBlock = transmute_mut!(block);
        disk.rest.fill(0);
        disk.header = self.to_disk();
        disk.header.crc = U32::new(crc32c(0, disk.header.as_bytes()));
    }

    /// Decodes the first block of a layer and checks all of it.
    ///
    /// The checksum is checked before version and features, and these before the other fields,
    /// because a newer format is not a damaged one.
    pub fn decode(block: &Block) -> Result<Header, Fault> {
        let disk: &DiskHeaderBlock = transmute_ref!(block);
        let header = &disk.header;
        if header.magic != MAGIC {
            return Err(Fault::NotSealed);
        }
        let damaged = |byte| Fault::damaged(LayerPart::Header, 0, byte);
        if block_crc(header.as_bytes(), CRC_AT) != Some(header.crc.get()) {
            return Err(damaged(CRC_AT));
        }
        if header.version.get() > VERSION {
            return Err(Fault::NewerVersion(header.version.get()));
        }
        match header.features_incompat.get() & !INCOMPAT_KNOWN {
            0 => {}
            bits => return Err(Fault::UnknownFeatures(bits)),
        }
        let decoded = header.check().map_err(damaged)?;
        match disk.rest.iter().position(|&b| b != 0) {
            None => Ok(decoded),
            Some(at) => Err(damaged(at.wrapping_add(size_of::<DiskHeader>()))),
        }
    }
}

impl DiskHeader {
    /// Fails with the byte of the first impossible field.
    fn check(&self) -> Result<Header, usize> {
        let header = Header {
            features: [
                self.features_compat.get(),
                self.features_ro_compat.get(),
                self.features_incompat.get(),
            ],
            union_sectors: self.union_sectors.get(),
            block_bytes: self.block_bytes.get(),
            extents: self.extents.get(),
            data_sectors: self.data_sectors.get(),
            zero_sectors: self.zero_sectors.get(),
            data_blocks: self.data_blocks.get(),
            digest: self.digest,
        };
        self.check_sizes(&header)?;
        // A feature may use bytes that are zero without it. This code knows none.
        let [compat, ro_compat, _] = header.features;
        let announced = compat | ro_compat != 0;
        let zero0 = announced || self.reserved0.get() == 0;
        let zero1 = announced || self.reserved1 == [0; 24];
        let zero2 = announced || self.reserved2 == [0; 320];
        let at = |value: U64, wanted: u64| value.get() == wanted;
        // INVARIANT: `check_sizes` has bounded the extents and the data, and thereby the index and
        // the sums; the last of them is checked here.
        first_wrong(&[
            (zero0, offset_of!(Self, reserved0)),
            (
                at(self.data_block, DATA_BLOCK),
                offset_of!(Self, data_block),
            ),
            (
                at(self.index_block, header.index_block()),
                offset_of!(Self, index_block),
            ),
            (
                at(self.index_blocks, header.index_blocks()),
                offset_of!(Self, index_blocks),
            ),
            (
                at(self.digest_block, header.digest_block()),
                offset_of!(Self, digest_block),
            ),
            (
                at(self.digest_blocks, header.digest_blocks()),
                offset_of!(Self, digest_blocks),
            ),
            (
                at(self.blocks, header.blocks()) && header.blocks() < BLOCKS,
                offset_of!(Self, blocks),
            ),
            (zero1, offset_of!(Self, reserved1)),
            (zero2, offset_of!(Self, reserved2)),
        ])?;
        Ok(header)
    }

    fn check_sizes(&self, header: &Header) -> Result<(), usize> {
        let block = header.block_bytes;
        let union_fits = (1..=UNION_SECTORS_MAX).contains(&header.union_sectors);
        let mapped = header.data_sectors.checked_add(header.zero_sectors);
        let mapped = mapped.filter(|&n| n <= header.union_sectors);
        let extents_fit = mapped.is_some_and(|n| {
            header.extents <= n
                && (header.extents == 0) == (n == 0)
                && header.index_blocks() <= u64::from(u32::MAX)
        });
        // Before each extent there is a gap of less than a unit, and one at the end. These are
        // limits. They saturate only if there are more extents than fit.
        let gaps = header.extents.saturating_add(1).saturating_mul(UNIT);
        let most = header.data_sectors.saturating_add(gaps) / BLOCK_SECTORS;
        let least = header.data_sectors.div_ceil(BLOCK_SECTORS);
        first_wrong(&[
            (self.version.get() != 0, offset_of!(Self, version)),
            (union_fits, offset_of!(Self, union_sectors)),
            (
                block.is_power_of_two() && (512..=65536).contains(&block),
                offset_of!(Self, block_bytes),
            ),
            (extents_fit, offset_of!(Self, extents)),
            (
                header.zero_sectors % UNIT == 0,
                offset_of!(Self, zero_sectors),
            ),
            (
                (least..=most).contains(&header.data_blocks),
                offset_of!(Self, data_blocks),
            ),
        ])
    }
}

/// Returns the part of a header that the digest covers: its 512 bytes, with the checksum and the
/// digest itself as zeroes.
pub fn covered(block: &Block) -> [u8; HEADER_BYTES] {
    let disk: &DiskHeaderBlock = transmute_ref!(block);
    let mut header = disk.header.clone();
    header.crc = U32::ZERO;
    header.digest = [0; 32];
    transmute!(header)
}

/// Computes a layer's digest, from what [`covered`] returned and the SHA-256 of all blocks of the
/// index and of all blocks of digests.
pub fn digest<H: Sha256>(header: &[u8; HEADER_BYTES], index: &Digest, digests: &Digest) -> Digest {
    let mut sum = H::new();
    sum.update(PREFIX);
    sum.update(header);
    sum.update(index);
    sum.update(digests);
    sum.finish()
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_sealed_header))]
mod tests {
    use super::super::super::format::crc::block_crc;
    use super::super::fault::{Fault, LayerPart};
    use super::super::packing::Packing;
    use super::{Header, CRC_AT, MAGIC};

    fn sample() -> Header {
        Header {
            features: [0; 3],
            union_sectors: 1 << 30,
            block_bytes: 512,
            extents: 300,
            data_sectors: 5000,
            zero_sectors: 64,
            data_blocks: 700,
            digest: [9; 32],
        }
    }

    /// Decodes the sample after bytes of it are changed, with the right checksum. One block lies
    /// on the stack.
    #[inline(never)]
    fn decode_with(changes: &[(usize, u8)]) -> Result<Header, Fault> {
        let mut block = [0u8; 4096];
        sample().encode(&mut block);
        for &(at, byte) in changes {
            block[at] = byte;
        }
        let crc = block_crc(&block[..512], CRC_AT).unwrap();
        block[8..12].copy_from_slice(&crc.to_le_bytes());
        Header::decode(&block)
    }

    #[test]
    fn round_trip_and_every_bit_is_guarded() {
        let mut block = [1u8; 4096];
        sample().encode(&mut block);
        assert!(Header::decode(&block) == Ok(sample()));
        assert!(block.starts_with(&MAGIC));
        for byte in 0..4096 {
            block[byte] ^= 0x10;
            assert!(Header::decode(&block).is_err());
            block[byte] ^= 0x10;
        }
        let h = sample();
        assert_eq!((h.index_block(), h.index_blocks()), (702, 2));
        assert_eq!((h.digest_block(), h.digest_blocks()), (704, 1));
        assert_eq!((h.chunks(), h.blocks()), (3, 705));
    }

    #[test]
    fn a_union_that_the_format_cannot_have_is_refused() {
        let new = |sectors| Header::new(sectors, 512, &Packing::new(sectors));
        assert!(new(1 << 48).is_ok());
        for sectors in [0, (1 << 48) + 1, u64::MAX] {
            assert!(new(sectors) == Err(Fault::TooLarge));
        }
    }

    #[test]
    fn newer_formats_are_not_damage() {
        assert!(decode_with(&[(12, 2)]) == Err(Fault::NewerVersion(2)));
        assert!(decode_with(&[(39, 0x80)]) == Err(Fault::UnknownFeatures(1 << 63)));
        // A reader needs to know none of the other classes, and they announce reserved bytes.
        for feature in [16, 24] {
            let reserved = [(feature, 1), (136, 1), (52, 1), (511, 1), (600, 1)];
            assert!(decode_with(&reserved[..4]).is_ok());
            assert!(decode_with(&reserved).is_err());
        }
    }

    #[test]
    fn fields_that_cannot_be_are_damage() {
        // Where a byte is set, and the field that is wrong then.
        for (at, byte, field) in [
            (12, 0, 12),
            (46, 2, 40),
            (43, 0, 40),
            (48, 1, 48),
            (51, 1, 48),
            (52, 1, 52),
            (63, 1, 56),
            (57, 0x80, 56),
            (71, 0x80, 56),
            (72, 0x41, 72),
            (88, 0, 88),
            (89, 4, 88),
            (95, 1, 88),
            (80, 3, 80),
            (96, 0, 96),
            (104, 3, 104),
            (112, 1, 112),
            (120, 2, 120),
            (135, 1, 128),
            (136, 1, 136),
            (192, 1, 192),
            (511, 1, 192),
            (512, 1, 512),
            (4095, 1, 4095),
        ] {
            let wanted = Fault::damaged(LayerPart::Header, 0, field);
            assert!(decode_with(&[(at, byte)]) == Err(wanted));
        }
    }
}
