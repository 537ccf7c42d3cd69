// SPDX-License-Identifier: GPL-2.0

//! The losses of a union to damaged metadata, for the kernel's log and the ioctl; sysfs has the sums.
//! All of it is found at attach and stays.

use crate::{
    device::Union,
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
            narrow,
            wide,
            SECTOR_BYTES, //
        },
        salvage::{
            stretches,
            Damage,
            Lost,
            DAMAGES_KEPT, //
        }, //
    },
};
use core::format_args;
use kernel::prelude::*;

/// Stretches that are kept one by one: a page of memory for each union that has lost something.
const KEPT: usize = 256;
/// Of these, how many the kernel's log gets.
const LOGGED: usize = 8;

/// What cannot be read of a union.
pub(crate) struct Loss {
    /// First sectors and counts.
    kept: KVec<(u64, u64)>,
    /// Stretches behind those.
    more: u64,
    sectors: u64,
    damages: KVec<Damage>,
    blocks: u32,
}

fn room<T>(n: usize) -> Result<KVec<T>> {
    KVec::with_capacity(n, GFP_KERNEL).map_err(|_| Error::NoMemory)
}

impl Loss {
    /// What the map has marked as lost. Process context, may sleep for memory; gives way as `disk`
    /// does.
    pub(crate) fn new(
        disk: &mut impl Disk,
        map: &Map<MapMemory>,
        lost: &Lost<KVVec<u64>>,
    ) -> Result<Self> {
        let mut loss = Loss {
            kept: KVec::new(),
            more: 0,
            sectors: 0,
            damages: KVec::new(),
            blocks: lost.blocks(),
        };
        if loss.blocks == 0 {
            return Ok(loss);
        }
        loss.kept = room(KEPT)?;
        loss.damages = room(DAMAGES_KEPT)?;
        for damage in lost.kept().into_iter().flatten() {
            let _ = loss.damages.push_within_capacity(damage);
        }
        stretches(
            map,
            |_| false,
            || disk.give_way(),
            |first, count| {
                loss.sectors = loss.sectors.saturating_add(count);
                let full = loss.kept.len() == KEPT;
                if full || loss.kept.push_within_capacity((first, count)).is_err() {
                    loss.more = loss.more.saturating_add(1);
                }
            },
        )?;
        Ok(loss)
    }

    /// The sums, for the ioctl.
    pub(crate) fn damage(&self) -> abi::Damage {
        abi::Damage {
            blocks: self.blocks,
            sectors: self.sectors,
        }
    }

    /// How many stretches there are.
    pub(crate) fn stretches(&self) -> u64 {
        wide(self.kept.len()).saturating_add(self.more)
    }

    /// The first stretch that ends behind a sector.
    pub(crate) fn fill(&self, c: &mut abi::Lost) {
        let behind = |&&(first, count): &&(u64, u64)| first.saturating_add(count) > c.from;
        (c.sector, c.sectors) = self.kept.iter().find(behind).copied().unwrap_or_default();
        c.unnamed = self.more;
    }

    /// Says in the kernel's log what is damaged and what is lost by it, if anything is.
    pub(crate) fn tell(&self, union: &Union) {
        if self.blocks == 0 {
            return;
        }
        let (name, leaf) = (union.name(), &union.leaf);
        for damage in &self.damages {
            pr_err!("{}: leaf {}: {}\n", name, leaf, format_args!("{damage}"));
        }
        let more = self.blocks.saturating_sub(narrow(wide(self.damages.len())));
        if more > 0 {
            pr_err!("{name}: leaf {leaf}: and {more} more metadata blocks\n");
        }
        let lost = self.sectors.saturating_mul(SECTOR_BYTES);
        pr_warn!("{name}: leaf {leaf}: {lost} bytes of the union are lost: to read them fails\n");
        for (first, count) in self.kept.iter().take(LOGGED) {
            let last = first.saturating_add(*count).saturating_sub(1);
            pr_warn!("{name}: leaf {leaf}: lost are sectors {first} to {last}\n");
        }
        let rest = wide(self.kept.len().saturating_sub(LOGGED)).saturating_add(self.more);
        if rest > 0 {
            pr_warn!("{name}: leaf {leaf}: and {rest} more stretches\n");
        }
    }
}
