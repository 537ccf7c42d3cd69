// SPDX-License-Identifier: GPL-2.0

//! Checks the map that attach would build: whether its table and its bits agree.

use core::ops::{DerefMut, Range};

use super::super::bits::number_of;
use super::super::disk::Disk;
use super::super::error::{Error, Result};
use super::super::geometry::{LeafSlab, BITS_SECTORS, BITS_WORDS, TABLE_ENTRIES};
use super::super::map::{Entry, Memory};
use super::super::num::{mask, next, saturating_u32, u32_as_usize, usize_as_u64};
use super::super::pages::{self, bits_page_of, table_page_of};
use super::super::sync::Ordering;
use super::{Check, FindingKind, Totals};

impl<D, M, B> Check<'_, D, M, B>
where
    D: Disk,
    M: Memory,
    B: DerefMut<Target = [u64]>,
{
    /// Checks every entry of the slab table, and records the owner of each leaf slab.
    pub(super) fn check_table(&mut self, totals: &mut Totals) -> Result {
        for page in 0..self.geometry().table_pages() {
            // A page that does not exist names nothing.
            if self.map.memory().table(page).is_none() {
                continue;
            }
            for slab in self.geometry().root_slabs_of(page) {
                let entry = self.map.entry(slab);
                if entry.encode() != 0 {
                    self.check_entry(slab, entry, totals)?;
                }
            }
        }
        Ok(())
    }

    fn check_entry(&mut self, slab: u32, entry: Entry, totals: &mut Totals) -> Result {
        let g = self.geometry();
        let block = self.block_of(table_page_of(slab));
        let byte = (slab % TABLE_ENTRIES).wrapping_mul(4);
        let wrong = match entry.leaf_slab {
            _ if entry.is_in_memory_only() => Some(FindingKind::Moving { slab }),
            Some(leaf_slab) if slab >= g.root_slabs() => {
                Some(FindingKind::PastUnion { slab, leaf_slab })
            }
            None if slab >= g.root_slabs() => Some(FindingKind::PastUnionBare { slab }),
            Some(leaf_slab) if !g.has_leaf_slab(leaf_slab) => {
                Some(FindingKind::PastLeaf { slab, leaf_slab })
            }
            Some(leaf_slab) => self.map.owner(leaf_slab).map(|first| FindingKind::Shared {
                leaf_slab,
                first,
                second: slab,
            }),
            None => None,
        };
        if let Some(kind) = wrong {
            self.report(kind, block, byte);
            return Ok(());
        }
        let Some(leaf_slab) = entry.leaf_slab else {
            return Ok(());
        };
        // As in attach, such an entry owns nothing.
        if !pages::has_bits(self.map, leaf_slab)
            && !self.lost.has(bits_page_of(self.map, leaf_slab))
        {
            self.report(FindingKind::Leaked { slab, leaf_slab }, block, byte);
            return Ok(());
        }
        self.map.set_owner(leaf_slab, Some(slab))?;
        totals.slabs_used = next(totals.slabs_used);
        // Bits that are not known are not missing.
        if !self.blind && !self.map.is_mapped(leaf_slab)? {
            self.report(FindingKind::Leaked { slab, leaf_slab }, block, byte);
        }
        if pages::has_bits(self.map, leaf_slab) {
            self.check_past_union(slab, leaf_slab)?;
        }
        Ok(())
    }

    /// Reports bits of the union's last slab after the union's end.
    fn check_past_union(&mut self, slab: u32, leaf_slab: LeafSlab) -> Result {
        let g = self.geometry();
        // A slab of the union begins before its end.
        let left = g.union_sectors().wrapping_sub(g.slab_start(slab));
        let sectors = g.slab_sectors();
        let offset = saturating_u32(left).min(sectors);
        let rest = sectors.wrapping_sub(offset);
        let run = self.map.mapped_run(leaf_slab, offset, rest)?;
        if !run.mapped && run.sectors == rest {
            return Ok(());
        }
        let block = self.block_of(bits_page_of(self.map, leaf_slab));
        let bit = g
            .first_data_sector(leaf_slab)
            .wrapping_add(u64::from(offset));
        let byte = saturating_u32((bit % BITS_SECTORS) / 8);
        self.report(FindingKind::BitsPastUnion { slab, leaf_slab }, block, byte);
        Ok(())
    }

    /// Checks every bit. Counts the bits of owned slabs, and reports other slabs in runs.
    pub(super) fn check_bits(&mut self, totals: &mut Totals) -> Result {
        let g = self.geometry();
        let mut held: Option<Range<LeafSlab>> = None;
        for page in 0..g.bits_pages() {
            if self.map.memory().bits(page).is_none() {
                continue;
            }
            let slabs = g.leaf_slabs_of(page);
            let end = slabs.end.min(LeafSlab(g.leaf_slabs()));
            for leaf_slab in LeafSlab::each(slabs.start..end) {
                if self.map.owner(leaf_slab).is_some() {
                    let n = self.count_mapped(leaf_slab)?;
                    // A sum over the sectors of the leaf.
                    totals.sectors_mapped = totals.sectors_mapped.wrapping_add(n);
                } else if !self.blind && self.map.is_mapped(leaf_slab)? {
                    held = match held {
                        Some(run) if run.end == leaf_slab => {
                            Some(run.start..leaf_slab.wrapping_add(1))
                        }
                        before => {
                            self.report_unowned(before);
                            Some(leaf_slab..leaf_slab.wrapping_add(1))
                        }
                    };
                }
            }
            if slabs.end > end {
                self.check_past_leaf(page)?;
            }
        }
        self.report_unowned(held);
        Ok(())
    }

    fn count_mapped(&self, leaf_slab: LeafSlab) -> Result<u64> {
        let words = self.geometry().slab_sectors().div_ceil(64);
        (0..words).try_fold(0u64, |sum, w| {
            let ones = self.map.word(leaf_slab, w)?.count_ones();
            // A sum over the sectors of a slab.
            Ok(sum.wrapping_add(u64::from(ones)))
        })
    }

    fn report_unowned(&mut self, run: Option<Range<LeafSlab>>) {
        let Some(run) = run else {
            return;
        };
        let g = self.geometry();
        let first = run.start;
        let count = run.end.steps_from(first);
        let block = self.block_of(bits_page_of(self.map, first));
        let bit = g.first_data_sector(first);
        let byte = saturating_u32((bit % BITS_SECTORS) / 8);
        self.report(FindingKind::Unowned { first, count }, block, byte);
    }

    /// Reports the first bit of a page after the bits of the leaf's last slab.
    fn check_past_leaf(&mut self, page: u32) -> Result {
        let from = first_bit_past_leaf(
            page,
            self.geometry().leaf_slabs(),
            self.geometry().slab_shift(),
        );
        // The caller has seen the page.
        let bits = self.map.memory().bits(page).ok_or(Error::Internal)?;
        let stray = bits.iter().enumerate().find_map(|(at, word)| {
            let word = word.load(Ordering::Acquire) & mask_from(at, from);
            (word != 0).then(|| number_of(at, word.trailing_zeros()))
        });
        if let Some(bit) = stray {
            let bit = bit.ok_or(Error::Internal)?;
            let block = self.block_of(self.geometry().bits_page(page));
            self.report(FindingKind::BitsPastLeaf { page }, block, bit / 8);
        }
        Ok(())
    }
}

/// Returns the first bit of a page that is after the leaf's last slab.
pub(super) fn first_bit_past_leaf(page: u32, leaf_slabs: u32, slab_shift: u32) -> u64 {
    let all = u64::from(leaf_slabs).wrapping_shl(slab_shift);
    // 0 for a page that is past the last slab as a whole.
    all.saturating_sub(u64::from(page).wrapping_mul(BITS_SECTORS))
}

/// Returns the bits of word `at` of a page from bit `from` of the page on.
pub(super) fn mask_from(at: usize, from: u64) -> u64 {
    let start = usize_as_u64(at).wrapping_mul(64);
    // 0 for a word that is past that bit as a whole.
    !mask(0, saturating_u32(from.saturating_sub(start).min(64)))
}

const _: () = assert!(u32_as_usize(BITS_WORDS) * 64 == BITS_SECTORS as usize);
