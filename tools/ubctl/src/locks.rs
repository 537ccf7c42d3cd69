// SPDX-License-Identifier: GPL-2.0

//! The byte-range locks that other programs have on a root or a leaf.
//!
//! A virtual machine does not claim its disk, and does not lock it by `flock`: QEMU locks single
//! bytes of the image or the device node (`block/file-posix.c`), others lock the whole file. The
//! kernel lists these locks in `/proc/locks`, those of other PID namespaces too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::fs::{major, makedev, minor, statx, AtFlags, StatxFlags, CWD};
use ubcore::error::Role;

use crate::mounts;

/// The bytes of QEMU's locks of a process that writes to the image, or changes its size.
const QEMU_WRITES: [u64; 2] = [101, 103];

/// A lock, as `/proc/locks` and `/proc/PID/fdinfo` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileLock<'a> {
    /// `FLOCK`, `POSIX` or `OFDLCK`.
    kind: &'a str,
    write: bool,
    /// None if it belongs to an open file, not to a process.
    pid: Option<u32>,
    /// The file: the numbers of its file system's device, and its inode number.
    file: &'a str,
    /// The first byte, and the last one if the lock has an end.
    from: u64,
    to: Option<u64>,
}

impl<'a> FileLock<'a> {
    fn parse(line: &'a str) -> Option<FileLock<'a>> {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        // A process that waits for the lock has an arrow there.
        if !["FLOCK", "POSIX", "OFDLCK"].contains(&kind) {
            return None;
        }
        let write = words.nth(1)? == "WRITE";
        let pid = words.next()?.parse().ok();
        let (file, from, to) = (words.next()?, words.next()?, words.next()?);
        let from = from.parse().ok()?;
        let to = to.parse().ok();
        Some(FileLock {
            kind,
            write,
            pid,
            file,
            from,
            to,
        })
    }

    /// Returns whether a root or a leaf must not be used beside this lock. A leaf is for one user.
    /// A root may have others that only read.
    fn bars(&self, role: Role) -> bool {
        let has = |byte: &u64| self.from <= *byte && self.to.is_some_and(|to| *byte <= to);
        match role {
            _ if self.kind == "FLOCK" => false,
            Role::Leaf => true,
            Role::Root | Role::Layer => self.write || QEMU_WRITES.iter().any(has),
        }
    }
}

/// Returns a file as the lists of locks name it. The number of its file system is that of its
/// mount, which may not be the number that `stat` gives, as on btrfs.
fn file_of(path: &Path) -> Option<String> {
    let want = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, want).ok()?;
    let mut dev = makedev(found.stx_dev_major, found.stx_dev_minor);
    if major(dev) == 0 {
        let mount = u32::try_from(found.stx_mnt_id).ok();
        dev = mount.and_then(mounts::dev_of).unwrap_or(dev);
    }
    let (a, b) = (major(dev), minor(dev));
    Some(format!("{a:02x}:{b:02x}:{}", found.stx_ino))
}

/// Returns whether another program has a lock on the file or device node at a path that forbids
/// its use.
pub fn forbid(path: &Path, role: Role) -> bool {
    let Some(file) = file_of(path) else {
        return false;
    };
    let list = fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut locks = list.lines().filter_map(FileLock::parse);
    locks.any(|lock| lock.file == file && lock.bars(role))
}

/// Returns the processes that have locked the file at a path, as far as they can be found.
pub fn lockers(path: &Path, processes: &[u32]) -> BTreeSet<u32> {
    let Some(file) = file_of(path) else {
        return BTreeSet::new();
    };
    let list = fs::read_to_string("/proc/locks").unwrap_or_default();
    let locks = || list.lines().filter_map(FileLock::parse);
    let ours = || locks().filter(|lock| lock.file == file);
    let mut pids: BTreeSet<u32> = ours().filter_map(|lock| lock.pid).collect();
    if ours().any(|lock| lock.pid.is_none()) {
        // The list does not say which process has the open file.
        pids.extend(processes.iter().filter(|&&pid| has_lock(pid, &file)));
    }
    pids
}

/// Returns whether one of a process's open files has a lock on this file. Asks no file system.
fn has_lock(pid: u32, file: &str) -> bool {
    let all = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    all.into_iter().flatten().flatten().any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let mut locks = text
            .lines()
            .filter_map(|line| FileLock::parse(line.strip_prefix("lock:")?));
        locks.any(|lock| lock.file == file)
    })
}

#[cfg(test)]
mod tests {
    use super::{FileLock, Role};

    #[test]
    fn a_line_of_the_list() {
        let lock = FileLock::parse("7: OFDLCK ADVISORY  READ -1 fe:00:131 100 101").unwrap();
        assert_eq!((lock.kind, lock.write, lock.pid), ("OFDLCK", false, None));
        assert_eq!(
            (lock.file, lock.from, lock.to),
            ("fe:00:131", 100, Some(101))
        );
        let lock = FileLock::parse("1: POSIX  ADVISORY  WRITE 88 00:1a:9 0 EOF").unwrap();
        assert_eq!((lock.write, lock.pid, lock.to), (true, Some(88), None));
        let blocked = "1: -> POSIX  ADVISORY  WRITE 89 00:1a:9 0 EOF";
        for bad in ["", "1:", blocked, "1: LEASE ACTIVE READ 9 00:1a:9 0 EOF"] {
            assert!(FileLock::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_root_may_be_read_by_others() {
        let bars = |rest: &str| {
            let line = format!("1: {rest}");
            let lock = FileLock::parse(&line).unwrap();
            (lock.bars(Role::Root), lock.bars(Role::Leaf))
        };
        assert_eq!(bars("FLOCK ADVISORY WRITE 1 00:1a:9 0 EOF"), (false, false));
        // QEMU: reads; lets no other program write; writes.
        assert_eq!(
            bars("OFDLCK ADVISORY READ -1 00:1a:9 100 100"),
            (false, true)
        );
        assert_eq!(
            bars("OFDLCK ADVISORY READ -1 00:1a:9 201 201"),
            (false, true)
        );
        assert_eq!(
            bars("OFDLCK ADVISORY READ -1 00:1a:9 100 101"),
            (true, true)
        );
        assert_eq!(
            bars("OFDLCK ADVISORY READ -1 00:1a:9 103 103"),
            (true, true)
        );
        // Others: the whole file.
        assert_eq!(bars("OFDLCK ADVISORY READ -1 00:1a:9 0 EOF"), (false, true));
        assert_eq!(bars("POSIX ADVISORY WRITE 7 00:1a:9 0 EOF"), (true, true));
    }
}
