// SPDX-License-Identifier: GPL-2.0

//! From the extents of a layer to the canonical form of its content.
//!
//! The union is looked at in units of 8 sectors. A unit whose sectors are all mapped, and all zero,
//! becomes zero. Every other mapped sector becomes data. So the form depends on nothing but on
//! which sectors are mapped and what they read as.

use super::super::error::Error;
use super::super::geometry::{Block, BLOCK_BYTES};
use super::super::num::{saturating_u32, u64_as_usize, usize_as_u64, SECTOR_BYTES};
use super::super::stack::extent::{Content, Extent, Extents};
use super::fault::Fault;
use super::packing::{Packing, CUT, UNIT};
use super::{is_zero, SourceData};

/// Receives the canonical form of a layer.
pub(super) trait Sink {
    /// Takes data that goes to sector `position` of the layer, in ascending order.
    fn data(&mut self, position: u64, bytes: &[u8]) -> Result<(), Fault>;

    /// Takes an extent, after its data.
    fn extent(&mut self, extent: &Extent) -> Result<(), Fault>;
}

/// A unit of which only a part was mapped by one extent.
struct Unit {
    /// Its first sector.
    first: u64,
    /// A bit for each sector that is mapped.
    mapped: u8,
    bytes: Block,
}

impl Unit {
    fn is_zero(&self) -> bool {
        self.mapped == u8::MAX && is_zero(&self.bytes)
    }
}

/// Walks through the content of a layer and passes its canonical form on.
pub(super) struct UnitWalk<'a, F> {
    pub(super) sink: F,
    pub(super) packing: Packing,
    union_sectors: u64,
    /// Room for one read.
    room: &'a mut [Block],
    /// The extent that may still grow.
    open: Option<Extent>,
    unit: Unit,
}

impl<'a, F: Sink> UnitWalk<'a, F> {
    pub(super) fn new(sink: F, union_sectors: u64, room: &'a mut [Block]) -> UnitWalk<'a, F> {
        UnitWalk {
            sink,
            packing: Packing::new(union_sectors),
            union_sectors,
            room,
            open: None,
            unit: Unit {
                first: 0,
                mapped: 0,
                bytes: [0; BLOCK_BYTES],
            },
        }
    }

    /// Walks to the end.
    pub(super) fn run<E: Extents, D: SourceData>(
        &mut self,
        source: &mut E,
        data: &mut D,
    ) -> Result<(), Fault> {
        let mut before = 0;
        while let Some(extent) = source.next()? {
            let end = extent.first.checked_add(extent.sectors);
            let end = end.filter(|&end| end <= self.union_sectors && extent.first >= before);
            before = end.ok_or(Error::Internal)?;
            self.take(&extent, data)?;
        }
        self.end_unit()?;
        self.close()
    }

    /// Takes an extent of the source.
    fn take<D: SourceData>(&mut self, extent: &Extent, data: &mut D) -> Result<(), Fault> {
        let mut done = 0;
        while done < extent.sectors {
            // Within the extent, whose end does not overflow.
            let first = extent.first.wrapping_add(done);
            let left = extent.sectors.wrapping_sub(done);
            let within = first % UNIT;
            let position = match extent.content {
                Content::Zero => None,
                Content::Data(at) => Some(at.checked_add(done).ok_or(Error::Internal)?),
            };
            let taken = if within != 0 || left < UNIT {
                let n = left.min(UNIT.wrapping_sub(within));
                self.take_part(first, n, position, data)?;
                n
            } else {
                self.end_unit()?;
                self.take_units(first, left, position, data)?
            };
            done = done.wrapping_add(taken);
        }
        Ok(())
    }

    /// Takes a part of a unit: `n` sectors from `first` on.
    fn take_part<D: SourceData>(
        &mut self,
        first: u64,
        n: u64,
        position: Option<u64>,
        data: &mut D,
    ) -> Result<(), Fault> {
        let within = first % UNIT;
        let start = first.wrapping_sub(within);
        if self.unit.mapped != 0 && self.unit.first != start {
            self.end_unit()?;
        }
        self.unit.first = start;
        // Sectors of a unit.
        let bytes = |sectors: u64| u64_as_usize(sectors.wrapping_mul(SECTOR_BYTES));
        let end = within.wrapping_add(n);
        let room = self.unit.bytes.get_mut(bytes(within)..bytes(end));
        let room = room.ok_or(Error::Internal)?;
        match position {
            None => room.fill(0),
            Some(at) => data.read(at, room)?,
        }
        for sector in within..end {
            self.unit.mapped |= bit(sector);
        }
        Ok(())
    }

    /// Takes whole units: up to `left` sectors from `first` on. Returns how many sectors it took.
    fn take_units<D: SourceData>(
        &mut self,
        first: u64,
        left: u64,
        position: Option<u64>,
        data: &mut D,
    ) -> Result<u64, Fault> {
        let whole = left.wrapping_sub(left % UNIT);
        let Some(at) = position else {
            self.zero(first, whole)?;
            return Ok(whole);
        };
        // The room is in memory.
        let fits = usize_as_u64(self.room.len()).wrapping_mul(UNIT);
        let sectors = whole.min(fits);
        // The room is given back below. It is taken out because the units of it are passed on.
        let room = core::mem::take(&mut self.room);
        let blocks = room.get_mut(..u64_as_usize(sectors / UNIT));
        let blocks = blocks.filter(|blocks| !blocks.is_empty());
        let blocks = blocks.ok_or(Error::Internal)?;
        data.read(at, blocks.as_flattened_mut())?;
        let mut at = first;
        for units in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
            let sectors = usize_as_u64(units.len()).wrapping_mul(UNIT);
            if units.first().is_some_and(|unit| is_zero(unit)) {
                self.zero(at, sectors)?;
            } else {
                self.data(at, units.as_flattened())?;
            }
            // Within the union, as all sectors below.
            at = at.wrapping_add(sectors);
        }
        self.room = room;
        Ok(sectors)
    }

