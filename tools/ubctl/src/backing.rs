// SPDX-License-Identifier: GPL-2.0

//! The space that an image takes of the file system that it lies on, and how much space is left
//! there.
//!
//! A write to a hole of an image needs space on its host. If the host has none, the write fails.
//! The union survives a failed write of data, but not a failed write of metadata. So the space for
//! metadata is allocated before the leaf is used.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fallocate, fstatvfs, seek, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Fail, Result, FAILED};
use crate::ioctl::{self, Fiemap};
use crate::loopdev;
use crate::output::{self, size};

/// This is the last extent of the file.
const LAST: u32 = 1;
/// The place of the extent is unknown, or not allocated yet.
const UNPLACED: u32 = 2 | 4;
/// Other files use the extent too, so a write needs another place.
const SHARED: u32 = 0x2000;

/// How many bytes of zeroes one write has.
const CHUNK: usize = 1 << 20;

/// An image, its place on its host, and where the leaf begins in it.
pub struct Backing {
    file: File,
    path: PathBuf,
    start: u64,
}

/// The space of the file system that an image lies on, in bytes.
pub struct ImageSpace {
    /// Where the file system is mounted.
    pub mount: PathBuf,
    /// The space that any user may take.
    pub free: u64,
    /// The size of the file system.
    pub size: u64,
}

/// What a range of a file lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    /// The range has holes, or blocks without a place.
    Blocks,
    /// Other files share its blocks.
    Shared,
    /// The file system does not say.
    Unknown,
}

impl Backing {
    /// Returns the image of a leaf that is to be allocated. Warns if the image cannot be reached.
    pub fn to_allocate(leaf: &Path) -> Option<Backing> {
        let found = Backing::of(leaf, true);
        if let (None, Some(shown)) = (&found, loopdev::shown_by(leaf)) {
            output::complain(&format!(
                "{} shows {}, which cannot be opened under that name, so no space is allocated for \
                 it, and a later write of metadata could fail: keep space on its file system",
                leaf.display(),
                shown.path.display()
            ));
        }
        found
    }

    /// Returns the image that a leaf is, or that a loop device shows; none for any other device.
    pub fn of(leaf: &Path, write: bool) -> Option<Backing> {
        let open = |path: &Path| OpenOptions::new().read(true).write(write).open(path);
        if fs::metadata(leaf).ok()?.is_file() {
            let (file, path) = (open(leaf).ok()?, leaf.to_owned());
            return Some(Backing {
                file,
                path,
                start: 0,
            });
        }
        let shown = loopdev::shown_by(leaf)?;
        let file = open(&shown.path).ok()?;
        // The path may lead to another file by now.
        let meta = file.metadata().ok()?;
        (meta.dev() == shown.device && meta.ino() == shown.inode).then_some(Backing {
            file,
            path: shown.path,
            start: shown.start,
        })
    }

    /// Takes an image that is open. `path` is its name for messages.
    pub fn of_open(file: File, path: &Path) -> Backing {
        Backing {
            file,
            path: path.to_owned(),
            start: 0,
        }
    }

