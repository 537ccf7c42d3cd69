// SPDX-License-Identifier: GPL-2.0

//! Runs of the tool that are cut: killed at one of its writes, or with one I/O that fails. A run
//! that was recorded says what a power failure at each of its writes can leave.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sim::disk::Random;

use crate::{command, Folder};

const SECTOR: usize = 512;

/// How a run of the tool is cut, and at which of its I/Os.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    None,
    /// The process is killed before this write, flush or change of size, or in the middle of it.
    Kill(u64),
    Torn(u64),
    /// This write, flush or change of size fails.
    Error(u64),
    /// This read fails.
    ReadError(u64),
    /// This read returns a wrong byte.
    WrongRead(u64),
}

/// What the tool did to a file.
#[derive(Clone, Debug)]
pub enum FileEvent {
    Write(u64, Vec<u8>),
    Flush,
    Size(u64),
}

/// What a run did.
pub struct Recorded {
    /// The exit code; `None` if it was killed.
    pub code: Option<i32>,
    pub err: String,
    /// What it did to files, in order, with the inode of each.
    pub events: Vec<(u64, FileEvent)>,
    /// What it read, in order.
    pub reads: Vec<Read>,
}

/// A read, and the inode of its file.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    pub inode: u64,
    pub at: u64,
    pub len: u64,
}

/// Makes runs of the tool on the files of a directory.
pub struct Cutter<'a> {
    folder: &'a Folder,
    library: PathBuf,
    log: PathBuf,
}

impl<'a> Cutter<'a> {
    /// Builds the library that cuts. The directory has a subdirectory `files` from here on.
    pub fn new(folder: &'a Folder) -> Cutter<'a> {
        let library = folder.path("cut.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cut.c");
        let built = Command::new("cc")
            .args([
                "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
            ])
            .args([&library, &source])
            .status();
        assert!(built.unwrap().success());
        fs::create_dir(folder.path("files")).unwrap();
        Cutter {
            folder,
            library,
            log: folder.path("cut.log"),
        }
    }

    /// Returns the path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path("files").join(name)
    }

    /// Returns all files, by name.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let all = fs::read_dir(self.folder.path("files")).unwrap();
        let file = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        all.map(file).collect()
    }

    /// Makes the files what they were.
    pub fn restore(&self, files: &BTreeMap<String, Vec<u8>>) {
        for name in self
            .files()
            .keys()
            .filter(|name| !files.contains_key(*name))
        {
            fs::remove_file(self.path(name)).unwrap();
        }
        for (name, bytes) in files {
            if fs::read(self.path(name)).ok().as_ref() != Some(bytes) {
                fs::write(self.path(name), bytes).unwrap();
            }
        }
    }

    /// Runs the tool with these words; one that is the name of a file becomes its path.
    pub fn run(&self, line: &str, cut: Cut) -> Recorded {
        let _ = fs::remove_file(&self.log);
        let mut command = command();
        for word in line.split_whitespace() {
            match word.strip_prefix('@') {
                Some(name) => command.arg(self.path(name)),
                None => command.arg(word),
            };
        }
        let (kind, how, at) = match cut {
            Cut::None => ("write", "error", None),
            Cut::Kill(at) => ("write", "kill", Some(at)),
            Cut::Torn(at) => ("write", "torn", Some(at)),
            Cut::Error(at) => ("write", "error", Some(at)),
            Cut::ReadError(at) => ("read", "error", Some(at)),
            Cut::WrongRead(at) => ("read", "wrong", Some(at)),
        };
        command.env("LD_PRELOAD", &self.library);
        command.env("CUT_UNDER", self.folder.path("files"));
        command.env("CUT_LOG", &self.log);
        command.env("CUT_KIND", kind).env("CUT_HOW", how);
        if let Some(at) = at {
            command.env("CUT_AT", at.to_string());
        }
        let output = command.output().unwrap();
        let (events, reads) = parse(&fs::read(&self.log).unwrap_or_default());
        assert!(output.status.signal().is_none_or(|s| s == 9));
        Recorded {
            code: output.status.code(),
            err: String::from_utf8(output.stderr).unwrap(),
            events,
            reads,
        }
    }
}

fn parse(mut log: &[u8]) -> (Vec<(u64, FileEvent)>, Vec<Read>) {
    let (mut events, mut reads) = (Vec::new(), Vec::new());
    while let Some((head, rest)) = log.split_at_checked(32) {
        let word = |n: usize| u64::from_le_bytes(head[8 * n..8 * n + 8].try_into().unwrap());
        let (at, len, inode) = (word(1), word(2) as usize, word(3));
        log = rest;
        let event = match word(0) {
            0 => {
                let (data, rest) = log.split_at(len);
                log = rest;
                FileEvent::Write(at, data.to_vec())
            }
            1 => FileEvent::Flush,
            2 => FileEvent::Size(at),
            _ => {
                let len = len as u64;
                reads.push(Read { inode, at, len });
                continue;
            }
        };
        events.push((inode, event));
    }
    (events, reads)
}

/// Returns what a power failure after these events leaves of a file that held `before`: what was
/// flushed, and of the rest the sectors that `lands` chooses.
pub fn after_power_failure(
    before: &[u8],
    events: &[(u64, FileEvent)],
    mut lands: impl FnMut() -> bool,
) -> Vec<u8> {
    let mut bytes = before.to_vec();
    let mut pending: Vec<(usize, &[u8])> = Vec::new();
    for (_, event) in events {
        match event {
            FileEvent::Write(at, data) => {
                let sectors = (*at as usize..).step_by(SECTOR).zip(data.chunks(SECTOR));
                pending.extend(sectors);
            }
            FileEvent::Flush => put(&mut bytes, pending.drain(..)),
            // The file system keeps the size, so this model makes a change of it durable at once.
            FileEvent::Size(len) => bytes.resize(*len as usize, 0),
        }
    }
    put(&mut bytes, pending.into_iter().filter(|_| lands()));
    bytes
}

fn put<'a>(bytes: &mut Vec<u8>, sectors: impl Iterator<Item = (usize, &'a [u8])>) {
    for (at, data) in sectors {
        let end = at + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(data);
    }
}

/// Returns chances at which sectors land: none, all, and some.
pub fn chances(random: &mut Random, some: u64) -> Vec<Random> {
    let mut all = vec![Random(0), Random(1)];
    all.extend((0..some).map(|_| Random(random.draw() | 2)));
    all
}

/// Makes the choice of [`after_power_failure`]: of seed 0 nothing lands, of seed 1 everything.
pub fn lands(random: &mut Random) -> impl FnMut() -> bool + '_ {
    let (nothing, everything) = (random.0 == 0, random.0 == 1);
    move || !nothing && (everything || random.chance(2))
}
