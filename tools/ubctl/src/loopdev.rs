// SPDX-License-Identifier: GPL-2.0

//! Roots, layers and leaves that are regular files. Each gets a loop device, which is removed with
//! its union.
//!
//! The loop device clears itself on its last close. This process holds it until the driver does, so
//! that no loop device is left behind, however this process ends. The file is locked by `flock`,
//! and the loop device keeps that lock for as long as it exists. A leaf is locked exclusively; a
//! root shares its lock with other roots.

mod memory;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{flock, ioctl_blksszget, FlockOperation};
use rustix::io::Errno;
use ubcore::abi;
use ubcore::error::Role;

pub use self::memory::{image_of, is_in_memory};
use crate::backing::Backing;
use crate::error::{Fail, Result, BUSY, FAILED, REFUSED};
use crate::holders::{self, retry, Tried};
use crate::ioctl::{self, LoopConfig, LoopInfo};
use crate::node::{self, NodeState};
use crate::wait::{Deadline, LoopGoes};
use crate::{backing, blocksize, locks, output, sysfs};

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// How long a node may take to appear after its device.
const NODE_WAIT: Duration = Duration::from_secs(3);
/// How often another process may take the loop device that the kernel returned as free.
const TRIES: u32 = 64;

/// A root or leaf in the form that the driver takes.
pub struct Lower {
    /// The block device.
    pub node: PathBuf,
    /// The name that the user gave: the image, where there is one.
    pub name: PathBuf,
    /// The loop device, held until the driver holds it.
    held: Option<File>,
    /// Dropped after `held`. Unless the driver takes the loop device, it waits until the device is
    /// gone.
    goes: Option<LoopGoes>,
    /// The file of a leaf in memory.
    memory: Option<File>,
}

impl Lower {
    /// Opens a device as it is, or puts an image on a loop device with blocks of `sector` bytes.
    /// Leaves nothing behind if it fails.
    pub fn open(path: &Path, role: Role, write: bool, sector: u32) -> Result<Lower> {
        let node = fs::canonicalize(path).map_err(|e| Fail::io("open", path, &e))?;
        let kind = fs::metadata(&node).map_err(|e| Fail::io("open", path, &e))?;
        if kind.is_file() {
            return Ok(Lower::on_loop(attach(&node, role, write, sector)?, path));
        }
        if !kind.file_type().is_block_device() {
            let text = format!(
                "{} is neither a block device nor an image: name a block device or a regular file",
                path.display()
            );
            return Err(Fail::new(REFUSED, "not_a_device", text));
        }
        refuse_locked(&node, role)?;
        Ok(Lower {
            node,
            name: path.to_owned(),
            held: None,
            goes: None,
            memory: None,
        })
    }

    /// Returns the image of this name, which a loop device shows.
    fn on_loop((node, held): (PathBuf, File), name: &Path) -> Lower {
        Lower {
            goes: Some(LoopGoes::new(&node)),
            node,
            name: name.to_owned(),
            held: Some(held),
            memory: None,
        }
    }

    /// Returns the path that the driver receives, and shows in the status. For a device it is the
    /// path that the user gave, not the one that a link leads to. For an image it is the node of
    /// the loop device.
    pub fn given(&self) -> PathBuf {
        let is_image = self.held.is_some();
        let path = std::path::absolute(&self.name).ok();
        path.filter(|p| !is_image && p.as_os_str().len() < abi::PATH_BYTES)
            .unwrap_or_else(|| self.node.clone())
    }

    /// Takes a device or image as it is, for a caller that opens it itself.
    pub fn as_it_is(path: &Path) -> Lower {
        Lower {
            node: path.to_owned(),
            name: path.to_owned(),
            held: None,
            goes: None,
            memory: None,
        }
    }

    /// Releases the loop device, because the driver has it open now.
    pub fn release(self) {
        drop(self.held);
        if let Some(goes) = self.goes {
            goes.stays();
        }
    }
}

