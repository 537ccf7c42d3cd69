// SPDX-License-Identifier: GPL-2.0

//! Where a sealed layer or an image is written: a file that appears when it is whole, or a block
//! device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{access, fadvise, renameat_with, Access as Permission, Advice, RenameFlags, CWD};
use rustix::io::Errno;
use ubcore::error::{Error, Role};
use ubcore::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::sealed::Writer;

use crate::device::{is_same, refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::{interrupt, layer_arg, output, overlap, probe, sealed};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is written to a target, and how.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// What it is, for messages.
    pub what: &'static str,
    /// Replace what is there.
    pub force: bool,
    /// Write behind the sealed layers that are there.
    pub append: bool,
}

/// A place that may be written to.
pub struct Target {
    what: &'static str,
    to: To,
}

enum To {
    /// A new file, and the file that it will replace, which is held so that no other program begins
    /// to use it.
    File {
        path: PathBuf,
        old: Option<Box<Device>>,
    },
    Device(Box<Device>),
}

impl Target {
    /// Makes every check that does not need the size. Writes nothing. The output is made from the
    /// devices `sources`.
    pub fn check<'a>(
        wanted: Wanted,
        out: &Path,
        sources: impl IntoIterator<Item = &'a Device>,
    ) -> Result<Target> {
        let to = To::check(wanted, out, &sources.into_iter().collect::<Vec<_>>())?;
        let what = wanted.what;
        Ok(Target { what, to })
    }

    /// Adds to a failure that came before [`Target::begin`] what has become of the place.
    pub fn untouched(&self, mut fail: Fail) -> Fail {
        let text = match &self.to {
            To::File { path, old: None } => format!("{} was not made", path.display()),
            To::File { path, .. } => format!("{} is as it was before", path.display()),
            To::Device(device) => format!("{} is as it was before", device.path().display()),
        };
        fail.message += &format!(" ({text})");
        fail
    }

    /// Prints what a command would replace, for `--dry-run`.
    pub fn report_plan(&self, out: &Path, json: bool) -> Result {
        let (old, offset) = match &self.to {
            To::File { old, .. } => (old.as_ref(), 0),
            To::Device(device) => (Some(device), device.start()),
        };
        // Behind the layers of a file there is nothing.
        let old = old.filter(|device| device.is_block() || device.bytes() > 0);
        let found = old.map(|device| probe::probe(device)).transpose()?;
        let replaced = found.map(|used| used.map_or("zeroes at both ends".to_owned(), |u| u.what));
        if json {
            return output::json(&serde_json::json!({
                "out": out.display().to_string(),
                "offset": offset,
                "changed": false,
                "replaced": replaced,
            }));
        }
        let name = layer_arg::name(out, offset);
        output::text(&match replaced {
            Some(what) => format!("{name}: would be lost: {what}\n"),
            None => format!("{name}: would be made, and nothing lost\n"),
        })
    }

    /// Begins to write so many bytes.
    pub fn begin(self, bytes: u64) -> Result<Output> {
        let place = match self.to {
            To::Device(device) => {
                OutputPlace::Device(WrittenPart::begin(device, self.what, bytes)?)
            }
            To::File { path, old } => OutputPlace::File(NewFile::create(&path, bytes, old)?),
        };
        Ok(Output {
            what: self.what,
            place,
            is_committed: false,
            fail: None,
        })
    }

    /// Returns the byte at which the layer will begin in its file or on its device.
    pub fn start(&self) -> u64 {
        match &self.to {
            To::File { .. } => 0,
            To::Device(device) => device.start(),
        }
    }
}

