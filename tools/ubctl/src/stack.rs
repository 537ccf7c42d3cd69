// SPDX-License-Identifier: GPL-2.0

//! Leaves and layers that lie on each other, merged into one stack map.

use map_memory::StackHeap;
use ubcore::attach;
use ubcore::error::{Error, Role};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::BLOCK_SECTORS;
use ubcore::num::{saturating_u32, u64_as_usize};
use ubcore::sealed::header::Header;
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::build::{Builder, Refusal};
use ubcore::stack::chain::{LayerId, StandIn};
use ubcore::stack::extent::{Content, Extent, Extents, Joined};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::map::{StackMap, STACK_SECTORS_MAX};
use ubcore::stack::source::{StackLookup, StackSource};

use crate::device::{refuse_union, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::loaded::{self, Loaded};
use crate::sealed::{self, DeviceReader};

/// The map has the number of a layer for data only. So it has the zeroes of a layer as data that
/// begin at this sector, which no device has.
const ZEROES: u64 = 1 << 46;
/// How many of the bits of a position are the sector, in what [`OpenStack::extents`] returns. The
/// other bits are the layer.
const SECTOR_BITS: u32 = 48;

/// A leaf or a layer of a stack.
pub struct Member {
    /// The device or image.
    pub device: Device,
    /// What it is. `None`: a leaf that is not frozen.
    pub id: Option<LayerId>,
    /// What a sealed layer stands for.
    pub stand_in: Option<StandIn>,
    /// The superblock of a leaf.
    pub superblock: Option<Superblock>,
    /// The header of a sealed layer.
    pub header: Option<Header>,
    /// The sectors that it maps to data.
    pub data_sectors: u64,
    /// The sectors that it maps to zeroes.
    pub zero_sectors: u64,
    /// The sectors that it takes of its device.
    pub space: u64,
}

impl Member {
    /// Finds out what a device holds.
    fn new(mut device: Device) -> Result<Member> {
        refuse_union(&device, Role::Layer)?;
        let what = device.name();
        let superblock = match attach::read_superblock(&mut device) {
            Ok(probe) => Some(probe.superblock),
            Err(Error::NotFormatted) => None,
            Err(e) => return Err(Fail::core(&what, e)),
        };
        let sealed = match &superblock {
            Some(_) => None,
            None => {
                let sealed = sealed::open_if_there(&device)?;
                Some(sealed.ok_or_else(|| Fail::core(&what, Error::NotFormatted))?)
            }
        };
        let large = sealed.map(|s| s.header.union_sectors);
        if let Some(sectors) = large.filter(|&sectors| sectors > STACK_SECTORS_MAX) {
            return Err(Fail::core(&what, Error::TooLarge(Role::Layer, sectors)));
        }
        let id = match (&superblock, &sealed) {
            (Some(sb), _) => sb.frozen.map(|seal| LayerId::Frozen(sb.uuid, seal)),
            (_, sealed) => sealed.map(|s| LayerId::Sealed(s.header.digest)),
        };
        Ok(Member {
            device,
            id,
            stand_in: sealed.and_then(|s| s.stand_in),
            superblock,
            header: sealed.map(|s| s.header),
            data_sectors: 0,
            zero_sectors: 0,
            space: 0,
        })
    }

    /// Returns its name for messages.
    pub fn name(&self) -> String {
        self.device.name()
    }

    /// Returns the size of its union, in sectors.
    pub fn sectors(&self) -> u64 {
        match (&self.superblock, &self.header) {
            (Some(sb), _) => sb.geometry.union_sectors(),
            (None, header) => header.map_or(0, |h| h.union_sectors),
        }
    }

    /// Returns the bytes of a block that its content was made for.
    pub fn block_bytes(&self) -> u32 {
        match (&self.superblock, &self.header) {
            (Some(sb), _) => sb.root_block_bytes,
            (None, header) => header.map_or(512, |h| h.block_bytes),
        }
    }

    /// Puts what it maps over what is there.
    fn add(&mut self, builder: Builder<StackHeap>) -> Result<Builder<StackHeap>> {
        let what = self.name();
        let mut counts = (0, 0);
        let built = match &self.header {
            Some(header) => {
                self.space = header.blocks().saturating_mul(BLOCK_SECTORS);
                let reader = DeviceReader::new(&self.device);
                let extents = SealedExtents::new(reader, header);
                builder.add_layer(&mut CountedExtents::new(extents, &mut counts))
            }
            None => {
                let Loaded { map, used, .. } = loaded::load(&mut self.device)?;
                let g = map.geometry();
                let data = u64::from(used).saturating_mul(g.slab_sectors().into());
                self.space = g.data_start().saturating_add(data);
                let extents = LeafExtents::new(&map, || Ok(()));
                builder.add_layer(&mut CountedExtents::new(extents, &mut counts))
            }
        };
        (self.data_sectors, self.zero_sectors) = counts;
        built.map_err(|e| refused(&what, e))
    }
}

fn refused(what: &str, refusal: Refusal) -> Fail {
    match refusal {
        Refusal::Failed(e) => Fail::core(what, e),
        refusal => {
            let reason = match refusal {
                Refusal::StackSize(_) => "too_large",
                Refusal::Layers => "layer_count",
                _ => "damaged",
            };
            Fail::new(REFUSED, reason, format!("{what}: {refusal}"))
        }
    }
}

/// The extents of one layer, with its zeroes as data, and how many sectors they have.
struct CountedExtents<'a, E> {
    extents: E,
    /// Data, and zeroes.
    counts: &'a mut (u64, u64),
}

