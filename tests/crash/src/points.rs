// SPDX-License-Identifier: GPL-2.0

//! Checks recorded points. The writes to a leaf are replayed up to any moment, the core recovers
//! from that, and the result is compared with what was known to be durable by then.
//!
//! A moment is a prefix of the log, or a state in which some sectors of the writes since the last
//! flush landed, in any order, and the last write is torn. FUA writes that had completed are kept.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use ubcore::attach;
use ubcore::disk::Order;
use ubcore::geometry::Geometry;

use crate::log::LogEntry;
use sim::disk::{DiskState, Random, Sector, SimDisk};
use sim::union::SimUnion;

/// The content of a discarded sector: nothing that was ever written.
const JUNK: Sector = [0xdd; 512];

/// Copies of a leaf share chunks of so many data sectors until one of these is written.
const CHUNK: usize = 64;

/// A leaf at some moment. Its metadata is separate, because recovery accesses only metadata.
#[derive(Clone)]
pub struct Leaf {
    meta: BTreeMap<u64, Sector>,
    data: Vec<Rc<[Sector; CHUNK]>>,
    data_start: u64,
}

impl Leaf {
    fn new(data_start: u64, sectors: u64) -> Leaf {
        let blank = Rc::new([[0; 512]; CHUNK]);
        let chunks = (sectors.saturating_sub(data_start) as usize).div_ceil(CHUNK);
        Leaf {
            meta: BTreeMap::new(),
            data: vec![blank; chunks],
            data_start,
        }
    }

    fn put(&mut self, sector: u64, data: Sector) {
        match sector.checked_sub(self.data_start) {
            Some(at) => {
                let chunk = &mut self.data[at as usize / CHUNK];
                Rc::make_mut(chunk)[at as usize % CHUNK] = data;
            }
            None => drop(self.meta.insert(sector, data)),
        }
    }

    /// Returns a data sector.
    pub fn get(&self, sector: u64) -> &Sector {
        let at = (sector - self.data_start) as usize;
        &self.data[at / CHUNK][at % CHUNK]
    }

    /// Writes the leaf to a position, in bytes, of a file that has only zeroes there.
    pub fn write_to(&self, file: &File, place: u64) -> io::Result<()> {
        for (sector, data) in &self.meta {
            file.write_all_at(data, place + sector * 512)?;
        }
        let mut sector = self.data_start;
        for chunk in &self.data {
            let bytes = chunk.as_flattened();
            if bytes.iter().any(|b| *b != 0) {
                file.write_all_at(bytes, place + sector * 512)?;
            }
            sector += CHUNK as u64;
        }
        Ok(())
    }

    fn apply(&mut self, entry: &LogEntry) {
        match entry {
            LogEntry::Write(at, data, _) => {
                for (sector, data) in (*at..).zip(data) {
                    self.put(sector, *data);
                }
            }
            LogEntry::Discard(at, n) => (*at..at + n).for_each(|s| self.put(s, JUNK)),
            LogEntry::Flush | LogEntry::Mark(_) => (),
        }
    }
}

/// An oracle that knows which contents are valid.
pub trait PointOracle {
    /// Notes a mark, from which on more is durable.
    fn mark(&mut self, text: &str);
    /// Checks that what a recovered union shows is valid now.
    fn check(&mut self, union: &SimUnion, leaf: &Leaf) -> Result<(), String>;
    /// Returns the number of entries between two points.
    fn stride(&self) -> usize;
    /// Returns how many data sectors, aligned, a power failure does not tear.
    fn whole(&self) -> u64 {
        1
    }
}

pub struct PointCampaign<'a, O> {
    entries: &'a [LogEntry],
    geometry: Geometry,
    /// The number of moments of each point besides the prefix itself.
    variants: u32,
    random: Random,
    pub oracle: O,
    pub points: u64,
    pub second: u64,
}

/// Returns the geometry of the leaf whose writes were recorded.
pub fn geometry(entries: &[LogEntry]) -> Result<Geometry, String> {
    let state = DiskState::default();
    let mut disk = SimDisk::with(state);
    for entry in entries {
        if let LogEntry::Write(at, data, _) = entry {
            let mut state = disk.state.borrow_mut();
            state
                .write(*at, data, Order::Fua)
                .map_err(|e| format!("{e:?}"))?;
        }
    }
    let probe = attach::read_superblock(&mut disk).map_err(|e| format!("no leaf: {e:?}"))?;
    Ok(probe.superblock.geometry)
}

