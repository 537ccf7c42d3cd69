// SPDX-License-Identifier: GPL-2.0

//! Waits for what the kernel and udev do after a call, so that the tool's answer is true when it is
//! given. Each wait has a bound, and `--no-wait` skips all waits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{major, minor, Dev, OFlags};

use crate::udev;

/// How long a command waits for others at most.
pub const WAIT: Duration = Duration::from_secs(10);
/// How often a waiting command looks.
const POLL: Duration = Duration::from_millis(10);

static NO_WAIT: AtomicBool = AtomicBool::new(false);

/// Handles `--no-wait`: from now on no bound is in the future.
pub fn no_wait() {
    NO_WAIT.store(true, Ordering::Relaxed);
}

/// Returns whether the command waits at all.
pub fn waits() -> bool {
    !NO_WAIT.load(Ordering::Relaxed)
}

/// The time at which a command stops waiting. All waits of a command may share one.
#[derive(Clone, Copy, Debug)]
pub struct Bound(Instant);

impl Bound {
    /// Returns a bound that starts now.
    pub fn new() -> Bound {
        Bound::of(WAIT)
    }

    /// Returns a bound of another length.
    pub fn of(time: Duration) -> Bound {
        let time = if waits() { time } else { Duration::ZERO };
        Bound(Instant::now() + time)
    }

    /// Returns whether the bound has come.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps for a moment; returns false if the bound has come.
    pub fn pause(&self) -> bool {
        let left = self.0.saturating_duration_since(Instant::now());
        sleep(POLL.min(left));
        !left.is_zero()
    }

    /// Asks, at least once, until the answer is yes; returns false if the bound came first.
    pub fn until(&self, mut done: impl FnMut() -> bool) -> bool {
        loop {
            if done() {
                return true;
            }
            if !self.pause() {
                return false;
            }
        }
    }
}

impl Default for Bound {
    fn default() -> Bound {
        Bound::new()
    }
}

/// A device and the place of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `/dev/NAME`.
    pub path: PathBuf,
    /// The device's number.
    pub dev: Dev,
}

/// What is at a node's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The node.
    Right,
    /// Nothing.
    Empty,
    /// Something else, in words.
    Wrong(&'static str),
}

impl Node {
    /// Returns the node of a device with this name.
    pub fn new(name: &str, dev: Dev) -> Node {
        let path = Path::new("/dev").join(name);
        Node { path, dev }
    }

    /// Returns what is at the node's place.
    pub fn place(&self) -> Place {
        place(&self.path, Some(self.dev))
    }
}

/// Returns what is at the place of a block device's node. Without a number, the node of any device
/// is right.
pub fn place(path: &Path, dev: Option<Dev>) -> Place {
    let kind = match fs::metadata(path) {
        Err(_) if path.is_symlink() => return Place::Wrong("a link that leads nowhere"),
        Err(e) if e.kind() == ErrorKind::NotFound => return Place::Empty,
        Err(_) => return Place::Wrong("something that cannot be looked at"),
        Ok(meta) if meta.file_type().is_block_device() => {
            return match dev {
                Some(dev) if meta.rdev() != dev => Place::Wrong("the node of another device"),
                _ => Place::Right,
            };
        }
        Ok(meta) => meta.file_type(),
    };
    Place::Wrong(match kind {
        kind if kind.is_file() => "a regular file",
        kind if kind.is_dir() => "a directory",
        _ => "neither a block device's node nor a file",
    })
}

/// Returns a disk and its partitions, as sysfs has them now.
pub fn family(name: &str, disk: Dev) -> Vec<Node> {
    let mut list = vec![Node::new(name, disk)];
    let parts = fs::read_dir(Path::new("/sys/class/block").join(name));
    for part in parts.into_iter().flatten().flatten() {
        let file = part.file_name();
        if !part.path().join("partition").exists() {
            continue;
        }
        if let (Some(name), Some(dev)) = (file.to_str(), number_of(&part.path())) {
            list.push(Node::new(name, dev));
        }
    }
    list
}

/// Returns the number of a device from its place in sysfs.
pub fn number_of(place: &Path) -> Option<Dev> {
    let text = fs::read_to_string(place.join("dev")).ok()?;
    let (a, b) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(a.parse().ok()?, b.parse().ok()?))
}

/// Returns a device's place in sysfs; none without sysfs.
pub fn sysfs(dev: Dev) -> Option<PathBuf> {
    fs::canonicalize(format!("/sys/dev/block/{}:{}", major(dev), minor(dev))).ok()
}

/// Returns the disk of a partition; for a disk, the disk itself.
pub fn whole(dev: Dev) -> Option<Node> {
    let mut place = sysfs(dev)?;
    if place.join("partition").exists() {
        place.pop();
    }
    let name = place.file_name()?.to_str()?.to_owned();
    Some(Node::new(&name, number_of(&place)?))
}

/// Opens a node for queries, and never blocks.
pub fn peek(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path)
}

