// SPDX-License-Identifier: GPL-2.0

//! What lies below a leaf: the root, if there is one, and the layers, the lowest first.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use map_memory::sha256::Sha256;
use ubcore::abi;
use ubcore::attach;
use ubcore::error::{Error, Role};
use ubcore::format::below_list::{Listed, ListedLayer, PathField, PATH_BYTES};
use ubcore::format::superblock::Superblock;
use ubcore::stack::chain::{self, ChainId, LayerId, StandIn, LAYERS_MAX};
use ubcore::stack::listed;

use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED, USAGE};
use crate::layer_arg::{self, LayerArg};
use crate::loopdev::{self, Lower};
use crate::{
    blocksize, control, loaded, output, overlap, preflight, root_samples, sealed, wrong_layer,
};

/// The root of a command line: a path, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootArg(pub Option<PathBuf>);

impl RootArg {
    /// The word that stands for no root. A file of this name is `./none`.
    pub const NONE: &str = "none";

    /// Returns what a word of the command line means.
    pub fn parse(word: &str) -> std::result::Result<RootArg, String> {
        Ok(RootArg((word != Self::NONE).then(|| PathBuf::from(word))))
    }

    /// Returns the path, if there is a root.
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

/// What lies below a leaf, in the form that the driver takes, or as it is.
pub struct Below {
    /// The root.
    pub root: Option<Lower>,
    /// The layers, and the bytes at which they begin.
    layers: Vec<(Lower, u64)>,
}

impl Below {
    /// Takes devices and images as they are, for a caller that opens them itself.
    pub fn as_it_is(root: &RootArg, layers: &[LayerArg]) -> Below {
        let layer = |layer: &LayerArg| (Lower::as_it_is(&layer.path), layer.offset);
        Below {
            root: root.path().map(Lower::as_it_is),
            layers: layers.iter().map(layer).collect(),
        }
    }

    /// Uses devices as they are, and puts images on loop devices with blocks of `sector` bytes.
    /// Leaves nothing behind if it fails.
    pub fn attach(root: &RootArg, layers: &[LayerArg], sector: u32) -> Result<Below> {
        let open = |path| Lower::open(path, Role::Root, false, sector);
        let root = root.path().map(open).transpose()?;
        let paths: Vec<&Path> = layers.iter().map(|layer| layer.path.as_path()).collect();
        let open = loopdev::open_layers(&paths, sector)?;
        let offsets = layers.iter().map(|layer| layer.offset);
        Ok(Below {
            root,
            layers: open.into_iter().zip(offsets).collect(),
        })
    }

    /// Opens all of it, and checks what the driver would refuse: devices that share a sector with
    /// the leaf, a root that is a leaf, layers that are not frozen.
    pub fn open(&self, leaf: Option<&Device>) -> Result<Opened> {
        let apart = |lower: &Device| leaf.map_or(Ok(()), |leaf| overlap::refuse(lower, leaf));
        let open = |lower: &Lower, role| {
            Ok(Device::open(&lower.node, role, Access::Read)?.called(&lower.name))
        };
        let root = self
            .root
            .as_ref()
            .map(|root| open(root, Role::Root))
            .transpose()?;
        if let Some(root) = &root {
            refuse_union(root, Role::Root)?;
            apart(root)?;
            preflight::refuse_leaf_as_root(root)?;
        }
        let mut layers = Vec::new();
        for (lower, offset) in &self.layers {
            let device = layer_arg::part(open(lower, Role::Layer)?, *offset)?;
            refuse_union(&device, Role::Layer)?;
            apart(&device)?;
            layers.push(OpenLayer::new(device)?);
        }
        Ok(Opened::new(root, layers))
    }

    /// Fills in the request, and returns its layers.
    pub fn fill(&self, request: &mut abi::Create) -> Result<Vec<abi::Layer>> {
        match &self.root {
            Some(root) => control::put_path(&mut request.root, &root.given())?,
            None => request.flags |= abi::CREATE_NO_ROOT,
        }
        let layer = |(lower, offset): &(Lower, u64)| {
            let mut layer = abi::Layer {
                path: [0; abi::PATH_BYTES],
                offset: *offset,
                reserved: 0,
            };
            control::put_path(&mut layer.path, &lower.given())?;
            Ok(layer)
        };
        self.layers.iter().map(layer).collect()
    }

    /// Returns a name for messages.
    pub fn name(&self) -> String {
        let root = self.root.as_ref().map(|root| root.name.as_path());
        name_of(root, self.layers.len())
    }

