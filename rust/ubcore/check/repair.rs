// SPDX-License-Identifier: GPL-2.0

//! Repairs what can be repaired without a guess, on a leaf that this code may write to. The caller
//! must keep this order:
//!
//! 1. [`repair_slot`]: the inactive superblock slot, from the active one.
//! 2. Only if nothing worse was found: attach's own load, [`repair_map`] for each finding, and the
//!    checkpoint of a detach. From then on both superblock slots have the same content.
//! 3. A new check, and [`repair_block`] for the blocks that it finds broken and that no attach
//!    needs.

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
use super::map::{first_bit_past_leaf, mask_from};
use super::{Finding, FindingKind};

/// Returns whether a finding is one for [`repair_slot`]. A slot that cannot be read is not, because
/// it may hold a newer superblock, even one that froze the leaf.
pub fn is_of_slot(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::SlotEmpty | FindingKind::SlotChecksum | FindingKind::SlotField
    )
}

/// Returns whether a finding is one for [`repair_block`].
pub fn is_of_block(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::InactiveDirectory | FindingKind::InactiveJournal | FindingKind::RootEntry
    )
}

/// Writes the active superblock, which lies in slot `active`, into the other slot too.
pub fn repair_slot<D: Disk>(disk: &mut D, sb: &Superblock, active: Slot) -> Result {
    sb.features.writable()?;
    sb.encode(disk.block());
    disk.write(superblock_block(active.other()), 1, Order::FlushFua)
}

/// Repairs a block of the leaf of `sb` that no attach needs. A block that is broken and inactive is
/// zeroed. A list that has only the root is written again, without the path of the root, which is
/// lost.
pub fn repair_block<D: Disk>(disk: &mut D, sb: &Superblock, found: &Finding) -> Result {
    sb.features.writable()?;
    if found.kind == FindingKind::RootEntry {
        let no_path = [0; PATH_BYTES];
        NewLeaf::new(sb, &no_path, &[])?.encode_list(disk.block(), 0);
    } else {
        disk.block().fill(0);
    }
    disk.write(found.block, 1, Order::FlushFua)
}

/// Adds the map pages that [`repair_map`] will change, for the checkpoint.
pub fn add_changed_pages<M, B>(map: &Map<M>, kind: FindingKind, changed: &mut PageSet<B>) -> Result
where
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    let page = match kind {
        FindingKind::Leaked { slab, .. } | FindingKind::PastUnionBare { slab } => {
            table_page_of(slab)
        }
        FindingKind::BitsPastUnion { leaf_slab, .. } => bits_page_of(map, leaf_slab),
        FindingKind::BitsPastLeaf { page } => map.geometry().bits_page(page),
        _ => return Ok(()),
    };
    changed.insert(page)?;
    Ok(())
}

/// Repairs a loaded map. Every sector of the union reads the same afterwards.
pub fn repair_map<M: Memory>(map: &Map<M>, kind: FindingKind) -> Result {
    let g = map.geometry();
    match kind {
        FindingKind::Leaked { slab, leaf_slab } => {
            map.set_entry(slab, Entry::unallocated(map.entry(slab).base, Emptied::No))?;
            map.set_owner(leaf_slab, None)
        }
        FindingKind::PastUnionBare { slab } => map.set_entry(slab, Entry::decode(0)),
        FindingKind::BitsPastUnion { slab, leaf_slab } => {
            // The union's end is in the slab.
            let left = g.union_sectors().wrapping_sub(g.slab_start(slab));
            let first = g.first_data_sector(leaf_slab);
            let end = first.wrapping_add(u64::from(g.slab_sectors()));
            clear_bits(map, first.wrapping_add(left), end);
            Ok(())
        }
        FindingKind::BitsPastLeaf { page } => {
            let from = first_bit_past_leaf(page, g.leaf_slabs(), g.slab_shift());
            let bits = map.memory().bits(page);
            for (at, word) in bits.into_iter().flatten().enumerate() {
                word.fetch_and(!mask_from(at, from), Ordering::Release);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Clears the bits of data sectors `from..to` of one slab.
fn clear_bits<M: Memory>(map: &Map<M>, from: u64, to: u64) {
    use super::super::geometry::BITS_SECTORS;
    use super::super::num::saturating_u32;
    let page = saturating_u32(from / BITS_SECTORS);
    // A slab's bits are in one page.
    let start = u64::from(page).wrapping_mul(BITS_SECTORS);
    let (from, to) = (from.wrapping_sub(start), to.wrapping_sub(start));
    let bits = map.memory().bits(page);
    for (at, word) in bits.into_iter().flatten().enumerate() {
        let keep = !mask_from(at, from) | mask_from(at, to);
        word.fetch_and(keep, Ordering::Release);
    }
}
