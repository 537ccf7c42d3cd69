// SPDX-License-Identifier: GPL-2.0

//! The start of a workload: devices, and the operations that ran on them before.

use ubcore::geometry::Geometry;

use crate::harness::{Devices, Harness};
use crate::op::{Operation, Range};

/// Five slabs over three, the last one shorter: the leaf fills up, and emptied slabs are used
/// again.
const TINY: [u64; 4] = [150, 2048 + 3 * 32, 32, 16];
/// 40 slabs over 24.
const SMALL: [u64; 4] = [1280, 2048 + 24 * 32, 32, 16];
/// 64 KiB slabs, 20 over 12; slabs in pieces need records of words.
const PIECES: [u64; 4] = [2530, 2048 + 12 * 128, 128, 16];

/// A name for a replay line, the sizes, and the operations before the first.
pub struct Setup {
    pub name: &'static str,
    sizes: [u64; 4],
    before: fn() -> Vec<Operation>,
}

pub const SETUPS: [Setup; 5] = [
    Setup {
        name: "fresh",
        sizes: TINY,
        before: Vec::new,
    },
    Setup {
        name: "aged",
        sizes: TINY,
        before: aged,
    },
    Setup {
        name: "full",
        sizes: TINY,
        before: full,
    },
    Setup {
        name: "small",
        sizes: SMALL,
        before: Vec::new,
    },
    Setup {
        name: "pieces",
        sizes: PIECES,
        before: Vec::new,
    },
];

/// The ring has wrapped, and a checkpoint is due after one more commit.
fn aged() -> Vec<Operation> {
    let commit = |at| [Operation::Write(Range { at, len: 1 }), Operation::Flush];
    (10..27).flat_map(commit).collect()
}

/// No slab is free.
fn full() -> Vec<Operation> {
    vec![Operation::Write(Range { at: 0, len: 96 }), Operation::Flush]
}

impl Setup {
    /// Finds the setup with a name. With `-reveal` appended, discarded slabs show the root again.
    pub fn find(word: &str) -> Option<(&'static Setup, bool)> {
        let name = word.strip_suffix("-reveal").unwrap_or(word);
        let found = SETUPS.iter().find(|g| g.name == name);
        found.map(|g| (g, name != word))
    }

    pub fn word(&self, reveal: bool) -> String {
        let policy = if reveal { "-reveal" } else { "" };
        format!("{}{policy}", self.name)
    }

    pub fn devices(&self, reveal: bool) -> Devices {
        let [root, leaf, slab, journal] = self.sizes;
        let geometry = Geometry::new(root, root, leaf, slab as u32, journal as u32);
        Devices {
            geometry: geometry.expect("sizes within the format's bounds"),
            reveal,
        }
    }

    pub fn harness(&self, reveal: bool) -> Result<Harness, String> {
        let mut harness = Harness::new(self.devices(reveal))?;
        for op in (self.before)() {
            harness.run(&op)?;
        }
        Ok(harness)
    }
}
