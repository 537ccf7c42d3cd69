// SPDX-License-Identifier: GPL-2.0

//! Finds the holders of a device or an image: mounts in any namespace, swap, devices above it,
//! processes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::Dev;
use serde_json::json;

use crate::control::{union_number, PREFIX};
use crate::error::{Fail, Result, BUSY};
use crate::locks;
use crate::mounts::{self, unescape, MountEntry};
use crate::node::{family, whole, Node};
use crate::sysfs;
use crate::wait::{self, Deadline};

/// How many holders a sentence names.
const NAMED: usize = 8;
/// How often a command looks again for holders that stay. Each look is a walk through /proc.
const LOOK: Duration = Duration::from_millis(300);

/// One holder, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    text: String,
    /// Whether it stays until a user removes it, as a mount does. A process may close a file soon.
    lasts: bool,
}

/// All holders of a device or an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders(Vec<Holder>);

impl Holders {
    fn lasting(texts: impl IntoIterator<Item = String>) -> Holders {
        let holder = |text| Holder { text, lasts: true };
        Holders(texts.into_iter().map(holder).collect())
    }

    /// Returns whether one of the holders stays until a user removes it.
    pub fn last(&self) -> bool {
        self.0.iter().any(|h| h.lasts)
    }

    /// Returns the holders for people; empty if there are none.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self.0.iter().map(|h| h.text.as_str()).take(NAMED).collect();
        let more = match self.0.len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        texts.join(", ") + &more
    }

    /// Returns the failure of a command that needs `what` for itself.
    pub fn fail(&self, what: &str) -> Fail {
        let text = match self.0[..] {
            [] => format!(
                "{what} is in use, but no mount, swap area, device or process of this system holds \
                 it: look for a mount namespace without a process, and for services of the kernel \
                 (nbd, targets)"
            ),
            _ => format!(
                "{what} is in use: {}; release it and try again",
                self.text()
            ),
        };
        Fail::new(BUSY, "busy", text).with(self.json())
    }

    /// Returns the holders for `--json`.
    pub fn json(&self) -> serde_json::Value {
        let texts: Vec<&str> = self.0.iter().map(|h| h.text.as_str()).collect();
        json!({ "holders": texts })
    }
}

/// The result of an attempt.
pub enum Tried<T> {
    /// The attempt succeeded.
    Done(T),
    /// Other holders use the device or image.
    Busy,
}

/// Repeats an attempt until it is not busy, until one of its holders is one that stays, or until
/// the deadline; in the last two cases it returns the holders. `look` finds the holders; its
/// argument is whether processes count.
pub fn retry<T>(
    deadline: Deadline,
    look: impl Fn(bool) -> Holders,
    mut attempt: impl FnMut() -> Result<Tried<T>>,
) -> Result<std::result::Result<T, Holders>> {
    let mut next = Instant::now();
    loop {
        if let Tried::Done(value) = attempt()? {
            return Ok(Ok(value));
        }
        let looks = Instant::now() >= next;
        if deadline.is_over() || (looks && look(false).last()) {
            // The holder may have gone during the look.
            return match attempt()? {
                Tried::Done(value) => Ok(Ok(value)),
                Tried::Busy => Ok(Err(look(true))),
            };
        }
        if looks {
            next = Instant::now() + LOOK;
        }
        deadline.pause();
    }
}

/// Returns the holders of the device at a path; with `all`, processes too.
pub fn of_path(path: &Path, all: bool) -> Holders {
    match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_block_device() => of_device(meta.rdev(), all),
        Ok(meta) => of_image(path, &meta),
        Err(_) => Holders::default(),
    }
}

/// Returns the holders of a disk or a partition: the holders of the device itself, of its
/// partitions and of its disk, and the unions on partitions that overlap it.
pub fn of_device(dev: Dev, all: bool) -> Holders {
    let disk = whole(dev);
    let mut nodes = disk.as_ref().map_or_else(Vec::new, |disk| {
        family(
            &disk.path.file_name().unwrap_or_default().to_string_lossy(),
            disk.dev,
        )
    });
    let mut unions = Vec::new();
    if let Some(disk) = disk.filter(|disk| disk.dev != dev) {
        let (these, others): (Vec<Node>, Vec<Node>) = nodes
            .into_iter()
            .partition(|node| node.dev == dev || node.dev == disk.dev);
        nodes = these;
        unions = unions_beside(dev, &others);
    }
    if nodes.is_empty() {
        // Without sysfs the device's number alone is used.
        nodes.push(Node::new("", dev));
    }
    of_nodes(&nodes, unions, all)
}

/// Returns the unions on those of the other partitions of a disk that overlap one. The driver lets
/// no union have one of both while another union has the other, unless neither is its leaf.
fn unions_beside(dev: Dev, others: &[Node]) -> Vec<String> {
    let Some(own) = sectors(dev) else {
        return Vec::new();
    };
    let overlaps = |node: &&Node| {
        sectors(node.dev).is_some_and(|other| own.start < other.end && other.start < own.end)
    };
    let on = |node: &Node| {
        let texts = above(node).into_iter().filter(|(_, is_union)| *is_union);
        let path = node.path.display().to_string();
        texts
            .map(|(text, _)| format!("{text}, on {path}, which shares sectors with it"))
            .collect::<Vec<_>>()
    };
    others.iter().filter(overlaps).flat_map(on).collect()
}

