// SPDX-License-Identifier: GPL-2.0

//! The repair, in the order that the core's `repair` requires. A leaf with nothing to repair is not
//! written to.

use ubcore::alloc::{bitmap_words, Allocator};
use ubcore::attach::load;
use ubcore::check::repair;
use ubcore::check::Finding;
use ubcore::format::directory::PageEntry;
use ubcore::map::{words_for, Map};
use ubcore::num::u32_as_usize;
use ubcore::pages::PageSet;

use super::{broke, is_repaired_by_checkpoint, is_worse_than_minor, look, probe, Look};
use crate::device::Device;
use crate::error::{Fail, Result};
use map_memory::Heap;

/// Repairs what can be repaired of what `first` found, and returns a second look.
pub fn repair(leaf: &mut Device, first: &Look) -> Result<Look> {
    // This check is made before the first write, because a repair writes to the leaf.
    let may = first.sb.features.writable();
    may.map_err(|e| Fail::core(&leaf.path().display().to_string(), e))?;
    let has = |wanted: fn(&Finding) -> bool| first.findings.iter().any(wanted);
    if has(|f| repair::is_of_slot(f.kind)) {
        repair::repair_slot(leaf, &first.sb, first.slot).map_err(|e| broke(leaf, e))?;
    }
    if !is_worse_than_minor(first) && has(|f| is_repaired_by_checkpoint(f.kind)) {
        checkpoint(leaf, first).map_err(|e| broke(leaf, e))?;
    }
    // The checkpoint changed which blocks are in use, so only a new look shows which are inactive.
    let second = look(leaf).map_err(|e| broke(leaf, e))?;
    if is_worse_than_minor(&second) {
        return Ok(second);
    }
    let mut wiped = false;
    for f in second
        .findings
        .iter()
        .filter(|f| repair::is_of_block(f.kind))
    {
        repair::repair_block(leaf, &second.sb, f).map_err(|e| broke(leaf, e))?;
        wiped = true;
    }
    if !wiped {
        return Ok(second);
    }
    look(leaf).map_err(|e| broke(leaf, e))
}

/// Attaches and detaches the leaf, and corrects the map in between.
fn checkpoint(leaf: &mut Device, found: &Look) -> ubcore::error::Result {
    let g = found.sb.geometry;
    let map = Map::new(g, Heap::new(&g));
    let bitmaps = bitmap_words(g.leaf_slabs()).map(|n| vec![0; n]);
    let mut allocator = Allocator::new(bitmaps, g.leaf_slabs());
    let entries = vec![PageEntry::EMPTY; u32_as_usize(g.pages())];
    let [mut changed, stored] = [0; 2].map(|_| PageSet::new(vec![0u64; words_for(g.pages())]));
    for f in &found.findings {
        repair::add_changed_pages(&map, f.kind, &mut changed)?;
    }
    let probe = probe(leaf, &found.sb)?;
    let mut committer = load(
        leaf,
        probe,
        &map,
        &mut allocator,
        entries,
        [changed, stored],
    )?;
    for f in &found.findings {
        repair::repair_map(&map, f.kind)?;
    }
    committer.detach(&map, leaf)
}