/// Opens layers as [`Lower::open`] does. Looks through all loop devices twice, however many layers
/// there are: before the images are locked, and after.
pub fn open_layers<P: AsRef<Path>>(paths: &[P], sector: u32) -> Result<Vec<Lower>> {
    enum Step<'a> {
        Open(Lower),
        OpenImage(OpenImage),
        Again(&'a Path),
    }
    let mut steps = Vec::new();
    let mut files = HashSet::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let node = fs::canonicalize(path).map_err(|e| Fail::io("open", path, &e))?;
        let meta = fs::metadata(&node).map_err(|e| Fail::io("open", path, &e))?;
        steps.push(if !meta.is_file() {
            Step::Open(Lower::open(path, Role::Layer, false, sector)?)
        } else if files.insert(file_id(&meta)) {
            Step::OpenImage(OpenImage::open(&node, false, sector)?)
        } else {
            // Several layers lie in one image.
            Step::Again(path)
        });
    }
    let mut over = loops_over_all(&files);
    for (step, path) in steps.iter_mut().zip(paths) {
        if let Step::OpenImage(image) = step {
            match image.share(over.remove(&image.id()).unwrap_or_default()) {
                Some(found) => *step = Step::Open(Lower::on_loop(found, path.as_ref())),
                None => lock(&image.file, &image.path, Role::Layer)?,
            }
        }
    }
    let images = steps.iter().filter_map(|step| match step {
        Step::OpenImage(image) => Some(image.id()),
        _ => None,
    });
    let mut over = loops_over_all(&images.collect());
    let lower = |(step, path): (Step<'_>, &P)| match step {
        Step::Open(lower) => Ok(lower),
        Step::OpenImage(image) => {
            let found = over.remove(&image.id()).unwrap_or_default();
            Ok(Lower::on_loop(
                image.show(Role::Layer, found)?,
                path.as_ref(),
            ))
        }
        Step::Again(path) => Lower::open(path, Role::Layer, false, sector),
    };
    steps.into_iter().zip(paths).map(lower).collect()
}

/// Puts an image on a loop device. Returns the node, and the device held open.
fn attach(path: &Path, role: Role, write: bool, sector: u32) -> Result<(PathBuf, File)> {
    let image = OpenImage::open(path, write, sector)?;
    if role == Role::Layer {
        if let Some(found) = image.share(loops_over(&image.meta)) {
            return Ok(found);
        }
    }
    lock(&image.file, path, role)?;
    refuse_another_file(path, &image.meta)?;
    let over = loops_over(&image.meta);
    image.show(role, over)
}

/// Refuses a path that leads to another file by now than the one that was opened, because it was
/// deleted or replaced while the command waited for the lock.
fn refuse_another_file(path: &Path, opened: &Metadata) -> Result {
    let now = fs::metadata(path).map_err(|e| Fail::io("open", path, &e))?;
    if (now.dev(), now.ino()) == (opened.dev(), opened.ino()) {
        return Ok(());
    }
    let text = format!(
        "{} became another file meanwhile: try again",
        path.display()
    );
    Err(Fail::new(FAILED, "not_found", text))
}

/// An image that is open, and the blocks that its loop device has to have.
struct OpenImage {
    file: File,
    meta: Metadata,
    path: PathBuf,
    write: bool,
    sector: u32,
}

impl OpenImage {
    fn open(path: &Path, write: bool, sector: u32) -> Result<OpenImage> {
        let file = OpenOptions::new()
            .read(true)
            .write(write)
            .open(path)
            .map_err(|e| Fail::io("open", path, &e))?;
        let meta = file.metadata().map_err(|e| Fail::io("open", path, &e))?;
        Ok(OpenImage {
            sector: blocksize::of_image(meta.len(), sector),
            path: path.to_owned(),
            file,
            meta,
            write,
        })
    }

    fn id(&self) -> FileId {
        file_id(&self.meta)
    }

    /// Returns whether a loop device has the blocks that this image needs.
    fn fits(&self, device: &File) -> bool {
        ioctl_blksszget(device) == Ok(self.sector)
    }

    /// Returns the loop device, among those over a layer, that the layer can share. The union that
    /// froze a leaf keeps the loop device on which it has written to the leaf. That device has the
    /// lock, and nothing writes to it any more.
    fn share(&self, over: Vec<Over>) -> Option<(PathBuf, File)> {
        let whole = over.into_iter().filter(Over::is_whole);
        let fits = |over: Over| Some((over.node, over.file.filter(|file| self.fits(file))?));
        whole.filter_map(fits).next()
    }

