// SPDX-License-Identifier: GPL-2.0

//! Repairs what can be repaired without a guess, on a leaf that this code may write to. The caller
//! must keep this order:
//!
//! 1. [`slot`]: the inactive superblock slot, from the active one.
//! 2. Only if nothing worse was found: attach's own load, [`in_map`] for each finding, and the
//!    checkpoint of a detach. From then on both superblock slots have the same content.
//! 3. A new check, and [`block`] for the blocks that it finds broken and that no attach needs.

use core::ops::DerefMut;

use super::super::disk::{Disk, Order};
use super::super::error::Result;
use super::super::format::below_list::PATH_BYTES;
use super::super::format::new_leaf::NewLeaf;
use super::super::format::superblock::Superblock;
use super::super::geometry::superblock_block;
use super::super::map::{Emptied, Entry, Map, Memory};
use super::super::pages::{bits_page_of, table_page_of, PageSet};
use super::super::slot::Slot;
use super::super::sync::Ordering;
use super::map::{behind_leaf, mask_behind};
use super::{Finding, What};

/// Returns whether a finding is one for [`slot`].
pub fn is_of_slot(what: What) -> bool {
    matches!(
        what,
        What::SlotEmpty | What::SlotChecksum | What::SlotField | What::SlotUnreadable
    )
}

/// Returns whether a finding is one for [`block`].
pub fn is_of_block(what: What) -> bool {
    matches!(
        what,
        What::InactiveDirectory | What::InactiveJournal | What::RootEntry
    )
}

/// Writes the active superblock, which lies in slot `active`, into the other slot too.
pub fn slot<D: Disk>(disk: &mut D, sb: &Superblock, active: Slot) -> Result {
    sb.features.writable()?;
    sb.encode(disk.block());
    disk.write(superblock_block(active.other()), 1, Order::FlushFua)
}

/// Repairs a block of the leaf of `sb` that no attach needs. A block that is broken and inactive is
/// zeroed. A list that has only the root is written again, without the path of the root, which is
/// lost.
pub fn block<D: Disk>(disk: &mut D, sb: &Superblock, found: &Finding) -> Result {
    sb.features.writable()?;
    if found.what == What::RootEntry {
        let no_path = [0; PATH_BYTES];
        NewLeaf::new(sb, &no_path, &[])?.encode_list(disk.block(), 0);
    } else {
        disk.block().fill(0);
    }
    disk.write(found.block, 1, Order::FlushFua)
}

/// Adds the map pages that [`in_map`] will change, for the checkpoint.
pub fn pages<M, B>(map: &Map<M>, what: What, changed: &mut PageSet<B>) -> Result
where
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    let page = match what {
        What::Leaked { slab, .. } | What::PastUnionBare { slab } => table_page_of(slab),
        What::BitsPastUnion { leaf_slab, .. } => bits_page_of(map, leaf_slab),
        What::BitsPastLeaf { page } => map.geometry().bits_page(page),
        _ => return Ok(()),
    };
    changed.insert(page)?;
    Ok(())
}

/// Repairs a loaded map. Every sector of the union reads the same afterwards.
pub fn in_map<M: Memory>(map: &Map<M>, what: What) -> Result {
    let g = map.geometry();
    match what {
        What::Leaked { slab, leaf_slab } => {
            map.set_entry(slab, Entry::unallocated(map.entry(slab).base, Emptied::No))?;
            map.set_owner(leaf_slab, None)
        }
        What::PastUnionBare { slab } => map.set_entry(slab, Entry::decode(0)),
        What::BitsPastUnion { slab, leaf_slab } => {
            // The union's end is in the slab.
            let left = g.union_sectors().wrapping_sub(g.slab_start(slab));
            let first = g.first_data_sector(leaf_slab);
            let end = first.wrapping_add(u64::from(g.slab_sectors()));
            clear(map, first.wrapping_add(left), end);
            Ok(())
        }
        What::BitsPastLeaf { page } => {
            let from = behind_leaf(page, g.leaf_slabs(), g.slab_shift());
            let bits = map.memory().bits(page);
            for (at, word) in bits.into_iter().flatten().enumerate() {
                word.fetch_and(!mask_behind(at, from), Ordering::Release);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Clears the bits of data sectors `from..to` of one slab.
fn clear<M: Memory>(map: &Map<M>, from: u64, to: u64) {
    use super::super::geometry::BITS_SECTORS;
    use super::super::num::saturating_u32;
    let page = saturating_u32(from / BITS_SECTORS);
    // A slab's bits are in one page.
    let start = u64::from(page).wrapping_mul(BITS_SECTORS);
    let (from, to) = (from.wrapping_sub(start), to.wrapping_sub(start));
    let bits = map.memory().bits(page);
    for (at, word) in bits.into_iter().flatten().enumerate() {
        let keep = !mask_behind(at, from) | mask_behind(at, to);
        word.fetch_and(keep, Ordering::Release);
    }
}
