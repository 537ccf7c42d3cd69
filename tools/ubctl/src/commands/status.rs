// SPDX-License-Identifier: GPL-2.0

//! `ubctl status`: shows everything that the driver reports about a union.

use std::path::Path;

use clap::Args;
use serde::Serialize;
use ubcore::abi::{self, Status};
use ubcore::error::Error;
use ubcore::geometry::BLOCK_SECTORS;

use crate::backing::Backing;
use crate::control::{leaf_name, path_text, Control, PREFIX};
use crate::error::{reason_of, Result};
use crate::loopdev;
use crate::output::{self, size};
use crate::sysfs::{self, Need, State};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID [default: all unions]
    pub union: Option<String>,
}

/// A union's state as it is shown. The names are those of `--json`, and are stable.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Shown {
    pub name: String,
    pub id: u32,
    pub device: String,
    pub mode: &'static str,
    pub uuid: String,
    pub leaf_name: String,
    pub root: String,
    pub leaf: String,
    /// The image that a loop device shows.
    pub root_image: Option<String>,
    pub leaf_image: Option<String>,
    pub root_state: State,
    pub leaf_state: State,
    /// The file system that the leaf's image lies on, and the space that is left there.
    pub leaf_host: Option<String>,
    pub leaf_host_free_bytes: Option<u64>,
    pub leaf_host_size_bytes: Option<u64>,
    pub logical_block_bytes: Option<u32>,
    pub physical_block_bytes: Option<u32>,
    pub root_logical_block_bytes: Option<u32>,
    pub root_physical_block_bytes: Option<u32>,
    pub leaf_logical_block_bytes: Option<u32>,
    pub leaf_physical_block_bytes: Option<u32>,
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
    pub last_error: Option<&'static str>,
    pub damaged_blocks: u32,
    pub lost_sectors: u64,
    pub openers: u32,
    pub queues: u32,
    pub major: u32,
    pub minor: u32,
}

