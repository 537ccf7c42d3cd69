// SPDX-License-Identifier: GPL-2.0

//! A life is a list of operations, some of them power failures. This module leads replays, random
//! lives and the smallest failing life.

use std::collections::BTreeMap;

use ubcore::plan::{Run, Source};

use crate::ground::{Ground, GROUNDS};
use crate::judge::{lawful, Judge};
use crate::op::{line, Landed, Op};
use crate::rot;
use crate::world::{disk_of, Point, World};
use sim::disk::Sector;
use sim::oracle::{tag, Oracle, ROOT, ZERO};

/// Leads a life to its end. If a power failure follows an operation, all points of the operation
/// are judged, as far as the judge's depth allows. Then the choice of that failure becomes the
/// disk, and the life continues.
pub fn lead(ground: &Ground, reveal: bool, ops: &[Op], judge: &mut Judge) -> Result<(), String> {
    let mut world = ground.world(reveal)?;
    let mut rest = ops.iter().enumerate().peekable();
    judge.counters.lives += 1;
    while let Some((n, op)) = rest.next() {
        let done = &ops[..=n];
        let told = |e: String| format!("{} {} {e}", ground.word(reveal), line(done));
        let unlike = |e: String| told(format!("\n  {e}"));
        if matches!(op, Op::Cut(..) | Op::Again(..) | Op::Rot) {
            continue;
        }
        if let Some((_, Op::Rot)) = rest.peek() {
            let points = world.step(op).map_err(unlike)?;
            let end = points.last().ok_or("no point")?;
            rot::all(judge, end, &world.before_commit).map_err(told)?;
            continue;
        }
        let Some((_, Op::Cut(at, landed))) = rest.peek() else {
            world.run(op).map_err(unlike)?;
            continue;
        };
        let points = world.step(op).map_err(unlike)?;
        for (n, point) in points.iter().enumerate() {
            judge.point(n, point).map_err(told)?;
        }
        rest.next();
        let again = match rest.peek() {
            Some((_, Op::Again(at, landed))) => Some((*at, landed)),
            _ => None,
        };
        let point = &points[usize::from(*at) % points.len()];
        world = cut(ground, reveal, point, landed, again, judge)
            .map_err(|e| format!("{} {e}", told(line(&ops[n + 1..n + 2]))))?;
    }
    world.step(&Op::Flush).map(|_| ())
}

/// Fails the power, recovers, fails the power in the recovery if `again` says so, checks each
/// sector, and returns the next world.
fn cut(
    ground: &Ground,
    reveal: bool,
    point: &Point,
    landed: &Landed,
    again: Option<(u16, &Landed)>,
    judge: &mut Judge,
) -> Result<World, String> {
    let scope = judge.scope(&point.moment);
    let choice = scope.fit(landed);
    let mut image = scope.image(&choice);
    if let Some((at, landed)) = again {
        let trail = judge.recover(image.clone(), true).1;
        if !trail.is_empty() {
            let moment = &trail[usize::from(at) % trail.len()];
            let second = judge.scope(moment);
            image = second.image(&second.fit(landed));
        }
    }
    let runs = judge.recover(image.clone(), false).0;
    let runs = runs.map_err(|e| format!("attach: {e}"))?;
    // A choice of digits leaves the data in doubt, so each version of it must be valid.
    lawful(&runs, &scope.data, &[&point.oracle])?;
    let seed = match landed {
        Landed::Seed(seed) => *seed,
        Landed::Digits(_) => 0,
    };
    image.extend(scope.some_data(seed));
    let oracle = after(&point.oracle, &image, &runs, judge)?;
    World::over(
        ground.devices(reveal),
        disk_of(image, &judge.geometry),
        oracle,
    )
}

/// Makes the found contents the ones that hold from then on.
fn after(
    before: &Oracle,
    image: &BTreeMap<u64, Sector>,
    runs: &[Run],
    judge: &Judge,
) -> Result<Oracle, String> {
    let mut oracle = before.clone();
    let mut sector = 0;
    for run in runs {
        for n in 0..u64::from(run.sectors) {
            let found = match run.source {
                Source::Root(_) => Some(ROOT),
                Source::Zero => Some(ZERO),
                Source::Lost => None,
                Source::Leaf(at) => image.get(&(at + n)).and_then(|d| tag(d, sector + n)),
            };
            let lawful = found.is_some_and(|t| oracle.after_cut(sector + n, t));
            if !lawful {
                return Err(format!("sector {} holds {found:x?}", sector + n));
            }
        }
        sector += u64::from(run.sectors);
    }
    debug_assert_eq!(sector, judge.geometry.union_sectors());
    Ok(oracle)
}

/// Leads the life of a replay line: a ground, then operations.
pub fn replay(text: &str, judge_of: impl Fn(&Ground) -> Judge) -> Result<Judge, String> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let (ground, reveal, rest) = match Ground::find(first) {
        Some((ground, reveal)) => (ground, reveal, words.collect::<Vec<_>>()),
        // The name of the first ground may be omitted.
        None => (&GROUNDS[0], false, text.split_whitespace().collect()),
    };
    let ops = rest.iter().map(|w| w.parse());
    let ops: Vec<Op> = ops.collect::<Result<_, _>>()?;
    let mut judge = judge_of(ground);
    lead(ground, reveal, &ops, &mut judge)?;
    Ok(judge)
}
