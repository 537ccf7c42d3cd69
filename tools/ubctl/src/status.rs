// SPDX-License-Identifier: GPL-2.0

//! `ubctl status`: all that the driver tells of a union.

use serde::Serialize;
use ubcore::abi::{self, Status, MODE_READ_ONLY, MODE_WRITABLE};
use ubcore::geometry::BLOCK_SECTORS;

use crate::cli::StatusArgs;
use crate::control::{id_of, path_text, Control, PREFIX};
use crate::output::{self, size};
use crate::refuse::Result;

/// A union's state as it is shown. The names are those of `--json`, and stay.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Shown {
    pub name: String,
    pub id: u32,
    pub device: String,
    pub mode: &'static str,
    pub uuid: String,
    pub root: String,
    pub leaf: String,
    pub sectors: u64,
    pub root_sectors: u64,
    pub leaf_sectors: u64,
    pub slab_sectors: u32,
    pub slabs: u32,
    pub slabs_used: u32,
    pub journal_blocks: u32,
    pub journal_used: u32,
    pub dirty: bool,
    pub commits: u64,
    pub checkpoints: u64,
    pub journal_written: u64,
    pub first_writes: u64,
    pub io_errors: u64,
    pub map_bytes: u64,
    pub discard: &'static str,
    pub openers: u32,
    pub queues: u32,
    pub major: u32,
    pub minor: u32,
}

impl Shown {
    /// From the driver's answer.
    pub fn new(s: &Status) -> Shown {
        Shown {
            name: format!("{PREFIX}{}", s.id),
            id: s.id,
            device: format!("/dev/{PREFIX}{}", s.id),
            mode: match s.mode {
                MODE_WRITABLE => "writable",
                MODE_READ_ONLY => "read-only",
                abi::MODE_ASKED => "read-only-asked",
                _ => "unknown",
            },
            uuid: output::uuid(&s.uuid),
            root: path_text(&s.root),
            leaf: path_text(&s.leaf),
            sectors: s.sectors,
            root_sectors: s.root_sectors,
            leaf_sectors: s.leaf_sectors,
            slab_sectors: s.slab_sectors,
            slabs: s.slabs,
            slabs_used: s.slabs_used,
            journal_blocks: s.journal_blocks,
            journal_used: s.journal_used,
            dirty: s.dirty != 0,
            commits: s.commits,
            checkpoints: s.checkpoints,
            journal_written: s.journal_written,
            first_writes: s.first_writes,
            io_errors: s.io_errors,
            map_bytes: s.map_bytes,
            discard: match s.discard {
                abi::DISCARD_ZERO => "zero",
                abi::DISCARD_REVEAL => "reveal",
                _ => "unknown",
            },
            openers: s.openers,
            queues: s.queues,
            major: s.major,
            minor: s.minor,
        }
    }

    fn discard_text(&self) -> &'static str {
        match self.discard {
            "zero" => "zeroes",
            "reveal" => "the root again",
            _ => "what this tool does not know",
        }
    }

    /// Leaf space in use, of how much.
    pub fn used(&self) -> String {
        let slab = u64::from(self.slab_sectors);
        let (used, all) = (u64::from(self.slabs_used), u64::from(self.slabs));
        // Rounded up: a leaf that is not quite empty does not say 0 %.
        let percent = (used * 100).div_ceil(all.max(1));
        format!("{} of {} ({percent}%)", size(used * slab), size(all * slab))
    }

    fn text(&self) -> String {
        let mode = match self.mode {
            "read-only" => "read-only: the map could not be committed, see the kernel's log",
            other => other,
        };
        let journal = |blocks: u32| size(u64::from(blocks) * BLOCK_SECTORS);
        let list = output::fields(&[
            (
                "device",
                format!("{} ({}:{})", self.device, self.major, self.minor),
            ),
            ("mode", mode.to_owned()),
            ("uuid", self.uuid.clone()),
            (
                "root",
                format!("{} ({})", self.root, size(self.root_sectors)),
            ),
            (
                "leaf",
                format!("{} ({})", self.leaf, size(self.leaf_sectors)),
            ),
            (
                "size",
                format!("{} ({} sectors)", size(self.sectors), self.sectors),
            ),
            ("slab", size(self.slab_sectors.into())),
            (
                "used",
                format!(
                    "{}, {} of {} slabs",
                    self.used(),
                    self.slabs_used,
                    self.slabs
                ),
            ),
            (
                "journal",
                format!(
                    "{} of {} in use",
                    journal(self.journal_used),
                    journal(self.journal_blocks)
                ),
            ),
            (
                "dirty",
                if self.dirty {
                    "yes: a mapping is not durable yet"
                } else {
                    "no"
                }
                .to_owned(),
            ),
            (
                "commits",
                format!(
                    "{}, {} journal blocks written",
                    self.commits, self.journal_written
                ),
            ),
            ("checkpoints", self.checkpoints.to_string()),
            ("first writes", self.first_writes.to_string()),
            ("I/O errors", self.io_errors.to_string()),
            ("discard", format!("shows {}", self.discard_text())),
            ("map memory", format!("{} bytes", self.map_bytes)),
            ("openers", self.openers.to_string()),
            ("queues", self.queues.to_string()),
        ]);
        format!("{}\n{list}", self.name)
    }
}

/// The command: one union as an object, all as a list.
pub fn run(args: &StatusArgs, json: bool) -> Result {
    let control = Control::open()?;
    if let Some(name) = &args.union {
        let shown = Shown::new(&control.status(id_of(name)?)?);
        return if json {
            output::json(&shown)
        } else {
            output::text(&shown.text())
        };
    }
    let list: Vec<Shown> = control.all()?.iter().map(Shown::new).collect();
    if json {
        return output::json(&list);
    }
    let texts: Vec<String> = list.iter().map(Shown::text).collect();
    output::text(&texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::Shown;
    use std::collections::BTreeSet;
    use ubcore::abi::Status;

    #[test]
    fn the_names_of_json_stay() {
        let mut s = Status::new();
        s.mode = 1;
        let value = serde_json::to_value(Shown::new(&s)).unwrap();
        let names: BTreeSet<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let wanted = "name,id,device,mode,uuid,root,leaf,sectors,root_sectors,leaf_sectors,\
            slab_sectors,slabs,slabs_used,journal_blocks,journal_used,dirty,commits,checkpoints,\
            journal_written,first_writes,io_errors,map_bytes,discard,openers,queues,major,minor";
        assert_eq!(names, wanted.split(',').collect());
        assert_eq!(value["mode"], "read-only");
        assert_eq!(value["dirty"], false);
    }

    #[test]
    fn a_read_only_union_says_why() {
        let mut s = Status::new();
        s.mode = 1;
        assert!(Shown::new(&s).text().contains("could not be committed"));
    }
}
