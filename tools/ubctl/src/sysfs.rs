// SPDX-License-Identifier: GPL-2.0

//! Reads from sysfs what it has of a device: its number, its disk, its blocks, and for a union
//! whether the devices below it are still there. This module does no I/O on the devices, so it can
//! look at a device that hangs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor, Dev};
use serde::Serialize;
use ubcore::format::name::UNION_PREFIX;

use crate::dm;

/// Block sizes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// The smallest unit that can be read or written.
    pub logical: u32,
    /// The smallest unit that is written without a read of what surrounds it.
    pub physical: u32,
}

/// The state of a root or leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// No fault is known.
    Present,
    /// The device was pulled out or removed.
    Gone,
    /// The device is there but cannot do I/O.
    Offline,
    /// The device has become smaller than the union needs.
    Shrunk,
    /// The device takes no writes any more.
    WriteProtected,
}

/// A root or leaf as sysfs shows it.
#[derive(Debug)]
pub struct LowerState {
    /// Its blocks, if they are known.
    pub blocks: Option<BlockSizes>,
    /// Its state.
    pub state: DeviceState,
}

/// What a union needs of its root or leaf.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The path that was given at create.
    pub path: &'a str,
    /// Its size.
    pub sectors: u64,
    /// Whether the union writes to it.
    pub write: bool,
}

/// Returns the directory in sysfs of the device at a path.
pub fn directory(path: &Path) -> Option<PathBuf> {
    directory_of(fs::metadata(path).ok()?.rdev())
}

/// Returns the number of a device from its directory in sysfs.
pub fn dev_of(directory: &Path) -> Option<Dev> {
    let text = fs::read_to_string(directory.join("dev")).ok()?;
    let (a, b) = text.trim().split_once(':')?;
    Some(makedev(a.parse().ok()?, b.parse().ok()?))
}

/// Returns the directory in sysfs of the device with a number; none without sysfs.
pub fn directory_of(dev: Dev) -> Option<PathBuf> {
    fs::canonicalize(format!("/sys/dev/block/{}:{}", major(dev), minor(dev))).ok()
}

/// Returns the disk of a partition, or the disk itself.
pub fn disk(directory: &Path) -> &Path {
    match directory.parent() {
        Some(disk) if directory.join("partition").exists() => disk,
        _ => directory,
    }
}

/// Returns the blocks of a device.
pub fn blocks(directory: &Path) -> Option<BlockSizes> {
    let queue = disk(directory).join("queue");
    Some(BlockSizes {
        logical: number(&queue.join("logical_block_size"))?,
        physical: number(&queue.join("physical_block_size"))?,
    })
}

/// Returns the number in a file of sysfs.
pub fn number<N: std::str::FromStr>(file: &Path) -> Option<N> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns the state of a union's root and leaf; `block` is `/sys/block`. The path of a root that a
/// union does not have is empty.
pub fn of_union(block: &Path, name: &str, needs: [Need<'_>; 2], layers: u32) -> [LowerState; 2] {
    let slaves = slaves(&block.join(name), name);
    let alive: Vec<&PathBuf> = slaves
        .iter()
        .filter_map(|(_, directory)| directory.as_ref())
        .collect();
    let dead: Vec<&String> = slaves
        .iter()
        .filter_map(|(slave, directory)| directory.is_none().then_some(slave))
        .collect();
    let mut directories = needs.map(|need| {
        let directory = directory(Path::new(need.path));
        directory.filter(|directory| alive.contains(&directory))
    });
    let is_unknown = |n: usize, p: &Option<PathBuf>| p.is_none() && !needs[n].path.is_empty();
    let unknown = (0..2).filter(|&n| is_unknown(n, &directories[n])).count();
    let rest: Vec<PathBuf> = alive
        .iter()
        .filter(|directory| !directories.iter().flatten().any(|p| p == **directory))
        .map(|directory| (*directory).clone())
        .collect();
    // A path may lead to another device by now. If no layers are below the union and one device is
    // left over, it belongs to the device whose path does not match.
    if let ([one], 1, true, 0) = (&rest[..], unknown, dead.is_empty(), layers) {
        for (n, directory) in directories.iter_mut().enumerate() {
            if is_unknown(n, directory) {
                *directory = Some(one.clone());
            }
        }
    }
    let gone = |need: &Need<'_>| {
        let base = Path::new(need.path).file_name().and_then(|n| n.to_str());
        (layers == 0 && dead.len() >= unknown) || dead.iter().any(|d| Some(d.as_str()) == base)
    };
    let one = |n: usize| match &directories[n] {
        Some(directory) => LowerState {
            blocks: blocks(directory),
            state: state(directory, needs[n]),
        },
        None => LowerState {
            blocks: None,
            state: if is_unknown(n, &None) && !dead.is_empty() && gone(&needs[n]) {
                DeviceState::Gone
            } else {
                DeviceState::Present
            },
        },
    };
    [one(0), one(1)]
}

