// SPDX-License-Identifier: GPL-2.0

//! Freeze: makes the leaf of a union a layer, and continues in a new leaf.
//!
//! A [`Union`] never changes what it lies on. So a freeze makes a second one, on the new leaf, and
//! makes it the queue data of the disk while no request is in flight.

use super::{
    attach::{
        self as union_attach,
        PreparedUnion, //
    },
    detach::{
        close,
        flush_reclaim,
        stop_work, //
    },
    merge::Merge,
    metadata_disk::MetadataDisk,
    open::open_leaf,
    stack::{
        self,
        Stack,
        StackReservation,
        Stacks, //
    },
    Attached,
    LayerCount,
    LowerDevices,
    Union, //
};
use crate::{
    blk::{
        BlockDevice,
        GenDisk,
        Limits,
        LimitsBefore,
        SendAs, //
    },
    error::{
        open_error,
        to_core, //
    },
    resources::Resources,
    sys::mm::NoIo,
    ubcore::{
        abi,
        error::{
            Error,
            Result,
            Role, //
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
    sync::{
        Arc,
        UniqueArc, //
    },
};

/// The options of a freeze.
pub(crate) struct FreezeOptions<'a> {
    /// The path of the new leaf.
    pub(crate) leaf: &'a CStr,
    /// The seal of the old leaf.
    pub(crate) seal: Seal,
    /// Freeze the file systems on the disk meanwhile, so that they are consistent in the layer.
    pub(crate) freeze_file_systems: bool,
}

/// The maximum number of rounds of [`merge_until_few`].
const ROUNDS_MAX: u32 = 8;
/// A round that merges at most this many slabs is the last one.
const FEW_SLABS: u64 = 64;

impl Attached {
    /// Makes the leaf a layer, and continues in a new leaf. If the call fails, the union is as it
    /// was, or read-only if the old leaf failed.
    ///
    /// Process context. One call at a time.
    pub(crate) fn freeze(&self, new: &FreezeOptions<'_>, resources: &Arc<Resources>) -> Result {
        let old = self.union();
        if refuses_writes(&old.as_arc_borrow()) {
            return Err(Error::ReadOnlyUnion);
        }
        let checked = self.check(&old, new, resources)?;
        let reservation = Stacks::reserve(&resources.stacks)?;
        // This opens the old leaf as a layer, so that the open cannot fail after the commit point.
        let merge = Merge::new(&old, &LayerId::Frozen(old.leaf.uuid, new.seal))?;
        let mut next = self.prepare(&old, checked, resources)?;
        flush_reclaim(&old);
        let mut merge = merge_until_few(&old, merge)?;
        let file_systems = if new.freeze_file_systems {
            let frozen = to_core(self.disk.freeze_file_systems())?;
            // An allocation must not wait for a frozen file system.
            let no_io = NoIo::new();
            // Merge what the file systems wrote until they were frozen.
            merge = merge_until_few(&old, merge)?;
            Some((frozen, no_io))
        } else {
            None
        };
        let replaced = self.disk.replace_queue_data(
            || next.switch(&old, merge, reservation, new.seal),
            Error::RequestsInFlight,
        );
        drop(file_systems);
        if replaced.is_err() {
            // If `switch` ran, it cancelled the timer, but the union still counts the timer as
            // armed. Do the work of the timer here, so that the next change arms the timer again.
            flush::timer_work(&old.as_arc_borrow());
        }
        let replaced = replaced?;
        // Until `replace_queue_data` had waited for them, threads that queued or ended a request
        // could queue work of the old union.
        stop_work(&old);
        let union = self.union();
        pr_info!(
            "{}: leaf {} is frozen and a layer now, {}, new leaf {}\n",
            union.name,
            old.lower.leaf,
            LayerCount(union.layer_count()),
            union.lower.leaf,
        );
        // The disk has the UUID of the new leaf now, and programs have links by it.
        union.events.frozen();
        drop(replaced);
        // With the old union its exclusive claim on the old leaf ends, and all unions can share the
        // leaf as a layer when this call has answered.
        close(old);
        Ok(())
    }

    /// Opens the new leaf and checks that it can take the place of the old one. Writes nothing.
    #[inline(never)]
    fn check(
        &self,
        old: &Union,
        new: &FreezeOptions<'_>,
        resources: &Resources,
    ) -> Result<CheckedLeaf> {
        let prepared = prepare_union(old, new, resources)?;
        let limits = limits_on(old, &prepared)?;
        let (wanted, found) = (self.disk.logical_block_size(), limits.logical_block_size());
        if found != wanted {
            return Err(Error::BlockSize(wanted, found));
        }
        Ok(CheckedLeaf { prepared, limits })
    }

    /// Makes the first checkpoint of the new leaf, and makes the disk fit for it. Nothing can
    /// refuse the leaf any more, so it may be written to.
    #[inline(never)]
    fn prepare(
        &self,
        old: &Union,
        checked: CheckedLeaf,
        resources: &Arc<Resources>,
    ) -> Result<Next<'_>> {
        let CheckedLeaf { prepared, limits } = checked;
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
            return Err(Error::RequestsInFlight);
        }
        next.limits = Some(to_core(before)?);
        Ok(next)
    }
}

