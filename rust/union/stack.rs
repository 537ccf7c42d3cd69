// SPDX-License-Identifier: GPL-2.0

//! A stack of layers, and the list of all stacks. All unions on the same layers share one stack:
//! its devices are opened once, and its map is built once.

use super::{
    attach::AttachError,
    leaf_memory::load_leaf,
    metadata_disk::{
        MetadataBuffer,
        MetadataDisk, //
    },
    open::open_layer,
};
use crate::{
    blk::BlockDevice,
    error::open_error,
    memory::Reserve,
    resources::Resources,
    stack_memory::StackPageLists,
    sys::{
        atomic::{
            AtomicU32,
            Ordering::Relaxed, //
        },
        bug::warn_on_once,
        digest::Sha256,
        mm::NoIo, //
    },
    ubcore::{
        abi,
        attach::{
            self,
            Probe, //
        },
        error::{
            Error,
            Result,
            Role, //
        },
        format::superblock::Superblock,
        geometry::{
            Geometry,
            BLOCK_BYTES,
            BLOCK_SECTORS, //
        },
        num::{
            usize_as_u64,
            SECTOR_BYTES, //
        },
        salvage::NoLoss,
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
                self,
                ChainId,
                LayerId,
                Links,
                StandIn, //
            },
            extent::{
                ExtentAlignment,
                Extents, //
            },
            leaf_extents::LeafExtents,
            listed,
            map::{
                StackMap,
                STACK_SECTORS_MAX, //
            },
            source::LayerSector, //
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
        UniqueArc, //
    },
};

/// The device of a layer of a stack.
pub(crate) struct LayerDevice {
    pub(super) device: BlockDevice,
    /// The sector at which the layer begins.
    offset: u64,
}

impl LayerDevice {
    /// Opens a layer that the caller of the attach gave.
    fn open(given: &abi::Layer, resources: &Resources, leaf: &BlockDevice) -> Result<Self> {
        // The caller has checked that the path ends.
        let path = CStr::from_bytes_until_nul(&given.path).map_err(|_| Error::Internal)?;
        let device = open_layer(path, &resources.claims, leaf)?;
        // The driver reads whole blocks of a layer.
        if given.offset % usize_as_u64(BLOCK_BYTES) != 0 {
            return Err(Error::Limits(Role::Layer));
        }
        Ok(LayerDevice {
            device,
            offset: given.offset / SECTOR_BYTES,
        })
    }

    /// Opens the layer once more.
    pub(super) fn reopen(&self) -> Result<Self> {
        let device = self.device.again_shared();
        Ok(LayerDevice {
            device: device.map_err(|e| open_error(Role::Layer, e))?,
            offset: self.offset,
        })
    }

    /// Opens the leaf of a union as a layer. Others can open it when the union has closed it.
    pub(super) fn from_leaf(leaf: &BlockDevice) -> Result<Self> {
        let device = leaf.again_shared();
        Ok(LayerDevice {
            device: device.map_err(|e| open_error(Role::Layer, e))?,
            offset: 0,
        })
    }
}

/// The properties of a layer, read from its device.
struct LayerInfo {
    id: LayerId,
    /// The stand-in record of a sealed layer.
    stand_in: Option<StandIn>,
    /// The size of the layer's union.
    sectors: u64,
    kind: LayerKind,
}

/// Whether a layer is a frozen leaf or a sealed layer.
enum LayerKind {
    Frozen(KBox<Probe>),
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

/// The layers of a stack, the lowest first, and their map. Only the number of unions changes.
pub(crate) struct Stack {
    pub(super) layers: KVec<LayerDevice>,
    pub(super) map: StackMap<StackPageLists>,
    pub(super) chain: ChainId,
    /// A power of two of sectors, at most 8, such that each aligned block of that size has one
    /// source. After a freeze it may be smaller than the largest such number, see `Merge::finish`.
    pub(super) block_sectors: u32,
    pub(super) unions: UnionCount,
}

/// The number of the unions that use a stack. It changes under [`Stacks::list`], and is read at any
/// time.
pub(super) struct UnionCount(AtomicU32);

impl UnionCount {
    pub(super) const fn new() -> Self {
        UnionCount(AtomicU32::new(0))
    }

    fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Counts one more. The caller holds the lock.
    fn add_one(&self) -> Result {
        let more = self.get().checked_add(1).ok_or(Error::Internal)?;
        self.0.store(more, Relaxed);
        Ok(())
    }

