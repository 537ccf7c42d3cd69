// SPDX-License-Identifier: GPL-2.0

//! If one look at the map finds the place of a whole request, it is the place that the runs name.

use sim::disk::{Random, SimDisk};
use sim::union::{format, SimUnion};
use ubcore::geometry::Geometry;
use ubcore::map::{Base, Map, Memory};
use ubcore::plan::{self, Run, Source};
use ubcore::stack::source::NoLayers;

/// Makes a union larger than its root, with slabs of so many sectors, and writes, overwrites and
/// empties it at random.
fn used(slab_sectors: u32, random: &mut Random) -> SimUnion {
    let g = Geometry::new(5000, 6144, 2048 + 4096, slab_sectors, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for n in 0..150 {
        let at = random.below(6000);
        match random.below(5) {
            0 => {
                let slab = u.map.geometry().slab_of(at);
                let base = if random.chance(2) {
                    Base::Below
                } else {
                    Base::Zero
                };
                u.empty(slab..slab + 1, base).unwrap();
            }
            1 => u.flush().unwrap(),
            _ => {
                // A slab that was emptied a moment ago cannot be written yet.
                let _ = u.write(at, 1 + random.below(100), 1 + n, true);
            }
        }
    }
    u
}

fn only(runs: impl Iterator<Item = Run>) -> Option<Source> {
    let runs: Vec<Run> = runs.collect();
    (runs.len() == 1).then(|| runs[0].source)
}

fn compare<M: Memory>(map: &Map<M>, at: u64, sectors: u32) -> [bool; 2] {
    let read = plan::read_at_once(map, NoLayers, at, sectors);
    if read.is_some() {
        assert_eq!(
            only(plan::read(map, NoLayers, at, sectors)),
            read,
            "read {at} + {sectors}"
        );
    }
    let write = plan::write_at_once(map, at, sectors);
    if write.is_some() {
        assert_eq!(
            only(plan::write(map, at, sectors)),
            write,
            "write {at} + {sectors}"
        );
    }
    [read.is_some(), write.is_some()]
}

#[test]
fn as_the_runs_have_it() {
    let mut random = Random(11);
    let mut found = [0u32; 2];
    for round in 0..12 {
        let u = used([32, 128, 256][round % 3], &mut random);
        for _ in 0..4000 {
            let at = random.below(6144);
            let sectors = (1 + random.below(70)).min(6144 - at) as u32;
            for (n, is) in found.iter_mut().zip(compare(&u.map, at, sectors)) {
                *n += u32::from(is);
            }
        }
        assert_eq!(plan::read_at_once(&u.map, NoLayers, 0, 0), None);
        assert_eq!(plan::write_at_once(&u.map, 0, 0), None);
    }
    // Each was found often enough to be worth the look, and to have been compared.
    assert!(found.iter().all(|&n| n > 5000), "{found:?}");
}

/// The usual request is found at once: 4 KiB of a slab of 64 KiB.
#[test]
fn every_aligned_block_that_is_mapped_as_a_whole_or_not_at_all() {
    let mut random = Random(12);
    let u = used(128, &mut random);
    for at in (0..5000 / 8 * 8).step_by(8) {
        let Some(source) = only(plan::read(&u.map, NoLayers, at, 8)) else {
            continue;
        };
        if matches!(source, Source::Leaf(_) | Source::Root(_)) {
            let seen = plan::read_at_once(&u.map, NoLayers, at, 8);
            assert_eq!(seen, Some(source), "block {at}");
        }
    }
}

/// A request past the union's end, which the block layer does not send, has no place.
#[test]
fn past_the_end_nothing_is_read_or_written() {
    let u = used(32, &mut Random(7));
    let end = u.map.geometry().union_sectors();
    let read = plan::read(&u.map, NoLayers, end - 8, 40);
    for run in read.chain(plan::write(&u.map, end, 40)) {
        let inside = run.sectors == 8;
        assert_eq!(run.source != Source::Broken, inside, "{run:?}");
    }
    assert_eq!(plan::read_at_once(&u.map, NoLayers, end, 8), None);
    assert_eq!(plan::write_at_once(&u.map, end, 8), None);
}
