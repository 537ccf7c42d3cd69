// SPDX-License-Identifier: GPL-2.0

//! Freeze: makes the leaf of a union a layer, and continues in a new leaf. The functions stand in
//! the order in which they run.
//!
//! A [`Union`] never changes what it lies on. So a freeze makes a second one, on the new leaf, and
//! puts it in the place of the first while no request is in flight.

use super::{
    attach::{
        self as union_attach,
        check_identity,
        Pair, //
    },
    detach::{
        flush_reclaim,
        stop_work, //
    },
    leaf_disk::LeafDisk,
    stack::{
        self,
        Layer,
        Stack,
        Stacks, //
    },
    Attached,
    Lower,
    Union, //
};
use crate::{
    blk::{
        BlockDevice,
        Limits,
        Way, //
    },
    error::{
        open,
        os, //
    },
    resources::Resources,
    ubcore::{
        abi,
        error::{
            Error,
            Result,
            Side, //
        },
        num::{
            saturating_u32,
            SECTOR_BYTES, //
        },
        protocol::{
            flush,
            refuses_writes, //
        },
        stack::chain::{
            LayerId,
            Links,
            Seal, //
        },
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The new leaf, and the seal of the old one.
pub(crate) struct NewLeaf<'a> {
    pub(crate) leaf: &'a CStr,
    pub(crate) seal: Seal,
    /// Freeze the file systems on the disk meanwhile, so that they are clean in the layer.
    pub(crate) freeze_file_systems: bool,
}

/// All that a freeze needs, prepared while requests run.
struct Prepared {
    /// The new leaf, without its stack.
    pair: Pair,
    /// The layers of the new stack: the layers of the old one, and the old leaf.
    layers: KVec<Layer>,
    /// The limits of the disk with the new leaf.
    limits: Limits,
}

impl Attached {
    /// Makes the leaf a layer, and continues in a new leaf. If the call fails, the union is as it
    /// was, or read-only if the old leaf failed.
    ///
    /// Process context.
    pub(crate) fn freeze(&mut self, new: &NewLeaf<'_>, resources: &Arc<Resources>) -> Result {
        let old = self.union.clone();
        if refuses_writes(&old.as_arc_borrow()) {
            return Err(Error::ReadOnlyLeaf);
        }
        let prepared = prepare(&old, new, resources)?;
        let Prepared {
            pair,
            layers,
            limits,
        } = prepared;
        if limits.logical_block_size() != self.disk.logical_block_size() {
            return Err(Error::Limits(Side::Leaf));
        }
        // What is done and stored now need not be while requests wait.
        flush_reclaim(&old);
        flush::checkpoint(&old.as_arc_borrow(), u64::MAX)?;
        let file_systems = if new.freeze_file_systems {
            Some(os(self.disk.freeze_file_systems())?)
        } else {
            None
        };
        if file_systems.is_some() {
            // What they have written until they were frozen.
            flush::checkpoint(&old.as_arc_borrow(), u64::MAX)?;
        }
        let prepared = (pair, layers);
        let replaced = self.disk.replace(
            || switch(&old, prepared, new.seal, resources),
            Error::Busy(Side::Leaf),
        );
        drop(file_systems);
        if replaced.is_ok() {
            self.union = self.disk.driver();
            // A call that queued or ended a request may have queued work of the old union until
            // `replace` has waited for it.
            stop_work(&old);
        } else {
            // The timer was cancelled. It commits what it would have committed, and can be armed
            // again.
            flush::timer_work(&old.as_arc_borrow());
        }
        // The links are gone in either case.
        let linked = self.show_links();
        let replaced = replaced?;
        let union = &self.union;
        pr_info!(
            "{}: leaf {} is frozen and a layer now, {} layers, new leaf {}\n",
            union.name,
            old.lower.leaf,
            union.layers(),
            union.lower.leaf,
        );
        // The last references to the old union. Its claim on the old leaf ends here, and all unions
        // can share the leaf from now on.
        drop((replaced, old));
        let stack = union.lower.stack.as_ref();
        let claimed = stack.map_or(Ok(()), |stack| stack.claim_top());
        let limited = os(self.disk.set_limits(limits));
        if let Err(e) = claimed.and(linked).and(limited) {
            // The union works. The next union on the layer claims it, or is refused.
            pr_warn!(
                "{}: not all of what a freeze changes is in place: {}\n",
                union.name,
                core::format_args!("{e}")
            );
        }
        Ok(())
    }
}

/// Opens and checks the new leaf, and makes its first checkpoint.
#[inline(never)]
fn prepare(old: &Union, new: &NewLeaf<'_>, resources: &Arc<Resources>) -> Result<Prepared> {
    let lower = open_new(old, new.leaf)?;
    let mut buffer = LeafDisk::new_buffer()?;
    let probe = union_attach::probe(&lower, &mut buffer)?;
    let g = &probe.superblock.geometry;
    if g.union_sectors() != old.geometry().union_sectors() {
        return Err(Error::Limits(Side::Leaf));
    }
    let (wanted, found) = (old.geometry().root_sectors(), g.root_sectors());
    if found != wanted {
        return Err(Error::RootSize(wanted, found));
    }
    if let Some(root) = &lower.root {
        check_identity(root, &probe.superblock, &mut buffer)?;
    }
    // The new leaf lies on what the old one lies on, and on the old one.
    let mut disk = LeafDisk::new(&lower.leaf, &mut buffer);
    let listed = stack::listed_ids(&mut disk, &probe.superblock)?;
    let below = old.lower.stack.as_deref();
    let (top, rest) = listed.split_last().ok_or(Error::LayerCount(1, 0))?;
    if *top != LayerId::Frozen(old.leaf.uuid, new.seal) || !is_chain_of(rest, below) {
        return Err(Error::LayerIdentity);
    }
    let name = old.name;
    let pair = union_attach::load(name, lower, (probe, buffer), resources)?;
    let pair = union_attach::first_checkpoint(pair)?;
    let layers = stack::with_leaf(&old.lower)?;
    let mut limits = pair.limits();
    for dev in old.lower.layers() {
        let stacked = limits.stack(dev, c"unionblk");
        stacked.map_err(|_| Error::Limits(Side::Layer))?;
    }
    let stacked = limits.stack(&old.lower.leaf, c"unionblk");
    stacked.map_err(|_| Error::Limits(Side::Layer))?;
    let slab = u64::from(pair.slab_sectors()).saturating_mul(SECTOR_BYTES);
    limits.offer_discard(saturating_u32(slab));
    Ok(Prepared {
        pair,
        layers,
        limits,
    })
}

/// Returns whether a list has the layers of a stack, so that both have one chain.
fn is_chain_of(listed: &[LayerId], below: Option<&Stack>) -> bool {
    let chain = Links::chain_of::<crate::sys::digest::Sha256>(listed);
    below.map_or(listed.is_empty(), |stack| stack.chain() == chain)
}

/// Opens the new leaf, and the root once more.
fn open_new(old: &Union, path: &CStr) -> Result<Lower> {
    let leaf = BlockDevice::open_exclusive(path, true).map_err(|e| open(Side::Leaf, e))?;
    if leaf.is_own() {
        return Err(Error::Stacked(Side::Leaf));
    }
    if leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    if old.lower.devices().any(|dev| dev.overlaps(&leaf)) {
        return Err(Error::SameDevice);
    }
    let root = old.lower.root.as_ref().map(BlockDevice::again_shared);
    let root = root.transpose().map_err(|e| open(Side::Root, e))?;
    let mut paths = old.lower.paths.copied()?;
    abi::set_path(&mut paths.leaf, path.to_bytes()).ok_or(Error::Internal)?;
    Ok(Lower {
        root,
        leaf,
        stack: None,
        way: old.lower.way,
        paths,
    })
}

/// Stops the old union, merges its map into that of the layers, makes the new union, and freezes
/// the old leaf. The last step is the only point at which the change happens.
///
/// Runs while no request is in flight.
#[inline(never)]
fn switch(
    old: &Arc<Union>,
    (mut pair, layers): (Pair, KVec<Layer>),
    seal: Seal,
    resources: &Arc<Resources>,
) -> Result<Arc<Union>> {
    stop_work(old);
    let id = LayerId::Frozen(old.leaf.uuid, seal);
    let merged = stack::merge(old.lower.stack.as_deref(), &old.map, layers, &id)?;
    pair.lower.stack = Some(Stacks::add(&resources.stacks, merged)?);
    pair.lower.way = union_attach::way_of(&pair.lower);
    // The tags were made for the devices of the first union. If they do not let a lower driver
    // sleep where it takes requests, a worker sends bios.
    if !old.tags.may_sleep() && pair.lower.devices().any(BlockDevice::may_sleep) {
        pair.lower.way = Way::Bios;
    }
    let new = union_attach::union_after(old, pair, resources)?;
    flush::freeze(&old.as_arc_borrow(), seal)?;
    Ok(new)
}

impl super::Paths {
    /// Returns a copy.
    fn copied(&self) -> Result<KBox<Self>> {
        let copy = super::Paths {
            root: self.root,
            leaf: self.leaf,
        };
        os(KBox::new(copy, GFP_KERNEL).map_err(Into::into))
    }
}
