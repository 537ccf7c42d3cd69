// SPDX-License-Identifier: GPL-2.0

//! Where a sealed layer is written: a file that appears when it is whole, or a block device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{renameat_with, RenameFlags, CWD};
use rustix::io::Errno;
use ubcore::error::{Error, Side};
use ubcore::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::sealed::Writer;

use crate::device::{is_same, refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::{interrupt, output, overlap, probe};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A place that may be written to.
pub enum Target {
    File { path: PathBuf, force: bool },
    Device(Box<Device>),
}

impl Target {
    /// Makes every check that does not need the size. Writes nothing.
    pub fn check(out: &Path, leaf: &Device, force: bool) -> Result<Target> {
        let meta = match fs::metadata(out) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let path = out.to_owned();
                return Ok(Target::File { path, force });
            }
            Err(e) => return Err(Fail::io("open", out, &e)),
        };
        if is_same(&meta, leaf.metadata()) {
            return Err(same(leaf, out));
        }
        if meta.is_file() {
            if !force {
                return Err(exists(out));
            }
            // A link stays, and what it leads to is replaced.
            let path = fs::canonicalize(out).map_err(|e| Fail::io("open", out, &e))?;
            return Ok(Target::File { path, force });
        }
        if !meta.file_type().is_block_device() {
            let text = format!("{} is neither a block device nor a file", out.display());
            return Err(Fail::new(REFUSED, "not_a_device", text));
        }
        Target::of_device(out, leaf, force)
    }

    fn of_device(out: &Path, leaf: &Device, force: bool) -> Result<Target> {
        let device = Device::open(out, Side::Leaf, Access::Exclusive)?;
        refuse_union(&device, Side::Leaf)?;
        overlap::refuse(leaf, &device).map_err(|fail| match fail.reason {
            "same_device" => same(leaf, out),
            _ => fail,
        })?;
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
        Ok(Target::Device(Box::new(device)))
    }

    /// Begins to write a layer of so many blocks.
    pub fn begin(self, blocks: u64) -> Result<Output> {
        let (place, bytes) = (self, blocks.saturating_mul(BLOCK));
        let place = match place {
            Target::Device(device) => {
                let sectors = blocks.saturating_mul(BLOCK_SECTORS);
                if device.sectors() < sectors {
                    let text = format!(
                        "{} has {}, and the sealed layer needs {}: use a larger device, or a file",
                        device.path().display(),
                        output::size(device.sectors()),
                        output::size(sectors)
                    );
                    return Err(Fail::new(REFUSED, "too_small", text));
                }
                Place::Device(device)
            }
            Target::File { path, force } => Place::File(NewFile::create(&path, bytes, force)?),
        };
        Ok(Output { place, fail: None })
    }
}

fn exists(out: &Path) -> Fail {
    let text = format!(
        "{} exists already: choose another name, or replace it with --force",
        out.display()
    );
    Fail::new(REFUSED, "exists", text)
}

fn same(leaf: &Device, out: &Path) -> Fail {
    let text = format!(
        "{} and {} are one device or share sectors: write the sealed layer to another place",
        leaf.path().display(),
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

/// A layer that is being written.
pub struct Output {
    place: Place,
    fail: Option<Fail>,
}

impl Output {
    /// Ends the writing: the layer is whole.
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
                "{} is partly overwritten, and holds no sealed layer",
                device.path().display()
            ),
        };
        fail.message += &format!(" ({text})");
        fail
    }

    fn try_write(&self, block: u64, blocks: &[Block]) -> Result {
        let bytes = blocks.as_flattened();
        interrupt::check()?;
        match &self.place {
            // The file has its size already, so a hole reads as these zeroes.
            Place::File(_) if bytes.iter().all(|&b| b == 0) => Ok(()),
            Place::File(new) => new
                .file
                .write_all_at(bytes, block * BLOCK)
                .map_err(|e| Fail::io("write to", &new.beside, &e)),
            Place::Device(device) => device.write_at(block * BLOCK, bytes),
        }
    }

    fn try_flush(&self) -> Result {
        interrupt::check()?;
        match &self.place {
            Place::File(new) => {
                let done = new.file.sync_all();
                done.map_err(|e| Fail::io("flush", &new.beside, &e))
            }
            Place::Device(device) => device.sync(),
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
        let done = self.try_write(block, blocks);
        self.keep(done, block)
    }

    fn flush(&mut self) -> ubcore::error::Result {
        let done = self.try_flush();
        self.keep(done, 0)
    }
}