/// Waits until udev has handled all nodes of a new disk: it has made their links and closed them
/// again. `since` is a time, in [`udev::now`]'s clock, before the nodes appeared.
pub fn seen_to(nodes: &[Node], since: u64, bound: Bound) -> bool {
    let Some(disk) = nodes.first().filter(|_| udev::runs()) else {
        return true;
    };
    let all = || nodes.iter().all(|node| udev::has_seen(node.dev, since));
    bound.until(|| all() && !udev::works_on(&disk.path))
}

/// What goes with a union, looked up while the union exists.
pub struct Leaving {
    nodes: Vec<Node>,
    /// Whether udev has not handled the disk yet. If so, udev still has all of the disk's events
    /// before it.
    unseen: bool,
    links: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Leaving {
    /// Looks up what goes with a union's disk and the devices below it.
    pub fn of(name: &str, disk: Dev, lower: &[PathBuf]) -> Leaving {
        let nodes = family(name, disk);
        let links = nodes.iter().flat_map(|node| udev::links(node.dev));
        Leaving {
            unseen: !udev::has_seen(disk, 0),
            links: links.collect(),
            loops: lower.iter().filter_map(|path| own_loop(path)).collect(),
            nodes,
        }
    }

    /// Waits until all of it is gone, and returns in words what is left when the bound comes.
    /// `since` is the time, in [`udev::now`]'s clock, at which the union went.
    pub fn wait(self, since: u64, bound: Bound) -> Vec<String> {
        let mut left = Vec::new();
        let runs = udev::runs();
        if runs && self.unseen && !bound.until(udev::is_idle) {
            left.push("an event of it in udev's queue".to_owned());
        }
        for node in &self.nodes {
            let gone =
                || node.place() != Place::Right && !(runs && udev::is_stale(node.dev, since));
            // Another union may have got the number in the meantime.
            if !bound.until(|| gone() || sysfs(node.dev).is_some()) {
                left.push(node.path.display().to_string());
            }
        }
        for link in &self.links {
            let leads = || {
                fs::read_link(link)
                    .ok()
                    .and_then(|to| Some(to.file_name()?.to_owned()))
            };
            let ours = |name: &Node| leads().as_deref() == name.path.file_name();
            let gone = || {
                !self
                    .nodes
                    .iter()
                    .any(|node| ours(node) && sysfs(node.dev).is_none())
            };
            if runs && !bound.until(gone) {
                left.push(link.display().to_string());
            }
        }
        let stays = |name: &&String| !bound.until(|| !is_leaving(name));
        left.extend(
            self.loops
                .iter()
                .filter(stays)
                .map(|name| format!("/dev/{name}")),
        );
        left
    }
}

/// Returns the name of a loop device that clears itself on its last close.
fn own_loop(path: &Path) -> Option<String> {
    let name = fs::canonicalize(path)
        .ok()?
        .file_name()?
        .to_str()?
        .to_owned();
    clears_itself(&name).then_some(name)
}

fn loop_attribute(name: &str, file: &str) -> Option<String> {
    let path = Path::new("/sys/class/block").join(name).join("loop");
    fs::read_to_string(path.join(file)).ok()
}

fn clears_itself(name: &str) -> bool {
    loop_attribute(name, "autoclear").is_some_and(|text| text.trim() == "1")
}

/// Returns whether a loop device goes as soon as it is closed and has no holder.
pub fn is_leaving(name: &str) -> bool {
    let place = Path::new("/sys/class/block").join(name);
    let held = fs::read_dir(place.join("holders")).is_ok_and(|mut list| list.next().is_some());
    clears_itself(name) && !held
}

/// A loop device of this tool, which goes unless the driver takes it. Waits for that when dropped.
pub struct LoopGoes(Option<String>);

impl LoopGoes {
    /// Takes the loop device of a node.
    pub fn new(node: &Path) -> LoopGoes {
        LoopGoes(own_loop(node))
    }

    /// Skips the wait, because the driver has taken the device.
    pub fn stays(mut self) {
        self.0 = None;
    }
}

impl Drop for LoopGoes {
    fn drop(&mut self) {
        if let Some(name) = &self.0 {
            Bound::new().until(|| !is_leaving(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{place, Bound, Path, Place};
    use std::time::Duration;

    #[test]
    fn what_is_in_a_nodes_place() {
        let at = |p: &str| place(Path::new(p), None);
        assert_eq!(at("/nowhere/unionblk0"), Place::Empty);
        assert_eq!(at("/proc/version"), Place::Wrong("a regular file"));
        assert_eq!(at("/proc"), Place::Wrong("a directory"));
        assert!(matches!(at("/dev/null"), Place::Wrong(_)));
        let link = std::env::temp_dir().join(format!("ubctl-node-{}", std::process::id()));
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();
        assert_eq!(
            place(&link, None),
            Place::Wrong("a link that leads nowhere")
        );
        std::fs::remove_file(&link).unwrap();
    }

    #[test]
    fn a_wait_has_an_end_and_asks_once_at_least() {
        let bound = Bound::of(Duration::from_millis(30));
        assert!(!bound.until(|| false));
        assert!(bound.is_over());
        assert!(bound.until(|| true));
        let mut asked = 0;
        assert!(Bound::new().until(|| {
            asked += 1;
            asked == 3
        }));
    }
}
