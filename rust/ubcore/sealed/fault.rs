// SPDX-License-Identifier: GPL-2.0

//! Why a sealed layer is refused.

use core::fmt;

use super::super::error::{Area, Error, FeatureClass};
use super::super::geometry::BLOCK_SECTORS;
use super::super::leaf_block::LeafBlock;

/// A part of a sealed layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPart {
    /// The first block.
    Header,
    /// The second block.
    StandIn,
    /// The data, in chunks of 1 MiB.
    Data,
    /// The extents.
    Index,
    /// The digests of the data.
    Digests,
}

impl LayerPart {
    /// Returns the word for the part in messages.
    pub fn name(self) -> &'static str {
        match self {
            LayerPart::Header => "header",
            LayerPart::StandIn => "stand-in record",
            LayerPart::Data => "data",
            LayerPart::Index => "index",
            LayerPart::Digests => "list of digests",
        }
    }
}

/// Why a sealed layer was refused, or was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The first block is not a header.
    NotSealed,
    /// The format is newer than this code.
    NewerVersion(u32),
    /// The layer has incompatible features that this code does not know: their bits.
    UnknownFeatures(u64),
    /// A block fails its checksum, or has an impossible value.
    Damaged {
        /// The part that the block belongs to.
        part: LayerPart,
        /// The block, from the start of the layer.
        block: u64,
        /// The byte of the first thing that is wrong.
        byte: usize,
    },
    /// Header, index and digests are sound one by one, but together have another digest than the
    /// one that the header states.
    WrongSum,
    /// This is a sealed layer, but not the one with the wanted digest.
    OtherLayer,
    /// The device ends before the layer: blocks that the layer has, and that the device has.
    TooShort(u64, u64),
    /// The layer does not fit the format: its union is larger, or it has more extents or data, than
    /// that can count.
    TooLarge,
    /// The content to be sealed was not the same when it was read again.
    Changed,
    /// The device failed, or the caller ended the work.
    Failed(Error),
}

impl Fault {
    /// Returns the fault of a damaged block.
    pub(super) fn damaged(part: LayerPart, block: u64, byte: usize) -> Fault {
        Fault::Damaged { part, block, byte }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault::Failed(e)
    }
}

impl From<Fault> for Error {
    /// Returns the reason that the driver reports. It names the block, and `ubctl verify` names the
    /// part and the byte.
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::NewerVersion(version) => Error::NewerVersion(version),
            Fault::UnknownFeatures(bits) => Error::UnknownFeatures(FeatureClass::Incompat, bits),
            Fault::Damaged { block, .. } => Error::Damaged(Area::Layer, LeafBlock(block)),
            Fault::TooShort(_, found) => Error::Damaged(Area::Layer, LeafBlock(found)),
            Fault::Failed(e) => e,
            Fault::NotSealed | Fault::WrongSum | Fault::OtherLayer => {
                Error::Damaged(Area::Layer, LeafBlock(0))
            }
            Fault::TooLarge | Fault::Changed => Error::Internal,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::NotSealed => f.write_str("not a sealed layer: check that it is the right file or device, and the offset; if ubctl seal or squash was interrupted, run it again"),
            Fault::NewerVersion(v) => write!(f, "the sealed layer has format version {v}, which is newer than this unionblk: use a newer unionblk"),
            Fault::UnknownFeatures(bits) => write!(f, "the sealed layer has features {bits:#x} (incompatible) that this unionblk does not know: use a newer unionblk"),
            Fault::Damaged { part, block, byte } => write!(f, "the {} of the sealed layer is damaged at block {block}, byte {byte}: use another copy of it", part.name()),
            Fault::WrongSum => f.write_str("header, index and digests of the sealed layer do not have the digest that its header states: use another copy of it"),
            Fault::OtherLayer => f.write_str("this is another sealed layer than the wanted one: its digest differs: use the layer with the wanted digest"),
            Fault::TooShort(want, found) => write!(f, "the sealed layer has {want} blocks of 4096 bytes, of which {found} are there: use a whole copy of it, and check the offset"),
            Fault::TooLarge => f.write_str("the layer has more extents or more data than a sealed layer can hold"),
            Fault::Changed => f.write_str("the layer changed while it was sealed: nothing may write to it meanwhile"),
            Fault::Failed(e) => e.fmt(f),
        }
    }
}

/// Returns the sector at which a block begins. A layer has less than 2^45 blocks.
pub(super) fn sector_of(block: u64) -> u64 {
    block.wrapping_mul(BLOCK_SECTORS)
}