impl To {
    fn check(wanted: Wanted, out: &Path, sources: &[&Device]) -> Result<To> {
        let meta = match fs::metadata(out) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return To::new_file(out),
            Err(e) => return Err(Fail::io("open", out, &e)),
        };
        if let Some(source) = sources.iter().find(|s| is_same(&meta, s.metadata())) {
            return Err(same(wanted.what, source, out));
        }
        if meta.file_type().is_block_device() {
            let device = open_device(wanted.what, out, sources)?;
            return To::of_device(wanted, device);
        }
        if !meta.is_file() {
            let text = format!(
                "{} is neither a block device nor a file: name a block device or a regular file",
                out.display()
            );
            return Err(Fail::new(REFUSED, "not_a_device", text));
        }
        // The file that a link leads to is replaced, and the link stays.
        let path = fs::canonicalize(out).map_err(|e| Fail::io("open", out, &e))?;
        if wanted.append {
            let file = Device::open(&path, Role::Leaf, Access::Exclusive);
            return To::of_device(
                wanted,
                file.map_err(|fail| refused(fail, wanted.what, out))?,
            );
        }
        if !wanted.force {
            return Err(exists(out));
        }
        refuse_folder(&path)?;
        // If a union uses the file, the rename takes the file's name away, and the union's last
        // close deletes the file. So a file in use is refused.
        let old = Device::open(&path, Role::Leaf, Access::Claim)?;
        let old = Some(Box::new(old));
        Ok(To::File { path, old })
    }

    fn new_file(out: &Path) -> Result<To> {
        if fs::symlink_metadata(out).is_ok() {
            let text = format!("{} is a dangling link: name the file itself", out.display());
            return Err(Fail::new(REFUSED, "exists", text));
        }
        refuse_folder(out)?;
        let path = out.to_owned();
        Ok(To::File { path, old: None })
    }

    /// Finds the place on a device, or for a layer in a file that has layers already.
    fn of_device(wanted: Wanted, device: Device) -> Result<To> {
        let device = if wanted.append {
            behind_layers(device)?
        } else {
            device
        };
        if let Some(used) = probe::probe(&device)?.filter(|_| !wanted.force) {
            let text = format!(
                "{} looks used: {} at byte {}; if its content is not needed any more, use --force",
                device.path().display(),
                used.what,
                device.start().saturating_add(used.at)
            );
            return Err(Fail::new(REFUSED, "looks_used", text));
        }
        Ok(To::Device(Box::new(device)))
    }
}

/// Opens a device to write to it. Refuses one that shares sectors with a source.
fn open_device(what: &str, out: &Path, sources: &[&Device]) -> Result<Device> {
    let refused = |fail| refused(fail, what, out);
    let device = Device::open(out, Role::Leaf, Access::Exclusive).map_err(refused)?;
    refuse_union(&device, Role::Leaf).map_err(refused)?;
    for source in sources {
        overlap::refuse(source, &device).map_err(|fail| match fail.reason {
            "same_device" => same(what, source, out),
            _ => refused(fail),
        })?;
    }
    device.refuse_read_only().map_err(refused)?;
    Ok(device)
}

/// Converts the refusal of a leaf to that of a place to write to.
fn refused(fail: Fail, what: &str, out: &Path) -> Fail {
    match fail.reason {
        "stacked" => {
            let text = format!(
                "{} is a union or lies on one: write the {what} to another device, or to a file",
                out.display()
            );
            Fail::new(REFUSED, "stacked", text)
        }
        "read_only_leaf" => read_only(out),
        _ => fail,
    }
}

/// Returns the part of a device or file behind the sealed layers that it begins with.
fn behind_layers(device: Device) -> Result<Device> {
    let (layers, rest, fail) = sealed::row(device);
    if let Some(fail) = fail {
        return Err(fail);
    }
    if layers.is_empty() && !rest.is_block() && rest.bytes() > 0 {
        let text = format!(
            "{} does not begin with a sealed layer: append to one that does, or name a new file",
            rest.path().display()
        );
        return Err(Fail::new(REFUSED, "not_sealed", text));
    }
    Ok(rest)
}

