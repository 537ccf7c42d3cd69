// SPDX-License-Identifier: GPL-2.0

//! Leaves as they are at some points, for a guest in which the driver attaches them and a file
//! system recovers its content.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::points::Leaf;

/// Writes a list with a line for each leaf: where it begins and its length, in sectors, which
/// checked point it is, and the files that are durable by then.
pub struct Leaves {
    file: File,
    list: File,
    /// The number of points from one leaf to the next.
    every: u64,
    points: u64,
    sectors: u64,
    written: u64,
}

/// The least gap between two leaves: 1 MiB.
const GAP: u64 = 2048;

fn create(image: &Path, suffix: &str) -> Result<File, String> {
    let mut name = OsString::from(image);
    name.push(suffix);
    File::create(&name).map_err(|e| format!("{}: {e}", name.to_string_lossy()))
}

impl Leaves {
    /// Keeps leaves of so many sectors in IMAGE.leaves and IMAGE.list: the first point, and each
    /// `every`-th point after it.
    pub fn new(image: &Path, every: u64, sectors: u64) -> Result<Leaves, String> {
        Ok(Leaves {
            file: create(image, ".leaves")?,
            list: create(image, ".list")?,
            every,
            points: 0,
            sectors,
            written: 0,
        })
    }

    /// Handles the next point, which may be one of those to keep.
    pub fn point(&mut self, leaf: &Leaf, durable: &[u64]) -> Result<(), String> {
        self.points += 1;
        if (self.points - 1) % self.every != 0 {
            return Ok(());
        }
        let start = self.written * (self.sectors.next_multiple_of(GAP) + GAP);
        let written = leaf
            .write_to(&self.file, start * 512)
            .and_then(|()| self.file.set_len((start + self.sectors + GAP) * 512))
            .and_then(|()| {
                let files: Vec<String> = durable.iter().map(u64::to_string).collect();
                writeln!(
                    self.list,
                    "{start} {} {} {}",
                    self.sectors,
                    self.points,
                    files.join(" ")
                )
            });
        self.written += 1;
        written.map_err(|e| format!("leaves: {e}"))
    }
}
