// SPDX-License-Identifier: GPL-2.0

//! Reads from the table of a device-mapper device which sectors of which devices it consists of.

use std::fs::File;

use crate::ioctl::{self, DM_HEAD};

const CONTROL: &str = "/dev/mapper/control";
/// Offsets of the fields of `struct dm_ioctl`.
const VERSION_AT: usize = 0;
const DATA_START_AT: usize = 16;
const COUNT_AT: usize = 20;
const FLAGS_AT: usize = 28;
const DEV_AT: usize = 40;
/// Asks for the table, not for the status.
const TABLE: u32 = 1 << 4;
const BUFFER_FULL: u32 = 1 << 8;
/// A table may hold a key, so the kernel clears its copy.
const SECURE_DATA: u32 = 1 << 15;
/// Bytes of `struct dm_target_spec`.
const SPEC: usize = 40;
/// A longer table is not read.
const MOST: usize = 1 << 20;

/// A range of a device-mapper device, in sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmTarget {
    /// Its first sector.
    pub start: u64,
    /// The number of its sectors.
    pub len: u64,
    /// What lies behind the range.
    pub behind: Behind,
}

/// What lies behind a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// No device at all.
    Nothing,
    /// Sectors of a device, from this one on.
    Linear(u64, u64),
    /// The volume with this number of a pool of thin volumes.
    Thin(u64, u64),
    /// Sectors of the devices below; only the target knows which.
    Unknown,
}

/// Returns the table of a device; `None` if it cannot be read.
pub fn table(dev: u64) -> Option<Vec<DmTarget>> {
    let control = File::open(CONTROL).ok()?;
    let mut len = 16 << 10;
    while len <= MOST {
        let mut buffer = vec![0; len];
        buffer[VERSION_AT..VERSION_AT + 4].copy_from_slice(&4u32.to_ne_bytes());
        buffer[DATA_START_AT..DATA_START_AT + 4].copy_from_slice(&(DM_HEAD as u32).to_ne_bytes());
        buffer[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&(TABLE | SECURE_DATA).to_ne_bytes());
        buffer[DEV_AT..DEV_AT + 8].copy_from_slice(&dev.to_ne_bytes());
        ioctl::dm_table(&control, &mut buffer).ok()?;
        if u32_at(&buffer, FLAGS_AT)? & BUFFER_FULL == 0 {
            return parse(&buffer);
        }
        len *= 4;
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

/// Returns the text up to the first zero byte.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|&b| b == 0).next()?).ok()
}

/// Parses the targets in the kernel's answer.
fn parse(buffer: &[u8]) -> Option<Vec<DmTarget>> {
    let first = usize::try_from(u32_at(buffer, DATA_START_AT)?).ok()?;
    let mut at = first;
    let mut list = Vec::new();
    for _ in 0..u32_at(buffer, COUNT_AT)? {
        let spec = buffer.get(at..at.checked_add(SPEC)?)?;
        let parameters = text(buffer.get(at + SPEC..)?)?;
        list.push(DmTarget {
            start: u64_at(spec, 0)?,
            len: u64_at(spec, 8)?,
            behind: behind(text(&spec[24..])?, parameters),
        });
        // The offset counts from the first target, and the next target is behind this one.
        let next = first.checked_add(usize::try_from(u32_at(spec, 20)?).ok()?)?;
        if next <= at {
            break;
        }
        at = next;
    }
    Some(list)
}

fn behind(kind: &str, parameters: &str) -> Behind {
    let mut words = parameters.split_whitespace();
    let mut device_and_number = || {
        let dev = device(words.next()?)?;
        Some((dev, words.next()?.parse().ok()?))
    };
    let known = match kind {
        "zero" | "error" => Some(Behind::Nothing),
        "linear" => device_and_number().map(|(dev, from)| Behind::Linear(dev, from)),
        // A target with a third word shows another device's sectors too.
        "thin" => device_and_number()
            .filter(|_| words.next().is_none())
            .map(|(pool, id)| Behind::Thin(pool, id)),
        _ => None,
    };
    known.unwrap_or(Behind::Unknown)
}

/// Parses a device's number such as `253:0`.
pub fn device(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    Some(rustix::fs::makedev(major, minor))
}

#[cfg(test)]
mod tests {
    use super::{behind, device, parse, Behind, DmTarget, COUNT_AT, DATA_START_AT, DM_HEAD, SPEC};

    fn answer(targets: &[(u64, u64, &str, &str)]) -> Vec<u8> {
        let mut b = vec![0; DM_HEAD];
        b[DATA_START_AT..DATA_START_AT + 4].copy_from_slice(&(DM_HEAD as u32).to_ne_bytes());
        b[COUNT_AT..COUNT_AT + 4].copy_from_slice(&(targets.len() as u32).to_ne_bytes());
        for (start, len, kind, parameters) in targets {
            let next = (b.len() - DM_HEAD + SPEC + parameters.len() + 1).next_multiple_of(8);
            b.extend(start.to_ne_bytes());
            b.extend(len.to_ne_bytes());
            b.extend([0; 4]);
            b.extend((next as u32).to_ne_bytes());
            let mut word = [0; 16];
            word[..kind.len()].copy_from_slice(kind.as_bytes());
            b.extend(word);
            b.extend(parameters.as_bytes());
            b.resize(DM_HEAD + next, 0);
        }
        b
    }

    #[test]
    fn a_table_is_taken_apart() {
        let bytes = answer(&[
            (0, 2048, "linear", "8:17 4096"),
            (2048, 64, "crypt", "aes - 0 8:1 0"),
            (2112, 8, "zero", ""),
        ]);
        let target = |start, len, behind| DmTarget { start, len, behind };
        let wanted = [
            target(0, 2048, Behind::Linear(device("8:17").unwrap(), 4096)),
            target(2048, 64, Behind::Unknown),
            target(2112, 8, Behind::Nothing),
        ];
        assert_eq!(parse(&bytes).unwrap(), wanted);
        // An answer that ends anywhere causes no panic and never gives more targets than it had.
        for len in 0..bytes.len() {
            let cut = parse(&bytes[..len]);
            assert!(cut.is_none_or(|list| list.len() <= 3));
        }
        // The parser terminates on a table that refers back to itself.
        let mut round = bytes;
        round[DM_HEAD + 20..DM_HEAD + 24].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(parse(&round).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_unknown() {
        let pool = device("253:4").unwrap();
        assert_eq!(behind("thin", "253:4 7"), Behind::Thin(pool, 7));
        for (kind, parameters) in [
            ("thin", "253:4 7 253:9"),
            ("linear", "253:4"),
            ("linear", "/dev/sda 0"),
            ("linear", "8:0 -1"),
            ("striped", "1 128 8:0 0"),
        ] {
            assert_eq!(behind(kind, parameters), Behind::Unknown, "{kind}");
        }
    }
}
