// SPDX-License-Identifier: GPL-2.0

//! Freeze: makes the leaf of a union a layer, and continues in a new leaf. The functions stand in
//! the order in which they run.
//!
//! A [`Union`] never changes what it lies on. So a freeze makes a second one, on the new leaf, and
//! puts it in the place of the first while no request is in flight.

use super::{
    attach::{
        self as union_attach,
        PreparedUnion, //
    },
    detach::{
        flush_reclaim,
        stop_work, //
    },
    merge::Merge,
    metadata_disk::{
        check_device,
        MetadataDisk, //
    },
    stack::{
        self,
        Room,
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
        GenDisk,
        Limits,
        LimitsBefore,
        Way, //
    },
    error::{
        open_error,
        to_core, //
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
            refuses_writes,
            Requests, //
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
    sync::{
        Arc,
        UniqueArc, //
    },
};

/// The new leaf, and the seal of the old one.
pub(crate) struct NewLeaf<'a> {
    pub(crate) leaf: &'a CStr,
    pub(crate) seal: Seal,
    /// Freeze the file systems on the disk meanwhile, so that they are clean in the layer.
    pub(crate) freeze_file_systems: bool,
}

/// How often at most the slabs that have changed are merged again before requests have to wait, and
/// how few of them need not be.
const ROUNDS_MAX: u32 = 8;
const FEW: u64 = 64;

/// How often at most the old leaf is opened for all to share, while a reader of sysfs or of STATUS
/// may still have the old union for a moment.
const CLAIMS_MAX: u32 = 100;

impl Attached {
    /// Makes the leaf a layer, and continues in a new leaf. If the call fails, the union is as it
    /// was, or read-only if the old leaf failed.
    ///
    /// Process context. One call at a time.
    pub(crate) fn freeze(&self, new: &NewLeaf<'_>, resources: &Arc<Resources>) -> Result {
        let old = self.union();
        if refuses_writes(&old.as_arc_borrow()) {
            return Err(Error::ReadOnlyLeaf);
        }
        let mut next = self.prepare(&old, new, resources)?;
        let room = Stacks::room(&resources.stacks)?;
        let merge = Merge::new(&old, &LayerId::Frozen(old.leaf.uuid, new.seal))?;
        flush_reclaim(&old);
        let mut merge = catch_up(&old, merge)?;
        let file_systems = if new.freeze_file_systems {
            let frozen = to_core(self.disk.freeze_file_systems())?;
            // What they have written until they were frozen.
            merge = catch_up(&old, merge)?;
            Some(frozen)
        } else {
            None
        };
        let replaced = self.disk.replace(
            || next.switch(&old, merge, room, new.seal),
            Error::Busy(Side::Leaf),
        );
        drop(file_systems);
        if replaced.is_err() {
            // The timer was cancelled. It commits what it would have committed, and can be armed
            // again.
            flush::timer_work(&old.as_arc_borrow());
        }
        let replaced = replaced?;
        // A call that queued or ended a request may have queued work of the old union until
        // `replace` has waited for it.
        stop_work(&old);
        let union = self.union();
        pr_info!(
            "{}: leaf {} is frozen and a layer now, {} layers, new leaf {}\n",
            union.name,
            old.lower.leaf,
            union.layer_count(),
            union.lower.leaf,
        );
        // The disk has the UUID of the new leaf now, and programs have links by it.
        union.events.frozen();
        // The last references to the old union, except for those of readers. Its claim on the old
        // leaf ends with them, and all unions can share the leaf from now on.
        drop((replaced, old));
        if let Err(e) = claim_top(&union) {
            // The union works. The next union on the layer claims it, or is refused.
            pr_warn!(
                "{}: the new layer is not claimed for all unions to share: {}\n",
                union.name,
                core::format_args!("{e}")
            );
        }
        Ok(())
    }

    /// Opens and checks the new leaf, makes its first checkpoint, and makes the disk fit for it.
    #[inline(never)]
    fn prepare(
        &self,
        old: &Union,
        new: &NewLeaf<'_>,
        resources: &Arc<Resources>,
    ) -> Result<Next<'_>> {
        let prepared = prepare_union(old, new, resources)?;
        let limits = limits_on(old, &prepared)?;
        let (wanted, found) = (self.disk.logical_block_size(), limits.logical_block_size());
        if found != wanted {
            return Err(Error::BlockSize(wanted, found));
        }
        // Nothing can refuse the leaf from here on, so it may be written to.
        let prepared = union_attach::first_checkpoint(prepared)?;
        let union = union_attach::new_union_for_freeze(old, prepared, resources)?;
        let mut next = Next {
            disk: &self.disk,
            union: None,
            limits: None,
        };
        to_core(self.disk.link(&union.lower.leaf))?;
        next.union = Some(union);
        let before = self.disk.set_limits(limits);
        if before.as_ref().is_err_and(|e| *e == EBUSY) {
            return Err(Error::Busy(Side::Leaf));
        }
        next.limits = Some(to_core(before)?);
        Ok(next)
    }
}

/// The union on the new leaf, without its stack, and what the disk has of it already. It is undone
/// when this is dropped with the union.
struct Next<'a> {
    disk: &'a GenDisk<Union>,
    union: Option<Pin<UniqueArc<Union>>>,
    limits: Option<LimitsBefore>,
}