impl<'a, E> CountedExtents<'a, E> {
    fn new(extents: E, counts: &'a mut (u64, u64)) -> CountedExtents<'a, E> {
        CountedExtents { extents, counts }
    }
}

impl<E: Extents> Extents for CountedExtents<'_, E> {
    fn next(&mut self) -> ubcore::error::Result<Option<Extent>> {
        let Some(extent) = self.extents.next()? else {
            return Ok(None);
        };
        let Content::Data(position) = extent.content else {
            self.counts.1 = self.counts.1.saturating_add(extent.sectors);
            let at = ZEROES.saturating_add(extent.first);
            let content = Content::Data(at);
            return Ok(Some(Extent { content, ..extent }));
        };
        if position.saturating_add(extent.sectors) > ZEROES {
            return Err(Error::Internal);
        }
        self.counts.0 = self.counts.0.saturating_add(extent.sectors);
        Ok(Some(extent))
    }
}

/// Where a range of a stack comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedSource {
    /// The bottom.
    Bottom,
    /// Zeroes of the member of this number.
    Zero(usize),
    /// Data of the member of this number, from this sector of its device on.
    Data(usize, u64),
}

/// A stack, open and merged.
pub struct OpenStack {
    /// What its bottom is. `None`: zeroes.
    pub root: Option<Device>,
    /// The leaves and layers, the lowest first.
    pub members: Vec<Member>,
    sectors: u64,
    map: StackMap<StackHeap>,
}

impl OpenStack {
    /// Finds out what the devices hold, the lowest first.
    pub fn members(devices: Vec<Device>) -> Result<Vec<Member>> {
        devices.into_iter().map(Member::new).collect()
    }

    /// Merges what the members map. Refuses damage of their metadata.
    pub fn new(root: Option<Device>, mut members: Vec<Member>) -> Result<OpenStack> {
        let sizes = members.iter().map(Member::sectors);
        let sectors = sizes.fold(root.as_ref().map_or(0, Device::sectors), u64::max);
        let what = "the stack";
        if sectors > ZEROES {
            return Err(refused(what, Refusal::StackSize(sectors)));
        }
        let builder = Builder::new(StackHeap::new(), sectors);
        let mut builder = builder.map_err(|e| refused(what, e))?;
        for member in &mut members {
            builder = member.add(builder)?;
        }
        let map = builder.finish().map_err(|e| refused(what, e))?;
        Ok(OpenStack {
            root,
            members,
            sectors,
            map,
        })
    }

