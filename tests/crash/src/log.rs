// SPDX-License-Identifier: GPL-2.0

//! Reads the log of dm-log-writes: all writes to a leaf, in an order in which each prefix is a
//! state that a power failure can leave.
//!
//! A FUA write is in the log when it has completed, and another write when a flush that covers it
//! has completed, so each write is logged when it is durable. A mark follows all writes that were
//! durable when it was made.

use std::io::{self, Read};

use sim::disk::{Sector, SECTOR};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

pub enum LogEntry {
    /// The first sector, the data, and whether the write was FUA.
    Write(u64, Vec<Sector>, bool),
    Flush,
    /// The first sector, and the number of sectors.
    Discard(u64, u64),
    Mark(String),
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("log of writes: {what}"))
}

fn sectors(log: &mut impl Read, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n * SECTOR];
    log.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Returns all entries of a log. The file may be much larger than the log.
pub fn read(log: &mut impl Read) -> io::Result<Vec<LogEntry>> {
    let head = sectors(log, 1)?;
    let size = u32::from_le_bytes(head[24..28].try_into().unwrap());
    if word(&head, 0) != MAGIC || size as usize != SECTOR {
        return Err(bad("has no superblock of sectors of 512 bytes"));
    }
    let mut entries = Vec::new();
    for _ in 0..word(&head, 16) {
        let entry = sectors(log, 1)?;
        let [at, count, flags, len] = [0, 8, 16, 24].map(|n| word(&entry, n));
        if flags & MARK != 0 {
            let text = entry.get(32..32 + len as usize);
            let text = text.ok_or_else(|| bad("has a mark without an end"))?;
            let text = String::from_utf8_lossy(text);
            entries.push(LogEntry::Mark(text.trim_end_matches('\0').to_owned()));
            continue;
        }
        // A write that flushes first becomes both entries.
        if flags & FLUSH != 0 {
            entries.push(LogEntry::Flush);
        }
        if flags & DISCARD != 0 {
            entries.push(LogEntry::Discard(at, count));
        } else if count > 0 {
            let data = sectors(log, count as usize)?;
            let data = data.chunks(SECTOR).map(|s| s.try_into().unwrap());
            entries.push(LogEntry::Write(at, data.collect(), flags & FUA != 0));
        }
    }
    Ok(entries)
}
