// SPDX-License-Identifier: GPL-2.0

//! Where sectors below a leaf come from, and the question that a read asks.

use super::super::error::Broken;

/// The most layers of a stack. Their numbers fit the 8 bits of [`Place::Layer`], from the bottom
/// up.
pub const LAYERS_MAX: u8 = 254;

/// Where sectors of a stack come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The bottom, at the same sector as in the union.
    Bottom,
    /// Nowhere: they read as zeroes.
    Zero,
    /// The layer of this number, from this sector of its data on.
    Layer(u8, u64),
}

impl Place {
    /// Returns the place `sectors` further on. Positions stay far below 2^63.
    #[inline]
    pub fn skip(self, sectors: u32) -> Place {
        match self {
            Place::Layer(layer, at) => Place::Layer(layer, at.wrapping_add(u64::from(sectors))),
            other => other,
        }
    }
}

/// A stretch of a stack with one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where its first sector comes from.
    pub place: Place,
    /// Its length, at least 1.
    pub sectors: u32,
}

/// What lies below a leaf.
pub trait Below {
    /// Returns the first stretch of a range of the union, which has at least one sector. The next
    /// stretch may continue it. Fails if a rule of the stack map does not hold. Any context, no
    /// lock.
    fn stretch(&self, sector: u64, sectors: u32) -> Result<Stretch, Broken>;
}

/// Only the bottom, and no layers. The question then costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoLayers;

impl Below for NoLayers {
    #[inline(always)]
    fn stretch(&self, _: u64, sectors: u32) -> Result<Stretch, Broken> {
        let place = Place::Bottom;
        Ok(Stretch { place, sectors })
    }
}

impl<B: Below> Below for &B {
    #[inline(always)]
    fn stretch(&self, sector: u64, sectors: u32) -> Result<Stretch, Broken> {
        B::stretch(self, sector, sectors)
    }
}

/// A stack, or no layers: one branch that a CPU predicts.
impl<B: Below> Below for Option<B> {
    #[inline(always)]
    fn stretch(&self, sector: u64, sectors: u32) -> Result<Stretch, Broken> {
        match self {
            Some(stack) => stack.stretch(sector, sectors),
            None => NoLayers.stretch(sector, sectors),
        }
    }
}
