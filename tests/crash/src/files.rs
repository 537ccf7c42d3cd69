// SPDX-License-Identifier: GPL-2.0

//! The oracle of a file system: the file system's check, and the files that were durable by then.
//!
//! The root is all zeroes, so a union holds only what its leaf holds. XFS has no tool that replays
//! its log, so its content is checked only in a guest, at the points that [`Leaves`] keeps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

use crate::leaves::Leaves;
use crate::points::{Leaf, PointOracle};
use sim::union::SimUnion;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FsKind {
    Ext4,
    Btrfs,
    Xfs,
}

impl FsKind {
    pub fn of(word: &str) -> Option<FsKind> {
        match word {
            "ext4" => Some(FsKind::Ext4),
            "btrfs" => Some(FsKind::Btrfs),
            "xfs" => Some(FsKind::Xfs),
            _ => None,
        }
    }
}

pub struct Files {
    kind: FsKind,
    image: PathBuf,
    leaves: Leaves,
    stride: usize,
    /// Durable files by number, as `tests/crash/guest/points` makes them.
    kept: Vec<u64>,
    made: bool,
}

fn run(program: &str, arguments: &[&str], image: &Path) -> Result<Output, String> {
    let done = Command::new(program).args(arguments).arg(image).output();
    done.map_err(|e| format!("{program}: {e}"))
}

fn said(o: &Output) -> String {
    let all = [&o.stdout[..], &o.stderr[..]].concat();
    String::from_utf8_lossy(&all)
        .lines()
        .take(12)
        .collect::<Vec<_>>()
        .join(" | ")
}

impl Files {
    pub fn new(kind: FsKind, image: PathBuf, leaves: Leaves, stride: usize) -> Files {
        Files {
            kind,
            image,
            leaves,
            stride,
            kept: Vec::new(),
            made: false,
        }
    }

    fn write(&self, union: &SimUnion, leaf: &Leaf) -> Result<(), String> {
        let sectors = union.map.geometry().union_sectors();
        let mut image = vec![0; sectors as usize * 512];
        let mut at = 0;
        for run in plan::read(&union.map, NoLayers, 0, sectors as u32) {
            if let Source::Leaf(s) = run.source {
                for n in 0..u64::from(run.sectors) {
                    let to = (at + n) as usize * 512;
                    image[to..to + 512].copy_from_slice(leaf.get(s + n));
                }
            }
            at += u64::from(run.sectors);
        }
        fs::write(&self.image, image).map_err(|e| format!("{}: {e}", self.image.display()))
    }

    /// Returns the content of the file with that number.
    fn content(n: u64) -> Vec<u8> {
        let len = (1000 + n * 7919 % 90_000) as usize;
        format!("file {n}\n").bytes().cycle().take(len).collect()
    }

    fn check_ext4(&self) -> Result<(), String> {
        // This replays the journal and repairs nothing that needs a decision.
        let done = run("e2fsck", &["-f", "-p"], &self.image)?;
        if !matches!(done.status.code(), Some(0 | 1)) {
            return Err(format!("e2fsck: {}", said(&done)));
        }
        // The newest file, and one of the others.
        let newest = self.kept.last();
        for n in newest.into_iter().chain(self.kept.get(self.kept.len() / 2)) {
            let path = format!("cat /kept{n}");
            let got = run("debugfs", &["-R", &path], &self.image)?;
            if got.stdout != Self::content(*n) {
                return Err(format!(
                    "file kept{n} is not what was durable ({} bytes)",
                    got.stdout.len()
                ));
            }
        }
        Ok(())
    }

    fn check_btrfs(&self) -> Result<(), String> {
        let done = run(
            "btrfs",
            &["check", "--readonly", "--check-data-csum"],
            &self.image,
        )?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!("btrfs check: {}", said(&done))),
        }
    }
}

impl PointOracle for Files {
    fn mark(&mut self, text: &str) {
        if let Some(n) = text.strip_prefix('s').and_then(|n| n.parse().ok()) {
            self.kept.push(n);
        }
        self.made |= text == "made";
    }

    fn check(&mut self, union: &SimUnion, leaf: &Leaf) -> Result<(), String> {
        if !self.made {
            return Ok(());
        }
        self.leaves.point(leaf, &self.kept)?;
        if self.kind == FsKind::Xfs {
            return Ok(());
        }
        self.write(union, leaf)?;
        match self.kind {
            FsKind::Btrfs => self.check_btrfs(),
            _ => self.check_ext4(),
        }
    }

    /// XFS takes a metadata block whose header is new for wholly new, and does not replay its log
    /// over it. The superblocks of ext4, 1 KiB, and of btrfs, 4 KiB, have checksums that nothing
    /// repairs at a mount. A power failure that tears such a block destroys the file system on any
    /// disk, so no failure here tears one.
    fn whole(&self) -> u64 {
        match self.kind {
            FsKind::Ext4 => 2,
            FsKind::Btrfs | FsKind::Xfs => 8,
        }
    }

    fn stride(&self) -> usize {
        self.stride
    }
}
