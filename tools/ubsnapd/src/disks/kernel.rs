// SPDX-License-Identifier: GPL-2.0

//! Leaves and unions of the running kernel, with the functions of `ubctl`.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{fallocate, seek, FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;
use ubcore::abi::{self, Create, Status, CREATE_READ_ONLY, FREEZE_FILE_SYSTEMS, ID_ANY};
use ubcore::error::Role;
use ubcore::format::below_list::ListedLayer;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::SLAB_SECTORS_DEFAULT;
use ubcore::stack::chain::{LayerId, Seal};
use ubctl::below::{self, Opened};
use ubctl::commands::format::Plan;
use ubctl::commands::remove;
use ubctl::control::{self, Control, PREFIX};
use ubctl::device::{Access, Device};
use ubctl::error::{Fail, BUSY};
use ubctl::loopdev::{self, Lower};
use ubctl::node::{Node, NodeState};
use ubctl::wait::{Deadline, Leaving};
use ubctl::{loaded, random, udev};

use super::layout::{layout, leaf_sectors, BLOCK_BYTES};
use super::recent::{Recent, RecentLayer};
use super::{AttachedUnion, Disks, FrozenLayer};
use crate::bottom;
use crate::error::{complain, Error, Result};
use crate::snapshot::{Id, Leaf};

/// How long a request waits for programs that have a union open without a claim, as udev and blkid
/// have for a moment.
const OPEN: Duration = Duration::from_secs(5);

