// SPDX-License-Identifier: GPL-2.0

//! Where a layer lies: `PATH`, or `PATH@OFFSET` for one of several in a file or on a device.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use ubcore::error::Role;
use ubcore::format::below_list::ListedLayer;

use crate::device::{self, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::loaded;
use crate::output;
use crate::value_parser::layer_offset;

/// A layer of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerArg {
    /// The device or image.
    pub path: PathBuf,
    /// The byte at which the layer begins there.
    pub offset: u64,
}

impl LayerArg {
    /// Takes a path as a whole.
    pub fn at_start(path: &Path) -> LayerArg {
        LayerArg {
            path: path.to_owned(),
            offset: 0,
        }
    }

    /// Returns where a layer of a list was; `None` if the list does not say.
    pub fn listed(layer: &ListedLayer) -> Option<LayerArg> {
        let path = PathBuf::from(OsStr::from_bytes(layer.path()));
        let offset = layer.offset;
        (!path.as_os_str().is_empty()).then_some(LayerArg { path, offset })
    }

    /// Returns what a word of the command line means. The text after the last `@` is an offset if
    /// it is a number, with a unit or not.
    fn parse(word: OsString) -> std::result::Result<LayerArg, String> {
        let path = LayerArg::at_start(Path::new(&word));
        let bytes = word.as_bytes();
        let Some(at) = bytes.iter().rposition(|&b| b == b'@').filter(|&at| at > 0) else {
            return Ok(path);
        };
        let (head, tail) = (&bytes[..at], &bytes[at + 1..]);
        let size = std::str::from_utf8(tail).ok().filter(|tail| is_size(tail));
        let Some(size) = size else {
            return Ok(path);
        };
        let offset = layer_offset(size)
            .map_err(|e| format!("{e}; if @{size} is a part of the name, add @0"))?;
        let path = PathBuf::from(OsStr::from_bytes(head));
        Ok(LayerArg { path, offset })
    }

    /// Returns what a word of the command line means, where it may also mean something else. A word
    /// with a wrong offset counts as a path.
    pub fn parsed(word: &OsStr) -> LayerArg {
        let whole = LayerArg::at_start(Path::new(word));
        LayerArg::parse(word.to_owned()).unwrap_or(whole)
    }

    /// Returns the parser of the command line.
    pub fn parser() -> impl TypedValueParser<Value = LayerArg> {
        OsStringValueParser::new().try_map(LayerArg::parse)
    }

    /// Opens the layer to read it.
    pub fn open(&self) -> Result<Device> {
        part(
            Device::open(&self.path, Role::Layer, Access::Read)?,
            self.offset,
        )
    }

    /// Opens the leaf that it is if no sealed layer begins there. The leaf must be at rest.
    pub fn open_leaf(&self) -> Result<Device> {
        if self.offset > 0 {
            let text = format!(
                "{}: no sealed layer begins there, and a leaf has no offset",
                self.name()
            );
            return Err(Fail::new(REFUSED, "not_sealed", text));
        }
        loaded::open_at_rest(&self.path)
    }

    /// Returns whether both lead to one layer of one device or image.
    pub fn is_same(&self, other: &LayerArg) -> bool {
        let meta = |at: &LayerArg| std::fs::metadata(&at.path).ok();
        let both = meta(self).zip(meta(other));
        self.offset == other.offset && both.is_some_and(|(a, b)| device::is_same(&a, &b))
    }

    /// Returns its name for messages, which is also a word for the command line.
    pub fn name(&self) -> String {
        name(&self.path, self.offset)
    }
}

/// Returns the name of what begins at a byte of a device or image.
pub fn name(path: &Path, offset: u64) -> String {
    match offset {
        0 => output::path(path),
        offset => format!("{}@{offset}", output::path(path)),
    }
}

/// Returns the part of a device from the byte on at which a layer begins.
pub fn part(device: Device, offset: u64) -> Result<Device> {
    let bytes = device.bytes();
    let part = device.part(offset);
    if offset > 0 && part.bytes() == 0 {
        let text = format!(
            "{}: no layer begins there: the file or device has {bytes} bytes",
            part.name()
        );
        return Err(Fail::new(REFUSED, "not_sealed", text));
    }
    Ok(part)
}

fn is_size(word: &str) -> bool {
    let unit = word.trim_start_matches(|c: char| c.is_ascii_digit());
    unit.len() < word.len() && unit.bytes().all(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::LayerArg;

    #[test]
    fn an_offset_follows_the_last_at() {
        let parse = |word: &str| {
            let arg = LayerArg::parse(word.into());
            arg.map(|arg| (arg.path.display().to_string(), arg.offset))
        };
        for (word, path, offset) in [
            ("a.sealed", "a.sealed", 0),
            ("/dev/vdc@1G", "/dev/vdc", 1 << 30),
            ("a@4096", "a", 4096),
            ("a@8K@4K", "a@8K", 4096),
            ("a@8@0", "a@8", 0),
            ("me@host.leaf", "me@host.leaf", 0),
            ("a@1.leaf", "a@1.leaf", 0),
            ("a@", "a@", 0),
            ("@4K", "@4K", 0),
        ] {
            assert_eq!(parse(word), Ok((path.to_owned(), offset)), "{word}");
        }
        for (word, why) in [("a@1K", "multiple of 4K"), ("a@1X", "unknown unit")] {
            let refused = parse(word).unwrap_err();
            assert!(
                refused.contains(why) && refused.contains("add @0"),
                "{refused}"
            );
        }
    }
}
