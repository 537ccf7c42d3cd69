// SPDX-License-Identifier: GPL-2.0

//! Waits for what the kernel and udev do after a call, so that the tool's answer is true when it is
//! given. Each wait has a deadline, and `--no-wait` skips all waits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::Dev;

use crate::node::{family, Node, NodeState};
use crate::{interrupt, sysfs, udev};

/// How long a command waits for others at most.
pub const WAIT: Duration = Duration::from_secs(10);
/// How often a waiting command looks.
const POLL: Duration = Duration::from_millis(10);

static NO_WAIT: AtomicBool = AtomicBool::new(false);

/// Handles `--no-wait`: from now on no deadline is in the future.
pub fn disable() {
    NO_WAIT.store(true, Ordering::Relaxed);
}

/// Returns whether the command waits at all.
pub fn is_enabled() -> bool {
    !NO_WAIT.load(Ordering::Relaxed)
}

/// The time at which a command stops waiting. All waits of a command may share one.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline of a wait that starts now.
    pub fn new() -> Deadline {
        Deadline::of(WAIT)
    }

    /// Returns the deadline of a wait of another length.
    pub fn of(time: Duration) -> Deadline {
        let time = if is_enabled() { time } else { Duration::ZERO };
        Deadline(Instant::now() + time)
    }

    /// Returns whether the deadline has come.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Sleeps for a moment; returns false if the deadline has come.
    pub fn pause(&self) -> bool {
        let left = self.0.saturating_duration_since(Instant::now());
        sleep(POLL.min(left));
        !left.is_zero()
    }

    /// Asks, at least once, until the answer is yes; returns false if the deadline came first.
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

impl Default for Deadline {
    fn default() -> Deadline {
        Deadline::new()
    }
}

/// Waits until udev has handled all nodes of a new disk, or until a signal has come. udev has then
/// made the links of the nodes, and has closed the nodes again. `since` is a time, in
/// [`udev::now`]'s clock, before the nodes appeared.
pub fn seen_to(nodes: &[Node], since: u64, deadline: Deadline) -> bool {
    let Some(disk) = nodes.first().filter(|_| udev::runs()) else {
        return true;
    };
    let all = || nodes.iter().all(|node| udev::has_seen(node.dev, since));
    let done = || all() && !udev::works_on(&disk.path);
    deadline.until(|| done() || interrupt::check().is_err())
}

/// The nodes, links and loop devices that disappear with a union, looked up while it exists.
pub struct Leaving {
    nodes: Vec<Node>,
    /// Whether udev has not handled the disk yet. If so, udev will still handle all events of the
    /// disk.
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

    /// Waits until all of it is gone, and returns in words what is left when the deadline comes.
    /// `since` is the time, in [`udev::now`]'s clock, at which the union went.
    pub fn wait(self, since: u64, deadline: Deadline) -> Vec<String> {
        let mut left = Vec::new();
        let runs = udev::runs();
        if runs && self.unseen && !deadline.until(udev::is_idle) {
            left.push("an event of it in udev's queue".to_owned());
        }
        for node in &self.nodes {
            let gone =
                || node.state() != NodeState::Right && !(runs && udev::is_stale(node.dev, since));
            // Another union may have got the number in the meantime.
            if !deadline.until(|| gone() || sysfs::directory_of(node.dev).is_some()) {
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
                    .any(|node| ours(node) && sysfs::directory_of(node.dev).is_none())
            };
            if runs && !deadline.until(gone) {
                left.push(link.display().to_string());
            }
        }
        let stays = |name: &&String| !deadline.until(|| !is_leaving(name));
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
    let directory = Path::new("/sys/class/block").join(name);
    let held = fs::read_dir(directory.join("holders")).is_ok_and(|mut list| list.next().is_some());
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
            Deadline::new().until(|| !is_leaving(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Deadline;
    use std::time::Duration;

    #[test]
    fn a_wait_has_an_end_and_asks_once_at_least() {
        let deadline = Deadline::of(Duration::from_millis(30));
        assert!(!deadline.until(|| false));
        assert!(deadline.is_over());
        assert!(deadline.until(|| true));
        let mut asked = 0;
        assert!(Deadline::new().until(|| {
            asked += 1;
            asked == 3
        }));
    }
}