/// Returns the sectors of a partition, on its disk.
fn sectors(dev: Dev) -> Option<Range<u64>> {
    let directory = sysfs::directory_of(dev)?;
    let start: u64 = sysfs::number(&directory.join("start"))?;
    let size: u64 = sysfs::number(&directory.join("size"))?;
    Some(start..start.saturating_add(size))
}

/// Returns the holders of these devices and, with `all`, the processes that have one open. `unions`
/// are holders that are not above one of them.
fn of_nodes(nodes: &[Node], unions: Vec<String>, all: bool) -> Holders {
    let mut texts = mounts(nodes);
    texts.extend(swaps(nodes));
    texts.extend(nodes.iter().flat_map(above).map(|(text, _)| text));
    texts.extend(unions);
    texts.extend(loops(nodes));
    let mut holders = Holders::lasting(texts);
    if all {
        let texts = openers(nodes).into_iter();
        holders
            .0
            .extend(texts.map(|text| Holder { text, lasts: false }));
    }
    holders
}

/// Returns the holders of an image: the loop devices over it, the holders of those, and the
/// processes that have locked it.
fn of_image(path: &Path, meta: &Metadata) -> Holders {
    let mut holders = Holders::default();
    for name in loop_devices() {
        let directory = Path::new("/sys/class/block").join(&name);
        let Some(dev) = sysfs::dev_of(&directory).filter(|_| shows(&directory, meta)) else {
            continue;
        };
        let above = of_device(dev, false);
        let on = match above.text() {
            text if text.is_empty() => format!("on /dev/{name}"),
            text => format!("on /dev/{name} ({text})"),
        };
        // A loop device of this tool that has no holder clears itself.
        let lasts = above.last() || !wait::is_leaving(&name);
        holders.0.push(Holder { text: on, lasts });
    }
    if holders.0.is_empty() {
        holders.0.extend(lockers(path));
    }
    holders
}

/// Returns whether a loop device, by its directory in sysfs, shows an image.
pub fn shows(directory: &Path, image: &Metadata) -> bool {
    shown(directory) == Some((image.dev(), image.ino()))
}

/// Returns the file system and the inode number of the image that a loop device shows, by the
/// device's directory in sysfs. None if another file, or none, is at the image's path now.
pub fn shown(directory: &Path) -> Option<(u64, u64)> {
    let file = fs::read(directory.join("loop/backing_file")).ok()?;
    let meta = fs::metadata(OsStr::from_bytes(file.trim_ascii_end())).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Returns the processes that have locked an image or a device's node.
fn lockers(path: &Path) -> Vec<Holder> {
    let holder = |pid: u32| {
        let text = format!("locked by {}", process(pid)?);
        // A lock of this process does not go while this process waits.
        let lasts = pid == std::process::id();
        Some(Holder { text, lasts })
    };
    let pids = locks::lockers(path, &processes());
    pids.into_iter().filter_map(holder).collect()
}

/// Returns `name (process 12)`; none if the process is gone.
fn process(pid: u32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (process {pid})", comm.trim_end()))
}

fn processes() -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Returns the mounts of these devices: the mounts in our namespace, then the mounts that only
/// other namespaces have.
fn mounts(nodes: &[Node]) -> Vec<String> {
    let of = |list: Vec<MountEntry>| {
        list.into_iter()
            .filter(|m| m.is_of(nodes))
            .collect::<Vec<_>>()
    };
    let mut texts = Vec::new();
    let mut known = BTreeSet::new();
    for mount in of(mounts::of_process("self")) {
        if known.insert(mount.at.clone()) {
            texts.push(format!("mounted on {}", mount.at.display()));
        }
    }
    // A process sees only what is below its root directory.
    let view = |pid: &str| {
        let read = |file: &str| fs::read_link(format!("/proc/{pid}/{file}")).ok();
        read("ns/mnt").zip(read("root"))
    };
    let mut seen = BTreeSet::from_iter(view("self"));
    for pid in processes() {
        if !view(&pid.to_string()).is_some_and(|v| seen.insert(v)) {
            continue;
        }
        for mount in of(mounts::of_process(&pid.to_string())) {
            if let Some(process) = process(pid).filter(|_| known.insert(mount.at.clone())) {
                let at = mount.at.display();
                texts.push(format!(
                    "mounted on {at} in the mount namespace of {process}"
                ));
            }
        }
    }
    texts
}

/// Returns the swap areas on these devices.
fn swaps(nodes: &[Node]) -> Vec<String> {
    let text = fs::read("/proc/swaps").unwrap_or_default();
    let first = |line: &[u8]| {
        unescape(
            line.split(|b| b.is_ascii_whitespace())
                .next()
                .unwrap_or(line),
        )
    };
    let paths = text.split(|&b| b == b'\n').map(first);
    let ours = |path: &PathBuf| nodes.iter().any(|node| is_node(path, node));
    paths
        .filter(|path| path.is_absolute() && ours(path))
        .map(|path| format!("swap space on {}", path.display()))
        .collect()
}

fn is_node(path: &Path, node: &Node) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == node.dev)
}