    /// Passes the unit on that was taken in parts.
    fn end_unit(&mut self) -> Result<(), Fault> {
        if self.unit.mapped == 0 {
            return Ok(());
        }
        let Unit { first, mapped, .. } = self.unit;
        if self.unit.is_zero() {
            self.unit.mapped = 0;
            return self.zero(first, UNIT);
        }
        let bytes = self.unit.bytes;
        self.unit.mapped = 0;
        let sectors = bytes.chunks_exact(u64_as_usize(SECTOR_BYTES));
        for (n, sector) in (0u64..).zip(sectors) {
            if mapped & bit(n) != 0 {
                self.data(first.wrapping_add(n), sector)?;
            }
        }
        Ok(())
    }

    /// Passes data on that begins at `first`, and adds it to the open extent or begins another.
    fn data(&mut self, first: u64, mut bytes: &[u8]) -> Result<(), Fault> {
        let mut first = first;
        while !bytes.is_empty() {
            let sectors = (usize_as_u64(bytes.len()) / SECTOR_BYTES).min(to_cut(first));
            let split = bytes.split_at_checked(u64_as_usize(sectors.wrapping_mul(SECTOR_BYTES)));
            let (now, later) = split.ok_or(Error::Internal)?;
            let position = self.grow(first, sectors, false)?;
            self.sink.data(position, now)?;
            first = first.wrapping_add(sectors);
            bytes = later;
        }
        Ok(())
    }

    fn zero(&mut self, mut first: u64, mut left: u64) -> Result<(), Fault> {
        while left > 0 {
            let sectors = left.min(to_cut(first));
            self.grow(first, sectors, true)?;
            first = first.wrapping_add(sectors);
            left = left.wrapping_sub(sectors);
        }
        Ok(())
    }

    /// Adds sectors up to the next cut to the open extent, or begins another. Returns where they
    /// lie.
    fn grow(&mut self, first: u64, sectors: u64, is_zero: bool) -> Result<u64, Fault> {
        if let Some(open) = &mut self.open {
            // An extent ends within the union, and its data begins below 2^48.
            let end = open.first.wrapping_add(open.sectors);
            let same = is_zero == (open.content == Content::Zero);
            if same && end == first && first % CUT != 0 {
                let position = match open.content {
                    Content::Data(at) => at.wrapping_add(open.sectors),
                    Content::Zero => 0,
                };
                open.sectors = open.sectors.wrapping_add(sectors);
                return Ok(position);
            }
        }
        self.close()?;
        let position = self.packing.position_for(first);
        self.open = Some(Extent {
            first,
            sectors,
            content: if is_zero {
                Content::Zero
            } else {
                Content::Data(position)
            },
        });
        Ok(position)
    }

    /// Passes the open extent on.
    fn close(&mut self) -> Result<(), Fault> {
        let Some(extent) = self.open.take() else {
            return Ok(());
        };
        // Only the end of the positions is not ensured above.
        self.packing.take(&extent).map_err(|_| Fault::TooLarge)?;
        self.sink.extent(&extent)
    }
}

/// Returns how many sectors there are from `first` to the next place at which extents are cut.
fn to_cut(first: u64) -> u64 {
    CUT.wrapping_sub(first % CUT)
}

/// Returns the bit of a sector of a unit.
fn bit(sector: u64) -> u8 {
    1u8.wrapping_shl(saturating_u32(sector))
}
