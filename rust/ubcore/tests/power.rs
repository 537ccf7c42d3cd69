// SPDX-License-Identifier: GPL-2.0

//! Promises 1 and 2 over simulated disks: the power fails at every I/O, also during recovery.

use sim::disk::{Random, SimDisk};
use sim::oracle::{self, Oracle};
use sim::union::{format, SimUnion};
use ubcore::alloc::{Allocated, Denied};
use ubcore::error::Error;
use ubcore::geometry::Geometry;
use ubcore::map::Base;

fn tiny() -> Geometry {
    // 40 slabs of 16 KiB over 24, so the leaf fills up, and the ring of 16 blocks wraps.
    Geometry::new(1280, 1280, 2048 + 24 * 32, 32, 16).unwrap()
}

/// Does `steps` random operations; ends early when the power fails.
fn work(u: &mut SimUnion, o: &mut Oracle, random: &mut Random, steps: u64) -> Allocated {
    let sectors = u.map.geometry().union_sectors();
    for _ in 0..steps {
        let len = [1, 1, 2, 8, 8, 40, 64][random.below(7) as usize];
        let at = random.below(sectors - len);
        let tag = o.new_tag();
        match random.below(12) {
            0..=5 => match u.write(at, len, tag, true) {
                Err(Denied::Later | Denied::Failed(Error::Full)) => continue,
                done => {
                    o.begun(at, len, tag);
                    done?;
                }
            },
            6 => {
                // The write is in flight while something else happens, or never completes.
                if matches!(
                    u.allocate_range(at, len),
                    Err(Denied::Later | Denied::Failed(Error::Full))
                ) {
                    continue;
                }
                o.begun(at, len, tag);
                u.write(at, len, tag, false)?;
                if random.chance(3) {
                    // The power fails before the write completes.
                    return Err(Error::Os(0).into());
                }
                u.map.map_sectors(at, len as u32).unwrap();
            }
            7..=8 => {
                u.flush()?;
                o.flushed();
            }
            9 => {
                u.checkpoint()?;
                o.flushed();
            }
            _ => {
                let slabs = u.map.geometry().root_slabs();
                let first = random.below(u64::from(slabs)) as u32;
                let end = (first + 1 + random.below(4) as u32).min(slabs);
                let (base, tag) = match random.below(3) {
                    0 => (Base::Below, oracle::ROOT),
                    _ => (Base::Zero, oracle::ZERO),
                };
                u.empty(first..end, base)?;
                let sectors = u64::from(u.map.geometry().slab_sectors());
                o.begun(
                    u64::from(first) * sectors,
                    u64::from(end - first) * sectors,
                    tag,
                );
            }
        }
    }
    Ok(())
}

/// Attaches after a power failure, with more failures at I/Os of the recovery, and compares every
/// sector.
fn recover(
    disk: &SimDisk,
    g: &Geometry,
    o: &mut Oracle,
    random: &mut Random,
) -> std::result::Result<SimUnion, String> {
    for _ in 0..random.below(3) {
        disk.state.borrow_mut().power_fails_in = Some(random.below(30));
        let _ = SimUnion::attach_to(disk, g);
        disk.state.borrow_mut().crash(random);
    }
    let u = SimUnion::attach_to(disk, g).map_err(|e| format!("attach: {e}"))?;
    for s in 0..g.union_sectors() {
        let tag = oracle::tag(&u.read(s), s).ok_or(format!("sector {s}: a mix, or another's"))?;
        if !o.after_power_failure(s, tag) {
            return Err(format!("sector {s}: holds {tag}"));
        }
    }
    Ok(u)
}

/// Runs one workload on a leaf, with up to four power failures.
fn workload(seed: u64, lies: bool) -> std::result::Result<(), String> {
    let g = tiny();
    let mut random = Random(seed);
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    disk.state.borrow_mut().lies = lies;
    disk.state.borrow_mut().random = Some(Random(!seed));
    let mut o = Oracle::default();
    let mut u = SimUnion::attach_to(&disk, &g).map_err(|e| e.to_string())?;
    for _ in 0..1 + random.below(4) {
        if random.chance(2) {
            disk.state.borrow_mut().power_fails_in = Some(random.below(150));
        }
        let steps = random.below(60);
        if work(&mut u, &mut o, &mut random, steps).is_ok() {
            disk.state.borrow_mut().power_fails_in = None;
            u.verify_running(&o);
            if random.chance(3) {
                u.detach().map_err(|e| e.to_string())?;
                o.flushed();
            }
        }
        disk.state.borrow_mut().crash(&mut random);
        u = recover(&disk, &g, &mut o, &mut random)?;
    }
    Ok(())
}

#[test]
fn workloads_with_power_failures() {
    let workloads = std::env::var("WORKLOADS").map_or(3000, |v| v.parse().unwrap());
    for seed in 0..workloads {
        if let Err(e) = workload(seed, false) {
            panic!("seed {seed}: {e}");
        }
    }
}

#[test]
fn a_disk_that_does_not_flush_is_noticed() {
    let caught = (0..200)
        .filter(|&seed| workload(seed, true).is_err())
        .count();
    assert!(
        caught > 20,
        "only {caught} of 200 workloads noticed that nothing was flushed"
    );
}

/// Fails the power at every single I/O of a flush, a checkpoint and a detach, and at every single
/// I/O of the recovery that follows.
#[test]
fn every_io_of_metadata_is_a_safe_place_to_die() {
    for step in ["flush", "checkpoint", "detach"] {
        for fails_at in 0.. {
            let mut done = false;
            for second in 0.. {
                let mut random = Random(fails_at * 1000 + second);
                let (disk, g, mut o, finished) = die_in(step, fails_at, &mut random);
                done = finished;
                disk.state.borrow_mut().power_fails_in = Some(second);
                let survived = SimUnion::attach_to(&disk, &g).is_ok();
                disk.state.borrow_mut().crash(&mut random);
                let r = recover(&disk, &g, &mut o, &mut random);
                assert!(r.is_ok(), "{step}, I/O {fails_at}, {second}: {:?}", r.err());
                if survived {
                    break;
                }
            }
            if done {
                break;
            }
        }
    }
}

fn die_in(step: &str, fails_at: u64, random: &mut Random) -> (SimDisk, Geometry, Oracle, bool) {
    let g = tiny();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    disk.state.borrow_mut().random = Some(Random(fails_at));
    let mut o = Oracle::default();
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for (at, len) in [(0, 8), (100, 64), (600, 1)] {
        let tag = o.new_tag();
        u.write(at, len, tag, true).unwrap();
        o.begun(at, len, tag);
        if at == 0 {
            u.flush().unwrap();
            o.flushed();
        }
    }
    disk.state.borrow_mut().power_fails_in = Some(fails_at);
    let done = match step {
        "flush" => u.flush(),
        "checkpoint" => u.committer.checkpoint(&u.map, &mut u.disk),
        _ => u.committer.detach(&u.map, &mut u.disk),
    };
    if done.is_ok() {
        o.flushed();
    }
    disk.state.borrow_mut().crash(random);
    (disk, g, o, done.is_ok())
}
