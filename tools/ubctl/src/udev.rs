// SPDX-License-Identifier: GPL-2.0

//! Reads from udev's files what udev knows and does. Its database has a file for each device whose
//! events it has handled, written after the links are made. While it handles an event, it locks the
//! disk's node. Without udev this module waits for nothing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{flock, major, minor, Dev, FlockOperation};
use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};

use crate::node::{peek, whole};
use crate::wait::Deadline;

/// Returns whether a daemon runs here. Its socket alone may be left from an earlier daemon.
pub fn runs() -> bool {
    Path::new("/run/udev/control").exists() && has_process()
}

fn has_process() -> bool {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let named = |name: &str| matches!(name, "systemd-udevd" | "udevd");
    all.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok())
        .any(|comm| named(comm.trim_end()))
}

/// Returns microseconds of the clock that udev's database uses.
pub fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(t.tv_sec) * 1_000_000 + part(t.tv_nsec) / 1000
}

fn file_of(dev: Dev) -> PathBuf {
    format!("/run/udev/data/b{}:{}", major(dev), minor(dev)).into()
}

/// What udev's database has for a device.
#[derive(Debug, Default, PartialEq, Eq)]
struct UdevEntry {
    /// When udev first finished an event of the device.
    since: u64,
    /// Whether udev is still handling an event.
    in_work: bool,
    links: Vec<PathBuf>,
}

impl UdevEntry {
    fn of(dev: Dev) -> Option<UdevEntry> {
        Some(UdevEntry::parse(&fs::read(file_of(dev)).ok()?))
    }

    fn parse(bytes: &[u8]) -> UdevEntry {
        let mut record = UdevEntry::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            match line.split_once(':') {
                Some(("I", time)) => record.since = time.parse().unwrap_or(0),
                Some(("S", link)) => record.links.push(Path::new("/dev").join(link)),
                Some(("E", "ID_PROCESSING=1")) => record.in_work = true,
                _ => {}
            }
        }
        record
    }
}

/// Returns whether udev has handled a device that appeared after `since`.
pub fn has_seen(dev: Dev, since: u64) -> bool {
    UdevEntry::of(dev).is_some_and(|record| !record.in_work && record.since >= since)
}

/// Returns whether udev has handled all events that it has received.
pub fn is_idle() -> bool {
    !Path::new("/run/udev/queue").exists()
}

/// Returns whether udev still knows a device that went at `since`.
pub fn is_stale(dev: Dev, since: u64) -> bool {
    UdevEntry::of(dev).is_some_and(|record| record.since < since)
}

/// Returns the links that udev has made to a device.
pub fn links(dev: Dev) -> Vec<PathBuf> {
    UdevEntry::of(dev).map_or_else(Vec::new, |record| record.links)
}

/// Returns whether udev is handling an event of a disk, which it locks the disk's node for.
pub fn works_on(disk: &Path) -> bool {
    peek(disk).is_ok_and(|file| lock(&file) == LockState::Shared)
}

/// The holder of the lock of a disk's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LockState {
    /// This process, or no process because there are no locks.
    Ours,
    /// udev, while it handles an event.
    Shared,
    /// A process that keeps udev away, as `udevadm lock` does. It may be the parent of this one.
    Others,
}

fn lock(file: &fs::File) -> LockState {
    let fails = |how| flock(file, how) == Err(Errno::WOULDBLOCK);
    if fails(FlockOperation::NonBlockingLockShared) {
        LockState::Others
    } else if fails(FlockOperation::NonBlockingLockExclusive) {
        LockState::Shared
    } else {
        LockState::Ours
    }
}

/// Returns which version of a device's record this is. udev writes the record anew each time.
fn version(dev: Dev) -> Option<Version> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(file_of(dev)).ok()?;
    Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Returns whether udev probes a device again after a writer has closed it.
fn watches(dev: Dev) -> bool {
    let id = format!("b{}:{}", major(dev), minor(dev));
    let list = fs::read_dir("/run/udev/watch")
        .into_iter()
        .flatten()
        .flatten();
    let names = |entry: &fs::DirEntry| {
        let leads = fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == id.as_str());
        leads || entry.file_name() == id.as_str()
    };
    list.into_iter().any(|entry| names(&entry))
}

/// A block device that is open for writing. Its lock keeps udev from reading what is half written.
/// The drop, after the writer has closed the device, waits until udev has probed the device again.
#[derive(Debug)]
pub struct DeviceWriter {
    dev: Dev,
    lock: fs::File,
    has_lock: bool,
    awaited: Awaited,
}

/// What the drop of a [`DeviceWriter`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// A version of udev's record other than this. There is none yet if it is `None`.
    RecordAfter(Option<Version>),
}

/// A version of a device's record: inode number and time of change.
type Version = (u64, i64, i64);

impl DeviceWriter {
    /// Locks the disk; returns none if there is no node to lock.
    pub fn new(dev: Dev) -> Option<DeviceWriter> {
        let file = peek(&whole(dev)?.path).ok()?;
        // The lock is advisory, so the device is written without it too.
        Deadline::new().until(|| lock(&file) != LockState::Shared);
        Some(DeviceWriter {
            dev,
            has_lock: lock(&file) == LockState::Ours,
            lock: file,
            awaited: Awaited::Nothing,
        })
    }

    /// Prepares for the close. The caller calls it right before the writer closes.
    pub fn closes(&mut self) {
        let looks = self.has_lock && runs() && watches(self.dev);
        if looks {
            self.awaited = Awaited::RecordAfter(version(self.dev));
        }
    }
}

impl Drop for DeviceWriter {
    fn drop(&mut self) {
        let _ = flock(&self.lock, FlockOperation::Unlock);
        let (Awaited::RecordAfter(before), Some(disk)) = (self.awaited, whole(self.dev)) else {
            return;
        };
        Deadline::new().until(|| version(self.dev) != before && !works_on(&disk.path));
    }
}

#[cfg(test)]
mod tests {
    use super::{now, PathBuf, UdevEntry};

    #[test]
    fn the_database_is_read() {
        let r = UdevEntry::parse(
            b"S:disk/by-uuid/1\nS:unionblk/by-name/web\nI:9054321\nE:ID_A=S:x\nV:1\n",
        );
        let links = ["/dev/disk/by-uuid/1", "/dev/unionblk/by-name/web"];
        assert_eq!(r.links, links.map(PathBuf::from));
        assert_eq!((r.since, r.in_work), (9_054_321, false));
        assert!(UdevEntry::parse(b"E:ID_PROCESSING=1\n").in_work);
        assert_eq!(UdevEntry::parse(b"\xff:\n:\nI:x\n"), UdevEntry::default());
        assert!(now() > 0);
    }
}