impl Shown {
    /// Converts the driver's answer.
    pub fn new(s: &Status) -> Shown {
        let name = format!("{PREFIX}{}", s.id);
        let block = Path::new("/sys/block");
        let own = sysfs::blocks(&block.join(&name));
        let [root, leaf] = lowers(s, block, &name);
        let host = Backing::of(Path::new(&path_text(&s.leaf)), false).and_then(|b| b.host());
        Shown {
            id: s.id,
            device: format!("/dev/{name}"),
            name,
            mode: mode(s, [&root.state, &leaf.state]),
            root_state: root.state,
            leaf_state: leaf.state,
            leaf_host_free_bytes: host.as_ref().map(|h| h.free),
            leaf_host_size_bytes: host.as_ref().map(|h| h.size),
            leaf_host: host.map(|h| h.mount.display().to_string()),
            logical_block_bytes: own.map(|b| b.logical),
            physical_block_bytes: own.map(|b| b.physical),
            root_logical_block_bytes: root.blocks.map(|b| b.logical),
            root_physical_block_bytes: root.blocks.map(|b| b.physical),
            leaf_logical_block_bytes: leaf.blocks.map(|b| b.logical),
            leaf_physical_block_bytes: leaf.blocks.map(|b| b.physical),
            uuid: output::uuid(&s.uuid),
            leaf_name: leaf_name(s),
            root_image: loopdev::behind(&path_text(&s.root)),
            leaf_image: loopdev::behind(&path_text(&s.leaf)),
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
            discard: abi::discard_word(s.discard),
            last_error: last_error(s.last_error),
            damaged_blocks: s.damaged_blocks,
            lost_sectors: s.lost_sectors,
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

    /// Returns the leaf's name for people, to whom an empty name would be invisible.
    pub fn leaf_name_text(&self) -> &str {
        if self.leaf_name.is_empty() {
            "-"
        } else {
            &self.leaf_name
        }
    }

    /// Returns the root's device, and the image if there is one.
    pub fn root_text(&self) -> String {
        with_image(&self.root, self.root_image.as_deref())
    }

    /// Returns the leaf's device, and the image if there is one.
    pub fn leaf_text(&self) -> String {
        with_image(&self.leaf, self.leaf_image.as_deref())
    }

    /// Returns how much leaf space is in use, and of how much.
    pub fn used(&self) -> String {
        let slab = u64::from(self.slab_sectors);
        let (used, all) = (u64::from(self.slabs_used), u64::from(self.slabs));
        // The percentage is rounded up, so that a leaf that is not quite empty does not show 0 %.
        let percent = (used * 100).div_ceil(all.max(1));
        format!("{} of {} ({percent}%)", size(used * slab), size(all * slab))
    }

    /// Returns the space that the leaf's host has left, if there is a host.
    pub fn host_text(&self) -> Option<String> {
        let left = size(self.leaf_host_free_bytes? / 512);
        Some(format!("{left} left on {}", self.leaf_host.as_deref()?))
    }

    fn blocks_text(&self) -> Option<String> {
        let of = |n: Option<u32>| n.map_or_else(|| "?".to_owned(), |n| format!("{n} B"));
        let pair =
            |side: &str, logical, physical| format!("{side} {}, {}", of(logical), of(physical));
        Some(format!(
            "{} logical, {} physical ({}; {})",
            of(Some(self.logical_block_bytes?)),
            of(self.physical_block_bytes),
            pair(
                "root",
                self.root_logical_block_bytes,
                self.root_physical_block_bytes
            ),
            pair(
                "leaf",
                self.leaf_logical_block_bytes,
                self.leaf_physical_block_bytes
            ),
        ))
    }

    /// Returns the mode and the reason for it.
    fn mode_text(&self) -> String {
        match (self.mode, self.last_error) {
            ("read-only", Some(why)) => {
                format!("read-only: the map could not be committed ({why}), see the kernel's log")
            }
            ("read-only", None) => {
                "read-only: the map could not be committed, see the kernel's log".to_owned()
            }
            ("gone" | "failing", _) => format!("{}: {}", self.mode, self.trouble()),
            (other, _) => other.to_owned(),
        }
    }

    fn trouble(&self) -> String {
        let side = |side: &str, path: &str, state: &State| {
            (*state != State::Present).then(|| format!("the {side}, {path}, {}", state.text()))
        };
        let devices = [
            side("root", &self.root, &self.root_state),
            side("leaf", &self.leaf, &self.leaf_state),
        ];
        let errors = (self.io_errors > 0).then(|| match self.io_errors {
            1 => "1 I/O error below since attach, see the kernel's log".to_owned(),
            n => format!("{n} I/O errors below since attach, see the kernel's log"),
        });
        let all: Vec<String> = devices.into_iter().flatten().chain(errors).collect();
        all.join("; ")
    }

    /// Returns what is lost of a damaged leaf; none for a whole one.
    fn lost_text(&self) -> Option<String> {
        let what = match self.lost_sectors {
            0 => "nothing".to_owned(),
            n => format!("{} ({n} sectors), which cannot be read", size(n)),
        };
        let blocks = self.damaged_blocks;
        (blocks > 0).then(|| format!("{what}: {blocks} damaged metadata blocks"))
    }

    fn text(&self) -> String {
        let journal = |blocks: u32| size(u64::from(blocks) * BLOCK_SECTORS);
        let lost = self.lost_text().map(|text| ("lost", text));
        let mut list = vec![
            (
                "device",
                format!("{} ({}:{})", self.device, self.major, self.minor),
            ),
            ("mode", self.mode_text()),
            ("uuid", self.uuid.clone()),
            ("name", self.leaf_name_text().to_owned()),
            (
                "root",
                format!("{} ({})", self.root_text(), size(self.root_sectors)),
            ),
            (
                "leaf",
                format!("{} ({})", self.leaf_text(), size(self.leaf_sectors)),
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
        ];
        // The rows are inserted from the last to the first. These come after the sizes.
        list.splice(7..7, self.blocks_text().map(|text| ("blocks", text)));
        list.splice(6..6, self.host_text().map(|text| ("host", text)));
        // These come after the mode, where the user sees them.
        list.splice(2..2, lost);
        format!("{}\n{}", self.name, output::fields(&list))
    }
}

/// Returns root and leaf as sysfs shows them.
fn lowers(s: &Status, block: &Path, name: &str) -> [sysfs::LowerState; 2] {
    let (root, leaf) = (path_text(&s.root), path_text(&s.leaf));
    let need = |path, sectors, write| Need {
        path,
        sectors,
        write,
    };
    let writable = s.mode == abi::MODE_WRITABLE;
    let needs = [
        need(&root, s.root_sectors, false),
        need(&leaf, s.leaf_sectors, writable),
    ];
    sysfs::of_union(block, name, needs)
}

/// Returns the mode as the driver reports it. But a union is not called writable if one of its
/// devices is gone or fails.
fn mode(s: &Status, states: [&State; 2]) -> &'static str {
    if states.contains(&&State::Gone) {
        return "gone";
    }
    let fails = s.io_errors > 0 || states != [&State::Present; 2];
    if fails && s.mode == abi::MODE_WRITABLE {
        return "failing";
    }
    abi::mode_word(s.mode)
}

fn with_image(device: &str, image: Option<&str>) -> String {
    image.map_or_else(|| device.to_owned(), |image| format!("{device}={image}"))
}

/// Returns the word for the number of a reason; none for 0.
fn last_error(reason: u32) -> Option<&'static str> {
    match reason {
        0 => None,
        n => Some(Error::from_wire(n, 1, 0).map_or("unknown", reason_of)),
    }
}

/// Runs the command: shows one union as an object, all unions as a list.
pub fn run(args: &StatusArgs, json: bool) -> Result {
    let control = Control::open()?;
    if let Some(name) = &args.union {
        let shown = Shown::new(&control.find(name)?);
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
    use super::{mode, Shown, State};
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
        let wanted = "name,id,device,mode,uuid,leaf_name,root,leaf,root_image,leaf_image,\
            root_state,leaf_state,leaf_host,leaf_host_free_bytes,leaf_host_size_bytes,\
            logical_block_bytes,physical_block_bytes,root_logical_block_bytes,\
            root_physical_block_bytes,leaf_logical_block_bytes,leaf_physical_block_bytes,sectors,root_sectors,leaf_sectors,\
            slab_sectors,slabs,slabs_used,journal_blocks,journal_used,dirty,commits,checkpoints,\
            journal_written,first_writes,io_errors,map_bytes,discard,last_error,damaged_blocks,lost_sectors,openers,queues,major,minor";
        assert_eq!(names, wanted.split(',').collect());
        assert_eq!(value["mode"], "read-only");
        assert_eq!(value["dirty"], false);
        assert_eq!(value["leaf_name"], "");
        assert!(value["last_error"].is_null());
    }

    #[test]
    fn an_image_is_shown_beside_its_loop_device() {
        let mut shown = Shown::new(&Status::new());
        assert_eq!(shown.root_image, None);
        shown.root = "/dev/loop3".to_owned();
        shown.root_image = Some("/srv/gold.img".to_owned());
        assert_eq!(shown.root_text(), "/dev/loop3=/srv/gold.img");
        assert!(shown
            .text()
            .contains("root          /dev/loop3=/srv/gold.img (0 B)\n"));
    }

    #[test]
    fn what_is_lost_is_shown() {
        let mut s = Status::new();
        assert!(!Shown::new(&s).text().contains("lost"));
        s.damaged_blocks = 2;
        assert!(Shown::new(&s)
            .text()
            .contains("lost          nothing: 2 damaged metadata blocks\n"));
        s.lost_sectors = 2048;
        let text = Shown::new(&s).text();
        assert!(
            text.contains("lost          1 MiB (2048 sectors), which cannot be read: 2 damaged"),
            "{text}"
        );
    }

    #[test]
    fn what_fails_or_is_gone_is_not_called_writable() {
        let mut s = Status::new();
        let present = [&State::Present; 2];
        assert_eq!(mode(&s, present), "writable");
        assert_eq!(mode(&s, [&State::Present, &State::Offline]), "failing");
        assert_eq!(mode(&s, [&State::Gone, &State::Offline]), "gone");
        s.io_errors = 2;
        assert_eq!(mode(&s, present), "failing");
        let text = Shown::new(&s).text();
        assert!(text.contains("failing: 2 I/O errors below"), "{text}");
        let mut shown = Shown::new(&s);
        shown.root = "/dev/x".to_owned();
        (shown.mode, shown.root_state) = ("gone", State::Gone);
        assert!(shown
            .text()
            .contains("gone: the root, /dev/x, is no longer there; 2 I/O"));
        s.mode = 1;
        assert_eq!(mode(&s, present), "read-only");
        // The sectors that a damaged leaf has lost count as errors too.
        s.mode = 2;
        assert_eq!(mode(&s, present), "read-only-asked");
    }

    #[test]
    fn sizes_and_the_host_are_shown_where_they_are_known() {
        let mut shown = Shown::new(&Status::new());
        assert!(!shown.text().contains("blocks  ") && !shown.text().contains("left on"));
        (shown.logical_block_bytes, shown.physical_block_bytes) = (Some(512), Some(4096));
        shown.leaf_logical_block_bytes = Some(512);
        (shown.leaf_host, shown.leaf_host_free_bytes) = (Some("/srv".to_owned()), Some(1 << 20));
        let text = shown.text();
        assert!(
            text.contains(
                "blocks        512 B logical, 4096 B physical (root ?, ?; leaf 512 B, ?)\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("host          1 MiB left on /srv\n"),
            "{text}"
        );
    }

    #[test]
    fn a_read_only_union_says_why() {
        let mut s = Status::new();
        s.mode = 1;
        assert!(Shown::new(&s)
            .text()
            .contains("could not be committed, see"));
        s.last_error = 11;
        assert!(Shown::new(&s).text().contains("committed (io), see"));
        s.last_error = 999;
        assert_eq!(Shown::new(&s).last_error, Some("unknown"));
    }
}
