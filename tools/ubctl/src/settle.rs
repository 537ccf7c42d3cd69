// SPDX-License-Identifier: GPL-2.0

//! What the kernel and udev still do after a call, waited for: an answer of the tool holds when it
//! is given. Each wait has a bound, and `--no-wait` leaves all of them out.

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
/// How often it looks.
const POLL: Duration = Duration::from_millis(10);

static NO_WAIT: AtomicBool = AtomicBool::new(false);

/// `--no-wait`: no bound is in the future from now on.
pub fn no_wait() {
    NO_WAIT.store(true, Ordering::Relaxed);
}

/// Whether the command waits at all.
pub fn waits() -> bool {
    !NO_WAIT.load(Ordering::Relaxed)
}

/// When a command stops waiting. All waits of a command may share one.
#[derive(Clone, Copy, Debug)]
pub struct Bound(Instant);

impl Bound {
    /// From now on.
    pub fn new() -> Bound {
        Bound::of(WAIT)
    }

    /// A shorter one.
    pub fn of(time: Duration) -> Bound {
        let time = if waits() { time } else { Duration::ZERO };
        Bound(Instant::now() + time)
    }

    /// Whether it has come.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps for a moment; false if the bound has come.
    pub fn pause(&self) -> bool {
        let left = self.0.saturating_duration_since(Instant::now());
        sleep(POLL.min(left));
        !left.is_zero()
    }

    /// Asks until the answer is yes, once at least; false if the bound came first.
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

/// A device and where its node belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `/dev/NAME`.
    pub path: PathBuf,
    /// The device's number.
    pub dev: Dev,
}

/// What is in a node's place.
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
    /// The node that a device of this name has.
    pub fn new(name: &str, dev: Dev) -> Node {
        let path = Path::new("/dev").join(name);
        Node { path, dev }
    }

    /// Looks at its place.
    pub fn place(&self) -> Place {
        place(&self.path, Some(self.dev))
    }
}

/// What is where the node of a block device belongs; any device's will do without a number.
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

/// A disk and its partitions, as sysfs has them now.
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

/// The number of a device from its place in sysfs.
pub fn number_of(place: &Path) -> Option<Dev> {
    let text = fs::read_to_string(place.join("dev")).ok()?;
    let (a, b) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(a.parse().ok()?, b.parse().ok()?))
}

/// A device's place in sysfs; none without sysfs.
pub fn sysfs(dev: Dev) -> Option<PathBuf> {
    fs::canonicalize(format!("/sys/dev/block/{}:{}", major(dev), minor(dev))).ok()
}

/// The disk that a partition is of; of a disk, itself.
pub fn whole(dev: Dev) -> Option<Node> {
    let mut place = sysfs(dev)?;
    if place.join("partition").exists() {
        place.pop();
    }
    let name = place.file_name()?.to_str()?.to_owned();
    Some(Node::new(&name, number_of(&place)?))
}

/// Opens a node to look at it, and never hangs in that.
pub fn peek(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path)
}

/// Waits until udev has seen to all of a new disk's nodes: its links are there, and it has closed
/// them again. `since`: when they were younger than that, in [`udev::now`]'s time.
pub fn seen_to(nodes: &[Node], since: u64, bound: Bound) -> bool {
    let Some(disk) = nodes.first().filter(|_| udev::runs()) else {
        return true;
    };
    let all = || nodes.iter().all(|node| udev::has_seen(node.dev, since));
    bound.until(|| all() && !udev::works_on(&disk.path))
}

/// What goes when a union does, looked up while it is there.
pub struct Leaving {
    nodes: Vec<Node>,
    /// Whether udev has not handled the disk yet: it has all of its life before it.
    unseen: bool,
    links: Vec<PathBuf>,
    loops: Vec<String>,
}

impl Leaving {
    /// Of a union's disk and of what is below it.
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

    /// Waits until all of it is gone: what is left when the bound comes, in words.
    /// `since`: when the union went, in [`udev::now`]'s time.
    pub fn wait(self, since: u64, bound: Bound) -> Vec<String> {
        let mut left = Vec::new();
        let runs = udev::runs();
        if runs && self.unseen && !bound.until(udev::is_idle) {
            left.push("an event of it in udev's queue".to_owned());
        }
        for node in &self.nodes {
            let gone =
                || node.place() != Place::Right && !(runs && udev::is_stale(node.dev, since));
            // Another union may have got the number meanwhile.
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

/// The name of a loop device that clears itself when the last one closes it.
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

/// Whether a loop device is one that goes as soon as it is closed, and that nothing holds.
pub fn is_leaving(name: &str) -> bool {
    let place = Path::new("/sys/class/block").join(name);
    let held = fs::read_dir(place.join("holders")).is_ok_and(|mut list| list.next().is_some());
    clears_itself(name) && !held
}

/// A loop device of ours that goes unless the driver takes it. Dropped, it waits for that.
pub struct LoopGoes(Option<String>);

impl LoopGoes {
    /// Of a node.
    pub fn new(node: &Path) -> LoopGoes {
        LoopGoes(own_loop(node))
    }

    /// The driver has taken it.
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