/// Returns the devices below a union: their names, and their directories if they are still there.
/// A new device with the name of a device that has gone does not have the union among its holders.
fn slaves(union: &Path, name: &str) -> Vec<(String, Option<PathBuf>)> {
    let Ok(list) = fs::read_dir(union.join("slaves")) else {
        return Vec::new();
    };
    list.flatten()
        .map(|entry| {
            let directory = fs::canonicalize(entry.path()).ok();
            let directory =
                directory.filter(|p| fs::symlink_metadata(p.join("holders").join(name)).is_ok());
            (entry.file_name().to_string_lossy().into_owned(), directory)
        })
        .collect()
}

fn state(directory: &Path, need: Need<'_>) -> DeviceState {
    let word = |file: &str| {
        let text = fs::read_to_string(disk(directory).join(file)).unwrap_or_default();
        text.trim().to_owned()
    };
    // SCSI and NVMe have a state. Each names its good state differently, and has states besides
    // good and failed.
    match word("device/state").as_str() {
        "dead" | "deleting" | "deleting (no IO)" | "cancel" | "del" => return DeviceState::Gone,
        "offline" | "transport-offline" => return DeviceState::Offline,
        _ => {}
    }
    match number::<u64>(&directory.join("size")) {
        Some(0) => DeviceState::Gone,
        Some(sectors) if sectors < need.sectors => DeviceState::Shrunk,
        _ if need.write && number::<u32>(&directory.join("ro")) == Some(1) => {
            DeviceState::WriteProtected
        }
        _ => DeviceState::Present,
    }
}

impl DeviceState {
    /// Returns what is wrong, for people.
    pub fn text(&self) -> &'static str {
        match self {
            DeviceState::Present => "is there",
            DeviceState::Gone => "is no longer there",
            DeviceState::Offline => "is offline",
            DeviceState::Shrunk => "is smaller than it was",
            DeviceState::WriteProtected => "is write-protected now",
        }
    }
}

/// Returns the symbolic link in sysfs to the directory of the device with a number.
pub fn link_of(dev: u64) -> PathBuf {
    format!("/sys/dev/block/{}:{}", major(dev), minor(dev)).into()
}

/// Returns the devices that a disk is made of, as sysfs says.
pub fn slave_numbers(folder: &Path) -> Vec<u64> {
    let list = fs::read_dir(folder.join("slaves"));
    let one = |entry: fs::DirEntry| dm::device(&fs::read_to_string(entry.path().join("dev")).ok()?);
    list.into_iter()
        .flatten()
        .flatten()
        .filter_map(one)
        .collect()
}

/// Returns the nodes of the devices that a union is made of, as sysfs says.
pub fn slave_nodes(id: u32) -> Vec<PathBuf> {
    let list = fs::read_dir(format!("/sys/block/{UNION_PREFIX}{id}/slaves"));
    let names = list.into_iter().flatten().flatten().map(|e| e.file_name());
    // sysfs has an exclamation mark where the name has a slash.
    names
        .map(|name| Path::new("/dev").join(name.to_string_lossy().replace('!', "/")))
        .collect()
}

