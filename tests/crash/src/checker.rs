// SPDX-License-Identifier: GPL-2.0

//! Recovers from images and checks the result.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use ubcore::attach::read_superblock;
use ubcore::error::Error;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::plan::{self, Run, Source};
use ubcore::stack::source::NoLayers;

use crate::harness::{attach, disk_of, grown, FreezeOutcome, Point, SEAL};
use crate::image::{digest_of, Scope};
use crate::op::{line, Landed, Operation};
use sim::disk::{Moment, Random, Sector, SimDisk};
use sim::oracle::{tag, Oracle, ROOT, ZERO};
use sim::union::{load, salvage};

/// How many states are checked.
#[derive(Clone, Copy)]
pub struct Depth {
    /// Up to this number, all ways in which sectors can land are tried: all subsets of 12.
    pub all: u64,
    /// Above that number, how many random ways are tried besides the special ones.
    pub sample: usize,
    /// The same for the second power failure, in the recovery.
    pub second_all: u64,
    pub second_sample: usize,
    /// How many kinds of rot each sector gets, at most 3.
    pub rots: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct CheckCounters {
    /// Images of a disk with the contents that are valid for it, no two alike, each checked sector
    /// by sector.
    pub states: u64,
    /// The number of these after a second power failure.
    pub second: u64,
    /// The images with a rotten sector, and the number of these that recovery refused and named.
    pub rotten: u64,
    pub named: u64,
    /// The number of refused images that could be read nevertheless, with some content lost.
    pub salvaged: u64,
    /// Rot of the journal's last write that was taken for a torn write.
    pub torn: u64,
    /// Recoveries that ran. One serves all states of its image.
    pub recoveries: u64,
    /// Sequences or workloads.
    pub workloads: u64,
    /// Points at which the power failed.
    pub points: u64,
    /// Images of a frozen leaf.
    pub frozen: u64,
}

impl CheckCounters {
    pub fn add(&mut self, other: &CheckCounters) {
        self.states += other.states;
        self.second += other.second;
        self.rotten += other.rotten;
        self.named += other.named;
        self.salvaged += other.salvaged;
        self.torn += other.torn;
        self.recoveries += other.recoveries;
        self.workloads += other.workloads;
        self.points += other.points;
        self.frozen += other.frozen;
    }
}

/// The sources of a union's sectors after a recovery, or the reason why recovery failed.
pub type Recovered = Result<Vec<Run>, Error>;

/// Records all images that were seen, and the result of their recovery.
pub struct Checker {
    pub geometry: Geometry,
    pub depth: Depth,
    random: Random,
    recovered: HashMap<u64, Rc<Recovered>>,
    /// Images whose recovery was interrupted by a power failure at each of its points.
    twice: HashSet<u64>,
    checked: HashSet<(u64, u64)>,
    pub counters: CheckCounters,
}

fn runs_of(u: &sim::union::SimUnion) -> Vec<Run> {
    let sectors = u.map.geometry().union_sectors() as u32;
    plan::read(&u.map, NoLayers, 0, sectors).collect()
}

/// Checks that a recovered union has a size that the point allows.
fn check_size(runs: &[Run], point: &Point) -> Result<(), String> {
    let found = runs.iter().map(|run| u64::from(run.sectors)).sum();
    match point.union_sectors.contains(&found) {
        true => Ok(()),
        false => Err(format!(
            "the union has {found} sectors, not one of {:?}",
            point.union_sectors
        )),
    }
}

impl Checker {
    pub fn new(geometry: Geometry, depth: Depth, seed: u64) -> Checker {
        Checker {
            geometry,
            depth,
            random: Random(seed),
            recovered: HashMap::new(),
            twice: HashSet::new(),
            checked: HashSet::new(),
            counters: CheckCounters::default(),
        }
    }

    pub fn scope(&self, moment: &Moment) -> Scope {
        Scope::new(moment, self.geometry.leaf_slab_start(LeafSlab(0)))
    }

