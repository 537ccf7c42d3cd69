// SPDX-License-Identifier: GPL-2.0

//! The map that attach would build, and whether it is consistent.

use std::collections::HashMap;

use ubcore::geometry::{LeafSlab, TABLE_ENTRIES};
use ubcore::map::{Base, Entry, Map, Memory};

use super::report::{MapReport, SlabReport};
use map_memory::Heap;

/// Walks the slab table; with `all`, lists each slab that does not read as its base.
pub fn read(map: &Map<Heap>, all: bool, problems: &mut Vec<String>) -> MapReport {
    let g = map.geometry();
    let mut report = MapReport::default();
    let mut owners: HashMap<u32, u32> = HashMap::new();
    // A page that is not there says nothing.
    let there = (0..g.table_pages()).filter(|&page| map.memory().table(page).is_some());
    for slab in there.flat_map(|page| page * TABLE_ENTRIES..(page + 1) * TABLE_ENTRIES) {
        let entry = map.entry(slab);
        if entry.encode() == 0 {
            continue;
        }
        if slab >= g.root_slabs() {
            problems.push(format!(
                "the map has an entry for root slab {slab}, past the union's end"
            ));
            continue;
        }
        let leaf_slab = entry.leaf_slab.filter(|&l| g.has_leaf_slab(l));
        if let (None, Some(leaf_slab)) = (leaf_slab, entry.leaf_slab) {
            problems.push(format!(
                "the map has root slab {slab} in leaf slab {leaf_slab}, past the leaf's end"
            ));
            continue;
        }
        if let Some(leaf_slab) = leaf_slab {
            if let Some(first) = owners.insert(leaf_slab.0, slab) {
                problems.push(format!(
                    "the map has leaf slab {leaf_slab} under root slabs {first} and {slab}"
                ));
            }
        }
        let runs = leaf_slab.map_or_else(Vec::new, |leaf_slab| runs(map, leaf_slab));
        report.slabs_used += u32::from(leaf_slab.is_some());
        report.slabs_zero += u32::from(entry.base == Base::Zero);
        report.runs += runs.len() as u64;
        report.sectors_mapped += runs.iter().map(|r| u64::from(r.1)).sum::<u64>();
        if all {
            report.slabs.push(slab_report(map, slab, entry, runs));
        }
    }
    report
}

fn slab_report(map: &Map<Heap>, slab: u32, entry: Entry, runs: Vec<(u32, u32)>) -> SlabReport {
    let g = map.geometry();
    SlabReport {
        slab,
        union_sector: g.slab_start(slab),
        leaf_slab: entry.leaf_slab.map(|leaf_slab| leaf_slab.0),
        leaf_sector: entry
            .leaf_slab
            .map(|leaf_slab| g.leaf_slab_start(leaf_slab)),
        base: match entry.base {
            Base::Below => "below",
            Base::Zero => "zero",
        },
        runs,
    }
}

/// Returns the mapped sectors of a leaf slab, as first and count.
fn runs(map: &Map<Heap>, leaf_slab: LeafSlab) -> Vec<(u32, u32)> {
    let sectors = map.geometry().slab_sectors();
    let mut list = Vec::new();
    let mut at = 0;
    while at < sectors {
        // If the page of bits does not exist, nothing is mapped.
        let Ok(run) = map.mapped_run(leaf_slab, at, sectors - at) else {
            break;
        };
        if run.mapped {
            list.push((at, run.sectors));
        }
        at += run.sectors.max(1);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::{read, Heap, Map};
    use ubcore::geometry::{Geometry, LeafSlab};
    use ubcore::map::{Base, Emptied, Entry};

    fn map() -> Map<Heap> {
        let g = Geometry::new(1 << 16, 1 << 16, 1 << 15, 128, 16).unwrap();
        Map::new(g, Heap::to_read(&g))
    }

    #[test]
    fn a_map_is_counted() {
        let map = map();
        map.set_entry(3, Entry::allocated(LeafSlab(0), Base::Below))
            .unwrap();
        map.set_bits(LeafSlab(0), 8, 8).unwrap();
        map.set_bits(LeafSlab(0), 100, 28).unwrap();
        map.set_entry(5, Entry::unallocated(Base::Zero, Emptied::No))
            .unwrap();
        let mut problems = Vec::new();
        let report = read(&map, true, &mut problems);
        assert!(problems.is_empty());
        assert_eq!((report.slabs_used, report.slabs_zero), (1, 1));
        assert_eq!((report.sectors_mapped, report.runs), (36, 2));
        assert_eq!(report.slabs[0].runs, [(8, 8), (100, 28)]);
        assert_eq!(report.slabs[1].base, "zero");
    }

    #[test]
    fn contradictions_are_named() {
        let map = map();
        let at = |leaf| Entry::allocated(leaf, Base::Below);
        map.set_entry(1, at(LeafSlab(4))).unwrap();
        map.set_entry(2, at(LeafSlab(4))).unwrap();
        map.set_entry(3, at(LeafSlab(1_000_000))).unwrap();
        map.set_entry(600, at(LeafSlab(5))).unwrap();
        let mut problems = Vec::new();
        read(&map, false, &mut problems);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("under root slabs 1 and 2"));
        assert!(problems[1].contains("past the leaf's end"));
        assert!(problems[2].contains("past the union's end"));
    }
}
