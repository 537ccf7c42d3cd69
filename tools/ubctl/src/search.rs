// SPDX-License-Identifier: GPL-2.0

//! Finds the root and the layers of a leaf: where they were when the leaf was formatted, or by what
//! they are, in places that the user names.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ubcore::error::Role;
use ubcore::format::below_list::ListedLayer;
use ubcore::format::superblock::Superblock;
use ubcore::sealed::open::Sealed;
use ubcore::stack::chain::LayerId;

use crate::below::RootArg;
use crate::device::{Access, Device};
use crate::error::{Fail, Result, REFUSED, USAGE};
use crate::layer_arg::LayerArg;
use crate::{below, loaded, probe, root_samples, sealed};

/// The root and layers that a command line gives. The functions find the others.
pub struct Given<'a> {
    /// The root.
    pub root: Option<&'a RootArg>,
    /// The layers, the lowest first.
    pub layers: &'a [LayerArg],
    /// Where to look first. The functions look for the rest where it was when the leaf was
    /// formatted.
    pub places: &'a [PathBuf],
}

impl Given<'_> {
    fn places(&self) -> Result<Option<Places>> {
        let named = !self.places.is_empty();
        named.then(|| Places::new(self.places)).transpose()
    }

    /// Returns the root of a leaf or a frozen leaf: the given one, or the one that it was made on.
    pub fn root_of(&self, leaf: &Device) -> Result<RootArg> {
        if let Some(root) = self.root {
            return Ok(root.clone());
        }
        let sb = loaded::superblock(&mut leaf.again(Access::Read)?)?;
        if !sb.has_root() {
            return Ok(RootArg(None));
        }
        let root = match self.places()? {
            None => below::listed_root(leaf, &sb)?,
            Some(places) => match places.root(&sb)? {
                Some(root) => root,
                None => below::listed_root(leaf, &sb).map_err(|_| nowhere("the root"))?,
            },
        };
        Ok(RootArg(Some(root)))
    }

    /// Returns the layers that a leaf or a frozen leaf lists.
    pub fn listed_by(&self, leaf: &Device) -> Result<Vec<LayerArg>> {
        match self.places()? {
            Some(places) => places.layers(&below::list_of(leaf)?),
            None => below::listed_by(leaf, below::NAME_ALL_OR_LOOK),
        }
    }

    /// Returns the layers below a leaf: the given ones, or the ones that it lists.
    pub fn layers_of(&self, leaf: &Device) -> Result<Vec<LayerArg>> {
        match self.layers {
            [] => self.listed_by(leaf),
            _ => self.with_listed(),
        }
    }

    /// Returns the given layers, and below the first of them the ones that it lists.
    pub fn with_listed(&self) -> Result<Vec<LayerArg>> {
        let below = match self.lowest_leaf()? {
            Some(leaf) => self.listed_by(&leaf)?,
            None => Vec::new(),
        };
        below::on_top(below, self.layers)
    }

    /// Returns the root of the given layers, as far as they say it.
    pub fn root_of_layers(&self) -> Result<Option<RootArg>> {
        if self.root.is_some() {
            return Ok(self.root.cloned());
        }
        let leaf = self.lowest_leaf()?;
        leaf.map(|leaf| self.root_of(&leaf)).transpose()
    }

    /// Opens the lowest of the given layers, if it is a frozen leaf. A sealed layer does not say
    /// what it lies on.
    fn lowest_leaf(&self) -> Result<Option<Device>> {
        let Some(first) = self.layers.first() else {
            return Ok(None);
        };
        let device = first.open()?;
        let is_sealed = sealed::open_if_there(&device)?.is_some();
        Ok((!is_sealed).then_some(device))
    }
}

/// Refuses a command line from which the root does not follow.
pub fn unknown_root(what: &str) -> Fail {
    let text =
        format!("{what} does not say what it lies on: name the root with --root, or --root none");
    Fail::new(USAGE, "usage", text)
}

/// A layer in one of the places, or what may be the root.
struct Candidate {
    at: LayerArg,
    what: What,
}

/// What a device or image holds.
enum What {
    Layer(LayerId),
    /// A leaf that is not frozen.
    Leaf,
    /// Neither a leaf nor a layer.
    Other,
}

/// The devices and images in the places.
pub struct Places(Vec<Candidate>);

impl Places {
    /// Looks at each place: a device or an image, or a directory, of which each device and image
    /// counts, but no file in directories below it. A file that cannot be read does not count. Of
    /// sealed layers that lie one behind another, each counts.
    pub fn new(places: &[PathBuf]) -> Result<Places> {
        let paths = devices_in(places)?;
        Ok(Places(paths.iter().flat_map(|p| candidates(p)).collect()))
    }

    /// Returns the layers of a list, from the places, or from where they were. A layer that stands
    /// in for one of them is not taken, because only its maker says so.
    pub fn layers(&self, list: &[ListedLayer]) -> Result<Vec<LayerArg>> {
        let mut layers = Vec::new();
        for (n, layer) in (1..).zip(list) {
            let is_it = |c: &&Candidate| matches!(c.what, What::Layer(id) if id == layer.id);
            let found: Vec<&Candidate> = self.0.iter().filter(is_it).collect();
            let was = LayerArg::listed(layer);
            let name = was
                .as_ref()
                .map(|was| format!(", which was {}", was.name()));
            let what = format!("layer {n}{}", name.unwrap_or_default());
            let at = only(&found, &what)?.or(was.filter(|was| is_layer(was, &layer.id)));
            layers.push(at.ok_or_else(|| nowhere(&what))?);
        }
        Ok(layers)
    }

