// SPDX-License-Identifier: GPL-2.0

//! What each sector of a union may hold after a power failure.

use std::collections::BTreeMap;

use crate::disk::{Sector, SECTOR};

/// Returns the content that a write numbered `tag` leaves in union sector `sector`.
pub fn content(tag: u64, sector: u64) -> Sector {
    let mut data = [0u8; SECTOR];
    if tag == ZERO {
        return data;
    }
    for (n, chunk) in data.chunks_mut(16).enumerate() {
        chunk[..8].copy_from_slice(&tag.to_le_bytes());
        chunk[8..].copy_from_slice(&(sector ^ ((n as u64) << 48)).to_le_bytes());
    }
    data
}

/// The tag of the root's content.
pub const ROOT: u64 = u64::MAX;
/// The tag of zeroes.
pub const ZERO: u64 = 0;

/// Reads the tag out of a sector; `None` for a mix, or another sector's data.
pub fn tag(data: &Sector, sector: u64) -> Option<u64> {
    if *data == [0; SECTOR] {
        return Some(ZERO);
    }
    let tag = u64::from_le_bytes(data[..8].try_into().unwrap());
    (*data == content(tag, sector)).then_some(tag)
}

/// Records, for each sector, what was last flushed and what was written since.
#[derive(Clone, Default, Hash)]
pub struct Oracle {
    flushed: BTreeMap<u64, u64>,
    since: BTreeMap<u64, Vec<u64>>,
    next: u64,
}

impl Oracle {
    /// Returns a new write's tag.
    pub fn new_tag(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Records that a write of `tag` began.
    pub fn begun(&mut self, sector: u64, sectors: u64, tag: u64) {
        for s in sector..sector + sectors {
            self.since.entry(s).or_default().push(tag);
        }
    }

    /// Records a completed FLUSH: of each sector the last write before it is durable.
    pub fn flushed(&mut self) {
        for (s, tags) in std::mem::take(&mut self.since) {
            self.flushed.insert(s, *tags.last().unwrap());
        }
    }

    /// Records a completed FUA write.
    pub fn durable(&mut self, sector: u64, sectors: u64, tag: u64) {
        for s in sector..sector + sectors {
            self.flushed.insert(s, tag);
            self.since.remove(&s);
        }
    }

    /// Returns what a running union must read.
    pub fn current(&self, sector: u64) -> u64 {
        let last = self.since.get(&sector).and_then(|t| t.last());
        last.or_else(|| self.flushed.get(&sector))
            .copied()
            .unwrap_or(ROOT)
    }

    /// Returns what a sector holds once its last write has completed, and what it held before.
    pub fn last_two(&self, sector: u64) -> [u64; 2] {
        let since = self.since.get(&sector).map_or(&[][..], |t| t);
        let flushed = self.flushed.get(&sector).copied().unwrap_or(ROOT);
        match since {
            [] => [flushed; 2],
            [one] => [flushed, *one],
            [.., before, last] => [*before, *last],
        }
    }

    /// Returns whether a sector may hold `tag` after a power failure.
    pub fn allows(&self, sector: u64, tag: u64) -> bool {
        self.flushed.get(&sector).copied().unwrap_or(ROOT) == tag
            || self.since.get(&sector).is_some_and(|t| t.contains(&tag))
    }

    /// Does the same as [`Oracle::allows`]. From then on the sector must hold what it held.
    pub fn after_power_failure(&mut self, sector: u64, tag: u64) -> bool {
        let is_allowed = self.allows(sector, tag);
        self.flushed.insert(sector, tag);
        self.since.remove(&sector);
        is_allowed
    }
}
