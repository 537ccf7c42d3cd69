// SPDX-License-Identifier: GPL-2.0

//! Where a sealed layer or an image is written: a file that appears when it is whole, or a block
//! device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{fadvise, renameat_with, Advice, RenameFlags, CWD};
use rustix::io::Errno;
use ubcore::error::{Error, Side};
use ubcore::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::sealed::Writer;

use crate::device::{is_same, refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::{interrupt, output, overlap, probe};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A place that may be written to.
pub struct Target {
    what: &'static str,
    to: To,
}

enum To {
    File { path: PathBuf, force: bool },
    Device(Box<Device>),
}

impl Target {
    /// Makes every check that does not need the size. Writes nothing. `what` is to be written, and
    /// comes from `sources`.
    pub fn check<'a>(
        what: &'static str,
        out: &Path,
        sources: impl IntoIterator<Item = &'a Device>,
        force: bool,
    ) -> Result<Target> {
        let to = To::check(what, out, &sources.into_iter().collect::<Vec<_>>(), force)?;
        Ok(Target { what, to })
    }

    /// Begins to write so many bytes.
    pub fn begin(self, bytes: u64) -> Result<Output> {
        let place = match self.to {
            To::Device(device) => {
                if device.bytes() < bytes {
                    let text = format!(
                        "{} has {}, and the {} needs {}: use a larger device, or a file",
                        device.path().display(),
                        output::size(device.sectors()),
                        self.what,
                        output::size(bytes.div_ceil(512))
                    );
                    return Err(Fail::new(REFUSED, "too_small", text));
                }
                Place::Device(device)
            }
            To::File { path, force } => Place::File(NewFile::create(&path, bytes, force)?),
        };
        Ok(Output {
            what: self.what,
            place,
            fail: None,
        })
    }
}

impl To {
    fn check(what: &str, out: &Path, sources: &[&Device], force: bool) -> Result<To> {
        let meta = match fs::metadata(out) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let path = out.to_owned();
                return Ok(To::File { path, force });
            }
            Err(e) => return Err(Fail::io("open", out, &e)),
        };
        if let Some(source) = sources.iter().find(|s| is_same(&meta, s.metadata())) {
            return Err(same(what, source, out));
        }
        if meta.is_file() {
            if !force {
                return Err(exists(out));
            }
            // A link stays, and what it leads to is replaced.
            let path = fs::canonicalize(out).map_err(|e| Fail::io("open", out, &e))?;
            return Ok(To::File { path, force });
        }
        if !meta.file_type().is_block_device() {
            let text = format!("{} is neither a block device nor a file", out.display());
            return Err(Fail::new(REFUSED, "not_a_device", text));
        }
        To::of_device(what, out, sources, force)
    }

    fn of_device(what: &str, out: &Path, sources: &[&Device], force: bool) -> Result<To> {
        let device = Device::open(out, Side::Leaf, Access::Exclusive)?;
        refuse_union(&device, Side::Leaf)?;
        for source in sources {
            overlap::refuse(source, &device).map_err(|fail| match fail.reason {
                "same_device" => same(what, source, out),
                _ => fail,
            })?;
        }
        device.refuse_read_only()?;
        if let Some(used) = probe::probe(&device)?.filter(|_| !force) {
            let text = format!(
                "{} looks used: {} at byte {}; if its content is not needed any more, use --force",
                out.display(),
                used.what,
                used.at
            );
            return Err(Fail::new(REFUSED, "looks_used", text));
        }
        Ok(To::Device(Box::new(device)))
    }
}

fn exists(out: &Path) -> Fail {
    let text = format!(
        "{} exists already: choose another name, or replace it with --force",
        out.display()
    );
    Fail::new(REFUSED, "exists", text)
}

fn same(what: &str, source: &Device, out: &Path) -> Fail {
    let text = format!(
        "{} and {} are one device or share sectors: write the {what} to another place",
        source.path().display(),
        out.display()
    );
    Fail::new(REFUSED, "same_device", text)
}

/// A file beside its final place. It is removed unless it gets there.
struct NewFile {
    file: File,
    /// Where it is until it is whole.
    beside: PathBuf,
    path: PathBuf,
    force: bool,
    is_there: bool,
}

