// SPDX-License-Identifier: GPL-2.0

//! Writes a sealed layer, from extents and from where their data is read.

use map_memory::sha256::Sha256;
use ubcore::error::{Error, Role};
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::sealed::fault::Fault;
use ubcore::sealed::header::Header;
use ubcore::sealed::{seal, SourceData, Writer};
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
        let measured = self.measure(extents(), &read);
        let measured = measured.map_err(|fail| target.untouched(fail))?;
        let mut writer = target.begin(measured.blocks().saturating_mul(BLOCK_BYTES as u64))?;
        let written = self.fill(&measured, &mut writer, (extents(), &read));
        let done = match written {
            Ok(header) => writer.finish().map(|()| header),
            Err(fail) => Err(writer.take_fail().unwrap_or(fail)),
        };
        done.map_err(|fail| writer.undo(fail))
    }

    /// Writes the layer to a writer that learns its size first, and returns its header.
    pub fn stream<E: Extents, W: Writer>(
        &self,
        extents: impl Fn() -> E,
        read: impl Fn(u64, &mut [u8]) -> Result,
        begin: impl FnOnce(u64) -> Result<W>,
        failure: impl FnOnce(&mut W, Fail) -> Fail,
    ) -> Result<(Header, W)> {
        let measured = self.measure(extents(), &read)?;
        let mut writer = begin(measured.blocks())?;
        let written = self.fill(&measured, &mut writer, (extents(), &read));
        match written {
            Ok(header) => Ok((header, writer)),
            Err(fail) => Err(failure(&mut writer, fail)),
        }
    }

    /// Returns the header that the layer would have, without writing it.
    pub fn rehearse<E: Extents>(
        &self,
        extents: impl Fn() -> E,
        read: impl Fn(u64, &mut [u8]) -> Result,
    ) -> Result<Header> {
        let measured = self.measure(extents(), &read)?;
        self.fill(&measured, &mut Nowhere, (extents(), &read))
    }

    /// The first pass.
    fn measure<R>(&self, mut extents: impl Extents, read: R) -> Result<Header>
    where
        R: Fn(u64, &mut [u8]) -> Result,
    {
        let mut room = vec![[0; BLOCK_BYTES]; ROOM];
        let mut content = self.content("measure", read);
        let measured = seal::measure(&mut extents, &mut content, self.sizes, &mut room);
        measured.map_err(|fault| content.failure(fault, self.what))
    }

    /// The second pass.
    fn fill<W: Writer, R>(
        &self,
        measured: &Header,
        writer: &mut W,
        (mut extents, read): (impl Extents, R),
    ) -> Result<Header>
    where
        R: Fn(u64, &mut [u8]) -> Result,
    {
        let (mut room, mut output) = (vec![[0; BLOCK_BYTES]; ROOM], vec![[0; BLOCK_BYTES]; ROOM]);
        let mut content = self.content("write", read);
        let from = (&mut extents, &mut content);
        let rooms = (&mut room[..], &mut output[..]);
        let stand_in = self.stand_in.as_ref();
        let written = seal::write::<_, _, _, Sha256>(from, measured, stand_in, writer, rooms);
        written.map_err(|fault| content.failure(fault, self.what))
    }

    fn content<R>(&self, pass: &'static str, read: R) -> CountedData<R> {
        CountedData {
            read,
            progress: Progress::new(pass, self.data_sectors),
            fail: None,
        }
    }
}

/// A layer that is not written.
struct Nowhere;

impl Writer for Nowhere {
    fn write(&mut self, _: u64, _: &[Block]) -> ubcore::error::Result {
        Ok(())
    }

    fn flush(&mut self) -> ubcore::error::Result {
        Ok(())
    }
}

/// The data, and how much of it was read.
struct CountedData<R> {
    read: R,
    progress: Progress,
    fail: Option<Fail>,
}

impl<R> CountedData<R> {
    /// Returns the failure of a read, or the fault.
    fn failure(&mut self, fault: Fault, what: &str) -> Fail {
        self.fail.take().unwrap_or_else(|| failure(what, fault))
    }
}

impl<R: Fn(u64, &mut [u8]) -> Result> SourceData for CountedData<R> {
    fn read(&mut self, position: u64, room: &mut [u8]) -> ubcore::error::Result {
        let read = interrupt::check().and_then(|()| (self.read)(position, room));
        self.progress.add(room.len() as u64 / 512);
        read.map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Role::Leaf, position)
        })
    }
}
