// SPDX-License-Identifier: GPL-2.0

//! Runs long random workloads. A failing workload is shrunk to fewer operations and smaller
//! numbers, as long as it fails.

use std::cell::RefCell;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::checker::{CheckCounters, Checker, Depth};
use crate::op::{Landed, Operation, Range};
use crate::setup::{Setup, SETUPS};
use crate::workload;

fn range(sectors: u64, slab: u64) -> impl Strategy<Value = Range> {
    let lens = prop_oneof![
        3 => Just(1),
        2 => Just(8),
        1 => 1..slab,
        1 => slab..3 * slab,
    ];
    (0..sectors, lens).prop_map(move |(at, len)| Range {
        at,
        len: len.min(sectors - at),
    })
}

/// Returns a range that is mostly whole slabs.
fn slabs(sectors: u64, slab: u64) -> impl Strategy<Value = Range> {
    (0..sectors / slab, 1..4u64, 0..3u64).prop_map(move |(first, count, more)| {
        let at = first * slab;
        Range {
            at,
            len: (count * slab + more * 5).min(sectors - at),
        }
    })
}

fn op(sectors: u64, slab: u64) -> impl Strategy<Value = Operation> {
    let range = move || range(sectors, slab);
    prop_oneof![
        6 => range().prop_map(Operation::Write),
        2 => range().prop_map(Operation::Overwrite),
        2 => range().prop_map(Operation::Fua),
        1 => range().prop_map(Operation::Begin),
        1 => Just(Operation::End),
        2 => slabs(sectors, slab).prop_map(Operation::Zero),
        2 => slabs(sectors, slab).prop_map(Operation::Discard),
        4 => Just(Operation::Flush),
        2 => Just(Operation::Store),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Reattach),
        1 => Just(Operation::Reset),
        1 => Just(Operation::ResetDetached),
        1 => Just(Operation::Rot),
        2 => (any::<u16>(), any::<u64>())
            .prop_map(|(at, s)| Operation::PowerFailure(at % 64, Landed::Seed(s))),
        1 => (any::<u16>(), any::<u64>()).prop_map(|(at, s)| Operation::Again(at % 64, Landed::Seed(s))),
    ]
}

/// Returns how a workload ends: two in seven by a freeze, one by growth.
fn end() -> impl Strategy<Value = Vec<Operation>> {
    let failure = |s| Operation::PowerFailure(0, Landed::Seed(s));
    prop_oneof![
        4 => Just(Vec::new()),
        1 => any::<u64>().prop_map(move |s| vec![Operation::Freeze, failure(s)]),
        1 => any::<u64>().prop_map(move |s| vec![Operation::FreezeDetached, failure(s)]),
        1 => any::<u64>().prop_map(move |s| vec![Operation::GrowDetached, failure(s)]),
    ]
}

/// How many states random workloads check.
pub const DEPTH: Depth = Depth {
    all: 16,
    sample: 6,
    second_all: 4,
    second_sample: 1,
    rots: 1,
};

/// Runs `count` workloads of a seed on one setup; returns a failing workload as a replay line.
fn workloads(
    setup: &Setup,
    reveal: bool,
    seed: u64,
    count: u32,
    has_time: &dyn Fn() -> bool,
) -> (CheckCounters, Result<(), String>) {
    let geometry = setup.devices(reveal).geometry;
    let (sectors, slab) = (geometry.union_sectors(), u64::from(geometry.slab_sectors()));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: count,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let counters = RefCell::new(CheckCounters::default());
    let ops = vec(op(sectors, slab), 1..60);
    let strategy = (ops, end()).prop_map(|(mut ops, end)| {
        ops.extend(end);
        ops
    });
    let done = runner.run(&strategy, |ops| {
        if !has_time() {
            return Ok(());
        }
        let mut checker = Checker::new(geometry, DEPTH, seed);
        let done = workload::run(setup, reveal, &ops, &mut checker);
        counters.borrow_mut().add(&checker.counters);
        done.map_err(TestCaseError::fail)
    });
    let done = match done {
        Ok(()) => Ok(()),
        // The reason contains the operations up to the failure, and the choice in it.
        Err(TestError::Fail(reason, _)) => Err(reason.message().to_string()),
        Err(TestError::Abort(reason)) => Err(format!("given up: {reason}")),
    };
    (counters.into_inner(), done)
}

/// Runs a round of workloads on each setup and policy.
pub fn run(
    seed: u64,
    count: u32,
    has_time: &dyn Fn() -> bool,
) -> (CheckCounters, Result<(), String>) {
    let mut sum = CheckCounters::default();
    for (n, setup) in (0..).zip(&SETUPS) {
        for reveal in [false, true] {
            let seed = seed ^ ((n * 2 + u64::from(reveal)) << 48);
            let (counters, done) = workloads(setup, reveal, seed, count, has_time);
            sum.add(&counters);
            if done.is_err() {
                return (sum, done);
            }
        }
    }
    (sum, Ok(()))
}
