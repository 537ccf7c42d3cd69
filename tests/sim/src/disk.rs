// SPDX-License-Identifier: GPL-2.0

//! A disk with a volatile cache: unflushed writes may be lost, reordered and torn at sectors.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ubcore::disk::{self, Buffer, Disk, Order};
use ubcore::error::{Area, Error, Result, Role};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::leaf_block::LeafBlock;

pub const SECTOR: usize = 512;
pub type Sector = [u8; SECTOR];

/// A generator of pseudo-random numbers (SplitMix64); it depends only on the seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Counts of the requests to the disk, metadata and data alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub writes: u64,
    pub flush_fua_writes: u64,
    pub fua_writes: u64,
    pub flushes: u64,
    pub blocks_written: u64,
}

/// What a disk holds at one moment if the power fails: of each sector what is durable, or any
/// version that its cache has.
#[derive(Clone, Default)]
pub struct Moment {
    pub durable: BTreeMap<u64, Sector>,
    /// Sector writes since the last flush, in order.
    pub cache: Vec<(u64, Sector)>,
}

#[derive(Default)]
pub struct DiskState {
    durable: BTreeMap<u64, Sector>,
    /// Sector writes since the last flush, in order.
    cache: Vec<(u64, Sector)>,
    /// The moments at which more can be lost than before; `None` if they are not recorded.
    pub trail: Option<Vec<Moment>>,
    /// The first sector that is not metadata's, if reads and writes of metadata must stay below it.
    pub fence: Option<u64>,
    /// I/Os until the power fails; `None` if it does not.
    pub power_fails_in: Option<u64>,
    pub dead: bool,
    /// The I/O that fails, counted from now, and whether a failing write lands.
    pub fail_in: Option<(u64, bool)>,
    /// Blocks that cannot be read.
    pub unreadable: BTreeSet<u64>,
    /// Whether the disk claims to flush and does not: for tests of the tests.
    pub lies: bool,
    /// Whether the disk has no volatile cache: each write is durable when it ends.
    pub writes_through: bool,
    pub counts: Counts,
    pub random: Option<Random>,
}

impl DiskState {
    /// Returns the current content of a sector.
    pub fn sector(&self, sector: u64) -> Sector {
        self.read(sector)
    }

    /// Handles a flush request.
    pub fn flush_now(&mut self) -> Result {
        if self.fails().is_some() {
            return Err(Error::Io(Role::Leaf, 0));
        }
        self.step()?;
        self.counts.flushes += 1;
        self.flush();
        self.record();
        Ok(())
    }

    fn read(&self, sector: u64) -> Sector {
        let cached = self
            .cache
            .iter()
            .rev()
            .find(|(s, _)| *s == sector)
            .map(|(_, d)| *d);
        cached
            .or_else(|| self.durable.get(&sector).copied())
            .unwrap_or([0; SECTOR])
    }

    /// Returns a disk after the power came back: what it holds is durable.
    pub fn restored(durable: BTreeMap<u64, Sector>) -> DiskState {
        DiskState {
            durable,
            ..DiskState::default()
        }
    }

    /// Returns what the disk holds now.
    pub fn moment(&self) -> Moment {
        Moment {
            durable: self.durable.clone(),
            cache: self.cache.clone(),
        }
    }

    fn record(&mut self) {
        if self.trail.is_some() {
            let now = self.moment();
            self.trail.get_or_insert_default().push(now);
        }
    }

    fn check_fence(&self, sector: u64, sectors: u64) -> Result {
        match self.fence {
            Some(end) if sector + sectors > end => {
                Err(Error::Damaged(Area::Map, LeafBlock(sector / 8)))
            }
            _ => Ok(()),
        }
    }

    fn flush(&mut self) {
        if self.lies {
            return;
        }
        for (sector, data) in self.cache.drain(..) {
            self.durable.insert(sector, data);
        }
    }

    /// Returns a disk with something in its cache.
    pub fn of(moment: &Moment) -> DiskState {
        DiskState {
            durable: moment.durable.clone(),
            cache: moment.cache.clone(),
            ..DiskState::default()
        }
    }

    /// Counts an I/O; returns `Some` if it is the one that fails.
    fn fails(&mut self) -> Option<bool> {
        let (n, landed) = self.fail_in?;
        self.fail_in = n.checked_sub(1).map(|n| (n, landed));
        (n == 0).then_some(landed)
    }