impl NewFile {
    fn create(path: &Path, bytes: u64, force: bool) -> Result<NewFile> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = format!(".{name}.ubctl-{}", std::process::id());
        let beside = folder(path).join(beside);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&beside)
            .map_err(|e| Fail::io("create", &beside, &e))?;
        let new = NewFile {
            file,
            beside,
            path: path.to_owned(),
            force,
            is_there: false,
        };
        let sized = new.file.set_len(bytes);
        sized.map_err(|e| Fail::io("write to", &new.beside, &e))?;
        Ok(new)
    }

    /// Puts the file, whose content is durable, in its place.
    fn put(&mut self) -> Result {
        let failed = |e: Errno| match e {
            Errno::EXIST => exists(&self.path),
            e => Fail::io("create", &self.path, &e.into()),
        };
        let flags = if self.force {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        let done = match renameat_with(CWD, &self.beside, CWD, &self.path, flags) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) if !self.path.exists() => {
                renameat_with(CWD, &self.beside, CWD, &self.path, RenameFlags::empty())
            }
            done => done,
        };
        done.map_err(failed)?;
        self.is_there = true;
        let folder = folder(&self.path);
        File::open(&folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Fail::io("flush", &folder, &e))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_there {
            // If this fails, the file stays under a name that says what it is.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Returns the folder of a file.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

enum Place {
    File(NewFile),
    Device(Box<Device>),
}

/// A layer or an image that is being written.
pub struct Output {
    what: &'static str,
    place: Place,
    fail: Option<Fail>,
}

impl Output {
    /// Ends the writing: all of it is there and durable.
    pub fn finish(&mut self) -> Result {
        match &mut self.place {
            Place::File(file) => file.put(),
            Place::Device(_) => Ok(()),
        }
    }

    /// Returns why the last write failed.
    pub fn take_fail(&mut self) -> Option<Fail> {
        self.fail.take()
    }

    /// Adds to a failure what has become of the place.
    pub fn undo(self, mut fail: Fail) -> Fail {
        let text = match &self.place {
            Place::File(file) if file.is_there => {
                "the file is there and whole, but a power failure could still remove it".to_owned()
            }
            Place::File(file) if file.force && file.path.exists() => {
                format!("{} is as it was before", file.path.display())
            }
            Place::File(file) => format!("{} was not made", file.path.display()),
            Place::Device(device) => format!(
                "{} is partly overwritten, and holds no {}",
                device.path().display(),
                self.what
            ),
        };
        fail.message += &format!(" ({text})");
        fail
    }

    /// Writes bytes at a position.
    pub fn put(&self, at: u64, bytes: &[u8]) -> Result {
        interrupt::check()?;
        match &self.place {
            // The file has its size already, so a hole reads as these zeroes.
            Place::File(_) if bytes.iter().all(|&b| b == 0) => Ok(()),
            Place::File(new) => new
                .file
                .write_all_at(bytes, at)
                .map_err(|e| Fail::io("write to", &new.beside, &e)),
            Place::Device(device) => device.write_at(at, bytes),
        }
    }

    /// Makes everything that was written durable.
    pub fn sync(&self) -> Result {
        interrupt::check()?;
        match &self.place {
            Place::File(new) => {
                let done = new.file.sync_all();
                done.map_err(|e| Fail::io("flush", &new.beside, &e))
            }
            Place::Device(device) => device.sync(),
        }
    }

    /// Returns whether what is not written reads as zeroes.
    pub fn has_holes(&self) -> bool {
        matches!(self.place, Place::File(_))
    }

    /// Drops the pages of the target from the page cache, so that reads come from the device.
    pub fn forget(&self) {
        let file = match &self.place {
            Place::File(new) => &new.file,
            Place::Device(device) => device.file(),
        };
        // The kernel may keep the pages. The reads then return the written bytes from the cache.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
    }

    /// Reads bytes back.
    pub fn read_back(&self, at: u64, room: &mut [u8]) -> Result {
        interrupt::check()?;
        match &self.place {
            Place::File(new) => new
                .file
                .read_exact_at(room, at)
                .map_err(|e| Fail::io("read", &new.beside, &e)),
            Place::Device(device) => device.read_at(at, room),
        }
    }

    fn keep(&mut self, done: Result, block: u64) -> ubcore::error::Result {
        done.map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Side::Leaf, block.saturating_mul(BLOCK_SECTORS))
        })
    }
}

impl Writer for Output {
    fn write(&mut self, block: u64, blocks: &[Block]) -> ubcore::error::Result {
        let done = self.put(block.saturating_mul(BLOCK), blocks.as_flattened());
        self.keep(done, block)
    }

    fn flush(&mut self) -> ubcore::error::Result {
        let done = self.sync();
        self.keep(done, 0)
    }
}
