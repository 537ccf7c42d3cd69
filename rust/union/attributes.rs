// SPDX-License-Identifier: GPL-2.0

//! The sysfs attributes of a union: `/sys/block/unionblkN/union/`.
//!
//! A reader must not wait for the leaf, because the attributes must be readable while the leaf
//! hangs. For this reason no attribute takes the committer's lock.
//! `Documentation/ABI/testing/sysfs-block-unionblk` describes each file. The words and numbers are
//! the same as in the ioctl interface.

use super::Union;
use crate::{
    blk::attributes::{
        Attribute,
        Attributes,
        Text, //
    },
    ubcore::{
        abi,
        num::SECTOR_BYTES, //
    },
};
use core::format_args;
use kernel::{
    fmt::{
        self,
        Write, //
    },
    prelude::*,
    str::BStr, //
};

pub(super) const ATTRIBUTES: Attributes<Union> = Attributes {
    directory: c"union",
    list: &[
        Attribute::new(c"root", |u, out| match u.lower.root {
            Some(_) => path(&u.lower.paths.root, out),
            None => Ok(()),
        }),
        Attribute::new(c"leaf", |u, out| path(&u.lower.paths.leaf, out)),
        Attribute::new(c"layers", |u, out| number(u.layer_count(), out)),
        Attribute::new(c"uuid", |u, out| uuid(&u.leaf.uuid, out)),
        Attribute::new(c"name", |u, out| {
            out.write_fmt(format_args!("{}", u.leaf.name))
        }),
        Attribute::new(c"mode", |u, out| out.write_str(abi::mode_word(u.mode()))),
        Attribute::new(c"discard", |u, out| {
            out.write_str(abi::discard_word(u.discard_policy()))
        }),
        Attribute::new(c"slab_size", |u, out| {
            let sectors = u64::from(u.geometry().slab_sectors());
            number(sectors.saturating_mul(SECTOR_BYTES), out)
        }),
        Attribute::new(c"slabs", |u, out| number(u.geometry().leaf_slabs(), out)),
        Attribute::new(c"slabs_used", |u, out| {
            number(u.allocator.lock().used(), out)
        }),
        Attribute::new(c"slabs_free", |u, out| {
            let allocator = u.allocator.lock();
            let free = allocator.limit().saturating_sub(allocator.used());
            drop(allocator);
            number(free, out)
        }),
        Attribute::new(c"first_writes", |u, out| {
            number(u.stats.first_writes(), out)
        }),
        Attribute::new(c"commits", |u, out| number(u.stats.commits(), out)),
        Attribute::new(c"checkpoints", |u, out| number(u.stats.checkpoints(), out)),
        Attribute::new(c"journal_blocks", |u, out| {
            number(u.geometry().journal_blocks(), out)
        }),
        Attribute::new(c"journal_used", |u, out| {
            number(u.stats.journal_used(), out)
        }),
        Attribute::new(c"dirty", |u, out| number(u32::from(!u.is_committed()), out)),
        Attribute::new(c"io_errors", |u, out| number(u.stats.io_errors(), out)),
        Attribute::new(c"damaged_blocks", |u, out| {
            number(u.loss.totals().blocks, out)
        }),
        Attribute::new(c"lost_sectors", |u, out| {
            number(u.loss.totals().sectors, out)
        }),
        Attribute::new(c"lost_ranges", |u, out| number(u.loss.ranges(), out)),
        Attribute::new(c"last_error", |u, out| match u.failure.as_ref() {
            Some((_, e)) => out.write_fmt(format_args!("{e}")),
            None => Ok(()),
        }),
    ],
};

fn number(n: impl Into<u64>, out: &mut Text<'_>) -> fmt::Result {
    let n: u64 = n.into();
    out.write_fmt(format_args!("{n}"))
}

/// Writes a path, with unprintable bytes escaped, so that a path cannot contain a line break.
fn path(field: &[u8; abi::PATH_BYTES], out: &mut Text<'_>) -> fmt::Result {
    let path = BStr::from_bytes(abi::path(field).ok_or(fmt::Error)?);
    out.write_fmt(fmt!("{path}"))
}

fn uuid(bytes: &[u8; 16], out: &mut Text<'_>) -> fmt::Result {
    for (n, b) in bytes.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            out.write_str("-")?;
        }
        out.write_fmt(format_args!("{b:02x}"))?;
    }
    Ok(())
}
