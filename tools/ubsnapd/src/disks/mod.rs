// SPDX-License-Identifier: GPL-2.0

//! The operations on leaves and unions that the daemon uses. The tests have a model of them.

pub mod kernel;
mod layout;
#[cfg(test)]
pub mod model;
mod recent;

use crate::error::Result;
use crate::snapshot::{Id, Leaf};

/// A frozen leaf that others lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenLayer {
    /// The leaf.
    pub leaf: Leaf,
    /// The seal that it was frozen with.
    pub seal: Id,
}

/// A union in the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedUnion {
    /// The path of its device.
    pub device: String,
    /// The bytes that it takes of its leaf.
    pub used: u64,
    /// How many requests failed since it was attached because its leaf, or the storage below it,
    /// had no space.
    pub no_space: u64,
    /// How many requests failed since it was attached.
    pub errors: u64,
}

/// The leaves and unions of the system. Every leaf is named by its number, and is an image in the
/// daemon's directory.
pub trait Disks: Send + Sync {
    /// Returns whether there is an image of this number.
    fn exists(&self, number: u64) -> bool;

    /// Makes the leaf `number` on the layers, the lowest first, with room for `bytes` of data, and
    /// attaches it. Returns its UUID.
    fn make(&self, number: u64, layers: &[FrozenLayer], bytes: u64, read_only: bool) -> Result<Id>;

    /// Attaches a leaf that no union has.
    fn attach(&self, leaf: Leaf, layers: &[FrozenLayer], read_only: bool) -> Result<AttachedUnion>;

    /// Repairs the file system of the union of a leaf, if it was not unmounted and is not in use.
    fn repair(&self, leaf: Leaf) -> Result;

    /// Returns the union of a leaf, if there is one.
    fn find(&self, leaf: Leaf) -> Result<Option<AttachedUnion>>;

    /// Detaches the union of a leaf, if there is one and it is not in use. Returns whether there is
    /// none now.
    fn detach(&self, leaf: Leaf) -> Result<bool>;

    /// Freezes a leaf that no union has.
    fn freeze(&self, leaf: Leaf, seal: Id) -> Result;

    /// Freezes the leaf of a union, which lies on the layers, with the file systems on it. The
    /// union continues in a leaf that this function makes: `next` has its number and size.
    fn freeze_in_use(
        &self,
        leaf: Leaf,
        seal: Id,
        layers: &[FrozenLayer],
        next: (u64, u64),
    ) -> Result;

    /// Returns the seal of a leaf, if it is frozen.
    fn seal(&self, number: u64) -> Result<Option<Id>>;

    /// Returns the UUID of a leaf; none if there is no such image, or it is not formatted.
    fn uuid(&self, number: u64) -> Result<Option<Id>>;

    /// Returns the bytes that a leaf without a union takes. If `exact`, reads all of its map.
    fn used(&self, number: u64, exact: bool) -> Result<u64>;

    /// Deletes the image of a leaf, if there is one. A union on it keeps what it needs.
    fn delete(&self, number: u64) -> Result;

    /// Returns the numbers of all images in the daemon's directory.
    fn all(&self) -> Result<Vec<u64>>;

    /// Returns random bytes.
    fn random(&self) -> Result<Id>;
}
