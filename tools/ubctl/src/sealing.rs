// SPDX-License-Identifier: GPL-2.0

//! Writes a sealed layer, from extents and from where their data is read.

use map_memory::sha256::Sha256;
use ubcore::error::{Error, Side};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::sealed::fault::Fault;
use ubcore::sealed::header::Header;
use ubcore::sealed::{seal, Content};
use ubcore::stack::chain::StandIn;
use ubcore::stack::extent::Extents;

use crate::error::{Fail, Result};
use crate::interrupt;
use crate::progress::Progress;
use crate::sealed::failure;
use crate::target::Target;

/// What is written, in messages.
pub const SEALED_LAYER: &str = "sealed layer";

/// Blocks of one read or write of data: 1 MiB.
const ROOM: usize = 256;

/// What is known of a layer before it is sealed.
pub struct Sealing<'a> {
    /// What it is made from, for messages.
    pub what: &'a str,
    /// The sectors of its union, and the bytes of a block that the content was made for.
    pub sizes: (u64, u32),
    /// The sectors of data that each of the two passes reads.
    pub data_sectors: u64,
    /// What it stands for.
    pub stand_in: Option<StandIn>,
}

impl Sealing<'_> {
    /// Writes the layer, and returns its header. From here on a signal ends the work between two
    /// steps, and undoes it.
    pub fn write<E: Extents>(
        &self,
        target: Target,
        extents: impl Fn() -> E,
        read: impl Fn(u64, &mut [u8]) -> Result,
    ) -> Result<Header> {
        interrupt::watch()?;
        let mut room = vec![[0; BLOCK_BYTES]; ROOM];
        let mut content = self.content("measure", &read);
        let measured = seal::measure(&mut extents(), &mut content, self.sizes, &mut room);
        let measured = measured.map_err(|fault| content.failure(fault, self.what))?;

        drop(content);
        let mut content = self.content("write", &read);
        let mut writer = target.begin(measured.blocks().saturating_mul(BLOCK_BYTES as u64))?;
        let mut output = vec![[0; BLOCK_BYTES]; ROOM];
        let from = (&mut extents(), &mut content);
        let rooms = (&mut room[..], &mut output[..]);
        let stand_in = self.stand_in.as_ref();
        let written = seal::write::<_, _, _, Sha256>(from, &measured, stand_in, &mut writer, rooms);
        drop((room, output));
        let done = match written {
            Ok(header) => writer.finish().map(|()| header),
            Err(fault) => Err(match writer.take_fail() {
                Some(fail) => fail,
                None => content.failure(fault, self.what),
            }),
        };
        drop(content);
        done.map_err(|fail| writer.undo(fail))
    }

    fn content<R>(&self, pass: &'static str, read: R) -> Counted<R> {
        Counted {
            read,
            progress: Progress::new(pass, self.data_sectors),
            fail: None,
        }
    }
}

/// The data, and how much of it was read.
struct Counted<R> {
    read: R,
    progress: Progress,
    fail: Option<Fail>,
}

impl<R> Counted<R> {
    /// Returns the failure of a read, or the fault.
    fn failure(&mut self, fault: Fault, what: &str) -> Fail {
        self.fail.take().unwrap_or_else(|| failure(what, fault))
    }
}

impl<R: Fn(u64, &mut [u8]) -> Result> Content for Counted<R> {
    fn read(&mut self, position: u64, room: &mut [u8]) -> ubcore::error::Result {
        let read = interrupt::check().and_then(|()| (self.read)(position, room));
        self.progress.add(room.len() as u64 / 512);
        read.map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Side::Leaf, position)
        })
    }
}