/// Refuses a directory in which no file can be made.
fn refuse_folder(path: &Path) -> Result {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        let text = format!(
            "{} is the name of a directory: add the name of a file",
            path.display()
        );
        return Err(Fail::new(REFUSED, "not_a_device", text));
    }
    access(folder(path), Permission::WRITE_OK | Permission::EXEC_OK)
        .map_err(|e| failed("create", path, &e.into()))
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Fail {
    match Errno::from_io_error(e) {
        Some(Errno::ROFS) => read_only(path),
        _ => Fail::io(what, path, e),
    }
}

fn read_only(path: &Path) -> Fail {
    let text = format!(
        "{} is write-protected, or on a file system that is: name another place",
        path.display()
    );
    Fail::new(REFUSED, "read_only", text)
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
        source.name(),
        out.display()
    );
    Fail::new(REFUSED, "same_device", text)
}

/// The part of a device, or of a file that grows, that is written in place.
struct WrittenPart {
    device: Box<Device>,
    /// The bytes that the file had before.
    old_bytes: u64,
}

impl WrittenPart {
    fn begin(device: Box<Device>, what: &str, bytes: u64) -> Result<WrittenPart> {
        let end = device.start().saturating_add(bytes);
        let old_bytes = device.start().saturating_add(device.bytes());
        if device.bytes() < bytes && device.is_block() {
            let text = format!(
                "{} has {} left, and the {what} needs {}: use a larger device, or a file",
                device.path().display(),
                output::size(device.sectors()),
                output::size(bytes.div_ceil(512))
            );
            return Err(Fail::new(REFUSED, "too_small", text));
        }
        if old_bytes < end {
            let sized = device.file().set_len(end);
            sized.map_err(|e| failed("write to", device.path(), &e))?;
        }
        Ok(WrittenPart { device, old_bytes })
    }

    /// Takes back what was written, as far as that is possible. Returns what has become of it.
    fn undo(&self, what: &str, is_committed: bool) -> String {
        let name = self.device.name();
        if is_committed {
            return format!("{name} may hold the {what}: see ubctl verify {name}");
        }
        let is_new = self.device.start() >= self.old_bytes;
        if !self.device.is_block() && self.device.file().set_len(self.old_bytes).is_ok() && is_new {
            return format!("{} is as it was before", self.device.path().display());
        }
        format!("{name} is partly overwritten, and holds no {what}")
    }
}

/// A file beside its final place. It is removed unless it gets there.
struct NewFile {
    file: File,
    /// Where it is until it is whole.
    beside: PathBuf,
    path: PathBuf,
    /// The file that this one replaces.
    old: Option<Box<Device>>,
    is_there: bool,
}

