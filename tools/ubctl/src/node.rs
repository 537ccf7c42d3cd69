// SPDX-License-Identifier: GPL-2.0

//! The nodes of block devices in `/dev`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dev, OFlags};

use crate::sysfs;

/// A device and the place of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `/dev/NAME`.
    pub path: PathBuf,
    /// The device's number.
    pub dev: Dev,
}

/// What is at a node's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The node.
    Right,
    /// Nothing.
    Empty,
    /// Something else, in words.
    Wrong(&'static str),
}

impl Node {
    /// Returns the node of a device with this name.
    pub fn new(name: &str, dev: Dev) -> Node {
        let path = Path::new("/dev").join(name);
        Node { path, dev }
    }

    /// Returns what is at the node's place.
    pub fn state(&self) -> NodeState {
        state(&self.path, Some(self.dev))
    }
}

/// Returns what is at the place of a block device's node. Without a number, the node of any device
/// is right.
pub fn state(path: &Path, dev: Option<Dev>) -> NodeState {
    let kind = match fs::metadata(path) {
        Err(_) if path.is_symlink() => return NodeState::Wrong("a dangling link"),
        Err(e) if e.kind() == ErrorKind::NotFound => return NodeState::Empty,
        Err(_) => return NodeState::Wrong("something that cannot be examined"),
        Ok(meta) if meta.file_type().is_block_device() => {
            return match dev {
                Some(dev) if meta.rdev() != dev => NodeState::Wrong("the node of another device"),
                _ => NodeState::Right,
            };
        }
        Ok(meta) => meta.file_type(),
    };
    NodeState::Wrong(match kind {
        kind if kind.is_file() => "a regular file",
        kind if kind.is_dir() => "a directory",
        _ => "neither a block device's node nor a file",
    })
}

/// Returns a disk and its partitions, as sysfs has them now.
pub fn family(name: &str, disk: Dev) -> Vec<Node> {
    let mut list = vec![Node::new(name, disk)];
    let parts = fs::read_dir(Path::new("/sys/class/block").join(name));
    for part in parts.into_iter().flatten().flatten() {
        let file = part.file_name();
        if !part.path().join("partition").exists() {
            continue;
        }
        if let (Some(name), Some(dev)) = (file.to_str(), sysfs::dev_of(&part.path())) {
            list.push(Node::new(name, dev));
        }
    }
    list
}

/// Returns the disk of a partition; for a disk, the disk itself.
pub fn whole(dev: Dev) -> Option<Node> {
    let mut directory = sysfs::directory_of(dev)?;
    if directory.join("partition").exists() {
        directory.pop();
    }
    let name = directory.file_name()?.to_str()?.to_owned();
    Some(Node::new(&name, sysfs::dev_of(&directory)?))
}

/// Opens a node for queries, and never blocks.
pub fn peek(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::{state, NodeState, Path};

    #[test]
    fn what_is_in_a_nodes_place() {
        let at = |p: &str| state(Path::new(p), None);
        assert_eq!(at("/nowhere/unionblk0"), NodeState::Empty);
        assert_eq!(at("/proc/version"), NodeState::Wrong("a regular file"));
        assert_eq!(at("/proc"), NodeState::Wrong("a directory"));
        assert!(matches!(at("/dev/null"), NodeState::Wrong(_)));
        let link = std::env::temp_dir().join(format!("ubctl-node-{}", std::process::id()));
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        assert_eq!(state(&link, None), NodeState::Wrong("a dangling link"));
        std::fs::remove_file(&link).unwrap();
    }
}
