// SPDX-License-Identifier: GPL-2.0

//! A disk with a volatile cache: what was not flushed may be lost, reordered and torn at sectors.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ubcore::disk::{Disk, Order, BUFFER_BLOCKS};
use ubcore::error::{Error, Result, Side};
use ubcore::geometry::BLOCK_BYTES;

pub const SECTOR: usize = 512;
pub type Sector = [u8; SECTOR];

/// A generator of pseudo-random numbers (SplitMix64); the seed is all it depends on.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What the disk was asked to do; metadata and data alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub writes: u64,
    pub flush_fua_writes: u64,
    pub fua_writes: u64,
    pub flushes: u64,
    pub blocks_written: u64,
}

#[derive(Default)]
pub struct State {
    durable: BTreeMap<u64, Sector>,
    /// Sector writes since the last flush, in order.
    cache: Vec<(u64, Sector)>,
    /// I/Os until the power goes; `None`: it stays.
    pub cut_in: Option<u64>,
    pub dead: bool,
    /// A disk that claims to flush and does not: for tests of the tests.
    pub lies: bool,
    pub counts: Counts,
    pub random: Option<Random>,
}

impl State {
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

    fn flush(&mut self) {
        if self.lies {
            return;
        }
        for (sector, data) in self.cache.drain(..) {
            self.durable.insert(sector, data);
        }
    }

    fn step(&mut self) -> Result {
        if self.dead {
            return Err(Error::Io(Side::Leaf, 0));
        }
        match &mut self.cut_in {
            Some(0) => {
                self.dead = true;
                Err(Error::Io(Side::Leaf, 0))
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Sector writes; the power may go while they run, and then some of them may land.
    pub fn write(&mut self, sector: u64, data: &[Sector], order: Order) -> Result {
        let alive = self.step();
        if alive.is_err() && self.cut_in != Some(0) {
            return alive;
        }
        self.cut_in = self.cut_in.filter(|_| alive.is_ok());
        if order == Order::FlushFua {
            // The write starts when the flush has ended: dying in the flush, none of it lands.
            if alive.is_err() && self.coin() {
                return alive;
            }
            self.flush();
        }
        for (n, d) in (0..).zip(data) {
            self.cache.push((sector + n, *d));
        }
        self.counts.blocks_written += data.len() as u64 / 8;
        match order {
            Order::Plain => self.counts.writes += 1,
            Order::Fua => self.counts.fua_writes += 1,
            Order::FlushFua => self.counts.flush_fua_writes += 1,
        }
        alive?;
        if order != Order::Plain && !self.lies {
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

    /// The power goes, if it has not yet: of each cached sector any version may have landed.
    pub fn crash(&mut self, random: &mut Random) {
        let cache = std::mem::take(&mut self.cache);
        let keep_one_in = 1 + random.below(4);
        for (sector, data) in cache {
            // In any order: an older version may win over a newer one.
            if random.chance(keep_one_in)
                && !(random.chance(4) && self.durable.contains_key(&sector))
            {
                self.durable.insert(sector, data);
            }
        }
        self.dead = false;
        self.cut_in = None;
    }
}

/// A handle on the disk with a buffer, as the core wants it.
#[derive(Clone)]
pub struct SimDisk {
    pub state: Rc<RefCell<State>>,
    buffer: Vec<u8>,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    pub fn new() -> Self {
        SimDisk {
            state: Rc::new(RefCell::new(State::default())),
            buffer: vec![0; BUFFER_BLOCKS * BLOCK_BYTES],
        }
    }

    pub fn read_sector(&self, sector: u64) -> Sector {
        self.state.borrow().read(sector)
    }

    pub fn write_sectors(&self, sector: u64, data: &[Sector]) -> Result {
        self.state.borrow_mut().write(sector, data, Order::Plain)
    }

    /// Flips a bit of what is durable: rot.
    pub fn rot(&self, sector: u64, byte: usize) {
        let mut s = self.state.borrow_mut();
        s.flush();
        s.durable.entry(sector).or_insert([0; SECTOR])[byte] ^= 0x20;
    }

    pub fn counts(&self) -> Counts {
        self.state.borrow().counts
    }

    /// Every sector that was ever written, as it reads now.
    pub fn image(&self) -> BTreeMap<u64, Sector> {
        let s = self.state.borrow();
        let mut image = s.durable.clone();
        image.extend(s.cache.iter().copied());
        image
    }
}

impl Disk for SimDisk {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn read(&mut self, block: u64, count: usize) -> Result {
        let mut s = self.state.borrow_mut();
        s.step()?;
        s.counts.reads += 1;
        for n in 0..count * 8 {
            let at = n * SECTOR;
            self.buffer[at..at + SECTOR].copy_from_slice(&s.read(block * 8 + n as u64));
        }
        Ok(())
    }

    fn write(&mut self, block: u64, count: usize, order: Order) -> Result {
        let sectors: Vec<Sector> = self.buffer[..count * BLOCK_BYTES]
            .chunks(SECTOR)
            .map(|c| c.try_into().unwrap())
            .collect();
        self.state.borrow_mut().write(block * 8, &sectors, order)
    }

    fn flush(&mut self) -> Result {
        let mut s = self.state.borrow_mut();
        s.step()?;
        s.counts.flushes += 1;
        s.flush();
        Ok(())
    }
}