impl<'a, O: PointOracle> PointCampaign<'a, O> {
    pub fn new(
        entries: &'a [LogEntry],
        variants: u32,
        seed: u64,
        oracle: O,
    ) -> Result<Self, String> {
        Ok(PointCampaign {
            entries,
            geometry: geometry(entries)?,
            variants,
            random: Random(seed),
            oracle,
            points: 0,
            second: 0,
        })
    }

    /// Recovers, sometimes with another power failure in between, and checks.
    fn point(&mut self, leaf: &Leaf) -> Result<(), String> {
        let disk = || {
            let mut state = DiskState::restored(leaf.meta.clone());
            state.fence = Some(self.geometry.data_start());
            SimDisk::with(state)
        };
        let mut disk = disk();
        if self.random.chance(6) {
            self.second += 1;
            let failure = self.random.below(6);
            disk.state.borrow_mut().power_fails_in = Some(failure);
            let _ = SimUnion::attach_to(&disk, &self.geometry);
            disk.state.borrow_mut().crash(&mut self.random);
            let landed = DiskState::restored(disk.image());
            disk = SimDisk::with(landed);
        }
        let union =
            SimUnion::attach_to(&disk, &self.geometry).map_err(|e| format!("attach: {e:?}"))?;
        self.points += 1;
        self.oracle.check(&union, leaf)
    }

    /// Divides a write into the pieces that land or not: metadata sectors, and data as the oracle
    /// requires.
    fn pieces<'b>(&self, at: u64, data: &'b [Sector]) -> Vec<(u64, &'b [Sector])> {
        let start = self.geometry.data_start();
        let whole = |sector: u64| match sector.checked_sub(start) {
            Some(offset) => self.oracle.whole() - offset % self.oracle.whole(),
            None => 1,
        };
        let (mut at, mut left) = (at, data);
        let mut pieces = Vec::new();
        while !left.is_empty() {
            let (piece, rest) = left.split_at(left.len().min(whole(at) as usize));
            pieces.push((at, piece));
            at += piece.len() as u64;
            left = rest;
        }
        pieces
    }

    /// Returns what a power failure may have left after entry `k`, with the writes since `since` in
    /// doubt.
    fn mixed(&mut self, at_flush: &Leaf, since: usize, k: usize) -> Leaf {
        let mut leaf = at_flush.clone();
        let keep_one_in = 1 + self.random.below(4);
        let mut doubt = Vec::new();
        let mut certain = Vec::new();
        for (n, entry) in self.entries.iter().enumerate().take(k).skip(since) {
            match entry {
                LogEntry::Write(_, _, true) if n + 1 < k => certain.push(entry),
                LogEntry::Write(at, data, _) => doubt.extend(self.pieces(*at, data)),
                LogEntry::Discard(..) if self.random.chance(2) => certain.push(entry),
                _ => (),
            }
        }
        for n in (1..doubt.len()).rev() {
            let other = self.random.below(n as u64 + 1) as usize;
            doubt.swap(n, other);
        }
        for (sector, data) in doubt {
            if self.random.chance(keep_one_in) {
                for (sector, data) in (sector..).zip(data) {
                    leaf.put(sector, *data);
                }
            }
        }
        certain.into_iter().for_each(|entry| leaf.apply(entry));
        leaf
    }

    /// Checks all points of the log, from the mark that says that the leaf is formatted.
    pub fn run(&mut self) -> Result<(), String> {
        let mut leaf = Leaf::new(self.geometry.data_start(), self.geometry.leaf_sectors());
        let mut flushed = (leaf.clone(), 0);
        let (mut begun, mut since) = (false, 0);
        for (n, entry) in self.entries.iter().enumerate() {
            let describe = |e: String| format!("entry {n}: {e}");
            leaf.apply(entry);
            match entry {
                LogEntry::Flush => flushed = (leaf.clone(), n + 1),
                LogEntry::Mark(text) => {
                    begun |= text == "begin";
                    self.oracle.mark(text);
                }
                _ => (),
            }
            since += 1;
            if !begun || since < self.oracle.stride() {
                continue;
            }
            since = 0;
            self.point(&leaf).map_err(describe)?;
            for _ in 0..self.variants {
                let mixed = self.mixed(&flushed.0, flushed.1, n + 1);
                self.point(&mixed).map_err(|e| {
                    describe(format!("some of the writes since entry {}: {e}", flushed.1))
                })?;
            }
        }
        if !begun {
            return Err("no mark says where it begins".into());
        }
        Ok(())
    }
}