    /// Counts one less. Returns how many are left, or `None` if there was none. The caller holds
    /// the lock.
    fn take_one(&self) -> Option<u32> {
        let left = self.get().checked_sub(1)?;
        self.0.store(left, Relaxed);
        Some(left)
    }
}

impl Stack {
    /// Returns the device and the sector of a sector of a layer. Returns `None` only if an
    /// invariant of the map is broken.
    #[inline]
    pub(super) fn locate(&self, at: LayerSector) -> Option<(&BlockDevice, u64)> {
        let layer = self.layers.get(usize::from(at.layer()))?;
        // A device has fewer than 2^55 sectors, and the builder checked the extents' places.
        Some((&layer.device, at.sector().wrapping_add(layer.offset)))
    }

    /// Returns whether this is the stack of these layers, on the same devices.
    fn is_for(&self, chain: ChainId, layers: &[LayerDevice]) -> bool {
        let pairs = || self.layers.iter().zip(layers);
        self.chain == chain
            && self.layers.len() == layers.len()
            && pairs().all(|(a, b)| a.device.is_same(&b.device) && a.offset == b.offset)
    }

    /// Fails if a block of `bytes` would have more than one source.
    pub(super) fn check_blocks(&self, bytes: u32) -> Result {
        if u64::from(bytes) > u64::from(self.block_sectors).saturating_mul(SECTOR_BYTES) {
            return Err(Error::FineMap(bytes));
        }
        Ok(())
    }
}

/// The stacks of all unions.
#[pin_data]
pub(crate) struct Stacks {
    /// Held to look up, add or remove an entry. Devices are opened and closed, and maps built,
    /// without it.
    #[pin]
    list: Mutex<KVec<Arc<Stack>>>,
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
    fn find(this: &Arc<Self>, chain: ChainId, layers: &[LayerDevice]) -> Result<Option<StackUse>> {
        let Some(stack) = share_existing(&this.list.lock(), chain, layers)? else {
            return Ok(None);
        };
        let stacks = this.clone();
        Ok(Some(StackUse { stack, stacks }))
    }

    /// Returns the memory for one stack and for its entry on the list.
    pub(super) fn reserve(this: &Arc<Self>) -> Result<StackReservation> {
        let stack = UniqueArc::new_uninit(GFP_KERNEL).map_err(|_| Error::NoMemory)?;
        let no_io = NoIo::new();
        let reserved = this.list.lock().reserve(1, GFP_KERNEL);
        drop(no_io);
        reserved.map_err(|_| Error::NoMemory)?;
        let stacks = this.clone();
        Ok(StackReservation { stack, stacks })
    }

    /// Adds a stack. If another attach has added the same one meanwhile, returns a use of that.
    fn add(this: &Arc<Self>, stack: Arc<Stack>) -> Result<StackUse> {
        // A freeze takes the lock while requests of its disk wait. So memory for the list must not
        // wait for I/O, which could be to that disk.
        let no_io = NoIo::new();
        let mut list = this.list.lock();
        let stack = match share_existing(&list, stack.chain, &stack.layers)? {
            Some(found) => found,
            None => {
                let entry = stack.clone();
                list.push(entry, GFP_KERNEL).map_err(|_| Error::NoMemory)?;
                stack.unions.add_one()?;
                stack
            }
        };
        drop(list);
        drop(no_io);
        let stacks = this.clone();
        Ok(StackUse { stack, stacks })
    }
}

/// The memory for a stack and for its entry on the list.
pub(super) struct StackReservation {
    stack: UniqueArc<MaybeUninit<Stack>>,
    stacks: Arc<Stacks>,
}

impl StackReservation {
    /// Adds a stack to the list. Waits for no I/O. Allocates nothing, unless another stack has
    /// taken the entry meanwhile.
    pub(super) fn fill(self, stack: Stack) -> Result<StackUse> {
        Stacks::add(&self.stacks, self.stack.write(stack).into())
    }
}

/// Counts one more union on the stack of these layers, if it is on the list.
fn share_existing(
    list: &[Arc<Stack>],
    chain: ChainId,
    layers: &[LayerDevice],
) -> Result<Option<Arc<Stack>>> {
    let Some(found) = list.iter().find(|stack| stack.is_for(chain, layers)) else {
        return Ok(None);
    };
    found.unions.add_one()?;
    Ok(Some(found.clone()))
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
    /// Returns how many unions use the stack. Any context.
    pub(super) fn unions(&self) -> u32 {
        self.stack.unions.get()
    }

    /// Returns a use of the same stack by one more union.
    pub(super) fn again(&self) -> Result<StackUse> {
        let list = self.stacks.list.lock();
        self.stack.unions.add_one()?;
        drop(list);
        Ok(StackUse {
            stack: self.stack.clone(),
            stacks: self.stacks.clone(),
        })
    }

    /// Returns the memory of the stack's map, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.map.memory().bytes()
    }
}

