// SPDX-License-Identifier: GPL-2.0

//! Layers that are to become one: checked, verified and merged.

use ubcore::error::Error;
use ubcore::sealed::header::Header;
use ubcore::stack::chain::{StandIn, LAYERS_MAX};
use ubcore::stack::extent::{Content, Extents};

use super::super::verify;
use super::order;
use crate::device::Device;
use crate::error::{Fail, Result};
use crate::output;
use crate::sealing::Sealing;
use crate::stack::{Member, OpenStack};
use crate::target::Target;

/// Layers that lie on each other.
pub struct Merged {
    /// What they map together.
    pub stack: OpenStack,
    /// What one layer in their place stands for.
    pub stand_in: StandIn,
    /// The sectors of their data that are visible.
    pub data_sectors: u64,
    /// What they are, for messages.
    pub what: String,
}

impl Merged {
    /// Checks the order of the layers, the lowest first, and verifies the data of sealed ones.
    pub fn new(devices: Vec<Device>) -> Result<Merged> {
        let count = devices.len() as u64;
        if count > LAYERS_MAX.into() {
            let e = Error::LayerCount(LAYERS_MAX.into(), count);
            return Err(Fail::core("squash", e));
        }
        let members = OpenStack::members(devices)?;
        let stand_in = order::check(&members)?;
        for member in &members {
            if let Some(header) = &member.header {
                verify::refuse_damage(&member.device, header)?;
            }
        }
        let stack = OpenStack::new(None, members)?;
        let what = output::counted(stack.members.len() as u64, "layer");
        Ok(Merged {
            stand_in,
            data_sectors: data_sectors(&stack).map_err(|e| Fail::core(&what, e))?,
            stack,
            what,
        })
    }

    /// Writes them as one sealed layer, and returns its header.
    pub fn seal(&self, target: Target, stand_in: Option<StandIn>) -> Result<Header> {
        let read = |position, room: &mut [u8]| self.stack.read_position(position, room);
        let sealing = self.sealing(stand_in);
        sealing.write(target, || self.stack.extents(), read)
    }

    /// Returns the header that the sealed layer would have, without writing it.
    pub fn header(&self) -> Result<Header> {
        let read = |position, room: &mut [u8]| self.stack.read_position(position, room);
        self.sealing(None).rehearse(|| self.stack.extents(), read)
    }

    fn sealing(&self, stand_in: Option<StandIn>) -> Sealing<'_> {
        // The blocks that the content was made for are those of the highest layer, as for a leaf on
        // it.
        let blocks = self.stack.members.last().map_or(512, Member::block_bytes);
        Sealing {
            what: &self.what,
            sizes: (self.stack.sectors(), blocks),
            data_sectors: self.data_sectors,
            stand_in,
        }
    }
}

/// Returns how many sectors of data are visible.
fn data_sectors(stack: &OpenStack) -> ubcore::error::Result<u64> {
    let mut extents = stack.extents();
    let mut sectors = 0;
    while let Some(extent) = extents.next()? {
        if extent.content != Content::Zero {
            sectors += extent.sectors;
        }
    }
    Ok(sectors)
}
