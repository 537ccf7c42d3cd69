// SPDX-License-Identifier: GPL-2.0

//! Whether a root and a leaf share a sector, through partitions, device mapper, RAID, loop devices
//! and file systems.
//!
//! Both root and leaf are followed down to what their bytes lie on, by the numbers of the open
//! files, never by a path. A trail is one way down. Two trails share bytes if the uppermost storage
//! that is on both has a byte on both, because below that storage bytes that were separate above it
//! stay separate. Where only a driver knows which bytes of a device it uses (RAID, most targets of
//! device mapper), all bytes count.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, OFlags};
use ubcore::error::{Error, Role};

use crate::control::is_union;
use crate::device::{self, Device};
use crate::dm::{self, Behind};
use crate::error::{Fail, Result, FAILED, REFUSED};
use crate::ioctl::{self, LoopInfo};
use crate::sysfs::{btrfs, link_of, name, number, slave_numbers};
use crate::wwid;

/// The greatest length of a trail; the kernel stacks fewer devices.
const DEEPEST: usize = 64;
/// The greatest number of steps in all trails of a device.
const STEPS: usize = 1 << 16;
const SECTOR: u64 = 512;

/// A device or file that bytes lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    /// A whole disk, by its number.
    Disk(u64),
    /// A file, by the number of its file system's device and its inode number.
    File(u64, u64),
    /// A file system: each file has one byte, at its inode number.
    System(u64),
    /// A pool of thin volumes: each volume has one byte.
    Pool(u64),
}

/// Some bytes of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StorageRange {
    storage: Storage,
    from: u64,
    to: u64,
}

impl StorageRange {
    fn of(storage: Storage, from: u64, to: u64) -> StorageRange {
        StorageRange { storage, from, to }
    }

    fn meets(&self, other: &StorageRange) -> bool {
        self.storage == other.storage && self.from < other.to && other.from < self.to
    }
}

type Trail = Vec<StorageRange>;

/// Refuses a leaf that has a byte in common with a root or a layer. Also refuses either of the two
/// if it lies on a union without a file system in between. Both are open, so neither can become
/// another device.
pub fn refuse(root: &Device, leaf: &Device) -> Result {
    let below = root.role();
    let what = format!("{} {}, leaf {}", below.name(), root.name(), leaf.name());
    if device::is_same(root.metadata(), leaf.metadata()) {
        return Err(Fail::core(&what, Error::SameDevice));
    }
    let (root, mut leaf) = (trails(root, below)?, trails(leaf, Role::Leaf)?);
    for (role, trails) in [(below, &root), (Role::Leaf, &leaf)] {
        // The driver sees only a union itself, not a union below device mapper.
        if trails.iter().any(is_on_union) {
            return Err(Fail::core(&what, Error::Stacked(role)));
        }
    }
    let paths = one_path(&root, &mut leaf, |dev| wwid::of_disk(&link_of(dev)));
    match shared(&root, &leaf) {
        Some((r, l)) => Err(Fail::new(
            REFUSED,
            "same_device",
            format!(
                "{what}: {}{}: to write to the leaf would change the {}: choose a leaf that shares \
                 nothing with it",
                common(below.name(), &r, &l),
                same(&paths),
                below.name()
            ),
        )),
        None => Ok(()),
    }
}

