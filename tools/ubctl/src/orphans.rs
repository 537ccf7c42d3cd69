// SPDX-License-Identifier: GPL-2.0

//! What was left behind: loop devices of leaves and layers that no union uses, and leaves that were
//! not detached or whose root or layers are gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use ubcore::error::Role;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, BUSY};
use crate::search::{self, Places};
use crate::wait::Deadline;
use crate::{holders, ioctl, loopdev, output, probe, sealed, sysfs};

/// A loop device of a leaf or a layer that no union, mount or process uses.
#[derive(Clone, Debug, Serialize)]
pub struct OrphanLoop {
    /// Its node.
    pub device: String,
    /// The image that it shows.
    pub image: String,
    /// `leaf`, `frozen leaf` or `sealed layer`.
    pub holds: &'static str,
    /// The file system and the inode number of the image.
    #[serde(skip)]
    file: (u64, u64),
    #[serde(skip)]
    number: Dev,
}

/// Returns the loop devices that were left behind.
pub fn loops() -> Result<Vec<OrphanLoop>> {
    let mut found = Vec::new();
    for name in holders::loop_devices() {
        let directory = Path::new("/sys/class/block").join(&name);
        let node = Path::new("/dev").join(&name);
        let Some(number) = sysfs::dev_of(&directory) else {
            continue;
        };
        // A look through all processes takes long, and a device above is enough.
        if holders::of_device(number, false).last() {
            continue;
        }
        let Some((holds, file)) = content(&node)? else {
            continue;
        };
        if holders::of_device(number, true).text().is_empty() {
            let device = node.display().to_string();
            found.push(OrphanLoop {
                image: loopdev::behind(&device).unwrap_or_default(),
                device,
                holds,
                file,
                number,
            });
        }
    }
    Ok(found)
}

/// Returns what a loop device holds, and its file. `None` if it is neither a leaf nor a layer, or
/// has gone.
fn content(node: &Path) -> Result<Option<(&'static str, (u64, u64))>> {
    let device = match Device::open(node, Role::Layer, Access::Read) {
        Ok(device) => device,
        Err(fail) if fail.reason == "permission" => return Err(fail),
        Err(_) => return Ok(None),
    };
    let Ok(info) = ioctl::loop_status(device.file()) else {
        return Ok(None);
    };
    let holds = match probe::superblock(&device) {
        Some(sb) if sb.frozen.is_some() => "frozen leaf",
        Some(_) => "leaf",
        None if sealed::is_marked(&device) => "sealed layer",
        None => return Ok(None),
    };
    Ok(Some((holds, (info.device, info.inode))))
}

impl OrphanLoop {
    /// Detaches the device from its image, unless a user of it has come since it was found.
    pub fn detach(&self) -> Result {
        let node = Path::new(&self.device);
        let busy = |why: String| {
            let text = format!("{}: {why}, so it was not detached", self.device);
            Err(Fail::new(BUSY, "busy", text))
        };
        // The claim keeps unions and mounts away, and the device cannot become that of another
        // image while it is open.
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(OFlags::EXCL.bits() as i32);
        let file: File = match options.open(node) {
            Ok(file) => file,
            Err(e) if e.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                return busy("it is in use now".to_owned());
            }
            Err(e) => return Err(Fail::io("open", node, &e)),
        };
        let shown = ioctl::loop_status(&file).map(|info| (info.device, info.inode));
        if shown != Ok(self.file) {
            return busy("it shows another image now".to_owned());
        }
        let users = holders::of_device(self.number, true).text();
        if !users.is_empty() {
            return busy(format!("it is in use now ({users})"));
        }
        let cleared = ioctl::loop_clear(&file);
        cleared.map_err(|e| Fail::io("detach", node, &e.into()))?;
        drop(file);
        if Deadline::new().until(|| !self.is_there()) {
            return Ok(());
        }
        let text = format!(
            "{}: another process has opened it meanwhile; it goes with the last close",
            self.device
        );
        Err(Fail::new(BUSY, "busy", text))
    }

    /// Returns whether the device still shows the image.
    fn is_there(&self) -> bool {
        let file = File::open(&self.device);
        let info = file.and_then(|file| ioctl::loop_status(file).map_err(io::Error::from));
        info.is_ok_and(|info| (info.device, info.inode) == self.file)
    }
}

/// Why a leaf counts as left behind.
#[derive(Clone, Debug, Serialize)]
pub struct Reason {
    /// `not_clean`, `no_root` or `no_layer`.
    pub why: &'static str,
    /// The same for people, and what to do next.
    pub text: String,
}

/// A leaf that no union uses, and that was not detached, or whose root or layers are not found.
#[derive(Clone, Debug, Serialize)]
pub struct OrphanLeaf {
    /// Its path.
    pub leaf: String,
    /// Its UUID.
    pub uuid: String,
    /// Its name.
    pub name: Option<String>,
    /// Whether it is a layer.
    pub frozen: bool,
    /// Why it counts.
    pub reasons: Vec<Reason>,
}

/// Returns the leaves among the devices and images in some places that were left behind. Their
/// roots and layers are looked for in `below` too.
pub fn leaves(
    places: &[PathBuf],
    below: &[PathBuf],
    loops: &[OrphanLoop],
) -> Result<Vec<OrphanLeaf>> {
    let below = Places::new(below)?;
    let mut found = Vec::new();
    for path in search::devices_in(places)? {
        found.extend(leaf(&path, &below, loops)?);
    }
    Ok(found)
}

/// Returns a leaf if it was left behind.
pub fn leaf(path: &Path, below: &Places, loops: &[OrphanLoop]) -> Result<Option<OrphanLeaf>> {
    let leaf = match Device::open(path, Role::Leaf, Access::Read) {
        Ok(leaf) => leaf,
        Err(fail) if fail.reason == "permission" => return Err(fail),
        // What is neither a device nor an image, or has gone.
        Err(_) => return Ok(None),
    };
    let Some(sb) = probe::superblock(&leaf).filter(|_| !is_used(&leaf, loops)) else {
        return Ok(None);
    };
    let mut reasons = Vec::new();
    if sb.frozen.is_none() && !sb.clean {
        let text =
            "its union was not detached: ubctl create attaches it again and recovers all that \
                    was flushed";
        reasons.push(Reason {
            why: "not_clean",
            text: text.to_owned(),
        });
    }
    let [root, layers] = search::missing(&leaf, below)?;
    for (why, fail) in [("no_root", root), ("no_layer", layers)] {
        reasons.extend(fail.map(|fail| Reason {
            why,
            text: fail.message,
        }));
    }
    Ok((!reasons.is_empty()).then(|| OrphanLeaf {
        leaf: path.display().to_string(),
        uuid: output::uuid(&sb.uuid),
        name: output::name(sb.name),
        frozen: sb.frozen.is_some(),
        reasons,
    }))
}

/// Returns whether a union or another user has a leaf. A loop device that was left behind is no
/// user.
fn is_used(leaf: &Device, loops: &[OrphanLoop]) -> bool {
    let meta = leaf.metadata();
    let is_orphan = |orphan: &OrphanLoop| {
        let is_device = meta.file_type().is_block_device();
        match is_device {
            true => orphan.number == meta.rdev(),
            false => orphan.file == (meta.dev(), meta.ino()),
        }
    };
    !loops.iter().any(is_orphan) && !holders::of_path(leaf.path(), true).text().is_empty()
}