impl Next<'_> {
    /// Stops the old union, merges into the stack what has changed last, and freezes the old leaf.
    /// The last step is the only point at which the change happens. Returns the new union.
    ///
    /// Runs while no request is in flight, and others wait.
    #[inline(never)]
    fn switch(
        &mut self,
        old: &Arc<Union>,
        merge: Merge,
        room: Room,
        seal: Seal,
    ) -> Result<Arc<Union>> {
        stop_work(old);
        let stack = room.add(merge.finish()?)?;
        let new = self.union.as_mut().ok_or(Error::Internal)?;
        new.as_mut().project().lower.stack = Some(stack);
        flush::freeze(&old.as_arc_borrow(), seal)?;
        Ok(self.union.take().ok_or(Error::Internal)?.into())
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        let Some(union) = self.union.take() else {
            return;
        };
        self.disk.unlink(&union.lower.leaf);
        let restored = self.limits.take().map(|l| self.disk.restore_limits(&l));
        if let Some(Err(e)) = restored {
            pr_warn!(
                "{}: its queue keeps the limits for the leaf {}, which is not used: error {}\n",
                union.name,
                union.lower.leaf,
                e.to_errno(),
            );
        }
    }
}

/// Makes what has changed few slabs, and stores it. Then little is left for the moment in which
/// requests wait.
fn catch_up(old: &Arc<Union>, mut merge: Merge) -> Result<Merge> {
    for _ in 0..ROUNDS_MAX {
        flush::checkpoint(&old.as_arc_borrow(), u64::MAX)?;
        let slabs;
        (merge, slabs) = merge.catch_up()?;
        if slabs <= FEW {
            break;
        }
    }
    Ok(merge)
}

/// Claims the highest layer of a union for all unions to share.
fn claim_top(union: &Arc<Union>) -> Result {
    let stack = union.lower.stack.as_deref().ok_or(Error::Internal)?;
    let mut done = stack.claim_top();
    for n in 0..CLAIMS_MAX {
        if !matches!(done, Err(Error::Busy(_))) {
            break;
        }
        union.as_arc_borrow().pause(n);
        done = stack.claim_top();
    }
    done
}

/// Opens and checks the new leaf. Writes nothing. Returns the union on it without its stack.
#[inline(never)]
fn prepare_union(old: &Union, new: &NewLeaf<'_>, resources: &Resources) -> Result<PreparedUnion> {
    let lower = open_new(old, new.leaf)?;
    let mut leaf = union_attach::probe(&lower)?;
    let sb = &leaf.probe.superblock;
    let g = &sb.geometry;
    let (wanted, found) = (old.geometry().union_sectors(), g.union_sectors());
    if found != wanted {
        return Err(Error::UnionSize(wanted, found));
    }
    let (wanted, found) = (old.geometry().root_sectors(), g.root_sectors());
    if found != wanted {
        return Err(Error::RootSize(wanted, found));
    }
    // The new leaf lies on what the old one lies on, and on the old one.
    let mut disk = MetadataDisk::new(&lower.leaf, &mut leaf.buffer);
    let listed = stack::listed_ids(&mut disk, sb)?;
    let below = old.lower.stack.as_deref();
    let (top, rest) = listed.split_last().ok_or(Error::LayerCount(1, 0))?;
    if *top != LayerId::Frozen(old.leaf.uuid, new.seal) || !is_chain_of(rest, below) {
        return Err(Error::LayerIdentity);
    }
    union_attach::check_and_load(old.name, lower, leaf, resources)
}

/// Returns the limits of the disk on the new leaf, the old one, and all below.
fn limits_on(old: &Union, prepared: &PreparedUnion) -> Result<Limits> {
    let mut limits = prepared.limits();
    let layers = Iterator::chain(old.lower.layer_devices(), [&old.lower.leaf]);
    for dev in layers {
        let stacked = limits.stack(dev, c"unionblk");
        stacked.map_err(|_| Error::Limits(Side::Layer))?;
    }
    let slab = u64::from(prepared.slab_sectors()).saturating_mul(SECTOR_BYTES);
    limits.offer_discard(saturating_u32(slab));
    Ok(limits)
}

/// Returns whether a list has the layers of a stack, so that both have one chain.
fn is_chain_of(listed: &[LayerId], below: Option<&Stack>) -> bool {
    let chain = Links::chain_of::<crate::sys::digest::Sha256>(listed);
    below.map_or(listed.is_empty(), |stack| stack.chain == chain)
}

/// Returns how lower I/O is sent when the union has one more device.
fn way_with(old: &Union, leaf: &BlockDevice) -> Way {
    let mut devices = Iterator::chain(old.lower.devices(), [leaf]);
    // The tags were made for the devices of the first union. If they do not let a lower driver
    // sleep where it takes requests, a worker sends bios.
    if devices.all(|dev| dev.accepts_clones() && (old.tags.may_sleep() || !dev.may_sleep())) {
        Way::Requests
    } else {
        Way::Bios
    }
}

/// Opens the new leaf, and the root once more.
fn open_new(old: &Union, path: &CStr) -> Result<Lower> {
    let leaf = BlockDevice::open_exclusive(path, true).map_err(|e| open_error(Side::Leaf, e))?;
    check_device(&leaf, Side::Leaf)?;
    if leaf.is_read_only() {
        return Err(Error::ReadOnlyLeaf);
    }
    if old.lower.devices().any(|dev| dev.overlaps(&leaf)) {
        return Err(Error::SameDevice);
    }
    let root = old.lower.root.as_ref().map(BlockDevice::again_shared);
    let root = root.transpose().map_err(|e| open_error(Side::Root, e))?;
    let mut paths = old.lower.paths.copied()?;
    abi::set_path(&mut paths.leaf, path.to_bytes()).ok_or(Error::Internal)?;
    let way = way_with(old, &leaf);
    Ok(Lower {
        root,
        leaf,
        stack: None,
        way,
        paths,
    })
}

impl super::Paths {
    /// Returns a copy.
    fn copied(&self) -> Result<KBox<Self>> {
        let copy = super::Paths {
            root: self.root,
            leaf: self.leaf,
        };
        to_core(KBox::new(copy, GFP_KERNEL).map_err(Into::into))
    }
}
