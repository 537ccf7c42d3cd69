// SPDX-License-Identifier: GPL-2.0

//! A root, a layer or a leaf: a block device or an image.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fadvise, ioctl_blksszget, Advice, OFlags};
use rustix::io::Errno;
use ubcore::disk::{self, Buffer, Disk, Order};
use ubcore::error::{Error, Role};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::leaf_block::LeafBlock;
use ubcore::num::usize_as_u64;

use crate::control::is_union;
use crate::error::{Fail, Result, BUSY, REFUSED};
use crate::holders::{self, retry, Tried};
use crate::udev::DeviceWriter;
use crate::wait::Deadline;
use crate::{ioctl, layer_arg, loopdev, output};

/// The purpose for which a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it, whatever other users it has.
    Read,
    /// To read it with an exclusive claim.
    Claim,
    /// To write to it with an exclusive claim: a device that is mounted, attached or on a loop
    /// device is refused as busy.
    Exclusive,
}

/// An open root or leaf.
pub struct Device {
    path: PathBuf,
    file: File,
    role: Role,
    meta: Metadata,
    is_block: bool,
    /// The byte of the file at which it begins. It is 0 except in a part of a file or device, see
    /// [`Device::part`].
    start: u64,
    /// Its size, from `start` on.
    bytes: u64,
    buffer: Box<Buffer>,
    /// Dropped after `file`: it waits for the work that udev does after the close.
    writer: Option<DeviceWriter>,
}

