// SPDX-License-Identifier: GPL-2.0

//! Lists the mounts of a namespace, and unmounts those of a union.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, makedev, minor, statx, AtFlags, Dev, StatxFlags, CWD};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Fail, Result, BUSY};
use crate::node::Node;

/// A mount of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountEntry {
    id: u32,
    parent: u32,
    dev: (u32, u32),
    /// Where it is mounted.
    pub at: PathBuf,
    source: PathBuf,
}

impl MountEntry {
    /// Parses a line of mountinfo.
    fn parse(line: &[u8]) -> Option<MountEntry> {
        let mut words = line.split(|&b| b == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let dev = std::str::from_utf8(words.next()?).ok()?;
        let (a, b) = dev.split_once(':')?;
        let at = unescape(words.nth(1)?);
        // After the options and a list of unknown length come a dash, the type and the source.
        let source = unescape(words.skip_while(|word| *word != b"-").nth(2)?);
        Some(MountEntry {
            id,
            parent,
            dev: (a.parse().ok()?, b.parse().ok()?),
            at,
            source,
        })
    }

    /// Returns whether the mount is of one of these devices. A file system such as btrfs has a
    /// number that is not its device's; for it the source of the mount decides.
    pub fn is_of(&self, nodes: &[Node]) -> bool {
        let has = |node: &Node| {
            (major(node.dev), minor(node.dev)) == self.dev || self.source == node.path
        };
        nodes.iter().any(has)
    }

    /// Unmounts it. A mount that has gone since the list was read counts as unmounted, because the
    /// end of another mount can take it along.
    fn unmount(&self) -> Result {
        // An unmount takes whatever mount its path leads to. No descriptor of the mount can stay
        // open for it, because that would make the mount busy.
        if mount_at(&self.at) == Some(self.id) {
            match rustix::mount::unmount(&self.at, UnmountFlags::NOFOLLOW) {
                Ok(()) => return Ok(()),
                Err(Errno::INVAL | Errno::NOENT) => {}
                Err(Errno::BUSY) => {
                    let at = self.at.display();
                    let why = format!("a process works in it: see fuser -vm {at}");
                    return Err(stays(&self.at, &why));
                }
                Err(e) => return Err(Fail::io("unmount", &self.at, &e.into())),
            }
        }
        let is_this = |m: &MountEntry| (m.id, m.dev, &m.at) == (self.id, self.dev, &self.at);
        if of_process("self").iter().any(is_this) {
            let why = "the path leads to another mount, which hides it: unmount that first";
            return Err(stays(&self.at, why));
        }
        Ok(())
    }
}

fn stays(at: &Path, why: &str) -> Fail {
    Fail::new(
        BUSY,
        "busy",
        format!("cannot unmount {}: {why}", at.display()),
    )
}

/// Returns the number of the mount that a path leads to, as mountinfo has it. Asks no file system.
fn mount_at(path: &Path) -> Option<u32> {
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = statx(CWD, path, how, StatxFlags::MNT_ID).ok()?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    u32::try_from(found.stx_mnt_id).ok().filter(|_| known)
}

/// Returns the mounts that a process sees.
pub fn of_process(pid: &str) -> Vec<MountEntry> {
    let text = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    text.split(|&b| b == b'\n')
        .filter_map(MountEntry::parse)
        .collect()
}

/// Returns the device number of the file system of a mount in our namespace.
pub fn dev_of(id: u32) -> Option<Dev> {
    let mount = of_process("self").into_iter().find(|m| m.id == id)?;
    Some(makedev(mount.dev.0, mount.dev.1))
}

/// Unmounts what is mounted from these devices in our namespace, and the mounts on top of that.
pub fn unmount(nodes: &[Node]) -> Result {
    let list = of_process("self");
    let mut ids: BTreeSet<u32> = BTreeSet::new();
    // A mount that was moved may stand before its parent in the list.
    loop {
        let before = ids.len();
        let ours = |m: &&MountEntry| m.is_of(nodes) || ids.contains(&m.parent);
        let found: Vec<u32> = list.iter().filter(ours).map(|m| m.id).collect();
        ids.extend(found);
        if ids.len() == before {
            break;
        }
    }
    let ours = || list.iter().rev().filter(|m| ids.contains(&m.id));
    // All that is mounted lies on this one, and would be unmounted before it is found busy.
    if let Some(root) = ours().find(|m| m.at == Path::new("/")) {
        return Err(stays(&root.at, "the system runs on it"));
    }
    ours().try_for_each(MountEntry::unmount)
}

/// Turns `\040` and the like back into bytes.
pub fn unescape(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsStr::from_bytes(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::{MountEntry, Node, Path, PathBuf};

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"36 35 259:3 / /mnt/a\\040b rw shared:1 master:2 - btrfs /dev/unionblk0p1 rw";
        let m = MountEntry::parse(line).unwrap();
        assert_eq!((m.id, m.parent, m.dev), (36, 35, (259, 3)));
        assert_eq!(m.at, Path::new("/mnt/a b"));
        assert_eq!(m.source, Path::new("/dev/unionblk0p1"));
        assert!(m.is_of(&[Node::new("x", rustix::fs::makedev(259, 3))]));
        assert!(m.is_of(&[Node::new("unionblk0p1", 0)]));
        assert!(!m.is_of(&[Node::new("unionblk0", 0)]));
        for bad in [
            "",
            "36",
            "36 35 x / / - a",
            "36 35 8:1 / /mnt rw - ext4",
            "a b c d e f",
        ] {
            assert!(MountEntry::parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_eq!(super::unescape(b"\\134\\04\\"), PathBuf::from("\\\\04\\"));
    }

    #[test]
    fn a_mount_that_has_gone_is_done() {
        let gone = |at: &str| MountEntry {
            id: u32::MAX,
            parent: 1,
            dev: (8, 1),
            at: at.into(),
            source: "none".into(),
        };
        assert_eq!(gone("/").unmount().map_err(|f| f.code), Ok(()));
        assert_eq!(gone("/nowhere").unmount().map_err(|f| f.code), Ok(()));
    }

    #[test]
    fn our_own_mounts_are_read() {
        // In a chroot the root need not be a mount.
        let proc = super::of_process("self")
            .into_iter()
            .find(|m| m.at == Path::new("/proc"));
        assert_eq!(super::mount_at(Path::new("/proc")), proc.map(|m| m.id));
    }
}