/// Replaces the disks of the leaf by those of the root that are the same disk on another path, as
/// `wwid` says. Returns both, the root's first.
fn one_path(
    root: &[Trail],
    leaf: &mut [Trail],
    wwid: impl Fn(u64) -> Option<String>,
) -> Vec<(u64, u64)> {
    let disk = |step: &StorageRange| match step.storage {
        Storage::Disk(dev) => Some(dev),
        _ => None,
    };
    let disks = root.iter().flatten().filter_map(disk);
    let known: HashMap<String, u64> = disks.filter_map(|dev| Some((wwid(dev)?, dev))).collect();
    let mut paths = Vec::new();
    for step in leaf.iter_mut().flatten() {
        let Some(dev) = disk(step) else { continue };
        let other = wwid(dev).and_then(|id| known.get(&id).copied());
        if let Some(other) = other.filter(|&other| other != dev) {
            step.storage = Storage::Disk(other);
            paths.push((other, dev));
        }
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Returns which disks are the same, for people.
fn same(paths: &[(u64, u64)]) -> String {
    let one = |(root, leaf): &(u64, u64)| {
        let (root, leaf) = (name(*root), name(*leaf));
        format!(" ({leaf} is {root} on another path, as its WWID says)")
    };
    paths.iter().map(one).collect()
}

/// Refuses a leaf that lies on this disk at all, also as an image of a file system on it.
pub fn refuse_upon(leaf: &Device, disk: u64) -> Result {
    let trails = trails(leaf, Role::Leaf)?;
    let is_there = |step: &StorageRange| step.storage == Storage::Disk(disk);
    if !trails.iter().flatten().any(is_there) {
        return Ok(());
    }
    let text = format!(
        "leaf {}: it lies on the union itself, which would then need itself for each write: choose \
         a leaf elsewhere",
        leaf.path().display()
    );
    Err(Fail::new(REFUSED, "same_device", text))
}

/// Returns whether a trail reaches a union before it reaches a file.
fn is_on_union(trail: &Trail) -> bool {
    let is_device =
        |step: &&StorageRange| matches!(step.storage, Storage::Disk(_) | Storage::Pool(_));
    trail
        .iter()
        .take_while(is_device)
        .any(|step| match step.storage {
            Storage::Disk(dev) => fs::canonicalize(link_of(dev)).is_ok_and(|p| is_union(&p)),
            _ => false,
        })
}

/// Returns the first two steps with a byte in common that have nothing in common above them.
fn shared(root: &[Trail], leaf: &[Trail]) -> Option<(StorageRange, StorageRange)> {
    let meeting = |r: &Trail, l: &Trail| {
        let (r, l) = r
            .iter()
            .find_map(|r| Some((*r, *l.iter().find(|l| l.storage == r.storage)?)))?;
        r.meets(&l).then_some((r, l))
    };
    root.iter()
        .find_map(|r| leaf.iter().find_map(|l| meeting(r, l)))
}

/// Returns the common part of two steps, for people. `below` is the role of the first.
fn common(below: &str, root: &StorageRange, leaf: &StorageRange) -> String {
    let part = |role: &str, s: &StorageRange| match (s.from, s.to) {
        (0, u64::MAX) => format!("the {role} lies somewhere on it"),
        (from, u64::MAX) => format!("the {role} has its bytes from {from} on"),
        (from, to) => format!(
            "the {role} has its bytes {from} to {}",
            to.saturating_sub(1)
        ),
    };
    let both = || format!("{} and {}", part(below, root), part("leaf", leaf));
    match root.storage {
        Storage::Disk(dev) => format!("both are on {}: {}", name(dev), both()),
        Storage::File(..) => format!("both are on one file: {}", both()),
        Storage::System(_) => "both are one file".to_owned(),
        Storage::Pool(dev) => format!("both are one volume of the pool {}", name(dev)),
    }
}

/// Returns all trails from a device or image.
fn trails(device: &Device, role: Role) -> Result<Vec<Trail>> {
    let meta = device.metadata();
    let mut walk = Walk {
        role,
        sources: HashMap::new(),
        steps: 0,
    };
    let end = device.start().saturating_add(device.bytes());
    let top = if meta.file_type().is_block_device() {
        let step = block(meta.rdev(), device.start(), end);
        step.ok_or_else(|| {
            unknown(
                device,
                "/sys/dev/block does not list it: mount sysfs on /sys",
            )
        })?
    } else {
        walk.learn(meta.dev(), device.file());
        StorageRange::of(Storage::File(meta.dev(), meta.ino()), device.start(), end)
    };
    let mut list = Vec::new();
    let whole = walk.down(&mut vec![top], &mut list);
    whole.ok_or_else(|| {
        unknown(
            device,
            "it is made of too many devices, or of a loop device whose file cannot be seen: run \
                 as root",
        )
    })?;
    Ok(list)
}

fn unknown(device: &Device, why: &str) -> Fail {
    let path = device.name();
    Fail::new(
        FAILED,
        "unknown_place",
        format!(
            "cannot determine which sectors {path} consists of, so the devices may share sectors: {why}"
        ),
    )
}

struct Walk {
    role: Role,
    /// The devices that file systems without a device number are on, as their mounts say.
    sources: HashMap<u64, PathBuf>,
    steps: usize,
}

impl Walk {
    /// Adds all trails that start with `trail`. Returns `None` if the trails do not end, or if it
    /// is unknown where one leads.
    fn down(&mut self, trail: &mut Trail, list: &mut Vec<Trail>) -> Option<()> {
        self.steps += 1;
        if trail.len() > DEEPEST || self.steps > STEPS {
            return None;
        }
        let below = self.below(trail.last()?)?;
        if below.is_empty() {
            list.push(trail.clone());
        }
        for step in below {
            trail.push(step);
            self.down(trail, list)?;
            trail.pop();
        }
        Some(())
    }

    fn below(&mut self, step: &StorageRange) -> Option<Vec<StorageRange>> {
        Some(match step.storage {
            Storage::Disk(dev) => self.below_disk(dev, step)?,
            Storage::File(dev, inode) => {
                vec![StorageRange::of(
                    Storage::System(dev),
                    inode,
                    inode.saturating_add(1),
                )]
            }
            Storage::System(dev) => self.below_system(dev),
            Storage::Pool(dev) => whole(dev).into_iter().collect(),
        })
    }

    fn below_disk(&mut self, dev: u64, step: &StorageRange) -> Option<Vec<StorageRange>> {
        let folder = link_of(dev);
        if folder.join("loop").exists() {
            return self.below_loop(dev, step).map(|step| vec![step]);
        }
        if folder.join("dm").exists() {
            if let Some(list) = dm::table(dev).and_then(|table| below_dm(&table, step)) {
                return Some(list);
            }
        }
        let mut below = slave_numbers(&folder);
        // A write to a union goes only to its leaf. What the union shows depends on both devices.
        if self.role == Role::Leaf && fs::canonicalize(&folder).is_ok_and(|p| is_union(&p)) {
            let leaf = fs::read_to_string(folder.join("union/leaf")).unwrap_or_default();
            let leaf = fs::metadata(leaf.trim_end_matches('\n')).map(|m| m.rdev());
            if let Some(leaf) = leaf.ok().filter(|leaf| below.contains(leaf)) {
                below = vec![leaf];
            }
        }
        Some(below.into_iter().filter_map(whole).collect())
    }

    /// Returns what a loop device shows: a file or another device. `None` if neither the device nor
    /// sysfs says.
    fn below_loop(&mut self, dev: u64, step: &StorageRange) -> Option<StorageRange> {
        let path = fs::read_to_string(link_of(dev).join("loop/backing_file")).ok();
        let file = path.and_then(|p| look(Path::new(p.trim_end_matches('\n'))));
        let meta = file.as_ref().and_then(|f| f.metadata().ok());
        let info = node(dev).and_then(|node| ioctl::loop_status(&node).ok());
        let info = info.or_else(|| loop_of_sysfs(dev, meta.as_ref()?))?;
        let end = match info.sizelimit {
            0 => u64::MAX,
            n => info.offset.saturating_add(n),
        };
        let from = info.offset.saturating_add(step.from);
        let to = info.offset.saturating_add(step.to).min(end);
        if info.rdevice != 0 {
            return block(info.rdevice, from, to);
        }
        let same = |m: &Metadata| m.dev() == info.device && m.ino() == info.inode;
        if let Some(file) = file.filter(|_| meta.as_ref().is_some_and(same)) {
            self.learn(info.device, &file);
        }
        Some(StorageRange::of(
            Storage::File(info.device, info.inode),
            from,
            to,
        ))
    }

    /// Records the device that the file system of an open file is on. A file system over several
    /// devices (btrfs) has a number that belongs to none of them.
    fn learn(&mut self, dev: u64, file: &File) {
        if major(dev) != 0 || self.sources.contains_key(&dev) {
            return;
        }
        if let Some(source) = source(file) {
            self.sources.insert(dev, source);
        }
    }

    fn below_system(&self, dev: u64) -> Vec<StorageRange> {
        if major(dev) != 0 {
            return whole(dev).into_iter().collect();
        }
        let Some(source) = self.sources.get(&dev) else {
            return Vec::new();
        };
        let Some(meta) = fs::metadata(source)
            .ok()
            .filter(|m| m.file_type().is_block_device())
        else {
            return Vec::new();
        };
        let mut all = btrfs(meta.rdev());
        all.push(meta.rdev());
        all.into_iter().filter_map(whole).collect()
    }
}

/// Returns what lies behind the bytes of a device-mapper device; `None` if its table does not say.
fn below_dm(table: &[dm::DmTarget], step: &StorageRange) -> Option<Vec<StorageRange>> {
    let mut list = Vec::new();
    for target in table {
        let start = target.start.saturating_mul(SECTOR);
        let end = start.saturating_add(target.len.saturating_mul(SECTOR));
        let (from, to) = (step.from.max(start), step.to.min(end));
        if from >= to {
            continue;
        }
        match target.behind {
            Behind::Nothing => {}
            Behind::Linear(dev, sector) => {
                let moved = |at: u64| sector.saturating_mul(SECTOR).saturating_add(at - start);
                list.push(block(dev, moved(from), moved(to))?);
            }
            Behind::Thin(pool, id) => list.push(StorageRange::of(
                Storage::Pool(pool),
                id,
                id.saturating_add(1),
            )),
            Behind::Unknown => return None,
        }
    }
    // These bytes lie on nothing. The trail ends here, but it is a separate trail.
    Some(list)
}

/// Converts bytes of a device to bytes of its disk; `None` if sysfs does not know the device.
fn block(dev: u64, from: u64, to: u64) -> Option<StorageRange> {
    let folder = link_of(dev);
    if !folder.exists() {
        return None;
    }
    if !folder.join("partition").exists() {
        return Some(StorageRange::of(Storage::Disk(dev), from, to));
    }
    let start = number::<u64>(&folder.join("start"))?.saturating_mul(SECTOR);
    let size = number::<u64>(&folder.join("size"))?.saturating_mul(SECTOR);
    let disk = dm::device(
        &fs::read_to_string(fs::canonicalize(&folder).ok()?.parent()?.join("dev")).ok()?,
    )?;
    let end = start.saturating_add(size);
    Some(StorageRange::of(
        Storage::Disk(disk),
        start.saturating_add(from).min(end),
        start.saturating_add(to).min(end),
    ))
}

fn whole(dev: u64) -> Option<StorageRange> {
    block(dev, 0, u64::MAX)
}

/// Reads from sysfs what a loop device would return, for a user who must not open the device.
fn loop_of_sysfs(dev: u64, file: &Metadata) -> Option<LoopInfo> {
    let folder = link_of(dev).join("loop");
    let mut info = LoopInfo::ZERO;
    info.offset = number(&folder.join("offset"))?;
    info.sizelimit = number(&folder.join("sizelimit"))?;
    (info.device, info.inode) = (file.dev(), file.ino());
    if file.file_type().is_block_device() {
        info.rdevice = file.rdev();
    }
    Some(info)
}

/// Opens a device's node for queries. Refuses a node that stands for another device.
fn node(dev: u64) -> Option<File> {
    let file = File::open(name(dev)).ok()?;
    let meta = file.metadata().ok()?;
    (meta.file_type().is_block_device() && meta.rdev() == dev).then_some(file)
}

/// Opens a file for queries only, not for I/O.
fn look(path: &Path) -> Option<File> {
    let mut options = File::options();
    let flags = i32::try_from(OFlags::PATH.bits()).ok()?;
    options.read(true).custom_flags(flags).open(path).ok()
}

/// Returns the source of the mount of an open file, if that is a path.
fn source(file: &File) -> Option<PathBuf> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    source_of(mount, &mounts)
}

fn source_of(mount: &str, mounts: &str) -> Option<PathBuf> {
    let line = mounts
        .lines()
        .find(|l| l.split(' ').next() == Some(mount))?;
    let source = line.split_once(" - ")?.1.split(' ').nth(1)?;
    source.starts_with('/').then(|| PathBuf::from(source))
}

#[cfg(test)]
mod tests {
    use super::{below_dm, one_path, shared, source_of, Behind, Storage, StorageRange, Trail};
    use crate::dm::DmTarget;

    const A: Storage = Storage::Disk(1);
    const B: Storage = Storage::Disk(2);
    const RAID: Storage = Storage::Disk(3);

    fn trail(steps: &[(Storage, u64, u64)]) -> Trail {
        let step = |&(storage, from, to): &(Storage, u64, u64)| StorageRange::of(storage, from, to);
        steps.iter().map(step).collect()
    }

    fn meet(root: &[Trail], leaf: &[Trail]) -> bool {
        let both = (shared(root, leaf).is_some(), shared(leaf, root).is_some());
        assert_eq!(both.0, both.1);
        both.0
    }

    #[test]
    fn ranges_of_one_disk() {
        let one = |from, to| vec![trail(&[(A, from, to)])];
        assert!(meet(&one(0, 100), &one(99, 200)));
        assert!(meet(&one(0, u64::MAX), &one(7, 8)));
        assert!(!meet(&one(0, 100), &one(100, 200)));
        assert!(!meet(&one(0, 100), &[trail(&[(B, 0, 100)])]));
    }

    #[test]
    fn what_is_apart_above_is_apart_below() {
        // Two partitions of a RAID over two disks do not overlap.
        let over = |from, to| {
            let below = |disk| trail(&[(RAID, from, to), (disk, 0, u64::MAX)]);
            vec![below(A), below(B)]
        };
        assert!(!meet(&over(0, 10), &over(10, 20)));
        assert!(meet(&over(0, 11), &over(10, 20)));
        // But one of the RAID's disks cannot be the leaf.
        assert!(meet(&over(0, 10), &[trail(&[(B, 5, 6)])]));
        // Of two trails, one overlaps.
        let other = trail(&[(Storage::Disk(9), 0, 8), (B, 0, 8)]);
        assert!(meet(
            &over(0, 10),
            &[trail(&[(Storage::Disk(8), 0, 1)]), other]
        ));
    }

    #[test]
    fn a_disk_on_two_paths_is_one_disk() {
        let wwid = |dev| match dev {
            1 | 2 => Some("naa.1 100".to_owned()),
            3 => Some("naa.3 100".to_owned()),
            _ => None,
        };
        let root = [trail(&[(A, 0, 100)])];
        let on = |leaf: Trail| {
            let mut leaf = [leaf];
            let paths = one_path(&root, &mut leaf, wwid);
            (paths, meet(&root, &leaf))
        };
        assert_eq!(on(trail(&[(B, 50, 200)])), (vec![(1, 2)], true));
        assert_eq!(on(trail(&[(B, 100, 200)])), (vec![(1, 2)], false));
        assert_eq!(on(trail(&[(RAID, 0, 9), (B, 0, 9)])), (vec![(1, 2)], true));
        assert_eq!(on(trail(&[(A, 0, 9)])), (vec![], true));
        assert_eq!(on(trail(&[(RAID, 0, 9)])), (vec![], false));
        assert_eq!(on(trail(&[(Storage::Disk(4), 0, 9)])), (vec![], false));
    }

    #[test]
    fn files_of_one_file_system_are_apart_and_on_its_device() {
        let file = |inode: u64, from, to| {
            let (file, system) = (Storage::File(1, inode), Storage::System(1));
            trail(&[
                (Storage::Disk(100 + inode), 0, to - from),
                (file, from, to),
                (system, inode, inode + 1),
                (A, 0, u64::MAX),
            ])
        };
        assert!(!meet(&[file(7, 0, 100)], &[file(8, 0, 100)]));
        assert!(meet(&[file(7, 0, 100)], &[trail(&[(A, 3, 4)])]));
        // Two loop devices over different parts of one file do not overlap.
        let mut second = file(7, 100, 200);
        second[0].storage = Storage::Disk(200);
        assert!(!meet(&[file(7, 0, 100)], &[second.clone()]));
        assert!(meet(&[file(7, 0, 101)], &[second]));
    }

    #[test]
    fn a_table_leads_to_the_sectors_it_names() {
        let target = |start, len, behind| DmTarget { start, len, behind };
        let thin = Behind::Thin(5, 7);
        let table = [
            target(0, 8, Behind::Nothing),
            target(8, 8, thin),
            target(16, 8, Behind::Unknown),
        ];
        let below = |from: u64, to: u64| {
            below_dm(
                &table,
                &StorageRange::of(Storage::Disk(1), from * 512, to * 512),
            )
        };
        let pool = StorageRange::of(Storage::Pool(5), 7, 8);
        assert_eq!(below(0, 8), Some(vec![]));
        assert_eq!(below(0, 16), Some(vec![pool]));
        assert_eq!(below(15, 17), None);
        assert_eq!(below(100, 200), Some(vec![]));
    }

    #[test]
    fn the_device_of_a_mount() {
        let mounts = "22 1 0:20 / /proc rw shared:1 - proc proc rw\n\
            30 1 0:33 /@ / rw,noatime shared:2 - btrfs /dev/sda2 rw,subvol=/@\n";
        assert_eq!(source_of("30", mounts), Some("/dev/sda2".into()));
        assert_eq!(source_of("22", mounts), None);
        assert_eq!(source_of("3", mounts), None);
    }
}
