// SPDX-License-Identifier: GPL-2.0

//! A stack of layers, and the list of all stacks. All unions on the same layers share one stack:
//! its devices are opened once, and its map is built once.

use super::{
    attach::Failed,
    leaf_memory::Empty, //
    metadata_disk::{
        MetadataBuffer,
        MetadataDisk, //
    },
};
use crate::{
    blk::BlockDevice,
    error::open_error,
    memory::{
        MapMemory,
        Reserve, //
    },
    resources::Resources,
    stack_memory::StackPageLists,
    sys::{
        digest::Sha256,
        mm::NoIo, //
    },
    ubcore::{
        abi, attach,
        error::{
            Error,
            Result,
            Side, //
        },
        format::superblock::Superblock,
        geometry::{
            Geometry,
            BLOCK_BYTES,
            BLOCK_SECTORS, //
        },
        map::Map,
        num::{
            u32_as_usize,
            usize_as_u64,
            SECTOR_BYTES, //
        },
        sealed::{
            fault::Fault,
            header::Header,
            open::{
                open,
                Sealed,
                SealedExtents, //
            }, //
        },
        stack::{
            build::{
                Builder,
                Refusal, //
            },
            chain::{
                ChainId,
                LayerId,
                Links,
                StandIn, //
            },
            extent::{
                Blocks,
                Extents, //
            },
            leaf_extents::LeafExtents,
            listed,
            map::StackMap,
            place::LayerSector, //
        },
    },
};
use core::mem::MaybeUninit;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce,
        UniqueArc, //
    },
};

/// The largest union of a layer: 64 TiB. The list of the map's pages has 8 bytes for each 32 MiB up
/// to the last sector that a layer maps, and a layer says itself how large it is.
pub(super) const SECTORS_MAX: u64 = 1 << 37;

/// The device of a layer of a stack.
pub(crate) struct LayerDevice {
    pub(super) device: BlockDevice,
    /// The sector at which the layer begins.
    offset: u64,
    /// Whether `device` keeps others from claiming the device.
    is_claimed: bool,
    /// Does so otherwise.
    claim: SetOnce<BlockDevice>,
}

impl LayerDevice {
    /// Opens the layer once more.
    pub(super) fn again(&self) -> Result<Self> {
        let device = self.device.again_shared();
        Ok(LayerDevice {
            device: device.map_err(|e| open_error(Side::Layer, e))?,
            offset: self.offset,
            is_claimed: true,
            claim: SetOnce::new(),
        })
    }

    /// Opens the leaf of a union, which still writes to it, as the layer that it will be. It cannot
    /// be shared yet.
    pub(super) fn of_leaf(leaf: &BlockDevice) -> Result<Self> {
        let device = leaf.again_plain();
        Ok(LayerDevice {
            device: device.map_err(|e| open_error(Side::Layer, e))?,
            offset: 0,
            is_claimed: false,
            claim: SetOnce::new(),
        })
    }
}

/// What a layer was found to be.
struct LayerInfo {
    id: LayerId,
    /// What a sealed layer stands for.
    stand_in: Option<StandIn>,
    /// The size of the layer's union.
    sectors: u64,
    /// What a frozen leaf was made on: the chain of its layers, and the size of its root.
    made_on: Option<(ChainId, u64)>,
    form: Form,
}

/// The form of a layer on its device.
enum Form {
    Frozen,
    Sealed(Header),
}

impl LayerDevice {
    /// Returns the layer as the core's disk, which counts from the start of the layer.
    fn disk<'a>(&'a self, buffer: &'a mut MetadataBuffer) -> MetadataDisk<'a> {
        MetadataDisk::of_layer(&self.device, self.offset, buffer)
    }

    /// Returns the sectors of the device from the start of the layer on.
    fn sectors(&self) -> u64 {
        // An offset past the end leaves nothing.
        self.device.sectors().saturating_sub(self.offset)
    }
}

/// The layers of a stack, the lowest first, and their map. It never changes.
pub(crate) struct Stack {
    pub(super) layers: KVec<LayerDevice>,
    pub(super) map: StackMap<StackPageLists>,
    pub(super) chain: ChainId,
    /// No block of so many sectors, a power of two, comes from more than one place.
    pub(super) block_sectors: u32,
}

impl Stack {
    /// Returns the device and the sector of a place in a layer. There is no such layer only if a
    /// rule of the map does not hold.
    #[inline]
    pub(super) fn place(&self, at: LayerSector) -> Option<(&BlockDevice, u64)> {
        let layer = self.layers.get(usize::from(at.layer()))?;
        // A device has fewer than 2^55 sectors, and the builder checked the extents' places.
        Some((&layer.device, at.sector().wrapping_add(layer.offset)))
    }

