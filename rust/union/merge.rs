// SPDX-License-Identifier: GPL-2.0

//! Makes the stack that a union has when its leaf is frozen, while the union writes to the leaf.
//!
//! First the whole map of the leaf is merged. Then the slabs that have changed meanwhile are merged
//! again, which takes less time, so fewer slabs change. The last such round, when no request runs,
//! is short.

use super::{
    leaf_memory::changed_slabs,
    stack::{
        self,
        LayerDevice,
        Stack,
        UnionCount, //
    },
    Union, //
};
use crate::{
    stack_memory::StackPageLists,
    sys::digest::Sha256,
    ubcore::{
        error::{
            Error,
            Result,
            Role, //
        },
        stack::{
            build::Builder,
            chain::{
                ChainId,
                LayerId, //
            },
            changed_slabs::ChangedSlabs,
            leaf_extents::LeafExtents,
            map::STACK_SECTORS_MAX, //
        },
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

type NotedSlabs = ChangedSlabs<KVVec<u64>>;

/// The stack of a union's layers and its leaf, which is not frozen yet.
pub(super) struct Merge {
    changes: Changes,
    /// An empty set.
    spare: NotedSlabs,
    builder: Builder<StackPageLists>,
    layers: KVec<LayerDevice>,
    chain: ChainId,
    block_sectors: u32,
}

impl Merge {
    /// Merges the map of the leaf. `id` is the identity of the leaf as a layer. Process
    /// context.
    #[inline(never)]
    pub(super) fn new(union: &Arc<Union>, id: &LayerId) -> Result<Self> {
        let g = union.geometry();
        let sectors = g.union_sectors();
        if sectors > STACK_SECTORS_MAX {
            return Err(Error::TooLarge(Role::Layer, sectors));
        }
        let layers = layers_with_leaf(union)?;
        let spare = changed_slabs(g)?;
        let changes = Changes::note(union.clone())?;
        let below = union.lower.stack.as_deref();
        let memory = StackPageLists::new();
        let builder = match below {
            Some(below) => Builder::over(&below.map, memory, sectors),
            None => Builder::new(memory, sectors),
        };
        let builder = builder.map_err(stack::refusal_error)?;
        let extents = LeafExtents::new(&union.map, stack::give_way);
        let stack::Added {
            builder,
            block_sectors,
        } = stack::add_extents(builder, extents)?;
        Ok(Merge {
            changes,
            spare,
            builder,
            layers,
            chain: below
                .map_or(ChainId::BOTTOM, |below| below.chain)
                .with::<Sha256>(id),
            block_sectors: below.map_or(block_sectors, |below| {
                below.block_sectors.min(block_sectors)
            }),
        })
    }

    /// Merges again the slabs that have changed since the last call. Returns the number of slabs
    /// that were merged. Process context.
    pub(super) fn catch_up(self) -> Result<(Self, u64)> {
        let mut slabs = self.changes.exchange(self.spare)?;
        let (builder, count, block) = merge(&self.changes.0, self.builder, &mut slabs)?;
        let this = Merge {
            spare: slabs,
            builder: builder.trim().map_err(stack::refusal_error)?,
            block_sectors: self.block_sectors.min(block),
            ..self
        };
        Ok((this, count))
    }

    /// Merges the rest, and returns the stack. No request is in flight, and no work runs.
    #[inline(never)]
    pub(super) fn finish(self) -> Result<Stack> {
        let union = &self.changes.0;
        let mut slabs = self.changes.last()?;
        let (builder, _, block) = merge(union, self.builder, &mut slabs)?;
        Ok(Stack {
            layers: self.layers,
            map: builder.finish_at_once(),
            chain: self.chain,
            // A boundary that a later discard removed still counts. So `block_sectors` may be
            // smaller than the stack needs, and an attach to devices with larger blocks may be
            // refused until the stack is built again. No block is ever read from two sources.
            block_sectors: self.block_sectors.min(block),
            unions: UnionCount::new(),
        })
    }
}

fn merge(
    union: &Union,
    builder: Builder<StackPageLists>,
    slabs: &mut NotedSlabs,
) -> Result<(Builder<StackPageLists>, u64, u32)> {
    let merged = slabs.merge(
        builder,
        union.lower.stack_map(),
        &union.map,
        stack::give_way,
    );
    let merged = merged.map_err(stack::refusal_error)?;
    Ok((merged.builder, merged.count, merged.block_sectors))
}

/// Opens once more the layers of a union, and its leaf as the highest.
fn layers_with_leaf(union: &Union) -> Result<KVec<LayerDevice>> {
    let below = union.lower.stack.as_deref();
    let layers = below.map_or(&[][..], |stack| &stack.layers);
    let mut all = KVec::new();
    let reopened = layers.iter().map(LayerDevice::reopen);
    for layer in Iterator::chain(reopened, [LayerDevice::from_leaf(&union.lower.leaf)]) {
        all.push(layer?, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    }
    Ok(all)
}

/// The committer of a union notes which slabs change, until this is dropped.
struct Changes(Arc<Union>);

impl Changes {
    fn note(union: Arc<Union>) -> Result<Self> {
        let slabs = changed_slabs(union.geometry())?;
        let before = union
            .metadata
            .lock()
            .committer
            .replace_noted_slabs(Some(slabs));
        // There is one freeze of a union at a time.
        match before {
            None => Ok(Changes(union)),
            Some(_) => Err(Error::Internal),
        }
    }

    /// Makes the committer note the slabs in another set. Returns the set so far.
    fn exchange(&self, slabs: NotedSlabs) -> Result<NotedSlabs> {
        let so_far = self
            .0
            .metadata
            .lock()
            .committer
            .replace_noted_slabs(Some(slabs));
        so_far.ok_or(Error::Internal)
    }

    /// Returns the set so far, and all slabs that have a mark. Under one lock, because a commit in
    /// between would clear the marks without noting them. No request is in flight.
    fn last(&self) -> Result<NotedSlabs> {
        let mut metadata = self.0.metadata.lock();
        let so_far = metadata.committer.replace_noted_slabs(None);
        let mut slabs = so_far.ok_or(Error::Internal)?;
        slabs.add_marked(&self.0.map)?;
        Ok(slabs)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let slabs = self.0.metadata.lock().committer.replace_noted_slabs(None);
        // Free the memory only after the lock is released.
        drop(slabs);
    }
}