    /// Releases the loop devices, because the driver has them open now.
    pub fn release(self) {
        self.root
            .into_iter()
            .chain(self.layers.into_iter().map(|(lower, _)| lower))
            .for_each(Lower::release);
    }
}

/// A layer, open.
pub struct OpenLayer {
    /// The device or image.
    pub device: Device,
    /// What it is.
    pub id: LayerId,
    /// What a sealed layer stands for.
    stand_in: Option<StandIn>,
    /// The size of its union, in sectors.
    sectors: u64,
    /// The superblock of a frozen leaf, which says what it was made on.
    superblock: Option<Superblock>,
}

impl OpenLayer {
    /// Finds out what the layer is.
    fn new(mut device: Device) -> Result<OpenLayer> {
        let what = name(&device);
        let failed = |e| Fail::core(&what, e);
        let sb = match attach::read_superblock(&mut device) {
            Ok(probe) => probe.superblock,
            Err(Error::NotFormatted) => {
                let sealed = sealed::open_if_there(&device)?;
                let sealed = sealed.ok_or_else(|| failed(Error::NotFormatted))?;
                return Ok(OpenLayer {
                    device,
                    id: LayerId::Sealed(sealed.header.digest),
                    stand_in: sealed.stand_in,
                    sectors: sealed.header.union_sectors,
                    superblock: None,
                });
            }
            Err(e) => return Err(failed(e)),
        };
        let seal = sb.frozen.ok_or_else(|| failed(Error::NotFrozen))?;
        Ok(OpenLayer {
            device,
            id: LayerId::Frozen(sb.uuid, seal),
            stand_in: None,
            sectors: sb.geometry.union_sectors(),
            superblock: Some(sb),
        })
    }

    /// Returns what the layer stands for.
    pub fn stand_in(&self) -> Option<&StandIn> {
        self.stand_in.as_ref()
    }

    /// Returns the chain that the layer ends if it stands for others, on one of these.
    pub fn stands_on(&self, chains: &[ChainId]) -> Option<ChainId> {
        let stand_in = self.stand_in.as_ref()?;
        chains.contains(&stand_in.below).then_some(stand_in.after)
    }

    /// Refuses the layer if it was made on something else than what is below it.
    fn refuse_other_below(&self, root: Option<&Device>, below: &[OpenLayer]) -> Result {
        let Some(sb) = &self.superblock else {
            // The content of a sealed layer is what it is, on anything.
            return Ok(());
        };
        refuse_other(&self.device, sb, root, below)
    }
}

/// Refuses a leaf or a frozen leaf if it was made on something else than what is below it.
fn refuse_other(
    device: &Device,
    sb: &Superblock,
    root: Option<&Device>,
    below: &[OpenLayer],
) -> Result {
    refuse_other_layers(device, sb, below)?;
    let refused = |e| Err(Fail::core(&made_on(device, sb), e));
    let sectors = sb.geometry.root_sectors();
    match root {
        Some(root) if root.sectors() != sectors => {
            refused(Error::RootSize(sectors, root.sectors()))
        }
        Some(root) if root_samples::digest(root, &sb.uuid)? != sb.root_digest => {
            refused(Error::RootContent)
        }
        None if sb.has_root() => refused(Error::RootSize(sectors, 0)),
        _ => Ok(()),
    }
}

/// Refuses a leaf or a frozen leaf if it was made on other layers than those below it.
fn refuse_other_layers(device: &Device, sb: &Superblock, below: &[OpenLayer]) -> Result {
    let refused = |e| {
        let fail = Fail::core(&made_on(device, sb), e);
        Err(wrong_layer::explain(fail, device, below))
    };
    let listed = list_of(device)?;
    let listed: Vec<LayerId> = listed.iter().map(|layer| layer.id).collect();
    let (want, found) = (listed.len() as u64, below.len() as u64);
    let given = below.iter().map(|l| (&l.id, l.stand_in.as_ref()));
    match chain::follow::<Sha256>(&listed, given) {
        Ok(_) => Ok(()),
        Err(Error::LayerIdentity) if want != found => refused(Error::LayerCount(want, found)),
        Err(e) => refused(e),
    }
}

/// Returns the name of a leaf or a frozen leaf for messages.
fn made_on(device: &Device, sb: &Superblock) -> String {
    match sb.frozen {
        Some(_) => name(device),
        None => format!("leaf {}", device.name()),
    }
}

/// What lies below a leaf, open.
pub struct Opened {
    /// The root.
    pub root: Option<Device>,
    /// The layers, as far as they are open.
    pub layers: Vec<OpenLayer>,
    /// The layers that a leaf on it lists.
    pub list: Vec<ListedLayer>,
    /// The least size of a union on it, in sectors.
    pub sectors: u64,
}

impl Opened {
    fn new(root: Option<Device>, layers: Vec<OpenLayer>) -> Opened {
        let listed = |layer: &OpenLayer| ListedLayer {
            id: layer.id,
            offset: layer.device.start(),
            path: remembered(layer.device.path()),
        };
        let list = layers.iter().map(listed).collect();
        let sizes = layers.iter().map(|l| l.sectors);
        let sectors = sizes.fold(root.as_ref().map_or(0, Device::sectors), u64::max);
        Opened {
            root,
            layers,
            list,
            sectors,
        }
    }

