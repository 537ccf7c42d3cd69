// SPDX-License-Identifier: GPL-2.0

//! The blocks that a union shows, and the blocks that its root's content was made for.
//!
//! Partition tables and many file systems count in logical blocks, and the kernel does not find
//! them on a disk with other blocks. So a union has the blocks that its root's content was made
//! for, or is refused.

use std::path::{Path, PathBuf};

use ubcore::error::Role;

use crate::below::RootArg;
use crate::device::{Access, Device};
use crate::error::{Fail, Result, REFUSED};
use crate::layer_arg::LayerArg;
use crate::{probe, sealed};

/// The block size of an image and of most disks.
pub const SECTOR: u32 = 512;
const GPT: &[u8] = b"EFI PART";

/// Returns the blocks that the union of these devices must have: as asked for; else as its leaf
/// says, unless there is none yet (`leaf`); else as the root's content says.
///
/// The content of a layer was made for the blocks that its own superblock, or its header, says.
pub fn wanted(
    (root, layers): (&RootArg, &[LayerArg]),
    leaf: Option<&Path>,
    asked: Option<u32>,
) -> Result<u32> {
    if let Some(bytes) = asked {
        return Ok(bytes);
    }
    let by = match leaf {
        None => layers.last().and_then(recorded),
        Some(leaf) => recorded(&LayerArg::at_start(leaf)),
    };
    match (by, root.path()) {
        (Some(bytes), _) => Ok(bytes),
        (None, Some(root)) => made_for(&Device::open(root, Role::Root, Access::Read)?),
        (None, None) => Ok(SECTOR),
    }
}

/// Returns the blocks that a leaf or a layer says. A later check reports what is wrong with it.
fn recorded(what: &LayerArg) -> Option<u32> {
    let device = what.open().ok()?;
    match probe::superblock(&device) {
        Some(sb) => Some(sb.root_block_bytes),
        None => {
            let sealed = sealed::open_if_there(&device).ok()?;
            sealed.map(|sealed| sealed.header.block_bytes)
        }
    }
}

/// Returns the blocks that a root's content was made for. The second block of a partition table
/// shows them, or a file system whose blocks are smaller than the root's; otherwise they are the
/// root's.
fn made_for(root: &Device) -> Result<u32> {
    let own = root.block_bytes()?;
    let is_table = |block: u32| {
        let mut magic = [0; GPT.len()];
        root.read_at(block.into(), &mut magic).is_ok() && magic == GPT
    };
    // A table that fits comes first, because an old file system may have left its first bytes.
    if !is_table(own) && unit_of_file_system(root).is_some_and(|unit| unit < own) {
        return Ok(SECTOR);
    }
    let others = [SECTOR, 4096].into_iter().filter(|&block| block != own);
    Ok([own]
        .into_iter()
        .chain(others)
        .find(|&b| is_table(b))
        .unwrap_or(own))
}

/// Returns the smallest unit, in bytes, that the file system on a root reads or writes. The file
/// system refuses to mount from a device with larger blocks. Knows XFS and ext2, 3 and 4.
fn unit_of_file_system(root: &Device) -> Option<u32> {
    let mut head = [0; 2048];
    root.read_at(0, &mut head).ok()?;
    let ext = &head[1024..];
    let unit = if head.starts_with(b"XFSB") {
        // This is sb_sectsize, the unit of its log and of its headers.
        u16::from_be_bytes([head[102], head[103]]).into()
    } else if ext[56..58] == [0x53, 0xef] {
        // This is s_log_block_size: 1 KiB and up.
        let shift = u32::from_le_bytes([ext[24], ext[25], ext[26], ext[27]]);
        1024u32.checked_shl(shift)?
    } else {
        return None;
    };
    // Both file systems have units of up to 64 KiB. Any other is not their superblock.
    (unit.is_power_of_two() && (SECTOR..=1 << 16).contains(&unit)).then_some(unit)
}

fn of_device(device: &Device, wanted: u32) -> Result<u32> {
    if device.is_block() {
        return device.block_bytes();
    }
    Ok(of_image(device.bytes(), wanted))
}

/// Returns the blocks of an image's loop device. If the blocks did not divide the image, its end
/// would be lost.
pub fn of_image(bytes: u64, wanted: u32) -> u32 {
    if bytes % u64::from(wanted) == 0 {
        wanted
    } else {
        SECTOR
    }
}

/// A device of a union, and the size of its blocks.
#[derive(Clone, Debug)]
pub struct DeviceBlocks {
    /// Which of the union's devices it is.
    pub role: Role,
    /// Its path.
    pub path: PathBuf,
    /// The size of its blocks.
    pub bytes: u32,
}

impl DeviceBlocks {
    /// Returns the blocks of a device, or the ones that an image gets if `wanted` are asked for.
    pub fn of(device: &Device, wanted: u32) -> Result<DeviceBlocks> {
        Ok(DeviceBlocks {
            role: device.role(),
            path: device.path().to_owned(),
            bytes: of_device(device, wanted)?,
        })
    }
}