/// Returns the names of the devices that lie on a disk or its partitions, as sysfs says: those of
/// device mapper, MD and others. File systems, processes and loop devices are not among them.
pub fn holders(disk: &Path) -> Vec<String> {
    let names = |list: PathBuf| {
        let list = fs::read_dir(list).into_iter().flatten().flatten();
        // sysfs has an exclamation mark where the name has a slash.
        list.map(|entry| entry.file_name().to_string_lossy().replace('!', "/"))
    };
    let parts = fs::read_dir(disk).into_iter().flatten().flatten();
    let parts = parts.map(|entry| entry.path());
    let parts = parts.filter(|part| part.join("partition").exists());
    let mut all: Vec<String> = parts
        .chain([disk.to_owned()])
        .flat_map(|of| names(of.join("holders")))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Returns all devices of the btrfs that has this one.
pub fn btrfs(dev: u64) -> Vec<u64> {
    let systems = fs::read_dir("/sys/fs/btrfs")
        .into_iter()
        .flatten()
        .flatten();
    for system in systems {
        let devices = fs::read_dir(system.path().join("devices"));
        let one = |e: fs::DirEntry| dm::device(&fs::read_to_string(e.path().join("dev")).ok()?);
        let devices: Vec<u64> = devices
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(one)
            .collect();
        if devices.contains(&dev) {
            return devices;
        }
    }
    Vec::new()
}

/// Returns the kernel's name of a device.
pub fn name(dev: u64) -> String {
    let found = fs::canonicalize(link_of(dev)).unwrap_or_default();
    match found.file_name().and_then(|n| n.to_str()) {
        Some(name) => format!("/dev/{}", name.replace('!', "/")),
        None => format!("{}:{}", major(dev), minor(dev)),
    }
}

#[cfg(test)]
mod tests {
    use super::{holders, of_union, state, DeviceState, Need};
    use std::fs;
    use std::path::{Path, PathBuf};

    fn folder(what: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ubctl-{what}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::canonicalize(path).unwrap()
    }

    const NEED: Need<'static> = Need {
        path: "/nowhere/a",
        sectors: 100,
        write: true,
    };

    #[test]
    fn what_a_device_is_like() {
        let at = folder("state");
        let put = |file: &str, text: &str| {
            let file = at.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(state(&at, NEED), DeviceState::Present);
        put("size", "100\n");
        put("device/state", "running\n");
        assert_eq!(state(&at, NEED), DeviceState::Present);
        put("ro", "1\n");
        assert_eq!(state(&at, NEED), DeviceState::WriteProtected);
        put("size", "99\n");
        assert_eq!(state(&at, NEED), DeviceState::Shrunk);
        put("size", "0\n");
        assert_eq!(state(&at, NEED), DeviceState::Gone);
        put("device/state", "offline\n");
        assert_eq!(state(&at, NEED), DeviceState::Offline);
        fs::remove_dir_all(at).unwrap();
    }

    #[test]
    fn what_is_gone_is_found_by_its_slaves() {
        let block = folder("block");
        for device in ["a", "b"] {
            fs::create_dir_all(block.join(device).join("holders/u0")).unwrap();
        }
        fs::create_dir_all(block.join("u0/slaves")).unwrap();
        for device in ["a", "b"] {
            std::os::unix::fs::symlink(block.join(device), block.join("u0/slaves").join(device))
                .unwrap();
        }
        let leaf = Need {
            path: "/nowhere/b",
            ..NEED
        };
        let states = || of_union(&block, "u0", [NEED, leaf], 0).map(|l| l.state);
        let (gone, present) = (DeviceState::Gone, DeviceState::Present);
        // Their paths lead to no device here. That alone does not mean that a device has gone.
        assert_eq!(states(), [present.clone(), present.clone()]);
        fs::remove_dir(block.join("a/holders/u0")).unwrap();
        assert_eq!(states(), [gone.clone(), present]);
        fs::remove_dir_all(block.join("b")).unwrap();
        assert_eq!(states(), [gone.clone(), gone]);
        let none = of_union(Path::new("/nowhere"), "u0", [NEED, leaf], 0);
        assert_eq!(
            none.map(|l| l.state),
            [DeviceState::Present, DeviceState::Present]
        );
        fs::remove_dir_all(block).unwrap();
    }

    #[test]
    fn devices_on_a_disk_and_its_partitions_are_found() {
        let disk = folder("holders");
        assert_eq!(holders(&disk), [""; 0]);
        for entry in [
            "holders/md0",
            "u0p1/holders/dm-1",
            "u0p1/holders/dm-0",
            "u0p2/holders/dm-1",
            "u0p2/holders/c!d",
            // This one is no partition.
            "queue/holders/dm-9",
        ] {
            fs::create_dir_all(disk.join(entry)).unwrap();
        }
        for part in ["u0p1", "u0p2"] {
            fs::write(disk.join(part).join("partition"), "1\n").unwrap();
        }
        assert_eq!(holders(&disk), ["c/d", "dm-0", "dm-1", "md0"]);
        fs::remove_dir_all(disk).unwrap();
    }

    /// A layer is neither the root nor the leaf, whether it is there or has gone.
    #[test]
    fn a_layer_is_not_taken_for_another_device() {
        let block = folder("layer");
        fs::create_dir_all(block.join("layer/holders/u0")).unwrap();
        fs::create_dir_all(block.join("layer/queue")).unwrap();
        for file in ["logical_block_size", "physical_block_size"] {
            fs::write(block.join("layer/queue").join(file), "512\n").unwrap();
        }
        fs::create_dir_all(block.join("u0/slaves")).unwrap();
        std::os::unix::fs::symlink(block.join("layer"), block.join("u0/slaves/layer")).unwrap();
        let root = |path| Need { path, ..NEED };
        let of = |path, layers| {
            let [root, _] = of_union(&block, "u0", [root(path), root("/nowhere/leaf")], layers);
            (root.state, root.blocks.is_some())
        };
        for path in ["", "/nowhere/root"] {
            assert_eq!(of(path, 1), (DeviceState::Present, false));
        }
        fs::remove_dir_all(block.join("layer")).unwrap();
        for path in ["", "/nowhere/root"] {
            assert_eq!(of(path, 1), (DeviceState::Present, false));
        }
        assert_eq!(of("", 0), (DeviceState::Present, false));
        fs::remove_dir_all(block).unwrap();
    }
}