    /// Recovers from an image; returns the trail too if that is wanted. A frozen leaf is only
    /// loaded, because an attach refuses it before the first write.
    pub fn recover(
        &mut self,
        image: BTreeMap<u64, Sector>,
        trail: bool,
    ) -> (Recovered, Vec<Moment>) {
        self.counters.recoveries += 1;
        let disk = disk_of(image, &self.geometry);
        disk.state.borrow_mut().trail = trail.then(Vec::new);
        let written = disk.image();
        let g = &self.geometry;
        let u = match attach(&disk, g) {
            Err(Error::Frozen) if disk.image() == written => {
                self.counters.frozen += 1;
                load(&disk, g.root_sectors(), g.leaf_sectors())
            }
            u => u,
        };
        let moments = disk.state.borrow_mut().trail.take().unwrap_or_default();
        (u.map(|u| runs_of(&u)), moments)
    }

    /// Returns what is left of an image that recovery refuses.
    pub fn salvage(&self, image: BTreeMap<u64, Sector>) -> Recovered {
        let disk = disk_of(image, &self.geometry);
        let (u, _) = salvage(&disk, &grown(&self.geometry)?)?;
        Ok(runs_of(&u))
    }

    /// Returns whether an image with such contents was not checked before, and records it as
    /// checked.
    pub fn is_new(&mut self, image: u64, meant: u64) -> bool {
        let new = self.checked.insert((image, meant));
        self.counters.states += u64::from(new);
        new
    }

    /// Checks all images that a point can leave. Returns the operations of a replay if one is
    /// invalid.
    pub fn point(&mut self, n: usize, point: &Point) -> Result<(), String> {
        let scope = self.scope(&point.moment);
        let meant = digest_of(&(&scope.data, &*point.oracle));
        let (all, sample) = (self.depth.all, self.depth.sample);
        self.counters.points += 1;
        for choice in scope.choices(all, sample, &mut self.random) {
            let image = scope.digest(&choice);
            if !self.is_new(image, meant) {
                continue;
            }
            let failure = Operation::PowerFailure(n as u16, Landed::Digits(choice.clone()));
            let runs = self.first(&scope, &choice, image, &failure)?;
            let oracle = match &point.freeze {
                Some(freeze) => self.of_freeze(&scope, &choice, (point, freeze), &runs),
                None => self.of_reset(scope.image(&choice), point),
            };
            oracle
                .and_then(|oracle| check_size(&runs, point).map(|()| oracle))
                .and_then(|oracle| check_content(&runs, &scope.data, &[oracle]))
                .map_err(|e| format!("{failure}\n  {e}"))?;
        }
        Ok(())
    }

