// SPDX-License-Identifier: GPL-2.0

//! Sealed layers in files and on devices.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use map_memory::sha256::Sha256;
use ubcore::error::{Error, Side};
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::num::u64_as_usize;
use ubcore::sealed::digests::CHUNK_BLOCKS;
use ubcore::sealed::fault::Fault;
use ubcore::sealed::open::{open, Sealed};
use ubcore::sealed::Reader;

use crate::device::Device;
use crate::error::{Fail, Result, FAILED, REFUSED};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Where a sealed layer lies: a file or device, and the byte at which it begins.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    file: &'a File,
    path: &'a Path,
    /// The first byte, a multiple of 4096.
    offset: u64,
    /// How many whole blocks follow from there.
    pub blocks: u64,
}

impl<'a> Place<'a> {
    /// Returns the place at `offset` of a device.
    pub fn new(device: &'a Device, offset: u64) -> Place<'a> {
        Place {
            file: device.file(),
            path: device.path(),
            offset,
            blocks: device.bytes().saturating_sub(offset) / BLOCK,
        }
    }

    /// Reads blocks.
    pub fn read(&self, block: u64, room: &mut [Block]) -> Result {
        let at = block.saturating_mul(BLOCK).saturating_add(self.offset);
        self.file
            .read_exact_at(room.as_flattened_mut(), at)
            .map_err(|e| Fail::io(&format!("read sector {} of", at / 512), self.path, &e))
    }
}

/// Opens the sealed layer that begins at the first byte of a device: verifies all but its data.
/// Returns `None` if there is none.
pub fn open_at_start(device: &Device) -> Result<Option<Sealed>> {
    let place = Place::new(device, 0);
    let mut reader = PlaceReader::new(place);
    match open::<_, Sha256>(&mut reader, place.blocks, None) {
        Ok(sealed) => Ok(Some(sealed)),
        Err(Fault::NotSealed) => Ok(None),
        Err(fault) => Err(reader.failure(fault)),
    }
}

/// Reads a layer for the core, and keeps the failure of the last read.
pub struct PlaceReader<'a> {
    place: Place<'a>,
    buffer: Vec<Block>,
    /// Why the last read failed.
    pub fail: Option<Fail>,
}

impl<'a> PlaceReader<'a> {
    /// Makes a reader that reads up to 1 MiB at once.
    pub fn new(place: Place<'a>) -> PlaceReader<'a> {
        PlaceReader {
            place,
            buffer: Vec::new(),
            fail: None,
        }
    }

    /// Returns the failure of a command: that of the last read, or the fault.
    pub fn failure(&mut self, fault: Fault) -> Fail {
        match (fault, self.fail.take()) {
            (Fault::Failed(_), Some(fail)) => fail,
            _ => failure(&self.place.path.display().to_string(), fault),
        }
    }
}

impl Reader for PlaceReader<'_> {
    fn read(&mut self, block: u64, most: u64) -> ubcore::error::Result<usize> {
        let count = u64_as_usize(most.min(CHUNK_BLOCKS));
        self.buffer.resize(count, [0; BLOCK_BYTES]);
        self.place.read(block, &mut self.buffer).map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Side::Root, block.saturating_mul(BLOCK / 512))
        })?;
        Ok(count)
    }

    fn buffer(&self) -> &[Block] {
        &self.buffer
    }
}

/// Returns the failure for what is wrong with the sealed layer `what`, or with its sealing.
pub fn failure(what: &str, fault: Fault) -> Fail {
    let (code, reason) = match fault {
        Fault::NotSealed => (REFUSED, "not_sealed"),
        Fault::NewerVersion(_) => (REFUSED, "newer_version"),
        Fault::UnknownFeatures(_) => (REFUSED, "unknown_features"),
        Fault::Damaged { .. } | Fault::WrongSum => (REFUSED, "damaged"),
        Fault::OtherLayer => (REFUSED, "other_layer"),
        Fault::TooShort(..) => (REFUSED, "too_short"),
        Fault::TooLarge => (REFUSED, "too_large"),
        Fault::Changed => (FAILED, "changed"),
        Fault::Failed(e) => return Fail::core(what, e),
    };
    Fail::new(code, reason, format!("{what}: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::{failure, Fault};
    use crate::error::{FAILED, REFUSED};
    use ubcore::error::Error;
    use ubcore::sealed::fault::Part;

    #[test]
    fn each_fault_has_a_code_and_a_word() {
        let damaged = Fault::Damaged {
            part: Part::Index,
            block: 7,
            byte: 32,
        };
        for (fault, code, reason) in [
            (Fault::NotSealed, REFUSED, "not_sealed"),
            (Fault::NewerVersion(2), REFUSED, "newer_version"),
            (Fault::UnknownFeatures(1), REFUSED, "unknown_features"),
            (damaged, REFUSED, "damaged"),
            (Fault::WrongSum, REFUSED, "damaged"),
            (Fault::OtherLayer, REFUSED, "other_layer"),
            (Fault::TooShort(2, 1), REFUSED, "too_short"),
            (Fault::TooLarge, REFUSED, "too_large"),
            (Fault::Changed, FAILED, "changed"),
            (Fault::Failed(Error::NoMemory), FAILED, "no_memory"),
        ] {
            let fail = failure("x", fault);
            assert_eq!((fail.code, fail.reason), (code, reason));
            assert!(fail.message.starts_with("x: "), "{fail}");
        }
    }
}