impl Drop for StackUse {
    fn drop(&mut self) {
        let mut list = self.stacks.list.lock();
        let at = list.iter().position(|l| Arc::ptr_eq(l, &self.stack));
        let Some(at) = at else {
            // A stack that a union uses is on the list.
            warn_on_once!(true);
            return;
        };
        let last = match self.stack.unions.take_one() {
            Some(0) => list.remove(at).ok(),
            Some(_) => None,
            None => {
                // More unions have left the stack than used it. Keep the entry, because the number
                // of unions is unknown.
                warn_on_once!(true);
                None
            }
        };
        // Close the devices only after the lock is released.
        drop(list);
        drop(last);
    }
}

/// Opens the layers that the caller of the attach gave, the lowest first, above which is `leaf`.
pub(super) fn open_layers(
    given: &[abi::Layer],
    resources: &Resources,
    leaf: &BlockDevice,
) -> core::result::Result<KVec<LayerDevice>, AttachError> {
    let mut layers = KVec::new();
    for (n, layer) in (1..).zip(given) {
        let opened = give_way()
            .and_then(|()| LayerDevice::open(layer, resources, leaf))
            .and_then(|layer| layers.push(layer, GFP_KERNEL).map_err(|_| Error::NoMemory));
        opened.map_err(|error| AttachError::of_layer(error, n))?;
    }
    Ok(layers)
}

/// Checks that the layers are the ones that the leaf lists, and returns their stack. Without layers
/// there is none.
pub(super) fn find_or_build(
    leaf: &mut MetadataDisk<'_>,
    sb: &Superblock,
    layers: KVec<LayerDevice>,
    resources: &Resources,
) -> core::result::Result<Option<StackUse>, AttachError> {
    let listed = listed_ids(leaf, sb)?;
    let (chain, infos) = check_chain(&listed, &layers, &sb.geometry)?;
    if layers.is_empty() {
        return Ok(None);
    }
    if let Some(found) = Stacks::find(&resources.stacks, chain, &layers)? {
        return Ok(Some(found));
    }
    let stack = build_stack(layers, infos, chain, &resources.reserve)?;
    let reservation = Stacks::reserve(&resources.stacks)?;
    Ok(Some(reservation.fill(stack)?))
}

/// Returns the identities of the layers that the leaf lists.
pub(super) fn listed_ids(leaf: &mut MetadataDisk<'_>, sb: &Superblock) -> Result<KVec<LayerId>> {
    let mut ids = KVec::new();
    listed::layers::<Sha256, _>(leaf, sb, |layer| {
        ids.push(layer.id, GFP_KERNEL).map_err(|_| Error::NoMemory)
    })?;
    Ok(ids)
}

/// Checks each layer against the list. Returns the chain of all, and the properties of each.
#[inline(never)]
fn check_chain(
    listed: &[LayerId],
    layers: &[LayerDevice],
    leaf: &Geometry,
) -> core::result::Result<(ChainId, KVVec<LayerInfo>), AttachError> {
    let mut links = Links::new(listed);
    let mut all = KVVec::new();
    let mut buffer = MetadataDisk::new_buffer()?;
    for (n, layer) in (1..).zip(layers) {
        let added = layer.read_info(&mut buffer).and_then(|info| {
            give_way()?;
            if info.sectors > leaf.union_sectors() {
                return Err(Error::TooLarge(Role::Layer, info.sectors));
            }
            if let LayerKind::Frozen(probe) = &info.kind {
                let sb = &probe.superblock;
                if sb.geometry.root_sectors() != leaf.root_sectors() {
                    return Err(Error::LayerIdentity);
                }
                if sb.chain != links.chain_so_far() {
                    layer.check_list(sb, &all, &mut buffer)?;
                }
            }
            links.add::<Sha256>(&info.id, info.stand_in.as_ref())?;
            all.push(info, GFP_KERNEL).map_err(|_| Error::NoMemory)
        });
        added.map_err(|error| AttachError::of_layer(error, n))?;
    }
    let given = u32::try_from(layers.len()).map_err(|_| Error::Internal)?;
    Ok((links.finish(given)?, all))
}

