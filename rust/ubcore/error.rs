// SPDX-License-Identifier: GPL-2.0

//! Why an operation on a union fails, in one type for the driver, the tool and the wire.

use core::fmt;

use super::leaf_block::LeafBlock;
use super::stack::chain::LAYERS_MAX;

/// The part of a leaf or of a layer in which damage was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Both superblock slots.
    Superblock,
    /// A block of the page directory.
    Directory,
    /// A page of the slab table or of the sector bits.
    Page,
    /// A block of the journal ring.
    Journal,
    /// Entries that are valid one by one but contradict each other.
    Map,
    /// A block of the list of root and layers.
    BelowList,
    /// Any part of a sealed layer, whose blocks count from its own start.
    Layer,
}

impl Area {
    fn code(self) -> u64 {
        match self {
            Area::Superblock => 1,
            Area::Directory => 2,
            Area::Page => 3,
            Area::Journal => 4,
            Area::Map => 5,
            Area::BelowList => 6,
            Area::Layer => 7,
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            1 => Area::Superblock,
            2 => Area::Directory,
            3 => Area::Page,
            4 => Area::Journal,
            5 => Area::Map,
            6 => Area::BelowList,
            7 => Area::Layer,
            _ => return None,
        })
    }

    /// Returns the word for the area in messages.
    pub fn name(self) -> &'static str {
        match self {
            Area::Superblock => "superblock",
            Area::Directory => "page directory",
            Area::Page => "map page",
            Area::Journal => "journal",
            Area::Map => "map",
            Area::BelowList => "list of root and layers",
            Area::Layer => "sealed layer",
        }
    }
}

/// What code that does not know a feature may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureClass {
    /// Neither read nor write.
    Incompat,
    /// Write.
    RoCompat,
}

impl FeatureClass {
    fn code(self) -> u64 {
        match self {
            FeatureClass::Incompat => 1,
            FeatureClass::RoCompat => 2,
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        match code {
            1 => Some(FeatureClass::Incompat),
            2 => Some(FeatureClass::RoCompat),
            _ => None,
        }
    }
}

/// The role of a lower device in a union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The device at the bottom, which the driver opens for reading only.
    Root,
    /// The private device at the top.
    Leaf,
    /// A read-only layer between them. The caller knows which one.
    Layer,
}

impl Role {
    fn code(self) -> u64 {
        match self {
            Role::Root => 0,
            Role::Leaf => 1,
            Role::Layer => 2,
        }
    }

    fn from_code(code: u64) -> Option<Self> {
        match code {
            0 => Some(Role::Root),
            1 => Some(Role::Leaf),
            2 => Some(Role::Layer),
            _ => None,
        }
    }

    /// Returns the word for the device in messages.
    pub fn name(self) -> &'static str {
        match self {
            Role::Root => "root",
            Role::Leaf => "leaf",
            Role::Layer => "layer",
        }
    }
}

/// Why something was refused or failed.
///
/// Sizes and positions are in sectors of 512 bytes, blocks in units of 4096 bytes. Sectors and
/// blocks of a layer count from the start of the layer, those of root and leaf from that of the
/// device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The leaf carries no superblock of this format.
    NotFormatted,
    /// The leaf's format is newer than this code.
    NewerVersion(u32),
    /// The leaf has features that this code does not know: the class that forbids access, and its
    /// bits.
    UnknownFeatures(FeatureClass, u64),
    /// Metadata fails its checksum or contradicts itself: where, and the block. For [`Area::Map`]
    /// it is the block of the map page's slot A, whichever slot is active.
    Damaged(Area, LeafBlock),
    /// The root's size is not the one the leaf was formatted for: wanted, found.
    RootSize(u64, u64),
    /// The root's content is not the one the leaf was formatted for.
    RootContent,
    /// The device is smaller than the leaf on it, as formatted or grown: wanted, found.
    LeafSize(u64, u64),
    /// The leaf cannot hold metadata and one slab: needed, found.
    LeafTooSmall(u64, u64),
    /// The slab size in sectors is no power of two from 32 (16 KiB) to 8192 (4 MiB).
    SlabSize(u64),
    /// Root or leaf is larger than the format can address, or the root has no sectors. Or a layer
    /// is larger than the union, or than a stack can address.
    TooLarge(Role, u64),
    /// Reading, writing or flushing failed: on which device, at which sector; 0 for a flush.
    Io(Role, u64),
    /// The device is held by another user: an attached union, a mount.
    Busy(Role),
    /// The device cannot be opened; the number is the errno.
    Open(Role, u32),
    /// The leaf is write-protected.
    ReadOnlyLeaf,
    /// The leaf shares sectors with the root or a layer: they are one device, a disk and its
    /// partition, or partitions that overlap.
    SameDevice,
    /// The device is zoned, its logical blocks are above 4096 bytes, or the size of the union is no
    /// multiple of the blocks. Or a layer does not begin at a multiple of 4096 bytes.
    Limits(Role),
    /// Memory ran out.
    NoMemory,
    /// The leaf has fewer free slabs than the request needs.
    Full,
    /// The device is a union, or lies on one with no file system in between.
    Stacked(Role),
    /// An operation of the kernel failed for another reason: the errno.
    Os(u32),
    /// Parts of blocks are mapped, and the devices have blocks of this many bytes.
    FineMap(u32),
    /// An invariant of the code is broken.
    Internal,
    /// The leaf is frozen: it is a layer, and nothing may write to it.
    Frozen,
    /// The leaf is to be a layer, but it is not frozen.
    NotFrozen,
    /// The leaf was made on another number of layers: wanted, found.
    LayerCount(u64, u64),
    /// The layer is not the one that the leaf above it was made on.
    LayerIdentity,
    /// The leaf makes a union of another size than the union that is to continue in it: wanted,
    /// found.
    UnionSize(u64, u64),
    /// The logical blocks of a union cannot change while it is in use: bytes that they have, bytes
    /// that they would have on the leaf.
    BlockSize(u32, u32),
    /// A freeze, a reset or a change of the limit was asked for, and the union is read-only.
    ReadOnlyUnion,
    /// Requests in flight did not end in time.
    RequestsInFlight,
    /// The map has no space for so large a union ([`Role::Root`]) or leaf: the largest size that it
    /// has space for.
    NoRoom(Role, u64),
    /// A union ([`Role::Root`]) or leaf cannot become smaller: its size.
    Shrink(Role, u64),
}