    /// Returns a name for messages.
    pub fn name(&self) -> String {
        name_of(self.root.as_ref().map(Device::path), self.list.len())
    }

    /// Returns all devices.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.root
            .iter()
            .chain(self.layers.iter().map(|l| &l.device))
    }

    /// Returns the size of the root in sectors; 0 without one.
    pub fn root_sectors(&self) -> u64 {
        self.root.as_ref().map_or(0, Device::sectors)
    }

    /// Returns the path of the root as a leaf on it lists it; empty without a root.
    pub fn root_path(&self) -> PathField {
        let root = self.root.as_ref();
        root.map_or([0; PATH_BYTES], |root| remembered(root.path()))
    }

    /// Refuses layers that were made on something else than what is given below them.
    pub fn refuse_other_below(&self) -> Result {
        for (n, layer) in self.layers.iter().enumerate() {
            let below = self.layers.get(..n).unwrap_or_default();
            layer.refuse_other_below(self.root.as_ref(), below)?;
        }
        Ok(())
    }

    /// Refuses a leaf that was made on something else.
    pub fn refuse_other_leaf(&self, leaf: &Device) -> Result {
        let sb = loaded::superblock(&mut leaf.again(Access::Read)?)?;
        refuse_other(leaf, &sb, self.root.as_ref(), &self.layers)
    }

    /// Refuses a leaf that was made on other layers. The root may be another.
    pub fn refuse_other_layers(&self, leaf: &Device) -> Result {
        let sb = loaded::superblock(&mut leaf.again(Access::Read)?)?;
        refuse_other_layers(leaf, &sb, &self.layers)
    }

    /// Returns the chain of the layers.
    pub fn chain(&self) -> ChainId {
        let ids = self.list.iter().map(|layer| &layer.id);
        ids.fold(ChainId::BOTTOM, |c, id| c.with::<Sha256>(id))
    }
}

fn name_of(root: Option<&Path>, layers: usize) -> String {
    let root = root.map_or_else(
        || "no root".to_owned(),
        |root| format!("root {}", root.display()),
    );
    match layers {
        0 => root,
        1 => format!("{root}, 1 layer"),
        n => format!("{root}, {n} layers"),
    }
}

fn name(layer: &Device) -> String {
    format!("layer {}", layer.name())
}

/// Returns a path as the list of root and layers keeps it; empty if it is too long.
pub fn remembered(path: &Path) -> PathField {
    let mut field = [0; PATH_BYTES];
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let bytes = path.as_os_str().as_bytes();
    if let Some(room) = field
        .get_mut(..bytes.len())
        .filter(|_| bytes.len() < PATH_BYTES)
    {
        room.copy_from_slice(bytes);
    }
    field
}

/// Returns the layers that a leaf or a frozen leaf lists.
pub fn list_of(leaf: &Device) -> Result<Vec<ListedLayer>> {
    let mut leaf = leaf.again(Access::Read)?;
    let sb = loaded::superblock(&mut leaf)?;
    let mut list = Vec::new();
    let read = listed::layers::<Sha256, _>(&mut leaf, &sb, |layer| {
        list.push(*layer);
        Ok(())
    });
    read.map_err(|e| Fail::core(&leaf.name(), e))?;
    Ok(list)
}

/// Returns where the root was when the leaf was formatted, without a look at what is there now.
pub fn root_of_list(leaf: &Device) -> Result<Option<String>> {
    let mut leaf = leaf.again(Access::Read)?;
    let sb = loaded::superblock(&mut leaf)?;
    let mut path = None;
    let read = listed::read::<Sha256, _>(&mut leaf, &sb, |listed| {
        if let Listed::Root(root) = listed {
            path = Some(String::from_utf8_lossy(root.path()).into_owned());
        }
        Ok(())
    });
    read.map_err(|e| Fail::core(&leaf.name(), e))?;
    Ok(path.filter(|path| !path.is_empty()))
}

