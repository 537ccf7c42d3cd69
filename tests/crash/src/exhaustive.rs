// SPDX-License-Identifier: GPL-2.0

//! Runs all sequences of up to four operations, with a power failure at each point of the last.
//! The last can also be a freeze, a reset or growth.
//!
//! A power failure within an earlier operation is the same as that of a shorter sequence, because
//! the later operations never happen. So the power fails only in the last operation of each
//! sequence. No sequence is left out because it resembles another.

use crate::checker::{CheckCounters, Checker, Depth};
use crate::op::{line, Operation, Range};
use crate::rot;
use crate::setup::{Setup, SETUPS};
use sim::disk::Random;

/// Returns eleven operations, at one set of places or another.
pub fn alphabet(places: usize) -> [Operation; 11] {
    let at = |at, len| Range { at, len };
    let [small, page, over_two, again, zero, discard, fua] = if places == 0 {
        // A slab that is written, a write in the middle of everything, and a write beside it.
        [
            at(5, 1),
            at(40, 8),
            at(58, 12),
            at(8, 4),
            at(30, 40),
            at(32, 32),
            at(6, 1),
        ]
    } else {
        // The slabs that a full leaf has no room for; whole slabs; the union's last slab.
        [
            at(100, 1),
            at(64, 8),
            at(90, 12),
            at(100, 4),
            at(64, 64),
            at(0, 150),
            at(70, 2),
        ]
    };
    [
        Operation::Write(small),
        Operation::Write(page),
        Operation::Write(over_two),
        Operation::Overwrite(again),
        Operation::Zero(zero),
        Operation::Discard(discard),
        Operation::Flush,
        Operation::Fua(fua),
        Operation::Store,
        Operation::Checkpoint,
        Operation::Reattach,
    ]
}

/// One setup, policy and set of places, and which of its sequences are run.
#[derive(Clone, Copy)]
pub struct Job {
    pub setup: &'static Setup,
    pub reveal: bool,
    pub places: usize,
    /// All sequences up to this length are run, and one in so many of the others.
    pub all_up_to: usize,
    pub one_in: u64,
    pub seed: u64,
}

/// The length of the longest sequence.
pub const LONGEST: usize = 4;

/// Returns all jobs, with the same share of sequences for each.
pub fn jobs(all_up_to: usize, one_in: u64, seed: u64) -> Vec<Job> {
    let mut jobs = Vec::new();
    for setup in &SETUPS[..3] {
        for (reveal, places) in [(false, 0), (true, 1), (false, 1), (true, 0)] {
            jobs.push(Job {
                setup,
                reveal,
                places,
                all_up_to,
                one_in,
                seed,
            });
        }
    }
    jobs
}

/// The operations that only end a sequence, because nothing can follow a freeze, the content before
/// a reset does not matter to the operations after it, and a leaf that has grown is like any other.
const LAST: [Operation; 5] = [
    Operation::Freeze,
    Operation::FreezeDetached,
    Operation::Reset,
    Operation::ResetDetached,
    Operation::GrowDetached,
];

/// Runs the sequences of a job. Returns the first invalid state as a replay line. `None`: time is
/// over.
pub fn run(
    job: &Job,
    depth: Depth,
    has_time: &dyn Fn() -> bool,
) -> (CheckCounters, Result<bool, String>) {
    let devices = job.setup.devices(job.reveal);
    let mut checker = Checker::new(devices.geometry, depth, job.seed);
    let alphabet = alphabet(job.places);
    let mut random = Random(job.seed);
    for length in 1..=LONGEST {
        let letters = alphabet.len() as u64;
        let lasts = letters + LAST.len() as u64;
        for number in 0..letters.pow(length as u32 - 1) * lasts {
            if length > job.all_up_to && !random.chance(job.one_in) {
                continue;
            }
            if !has_time() {
                return (checker.counters, Ok(false));
            }
            let before = number / lasts;
            let digit = |n: u32| alphabet[(before / letters.pow(n) % letters) as usize].clone();
            let last = (number % lasts) as usize;
            let last = alphabet.iter().chain(&LAST).nth(last).cloned();
            let ops = (0..length as u32 - 1).rev().map(digit).chain(last);
            let ops: Vec<Operation> = ops.collect();
            if let Err(e) = sequence(job, &ops, &mut checker) {
                let word = job.setup.word(job.reveal);
                return (checker.counters, Err(format!("{word} {} {e}", line(&ops))));
            }
        }
    }
    (checker.counters, Ok(true))
}

fn sequence(job: &Job, ops: &[Operation], checker: &mut Checker) -> Result<(), String> {
    let Some((last, before)) = ops.split_last() else {
        return Ok(());
    };
    let mut harness = job.setup.harness(job.reveal)?;
    let unlike = |e: String| format!("\n  {e}");
    for op in before {
        harness.run(op).map_err(unlike)?;
    }
    let points = harness.step(last).map_err(unlike)?;
    checker.counters.workloads += 1;
    for (n, point) in points.iter().enumerate() {
        checker.point(n, point)?;
    }
    match points.last() {
        Some(end) => rot::all(checker, end, &harness.before_commit),
        None => Ok(()),
    }
}
