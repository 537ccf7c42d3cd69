// SPDX-License-Identifier: GPL-2.0

//! `ubctl status`: shows everything that the driver reports about a union.

pub mod fields;
pub mod text;

use std::path::Path;

use clap::Args;
use serde::{Serialize, Serializer};
use ubcore::abi::{self, Status};
use ubcore::error::Error;

use crate::backing::{Backing, ImageSpace};
use crate::below::RootArg;
use crate::control::{self, leaf_name, path_text, Control, PREFIX};
use crate::error::{reason_of, Result};
use crate::loopdev;
use crate::output::{self, size};
use crate::sysfs::{self, BlockSizes, DeviceState, LowerState, Need};

use fields::FIELDS;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID [default: all unions]
    pub union: Option<String>,
}

/// A union's state as it is shown: the driver's answer, and what the tool finds itself. The table
/// [`FIELDS`] says what is shown of it.
pub struct Shown {
    status: Status,
    /// The name of the disk.
    pub name: String,
    /// The driver's mode, or a worse one that the devices show.
    pub mode: &'static str,
    root: LowerState,
    leaf: LowerState,
    /// The images that loop devices show.
    root_image: Option<String>,
    leaf_image: Option<String>,
    /// The file system that the leaf's image lies on.
    host: Option<ImageSpace>,
    /// The blocks of the union.
    blocks: Option<BlockSizes>,
}

impl Shown {
    /// Takes the driver's answer, and looks up the rest.
    pub fn new(s: &Status) -> Shown {
        let name = format!("{PREFIX}{}", s.id);
        let block = Path::new("/sys/block");
        let blocks = sysfs::blocks(&block.join(&name));
        let [root, leaf] = lowers(s, block, &name);
        let host = Backing::of(Path::new(&path_text(&s.leaf)), false).and_then(|b| b.host());
        Shown {
            mode: mode(s, [&root.state, &leaf.state]),
            root_image: loopdev::behind(&path_text(&s.root)),
            leaf_image: loopdev::behind(&path_text(&s.leaf)),
            status: s.clone(),
            name,
            root,
            leaf,
            host,
            blocks,
        }
    }

    fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// Returns the word for the reason for which nothing is committed any more, if there is one.
    fn last_error(&self) -> Option<&'static str> {
        match self.status.last_error {
            0 => None,
            // The word does not depend on the details. Every reason can have these.
            n => Some(Error::from_wire(n, 1, 1).map_or("unknown", reason_of)),
        }
    }

    /// Returns the union's number.
    pub fn id(&self) -> u32 {
        self.status.id
    }

    /// Returns the number of layers that the union has open.
    pub fn layers(&self) -> u32 {
        self.status.layers
    }

    /// Returns the union's size in sectors.
    pub fn sectors(&self) -> u64 {
        self.status.sectors
    }

    /// Returns the leaf's name for people.
    pub fn leaf_name_text(&self) -> String {
        output::name_text(leaf_name(&self.status).as_ref())
    }

    /// Returns the root's path, if there is a root.
    fn root(&self) -> Option<String> {
        control::root_text(&self.status)
    }

    /// Returns the root's device, and the image if there is one.
    pub fn root_text(&self) -> String {
        if self.root().is_none() {
            return RootArg::NONE.to_owned();
        }
        with_image(path_text(&self.status.root), self.root_image.as_deref())
    }

    /// Returns the leaf's device.
    pub fn leaf_device(&self) -> String {
        path_text(&self.status.leaf)
    }

    /// Returns the leaf's device, and the image if there is one.
    pub fn leaf_text(&self) -> String {
        with_image(path_text(&self.status.leaf), self.leaf_image.as_deref())
    }

    /// Returns a word for how much of the limit is in use.
    pub fn space(&self) -> &'static str {
        let (used, limit) = (self.status.slabs_used, self.status.limit_slabs);
        let hundredths = u64::from(used).saturating_mul(100);
        let reached = |threshold| hundredths >= u64::from(limit).saturating_mul(threshold);
        match () {
            () if limit == 0 => "ok",
            () if used >= limit => "full",
            () if reached(95) => "used_95",
            () if reached(80) => "used_80",
            () => "ok",
        }
    }

    /// Returns how much leaf space is in use, and of how much.
    pub fn used(&self) -> String {
        let s = &self.status;
        let slab = u64::from(s.slab_sectors);
        let (used, all) = (u64::from(s.slabs_used), u64::from(s.slabs));
        // The percentage is rounded up, so that a leaf that is not quite empty does not show 0 %.
        let percent = (used * 100).div_ceil(all.max(1));
        format!("{} of {} ({percent}%)", size(used * slab), size(all * slab))
    }

    /// Returns the space that the leaf's host has left, if there is a host.
    pub fn host_text(&self) -> Option<String> {
        let host = self.host.as_ref()?;
        let left = size(host.free / 512);
        Some(format!("{left} left on {}", host.mount.display()))
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(FIELDS.iter().map(|field| (field.name, (field.read)(self))))
    }
}

/// Returns root and leaf as sysfs shows them.
fn lowers(s: &Status, block: &Path, name: &str) -> [LowerState; 2] {
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
    sysfs::of_union(block, name, needs, s.layers)
}

