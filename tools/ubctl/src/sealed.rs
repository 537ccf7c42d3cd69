// SPDX-License-Identifier: GPL-2.0

//! Sealed layers in files and on devices.

use map_memory::sha256::Sha256;
use serde::Serialize;
use ubcore::error::{Error, Role};
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::num::u64_as_usize;
use ubcore::sealed::digests::CHUNK_BLOCKS;
use ubcore::sealed::fault::Fault;
use ubcore::sealed::header::{self, Header};
use ubcore::sealed::open::Sealed;
use ubcore::sealed::{Digest, Reader};

use crate::device::Device;
use crate::error::{Fail, Result, FAILED, REFUSED};
use crate::{output, probe};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Opens the sealed layer that a device begins with: verifies all but its data. If a digest is
/// `wanted`, refuses a layer with another one.
pub fn open(device: &Device, wanted: Option<&Digest>) -> Result<Sealed> {
    let mut reader = DeviceReader::new(device);
    open_with(&mut reader, wanted).map_err(|fault| reader.failure(fault))
}

/// Does the same, and returns `None` if no sealed layer begins there.
pub fn open_if_there(device: &Device) -> Result<Option<Sealed>> {
    let mut reader = DeviceReader::new(device);
    match open_with(&mut reader, None) {
        Ok(sealed) => Ok(Some(sealed)),
        Err(Fault::NotSealed) => Ok(None),
        Err(fault) => Err(reader.failure(fault)),
    }
}

/// Returns the sealed layers that lie one behind another from the first byte of a device on, and
/// where they begin. Also returns the device from the end of the last one on, and why that is no
/// further layer.
pub fn row(mut device: Device) -> (Vec<(u64, Sealed)>, Device, Option<Fail>) {
    let mut found = Vec::new();
    loop {
        let start = device.start();
        match open_if_there(&device) {
            Ok(Some(sealed)) => {
                found.push((start, sealed));
                let bytes = sealed.header.blocks().saturating_mul(BLOCK);
                device = device.part(start.saturating_add(bytes));
            }
            Ok(None) => return (found, device, None),
            Err(fail) => return (found, device, Some(fail)),
        }
    }
}

fn open_with(
    reader: &mut DeviceReader<'_>,
    wanted: Option<&Digest>,
) -> std::result::Result<Sealed, Fault> {
    let blocks = reader.device.bytes() / BLOCK;
    ubcore::sealed::open::open::<_, Sha256>(reader, blocks, wanted)
}

/// What the header of a layer says, for people and scripts.
#[derive(Debug, Serialize)]
pub struct HeaderReport {
    digest: String,
    sectors: u64,
    block_bytes: u32,
    extents: u64,
    data_sectors: u64,
    zero_sectors: u64,
    bytes: u64,
}

impl HeaderReport {
    /// Returns what a header says.
    pub fn new(header: &Header) -> HeaderReport {
        HeaderReport {
            digest: output::hex(&header.digest),
            sectors: header.union_sectors,
            block_bytes: header.block_bytes,
            extents: header.extents,
            data_sectors: header.data_sectors,
            zero_sectors: header.zero_sectors,
            bytes: header.blocks().saturating_mul(BLOCK),
        }
    }

    /// Returns the lines of a text.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("digest", self.digest.clone()),
            ("union", output::size(self.sectors)),
            ("data", output::size(self.data_sectors)),
            ("zeroes", output::size(self.zero_sectors)),
            ("extents", self.extents.to_string()),
            ("size", format!("{} bytes", self.bytes)),
        ]
    }
}

/// Reads a layer for the core, and keeps the failure of the last read.
pub struct DeviceReader<'a> {
    device: &'a Device,
    buffer: Vec<Block>,
    /// Why the last read failed.
    fail: Option<Fail>,
}

impl<'a> DeviceReader<'a> {
    /// Makes a reader that reads up to 1 MiB at once.
    pub fn new(device: &'a Device) -> DeviceReader<'a> {
        DeviceReader {
            device,
            buffer: Vec::new(),
            fail: None,
        }
    }

    /// Returns the failure of a command: that of the last read, or the fault.
    pub fn failure(&mut self, fault: Fault) -> Fail {
        match (fault, self.fail.take()) {
            (Fault::Failed(_), Some(fail)) => fail,
            (Fault::NotSealed, _) if probe::superblock(self.device).is_some() => {
                let name = self.device.name();
                let text = format!("{name}: a leaf, not a sealed layer: see ubctl check {name}");
                Fail::new(REFUSED, "is_leaf", text)
            }
            _ => failure(&self.device.name(), fault),
        }
    }
}

impl Reader for DeviceReader<'_> {
    fn read(&mut self, block: u64, most: u64) -> ubcore::error::Result<usize> {
        let count = u64_as_usize(most.min(CHUNK_BLOCKS));
        self.buffer.resize(count, [0; BLOCK_BYTES]);
        let at = block.saturating_mul(BLOCK);
        let read = self.device.read_at(at, self.buffer.as_flattened_mut());
        read.map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Role::Layer, at / 512)
        })?;
        Ok(count)
    }

    fn buffer(&self) -> &[Block] {
        &self.buffer
    }
}

/// Returns the failure for a device or image that holds no leaf.
pub fn no_leaf(device: &Device, e: Error) -> Fail {
    let name = device.name();
    if e != Error::NotFormatted || !is_marked(device) {
        return Fail::core(&name, e);
    }
    let text = format!(
        "{name}: a sealed layer, not a leaf: it is never written; to check it: ubctl verify {name}; to \
         make a leaf on it: ubctl format --layer {name}"
    );
    Fail::new(REFUSED, "is_sealed", text)
}

/// Returns whether a device begins as a sealed layer does.
pub fn is_marked(device: &Device) -> bool {
    let mut magic = [0; header::MAGIC.len()];
    device.read_at(0, &mut magic).is_ok() && magic == header::MAGIC
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
    use ubcore::sealed::fault::LayerPart;

    #[test]
    fn each_fault_has_a_code_and_a_word() {
        let damaged = Fault::Damaged {
            part: LayerPart::Index,
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