    /// Gives private blocks to the first `bytes` of the leaf, without a change to what they hold.
    pub fn allocate(&self, bytes: u64) -> Result {
        let (start, end) = (self.start, self.start.saturating_add(bytes));
        let failed = |e: Errno| Fail::io("allocate space for", &self.path, &e.into());
        // It is unknown what the file system allocated before it failed, so nothing is given back.
        let stays = |mut fail: Fail| {
            fail.message += " (the space that was allocated by then stays with the image)";
            fail
        };
        self.refuse_hopeless(end)?;
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, start, bytes) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill_holes(start, end).map_err(stays)?,
            Err(e) => return Err(stays(failed(e))),
        }
        self.file
            .sync_all()
            .map_err(|e| Fail::io("flush", &self.path, &e))?;
        if self.missing(start, end)? == Missing::Shared {
            // This unshares the blocks of a copy made by reference. If it fails, the next step
            // fails too.
            let _ = fallocate(&self.file, FallocateFlags::UNSHARE_RANGE, start, bytes);
        }
        match self.missing(start, end)? {
            Missing::Nothing => return Ok(()),
            Missing::Unknown => {
                self.warn_unless_full(bytes);
                return Ok(());
            }
            Missing::Blocks | Missing::Shared => {}
        }
        Err(Fail::new(
            FAILED,
            "not_allocated",
            format!(
                "{}: its file system does not give the first {} private blocks, so a later \
                 write could find no space: copy it (cp --reflink=never), or take another file system",
                self.path.display(),
                size(bytes / 512)
            ),
        ))
    }

    /// Refuses what [`Backing::allocate`] would refuse before it allocates anything.
    pub fn refuse_too_many(&self, bytes: u64) -> Result {
        self.refuse_hopeless(self.start.saturating_add(bytes))
    }

    /// Refuses at once what the host cannot hold, so that the attempt does not fill the host.
    fn refuse_hopeless(&self, end: u64) -> Result {
        let meta = self
            .file
            .metadata()
            .map_err(|e| Fail::io("open", &self.path, &e))?;
        let taken = meta.blocks().saturating_mul(512);
        let Ok(host) = fstatvfs(&self.file) else {
            return Ok(());
        };
        // A file system without a limit, in memory, has no blocks.
        if host.f_blocks == 0 {
            return Ok(());
        }
        // The rest is reserved for root.
        let free = if is_root() {
            host.f_bfree
        } else {
            host.f_bavail
        };
        if end > taken.saturating_add(free.saturating_mul(host.f_frsize)) {
            return Err(full("allocate space for", &self.path));
        }
        Ok(())
    }

    /// Writes zeroes into holes, which reads as before.
    fn fill_holes(&self, mut at: u64, end: u64) -> Result {
        let failed = |e: std::io::Error| Fail::io("allocate space for", &self.path, &e);
        let zeroes = vec![0; CHUNK];
        while at < end {
            let hole = seek(&self.file, SeekFrom::Hole(at)).unwrap_or(end);
            let data = match seek(&self.file, SeekFrom::Data(hole)) {
                Ok(data) => data.min(end),
                // No data follows the hole.
                Err(Errno::NXIO) => end,
                Err(e) => return Err(failed(e.into())),
            };
            at = hole;
            while at < data {
                let n = usize::try_from(data - at).unwrap_or(CHUNK).min(CHUNK);
                self.file.write_all_at(&zeroes[..n], at).map_err(failed)?;
                at += n as u64;
            }
        }
        Ok(())
    }

    /// Warns that the file system cannot say what it allocated, if the file has too few blocks.
    fn warn_unless_full(&self, bytes: u64) {
        let is_short = |m: fs::Metadata| m.is_file() && m.blocks().saturating_mul(512) < bytes;
        if self.file.metadata().is_ok_and(is_short) {
            output::complain(&format!(
                "{}: its file system does not say whether the first {} have blocks, so a later write of \
                 metadata could fail: keep space there, or take another file system",
                self.path.display(),
                size(bytes / 512)
            ));
        }
    }

    /// Returns what a range lacks to have only private blocks.
    fn missing(&self, start: u64, end: u64) -> Result<Missing> {
        let mut at = start;
        while at < end {
            let mut map = Fiemap::of(at, end - at);
            match ioctl::fiemap(&self.file, &mut map) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => return Ok(Missing::Unknown),
                Err(e) => return Err(Fail::io("look at", &self.path, &e.into())),
            }
            let Some(found) = map.extents.get(..map.mapped as usize) else {
                return Ok(Missing::Unknown);
            };
            if found.is_empty() {
                return Ok(Missing::Blocks);
            }
            for extent in found {
                if extent.logical > at || extent.flags & UNPLACED != 0 {
                    return Ok(Missing::Blocks);
                }
                if extent.flags & SHARED != 0 {
                    return Ok(Missing::Shared);
                }
                at = at.max(extent.logical.saturating_add(extent.length));
                if extent.flags & LAST != 0 && at < end {
                    return Ok(Missing::Blocks);
                }
            }
        }
        Ok(Missing::Nothing)
    }

    /// Returns whether a write may need space that is not allocated yet.
    pub fn is_sparse(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|m| m.blocks().saturating_mul(512) < m.size())
    }

    /// Returns whether the file system is in memory.
    pub fn is_tmpfs(&self) -> bool {
        is_tmpfs(&self.file)
    }

    /// Returns the space that its host has left.
    pub fn host(&self) -> Option<ImageSpace> {
        let host = fstatvfs(&self.file).ok()?;
        Some(ImageSpace {
            mount: mount_of(&self.path),
            // The space that is reserved for root and for the file system itself does not count as
            // left.
            free: host.f_bavail.saturating_mul(host.f_frsize),
            size: host.f_blocks.saturating_mul(host.f_frsize),
        })
    }
}

