// SPDX-License-Identifier: GPL-2.0

//! What a layer maps, as extents: ranges of the union, each with one kind of content.

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

/// A range of the union that a layer maps.
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

/// The extents of another sequence, of which no two could be one.
pub struct Joined<E> {
    inner: E,
    /// An extent that the next one of `inner` may continue.
    held: Option<Extent>,
}

impl<E> Joined<E> {
    /// Returns the extents of a sequence whose neighbours may be cut.
    pub fn new(inner: E) -> Self {
        Joined { inner, held: None }
    }
}

impl<E: Extents> Extents for Joined<E> {
    fn next(&mut self) -> Result<Option<Extent>> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.inner.next()?,
        };
        let Some(mut extent) = first else {
            return Ok(None);
        };
        while let Some(next) = self.inner.next()? {
            if !extent.is_continued_by(&next) {
                self.held = Some(next);
                break;
            }
            // The end of an extent does not overflow.
            extent.sectors = extent.sectors.wrapping_add(next.sectors);
        }
        Ok(Some(extent))
    }
}

/// The extents of another sequence, and the largest block that they do not cut.
pub struct ExtentAlignment<E> {
    extents: E,
    /// All first sectors, lengths and places.
    any: u64,
}

impl<E> ExtentAlignment<E> {
    /// The 8 sectors of a block of the leaf.
    pub const LARGEST: u32 = 8;

    /// Returns the same extents.
    pub fn new(extents: E) -> Self {
        ExtentAlignment { extents, any: 0 }
    }

    /// Returns the largest power of two, at most the 8 sectors of a block, such that each extent so
    /// far begins, ends and lies at a multiple of it.
    pub fn block_sectors(&self) -> u32 {
        1u32.wrapping_shl(self.any.trailing_zeros().min(3))
    }
}

impl<E: Extents> Extents for ExtentAlignment<E> {
    fn next(&mut self) -> Result<Option<Extent>> {
        let next = self.extents.next()?;
        if let Some(extent) = next {
            let place = match extent.content {
                Content::Zero => 0,
                Content::Data(at) => at,
            };
            self.any |= extent.first | extent.sectors | place;
        }
        Ok(next)
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_extent))]
mod tests {
    use super::super::super::error::Result;
    use super::{Content, Extent, ExtentAlignment, Extents, Joined};

    struct List<'a>(core::slice::Iter<'a, Extent>);

    impl Extents for List<'_> {
        fn next(&mut self) -> Result<Option<Extent>> {
            Ok(self.0.next().copied())
        }
    }

    #[test]
    fn neighbours_that_could_be_one_are_joined() {
        let extent = |first, sectors, content| Extent {
            first,
            sectors,
            content,
        };
        let cut = [
            extent(0, 4, Content::Data(100)),
            extent(4, 4, Content::Data(104)),
            extent(8, 1, Content::Data(108)),
            // Elsewhere on the device, elsewhere in the union, and zeroes.
            extent(9, 1, Content::Data(200)),
            extent(12, 2, Content::Zero),
            extent(14, 2, Content::Zero),
            extent(20, 2, Content::Zero),
        ];
        let whole = [
            extent(0, 9, Content::Data(100)),
            extent(9, 1, Content::Data(200)),
            extent(12, 4, Content::Zero),
            extent(20, 2, Content::Zero),
        ];
        let mut joined = Joined::new(List(cut.iter()));
        for wanted in whole {
            assert!(joined.next() == Ok(Some(wanted)));
        }
        assert!(joined.next() == Ok(None));
        assert!(Joined::new(List([].iter())).next() == Ok(None));
    }

    struct One(Option<Extent>);

    impl Extents for One {
        fn next(&mut self) -> Result<Option<Extent>> {
            Ok(self.0.take())
        }
    }

    #[test]
    fn blocks_are_as_large_as_no_extent_cuts() {
        for (first, sectors, at, block) in [
            (16, 8, 2048, 8),
            (16, 8, 2052, 4),
            (16, 2, 2048, 2),
            (1, 8, 2048, 1),
            (64, 64, 64, 8),
        ] {
            let content = Content::Data(at);
            let mut blocks = ExtentAlignment::new(One(Some(Extent {
                first,
                sectors,
                content,
            })));
            assert_eq!(blocks.block_sectors(), 8);
            assert!(blocks.next().is_ok());
            assert_eq!(blocks.block_sectors(), block);
        }
    }
}
