// SPDX-License-Identifier: GPL-2.0

//! The command line, and the start of the daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use rustix::fs::{flock, FlockOperation, Mode};
use rustix::io::Errno;
use rustix::process::umask;
use ubctl::value_parser::union_size;

use crate::bottom;
use crate::daemon::Daemon;
use crate::disks::kernel::Kernel;
use crate::error::{complain, Error, Result};
use crate::server;
use crate::store::Store;

const AFTER_HELP: &str = "\
Sizes are in bytes, or with K, M, G or T: 64K is 65536.

The root directory holds bottom.img, the empty file system that all stacks
begin with; leaves/, a leaf of unionblk for each snapshot; snapshots.log,
the list of the snapshots. The size of the file system stays as it was when the
directory was made.

containerd takes the snapshotter from its configuration:
  [proxy_plugins.unionblk]
    type = \"snapshot\"
    address = \"/run/ubsnapd/ubsnapd.sock\"
    [proxy_plugins.unionblk.exports]
      root = \"/var/lib/ubsnapd\"

Examples:
  ubsnapd
  ubsnapd --root /srv/ubsnapd --address /run/ubsnapd/ubsnapd.sock --size 20G
  ctr --address /run/containerd/containerd.sock snapshots --snapshotter unionblk list

Exit status:
  0  after SIGTERM, SIGINT or SIGHUP
  1  the daemon cannot start: standard error has the reason
  2  the command line is wrong";

/// A snapshotter for containerd: snapshots are leaves and layers of unionblk
#[derive(Debug, Parser)]
#[command(name = "ubsnapd", version, after_help = AFTER_HELP)]
pub struct DaemonCli {
    /// The directory of the snapshots
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ubsnapd")]
    pub root: PathBuf,
    /// The socket at which containerd calls
    #[arg(
        long,
        value_name = "SOCKET",
        default_value = "/run/ubsnapd/ubsnapd.sock"
    )]
    pub address: PathBuf,
    /// The bytes that a snapshot may write, unless it has the label containerd.io/snapshot/max-size
    #[arg(long, value_name = "SIZE", value_parser = union_size, default_value = "10G")]
    pub size: u64,
    /// The size of the file system of all snapshots; used only when the directory is made
    #[arg(long, value_name = "SIZE", value_parser = union_size, default_value = "32G")]
    pub file_system_size: u64,
}

/// Runs the daemon.
pub fn main() -> ExitCode {
    let cli = DaemonCli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            complain(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &DaemonCli) -> Result {
    // Leaves hold the files of containers, and the directory may have been made by hand, for all to
    // read.
    umask(Mode::RWXG | Mode::RWXO);
    let made = fs::create_dir_all(cli.root.join("leaves"));
    made.map_err(|e| Error::io(format!("make {}", cli.root.display()), &e))?;
    let root = fs::canonicalize(&cli.root);
    let root = root.map_err(|e| Error::io(format!("open {}", cli.root.display()), &e))?;
    // The kernel releases the lock when the process ends.
    let _lock = lock(&root)?;
    let (bottom, leaves) = (root.join("bottom.img"), root.join("leaves"));
    let store = match Store::open(&root)? {
        Some(store) => store,
        None => begin(&root, &bottom, &leaves, cli.file_system_size)?,
    };
    let bytes = store.state().bytes;
    let has = fs::metadata(&bottom).map(|meta| meta.len());
    let has = has.map_err(|e| Error::io(format!("open {}", bottom.display()), &e))?;
    if has != bytes {
        return Err(Error::internal(format!(
            "{}: {has} bytes, not {bytes}: restore the file from a backup, because all snapshots lie on it",
            bottom.display()
        )));
    }
    let kernel = Kernel::new(&bottom, &leaves, bytes)?;
    let daemon = Daemon::start(kernel, store, sectors_as_bytes(cli.size))?;
    server::serve(daemon, &cli.address)
}

fn sectors_as_bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(512)
}

/// Locks the directory against another daemon.
fn lock(root: &Path) -> Result<File> {
    let open = File::open(root);
    let file = open.map_err(|e| Error::io(format!("open {}", root.display()), &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let text = format!("{} is in use by another ubsnapd: stop it", root.display());
            Err(Error::internal(text))
        }
        Err(e) => Err(Error::io(format!("lock {}", root.display()), &e.into())),
    }
}

/// Makes the bottom and the store of a new directory.
fn begin(root: &Path, bottom: &Path, leaves: &Path, sectors: u64) -> Result<Store> {
    let list = fs::read_dir(leaves);
    let mut list = list.map_err(|e| Error::io(format!("list {}", leaves.display()), &e))?;
    if list.next().is_some() {
        return Err(Error::internal(format!(
            "{} holds leaves, but there is no store of snapshots: restore snapshots.log, or move \
             the leaves away",
            leaves.display()
        )));
    }
    // mke2fs counts in blocks of 4 KiB.
    let bytes = sectors_as_bytes(sectors) / 4096 * 4096;
    bottom::make(bottom, bytes)?;
    Store::create(root, bytes)
}

#[cfg(test)]
mod tests {
    use super::{begin, lock, run, DaemonCli, Store};
    use clap::{CommandFactory, Parser};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_definition_is_sound() {
        DaemonCli::command().debug_assert();
        let cli = DaemonCli::parse_from(["ubsnapd", "--size", "1G"]);
        assert_eq!((cli.size, cli.file_system_size), (1 << 21, 32 << 21));
    }

    #[test]
    fn no_other_user_can_read_what_a_start_makes() {
        let root = std::env::temp_dir().join(format!("ubsnapd-mask-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
        // It cannot listen at a directory. Where there is no driver, it does not come so far.
        let cli = DaemonCli {
            root: root.clone(),
            address: root.clone(),
            size: 1 << 13,
            file_system_size: 1 << 17,
        };
        run(&cli).unwrap_err();
        for name in ["leaves", "bottom.img", "snapshots.log"] {
            let meta = std::fs::metadata(root.join(name)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o77, 0, "{name}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_directory_has_one_daemon_and_one_store() {
        let root = std::env::temp_dir().join(format!("ubsnapd-root-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let (bottom, leaves) = (root.join("bottom.img"), root.join("leaves"));
        std::fs::create_dir_all(&leaves).unwrap();
        let held = lock(&root).unwrap();
        assert!(lock(&root).unwrap_err().message.contains("another ubsnapd"));
        drop(held);
        lock(&root).unwrap();
        begin(&root, &bottom, &leaves, 1 << 17).unwrap();
        let store = Store::open(&root).unwrap().unwrap();
        assert_eq!(store.state().bytes, 1 << 26);
        assert_eq!(std::fs::metadata(&bottom).unwrap().len(), 1 << 26);
        std::fs::remove_file(root.join("snapshots.log")).unwrap();
        std::fs::write(leaves.join("1.leaf"), b"").unwrap();
        let e = begin(&root, &bottom, &leaves, 1 << 17)
            .map(|_| ())
            .unwrap_err();
        assert!(e.message.contains("no store"), "{e}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