    /// Returns a loop device of this image, which the caller has locked: one of those over it, or a
    /// new one.
    fn show(self, role: Role, over: Vec<Over>) -> Result<(PathBuf, File)> {
        for over in over {
            if role == Role::Leaf || !over.is_read_only() {
                return Err(on_a_loop(&self.path, &over));
            }
            if !over.is_whole() {
                continue;
            }
            match over.file {
                Some(file) if self.fits(&file) => return Ok((over.node, file)),
                _ => {}
            }
        }
        configure(&self.file, &self.path, self.write, self.sector)
    }
}

/// Locks an image: a leaf against all other users, a root against writers.
pub fn lock(image: &File, path: &Path, role: Role) -> Result {
    let how = match role {
        Role::Root | Role::Layer => FlockOperation::NonBlockingLockShared,
        Role::Leaf => FlockOperation::NonBlockingLockExclusive,
    };
    let attempt = || match flock(image, how) {
        Ok(()) => Ok(Tried::Done(())),
        Err(Errno::WOULDBLOCK) => Ok(Tried::Busy),
        // On a file system without locks, the check of the loop devices has to be enough.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL) => Ok(Tried::Done(())),
        Err(e) => Err(Fail::io("lock", path, &e.into())),
    };
    refuse_locked(path, role)?;
    let look = |all| holders::of_path(path, all);
    retry(Deadline::new(), look, attempt)?.map_err(|who| who.fail(&path.display().to_string()))
}

/// Refuses a device or image that another program, such as a virtual machine, has locked in another
/// way than by `flock`. Such a program need not claim the device.
pub fn refuse_locked(path: &Path, role: Role) -> Result {
    let attempt = || {
        Ok(if locks::forbid(path, role) {
            Tried::Busy
        } else {
            Tried::Done(())
        })
    };
    let look = |all| holders::of_path(path, all);
    retry(Deadline::new(), look, attempt)?.map_err(|who| who.fail(&path.display().to_string()))
}

/// Refuses an image that a loop device shows, for a caller that writes to the file itself.
pub fn refuse_loops(meta: &Metadata, path: &Path) -> Result {
    match loops_over(meta).first() {
        Some(over) => Err(on_a_loop(path, over)),
        None => Ok(()),
    }
}

fn on_a_loop(path: &Path, over: &Over) -> Fail {
    let (path, node) = (path.display(), over.node.display());
    Fail::new(
        BUSY,
        "busy",
        format!(
            "{path} is in use: it is on {node}; detach that (losetup -d), or use {node} instead"
        ),
    )
}

/// A loop device that shows the file in question, held open so that it stays.
struct Over {
    node: PathBuf,
    /// None if its node is missing or does not open.
    file: Option<File>,
    info: LoopInfo,
}

impl Over {
    fn is_read_only(&self) -> bool {
        self.info.flags & READ_ONLY != 0
    }

    fn is_whole(&self) -> bool {
        self.info.offset == 0 && self.info.sizelimit == 0
    }
}

/// The file system of a file, and its inode number there.
type FileId = (u64, u64);

