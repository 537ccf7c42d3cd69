// SPDX-License-Identifier: GPL-2.0

//! Runs more workloads with power failures, over geometries that have what the small one lacks:
//! slabs in many runs, slabs of 4 MiB, transactions of many writes, leaves of many groups. The
//! workloads have FUA writes and several writes in flight. `WORKLOADS` sets how many there are.
//! Each kind of journal record must have been replayed.

use sim::disk::{Random, SimDisk};
use sim::oracle::{self, content, Oracle};
use sim::union::{format, SimUnion};
use ubcore::alloc::{Allocated, Denied};
use ubcore::disk::{Disk, Order};
use ubcore::error::{Error, Result};
use ubcore::format::record::Record;
use ubcore::format::ring;
use ubcore::geometry::Geometry;
use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

/// How a workload runs.
#[derive(Clone, Copy)]
struct Style {
    geometry: fn() -> Geometry,
    steps: u64,
    /// The power fails within so many I/Os.
    fails_within: u64,
    lens: &'static [u64],
    /// One step in so many is a flush; a FUA write or a checkpoint is rarer.
    flush: u64,
    /// One step in so many is a comb of single sectors.
    comb: u64,
}

/// Records that a recovery found in finished transactions: New, More, Words, Origin, blocks of one
/// transaction.
#[derive(Default, Debug)]
struct Seen {
    new: u64,
    more: u64,
    words: u64,
    origin: u64,
    longest: u64,
    power_failures: u64,
}

fn look_at_journal(disk: &SimDisk, g: &Geometry, seen: &mut Seen) {
    let mut disk = disk.clone();
    let nonce = sim::union::superblock(*g).nonce;
    let mut transaction = 0;
    for at in 0..g.journal_blocks() {
        if disk.read(g.journal_block(at), 1).is_err() {
            return;
        }
        let Some(head) = ring::open(disk.block(), nonce) else {
            continue;
        };
        transaction += 1;
        seen.longest = seen.longest.max(transaction);
        if head.last {
            transaction = 0;
        }
        let mut at = 0;
        while at < usize::from(head.count) {
            let word = ring::word(disk.block(), at).unwrap();
            at += 1;
            match Record::decode(word, g.slab_sectors()).expect("a record of this format") {
                Record::New { .. } => seen.new += 1,
                Record::More { .. } => seen.more += 1,
                Record::Origin(_) => seen.origin += 1,
                Record::Words { words, .. } => {
                    seen.words += 1;
                    at += words as usize;
                }
                r => panic!("{r:?}: nothing writes that yet"),
            }
        }
    }
}

/// Does a FUA write as the driver does: alone if nothing is dirty and all is mapped, else with the
/// next commit.
fn write_fua(u: &mut SimUnion, o: &mut Oracle, at: u64, len: u64) -> Allocated {
    let tag = o.new_tag();
    u.allocate_range(at, len)?;
    o.begun(at, len, tag);
    let n = len as u32;
    let mapped = plan::read(&u.map, NoLayers, at, n).all(|r| matches!(r.source, Source::Leaf(_)));
    if mapped && u.committer.is_committed(&u.map) {
        let mut from = at;
        for run in plan::write(&u.map, at, n) {
            let Source::Leaf(to) = run.source else {
                panic!("a write goes to the leaf")
            };
            let end = from + u64::from(run.sectors);
            let data: Vec<_> = (from..end).map(|s| content(tag, s)).collect();
            u.disk.state.borrow_mut().write(to, &data, Order::Fua)?;
            from = end;
        }
    } else {
        u.write(at, len, tag, true)?;
        u.flush()?;
    }
    o.durable(at, len, tag);
    Ok(())
}

fn write(u: &mut SimUnion, o: &mut Oracle, at: u64, len: u64, done: bool) -> Allocated {
    let tag = o.new_tag();
    u.allocate_range(at, len)?;
    o.begun(at, len, tag);
    u.write(at, len, tag, done)
}

fn step(u: &mut SimUnion, o: &mut Oracle, random: &mut Random, style: &Style) -> Allocated {
    let sectors = u.map.geometry().union_sectors();
    let len = style.lens[random.below(style.lens.len() as u64) as usize];
    let at = random.below(sectors - len);
    if random.chance(style.flush) {
        u.flush()?;
        o.flushed();
    } else if random.chance(style.comb) {
        let teeth = 1 + random.below(40);
        for n in 0..teeth {
            let at = at + 2 * n;
            if at < sectors {
                write(u, o, at, 1, true)?;
            }
        }
    } else if random.chance(style.flush * 3) {
        write_fua(u, o, at, len)?;
    } else if random.chance(style.flush * 4) {
        u.committer.checkpoint(&u.map, &mut u.disk)?;
        o.flushed();
    } else if random.chance(8) {
        // Several writes are in flight. They complete in another order, after a flush, or not at
        // all.
        let mut flying = Vec::new();
        for _ in 0..1 + random.below(4) {
            let at = random.below(sectors - len);
            if flying.iter().all(|f: &u64| f.abs_diff(at) >= len) {
                match write(u, o, at, len, false) {
                    Err(Denied::Failed(Error::Full)) => break,
                    done => done?,
                }
                flying.push(at);
            }
        }
        if random.chance(style.flush) {
            u.committer.commit(&u.map, &mut u.disk)?;
        }
        for at in flying.into_iter().rev() {
            u.map.map_sectors(at, len as u32).unwrap();
        }
    } else {
        write(u, o, at, len, true)?;
    }
    Ok(())
}