/// Returns the devices that sysfs has above one, unions, device mapper, md, and for each whether it
/// is a union.
fn above(node: &Node) -> Vec<(String, bool)> {
    let Some(directory) = sysfs::directory_of(node.dev) else {
        return Vec::new();
    };
    let all = fs::read_dir(directory.join("holders"))
        .into_iter()
        .flatten()
        .flatten();
    all.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| fs::read(Path::new("/sys/class/block").join(&name).join(file)).ok();
        if name
            .strip_prefix(PREFIX)
            .is_some_and(|n| union_number(n).is_some())
        {
            let is = |role: &str| {
                let path = read(role).unwrap_or_default();
                is_node(Path::new(OsStr::from_bytes(path.trim_ascii_end())), node)
            };
            let has_layers = read("union/layers").is_some_and(|n| n.trim_ascii() != b"0");
            let role = match (is("union/leaf"), is("union/root")) {
                (true, _) => "the leaf",
                (false, false) if has_layers => "a layer",
                _ => "the root",
            };
            return (format!("{role} of {name}"), true);
        }
        let text = match read("dm/name") {
            Some(dm) => {
                let dm = String::from_utf8_lossy(&dm);
                format!("under {name} of device mapper ({})", dm.trim_end())
            }
            None => format!("under {name}"),
        };
        (text, false)
    })
    .collect()
}

/// Returns the names of the loop devices that show a file.
pub fn loop_devices() -> Vec<String> {
    let all = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten();
    all.filter(|entry| entry.path().join("loop/backing_file").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Returns the loop devices that show one of these devices.
fn loops(nodes: &[Node]) -> Vec<String> {
    let shows = |name: &String| {
        let file = Path::new("/sys/class/block")
            .join(name)
            .join("loop/backing_file");
        let file = fs::read(file).unwrap_or_default();
        let path = Path::new(OsStr::from_bytes(file.trim_ascii_end()));
        path.starts_with("/dev") && nodes.iter().any(|node| is_node(path, node))
    };
    loop_devices()
        .into_iter()
        .filter(shows)
        .map(|name| format!("under {name}"))
        .collect()
}

/// Returns the processes that have one of these devices open.
fn openers(nodes: &[Node]) -> Vec<String> {
    let own = std::process::id();
    let all = processes().into_iter().filter(|&pid| pid != own);
    all.filter_map(|pid| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let open = |link: &PathBuf| {
            // Not every file may be queried: a file on a server that is gone does not answer.
            let to = fs::read_link(link).unwrap_or_default();
            let near = to.iter().any(|part| part == "dev") || to.to_string_lossy().contains(PREFIX);
            near && nodes.iter().any(|node| is_node(link, node))
        };
        let found = fds.flatten().map(|fd| fd.path()).find(open)?;
        let what = fs::read_link(found).unwrap_or_default();
        Some(format!("{} open by {}", what.display(), process(pid)?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{retry, Deadline, Holder, Holders, Tried};
    use std::time::Duration;

    fn holder(text: &str, lasts: bool) -> Holder {
        let text = text.to_owned();
        Holder { text, lasts }
    }

    #[test]
    fn who_has_it_is_named() {
        let fail =
            Holders(vec![holder("mounted on /mnt", true), holder("b", false)]).fail("/dev/x");
        assert_eq!(
            fail.message,
            "/dev/x is in use: mounted on /mnt, b; release it and try again"
        );
        assert!(Holders::default()
            .fail("/dev/x")
            .message
            .contains("namespace"));
        let many = Holders((0..11).map(|n| holder(&n.to_string(), false)).collect());
        assert!(many.text().ends_with("6, 7 and 3 more"), "{}", many.text());
    }

    #[test]
    fn only_what_may_go_is_waited_for() {
        let deadline = Deadline::of(Duration::from_secs(60));
        let mut tries = 0;
        let mut attempt = |limit: u32| {
            tries += 1;
            Ok(if tries < limit {
                Tried::Busy
            } else {
                Tried::Done(tries)
            })
        };
        let stays = |_| Holders(vec![holder("a mount", true)]);
        let goes = |_| Holders(vec![holder("a process", false)]);
        let who = retry(deadline, stays, || attempt(99)).unwrap().unwrap_err();
        assert_eq!(who.text(), "a mount");
        assert_eq!(retry(deadline, goes, || attempt(6)).unwrap(), Ok(6));
        let short = Deadline::of(Duration::from_millis(20));
        assert!(retry(short, goes, || attempt(9999)).unwrap().is_err());
    }

    #[test]
    fn this_process_is_found() {
        assert!(super::processes().contains(&std::process::id()));
    }
}
