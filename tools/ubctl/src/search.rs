// SPDX-License-Identifier: GPL-2.0

//! Finds the root and the layers of a leaf by what they are, in places that the user names.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ubcore::error::Side;
use ubcore::format::layer_list::ListedLayer;
use ubcore::format::superblock::Superblock;
use ubcore::stack::chain::LayerId;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::{identity, probe, sealed};

/// A device or image in one of the places.
struct Candidate {
    path: PathBuf,
    /// What tells it from every other file or device.
    number: (u64, u64),
    superblock: Option<Superblock>,
    /// The digest of a sealed layer.
    digest: Option<[u8; 32]>,
}

/// The devices and images in the places.
pub struct Places(Vec<Candidate>);

impl Places {
    /// Looks at each place: a device or an image, or a directory, of which each device and image
    /// counts, but not what lies in directories below it. What cannot be read does not count.
    pub fn new(places: &[PathBuf]) -> Result<Places> {
        let mut all: Vec<Candidate> = Vec::new();
        for place in places {
            let meta = fs::metadata(place).map_err(|e| Fail::io("look into", place, &e))?;
            if !meta.is_dir() {
                all.extend(candidate(place));
                continue;
            }
            let list = fs::read_dir(place).map_err(|e| Fail::io("look into", place, &e))?;
            let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            all.extend(paths.iter().filter_map(|path| candidate(path)));
        }
        // A link and what it leads to are one.
        let mut numbers = Vec::new();
        all.retain(|c| {
            let new = !numbers.contains(&c.number);
            numbers.push(c.number);
            new
        });
        Ok(Places(all))
    }

    /// Returns the layers of a list.
    pub fn layers(&self, list: &[ListedLayer]) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for (n, layer) in (1..).zip(list) {
            let is_it = |c: &&Candidate| c.id() == Some(layer.id);
            let found: Vec<&Candidate> = self.0.iter().filter(is_it).collect();
            let was = String::from_utf8_lossy(layer.path());
            paths.push(only(&found, &format!("layer {n}, which was {was}"))?);
        }
        Ok(paths)
    }

    /// Returns the root of the leaf that `sb` describes: the device or image of its size with the
    /// content that its digest says.
    pub fn root(&self, sb: &Superblock) -> Result<PathBuf> {
        let is_it =
            |c: &&Candidate| c.superblock.is_none() && c.digest.is_none() && is_root(&c.path, sb);
        let found: Vec<&Candidate> = self.0.iter().filter(is_it).collect();
        only(&found, "the root")
    }
}

impl Candidate {
    fn id(&self) -> Option<LayerId> {
        if let Some(digest) = self.digest {
            return Some(LayerId::Sealed(digest));
        }
        let sb = self.superblock.as_ref()?;
        Some(LayerId::Frozen(sb.uuid, sb.frozen?))
    }
}

fn candidate(path: &Path) -> Option<Candidate> {
    let meta = fs::metadata(path).ok()?;
    let number = if meta.file_type().is_block_device() {
        (0, meta.rdev())
    } else if meta.is_file() {
        (meta.dev(), meta.ino())
    } else {
        return None;
    };
    let device = Device::open(path, Side::Layer, Access::Read).ok()?;
    let sealed = sealed::open_at_start(&device).ok().flatten();
    Some(Candidate {
        path: path.to_owned(),
        number,
        superblock: probe::superblock(&device),
        digest: sealed.map(|sealed| sealed.header.digest),
    })
}

fn is_root(path: &Path, sb: &Superblock) -> bool {
    let root = Device::open(path, Side::Root, Access::Read).ok();
    root.is_some_and(|root| {
        root.sectors() == sb.geometry.root_sectors()
            && identity::digest(&root, &sb.uuid).is_ok_and(|digest| digest == sb.root_digest)
    })
}

/// Returns the one that was found. Refuses if there is none, and if it is unclear which one is
/// meant.
fn only(found: &[&Candidate], what: &str) -> Result<PathBuf> {
    match found {
        [one] => Ok(one.path.clone()),
        [] => Err(Fail::new(
            REFUSED,
            "not_in_places",
            format!("{what}: it is in none of the places of --in: name another place, or its path"),
        )),
        several => {
            let list = several.iter().map(|c| c.path.display().to_string());
            let list: Vec<String> = list.collect();
            let text = format!(
                "{what}: it could be each of {}: give the path of one",
                list.join(", ")
            );
            Err(Fail::new(REFUSED, "ambiguous", text))
        }
    }
}