fn file_id(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// Returns the loop devices over a file, whatever path they were made with.
fn loops_over(meta: &Metadata) -> Vec<Over> {
    let id = file_id(meta);
    let mut over = loops_over_all(&HashSet::from([id]));
    over.remove(&id).unwrap_or_default()
}

/// Returns the loop devices over each of the files. Holds no other device open.
fn loops_over_all(files: &HashSet<FileId>) -> HashMap<FileId, Vec<Over>> {
    let mut over: HashMap<FileId, Vec<Over>> = HashMap::new();
    if files.is_empty() {
        return over;
    }
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    for disk in disks.filter(|d| d.path().join("loop/backing_file").exists()) {
        let node = Path::new("/dev").join(disk.file_name());
        // It is opened before its status is read, because it does not clear itself while it is
        // open.
        let found = match File::open(&node) {
            Ok(file) => ioctl::loop_status(&file).ok().map(|info| {
                let file = Some(file);
                ((info.device, info.inode), Over { node, file, info })
            }),
            Err(_) => unopened(&disk.path(), node),
        };
        if let Some((id, found)) = found.filter(|(id, _)| files.contains(id)) {
            over.entry(id).or_default().push(found);
        }
    }
    over
}

/// Takes a loop device that cannot be opened, by its directory in sysfs. Returns the file that it
/// shows, if that is still at its path.
fn unopened(directory: &Path, node: PathBuf) -> Option<(FileId, Over)> {
    let mut info = LoopInfo::ZERO;
    if sysfs::number::<u32>(&directory.join("ro")) == Some(1) {
        info.flags = READ_ONLY;
    }
    let file = None;
    Some((holders::shown(directory)?, Over { node, file, info }))
}

/// Finds a free loop device and makes it show the image, with direct I/O if possible.
fn configure(image: &File, path: &Path, write: bool, block_size: u32) -> Result<(PathBuf, File)> {
    let control = Path::new("/dev/loop-control");
    let control = File::open(control).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => Fail::new(
            FAILED,
            "no_loop",
            format!(
                "no {}: an image needs a loop device: modprobe loop",
                control.display()
            ),
        ),
        _ => Fail::io("open", control, &e),
    })?;
    let failed = |e: Errno| Fail::io("make a loop device of", path, &e.into());
    for _ in 0..TRIES {
        let number = ioctl::loop_get_free(&control).map_err(failed)?;
        let node = PathBuf::from(format!("/dev/loop{number}"));
        wait_for_node(&node, number)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(write).open(&node);
        let file = file.map_err(|e| Fail::io("open", &node, &e))?;
        match ioctl::loop_configure(&file, config(image, path, write, block_size)) {
            Ok(()) => {
                warn_buffered(&file, image, path, block_size);
                // The device is held for reading only. The driver opens its leaf such that no other
                // opener may write to it, and some kernels enforce that.
                let held = File::open(&node).map_err(|e| Fail::io("open", &node, &e))?;
                return Ok((node, held));
            }
            Err(Errno::BUSY) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    let text = format!(
        "no loop device for {}: other programs took it first; try again",
        path.display()
    );
    Err(Fail::new(BUSY, "busy", text))
}

fn config(image: &File, path: &Path, write: bool, block_size: u32) -> LoopConfig {
    let mut info = LoopInfo::ZERO;
    info.flags = AUTOCLEAR | DIRECT_IO | if write { 0 } else { READ_ONLY };
    let room = info.file_name.split_last_mut().map(|(_, room)| room);
    for (to, from) in room.into_iter().flatten().zip(path.as_os_str().as_bytes()) {
        *to = *from;
    }
    LoopConfig {
        fd: image.as_raw_fd().unsigned_abs(),
        block_size,
        info,
        reserved: [0; 8],
    }
}

/// Warns the user of a loop device without direct I/O. The kernel falls back to buffered I/O
/// without an error if the file system does not support direct I/O, or not with these blocks. A
/// file in memory is its own cache.
fn warn_buffered(file: &File, image: &File, path: &Path, block_size: u32) {
    let is_buffered = |info: LoopInfo| info.flags & DIRECT_IO == 0;
    if ioctl::loop_status(file).is_ok_and(is_buffered) && !backing::is_tmpfs(image) {
        output::complain(&format!(
            "{}: no direct I/O on this file system in sectors of {block_size} bytes: what is read and \
             written is cached twice",
            path.display()
        ));
    }
}

/// Warns where a write may be lost without an error. The loop driver hands a write to the file
/// system, and completes it without an error even if only a part was written. Without direct I/O
/// this happens to a write during which the space ends.
pub fn warn_short(leaf: &Lower) {
    let Some(held) = &leaf.held else { return };
    let Some(backing) = Backing::of(&leaf.node, false) else {
        return;
    };
    let info = ioctl::loop_status(held);
    let direct = info.is_ok_and(|info| info.flags & DIRECT_IO != 0) && !backing.is_tmpfs();
    if info.is_ok_and(|info| info.flags & READ_ONLY != 0) || direct || !backing.is_sparse() {
        return;
    }
    output::complain(&format!(
        "{}: when its file system is full, a write can be lost without an error, as the loop driver \
         does not see it: keep space there, or format with --preallocate",
        leaf.name.display()
    ));
}

/// Waits for the node of a loop device, because a new device may not have one yet.
fn wait_for_node(node: &Path, number: u32) -> Result {
    let dev = rustix::fs::makedev(7, number);
    let there = || node::state(node, Some(dev)) == NodeState::Right;
    if Deadline::of(NODE_WAIT).until(there) {
        return Ok(());
    }
    let state = node::state(node, Some(dev));
    let node = node.display();
    if let NodeState::Wrong(what) = state {
        let text = format!("{node} is {what}, where a loop device's node belongs: remove it");
        return Err(Fail::new(FAILED, "no_loop", text));
    }
    Err(Fail::new(
        FAILED,
        "no_loop",
        format!("{node} has no node: is devtmpfs mounted on /dev? (mknod {node} b 7 {number} makes one)"),
    ))
}

/// Returns the image that a loop device shows; none for any other device.
pub fn behind(device: &str) -> Option<String> {
    let directory = sysfs::directory(Path::new(device))?;
    let text = fs::read(directory.join("loop/backing_file")).ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.trim_end_matches('\n').to_owned())
}