/// Returns the mode as the driver reports it. But a union is not called writable if one of its
/// devices is gone or fails.
fn mode(s: &Status, states: [&DeviceState; 2]) -> &'static str {
    if states.contains(&&DeviceState::Gone) {
        return "gone";
    }
    let fails = s.io_errors > 0 || states != [&DeviceState::Present; 2];
    if fails && s.mode == abi::MODE_WRITABLE {
        return "failing";
    }
    abi::mode_word(s.mode)
}

fn with_image(device: String, image: Option<&str>) -> String {
    match image {
        Some(image) => format!("{device}={image}"),
        None => device,
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
            output::text(&text::text(&shown))
        };
    }
    let list: Vec<Shown> = control.all()?.iter().map(Shown::new).collect();
    if json {
        return output::json(&list);
    }
    let texts: Vec<String> = list.iter().map(text::text).collect();
    output::text(&texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::text::text;
    use super::{mode, BlockSizes, DeviceState, ImageSpace, Shown};
    use ubcore::abi::{set_path, Status};

    #[test]
    fn the_values_of_json_are_words_and_numbers() {
        let mut s = Status::new();
        (s.mode, s.slabs) = (1, 7);
        let value = serde_json::to_value(Shown::new(&s)).unwrap();
        assert_eq!(value["mode"], "read-only");
        assert_eq!(
            (&value["slabs"], &value["dirty"]),
            (&7.into(), &false.into())
        );
        assert!(value["leaf_name"].is_null());
        assert!(value["root_state"].is_null());
        assert_eq!(value["leaf_state"], "present");
        assert!(value["last_error"].is_null());
        assert!(value["leaf_host_free_bytes"].is_null());
    }

    #[test]
    fn an_image_is_shown_beside_its_loop_device() {
        let mut s = Status::new();
        set_path(&mut s.root, b"/dev/loop3").unwrap();
        let mut shown = Shown::new(&s);
        assert_eq!(Shown::new(&Status::new()).root_image, None);
        shown.root_image = Some("/srv/gold.img".to_owned());
        assert_eq!(shown.root_text(), "/dev/loop3=/srv/gold.img");
        assert!(text(&shown).contains("root          /dev/loop3=/srv/gold.img (0 B)\n"));
    }

    #[test]
    fn what_is_lost_is_shown() {
        let mut s = Status::new();
        assert!(!text(&Shown::new(&s)).contains("lost"));
        s.damaged_blocks = 2;
        assert!(
            text(&Shown::new(&s)).contains("lost          nothing: 2 damaged metadata blocks\n")
        );
        s.lost_sectors = 2048;
        let text = text(&Shown::new(&s));
        assert!(
            text.contains("lost          1 MiB (2048 sectors), which cannot be read: 2 damaged"),
            "{text}"
        );
    }

    #[test]
    fn what_fails_or_is_gone_is_not_called_writable() {
        let mut s = Status::new();
        let present = [&DeviceState::Present; 2];
        assert_eq!(mode(&s, present), "writable");
        assert_eq!(
            mode(&s, [&DeviceState::Present, &DeviceState::Offline]),
            "failing"
        );
        assert_eq!(
            mode(&s, [&DeviceState::Gone, &DeviceState::Offline]),
            "gone"
        );
        s.io_errors = 2;
        assert_eq!(mode(&s, present), "failing");
        let failing = text(&Shown::new(&s));
        assert!(failing.contains("failing: 2 I/O errors below"), "{failing}");
        set_path(&mut s.root, b"/dev/x").unwrap();
        let mut shown = Shown::new(&s);
        (shown.mode, shown.root.state) = ("gone", DeviceState::Gone);
        assert!(text(&shown).contains("gone: the root, /dev/x, is no longer there; 2 I/O"));
        s.mode = 1;
        assert_eq!(mode(&s, present), "read-only");
        // The sectors that a damaged leaf has lost count as errors too.
        s.mode = 2;
        assert_eq!(mode(&s, present), "read-only-requested");
    }

    #[test]
    fn sizes_and_the_host_are_shown_where_they_are_known() {
        let mut shown = Shown::new(&Status::new());
        let without = text(&shown);
        assert!(!without.contains("blocks  ") && !without.contains("left on"));
        shown.blocks = Some(BlockSizes {
            logical: 512,
            physical: 4096,
        });
        shown.leaf.blocks = Some(BlockSizes {
            logical: 512,
            physical: 512,
        });
        shown.host = Some(ImageSpace {
            mount: "/srv".into(),
            free: 1 << 20,
            size: 1 << 30,
        });
        let text = text(&shown);
        assert!(
            text.contains(
                "blocks        512 B logical, 4096 B physical (root ?, ?; leaf 512 B, 512 B)\n"
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
        assert!(text(&Shown::new(&s)).contains("could not be committed, see"));
        s.last_error = 11;
        assert!(text(&Shown::new(&s)).contains("committed (io), see"));
        s.last_error = 999;
        assert_eq!(Shown::new(&s).last_error(), Some("unknown"));
    }
}