    /// Returns whether this is the stack of these layers, on the same devices.
    fn is_of(&self, chain: ChainId, layers: &[LayerDevice]) -> bool {
        let pairs = || self.layers.iter().zip(layers);
        self.chain == chain
            && self.layers.len() == layers.len()
            && pairs().all(|(a, b)| a.device.is_same(&b.device) && a.offset == b.offset)
    }

    /// Makes sure that all unions share the device of the highest layer. After a freeze it is read
    /// without a claim, until the union that wrote to it has closed it. Fails with `Busy` if
    /// another holder has the device.
    pub(super) fn claim_top(&self) -> Result {
        let top = self.layers.last().ok_or(Error::Internal)?;
        if top.is_claimed || top.claim.as_ref().is_some() {
            return Ok(());
        }
        let claim = top
            .device
            .again_shared()
            .map_err(|e| open_error(Side::Layer, e))?;
        top.claim.populate(claim);
        Ok(())
    }

    /// Fails if a block of `bytes` would come from more than one place.
    pub(super) fn check_blocks(&self, bytes: u32) -> Result {
        if u64::from(bytes) > u64::from(self.block_sectors).saturating_mul(SECTOR_BYTES) {
            return Err(Error::FineMap(bytes));
        }
        Ok(())
    }
}

/// A stack that unions use, and how many of them.
struct Listed {
    stack: Arc<Stack>,
    unions: u32,
}

/// The stacks of all unions.
#[pin_data]
pub(crate) struct Stacks {
    /// Held for a look at the list. Devices are opened and closed, and maps built, without it.
    #[pin]
    list: Mutex<KVec<Listed>>,
}

impl Stacks {
    /// Returns an empty list.
    pub(crate) fn new() -> kernel::error::Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "unionblk stacks"),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns a use of the stack of these layers, if a union uses it already.
    fn find(this: &Arc<Self>, chain: ChainId, layers: &[LayerDevice]) -> Option<StackUse> {
        let stack = use_listed(&mut this.list.lock(), chain, layers)?;
        let stacks = this.clone();
        Some(StackUse { stack, stacks })
    }

    /// Returns room for one stack.
    pub(super) fn room(this: &Arc<Self>) -> Result<Room> {
        let stack = UniqueArc::new_uninit(GFP_KERNEL).map_err(|_| Error::NoMemory)?;
        let no_io = NoIo::new();
        let reserved = this.list.lock().reserve(1, GFP_KERNEL);
        drop(no_io);
        reserved.map_err(|_| Error::NoMemory)?;
        let stacks = this.clone();
        Ok(Room { stack, stacks })
    }

    /// Adds a stack. If another attach has added the same one meanwhile, returns a use of that.
    fn add(this: &Arc<Self>, stack: Arc<Stack>) -> Result<StackUse> {
        let listed = Listed {
            stack: stack.clone(),
            unions: 1,
        };
        // A freeze takes the lock while requests of its disk wait. So memory for the list must not
        // wait for I/O, which could be to that disk.
        let no_io = NoIo::new();
        let mut list = this.list.lock();
        let stack = match use_listed(&mut list, stack.chain, &stack.layers) {
            Some(found) => found,
            None => {
                list.push(listed, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
                stack
            }
        };
        drop(list);
        drop(no_io);
        let stacks = this.clone();
        Ok(StackUse { stack, stacks })
    }
}

/// Room for a stack and for its place on the list.
pub(super) struct Room {
    stack: UniqueArc<MaybeUninit<Stack>>,
    stacks: Arc<Stacks>,
}

impl Room {
    /// Adds a stack to the list. Waits for no I/O. Allocates nothing, unless another stack has
    /// taken the place on the list meanwhile.
    pub(super) fn add(self, stack: Stack) -> Result<StackUse> {
        Stacks::add(&self.stacks, self.stack.write(stack).into())
    }
}

/// Adds a union to those of the stack of these layers, if it is on the list.
fn use_listed(list: &mut [Listed], chain: ChainId, layers: &[LayerDevice]) -> Option<Arc<Stack>> {
    let found = list.iter_mut().find(|l| l.stack.is_of(chain, layers))?;
    found.unions = found.unions.saturating_add(1);
    Some(found.stack.clone())
}

/// The use of a stack by one union.
pub(crate) struct StackUse {
    stack: Arc<Stack>,
    stacks: Arc<Stacks>,
}

impl core::ops::Deref for StackUse {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl StackUse {
    /// Returns how many unions use the stack.
    pub(super) fn unions(&self) -> u32 {
        let list = self.stacks.list.lock();
        let ours = list.iter().find(|l| Arc::ptr_eq(&l.stack, &self.stack));
        ours.map_or(0, |l| l.unions)
    }