/// Returns where the root of the leaf that `sb` describes was when the leaf was formatted. Refuses
/// the path if it does not lead to that root any more.
pub fn listed_root(leaf: &Device, sb: &Superblock) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    let read = listed::read::<Sha256, _>(&mut leaf.again(Access::Read)?, sb, |listed| {
        if let Listed::Root(root) = listed {
            path = PathBuf::from(OsStr::from_bytes(root.path()));
        }
        Ok(())
    });
    let sectors = sb.geometry.root_sectors();
    let start = format!(
        "{} was made on a root of {sectors} sectors with the digest {}",
        leaf.name(),
        output::hex(&sb.root_digest)
    );
    let refused = |code, reason, why: String| {
        let next = "name the root with --root, or with --in where to look for it";
        Fail::new(code, reason, format!("{start}, {why}; {next}"))
    };
    read.map_err(|e| {
        refused(
            REFUSED,
            "damaged",
            format!("and where that was is lost ({e})"),
        )
    })?;
    if path.as_os_str().is_empty() {
        let why = "and does not say where that was".to_owned();
        return Err(refused(USAGE, "usage", why));
    }
    let was = format!("which was {}", output::path(&path));
    let gone = |fail: Fail| {
        let why = format!("{was}, but {}", fail.of_listed_path());
        refused(fail.code, fail.reason, why)
    };
    let root = Device::open(&path, Role::Root, Access::Read).map_err(gone)?;
    if root.sectors() != sectors {
        let why = format!("{was}, where a device of {} sectors is now", root.sectors());
        return Err(refused(REFUSED, "wrong_root", why));
    }
    let digest = root_samples::digest(&root, &sb.uuid)?;
    if digest != sb.root_digest {
        let why = format!("{was}, which has the digest {} now", output::hex(&digest));
        return Err(refused(REFUSED, "wrong_root", why));
    }
    Ok(path)
}

/// What to do about layers that are not where they were.
pub const NAME_ALL: &str = "name all layers with --layer, the lowest first";
/// The same for a command with places to look.
pub const NAME_ALL_OR_LOOK: &str =
    "name all layers with --layer, the lowest first, or with --in where to look for them";

/// Returns where the layers that a leaf or a frozen leaf lists were when it was formatted. Refuses
/// the list if one of the paths leads nowhere; `next` says what to do then.
pub fn listed_by(leaf: &Device, next: &str) -> Result<Vec<LayerArg>> {
    let list = list_of(leaf)?;
    let all: Option<Vec<LayerArg>> = list.iter().map(LayerArg::listed).collect();
    let all = all.ok_or_else(|| {
        let text = format!(
            "{}: it does not say where its layers were: {NAME_ALL}",
            leaf.name()
        );
        Fail::new(REFUSED, "layer_count", text)
    })?;
    for (n, (layer, at)) in (1..).zip(list.iter().zip(&all)) {
        at.open().map_err(|fail| {
            let text = format!(
                "{} lies on layer {n} of {}, {}, which was {}, but {}; {next}",
                leaf.name(),
                list.len(),
                output::layer(&layer.id),
                at.name(),
                fail.of_listed_path()
            );
            Fail::new(fail.code, fail.reason, text)
        })?;
    }
    Ok(all)
}

/// Returns the layers for a new leaf: the ones given, and below the first of them the ones that it
/// lists.
pub fn with_listed(given: &[LayerArg]) -> Result<Vec<LayerArg>> {
    let Some(first) = given.first() else {
        return Ok(Vec::new());
    };
    let device = first.open()?;
    let is_sealed = sealed::open_if_there(&device)?.is_some();
    // A sealed layer does not say what it lies on.
    let below = if is_sealed {
        Vec::new()
    } else {
        listed_by(&device, NAME_ALL)?
    };
    on_top(below, given)
}

/// Returns the given layers on top of the layers that the first of them lists. Refuses too many.
pub fn on_top(mut below: Vec<LayerArg>, given: &[LayerArg]) -> Result<Vec<LayerArg>> {
    below.extend(given.iter().cloned());
    match given.first() {
        Some(first) if below.len() > LAYERS_MAX as usize => {
            let e = Error::LayerCount(LAYERS_MAX.into(), below.len() as u64);
            Err(Fail::core(&format!("layer {}", first.name()), e))
        }
        _ => Ok(below),
    }
}

/// Makes the checks of paths that need nothing open. A leaf in memory has no path.
pub fn refuse_paths(root: &RootArg, layers: &[LayerArg], leaf: Option<&Path>) -> Result {
    let layers = layers.iter().map(|layer| layer.path.as_path());
    for path in root.path().into_iter().chain(layers) {
        leaf.map_or(Ok(()), |leaf| crate::device::refuse_same(path, leaf))?;
        blocksize::refuse_tail(path)?;
    }
    Ok(())
}

/// Refuses a root and layers that a program holds a lock on which forbids their use. They are only
/// read, and a program that writes to them would change what lies below.
pub fn refuse_locked(root: &RootArg, layers: &[LayerArg]) -> Result {
    if let Some(root) = root.path() {
        loopdev::refuse_locked(root, Role::Root)?;
    }
    layers
        .iter()
        .try_for_each(|layer| loopdev::refuse_locked(&layer.path, Role::Layer))
}