/// The daemon's directory and the driver.
pub struct Kernel {
    bottom: PathBuf,
    leaves: PathBuf,
    control: Control,
    /// The size of all unions, in sectors.
    sectors: u64,
    /// The layers of the union that was attached last, on their loop devices.
    recent: Recent<Lower>,
    /// Where unions were found. The driver may know better by now.
    numbers: Mutex<HashMap<Id, u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device_of(status: &Status) -> String {
    format!("/dev/{PREFIX}{}", status.id)
}

fn union_of(status: &Status) -> AttachedUnion {
    let slabs = u64::from(status.slabs_used);
    AttachedUnion {
        device: device_of(status),
        used: slabs.saturating_mul(u64::from(status.slab_sectors)) * 512,
        no_space: status.no_space,
        errors: status.io_errors,
    }
}

impl Kernel {
    /// Takes the directory of leaves and the bottom that they lie on, of this many bytes.
    pub fn new(bottom: &Path, leaves: &Path, bytes: u64) -> Result<Kernel> {
        Ok(Kernel {
            bottom: bottom.to_owned(),
            leaves: leaves.to_owned(),
            control: Control::open()?,
            sectors: bytes / 512,
            recent: Recent::default(),
            numbers: Mutex::default(),
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.leaves.join(format!("{number}.leaf"))
    }

    fn status(&self, uuid: Id) -> Result<Option<Status>> {
        let known = lock(&self.numbers).get(&uuid).copied();
        if let Some(number) = known {
            match self.control.status(number) {
                Ok(status) if status.uuid == uuid.0 => return Ok(Some(status)),
                _ => {}
            }
        }
        let all = self.control.all()?;
        let mut numbers = lock(&self.numbers);
        numbers.clear();
        numbers.extend(all.iter().map(|status| (Id(status.uuid), status.id)));
        Ok(all.into_iter().find(|status| status.uuid == uuid.0))
    }

    fn listed(&self, layers: &[FrozenLayer]) -> Vec<ListedLayer> {
        let one = |layer: &FrozenLayer| ListedLayer {
            id: LayerId::Frozen(layer.leaf.uuid.0, Seal(layer.seal.0)),
            offset: 0,
            path: below::remembered(&self.path(layer.leaf.number)),
        };
        layers.iter().map(one).collect()
    }

    /// Makes an image, and formats it as a leaf.
    fn format(
        &self,
        number: u64,
        layers: &[FrozenLayer],
        bytes: u64,
    ) -> Result<(Lower, Lower, Id)> {
        let path = self.path(number);
        let failed = |e| Error::io(format!("make {}", path.display()), &e);
        let count = u32::try_from(layers.len()).unwrap_or(u32::MAX);
        let sectors = leaf_sectors(bytes, self.sectors, count);
        let sectors = sectors.map_err(|e| Fail::core(&path.display().to_string(), e))?;
        let mut options = OpenOptions::new();
        let file = match options.write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(Error::foreign(&path)),
            file => file.map_err(failed)?,
        };
        file.set_len(sectors.saturating_mul(512)).map_err(failed)?;
        let root = Lower::open(&self.bottom, Role::Root, false, BLOCK_BYTES)?;
        let leaf = Lower::open(&path, Role::Leaf, true, BLOCK_BYTES)?;
        let device = Device::open(&leaf.node, Role::Leaf, Access::Exclusive)?;
        let bottom = Device::open(&root.node, Role::Root, Access::Read)?;
        let below = Opened {
            root: Some(bottom.called(&root.name)),
            // The daemon knows what they are, and the driver checks it.
            layers: Vec::new(),
            list: self.listed(layers),
            sectors: self.sectors,
        };
        let device = (device.called(&path), leaf.to_allocate());
        let plan = Plan::on(below, device, layout(), false, BLOCK_BYTES)?;
        plan.write()?;
        let uuid = plan.hand_over().uuid;
        Ok((leaf, root, Id(uuid)))
    }

    /// Makes the driver attach a leaf.
    fn create(
        &self,
        (leaf, root): (Lower, Lower),
        layers: &[FrozenLayer],
        uuid: Id,
        read_only: bool,
    ) -> Result<Status> {
        let lower = self.open_layers(layers)?;
        let mut request = Create::new();
        control::put_path(&mut request.root, &root.given())?;
        control::put_path(&mut request.leaf, &leaf.given())?;
        request.id = ID_ANY;
        if read_only {
            request.flags |= CREATE_READ_ONLY;
        }
        let mut list = Vec::new();
        for layer in lower.iter().filter_map(|layer| layer.get()) {
            let mut field = abi::Layer {
                path: [0; abi::PATH_BYTES],
                offset: 0,
                reserved: 0,
            };
            control::put_path(&mut field.path, &layer.given())?;
            list.push(field);
        }
        let what = format!("leaf {}", leaf.name.display());
        let id = self.control.create(&mut request, &list, &what)?;
        let status = self.control.status(id)?;
        loopdev::warn_short(&leaf);
        leaf.release();
        root.release();
        drop(lower);
        if status.uuid != uuid.0 {
            // No snapshot has this leaf, so no later request would detach the union.
            let left = match remove::detach(&self.control, &status, Deadline::of(OPEN)) {
                Ok(()) => String::new(),
                Err(fail) => format!("; {} stays attached: {}", device_of(&status), fail.message),
            };
            let text = format!("{what}: the driver found another leaf there{left}");
            return Err(Error::internal(text));
        }
        lock(&self.numbers).insert(uuid, id);
        wait_for_node(&status)?;
        Ok(status)
    }

    /// Puts the layers on loop devices.
    fn open_layers(&self, layers: &[FrozenLayer]) -> Result<Vec<Arc<RecentLayer<Lower>>>> {
        let numbers: Vec<u64> = layers.iter().map(|layer| layer.leaf.number).collect();
        self.recent.of(&numbers, |missing| {
            let paths: Vec<PathBuf> = missing.iter().map(|&number| self.path(number)).collect();
            Ok(loopdev::open_layers(&paths, BLOCK_BYTES)?)
        })
    }

    fn superblock(&self, number: u64) -> Result<Option<Superblock>> {
        let path = self.path(number);
        match fs::metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            // The daemon ended before it gave the image its size.
            Ok(meta) if meta.len() == 0 => return Ok(None),
            _ => {}
        }
        let read = Device::open(&path, Role::Leaf, Access::Read);
        match read.and_then(|mut leaf| loaded::superblock(&mut leaf)) {
            Ok(sb) => Ok(Some(sb)),
            // The daemon ended before it had formatted the image.
            Err(fail) if fail.reason == "not_formatted" => Ok(None),
            Err(fail) => Err(fail.into()),
        }
    }
}

impl Disks for Kernel {
    fn exists(&self, number: u64) -> bool {
        fs::symlink_metadata(self.path(number)).is_ok()
    }

