// SPDX-License-Identifier: GPL-2.0

//! A workload is a list of operations, some of them power failures. This module runs replays,
//! random workloads and the smallest failing workload.

use std::collections::BTreeMap;

use ubcore::plan::{Run, Source};

use crate::checker::{check_content, Checker};
use crate::harness::{disk_of, Harness, Point};
use crate::op::{line, Landed, Operation};
use crate::rot;
use crate::setup::{Setup, SETUPS};
use sim::disk::Sector;
use sim::oracle::{tag, Oracle, ROOT, ZERO};

/// Runs a workload to its end. If a power failure follows an operation, all points of the operation
/// are checked, as far as the checker's depth allows. Then the choice of that failure becomes the
/// disk, and the workload continues. A freeze ends it.
pub fn run(
    setup: &Setup,
    reveal: bool,
    ops: &[Operation],
    checker: &mut Checker,
) -> Result<(), String> {
    let mut harness = setup.harness(reveal)?;
    let mut rest = ops.iter().enumerate().peekable();
    checker.counters.workloads += 1;
    while let Some((n, op)) = rest.next() {
        let done = &ops[..=n];
        let describe = |e: String| format!("{} {} {e}", setup.word(reveal), line(done));
        let unlike = |e: String| describe(format!("\n  {e}"));
        if matches!(
            op,
            Operation::PowerFailure(..) | Operation::Again(..) | Operation::Rot
        ) {
            continue;
        }
        if let Some((_, Operation::Rot)) = rest.peek() {
            let points = harness.step(op).map_err(unlike)?;
            let end = points.last().ok_or("no point")?;
            rot::all(checker, end, &harness.before_commit).map_err(describe)?;
            continue;
        }
        let Some((_, Operation::PowerFailure(at, landed))) = rest.peek() else {
            harness.run(op).map_err(unlike)?;
            if matches!(op, Operation::Freeze | Operation::FreezeDetached) {
                return Ok(());
            }
            continue;
        };
        let points = harness.step(op).map_err(unlike)?;
        for (n, point) in points.iter().enumerate() {
            checker.point(n, point).map_err(describe)?;
        }
        if matches!(op, Operation::Freeze | Operation::FreezeDetached) {
            return Ok(());
        }
        rest.next();
        let again = match rest.peek() {
            Some((_, Operation::Again(at, landed))) => Some((*at, landed)),
            _ => None,
        };
        let point = &points[usize::from(*at) % points.len()];
        harness = fail_power(setup, reveal, point, landed, again, checker)
            .map_err(|e| format!("{} {e}", describe(line(&ops[n + 1..n + 2]))))?;
    }
    harness.step(&Operation::Flush).map(|_| ())
}

/// Fails the power, recovers, fails the power in the recovery if `again` says so, checks each
/// sector, and returns the next harness.
fn fail_power(
    setup: &Setup,
    reveal: bool,
    point: &Point,
    landed: &Landed,
    again: Option<(u16, &Landed)>,
    checker: &mut Checker,
) -> Result<Harness, String> {
    let scope = checker.scope(&point.moment);
    let choice = scope.fit(landed);
    let mut image = scope.image(&choice);
    let valid = checker.of_reset(image.clone(), point)?;
    if let Some((at, landed)) = again {
        let trail = checker.recover(image.clone(), true).1;
        if !trail.is_empty() {
            let moment = &trail[usize::from(at) % trail.len()];
            let second = checker.scope(moment);
            image = second.image(&second.fit(landed));
        }
    }
    let runs = checker.recover(image.clone(), false).0;
    let runs = runs.map_err(|e| format!("attach: {e}"))?;
    // A choice of digits leaves the data in doubt, so each version of it must be valid.
    check_content(&runs, &scope.data, &[valid])?;
    let seed = match landed {
        Landed::Seed(seed) => *seed,
        Landed::Digits(_) => 0,
    };
    image.extend(scope.some_data(seed));
    let oracle = after(valid, &image, &runs, checker)?;
    Harness::over(
        setup.devices(reveal),
        disk_of(image, &checker.geometry),
        oracle,
    )
}

/// Makes the found contents the ones that hold from then on.
fn after(
    before: &Oracle,
    image: &BTreeMap<u64, Sector>,
    runs: &[Run],
    checker: &Checker,
) -> Result<Oracle, String> {
    let mut oracle = before.clone();
    let mut sector = 0;
    for run in runs {
        for n in 0..u64::from(run.sectors) {
            let found = match run.source {
                Source::Root(_) => Some(ROOT),
                Source::Zero => Some(ZERO),
                Source::Layer(..) | Source::Lost | Source::Broken => None,
                Source::Leaf(at) => image.get(&(at + n)).and_then(|d| tag(d, sector + n)),
            };
            let is_valid = found.is_some_and(|t| oracle.after_power_failure(sector + n, t));
            if !is_valid {
                return Err(format!("sector {} holds {found:x?}", sector + n));
            }
        }
        sector += u64::from(run.sectors);
    }
    // Growth makes the union larger.
    debug_assert!(sector >= checker.geometry.union_sectors());
    Ok(oracle)
}

/// Runs the workload of a replay line: a setup, then operations.
pub fn replay(text: &str, checker_of: impl Fn(&Setup) -> Checker) -> Result<Checker, String> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (setup, reveal, rest) = match Setup::find(first) {
        Some((setup, reveal)) => (setup, reveal, words.collect::<Vec<_>>()),
        // The name of the first setup may be omitted.
        None => (&SETUPS[0], false, text.split_whitespace().collect()),
    };
    let ops = rest.iter().map(|w| w.parse());
    let ops: Vec<Operation> = ops.collect::<Result<_, _>>()?;
    let mut checker = checker_of(setup);
    run(setup, reveal, &ops, &mut checker)?;
    Ok(checker)
}