    /// Returns which contents are valid in a state of a reset: those from before if its superblock
    /// has not landed, or those of an empty leaf. The image is that before the recovery.
    pub fn of_reset<'a>(
        &self,
        image: BTreeMap<u64, Sector>,
        point: &'a Point,
    ) -> Result<&'a Rc<Oracle>, String> {
        let Some(reset) = &point.reset else {
            return Ok(&point.oracle);
        };
        let found = read_superblock(&mut disk_of(image, &self.geometry));
        let found = found.map_err(|e| format!("the superblock of a reset: {e}"))?;
        Ok(match found.superblock.generation < reset.generation {
            true => &point.oracle,
            false => &reset.content,
        })
    }

    /// Returns which contents are valid in a state that a freeze can leave. If the leaf is not
    /// frozen, a second freeze must succeed and keep what recovery has found.
    fn of_freeze<'a>(
        &mut self,
        scope: &Scope,
        choice: &[u8],
        (point, freeze): (&'a Point, &'a FreezeOutcome),
        runs: &[Run],
    ) -> Result<&'a Rc<Oracle>, String> {
        let mut disk = disk_of(scope.image(choice), &self.geometry);
        let seal = |disk: &mut SimDisk| read_superblock(disk).map(|p| p.superblock.frozen);
        match seal(&mut disk) {
            Ok(Some(SEAL)) => return Ok(&freeze.content),
            Ok(None) if !freeze.reported => {}
            found => return Err(format!("the seal is {found:?}")),
        }
        let again = |disk: &mut SimDisk| {
            let (root, leaf) = (self.geometry.root_sectors(), self.geometry.leaf_sectors());
            let mut u = load(disk, root, leaf)?;
            u.committer.freeze(&u.map, &mut u.disk, SEAL)?;
            load(disk, root, leaf)
        };
        let u = again(&mut disk).map_err(|e| format!("a second freeze: {e}"))?;
        if seal(&mut disk) != Ok(Some(SEAL)) || runs_of(&u) != runs {
            return Err("a second freeze leaves something else".into());
        }
        Ok(&point.oracle)
    }

    /// Returns the result of recovery from an image, after power failures at each moment of that
    /// recovery.
    fn first(
        &mut self,
        scope: &Scope,
        choice: &[u8],
        image: u64,
        failure: &Operation,
    ) -> Result<Vec<Run>, String> {
        if self.twice.contains(&image) {
            let known = self.recovered[&image].clone();
            return (*known)
                .clone()
                .map_err(|e| format!("{failure}\n  attach: {e}"));
        }
        let (recovered, trail) = self.recover(scope.image(choice), true);
        let runs = recovered
            .clone()
            .map_err(|e| format!("{failure}\n  attach: {e}"))?;
        self.recovered.insert(image, Rc::new(recovered));
        self.twice.insert(image);
        for (at, moment) in trail.iter().enumerate() {
            self.second(at, moment, &runs)
                .map_err(|e| format!("{failure} {e}"))?;
        }
        Ok(runs)
    }

    /// Checks a power failure in the recovery: the next recovery must find the same map, whatever
    /// landed.
    fn second(&mut self, at: usize, moment: &Moment, runs: &[Run]) -> Result<(), String> {
        let scope = self.scope(moment);
        let expected = digest_of(&format!("{runs:?}"));
        let (all, sample) = (self.depth.second_all, self.depth.second_sample);
        for choice in scope.choices(all, sample, &mut self.random) {
            let image = scope.digest(&choice);
            if !self.is_new(image, expected) {
                continue;
            }
            self.counters.second += 1;
            let known = self.recovered.get(&image).cloned();
            let recovered = known.unwrap_or_else(|| {
                let (recovered, _) = self.recover(scope.image(&choice), false);
                let recovered = Rc::new(recovered);
                self.recovered.insert(image, recovered.clone());
                recovered
            });
            let again = line(&[Operation::Again(at as u16, Landed::Digits(choice))]);
            match &*recovered {
                Ok(found) if found == runs => {}
                Ok(_) => {
                    return Err(format!(
                        "{again}\n  another map after the second power failure"
                    ))
                }
                Err(e) => return Err(format!("{again}\n  attach: {e}")),
            }
        }
        Ok(())
    }
}

/// Checks that each sector that is not lost holds, in each of its versions, what one of `oracles`
/// allows.
pub fn check_content(
    runs: &[Run],
    data: &BTreeMap<u64, Vec<Sector>>,
    oracles: &[&Oracle],
) -> Result<(), String> {
    let allows = |s: u64, t: u64| oracles.iter().any(|o| o.allows(s, t));
    let mut sector = 0;
    for run in runs {
        for n in 0..u64::from(run.sectors) {
            let s = sector + n;
            let bad = |t: Option<u64>| Err(format!("sector {s} holds {t:x?}"));
            match run.source {
                Source::Layer(..) => return bad(None),
                Source::Root(from) if from + n != s => return bad(None),
                Source::Root(_) if !allows(s, ROOT) => return bad(Some(ROOT)),
                Source::Zero if !allows(s, ZERO) => return bad(Some(ZERO)),
                Source::Leaf(at) => {
                    let Some(versions) = data.get(&(at + n)) else {
                        return bad(None);
                    };
                    for version in versions {
                        let found = tag(version, s);
                        if !found.is_some_and(|t| allows(s, t)) {
                            return bad(found);
                        }
                    }
                }
                _ => {}
            }
        }
        sector += u64::from(run.sectors);
    }
    Ok(())
}