fn work(u: &mut SimUnion, o: &mut Oracle, random: &mut Random, style: &Style) -> Allocated {
    for _ in 0..random.below(style.steps) {
        match step(u, o, random, style) {
            Ok(()) | Err(Denied::Failed(Error::Full)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Attaches after up to three tries in which the power fails, and compares every sector.
fn recover(
    disk: &SimDisk,
    g: &Geometry,
    o: &mut Oracle,
    random: &mut Random,
) -> std::result::Result<SimUnion, String> {
    for _ in 0..random.below(4) {
        disk.state.borrow_mut().power_fails_in = Some(random.below(60));
        if let Err(e @ Error::Damaged(..)) = SimUnion::attach_to(disk, g).map(drop) {
            return Err(format!("attach: {e}"));
        }
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

/// Makes everything durable in one of three ways, or (3) not at all.
fn make_durable(u: &mut SimUnion, way: u64) -> Result {
    match way {
        0 => u.flush(),
        1 => u.committer.checkpoint(&u.map, &mut u.disk),
        2 => u.committer.detach(&u.map, &mut u.disk),
        _ => Err(Error::Os(0)),
    }
}

fn workload(style: &Style, seed: u64, seen: &mut Seen) -> std::result::Result<(), String> {
    let g = (style.geometry)();
    let mut random = Random(seed);
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    disk.state.borrow_mut().random = Some(Random(!seed));
    let mut o = Oracle::default();
    let mut u = SimUnion::attach_to(&disk, &g).map_err(|e| e.to_string())?;
    for _ in 0..1 + random.below(5) {
        let where_to_die = random.below(4);
        if where_to_die < 2 {
            let fails_at = random.below(style.fails_within);
            disk.state.borrow_mut().power_fails_in = Some(fails_at);
        }
        if work(&mut u, &mut o, &mut random, style).is_ok() {
            disk.state.borrow_mut().power_fails_in = None;
            u.verify_running(&o);
            if where_to_die == 2 {
                // The power fails within the few I/Os that make this durable, or just after them.
                let within = 1 + random.below(20);
                let fails_at = random.below(within);
                disk.state.borrow_mut().power_fails_in = Some(fails_at);
            }
            if make_durable(&mut u, random.below(4)).is_ok() {
                o.flushed();
            }
        }
        seen.power_failures += u64::from(disk.state.borrow().dead);
        disk.state.borrow_mut().crash(&mut random);
        look_at_journal(&disk, &g, seen);
        u = recover(&disk, &g, &mut o, &mut random)?;
    }
    Ok(())
}

/// Runs a share of `WORKLOADS` (3000) workloads, but enough to reach what the campaign looks for.
fn campaign(style: Style, share: u64) -> Seen {
    let workloads: u64 = std::env::var("WORKLOADS").map_or(3000, |v| v.parse().unwrap());
    let mut seen = Seen::default();
    for seed in 0..(workloads / share).max(20) {
        if let Err(e) = workload(&style, seed, &mut seen) {
            panic!("seed {seed}: {e}");
        }
    }
    println!("{seen:?}");
    assert!(
        seen.power_failures > 0 && seen.new > 0 && seen.more > 0,
        "{seen:?}"
    );
    seen
}

#[test]
fn slabs_in_many_runs() {
    let style = Style {
        // 64 KiB slabs, 20 of them over 12; a root that ends within a slab.
        geometry: || Geometry::new(2530, 2530, 2048 + 12 * 128, 128, 16).unwrap(),
        steps: 80,
        fails_within: 400,
        lens: &[1, 1, 1, 2, 7, 64, 128, 300],
        flush: 5,
        comb: 3,
    };
    assert!(campaign(style, 3).words > 0);
}

#[test]
fn slabs_of_4_mib() {
    let style = Style {
        // Three slabs over two, and records of 129 words.
        geometry: || Geometry::new(17_000, 17_000, 8192 * 3, 8192, 16).unwrap(),
        steps: 60,
        fails_within: 2000,
        lens: &[1, 8, 8, 100, 1000],
        flush: 6,
        comb: 2,
    };
    assert!(campaign(style, 50).words > 0);
}

#[test]
fn many_groups_and_long_transactions() {
    let style = Style {
        // 2000 slabs of 16 KiB: two table pages, two bits pages, steps that one record cannot hold.
        geometry: || Geometry::new(64_000, 64_000, 2048 + 2000 * 32, 32, 32).unwrap(),
        steps: 16_000,
        fails_within: 20_000,
        lens: &[1, 1, 3],
        flush: 5000,
        comb: 1_000_000,
    };
    let seen = campaign(style, 150);
    assert!(seen.origin > 0 && seen.longest > 8, "{seen:?}");
}

#[test]
fn a_larger_ring_with_many_commits() {
    let style = Style {
        geometry: || Geometry::new(6400, 6400, 2048 + 150 * 32, 32, 64).unwrap(),
        steps: 300,
        fails_within: 900,
        lens: &[1, 2, 8, 40],
        flush: 3,
        comb: 20,
    };
    campaign(style, 15);
}
