// SPDX-License-Identifier: GPL-2.0

//! The stand-in record: which layers of which chain the sealed layer was made from, so that it can
//! take their place. It is outside the digest.

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{transmute_mut, transmute_ref};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::format::crc::{block_crc, crc32c};
use super::super::format::first_wrong;
use super::super::geometry::{Block, BLOCK_BYTES};
use super::super::stack::chain::{ChainId, StandIn};
use super::fault::{Fault, LayerPart};
use super::Digest;

/// The block of the record.
pub const STAND_IN_BLOCK: u64 = 1;
const MAGIC: [u8; 4] = *b"UBsi";
const CRC_AT: usize = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DiskStandIn {
    magic: [u8; 4],
    crc: U32,
    layers: U32,
    reserved: U32,
    digest: Digest,
    below: Digest,
    after: Digest,
    rest: [u8; BLOCK_BYTES - 112],
}

impl StandIn {
    /// Writes the record of the layer with this digest into a block.
    pub fn encode(&self, digest: &Digest, block: &mut Block) {
        let disk: &mut DiskStandIn = transmute_mut!(block);
        *disk = DiskStandIn {
            magic: MAGIC,
            crc: U32::ZERO,
            layers: U32::new(self.layers),
            reserved: U32::ZERO,
            digest: *digest,
            below: self.below.0,
            after: self.after.0,
            rest: [0; BLOCK_BYTES - 112],
        };
        let crc = crc32c(0, block);
        let disk: &mut DiskStandIn = transmute_mut!(block);
        disk.crc = U32::new(crc);
    }

    /// Decodes the block of the layer with this digest; returns `None` for a block of zeroes.
    pub fn decode(block: &Block, digest: &Digest) -> Result<Option<StandIn>, Fault> {
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        let disk: &DiskStandIn = transmute_ref!(block);
        first_wrong(&[
            (disk.magic == MAGIC, offset_of!(DiskStandIn, magic)),
            (block_crc(block, CRC_AT) == Some(disk.crc.get()), CRC_AT),
            (disk.layers.get() != 0, offset_of!(DiskStandIn, layers)),
            (disk.reserved.get() == 0, offset_of!(DiskStandIn, reserved)),
            (disk.digest == *digest, offset_of!(DiskStandIn, digest)),
            (
                disk.rest.iter().all(|&b| b == 0),
                offset_of!(DiskStandIn, rest),
            ),
        ])
        .map_err(|field| Fault::damaged(LayerPart::StandIn, STAND_IN_BLOCK, field))?;
        Ok(Some(StandIn {
            below: ChainId(disk.below),
            after: ChainId(disk.after),
            layers: disk.layers.get(),
        }))
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_stand_in))]
mod tests {
    use super::super::super::format::crc::block_crc;
    use super::super::super::stack::chain::ChainId;
    use super::super::fault::{Fault, LayerPart};
    use super::StandIn;

    #[test]
    fn round_trip_and_refusals() {
        let record = StandIn {
            below: ChainId([1; 32]),
            after: ChainId([2; 32]),
            layers: 3,
        };
        let mut block = [0u8; 4096];
        assert!(StandIn::decode(&block, &[5; 32]) == Ok(None));
        record.encode(&[5; 32], &mut block);
        assert!(StandIn::decode(&block, &[5; 32]) == Ok(Some(record)));
        for byte in 0..4096 {
            block[byte] ^= 4;
            assert!(StandIn::decode(&block, &[5; 32]).is_err());
            block[byte] ^= 4;
        }
        for (at, byte, field) in [
            (0, 0, 0),
            (8, 0, 8),
            (12, 1, 12),
            (16, 6, 16),
            (112, 1, 112),
        ] {
            let old = block[at];
            block[at] = byte;
            let crc = block_crc(&block, 4).unwrap();
            block[4..8].copy_from_slice(&crc.to_le_bytes());
            let wanted = Fault::damaged(LayerPart::StandIn, 1, field);
            assert!(StandIn::decode(&block, &[5; 32]) == Err(wanted));
            block[at] = old;
        }
    }
}