    /// Returns the root of the leaf that `sb` describes: the device or image of its size with the
    /// content that its digest says. Returns `None` if it is in none of the places.
    fn root(&self, sb: &Superblock) -> Result<Option<PathBuf>> {
        let is_it = |c: &&Candidate| matches!(c.what, What::Other) && is_root(&c.at.path, sb);
        let found: Vec<&Candidate> = self.0.iter().filter(is_it).collect();
        Ok(only(&found, "the root")?.map(|root| root.path))
    }
}

/// Returns the devices and images among some places: a directory counts as all that is directly in
/// it. A link and what it leads to are one.
pub fn devices_in(places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for place in places {
        let meta = fs::metadata(place).map_err(|e| Fail::io("look into", place, &e))?;
        if !meta.is_dir() {
            paths.push(place.clone());
            continue;
        }
        let list = fs::read_dir(place).map_err(|e| Fail::io("look into", place, &e))?;
        let mut inside: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
        inside.sort();
        paths.extend(inside);
    }
    let mut numbers = HashSet::new();
    paths.retain(|path| number(path).is_some_and(|number| numbers.insert(number)));
    Ok(paths)
}

/// Returns why the root of a leaf, and why its layers are not found, in the places or where they
/// were when the leaf was formatted. A root or layer that is there more than once counts as found.
pub fn missing(leaf: &Device, places: &Places) -> Result<[Option<Fail>; 2]> {
    let sb = loaded::superblock(&mut leaf.again(Access::Read)?)?;
    let root = match places.root(&sb) {
        _ if !sb.has_root() => Ok(()),
        Ok(None) => below::listed_root(leaf, &sb).map(|_| ()),
        found => found.map(|_| ()),
    };
    let layers = below::list_of(leaf).and_then(|list| places.layers(&list));
    let fails = [root.err(), layers.err()];
    Ok(fails.map(|fail| fail.filter(|fail| fail.reason != "ambiguous")))
}

/// Returns two numbers that identify a device or image.
fn number(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    if meta.file_type().is_block_device() {
        Some((0, meta.rdev()))
    } else {
        meta.is_file().then(|| (meta.dev(), meta.ino()))
    }
}

fn candidates(path: &Path) -> Vec<Candidate> {
    let Ok(device) = Device::open(path, Role::Layer, Access::Read) else {
        return Vec::new();
    };
    let of = |offset, what| Candidate {
        at: LayerArg {
            path: path.to_owned(),
            offset,
        },
        what,
    };
    if let Some(sb) = probe::superblock(&device) {
        let frozen = |seal| What::Layer(LayerId::Frozen(sb.uuid, seal));
        return vec![of(0, sb.frozen.map_or(What::Leaf, frozen))];
    }
    let (layers, _, _) = sealed::row(device);
    if layers.is_empty() {
        return vec![of(0, What::Other)];
    }
    let layer =
        |(at, sealed): (u64, Sealed)| of(at, What::Layer(LayerId::Sealed(sealed.header.digest)));
    layers.into_iter().map(layer).collect()
}

fn is_root(path: &Path, sb: &Superblock) -> bool {
    let root = Device::open(path, Role::Root, Access::Read).ok();
    root.is_some_and(|root| {
        root.sectors() == sb.geometry.root_sectors()
            && root_samples::digest(&root, &sb.uuid).is_ok_and(|digest| digest == sb.root_digest)
    })
}

/// Returns whether a layer is where a leaf lists it.
fn is_layer(at: &LayerArg, id: &LayerId) -> bool {
    let Ok(device) = at.open() else {
        return false;
    };
    let found = match probe::superblock(&device) {
        Some(sb) => sb.frozen.map(|seal| LayerId::Frozen(sb.uuid, seal)),
        None => {
            let sealed = sealed::open_if_there(&device).ok().flatten();
            sealed.map(|sealed| LayerId::Sealed(sealed.header.digest))
        }
    };
    found == Some(*id)
}

fn nowhere(what: &str) -> Fail {
    let text = format!(
        "{what}: it is in none of the places of --in, nor where it was: name another place, or its \
         path"
    );
    Fail::new(REFUSED, "not_in_places", text)
}

/// Returns the one that was found, if there is one. Refuses if it is unclear which one is meant.
fn only(found: &[&Candidate], what: &str) -> Result<Option<LayerArg>> {
    match found {
        [one] => Ok(Some(one.at.clone())),
        [] => Ok(None),
        several => {
            let list = several.iter().map(|c| c.at.name());
            let list: Vec<String> = list.collect();
            let text = format!(
                "{what}: it could be each of {}: give the path of one",
                list.join(", ")
            );
            Err(Fail::new(REFUSED, "ambiguous", text))
        }
    }
}
