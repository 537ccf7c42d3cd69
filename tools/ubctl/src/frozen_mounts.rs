// SPDX-License-Identifier: GPL-2.0

//! The file systems on a union, frozen for a moment, so that what they hold is clean on the disk.

use std::fs::File;
use std::path::PathBuf;

use ubcore::abi::Status;

use crate::control::PREFIX;
use crate::error::{Fail, Result};
use crate::ioctl;
use crate::{mounts, node, output};

/// Mounts whose file systems are frozen. They are thawed when this is dropped.
pub struct FrozenMounts(Vec<(PathBuf, File)>);

impl FrozenMounts {
    /// Freezes nothing.
    pub fn none() -> FrozenMounts {
        FrozenMounts(Vec::new())
    }

    /// Freezes each file system that is mounted from a union or a partition of it in our namespace.
    /// If one cannot be frozen, none is.
    pub fn of(status: &Status) -> Result<FrozenMounts> {
        let name = format!("{PREFIX}{}", status.id);
        let nodes = node::family(&name, rustix::fs::makedev(status.major, status.minor));
        let list = mounts::of_process("self");
        let mut frozen = FrozenMounts(Vec::new());
        for mount in list.iter().filter(|mount| mount.is_of(&nodes)) {
            let failed = |e: &std::io::Error| {
                let mut fail = Fail::io("freeze the file system at", &mount.at, e);
                fail.message += "; --no-fsfreeze leaves file systems as they are";
                fail
            };
            let file = File::open(&mount.at).map_err(|e| failed(&e))?;
            match ioctl::freeze_file_system(&file) {
                Ok(()) => frozen.0.push((mount.at.clone(), file)),
                // Another mount of the same file system was frozen before.
                Err(rustix::io::Errno::BUSY) => {}
                Err(e) => return Err(failed(&e.into())),
            }
        }
        Ok(frozen)
    }

    /// Thaws all of them, and returns where they are mounted.
    pub fn thaw(mut self) -> Vec<PathBuf> {
        self.thaw_all()
    }

    fn thaw_all(&mut self) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        // The last one frozen first, in case one lies on another.
        while let Some((path, file)) = self.0.pop() {
            if let Err(e) = ioctl::thaw_file_system(&file) {
                let at = path.display();
                output::complain(&format!(
                    "{at}: its file system stays frozen ({e}): fsfreeze -u {at}"
                ));
            }
            paths.push(path);
        }
        paths.reverse();
        paths
    }
}

impl Drop for FrozenMounts {
    fn drop(&mut self) {
        self.thaw_all();
    }
}