    fn make(&self, number: u64, layers: &[FrozenLayer], bytes: u64, read_only: bool) -> Result<Id> {
        let bytes = if read_only { 0 } else { bytes };
        let (leaf, root, uuid) = self.format(number, layers, bytes)?;
        if read_only {
            // Nothing is ever written to it, so it needs no space for that.
            free_holes(&self.path(number))?;
        }
        self.create((leaf, root), layers, uuid, read_only)?;
        Ok(uuid)
    }

    fn attach(&self, leaf: Leaf, layers: &[FrozenLayer], read_only: bool) -> Result<AttachedUnion> {
        let path = self.path(leaf.number);
        let root = Lower::open(&self.bottom, Role::Root, false, BLOCK_BYTES)?;
        let lower = Lower::open(&path, Role::Leaf, !read_only, BLOCK_BYTES)?;
        let status = self.create((lower, root), layers, leaf.uuid, read_only)?;
        Ok(union_of(&status))
    }

    fn repair(&self, leaf: Leaf) -> Result {
        match self.status(leaf.uuid)? {
            // A file system that is mounted counts as one that was not unmounted.
            Some(status) if !is_claimed(&status)? => bottom::repair(Path::new(&device_of(&status))),
            _ => Ok(()),
        }
    }

    fn find(&self, leaf: Leaf) -> Result<Option<AttachedUnion>> {
        Ok(self.status(leaf.uuid)?.as_ref().map(union_of))
    }

    fn detach(&self, leaf: Leaf) -> Result<bool> {
        let Some(status) = self.status(leaf.uuid)? else {
            return Ok(true);
        };
        if is_claimed(&status)? {
            return Ok(false);
        }
        let name = format!("{PREFIX}{}", status.id);
        let disk = rustix::fs::makedev(status.major, status.minor);
        let lower = [&status.root, &status.leaf].map(|p| PathBuf::from(control::path_text(p)));
        let leaving = Leaving::of(&name, disk, &lower[1..]);
        match remove::detach(&self.control, &status, Deadline::of(OPEN)) {
            Ok(()) => {}
            Err(fail) if fail.code == BUSY => return Ok(false),
            Err(fail) if fail.reason == "not_found" => {}
            Err(fail) => return Err(fail.into()),
        }
        let left = leaving.wait(udev::now(), Deadline::of(OPEN));
        if !left.is_empty() {
            let left = left.join(", ");
            complain(&format!("{name} is detached, but there is still {left}"));
        }
        Ok(true)
    }

    fn freeze(&self, leaf: Leaf, seal: Id) -> Result {
        let path = self.path(leaf.number);
        let mut device = Device::open(&path, Role::Leaf, Access::Exclusive)?;
        let mut loaded = loaded::load(&mut device)?;
        let frozen = loaded
            .committer
            .freeze(&loaded.map, &mut device, Seal(seal.0));
        frozen.map_err(|e| Fail::core(&path.display().to_string(), e))?;
        drop(device);
        free_holes(&path)
    }

    fn freeze_in_use(
        &self,
        leaf: Leaf,
        seal: Id,
        layers: &[FrozenLayer],
        next: (u64, u64),
    ) -> Result {
        let gone = || Error::internal("the union is gone: try again");
        let status = self.status(leaf.uuid)?.ok_or_else(gone)?;
        let mut layers = layers.to_vec();
        layers.push(FrozenLayer { leaf, seal });
        let (number, bytes) = next;
        let (lower, root, uuid) = self.format(number, &layers, bytes)?;
        let mut request = abi::Freeze::new();
        control::put_path(&mut request.leaf, &lower.given())?;
        (request.id, request.seal) = (status.id, seal.0);
        request.flags |= FREEZE_FILE_SYSTEMS;
        let what = format!("freeze of {}", device_of(&status));
        self.control.freeze(&mut request, &what)?;
        lower.release();
        root.release();
        lock(&self.numbers).insert(uuid, status.id);
        free_holes(&self.path(leaf.number))
    }

    fn seal(&self, number: u64) -> Result<Option<Id>> {
        let sb = self.superblock(number)?;
        Ok(sb.and_then(|sb| sb.frozen).map(|Seal(seal)| Id(seal)))
    }

    fn uuid(&self, number: u64) -> Result<Option<Id>> {
        Ok(self.superblock(number)?.map(|sb| Id(sb.uuid)))
    }