/// The new leaf, still without a write to it, and the limits of a disk on it.
struct CheckedLeaf {
    prepared: PreparedUnion,
    limits: Limits,
}

/// The union on the new leaf, still without its stack, and the changes of the disk for it. If this
/// is dropped with the union, the changes are undone.
struct Next<'a> {
    disk: &'a GenDisk<Union>,
    union: Option<Pin<UniqueArc<Union>>>,
    limits: Option<LimitsBefore>,
}

impl Next<'_> {
    /// Stops the work of the old union, merges the last changes, and freezes the old leaf. Returns
    /// the new union. The old leaf changes only in the last step, so after an error before that
    /// step the old union continues.
    ///
    /// Context: no request is in flight, and new ones wait.
    #[inline(never)]
    fn switch(
        &mut self,
        old: &Arc<Union>,
        merge: Merge,
        reservation: StackReservation,
        seal: Seal,
    ) -> Result<Arc<Union>> {
        stop_work(old);
        let stack = reservation.fill(merge.finish()?)?;
        let new = self.union.as_mut().ok_or(Error::Internal)?;
        new.as_mut().project().lower.stack = Some(stack);
        flush::freeze(&old.as_arc_borrow(), seal)?;
        // A thread that queued a request may have queued reclaim since. From now on no reclaim
        // begins, and one that has begun must not wait for requests of the new union.
        flush_reclaim(old);
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
                "{}: cannot restore the limits of the queue (error {}): they still include leaf \
                 {}, which is not used\n",
                union.name,
                e.to_errno(),
                union.lower.leaf,
            );
        }
    }
}

/// Commits and merges in rounds until few changed slabs are left, so that requests wait only
/// briefly in [`Next::switch`].
fn merge_until_few(old: &Arc<Union>, mut merge: Merge) -> Result<Merge> {
    for _ in 0..ROUNDS_MAX {
        flush::checkpoint(&old.as_arc_borrow(), u64::MAX)?;
        let slabs;
        (merge, slabs) = merge.catch_up()?;
        if slabs <= FEW_SLABS {
            break;
        }
    }
    Ok(merge)
}

/// Opens and checks the new leaf. Writes nothing. Returns the union on it without its stack.
#[inline(never)]
fn prepare_union(
    old: &Union,
    new: &FreezeOptions<'_>,
    resources: &Resources,
) -> Result<PreparedUnion> {
    let lower = open_new(old, new.leaf, resources)?;
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
    // `open_new` opens no layers, so the failure is about none.
    union_attach::check_and_load(old.name, lower, leaf, resources).map_err(|failed| failed.error)
}

/// Returns the limits of the disk on the new leaf, the old one, and all below.
fn limits_on(old: &Union, prepared: &PreparedUnion) -> Result<Limits> {
    let mut limits = prepared.limits();
    let layers = Iterator::chain(old.lower.layer_devices(), [&old.lower.leaf]);
    for dev in layers {
        let stacked = limits.stack(dev, c"unionblk");
        stacked.map_err(|_| Error::Limits(Role::Layer))?;
    }
    let slab = u64::from(prepared.slab_sectors()).saturating_mul(SECTOR_BYTES);
    limits.offer_discard(saturating_u32(slab));
    Ok(limits)
}

/// Returns whether the listed layers have the chain of the stack.
fn is_chain_of(listed: &[LayerId], below: Option<&Stack>) -> bool {
    let chain = Links::chain_of::<crate::sys::digest::Sha256>(listed);
    below.map_or(listed.is_empty(), |stack| stack.chain == chain)
}

/// Returns how lower I/O is sent when the union has one more device.
fn send_as_with(old: &Union, leaf: &BlockDevice) -> SendAs {
    let mut devices = Iterator::chain(old.lower.devices(), [leaf]);
    // The tags were made for the devices of the first union. If they do not let a lower driver
    // sleep where it takes requests, a worker sends bios.
    if devices.all(|dev| dev.accepts_clones() && (old.tags.may_sleep() || !dev.may_sleep())) {
        SendAs::Requests
    } else {
        SendAs::Bios
    }
}

/// Opens the new leaf, and the root once more.
fn open_new(old: &Union, path: &CStr, resources: &Resources) -> Result<LowerDevices> {
    let leaf = open_leaf(path, &resources.claims, true, old.lower.devices())?;
    let root = old.lower.root.as_ref().map(BlockDevice::again_shared);
    let root = root.transpose().map_err(|e| open_error(Role::Root, e))?;
    let mut paths = old.lower.paths.copied()?;
    abi::set_path(&mut paths.leaf, path.to_bytes()).ok_or(Error::Internal)?;
    let send_as = send_as_with(old, &leaf);
    Ok(LowerDevices {
        root,
        leaf,
        stack: None,
        send_as,
        paths,
    })
}

impl super::Paths {
    /// Returns a copy.
    pub(super) fn copied(&self) -> Result<KBox<Self>> {
        let copy = super::Paths {
            root: self.root,
            leaf: self.leaf,
        };
        to_core(KBox::new(copy, GFP_KERNEL).map_err(Into::into))
    }
}