    /// Returns the memory of the stack's map, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.map.memory().bytes()
    }
}

impl Drop for StackUse {
    fn drop(&mut self) {
        let mut list = self.stacks.list.lock();
        let at = list.iter().position(|l| Arc::ptr_eq(&l.stack, &self.stack));
        let Some((at, listed)) = at.and_then(|at| Some((at, list.get_mut(at)?))) else {
            return;
        };
        listed.unions = listed.unions.saturating_sub(1);
        let last = if listed.unions == 0 {
            list.remove(at).ok()
        } else {
            None
        };
        // Close the devices only after the lock is released.
        drop(list);
        drop(last);
    }
}

/// Opens the layers that the caller of the attach gave, the lowest first.
pub(super) fn open_layers(given: &[abi::Layer]) -> core::result::Result<KVec<LayerDevice>, Failed> {
    let mut layers = KVec::new();
    for (n, layer) in (1..).zip(given) {
        let opened = give_way()
            .and_then(|()| open_layer(layer))
            .and_then(|layer| layers.push(layer, GFP_KERNEL).map_err(|_| Error::NoMemory));
        opened.map_err(|error| Failed::of_layer(error, n))?;
    }
    Ok(layers)
}

fn open_layer(given: &abi::Layer) -> Result<LayerDevice> {
    // The caller has checked that the path ends.
    let path = CStr::from_bytes_until_nul(&given.path).map_err(|_| Error::Internal)?;
    let device = BlockDevice::open_shared(path).map_err(|e| open_error(Side::Layer, e))?;
    if device.is_own() {
        return Err(Error::Stacked(Side::Layer));
    }
    if u32_as_usize(device.logical_block_size()) > BLOCK_BYTES {
        return Err(Error::Limits(Side::Layer));
    }
    // The driver reads whole blocks of a layer.
    if given.offset % usize_as_u64(BLOCK_BYTES) != 0 {
        return Err(Error::Limits(Side::Layer));
    }
    Ok(LayerDevice {
        device,
        offset: given.offset / SECTOR_BYTES,
        is_claimed: true,
        claim: SetOnce::new(),
    })
}

