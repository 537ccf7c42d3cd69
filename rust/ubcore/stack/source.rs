// SPDX-License-Identifier: GPL-2.0

//! Where sectors below a leaf come from, and the look-up of a read there.

use super::super::error::Checked;
use super::chain::LAYERS_MAX;

/// The most sources of a stack map: [`LAYERS_MAX`] layers, and a leaf over them, which `ubctl
/// publish` takes for one more. Their numbers fit the 8 bits of [`StackSource::Layer`], from the
/// bottom up.
pub const SOURCES_MAX: u8 = 255;

const _: () = assert!(LAYERS_MAX + 1 == 255);

/// Where sectors of a stack come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackSource {
    /// The bottom, at the same sector as in the union.
    Bottom,
    /// Nowhere: they read as zeroes.
    Zero,
    /// The layer of this number, from this sector of its data on.
    Layer(u8, u64),
}

impl StackSource {
    /// Returns the source `sectors` further on. Positions stay far below 2^63.
    #[inline]
    pub fn skip(self, sectors: u32) -> StackSource {
        match self {
            StackSource::Layer(layer, at) => {
                StackSource::Layer(layer, at.wrapping_add(u64::from(sectors)))
            }
            other => other,
        }
    }
}

/// A sector of a layer in one word, so that the source of a read fits two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct LayerSector(u64);

const LAYER_SHIFT: u32 = 56;

impl LayerSector {
    /// Returns a sector of the data of a layer. It is below 2^56.
    #[inline]
    pub fn new(layer: u8, sector: u64) -> Self {
        LayerSector(u64::from(layer).wrapping_shl(LAYER_SHIFT) | sector)
    }

    /// Returns the number of the layer.
    #[inline]
    pub fn layer(self) -> u8 {
        let [.., layer] = self.0.to_le_bytes();
        layer
    }

    /// Returns the sector of the layer's data.
    #[inline]
    pub fn sector(self) -> u64 {
        self.0 & 1u64.wrapping_shl(LAYER_SHIFT).wrapping_sub(1)
    }

    /// Returns the sector `sectors` further on in the same layer.
    #[inline]
    pub fn skip(self, sectors: u32) -> Self {
        LayerSector(self.0.wrapping_add(u64::from(sectors)))
    }
}

/// A range of a stack with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackRange {
    /// Where its first sector comes from.
    pub source: StackSource,
    /// Its length, at least 1.
    pub sectors: u32,
}

/// What lies below a leaf.
pub trait StackLookup {
    /// Returns the first part of a range of the union that has one source. The range has at least
    /// one sector. The next part may continue this one. Fails if an invariant of the stack map is
    /// broken. Any context, no lock.
    fn look_up(&self, sector: u64, sectors: u32) -> Checked<StackRange>;
}

/// Only the bottom, and no layers. A look-up then costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoLayers;

impl StackLookup for NoLayers {
    #[inline(always)]
    fn look_up(&self, _: u64, sectors: u32) -> Checked<StackRange> {
        let source = StackSource::Bottom;
        Ok(StackRange { source, sectors })
    }
}

impl<B: StackLookup> StackLookup for &B {
    #[inline(always)]
    fn look_up(&self, sector: u64, sectors: u32) -> Checked<StackRange> {
        B::look_up(self, sector, sectors)
    }
}

/// A stack, or no layers. The choice is one branch, which a CPU predicts.
impl<B: StackLookup> StackLookup for Option<B> {
    #[inline(always)]
    fn look_up(&self, sector: u64, sectors: u32) -> Checked<StackRange> {
        match self {
            Some(stack) => stack.look_up(sector, sectors),
            None => NoLayers.look_up(sector, sectors),
        }
    }
}
