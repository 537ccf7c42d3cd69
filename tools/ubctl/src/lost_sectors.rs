// SPDX-License-Identifier: GPL-2.0

//! Sectors of a union whose content is unknown because metadata is damaged.

use serde::Serialize;
use ubcore::alloc::{bitmap_words, Allocator};
use ubcore::attach;
use ubcore::format::directory::PageEntry;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::MapPage;
use ubcore::map::{words_for, Map, Memory};
use ubcore::num::u32_as_usize;
use ubcore::pages::PageSet;
use ubcore::salvage::{self, Lost};

use crate::device::Device;
use crate::output::size;
use map_memory::Heap;

/// How many ranges a sentence names.
const NAMED: usize = 8;

/// Sectors of a union that lie next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SectorRange {
    /// The first sector.
    pub sector: u64,
    /// How many sectors.
    pub sectors: u64,
}

/// Returns the sectors that a map has as lost, or would have if the pages that `is_lost` names were
/// unknown.
pub fn of_map<M: Memory>(map: &Map<M>, is_lost: impl Fn(MapPage) -> bool) -> Vec<SectorRange> {
    let mut list = Vec::new();
    let add = |sector, sectors| list.push(SectorRange { sector, sectors });
    // `give_way` never fails, so the walk never ends early.
    let _ = salvage::lost_ranges(map, is_lost, || Ok(()), add);
    list
}

/// Returns what a read-only attach would lose of a leaf; `None` if it would refuse the leaf. Reads
/// only.
pub fn of_leaf(leaf: &mut Device, sb: &Superblock) -> Option<Vec<SectorRange>> {
    let sectors = leaf.sectors();
    let probe = attach::probe(leaf, sb.geometry.root_sectors(), sectors).ok()?;
    let g = probe.superblock.geometry;
    let map = Map::new(g, Heap::to_read(&g));
    let bitmaps = bitmap_words(g.leaf_slabs()).map(|n| vec![0; n]);
    let mut allocator = Allocator::new(bitmaps, g.leaf_slabs());
    let entries = vec![PageEntry::EMPTY; u32_as_usize(g.pages())];
    let set = || PageSet::new(vec![0u64; words_for(g.pages())]);
    let mut lost = Lost::new(set());
    let (a, sets) = (&mut allocator, [set(), set()]);
    let found = attach::salvage(leaf, probe, &map, a, entries, sets, &mut lost);
    found.ok().map(|_| of_map(&map, |_| false))
}

/// Returns the number of all sectors in a list.
pub fn sum(list: &[SectorRange]) -> u64 {
    list.iter().map(|s| s.sectors).sum()
}

/// Returns a list for people, as much as fits in a line.
pub fn text(list: &[SectorRange]) -> String {
    if list.is_empty() {
        return "no sector of the union".to_owned();
    }
    let one = |s: &SectorRange| format!("{} to {}", s.sector, s.sector + s.sectors - 1);
    let mut named: Vec<String> = list.iter().take(NAMED).map(one).collect();
    if let Some(more @ 1..) = list.len().checked_sub(NAMED) {
        named.push(format!("and {more} more ranges"));
    }
    format!("union sectors {} ({})", named.join(", "), size(sum(list)))
}

#[cfg(test)]
mod tests {
    use super::{text, SectorRange};

    #[test]
    fn a_long_list_is_cut_short() {
        assert_eq!(text(&[]), "no sector of the union");
        let list: Vec<SectorRange> = (0..10)
            .map(|n| SectorRange {
                sector: n * 10,
                sectors: 2,
            })
            .collect();
        let of = |n: usize| text(&list[..n]);
        assert_eq!(of(2), "union sectors 0 to 1, 10 to 11 (2 KiB)");
        assert!(of(8).ends_with("70 to 71 (8 KiB)"), "{}", of(8));
        assert!(
            of(10).ends_with("70 to 71, and 2 more ranges (10 KiB)"),
            "{}",
            of(10)
        );
    }
}