/// Returns whether the file system of a file is in memory.
pub fn is_tmpfs(file: &File) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::fstatfs(file).is_ok_and(|s| s.f_type as u64 == TMPFS_MAGIC)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// Returns the uppermost directory above a file that is on the same file system.
fn mount_of(path: &Path) -> PathBuf {
    let device = |p: &Path| fs::metadata(p).map(|m| m.dev()).ok();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let on = device(&path);
    path.ancestors()
        .take_while(|p| device(p) == on)
        .last()
        .unwrap_or(&path)
        .to_owned()
}

/// Returns the failure of an operation on a file or device that found no space.
pub fn full(what: &str, path: &Path) -> Fail {
    let text = format!("cannot {what} {}: no space", path.display());
    let text = match Backing::of(path, false).and_then(|b| Some((b.host()?, b.path))) {
        Some((host, image)) => {
            let shown = if image == path {
                String::new()
            } else {
                format!(", which shows {}", image.display())
            };
            format!(
                "{text} on its file system{shown}: {} of {} are left on {}: make space there, or move \
                 the image to another",
                size(host.free / 512),
                size(host.size / 512),
                host.mount.display()
            )
        }
        None if is_block(path) => {
            format!("{text} on the storage below it: check for a full thin pool")
        }
        None => format!("{text}: make space on its file system"),
    };
    Fail::new(FAILED, "no_space", text)
}

fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::{full, Backing};
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    #[test]
    fn space_is_there_and_what_was_there_stays() {
        let path = std::env::temp_dir().join(format!("ubctl-space-{}", std::process::id()));
        std::fs::write(&path, b"kept").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        let backing = Backing::of(&path, true).unwrap();
        assert!(backing.is_sparse());
        backing.allocate(1 << 20).unwrap();
        assert!(!backing.is_sparse());
        let host = backing.host().unwrap();
        assert!(host.size >= host.free && path.starts_with(&host.mount));
        assert!(std::fs::read(&path).unwrap().starts_with(b"kept\0"));
        // The size is more than any host has, so nothing is allocated.
        let blocks = std::fs::metadata(&path).unwrap().blocks();
        let fail = backing.allocate(1 << 60).unwrap_err();
        assert_eq!(fail.reason, "no_space", "{fail}");
        assert!(
            fail.message.contains("left on") && fail.message.contains("make space"),
            "{fail}"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().blocks(), blocks);
        // This is the fallback where the file system cannot allocate.
        backing.file.set_len(0).unwrap();
        backing.file.set_len(3 << 20).unwrap();
        backing.fill_holes(5000, 3 << 20).unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= (3 << 20) - 8192);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_has_no_host_is_full_anyway() {
        assert!(Backing::of(Path::new("/dev/null"), false).is_none());
        let fail = full("write to", Path::new("standard output"));
        assert!(fail
            .message
            .starts_with("cannot write to standard output: no space: make"));
    }
}