/// Checks that the layers are the ones that the leaf lists, and returns their stack. Without layers
/// there is none.
pub(super) fn find_or_build(
    (leaf, sb): (&mut MetadataDisk<'_>, &Superblock),
    layers: KVec<LayerDevice>,
    resources: &Resources,
) -> core::result::Result<Option<StackUse>, Failed> {
    let listed = listed_ids(leaf, sb)?;
    let (chain, found) = check_chain(&listed, &layers, &sb.geometry)?;
    if layers.is_empty() {
        return Ok(None);
    }
    if let Some(found) = Stacks::find(&resources.stacks, chain, &layers) {
        found.claim_top()?;
        return Ok(Some(found));
    }
    let stack = build(layers, &found, chain, &resources.reserve)?;
    let room = Stacks::room(&resources.stacks)?;
    Ok(Some(room.add(stack)?))
}

/// Returns the identities of the layers that the leaf lists.
pub(super) fn listed_ids(leaf: &mut MetadataDisk<'_>, sb: &Superblock) -> Result<KVec<LayerId>> {
    let mut ids = KVec::new();
    listed::read::<Sha256, _>(leaf, sb, |layer| {
        ids.push(layer.id, GFP_KERNEL).map_err(|_| Error::NoMemory)
    })?;
    Ok(ids)
}

/// Checks each layer against the list. Returns the chain of all, and what each of them is.
#[inline(never)]
fn check_chain(
    listed: &[LayerId],
    layers: &[LayerDevice],
    leaf: &Geometry,
) -> core::result::Result<(ChainId, KVVec<LayerInfo>), Failed> {
    let mut links = Links::new(listed);
    let mut all = KVVec::new();
    let mut buffer = MetadataDisk::new_buffer()?;
    for (n, layer) in (1..).zip(layers) {
        let added = layer.read_info(&mut buffer).and_then(|found| {
            give_way()?;
            if found.sectors > leaf.union_sectors() {
                return Err(Error::TooLarge(Side::Layer, found.sectors));
            }
            let below = (links.chain_so_far(), leaf.root_sectors());
            if found.made_on.is_some_and(|made_on| made_on != below) {
                return Err(Error::LayerIdentity);
            }
            links.add::<Sha256>(&found.id, found.stand_in.as_ref())?;
            all.push(found, GFP_KERNEL).map_err(|_| Error::NoMemory)
        });
        added.map_err(|error| Failed::of_layer(error, n))?;
    }
    let given = u32::try_from(layers.len()).map_err(|_| Error::Internal)?;
    Ok((links.finish(given)?, all))
}

impl LayerDevice {
    /// Finds out what the layer is. Of a sealed layer, verifies all but the data.
    fn read_info(&self, buffer: &mut MetadataBuffer) -> Result<LayerInfo> {
        let mut disk = self.disk(buffer);
        let sb = match attach::read_superblock(&mut disk) {
            Ok(probe) => probe.superblock,
            Err(Error::NotFormatted) => return self.read_sealed_info(buffer),
            Err(e) => return Err(e),
        };
        let seal = sb.frozen.ok_or(Error::NotFrozen)?;
        Ok(LayerInfo {
            id: LayerId::Frozen(sb.uuid, seal),
            stand_in: None,
            sectors: sb.geometry.union_sectors(),
            made_on: Some((sb.chain, sb.geometry.root_sectors())),
            form: Form::Frozen,
        })
    }

    fn read_sealed_info(&self, buffer: &mut MetadataBuffer) -> Result<LayerInfo> {
        let blocks = self.sectors() / BLOCK_SECTORS;
        let opened = open::<_, Sha256>(&mut self.disk(buffer), blocks, None);
        let Sealed { header, stand_in } = opened.map_err(|fault| match fault {
            Fault::NotSealed => Error::NotFormatted,
            fault => fault.into(),
        })?;
        Ok(LayerInfo {
            id: LayerId::Sealed(header.digest),
            stand_in,
            sectors: header.union_sectors,
            made_on: None,
            form: Form::Sealed(header),
        })
    }
}

/// Builds the map of a stack.
#[inline(never)]
fn build(
    layers: KVec<LayerDevice>,
    found: &[LayerInfo],
    chain: ChainId,
    reserve: &Arc<Reserve>,
) -> core::result::Result<Stack, Failed> {
    let mut buffer = MetadataDisk::new_buffer()?;
    let sectors = found.iter().map(|f| f.sectors).fold(0, u64::max);
    if sectors > SECTORS_MAX {
        return Err(Error::TooLarge(Side::Layer, sectors).into());
    }
    let mut builder = Builder::new(StackPageLists::new(), sectors).map_err(refused)?;
    let mut blocks = Blocks::<()>::LARGEST;
    for (n, (layer, found)) in (1..).zip(layers.iter().zip(found)) {
        let mut disk = layer.disk(&mut buffer);
        let added = match &found.form {
            Form::Frozen => load(&mut disk, layer, reserve)
                .and_then(|map| add(builder, LeafExtents::new(&map, give_way))),
            Form::Sealed(header) => add(builder, SealedExtents::new(disk, header)),
        };
        let block;
        (builder, block) = added.map_err(|error| Failed::of_layer(error, n))?;
        blocks = blocks.min(block);
    }
    let map = builder.finish().map_err(refused)?;
    Ok(Stack {
        layers,
        map,
        chain,
        block_sectors: blocks,
    })
}

/// Adds the extents of a layer. Returns the builder, and the largest block that they do not cut.
pub(super) fn add(
    builder: Builder<StackPageLists>,
    extents: impl Extents,
) -> Result<(Builder<StackPageLists>, u32)> {
    let mut extents = Blocks::new(extents);
    let added = builder.add_layer(&mut extents).map_err(refused)?;
    Ok((added, extents.block_sectors()))
}

/// Returns why a map cannot be built.
pub(super) fn refused(e: Refusal) -> Error {
    match e {
        Refusal::Failed(e) => e,
        Refusal::StackSize(n) => Error::TooLarge(Side::Layer, n),
        // This file and the core have made the layers and their extents.
        _ => Error::Internal,
    }
}

pub(super) fn give_way() -> Result {
    crate::error::to_core(crate::sys::task::give_way())
}

/// Reads the map of a frozen leaf. It is needed only while the map of the stack is built.
#[inline(never)]
fn load(
    disk: &mut MetadataDisk<'_>,
    layer: &LayerDevice,
    reserve: &Arc<Reserve>,
) -> Result<KBox<Map<MapMemory>>> {
    let probe = attach::read_superblock(disk)?;
    let g = probe.superblock.geometry;
    let (wanted, found) = (g.leaf_sectors(), layer.sectors());
    if wanted > found {
        return Err(Error::LeafSize(wanted, found));
    }
    let Empty {
        map,
        mut allocator,
        entries,
        sets,
    } = Empty::new(&g, reserve)?;
    let map = KBox::new(map, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
    attach::load(disk, probe, &map, &mut allocator, entries, sets)?;
    Ok(map)
}
