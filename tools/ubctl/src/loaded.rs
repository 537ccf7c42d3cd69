// SPDX-License-Identifier: GPL-2.0

//! A detached leaf whose map is in memory, with what waits in its journal applied.

use std::path::Path;

use map_memory::Heap;
use ubcore::alloc::{bitmap_words, Allocator};
use ubcore::attach::{self, Probe};
use ubcore::commit::Committer;
use ubcore::error::Role;
use ubcore::format::directory::PageEntry;
use ubcore::format::superblock::Superblock;
use ubcore::map::{words_for, Map};
use ubcore::num::u32_as_usize;
use ubcore::pages::PageSet;

use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::sealed;

/// The map of a leaf, and what writes it back.
pub struct Loaded {
    /// The map.
    pub map: Map<Heap>,
    /// Writes the metadata. It refuses to if the leaf is frozen.
    pub committer: Committer<Vec<u64>, Vec<PageEntry>>,
    /// The number of leaf slabs in use.
    pub used: u32,
}

/// Opens a leaf that no union writes to: a detached one, which is claimed, or a frozen one, which
/// may be in use as a layer.
pub fn open_at_rest(path: &Path) -> Result<Device> {
    let mut leaf = Device::open(path, Role::Leaf, Access::Read)?;
    refuse_union(&leaf, Role::Leaf)?;
    if superblock(&mut leaf)?.frozen.is_none() {
        leaf = Device::open(path, Role::Leaf, Access::Claim)?;
        refuse_in_use(&leaf.name(), &superblock(&mut leaf)?)?;
    }
    Ok(leaf)
}

/// Refuses a leaf whose union was not detached, because the next attach changes it.
pub fn refuse_in_use(leaf: &str, superblock: &Superblock) -> Result {
    if superblock.clean {
        return Ok(());
    }
    let text = format!(
        "{leaf}: its union was not detached, so its last writes are only in the journal: attach it \
         with ubctl create, and detach it with ubctl remove"
    );
    Err(Fail::new(REFUSED, "not_clean", text))
}

/// Reads the superblock of a leaf.
pub fn superblock(leaf: &mut Device) -> Result<Superblock> {
    Ok(read(leaf)?.superblock)
}

fn read(leaf: &mut Device) -> Result<Probe> {
    let found = attach::read_superblock(leaf);
    found.map_err(|e| sealed::no_leaf(leaf, e))
}

/// Reads the metadata of a leaf, and refuses any damage. Writes nothing.
pub fn load(leaf: &mut Device) -> Result<Loaded> {
    let found = read(leaf)?;
    let sectors = leaf.sectors();
    // The root is not needed, so its size is the one that the leaf claims.
    let root = found.superblock.geometry.root_sectors();
    let loaded = attach::probe(leaf, root, sectors).and_then(|probe| {
        let g = probe.superblock.geometry;
        let map = Map::new(g, Heap::new(&g));
        let mut allocator = Allocator::new(
            bitmap_words(g.leaf_slabs()).map(|n| vec![0; n]),
            g.leaf_slabs(),
        );
        let entries = vec![PageEntry::EMPTY; u32_as_usize(g.pages())];
        let sets = [0; 2].map(|_| PageSet::new(vec![0u64; words_for(g.pages())]));
        let committer = attach::load(leaf, probe, &map, &mut allocator, entries, sets)?;
        Ok(Loaded {
            map,
            committer,
            used: allocator.used(),
        })
    });
    loaded.map_err(|e| Fail::core(&leaf.name(), e))
}

#[cfg(test)]
mod tests {
    use super::refuse_in_use;
    use crate::commands::format::tests::superblock;

    #[test]
    fn a_leaf_with_a_journal_is_refused() {
        let mut sb = superblock(1, 1);
        refuse_in_use("x", &sb).unwrap();
        sb.clean = false;
        let fail = refuse_in_use("x", &sb).unwrap_err();
        assert_eq!(fail.reason, "not_clean");
    }
}