/// An image as shown by a loop device or a partition of one.
pub struct ShownBy {
    /// The path at which the image was opened.
    pub path: PathBuf,
    /// The number of its file system.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
    /// The byte at which the device begins.
    pub start: u64,
}

/// Returns the image that a loop device or a partition of one shows; none for any other device.
pub fn shown_by(device: &Path) -> Option<ShownBy> {
    let directory = sysfs::directory(device)?;
    let disk = sysfs::disk(&directory);
    let path = fs::read(disk.join("loop/backing_file")).ok()?;
    let path = path.strip_suffix(b"\n").unwrap_or(&path);
    let path = PathBuf::from(OsStr::from_bytes(path));
    let node = Path::new("/dev").join(disk.file_name()?);
    let info = ioctl::loop_status(&File::open(node).ok()?).ok()?;
    let sectors: u64 = if disk == directory {
        0
    } else {
        sysfs::number(&directory.join("start"))?
    };
    Some(ShownBy {
        path,
        device: info.device,
        inode: info.inode,
        start: sectors.checked_mul(512)?.checked_add(info.offset)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{behind, config, lock, File, FlockOperation, Path, Role};
    use rustix::fs::fcntl_lock;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_a_loop_device_is_asked_to_be() {
        let file = File::open("/dev/null").unwrap();
        let c = config(&file, Path::new("/srv/gold.img"), false, 4096);
        assert_eq!(c.fd, file.as_raw_fd() as u32);
        assert_eq!(c.info.flags, 1 | 4 | 16);
        assert!(c.info.file_name.starts_with(b"/srv/gold.img\0"));
        let long = "x".repeat(100);
        let c = config(&file, Path::new(&long), true, 512);
        assert_eq!((c.info.flags, c.block_size), (4 | 16, 512));
        assert_eq!((c.info.file_name[62], c.info.file_name[63]), (b'x', 0));
    }

    #[test]
    fn a_leaf_has_one_user_and_a_root_is_no_leaf() {
        let path = std::env::temp_dir().join(format!("ubctl-lock-{}", std::process::id()));
        let open = || {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).unwrap()
        };
        let (a, b, c) = (open(), open(), open());
        assert!(lock(&a, &path, Role::Root).is_ok() && lock(&b, &path, Role::Root).is_ok());
        assert_eq!(lock(&c, &path, Role::Leaf).unwrap_err().reason, "busy");
        drop((a, b));
        // Programs that do not use `flock`. Such a lock goes with any close of the file.
        let other = open();
        fcntl_lock(&other, FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock(&c, &path, Role::Leaf).unwrap_err().reason, "busy");
        assert_eq!(lock(&c, &path, Role::Root).unwrap_err().reason, "busy");
        fcntl_lock(&other, FlockOperation::LockShared).unwrap();
        assert_eq!(lock(&c, &path, Role::Leaf).unwrap_err().reason, "busy");
        assert!(lock(&c, &path, Role::Root).is_ok());
        drop(other);
        assert!(lock(&c, &path, Role::Leaf).is_ok());
        assert!(lock(&open(), &path, Role::Leaf).is_err());
        assert!(lock(&open(), &path, Role::Root).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_loop_device_shows_no_image() {
        assert_eq!(behind("/dev/null"), None);
        assert_eq!(behind(""), None);
    }
}
