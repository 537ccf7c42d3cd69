// SPDX-License-Identifier: GPL-2.0

//! The oracle of a file system: its own check, and the files that were durable by then.
//!
//! The root is all zeroes, so a union is what its leaf says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ubcore::plan::{self, Source};

use crate::points::{Leaf, Oracle};
use crate::sim::union::SimUnion;

pub struct Files {
    btrfs: bool,
    image: PathBuf,
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
    pub fn new(btrfs: bool, image: PathBuf, stride: usize) -> Files {
        Files {
            btrfs,
            image,
            stride,
            kept: Vec::new(),
            made: false,
        }
    }

    fn write(&self, union: &SimUnion, leaf: &Leaf) -> Result<(), String> {
        let sectors = union.map.geometry().union_sectors();
        let mut image = vec![0; sectors as usize * 512];
        let mut at = 0;
        for run in plan::read(&union.map, 0, sectors as u32) {
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

    /// The content of a file of that number.
    fn content(n: u64) -> Vec<u8> {
        let len = (1000 + n * 7919 % 90_000) as usize;
        format!("file {n}\n").bytes().cycle().take(len).collect()
    }

    fn check_ext4(&self) -> Result<(), String> {
        // Replays its journal and mends nothing that needs a decision.
        let done = run("e2fsck", &["-f", "-p"], &self.image)?;
        if !matches!(done.status.code(), Some(0 | 1)) {
            return Err(format!("e2fsck: {}", said(&done)));
        }
        // The newest, and one of the others.
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

impl Oracle for Files {
    fn mark(&mut self, text: &str) {
        if let Some(n) = text.strip_prefix('s').and_then(|n| n.parse().ok()) {
            self.kept.push(n);
        }
        self.made |= text == "made";
    }

    fn judge(&mut self, union: &SimUnion, leaf: &Leaf) -> Result<(), String> {
        if !self.made {
            return Ok(());
        }
        self.write(union, leaf)?;
        if self.btrfs {
            self.check_btrfs()
        } else {
            self.check_ext4()
        }
    }

    fn stride(&self) -> usize {
        self.stride
    }
}