    fn step(&mut self) -> Result {
        if self.dead {
            return Err(Error::Io(Role::Leaf, 0));
        }
        match &mut self.power_fails_in {
            Some(0) => {
                self.dead = true;
                Err(Error::Io(Role::Leaf, 0))
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Writes sectors. The power may fail during the write, and then some of the sectors may land.
    pub fn write(&mut self, sector: u64, data: &[Sector], order: Order) -> Result {
        if let Some(landed) = self.fails() {
            if landed {
                // The write is sent only after its flush has ended.
                if order == Order::FlushFua {
                    self.flush();
                }
                self.cache.extend((sector..).zip(data.iter().copied()));
            }
            return Err(Error::Io(Role::Leaf, sector));
        }
        let alive = self.step();
        if alive.is_err() && self.power_fails_in != Some(0) {
            return alive;
        }
        self.power_fails_in = self.power_fails_in.filter(|_| alive.is_ok());
        if order == Order::FlushFua {
            // The write starts after the flush has ended. If the power fails in the flush, none of
            // it lands.
            if alive.is_err() && self.coin() {
                return alive;
            }
            self.flush();
        }
        for (n, d) in (0..).zip(data) {
            self.cache.push((sector + n, *d));
        }
        // A write in flight is treated as cached: any of its sectors may land.
        self.record();
        self.counts.blocks_written += data.len() as u64 / 8;
        match order {
            Order::Plain => self.counts.writes += 1,
            Order::Fua => self.counts.fua_writes += 1,
            Order::FlushFua => self.counts.flush_fua_writes += 1,
        }
        alive?;
        if (order != Order::Plain || self.writes_through) && !self.lies {
            for (n, d) in (0..).zip(data) {
                self.cache.retain(|(s, _)| *s != sector + n);
                self.durable.insert(sector + n, *d);
            }
        }
        Ok(())
    }

    fn coin(&mut self) -> bool {
        self.random.as_mut().is_some_and(|r| r.chance(2))
    }

    /// Fails the power, if it has not failed yet: of each cached sector any version may have
    /// landed.
    pub fn crash(&mut self, random: &mut Random) {
        let cache = std::mem::take(&mut self.cache);
        let keep_one_in = 1 + random.below(4);
        for (sector, data) in cache {
            // The order is arbitrary: an older version may replace a newer one.
            if random.chance(keep_one_in)
                && !(random.chance(4) && self.durable.contains_key(&sector))
            {
                self.durable.insert(sector, data);
            }
        }
        self.dead = false;
        self.power_fails_in = None;
    }
}

/// A handle on the disk, with the buffer that the core needs.
#[derive(Clone)]
pub struct SimDisk {
    pub state: Rc<RefCell<DiskState>>,
    buffer: Box<Buffer>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    pub fn new() -> Self {
        Self::with(DiskState::default())
    }

    pub fn with(state: DiskState) -> Self {
        SimDisk {
            state: Rc::new(RefCell::new(state)),
            buffer: Box::new(disk::zeroes()),
        }
    }

    pub fn read_sector(&self, sector: u64) -> Sector {
        self.state.borrow().read(sector)
    }

    pub fn write_sectors(&self, sector: u64, data: &[Sector]) -> Result {
        self.state.borrow_mut().write(sector, data, Order::Plain)
    }

    /// Flips a bit of what is durable, as rot does.
    pub fn rot(&self, sector: u64, byte: usize) {
        let mut s = self.state.borrow_mut();
        s.flush();
        s.durable.entry(sector).or_insert([0; SECTOR])[byte] ^= 0x20;
    }

    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// Returns each sector that was ever written, with its current content.
    pub fn image(&self) -> BTreeMap<u64, Sector> {
        let s = self.state.borrow();
        let mut image = s.durable.clone();
        image.extend(s.cache.iter().copied());
        image
    }
}

impl Disk for SimDisk {
    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        let mut s = self.state.borrow_mut();
        let LeafBlock(block) = block;
        s.check_fence(block * 8, count as u64 * 8)?;
        let mut bad = s.unreadable.range(block..block + count as u64);
        if bad.next().is_some() || s.fails().is_some() {
            return Err(Error::Io(Role::Leaf, block * 8));
        }
        s.step()?;
        s.counts.reads += 1;
        for n in 0..count * 8 {
            let at = n * SECTOR;
            self.buffer.as_flattened_mut()[at..at + SECTOR]
                .copy_from_slice(&s.read(block * 8 + n as u64));
        }
        Ok(())
    }

    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        let sectors: Vec<Sector> = self.buffer.as_flattened()[..count * BLOCK_BYTES]
            .chunks(SECTOR)
            .map(|c| c.try_into().unwrap())
            .collect();
        let mut s = self.state.borrow_mut();
        let LeafBlock(block) = block;
        s.check_fence(block * 8, count as u64 * 8)?;
        s.write(block * 8, &sectors, order)
    }

    fn flush(&mut self) -> Result {
        self.state.borrow_mut().flush_now()
    }
}