impl Error {
    /// Returns the error as the ioctl has it: a reason of `include/uapi/unionblk.h`, and two
    /// details.
    pub fn to_wire(self) -> (u32, u64, u64) {
        use Error::*;
        match self {
            NotFormatted => (1, 0, 0),
            NewerVersion(v) => (2, u64::from(v), 0),
            UnknownFeatures(class, bits) => (3, bits, class.code()),
            Damaged(area, block) => (4, area.code(), block.0),
            RootSize(want, found) => (5, want, found),
            RootContent => (6, 0, 0),
            LeafSize(want, found) => (7, want, found),
            LeafTooSmall(want, found) => (8, want, found),
            SlabSize(sectors) => (9, sectors, 0),
            TooLarge(role, sectors) => (10, role.code(), sectors),
            Io(role, sector) => (11, role.code(), sector),
            Busy(role) => (12, role.code(), 0),
            Open(role, errno) => (13, role.code(), u64::from(errno)),
            ReadOnlyLeaf => (14, 0, 0),
            SameDevice => (15, 0, 0),
            Limits(role) => (16, role.code(), 0),
            NoMemory => (17, 0, 0),
            Full => (18, 0, 0),
            Stacked(role) => (19, role.code(), 0),
            Os(errno) => (20, u64::from(errno), 0),
            FineMap(bytes) => (21, u64::from(bytes), 0),
            Internal => (22, 0, 0),
            Frozen => (23, 0, 0),
            NotFrozen => (24, 0, 0),
            LayerCount(want, found) => (25, want, found),
            LayerIdentity => (26, 0, 0),
            UnionSize(want, found) => (27, want, found),
            BlockSize(want, found) => (28, u64::from(want), u64::from(found)),
            ReadOnlyUnion => (29, 0, 0),
            RequestsInFlight => (30, 0, 0),
            NoRoom(role, max) => (31, role.code(), max),
            Shrink(role, sectors) => (32, role.code(), sectors),
        }
    }

    /// Reverses [`Error::to_wire`]. Returns `None` for a reason or a detail that this code does not
    /// know.
    pub fn from_wire(reason: u32, a: u64, b: u64) -> Option<Self> {
        use Error::*;
        Some(match reason {
            1 => NotFormatted,
            2 => NewerVersion(u32::try_from(a).ok()?),
            3 => UnknownFeatures(FeatureClass::from_code(b)?, a),
            4 => Damaged(Area::from_code(a)?, LeafBlock(b)),
            5 => RootSize(a, b),
            6 => RootContent,
            7 => LeafSize(a, b),
            8 => LeafTooSmall(a, b),
            9 => SlabSize(a),
            10 => TooLarge(Role::from_code(a)?, b),
            11 => Io(Role::from_code(a)?, b),
            12 => Busy(Role::from_code(a)?),
            13 => Open(Role::from_code(a)?, u32::try_from(b).ok()?),
            14 => ReadOnlyLeaf,
            15 => SameDevice,
            16 => Limits(Role::from_code(a)?),
            17 => NoMemory,
            18 => Full,
            19 => Stacked(Role::from_code(a)?),
            20 => Os(u32::try_from(a).ok()?),
            21 => FineMap(u32::try_from(a).ok()?),
            22 => Internal,
            23 => Frozen,
            24 => NotFrozen,
            25 => LayerCount(a, b),
            26 => LayerIdentity,
            27 => UnionSize(a, b),
            28 => BlockSize(u32::try_from(a).ok()?, u32::try_from(b).ok()?),
            29 => ReadOnlyUnion,
            30 => RequestsInFlight,
            31 => NoRoom(Role::from_code(a)?, b),
            32 => Shrink(Role::from_code(a)?, b),
            _ => return None,
        })
    }

