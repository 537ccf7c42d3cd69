// SPDX-License-Identifier: GPL-2.0

//! A leaf in memory: a file of tmpfs without a name, on a loop device. The loop device alone holds
//! the file after this process has ended, so the memory is free as soon as the device has gone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{memfd_create, MemfdFlags};
use rustix::io::Errno;
use ubcore::num::SECTOR_BYTES;

use super::{behind, configure, Lower};
use crate::backing::Backing;
use crate::error::{Fail, Result, FAILED, REFUSED};
use crate::output::size;

/// The name of the file, which the loop device shows.
const NAME: &str = "ubctl-ephemeral-leaf";

impl Lower {
    /// Makes a leaf of this many sectors in memory, on a loop device with blocks of `block` bytes.
    /// If all of its space is to be allocated later, `preallocate` says so.
    pub fn in_memory(sectors: u64, preallocate: bool, block: u32) -> Result<Lower> {
        let bytes = sectors.saturating_mul(SECTOR_BYTES);
        if bytes % u64::from(block) != 0 {
            let text = format!(
                "--ephemeral: {bytes} bytes are not a multiple of the union's blocks of {block} \
                 bytes: use a size that is"
            );
            return Err(Fail::new(REFUSED, "size", text));
        }
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        refuse_too_large(bytes, preallocate, &meminfo)?;
        let file = file(bytes).map_err(|e| {
            let text = format!(
                "cannot make a leaf of {} in memory: {e}: use a smaller one, or one on a disk with \
                 --leaf",
                size(sectors)
            );
            Fail::new(FAILED, "io", text)
        })?;
        let (node, held) = configure(&file, Path::new(NAME), true, block)?;
        let name = node.clone();
        let mut lower = Lower::on_loop((node, held), &name);
        lower.memory = Some(file);
        Ok(lower)
    }

    /// Returns the image of a leaf that is to be allocated, as [`Backing::to_allocate`] does.
    pub fn to_allocate(&self) -> Option<Backing> {
        match &self.memory {
            // The file has no path at which it could be opened again.
            Some(file) => Some(Backing::of_open(file.try_clone().ok()?, &self.node)),
            None => Backing::to_allocate(&self.node),
        }
    }
}

/// Returns whether a device is the loop device of a leaf in memory.
pub fn is_in_memory(device: &Path) -> bool {
    behind(&device.display().to_string()).is_some_and(|image| is_nameless(&image))
}

/// Returns the path of the image that a loop device shows, unless that is in memory, and so has no
/// path.
pub fn image_of(device: &Path) -> Option<PathBuf> {
    let image = behind(&device.display().to_string())?;
    (!is_nameless(&image)).then(|| image.into())
}

/// Returns whether sysfs shows this path for a leaf in memory.
fn is_nameless(image: &str) -> bool {
    image == format!("/memfd:{NAME} (deleted)")
}

fn file(bytes: u64) -> std::io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL;
    let file = match memfd_create(NAME, flags) {
        // A kernel before 6.3.
        Err(Errno::INVAL) => memfd_create(NAME, MemfdFlags::CLOEXEC),
        made => made,
    };
    let file = File::from(file?);
    file.set_len(bytes)?;
    Ok(file)
}

/// Refuses a leaf that could never be filled, and one whose space is not there now if all of it is
/// to be allocated. Without /proc/meminfo the kernel decides.
fn refuse_too_large(bytes: u64, preallocate: bool, meminfo: &str) -> Result {
    let (names, what) = match preallocate {
        false => (["MemTotal", "SwapTotal"], "this machine has"),
        true => (["MemAvailable", "SwapFree"], "there is left"),
    };
    let sum: Option<u64> = names.iter().map(|name| field(meminfo, name)).sum();
    let Some(room) = sum.filter(|room| *room < bytes) else {
        return Ok(());
    };
    let text = format!(
        "--ephemeral: a leaf of {} does not fit into the {} of memory and swap space that {what}: \
         use a smaller one, or one on a disk with --leaf",
        size(bytes / SECTOR_BYTES),
        size(room / SECTOR_BYTES)
    );
    Err(Fail::new(REFUSED, "memory", text))
}

/// Returns a value of /proc/meminfo, in bytes.
fn field(meminfo: &str, name: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{file, is_nameless, refuse_too_large};
    use crate::backing::Backing;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    const MEMINFO: &str = "MemTotal:        4096 kB\nMemFree: 7 kB\nMemAvailable:    1024 kB\n\
                           SwapTotal:       1024 kB\nSwapFree:         512 kB\n";

    #[test]
    fn a_leaf_that_memory_could_never_hold_is_refused() {
        let refused = |kib: u64, all| refuse_too_large(kib << 10, all, MEMINFO).err();
        assert!(refused(5120, false).is_none() && refused(1536, true).is_none());
        let fail = refused(5121, false).unwrap();
        assert_eq!(fail.reason, "memory");
        assert!(fail.message.contains("into the 5 MiB of"), "{fail}");
        assert!(refused(1537, true).unwrap().message.contains("1.5 MiB"));
        assert!(refuse_too_large(1 << 60, true, "").is_ok());
    }

    #[test]
    fn its_file_has_no_path_and_gets_space() {
        let file = file(1 << 20).unwrap();
        let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert!(is_nameless(path.to_str().unwrap()), "{}", path.display());
        assert!(!is_nameless("/srv/leaf"));
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        let backing = Backing::of_open(file.try_clone().unwrap(), &path);
        backing.allocate(64 << 10).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 128);
    }
}
