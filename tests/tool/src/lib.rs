// SPDX-License-Identifier: GPL-2.0

//! What the tests of `ubctl` share: images in a private directory, and runs of the built tool.

pub use sim;

pub mod cut;
pub mod leaf;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

pub const MIB: u64 = 1 << 20;

/// Only one test of a file runs at a time. A child that another thread has forked inherits the
/// locks of images until it executes the tool, so a leaf would be in use for a moment after its
/// holder has gone.
static ONE: Mutex<()> = Mutex::new(());

/// A directory that is removed with the test.
pub struct Folder(
    PathBuf,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ubctl-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        // A failed test has reported its failure, and the other tests still run.
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        Folder(path, one)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a sparse image of zeroes.
    pub fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// Makes a root in which each sector starts with its number.
    pub fn root(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        let mut content = vec![0; bytes as usize];
        for (n, sector) in content.chunks_mut(512).enumerate() {
            sector[..8].copy_from_slice(&(n as u64).to_le_bytes());
        }
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The result of a run of the tool.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in: {}", self.out))
    }

    /// Checks the exit code, and that one message holds each of `words`.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(self.out.is_empty(), "{}", self.out);
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in: {}", self.err);
        }
    }

    /// Checks the same of a command that first prints what it has found.
    #[track_caller]
    pub fn refused_after(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert!(!self.out.is_empty(), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in: {}", self.err);
        }
    }

    #[track_caller]
    pub fn done(self) -> Ran {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        assert!(self.err.is_empty(), "{}", self.err);
        self
    }
}

/// Returns a command that runs the tool, which cargo has built beside the directory of the test.
pub fn command() -> Command {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let mut command = Command::new(folder.join("ubctl"));
    command.stdin(Stdio::null());
    command
}

/// Runs the tool with the words of `line`; `{}` stands for the next of `paths`.
pub fn ubctl(line: &str, paths: &[&Path]) -> Ran {
    let mut command = command();
    let mut paths = paths.iter();
    for word in line.split_whitespace() {
        if word == "{}" {
            command.arg(paths.next().unwrap());
        } else {
            command.arg(word);
        }
    }
    assert!(paths.next().is_none());
    ran(&command.output().unwrap())
}

pub fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout.clone()).unwrap(),
        err: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

pub fn put(path: &Path, at: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

pub fn get(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path)
        .unwrap()
        .read_exact_at(&mut bytes, at)
        .unwrap();
    bytes
}