    /// Returns whether another attempt with the same devices and options cannot help.
    pub fn is_refusal(self) -> bool {
        !matches!(
            self,
            Error::Io(..)
                | Error::Busy(_)
                | Error::RequestsInFlight
                | Error::Open(..)
                | Error::NoMemory
                | Error::Full
                | Error::Os(_)
                | Error::Internal
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Error::*;
        match *self {
            NotFormatted => f.write_str("the leaf is not formatted: check that it is the right device; if it was a leaf, copy it before anything else; to make a new leaf, run ubctl format, or create with --format"),
            NewerVersion(v) => write!(f, "the leaf has format version {v}, which is newer than this unionblk: use a newer unionblk"),
            UnknownFeatures(FeatureClass::Incompat, bits) => write!(f, "the leaf has features {bits:#x} (incompatible) that this unionblk does not know: use a newer unionblk"),
            UnknownFeatures(FeatureClass::RoCompat, bits) => write!(f, "the leaf has features {bits:#x} (read-only compatible) that this unionblk does not know and must not write over: use a newer unionblk, or read the leaf with ubctl create --read-only"),
            Damaged(Area::Map, block) => write!(f, "the leaf's map contradicts itself in the map page with slot A at block {block}: copy the whole leaf before anything else"),
            Damaged(Area::Layer, block) => write!(f, "a sealed layer is damaged at its block {block}: use another copy of it"),
            Damaged(area, block) => write!(f, "the leaf's {} is damaged at block {block}: copy the whole leaf before anything else", area.name()),
            RootSize(0, found) => write!(f, "the leaf was made without a root, and a root of {found} sectors was given: leave the root out"),
            RootSize(want, 0) => write!(f, "the leaf was made for a root of {want} sectors, and none was given: give its own root"),
            RootSize(want, found) => write!(f, "the leaf was made for a root of {want} sectors, this one has {found}: attach it to its own root"),
            RootContent => f.write_str("the root is not the one the leaf was made for, or its content has changed: attach the leaf to its own, unchanged root"),
            LeafSize(want, found) => write!(f, "the leaf has {want} sectors, and the device has {found}: make the device as large as before"),
            LeafTooSmall(want, found) => write!(f, "the leaf needs at least {want} sectors, the device has {found}: use a larger device"),
            SlabSize(sectors) => write!(f, "a slab of {sectors} sectors is not possible: choose a power of two from 16 KiB to 4 MiB"),
            TooLarge(role, 0) => write!(f, "the {} has no sectors: check that it is the right device", role.name()),
            TooLarge(Role::Root, sectors) => write!(f, "a root or union of {sectors} sectors is too large for this slab size: choose larger slabs"),
            TooLarge(Role::Layer, sectors) => write!(f, "the layer of {sectors} sectors is larger than the union on it, or than 64 TiB: lay it under a larger union"),
            TooLarge(Role::Leaf, sectors) => write!(f, "the leaf of {sectors} sectors and its root need more map pages than the format has: use a smaller leaf, or larger slabs"),
            // A failed flush has no sector, and is reported with sector 0.
            Io(role, 0) => write!(f, "I/O error on the {} at sector 0, or in a flush", role.name()),
            Io(role, sector) => write!(f, "I/O error on the {} at sector {sector}", role.name()),
            Busy(role @ (Role::Root | Role::Layer)) => write!(f, "the {} is in use by a mount, by a union as its leaf, or by another holder: release it and try again", role.name()),
            Busy(Role::Leaf) => f.write_str("the leaf is in use by another union, a mount or another holder: release it and try again"),
            Open(role, errno) => write!(f, "the {} cannot be opened (errno {errno})", role.name()),
            ReadOnlyLeaf => f.write_str("the leaf is write-protected: make it writable, or attach it as it is with ubctl create --read-only"),
            SameDevice => f.write_str("the leaf is the same device as the root or a layer, or one is a part of the other: choose a leaf that shares nothing with them"),
            Limits(Role::Layer) => f.write_str("the layer does not fit this union: it is zoned, its blocks are larger than 4096 bytes, the size of the union is not a multiple of them, or its offset is not a multiple of 4096 bytes: choose a device and an offset that fit"),
            Limits(role) => write!(f, "the {} does not fit this union: it is zoned, its blocks are larger than 4096 bytes, or the size of the union is not a multiple of the blocks: choose a device or a size of the union that fits", role.name()),
            NoMemory => f.write_str("out of memory: free some and try again"),
            Full => f.write_str("the leaf has fewer free slabs than the request needs: discard what the union does not need any more"),
            Stacked(role) => write!(f, "the {} is a union or lies on one: unions do not stack; make another leaf of the same root instead", role.name()),
            FineMap(bytes) => write!(f, "the leaf or a layer was written in smaller blocks than the {bytes} bytes that these devices need: attach it to devices with blocks as small as before"),
            Os(errno) => write!(f, "an operation of the kernel failed (errno {errno})"),
            Internal => f.write_str("an invariant of unionblk is broken, which is a bug: please report this with the kernel's log"),
            Frozen => f.write_str("the leaf is frozen, so it is a layer and is never written again: make a leaf on it with ubctl format --layer, or read it with ubctl create --read-only"),
            NotFrozen => f.write_str("the leaf is not frozen, so it cannot be a layer: detach it and run ubctl freeze"),
            LayerCount(_, found) if found > u64::from(LAYERS_MAX) => write!(f, "{found} layers are too many, because a leaf lies on {LAYERS_MAX} at most: merge some of them with ubctl squash"),
            LayerCount(want, found) => {
                let (s, were) = (if want == 1 { "" } else { "s" }, if found == 1 { "was" } else { "were" });
                write!(f, "the leaf was made on {want} layer{s}, and {found} {were} given: give all of them, the lowest first")
            }
            LayerIdentity => f.write_str("the layer is not the one that the leaf was made on: give the layers that ubctl dump lists for the leaf, in that order"),
            UnionSize(want, found) => write!(f, "the new leaf makes a union of {found} sectors, and this one has {want}: format the leaf with ubctl format --size for {want} sectors"),
            BlockSize(want, found) => write!(f, "the union has logical blocks of {want} bytes, and on the new leaf it would have {found}: use a leaf on a device with blocks of at most {want} bytes"),
            ReadOnlyUnion => f.write_str("the union is read-only: detach it, and attach it for writing first"),
            NoRoom(Role::Root, max) => write!(f, "the leaf has room for the map of a union of {max} sectors at most: choose at most that; a leaf that ubctl format makes with --grow-to has room for more"),
            NoRoom(role, max) => write!(f, "the {} has room for its own map up to {max} sectors: choose at most that; a leaf that ubctl format makes with --grow-to has room for more", role.name()),
            Shrink(Role::Root, sectors) => write!(f, "the union has {sectors} sectors and cannot become smaller, because the end of a smaller one may be in use: give at least its size, or make a smaller union and copy the files"),
            Shrink(role, sectors) => write!(f, "the {} has {sectors} sectors and cannot become smaller, because its end may hold data: give at least its size, or seal the changes with ubctl seal, and make a smaller leaf on that layer", role.name()),
            RequestsInFlight => f.write_str("requests of the union did not end within 30 s: see whether a device below it hangs, and try again"),
        }
    }
}

/// An invariant of the map is broken. It becomes [`Error::Internal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// The result of a function that fails only if an invariant is broken. `Checked<bool>` has the size
/// of a `bool`, so code that every request runs can return it.
pub type Checked<T = ()> = core::result::Result<T, Broken>;

impl From<Broken> for Error {
    fn from(_: Broken) -> Self {
        Error::Internal
    }
}

/// The core's result.
pub type Result<T = ()> = core::result::Result<T, Error>;

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_error))]
mod tests {
    use super::{Area, Error, LeafBlock, Role};

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in 1..=32 {
            let e = Error::from_wire(reason, 1, 2);
            assert!(e.is_some());
            if let Some(e) = e {
                assert_eq!(e.to_wire().0, reason);
                let (r, a, b) = e.to_wire();
                assert!(Error::from_wire(r, a, b) == Some(e));
            }
        }
        assert!(Error::from_wire(0, 0, 0).is_none());
        assert!(Error::from_wire(33, 0, 0).is_none());
        // No area, class or device has these numbers.
        for (reason, a, b) in [
            (4, 0, 0),
            (4, 8, 0),
            (3, 1, 0),
            (3, 1, 3),
            (12, 3, 0),
            (11, 9, 8),
        ] {
            assert!(Error::from_wire(reason, a, b).is_none());
        }
        // A number that is too large is no errno.
        assert!(Error::from_wire(20, 1 << 32, 0).is_none());
        assert!(Error::from_wire(13, 0, 1 << 32).is_none());
        assert!(Error::Damaged(Area::Map, LeafBlock(3)).is_refusal());
        assert!(!Error::Busy(Role::Leaf).is_refusal());
    }
}
