// SPDX-License-Identifier: GPL-2.0

//! What a layer maps, as extents: stretches of the union, each with one kind of content.

use super::super::error::Result;

/// What the sectors of an extent read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes.
    Zero,
    /// The sectors of the layer's device from this one on. For a layer at an offset in its device,
    /// the number counts from the start of the layer.
    Data(u64),
}

/// A stretch of the union that a layer maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first sector of the union.
    pub first: u64,
    /// The number of sectors, at least 1. `first + sectors` does not overflow.
    pub sectors: u64,
    /// What the sectors read as.
    pub content: Content,
}

impl Extent {
    /// Returns whether `next` starts where this extent ends, in the union and in what it reads as.
    pub fn is_continued_by(&self, next: &Extent) -> bool {
        let on = match (self.content, next.content) {
            (Content::Zero, Content::Zero) => true,
            (Content::Data(a), Content::Data(b)) => a.checked_add(self.sectors) == Some(b),
            _ => false,
        };
        on && self.first.checked_add(self.sectors) == Some(next.first)
    }
}

/// The extents of a layer in ascending order. They do not overlap, and sectors between them are not
/// mapped by the layer. Two neighbours may be one extent cut in two.
pub trait Extents {
    /// Returns the next extent, or `None` at the end. After an error it is not called again.
    /// Process context.
    fn next(&mut self) -> Result<Option<Extent>>;
}