impl Device {
    /// Opens a device or image.
    pub fn open(path: &Path, role: Role, access: Access) -> Result<Device> {
        let meta = metadata(path)?;
        let is_block = meta.file_type().is_block_device();
        if !is_block && !meta.is_file() {
            return Err(Fail::new(
                REFUSED,
                "not_a_device",
                format!(
                    "{} is neither a block device nor an image: name a block device or a regular file",
                    output::path(path)
                ),
            ));
        }
        let mut options = OpenOptions::new();
        options.read(true);
        options.write(access == Access::Exclusive);
        if access != Access::Read && is_block {
            // O_EXCL without O_CREAT is the kernel's exclusive claim on a block device.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let failed = |e: io::Error| Fail::io("open", path, &e);
        let mut file = open(&options, path)?;
        // From here on only the open file is used, because the path may lead to another file by
        // now.
        let opened = file.metadata().map_err(failed)?;
        if !is_same(&meta, &opened) {
            let path = output::path(path);
            let text = format!("{path} became another device while it was opened: try again");
            return Err(Fail::new(BUSY, "busy", text));
        }
        let mut writer = None;
        if access == Access::Exclusive && is_block {
            writer = DeviceWriter::new(opened.rdev());
        }
        if access != Access::Read && is_block {
            loopdev::refuse_locked(path, role)?;
        }
        if access != Access::Read && !is_block {
            loopdev::lock(&file, path, Role::Leaf)?;
            loopdev::refuse_loops(&opened, path)?;
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let device = Device {
            path: path.to_owned(),
            file,
            role,
            meta: opened,
            is_block,
            start: 0,
            bytes,
            buffer: Box::new(disk::zeroes()),
            writer,
        };
        device.forget();
        Ok(device)
    }

    /// Returns the same device under the name that the user gave.
    pub fn called(mut self, name: &Path) -> Device {
        self.path = name.to_owned();
        self
    }

    /// Returns the part from a byte on. Past the end there is nothing.
    pub fn part(mut self, start: u64) -> Device {
        self.bytes = self.bytes.saturating_add(self.start).saturating_sub(start);
        self.start = start;
        self
    }

    /// Drops what the page cache holds of a block device. The driver reads and writes past the page
    /// cache, so cached content may be old now, and may become old for the next reader.
    fn forget(&self) {
        if self.is_block {
            // This is advice. If the kernel does not follow it, a fresh device is still read.
            let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        }
    }

    /// Returns the path at which the device was opened, or the name that it got since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the byte of the file at which it begins.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns its name for messages: the path, and where it begins there.
    pub fn name(&self) -> String {
        layer_arg::name(&self.path, self.start)
    }

    /// Returns which of a union's devices it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the metadata of the open file.
    pub fn metadata(&self) -> &Metadata {
        &self.meta
    }

    /// Opens the same device or image again, wherever its path leads by now.
    pub fn again(&self, access: Access) -> Result<Device> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let again = Device::open(Path::new(&path), self.role, access);
        let again = again.map_err(|mut fail| {
            let name = output::path(&self.path);
            fail.message = fail.message.replace(&path, &name);
            fail
        })?;
        Ok(again.called(&self.path).part(self.start))
    }

    /// Refuses a write-protected device. The kernel lets such a device be opened for writing.
    pub fn refuse_read_only(&self) -> Result {
        if self.is_block && ioctl::is_read_only(&self.file).unwrap_or(false) {
            return Err(Fail::core(&output::path(&self.path), Error::ReadOnlyLeaf));
        }
        Ok(())
    }

    /// Returns whether it is a block device, not an image.
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// Returns its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns its size in whole sectors.
    pub fn sectors(&self) -> u64 {
        self.bytes / 512
    }

    /// Returns the logical block size; that of an image is a sector.
    pub fn block_bytes(&self) -> Result<u32> {
        if !self.is_block {
            return Ok(512);
        }
        ioctl_blksszget(&self.file)
            .map_err(|e| Fail::io("ask for the block size of", &self.path, &e.into()))
    }

    /// Reads bytes at a position.
    pub fn read_at(&self, at: u64, room: &mut [u8]) -> Result {
        let at = at.saturating_add(self.start);
        self.file
            .read_exact_at(room, at)
            .map_err(|e| self.failure("read", at, &e))
    }

    /// Writes bytes at a position; they are durable after [`Device::sync`].
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> Result {
        let at = at.saturating_add(self.start);
        self.file
            .write_all_at(bytes, at)
            .map_err(|e| self.failure("write", at, &e))
    }

    /// Makes all written data durable.
    pub fn sync(&self) -> Result {
        self.file
            .sync_all()
            .map_err(|e| Fail::io("flush", &self.path, &e))
    }

    /// Returns the byte of the file at which a block begins.
    fn byte_of(&self, block: LeafBlock) -> Option<u64> {
        let at = block.0.checked_mul(usize_as_u64(BLOCK_BYTES))?;
        at.checked_add(self.start)
    }

    fn failure(&self, what: &str, at: u64, e: &io::Error) -> Fail {
        // The file was opened for writing, so this is a write-protected device.
        if what == "write" && e.kind() == io::ErrorKind::PermissionDenied {
            return Fail::core(&self.path.display().to_string(), Error::ReadOnlyLeaf);
        }
        Fail::io(&format!("{what} sector {} of", at / 512), &self.path, e)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.forget();
        if let Some(writer) = &mut self.writer {
            writer.closes();
        }
    }
}

impl Disk for Device {
    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    fn read(&mut self, block: LeafBlock, count: usize) -> ubcore::error::Result {
        let bad = Error::Io(self.role, block.first_sector().unwrap_or(u64::MAX));
        let at = self.byte_of(block).ok_or(bad)?;
        let room = self
            .buffer
            .as_flattened_mut()
            .get_mut(..count.saturating_mul(BLOCK_BYTES))
            .ok_or(bad)?;
        self.file
            .read_exact_at(room, at)
            .or_else(|_| {
                // The page cache reads the surrounding bytes too, and fails as a whole.
                if self.is_block {
                    let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
                    let _ = fadvise(&self.file, 0, None, Advice::Random);
                }
                self.file.read_exact_at(room, at)
            })
            .map_err(|_| bad)
    }

    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> ubcore::error::Result {
        let bad = Error::Io(self.role, block.first_sector().unwrap_or(u64::MAX));
        let bytes = self
            .buffer
            .as_flattened()
            .get(..count.saturating_mul(BLOCK_BYTES))
            .ok_or(bad)?;
        let at = self.byte_of(block).ok_or(bad)?;
        if order == Order::FlushFua {
            self.file.sync_all().map_err(|_| bad)?;
        }
        self.file.write_all_at(bytes, at).map_err(|_| bad)?;
        if order != Order::Plain {
            self.file.sync_all().map_err(|_| bad)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> ubcore::error::Result {
        self.file.sync_all().map_err(|_| Error::Io(self.role, 0))
    }
}

/// Returns whether both are one device or one file.
pub fn is_same(a: &Metadata, b: &Metadata) -> bool {
    if a.file_type().is_block_device() && b.file_type().is_block_device() {
        return a.rdev() == b.rdev();
    }
    a.file_type() == b.file_type() && a.dev() == b.dev() && a.ino() == b.ino()
}

/// Opens a root or leaf; the kernel refuses an exclusive claim while other holders have it open.
fn open(options: &OpenOptions, path: &Path) -> Result<File> {
    let look = |all| holders::of_path(path, all);
    let attempt = || match options.open(path) {
        Ok(file) => Ok(Tried::Done(file)),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => Ok(Tried::Busy),
        Err(e) => Err(Fail::io("open", path, &e)),
    };
    retry(Deadline::new(), look, attempt)?.map_err(|who| who.fail(&path.display().to_string()))
}

fn metadata(path: &Path) -> Result<Metadata> {
    fs::metadata(path).map_err(|e| Fail::io("open", path, &e))
}

/// Refuses a root and a leaf that are one device or one image, before either is opened.
/// [`crate::overlap`] checks what their paths lead to later.
pub fn refuse_same(root: &Path, leaf: &Path) -> Result {
    let (r, l) = (metadata(root)?, metadata(leaf)?);
    if is_same(&r, &l) {
        let what = format!("root {}, leaf {}", root.display(), leaf.display());
        return Err(Fail::core(&what, Error::SameDevice));
    }
    Ok(())
}

/// Refuses a device that is a union or a partition of one, because unions do not stack.
pub fn refuse_union(device: &Device, role: Role) -> Result {
    let meta = device.metadata();
    if !meta.file_type().is_block_device() {
        return Ok(());
    }
    let (major, minor) = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    // This is a link to the device's place in sysfs. A partition's place is below its disk's.
    let place = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"));
    match place {
        Ok(place) if is_union(&place) => Err(Fail::core(
            &device.path().display().to_string(),
            Error::Stacked(role),
        )),
        // Without sysfs the driver refuses it.
        _ => Ok(()),
    }
}
