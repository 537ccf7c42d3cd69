// SPDX-License-Identifier: GPL-2.0

//! The file system of the snapshots, by the programs of e2fsprogs.
//!
//! The bottom of all stacks is an empty ext4, made once, the same bytes on each host. It has no
//! journal, because that would write all metadata twice, and no lost+found, because an image has
//! none.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use crate::error::{complain, Error, Result};

/// The UUID of the file system, and the seed of its directory hashes.
const UUID: &str = "6d5a1d0e-4f2c-4d3b-8a52-0f6a3c1b9e70";
/// The time of everything in it: 2025-01-01.
const TIME: &str = "1735689600";
/// All features, so that the host's configuration of mke2fs does not matter.
const FEATURES: &str = "none,extent,64bit,flex_bg,sparse_super,filetype,dir_index,ext_attr,\
    large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// The byte of the superblock's field `s_state`. Its lowest bit says that the file system was
/// unmounted.
const STATE: u64 = 1024 + 0x3a;

/// Makes the bottom in a file, which is whole if it has this name.
pub fn make(path: &Path, bytes: u64) -> Result {
    let new = path.with_extension("new");
    let failed = |e| Error::io(format!("make {}", path.display()), &e);
    // An earlier start may have ended early.
    let _ = fs::remove_file(&new);
    let file = File::create_new(&new).map_err(failed)?;
    file.set_len(bytes).map_err(failed)?;
    // The inode tables are holes, and so they are initialised. No mount needs to write zeroes.
    let extended = format!("hash_seed={UUID},root_owner=0:0,lazy_itable_init=0,nodiscard");
    let mut mke2fs = program("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"]);
    mke2fs.args(["-i", "16384", "-m", "0", "-O", FEATURES, "-U", UUID, "-E"]);
    succeeds(mke2fs.arg(&extended).arg(&new))?;
    let mut debugfs = program("debugfs");
    succeeds(debugfs.args(["-w", "-R", "rmdir lost+found"]).arg(&new))?;
    let mode = Permissions::from_mode(0o400);
    file.set_permissions(mode).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed)
}

/// Repairs the file system on a device that is not mounted, if it was not unmounted. After a power
/// failure blocks may have two owners, because there is no journal. After a commit of a mounted
/// snapshot, files may have blocks and no name.
pub fn repair(device: &Path) -> Result {
    let failed = |e| Error::io(format!("read {}", device.display()), &e);
    let mut state = [0; 2];
    let file = File::open(device).map_err(failed)?;
    file.read_exact_at(&mut state, STATE).map_err(failed)?;
    if u16::from_le_bytes(state) & 1 == 1 {
        return Ok(());
    }
    let done = output(program("e2fsck").arg("-fy").arg(device))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let last = said.lines().last().unwrap_or_default();
    complain(&format!(
        "the file system on {} was not unmounted: {last}",
        device.display()
    ));
    // 1 and 2: repaired.
    match done.status.code() {
        Some(0..=2) => Ok(()),
        _ => Err(Error::internal(format!(
            "e2fsck cannot repair {}: {}",
            device.display(),
            said.trim()
        ))),
    }
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("MKE2FS_CONFIG", "/dev/null");
    // They are in /usr/sbin, which a user's PATH may lack.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn output(command: &mut Command) -> Result<Output> {
    let done = command.output();
    done.map_err(|e| {
        let name = command.get_program().to_string_lossy();
        Error::internal(format!("cannot run {name}: {e}: install e2fsprogs"))
    })
}

fn succeeds(command: &mut Command) -> Result {
    let done = output(command.env("E2FSPROGS_FAKE_TIME", TIME))?;
    if done.status.success() {
        return Ok(());
    }
    let name = command.get_program().to_string_lossy();
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Error::internal(format!("{name} failed: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::{make, repair, STATE};
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::process::Command;

    const BYTES: u64 = 1 << 30;

    #[test]
    fn the_bottom_is_the_same_each_time_and_empty() {
        let name =
            |n| std::env::temp_dir().join(format!("ubsnapd-bottom-{n}-{}", std::process::id()));
        let paths = [name(1), name(2)];
        for path in &paths {
            make(path, BYTES).unwrap();
        }
        assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap());
        let meta = fs::metadata(&paths[0]).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (BYTES, 0o400));
        assert!(meta.blocks() * 512 < 1 << 20, "{}", meta.blocks());
        let ran = |program: &str, args: &[&str]| {
            let done = Command::new(program)
                .args(args)
                .arg(&paths[0])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(done.status.success(), "{program}: {text}");
            text
        };
        ran("e2fsck", &["-fn"]);
        let list = ran("debugfs", &["-R", "ls -p /"]);
        assert_eq!(list.lines().filter(|l| !l.is_empty()).count(), 2, "{list}");
        assert!(list.starts_with("/2/040755/0/0/./"), "{list}");
        let about = ran("dumpe2fs", &["-h"]);
        assert!(!about.contains("has_journal"), "{about}");
        assert!(about.contains("Filesystem state:         clean"), "{about}");
        // A clean one stays as it is; one that was mounted is repaired.
        fs::set_permissions(&paths[1], fs::Permissions::from_mode(0o600)).unwrap();
        repair(&paths[1]).unwrap();
        assert!(fs::read(&paths[0]).unwrap() == fs::read(&paths[1]).unwrap());
        let file = fs::File::options().write(true).open(&paths[1]).unwrap();
        file.write_all_at(&[0; 2], STATE).unwrap();
        repair(&paths[1]).unwrap();
        let mut state = [0; 2];
        let file = fs::File::open(&paths[1]).unwrap();
        file.read_exact_at(&mut state, STATE).unwrap();
        assert_eq!(state, [1, 0]);
        paths.iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}