impl LayerDevice {
    /// Checks the layers below a frozen leaf against its own list, which can have layers for which
    /// one of these stands.
    fn check_list(
        &self,
        sb: &Superblock,
        below: &[LayerInfo],
        buffer: &mut MetadataBuffer,
    ) -> Result {
        let listed = listed_ids(&mut self.disk(buffer), sb)?;
        let below = below.iter().map(|info| (&info.id, info.stand_in.as_ref()));
        match chain::follow::<Sha256>(&listed, below) {
            Ok(_) => Ok(()),
            // The count is that of another leaf than the one that is attached.
            Err(Error::LayerCount(..)) => Err(Error::LayerIdentity),
            Err(e) => Err(e),
        }
    }

    /// Reads the properties of the layer. Of a sealed layer, verifies all but the data.
    fn read_info(&self, buffer: &mut MetadataBuffer) -> Result<LayerInfo> {
        let mut disk = self.disk(buffer);
        let probe = match attach::read_superblock(&mut disk) {
            Ok(probe) => probe,
            Err(Error::NotFormatted) => return self.read_sealed_info(buffer),
            Err(e) => return Err(e),
        };
        let sb = &probe.superblock;
        let seal = sb.frozen.ok_or(Error::NotFrozen)?;
        let (wanted, found) = (sb.geometry.leaf_sectors(), self.sectors());
        if wanted > found {
            return Err(Error::LeafSize(wanted, found));
        }
        Ok(LayerInfo {
            id: LayerId::Frozen(sb.uuid, seal),
            stand_in: None,
            sectors: sb.geometry.union_sectors(),
            kind: LayerKind::Frozen(KBox::new(probe, GFP_KERNEL).map_err(|_| Error::NoMemory)?),
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
            kind: LayerKind::Sealed(header),
        })
    }
}

/// Builds the map of a stack.
#[inline(never)]
fn build_stack(
    layers: KVec<LayerDevice>,
    infos: KVVec<LayerInfo>,
    chain: ChainId,
    reserve: &Arc<Reserve>,
) -> core::result::Result<Stack, AttachError> {
    let mut buffer = MetadataDisk::new_buffer()?;
    let sectors = infos.iter().map(|info| info.sectors).fold(0, u64::max);
    if sectors > STACK_SECTORS_MAX {
        return Err(Error::TooLarge(Role::Layer, sectors).into());
    }
    let mut builder = Builder::new(StackPageLists::new(), sectors).map_err(refusal_error)?;
    let mut block_sectors = ExtentAlignment::<()>::LARGEST;
    for (n, (layer, info)) in (1..).zip(layers.iter().zip(infos)) {
        let mut disk = layer.disk(&mut buffer);
        let added = match info.kind {
            LayerKind::Frozen(probe) => load_leaf(&mut disk, probe, &mut NoLoss, reserve)
                .and_then(|leaf| add_extents(builder, LeafExtents::new(&leaf.map, give_way))),
            LayerKind::Sealed(header) => add_extents(builder, SealedExtents::new(disk, &header)),
        };
        let added = added.map_err(|error| AttachError::of_layer(error, n))?;
        builder = added.builder;
        block_sectors = block_sectors.min(added.block_sectors);
    }
    let map = builder.finish().map_err(refusal_error)?;
    Ok(Stack {
        layers,
        map,
        chain,
        block_sectors,
        unions: UnionCount::new(),
    })
}

/// A builder to which extents were added.
pub(super) struct Added {
    pub(super) builder: Builder<StackPageLists>,
    /// The largest block that no extent cuts, in sectors.
    pub(super) block_sectors: u32,
}

/// Adds the extents of a layer.
pub(super) fn add_extents(
    builder: Builder<StackPageLists>,
    extents: impl Extents,
) -> Result<Added> {
    let mut extents = ExtentAlignment::new(extents);
    let builder = builder.add_layer(&mut extents).map_err(refusal_error)?;
    Ok(Added {
        builder,
        block_sectors: extents.block_sectors(),
    })
}

/// Converts a refusal of the builder.
pub(super) fn refusal_error(e: Refusal) -> Error {
    match e {
        Refusal::Failed(e) => e,
        Refusal::StackSize(n) => Error::TooLarge(Role::Layer, n),
        // The driver never passes such extents, nor so many layers.
        _ => Error::Internal,
    }
}

/// Gives way to other tasks, as [`Disk::give_way`](crate::ubcore::disk::Disk::give_way) does.
pub(super) fn give_way() -> Result {
    crate::error::to_core(crate::sys::task::give_way())
}
