// SPDX-License-Identifier: GPL-2.0

//! The requests to a union, when each began and when it was answered, and which contents they
//! allow.
//!
//! Times are a count of events. Two requests that overlap have no order. A content is valid unless
//! another content that certainly came later must be there.

use std::ops::Range;

use crate::oracle::ROOT;

#[derive(Clone, Debug)]
struct Write {
    sectors: Range<u64>,
    tag: u64,
    begun: u64,
    /// When it was answered; infinitely late if it was not.
    ended: u64,
    fua: bool,
}

/// A flush that was answered.
#[derive(Clone, Debug)]
struct Flush {
    begun: u64,
    ended: u64,
}

/// All requests that change content, and all flushes.
#[derive(Clone, Debug, Default)]
pub struct History {
    now: u64,
    writes: Vec<Write>,
    flushes: Vec<Flush>,
}

impl History {
    /// Returns the next moment.
    pub fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Records that a write is sent, and returns its number.
    pub fn write_begins(&mut self, sectors: Range<u64>, tag: u64, fua: bool) -> usize {
        let begun = self.tick();
        self.writes.push(Write {
            sectors,
            tag,
            begun,
            ended: u64::MAX,
            fua,
        });
        self.writes.len() - 1
    }

    /// Records that a write has changed nothing and never will, because there was no space.
    pub fn write_refused(&mut self, number: usize) {
        self.writes[number].sectors = 0..0;
    }

    pub fn write_ends(&mut self, number: usize) {
        self.writes[number].ended = self.tick();
    }

    pub fn flush_ends(&mut self, begun: u64) {
        let ended = self.tick();
        self.flushes.push(Flush { begun, ended });
    }

    /// Returns the writes of a sector, with the root's content first.
    fn of(&self, sector: u64) -> Vec<Write> {
        let root = Write {
            sectors: sector..sector + 1,
            tag: ROOT,
            begun: 0,
            ended: 0,
            fua: true,
        };
        let written = self.writes.iter().filter(|w| w.sectors.contains(&sector));
        std::iter::once(root).chain(written.cloned()).collect()
    }

    /// Returns whether a read of `sector` that ran in `time` may have found `tag`.
    pub fn may_read(&self, sector: u64, tag: u64, time: &Range<u64>) -> bool {
        let writes = self.of(sector);
        writes.iter().any(|w| {
            let later = |o: &Write| o.begun > w.ended && o.ended < time.start;
            w.tag == tag && w.begun < time.end && !writes.iter().any(later)
        })
    }

    /// Returns whether `sector` may hold `tag` after a power failure at `when`.
    pub fn may_survive(&self, sector: u64, tag: u64, when: u64) -> bool {
        let writes = self.of(sector);
        let flushed = self.flushes.iter().filter(|f| f.ended <= when);
        let flushed = flushed.map(|f| f.begun).max().unwrap_or(0);
        let durable = |w: &Write| w.ended <= flushed || (w.fua && w.ended <= when);
        writes.iter().any(|w| {
            let later = |o: &Write| o.begun > w.ended && durable(o);
            w.tag == tag && w.begun <= when && !writes.iter().any(later)
        })
    }
}
