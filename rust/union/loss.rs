// SPDX-License-Identifier: GPL-2.0

//! The sectors of a union that are lost because metadata is damaged, for the kernel log and the
//! ioctl. sysfs shows the totals. The losses are determined at attach and do not change.

use super::Name;
use crate::{
    blk::BlockDevice,
    memory::MapMemory,
    ubcore::{
        abi,
        disk::Disk,
        error::{
            Error,
            Result, //
        },
        map::Map,
        num::{
            saturating_u32,
            usize_as_u64,
            SECTOR_BYTES, //
        },
        salvage::{
            lost_ranges,
            Damage,
            Lost,
            DAMAGES_KEPT, //
        }, //
    },
};
use core::format_args;
use kernel::prelude::*;

/// The number of ranges that are kept: a page of memory for each union with lost sectors.
const KEPT: usize = 256;
/// The number of these that are written to the kernel log.
const LOGGED: usize = 8;

/// The sectors of a union that cannot be read.
pub(super) struct Loss {
    /// The first ranges: first sector and count of each.
    kept: KVec<(u64, u64)>,
    /// The number of ranges after those.
    more: u64,
    sectors: u64,
    damages: KVec<Damage>,
    blocks: u32,
}

fn room<T>(n: usize) -> Result<KVec<T>> {
    KVec::with_capacity(n, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

impl Loss {
    /// Returns the loss of a leaf without damage.
    pub(super) const fn none() -> Self {
        Loss {
            kept: KVec::new(),
            more: 0,
            sectors: 0,
            damages: KVec::new(),
            blocks: 0,
        }
    }

    /// Collects the sectors that the map has marked as lost.
    ///
    /// Process context, may sleep for memory. Calls `disk.give_way()` at intervals.
    pub(super) fn new(
        disk: &mut impl Disk,
        map: &Map<MapMemory>,
        lost: &Lost<KVVec<u64>>,
    ) -> Result<Self> {
        let mut loss = Loss {
            blocks: lost.blocks(),
            ..Loss::none()
        };
        if loss.blocks == 0 {
            return Ok(loss);
        }
        loss.kept = room(KEPT)?;
        loss.damages = room(DAMAGES_KEPT)?;
        for damage in lost.kept().into_iter().flatten() {
            let _ = loss.damages.push_within_capacity(damage);
        }
        lost_ranges(
            map,
            |_| false,
            || disk.give_way(),
            |first, count| {
                loss.sectors = loss.sectors.saturating_add(count);
                // The vector may have room for more than was asked for.
                let full = loss.kept.len() == KEPT;
                if full || loss.kept.push_within_capacity((first, count)).is_err() {
                    loss.more = loss.more.saturating_add(1);
                }
            },
        )?;
        Ok(loss)
    }

    /// Returns the totals, for the ioctl.
    pub(super) fn totals(&self) -> abi::LossTotals {
        abi::LossTotals {
            blocks: self.blocks,
            sectors: self.sectors,
        }
    }

    /// Returns the number of ranges.
    pub(super) fn ranges(&self) -> u64 {
        usize_as_u64(self.kept.len()).saturating_add(self.more)
    }

    /// Fills in the first range that ends after `c.from`.
    pub(super) fn fill(&self, c: &mut abi::LostCall) {
        let ends_later = |&&(first, count): &&(u64, u64)| first.saturating_add(count) > c.from;
        // No sectors if there is no such range.
        (c.sector, c.sectors) = self
            .kept
            .iter()
            .find(ends_later)
            .map_or((0, 0), |&range| range);
        c.unnamed = self.more;
    }

    /// Logs the damage and the lost sectors, if there are any.
    pub(super) fn log(&self, name: Name, leaf: &BlockDevice) {
        if self.blocks == 0 {
            return;
        }
        for damage in &self.damages {
            pr_err!("{}: leaf {}: {}\n", name, leaf, format_args!("{damage}"));
        }
        let more = self
            .blocks
            .saturating_sub(saturating_u32(usize_as_u64(self.damages.len())));
        if more > 0 {
            pr_err!("{name}: leaf {leaf}: {more} more metadata blocks are damaged\n");
        }
        let lost = self.sectors.saturating_mul(SECTOR_BYTES);
        pr_warn!(
            "{name}: leaf {leaf}: {lost} bytes of the union are lost, and reads of them fail\n"
        );
        for (first, count) in self.kept.iter().take(LOGGED) {
            let last = first.saturating_add(*count).saturating_sub(1);
            pr_warn!("{name}: leaf {leaf}: sectors {first} to {last} are lost\n");
        }
        let rest = usize_as_u64(self.kept.len().saturating_sub(LOGGED)).saturating_add(self.more);
        if rest > 0 {
            pr_warn!("{name}: leaf {leaf}: {rest} more ranges of sectors are lost\n");
        }
    }
}