    fn used(&self, number: u64, exact: bool) -> Result<u64> {
        let path = self.path(number);
        if exact {
            let mut device = Device::open(&path, Role::Leaf, Access::Read)?;
            let slabs = loaded::load(&mut device)?.used;
            return Ok(u64::from(slabs) * u64::from(SLAB_SECTORS_DEFAULT) * 512);
        }
        let meta = fs::metadata(&path);
        let meta = meta.map_err(|e| Error::io(format!("look at {}", path.display()), &e))?;
        let metadata = self.superblock(number)?;
        let metadata = metadata.map_or(0, |sb| sb.geometry.data_start());
        Ok(meta.blocks().saturating_sub(metadata).saturating_mul(512))
    }

    fn delete(&self, number: u64) -> Result {
        self.recent.forget(number);
        let path = self.path(number);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("delete {}", path.display()), &e))
            }
            _ => Ok(()),
        }
    }

    fn all(&self) -> Result<Vec<u64>> {
        let list = fs::read_dir(&self.leaves);
        let list = list.map_err(|e| Error::io(format!("list {}", self.leaves.display()), &e))?;
        let number = |entry: fs::DirEntry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(".leaf")?.parse().ok()
        };
        Ok(list.flatten().filter_map(number).collect())
    }

    fn random(&self) -> Result<Id> {
        Ok(Id(random::bytes()?))
    }
}

/// Returns whether a file system or another device has claimed a union, in any mount namespace.
fn is_claimed(status: &Status) -> Result<bool> {
    let path = device_of(status);
    let mut options = OpenOptions::new();
    // O_EXCL without O_CREAT claims a block device, until the close.
    let claim = options.read(true).custom_flags(OFlags::EXCL.bits() as i32);
    match claim.open(&path) {
        Ok(_) => Ok(false),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => Ok(true),
        Err(e) => Err(Error::io(format!("open {path}"), &e)),
    }
}

/// Waits for the node of a new union.
fn wait_for_node(status: &Status) -> Result {
    let disk = rustix::fs::makedev(status.major, status.minor);
    let node = Node::new(&format!("{PREFIX}{}", status.id), disk);
    if Deadline::new().until(|| node.state() == NodeState::Right) {
        return Ok(());
    }
    let path = node.path.display();
    Err(Error::internal(format!(
        "{path} has no node: is devtmpfs mounted on /dev?"
    )))
}

/// Gives back the space that is allocated for a file and holds nothing.
fn free_holes(path: &Path) -> Result {
    let failed = |e: std::io::Error| Error::io(format!("free space of {}", path.display()), &e);
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(failed)?;
    let end = file.metadata().map_err(failed)?.len();
    let mut at = 0;
    while at < end {
        let hole = seek(&file, SeekFrom::Hole(at)).map_err(|e| failed(e.into()))?;
        let data = match seek(&file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            // There is none behind the hole.
            Err(Errno::NXIO) => end,
            Err(e) => return Err(failed(e.into())),
        };
        if hole < data {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&file, punch, hole, data - hole) {
                Ok(()) => {}
                // The space is not lost, but goes with the file.
                Err(Errno::OPNOTSUPP) => return Ok(()),
                Err(e) => return Err(failed(e.into())),
            }
        }
        at = data;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{fallocate, free_holes, FallocateFlags, File, MetadataExt};
    use std::os::unix::fs::FileExt;

    #[test]
    fn space_without_content_is_given_back() {
        let path = std::env::temp_dir().join(format!("ubsnapd-holes-{}", std::process::id()));
        let options = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        let file = options.unwrap();
        file.set_len(1 << 22).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 21).unwrap();
        file.write_all_at(b"kept", 1 << 20).unwrap();
        file.write_all_at(b"end", (1 << 22) - 3).unwrap();
        file.sync_all().unwrap();
        let before = file.metadata().unwrap().blocks();
        free_holes(&path).unwrap();
        let after = file.metadata().unwrap();
        assert!(before >= 4096 && after.blocks() <= 64, "{before} {after:?}");
        assert_eq!(after.len(), 1 << 22);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 1 << 20).unwrap();
        assert_eq!(&bytes, b"kept");
        std::fs::remove_file(&path).unwrap();
    }
}