    /// Returns the size of the stack, in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Returns where the range that begins at a sector comes from, and its length: at most
    /// `limit`, and at least 1 if `limit` is.
    pub fn range_at(&self, sector: u64, limit: u64) -> ubcore::error::Result<(MergedSource, u64)> {
        let found = self.map.look_up(sector, saturating_u32(limit))?;
        let from = match found.source {
            StackSource::Bottom => MergedSource::Bottom,
            // The map has none, see `CountedExtents`.
            StackSource::Zero => return Err(Error::Internal),
            StackSource::Layer(n, at) if at >= ZEROES => MergedSource::Zero(n.into()),
            StackSource::Layer(n, at) => MergedSource::Data(n.into(), at),
        };
        Ok((from, found.sectors.into()))
    }

    /// Fills `room`, whole sectors, with what the stack reads as from a sector on.
    pub fn read(&self, mut sector: u64, mut room: &mut [u8]) -> Result {
        while !room.is_empty() {
            let found = self.range_at(sector, room.len() as u64 / 512);
            let (from, sectors) = found.map_err(|e| Fail::core("the stack", e))?;
            let (now, rest) = room.split_at_mut(bytes_of(sectors));
            match from {
                MergedSource::Bottom => self.read_root(sector, now)?,
                MergedSource::Zero(_) => now.fill(0),
                MergedSource::Data(n, at) => self.read_data(n, at, now)?,
            }
            sector += sectors;
            room = rest;
        }
        Ok(())
    }

    fn read_root(&self, sector: u64, room: &mut [u8]) -> Result {
        room.fill(0);
        let Some(root) = &self.root else {
            return Ok(());
        };
        let sectors = root.sectors().saturating_sub(sector);
        let there = room.len().min(bytes_of(sectors));
        match room.get_mut(..there) {
            Some(room) if !room.is_empty() => root.read_at(sector * 512, room),
            _ => Ok(()),
        }
    }

    /// Reads data of a member, from a sector of its device on.
    pub fn read_data(&self, member: usize, sector: u64, room: &mut [u8]) -> Result {
        match self.members.get(member) {
            Some(member) => member.device.read_at(sector * 512, room),
            None => Err(Fail::core("the stack", Error::Internal)),
        }
    }

    /// Returns what all members map together. A position is the number of a member and a sector of
    /// its device.
    pub fn extents(&self) -> impl Extents + '_ {
        Joined::new(MergedRanges { stack: self, at: 0 })
    }

    /// Reads data from a position of [`OpenStack::extents`] on.
    pub fn read_position(&self, position: u64, room: &mut [u8]) -> Result {
        let member = u64_as_usize(position >> SECTOR_BITS);
        let sector = position & ((1 << SECTOR_BITS) - 1);
        self.read_data(member, sector, room)
    }
}

fn bytes_of(sectors: u64) -> usize {
    u64_as_usize(sectors.saturating_mul(512))
}

/// The extents of all members together, split at the borders of the stack map.
struct MergedRanges<'a> {
    stack: &'a OpenStack,
    at: u64,
}

impl Extents for MergedRanges<'_> {
    fn next(&mut self) -> ubcore::error::Result<Option<Extent>> {
        while self.at < self.stack.sectors {
            let first = self.at;
            let (from, sectors) = self.stack.range_at(first, self.stack.sectors - first)?;
            self.at += sectors;
            let content = match from {
                MergedSource::Bottom => continue,
                MergedSource::Zero(_) => Content::Zero,
                MergedSource::Data(n, at) => Content::Data(((n as u64) << SECTOR_BITS) | at),
            };
            return Ok(Some(Extent {
                first,
                sectors,
                content,
            }));
        }
        Ok(None)
    }
}