/// Refuses a union whose blocks would differ from those wanted.
pub fn refuse_other(devices: &[DeviceBlocks], wanted: u32) -> Result {
    let union = devices.iter().map(|d| d.bytes).max().unwrap_or(wanted);
    if union == wanted {
        return Ok(());
    }
    let name = |d: &DeviceBlocks| format!("{} {}", d.role.name(), d.path.display());
    let what = devices.iter().map(name).collect::<Vec<_>>().join(", ");
    let largest: Vec<_> = devices.iter().filter(|d| d.bytes == union).collect();
    let cause = match (largest.as_slice(), devices.len()) {
        ([one], _) => format!("as the {} has", one.role.name()),
        (_, 2) => "as both have".to_owned(),
        _ => "as these devices have".to_owned(),
    };
    let odd = devices.iter().map(|d| &d.path).find(|p| is_odd(p, wanted));
    let way = if let Some(path) = odd.filter(|_| union < wanted) {
        let path = path.display();
        format!("{path} is not a multiple of that: enlarge it: truncate -s %{wanted} {path}")
    } else if union > wanted {
        format!("take devices with blocks of {wanted} bytes (an image has them)")
    } else {
        format!("take an image as the leaf, with --sector-size {wanted}")
    };
    Err(Fail::new(
        REFUSED,
        "sector_size",
        format!(
            "{what}: the union would have logical blocks of {union} bytes, {cause}, but what the root holds \
             was made for {wanted} bytes: its partitions and file systems might not be found; {way}, \
             or, if it works with blocks of {union} bytes, use --sector-size {union}"
        ),
    ))
}

/// Returns whether a file does not consist of whole blocks.
fn is_odd(path: &Path, block: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() % u64::from(block) != 0)
}

/// Refuses a file that does not end with a whole sector, because the bytes after the last sector
/// would be lost.
pub fn refuse_tail(path: &Path) -> Result {
    let meta = std::fs::metadata(path).map_err(|e| Fail::io("open", path, &e))?;
    let tail = meta.len() % u64::from(SECTOR);
    if !meta.is_file() || tail == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(Fail::new(
        REFUSED,
        "size",
        format!(
            "{path} has {} bytes, not a multiple of a sector's {SECTOR}: the last {tail} would be cut off; \
             enlarge it: truncate -s %{SECTOR} {path}",
            meta.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::{made_for, of_image, refuse_other, refuse_tail, unit_of_file_system, DeviceBlocks};
    use super::{Access, Device, Path, Role};

    fn blocks(role: Role, path: &Path, bytes: u32) -> DeviceBlocks {
        let path = path.to_owned();
        DeviceBlocks { role, path, bytes }
    }

    #[test]
    fn a_partition_table_says_what_it_was_made_for() {
        let path = std::env::temp_dir().join(format!("ubctl-gpt-{}", std::process::id()));
        let found = |at: &[usize]| {
            let mut bytes = vec![0; 65536];
            for &at in at {
                bytes[at..at + 8].copy_from_slice(b"EFI PART");
            }
            std::fs::write(&path, bytes).unwrap();
            made_for(&Device::open(&path, Role::Root, Access::Read).unwrap()).unwrap()
        };
        assert_eq!(found(&[]), 512);
        assert_eq!(found(&[512]), 512);
        assert_eq!(found(&[4096]), 4096);
        assert_eq!(found(&[512, 4096]), 512);
        std::fs::write(&path, [0; 5120]).unwrap();
        let devices = [
            blocks(Role::Root, &path, 512),
            blocks(Role::Leaf, Path::new("l"), 512),
        ];
        let fail = refuse_other(&devices, 4096).unwrap_err();
        assert!(fail.message.contains("truncate -s %4096 /"), "{fail}");
        std::fs::write(&path, [0; 513]).unwrap();
        let fail = refuse_tail(&path).unwrap_err();
        assert!(fail.message.contains("513 bytes") && fail.message.contains("last 1 "));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_system_says_what_it_was_made_for() {
        let path = std::env::temp_dir().join(format!("ubctl-fs-{}", std::process::id()));
        let unit = |edit: &dyn Fn(&mut [u8])| {
            let mut bytes = vec![0; 65536];
            edit(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            unit_of_file_system(&Device::open(&path, Role::Root, Access::Read).unwrap())
        };
        assert_eq!(unit(&|_| ()), None);
        let xfs = |size: u16| {
            unit(&|b| {
                b[..4].copy_from_slice(b"XFSB");
                b[102..104].copy_from_slice(&size.to_be_bytes());
            })
        };
        assert_eq!((xfs(512), xfs(4096)), (Some(512), Some(4096)));
        let ext = |shift: u8| {
            unit(&|b| {
                b[1080..1082].copy_from_slice(&[0x53, 0xef]);
                b[1048] = shift;
            })
        };
        assert_eq!((ext(0), ext(2)), (Some(1024), Some(4096)));
        for shift in [7, 22, 31, 40] {
            assert_eq!(ext(shift), None, "{shift}");
        }
        assert_eq!((xfs(0), xfs(520), ext(6)), (None, None, Some(65536)));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn other_blocks_are_refused_with_both_sizes() {
        let check = |root, leaf, wanted| {
            let root = blocks(Role::Root, Path::new("r"), root);
            let leaf = blocks(Role::Leaf, Path::new("l"), leaf);
            let fail = refuse_other(&[root, leaf], wanted);
            fail.err().map_or_else(String::new, |f| f.message)
        };
        assert_eq!(check(512, 512, 512), "");
        assert_eq!(check(512, 4096, 4096), "");
        let up = check(512, 4096, 512);
        assert!(up.contains("4096 bytes, as the leaf has, but"), "{up}");
        assert!(
            up.contains("for 512 bytes") && up.ends_with("--sector-size 4096"),
            "{up}"
        );
        let down = check(512, 512, 4096);
        assert!(down.contains("512 bytes, as both have, but"), "{down}");
        assert!(down.ends_with("use --sector-size 512"), "{down}");
        assert_eq!(
            (of_image(8192, 4096), of_image(8193 * 512, 4096)),
            (4096, 512)
        );
    }
}
