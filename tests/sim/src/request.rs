// SPDX-License-Identifier: GPL-2.0

//! A request to a host, and how it ended.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc as StdArc, Mutex as StdMutex, MutexGuard as StdGuard};

use ubcore::error::{Checked, Error};
use ubcore::protocol::{Op, RequestState};
use ubcore::sync::AtomicU64;

use crate::history::History;
use crate::threads::{Condvar, Mutex};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Unsupported,
    Full,
    IoError,
}

impl From<Error> for Outcome {
    fn from(e: Error) -> Self {
        match e {
            Error::Full => Outcome::Full,
            Error::Internal => panic!("a request ends with {e:?}"),
            _ => Outcome::IoError,
        }
    }
}

impl ubcore::protocol::BlkStatus for Outcome {
    const OK: Self = Outcome::Ok;
    const UNSUPPORTED: Self = Outcome::Unsupported;
    const IO_ERROR: Self = Outcome::IoError;

    fn is_ok(self) -> bool {
        self == Outcome::Ok
    }

    fn is_no_space(self) -> bool {
        self == Outcome::Full
    }
}

/// The tag of read-ahead, which fails below.
pub const AHEAD: u64 = u64::MAX;

/// A request; the sender and the protocol share it.
#[derive(Clone)]
pub struct Rq(pub(crate) StdArc<Inner>);

pub(crate) struct Inner {
    pub(crate) op: Op,
    pub(crate) sectors: Range<u64>,
    pub(crate) fua: bool,
    pub(crate) tag: u64,
    pub(crate) begun: u64,
    pub(crate) bios: Vec<SimBio>,
    pub(crate) word: AtomicU64,
    pub(crate) progress: StdMutex<SendProgress>,
    pub(crate) seen: StdMutex<Vec<(u64, Option<u64>)>>,
    pub(crate) outcome: Mutex<Option<Outcome>>,
    pub(crate) ended: Condvar,
}

/// What was merged into a request.
pub(crate) struct SimBio {
    pub(crate) sectors: Range<u64>,
    /// Its number among the writes of the history.
    pub(crate) number: Option<usize>,
    pub(crate) failed: AtomicBool,
}

impl SimBio {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Notes an answer in the history. A write that has failed may be found or not.
    pub(crate) fn answered(&self, outcome: Outcome, history: &mut History) {
        match (outcome, self.number) {
            (Outcome::Ok, Some(number)) if !self.has_failed() => history.write_ends(number),
            (Outcome::Full, Some(number)) => history.write_refused(number),
            _ => {}
        }
    }
}

/// How far a request has been sent down.
#[derive(Clone, Copy, Default)]
pub(crate) struct SendProgress {
    /// Sectors sent before the last part, and including it.
    pub(crate) begun: u64,
    pub(crate) placed: u64,
    /// Whether the request could not be sent the last time.
    pub(crate) refused: bool,
}

impl SendProgress {
    /// Refuses every other attempt to send the request.
    pub(crate) fn refuse(&mut self) -> bool {
        self.refused = !self.refused;
        self.refused
    }

    pub(crate) fn send(&mut self, sectors: u32) {
        self.begun = self.placed;
        self.placed += u64::from(sectors);
    }
}

impl Rq {
    pub(crate) fn progress(&self) -> StdGuard<'_, SendProgress> {
        self.0.progress.lock().expect("no thread has panicked")
    }

    /// Checks that a request that waits to be sent uses no leaf slab, because reclaim would wait
    /// for it.
    pub(crate) fn assert_unused(&self) {
        assert!(
            !RequestState::of(self).uses_map(),
            "a request that was refused uses the map"
        );
    }

    /// Waits for the answer.
    pub fn wait(&self) -> Outcome {
        let mut outcome = self.0.outcome.lock().expect("no thread has panicked");
        loop {
            if let Some(outcome) = *outcome {
                return outcome;
            }
            outcome = self.0.ended.wait(outcome).expect("no thread has panicked");
        }
    }
}

impl Rq {
    /// Waits for the answer. Returns which of the bios have not failed.
    pub fn wait_each(&self) -> Vec<bool> {
        let ok = self.wait() == Outcome::Ok;
        let bios = self.0.bios.iter();
        bios.map(|bio| ok && !bio.has_failed()).collect()
    }
}

impl ubcore::protocol::Request for Rq {
    fn op(&self) -> Op {
        self.0.op
    }
    fn sector(&self) -> u64 {
        self.0.sectors.start
    }
    fn sectors(&self) -> u32 {
        (self.0.sectors.end - self.0.sectors.start) as u32
    }
    fn rest(&self) -> Checked<(u64, u32)> {
        let from = self.0.sectors.start + self.progress().placed;
        Ok((from, (self.0.sectors.end - from) as u32))
    }
    fn unsent(&self) -> Checked<u32> {
        Ok(self.rest()?.1)
    }
    fn sent(&self) -> Checked<(u64, u32)> {
        let SendProgress { begun, placed, .. } = *self.progress();
        Ok((self.0.sectors.start + begun, (placed - begun) as u32))
    }
    fn is_fua(&self) -> bool {
        self.0.fua
    }
    fn fail_bios(&mut self, sector: u64, sectors: u32) -> bool {
        let end = sector + u64::from(sectors);
        for bio in &self.0.bios {
            if bio.sectors.start < end && sector < bio.sectors.end {
                bio.failed.store(true, Relaxed);
            }
        }
        self.0.bios.iter().any(|bio| !bio.has_failed())
    }
    fn is_read_ahead(&self) -> bool {
        self.0.tag == AHEAD
    }
    fn next_bio(&self, sector: u64) -> Option<(u64, u32)> {
        let mut whole = self.0.bios.iter().filter(|bio| !bio.has_failed());
        let bio = whole.find(|bio| sector < bio.sectors.end)?;
        let first = sector.max(bio.sectors.start);
        Some((first, (bio.sectors.end - first) as u32))
    }
    fn word(&self) -> &AtomicU64 {
        &self.0.word
    }
}