impl NewFile {
    fn create(path: &Path, bytes: u64, old: Option<Box<Device>>) -> Result<NewFile> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = format!(".{name}.ubctl-{}", std::process::id());
        let beside = folder(path).join(beside);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&beside)
            .map_err(|e| failed("create", &beside, &e))?;
        let new = NewFile {
            file,
            beside,
            path: path.to_owned(),
            old,
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
        let flags = if self.old.is_some() {
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

/// Returns the directory of a file.
fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

enum OutputPlace {
    File(NewFile),
    Device(WrittenPart),
}

/// A layer or an image that is being written.
pub struct Output {
    what: &'static str,
    place: OutputPlace,
    /// The header of a sealed layer was written to its place, so the layer may be there.
    is_committed: bool,
    fail: Option<Fail>,
}

impl Output {
    /// Ends the writing: all of it is there and durable.
    pub fn finish(&mut self) -> Result {
        match &mut self.place {
            OutputPlace::File(file) => file.put(),
            OutputPlace::Device(_) => Ok(()),
        }
    }

    /// Returns why the last write failed.
    pub fn take_fail(&mut self) -> Option<Fail> {
        self.fail.take()
    }

    /// Adds to a failure what has become of the place.
    pub fn undo(self, mut fail: Fail) -> Fail {
        let text = match &self.place {
            OutputPlace::File(file) if file.is_there => {
                "the file is there and whole, but a power failure could still remove it".to_owned()
            }
            OutputPlace::File(file) if file.old.is_some() => {
                format!("{} is as it was before", file.path.display())
            }
            OutputPlace::File(file) => format!("{} was not made", file.path.display()),
            OutputPlace::Device(part) => part.undo(self.what, self.is_committed),
        };
        fail.message += &format!(" ({text})");
        fail
    }

    /// Writes bytes at a position.
    pub fn put(&self, at: u64, bytes: &[u8]) -> Result {
        self.check_signals()?;
        match &self.place {
            // The file has its size already, so a hole reads as these zeroes.
            OutputPlace::File(_) if bytes.iter().all(|&b| b == 0) => Ok(()),
            OutputPlace::File(new) => new
                .file
                .write_all_at(bytes, at)
                .map_err(|e| Fail::io("write to", &new.beside, &e)),
            OutputPlace::Device(part) => part.device.write_at(at, bytes),
        }
    }

    /// Makes everything that was written durable.
    pub fn sync(&self) -> Result {
        self.check_signals()?;
        match &self.place {
            OutputPlace::File(new) => {
                let done = new.file.sync_all();
                done.map_err(|e| Fail::io("flush", &new.beside, &e))
            }
            OutputPlace::Device(part) => part.device.sync(),
        }
    }

    /// Fails if a signal has come. After the header of a layer on a device is written, the layer is
    /// there, so the work is completed.
    fn check_signals(&self) -> Result {
        match self.is_committed {
            true => Ok(()),
            false => interrupt::check(),
        }
    }

    /// Returns whether what is not written reads as zeroes.
    pub fn has_holes(&self) -> bool {
        matches!(self.place, OutputPlace::File(_))
    }

    /// Drops the pages of the target from the page cache, so that reads come from the device.
    pub fn forget(&self) {
        let file = match &self.place {
            OutputPlace::File(new) => &new.file,
            OutputPlace::Device(part) => part.device.file(),
        };
        // The kernel may keep the pages. The reads then return the written bytes from the cache.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
    }

    /// Opens the output for reading.
    pub fn device(&self) -> Result<Device> {
        match &self.place {
            OutputPlace::File(new) => Device::open(&new.beside, Role::Layer, Access::Read),
            OutputPlace::Device(part) => part.device.again(Access::Read),
        }
    }

    /// Makes the header of a layer on a device zeroes, because the layer is not as it must be.
    pub fn erase_header(&self) {
        if let (OutputPlace::Device(part), true) = (&self.place, self.is_committed) {
            // If this fails, the header is there, and `undo` says so.
            let _ = part.device.write_at(0, &[0; BLOCK_BYTES]);
            let _ = part.device.sync();
        }
    }

    /// Reads bytes back.
    pub fn read_back(&self, at: u64, room: &mut [u8]) -> Result {
        interrupt::check()?;
        match &self.place {
            OutputPlace::File(new) => new
                .file
                .read_exact_at(room, at)
                .map_err(|e| Fail::io("read", &new.beside, &e)),
            OutputPlace::Device(part) => part.device.read_at(at, room),
        }
    }

    fn keep(&mut self, done: Result, block: u64) -> ubcore::error::Result {
        done.map_err(|fail| {
            self.fail = Some(fail);
            Error::Io(Role::Leaf, block.saturating_mul(BLOCK_SECTORS))
        })
    }
}

impl Writer for Output {
    fn write(&mut self, block: u64, blocks: &[Block]) -> ubcore::error::Result {
        let is_header = block == 0 && blocks.as_flattened().iter().any(|&b| b != 0);
        // A write that fails may have written the header.
        self.is_committed |= is_header && matches!(self.place, OutputPlace::Device(_));
        let done = self.put(block.saturating_mul(BLOCK), blocks.as_flattened());
        self.keep(done, block)
    }

    fn flush(&mut self) -> ubcore::error::Result {
        let done = self.sync();
        self.keep(done, 0)
    }
}
