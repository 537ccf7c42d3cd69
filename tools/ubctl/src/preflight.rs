// SPDX-License-Identifier: GPL-2.0

//! Checks, before a leaf is formatted, whether the driver would refuse its union.
//!
//! [`crate::control`] checks the module's version, the union's number and the paths.
//! [`crate::commands::format`] checks sizes, the room on the leaf and blocks that do not divide the
//! union. The command line checks the number of queues. Two conditions show only when the union is
//! made: lack of memory, and what other processes take in the meantime.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ubcore::abi::{self, Status};
use ubcore::error::{Error, Role};
use ubcore::format::superblock::choose;
use ubcore::geometry::BLOCK_BYTES;
use ubcore::sealed::header;

use crate::control::{Control, PREFIX};
use crate::device::{Access, Device};
use crate::error::{reason_of, Fail, Result, BUSY, REFUSED};
use crate::output;
use crate::sysfs::{link_of, slave_numbers};
use crate::wait::Deadline;

/// How long another process may hold a root that it only claims to test it, as this command does.
pub const CLAIM: Duration = Duration::from_millis(500);

/// Refuses a device whose blocks the driver does not support below a union.
pub fn refuse_limits(device: &Device, role: Role) -> Result {
    let too_large = usize::try_from(device.block_bytes()?).is_ok_and(|n| n > BLOCK_BYTES);
    if too_large || is_zoned(device) {
        let why = if too_large {
            "its logical blocks are larger than 4096 bytes"
        } else {
            "it is zoned"
        };
        let path = device.path().display();
        return Err(Fail::new(
            REFUSED,
            reason_of(Error::Limits(role)),
            format!(
                "{path}: the {} does not fit this union: {why}: choose another device",
                role.name()
            ),
        ));
    }
    Ok(())
}

/// Refuses a root that begins like a leaf. Such a root shows that root and leaf are swapped, and
/// the next step would format the golden image. Also refuses a sealed layer, which is no disk.
pub fn refuse_leaf_as_root(root: &Device) -> Result {
    let mut block = vec![0; BLOCK_BYTES];
    // A later check refuses a root that cannot be read.
    if root.read_at(0, &mut block).is_err() {
        return Ok(());
    }
    if block.starts_with(&header::MAGIC) {
        let text = format!(
            "root {0}: it holds a sealed layer, which is not the content of a disk: name it with --layer {0}",
            root.path().display()
        );
        return Err(Fail::new(REFUSED, "root_is_layer", text));
    }
    let which = match choose(&block, &[0; BLOCK_BYTES]) {
        Ok((sb, _)) => {
            let name = output::name(sb.name).map_or_else(String::new, |name| format!(" {name}"));
            format!("the leaf{name} of UUID {}", output::uuid(&sb.uuid))
        }
        // The checksum of its superblock is right.
        Err(Error::NewerVersion(_) | Error::UnknownFeatures(..)) => {
            "a leaf of a newer version".to_string()
        }
        Err(_) => return Ok(()),
    };
    Err(Fail::new(
        REFUSED,
        "root_is_leaf",
        format!(
            "root {}: it holds {which}: are root and leaf swapped? A root must not begin with a leaf's \
             superblock",
            root.path().display(),
        ),
    ))
}

fn is_zoned(device: &Device) -> bool {
    let folder = link_of(device.metadata().rdev());
    // A partition uses the queue of its disk.
    let place = fs::canonicalize(folder).unwrap_or_default();
    let of = |place: &Path| fs::read_to_string(place.join("queue/zoned")).ok();
    let zoned = of(&place).or_else(|| of(place.parent()?));
    zoned.is_some_and(|word| word.trim() != "none")
}

/// Refuses a root that the driver could not open because its holder does not share it. This
/// function does not keep the claim, because a kept claim would prevent unions of the same root
/// from being made at the same time.
pub fn refuse_held_root(control: &Control, root: &Device) -> Result {
    let deadline = Deadline::of(CLAIM);
    loop {
        let fail = match root.again(Access::Claim) {
            Ok(_) => return Ok(()),
            Err(fail) if fail.code == BUSY => fail,
            Err(fail) => return Err(fail),
        };
        let rdev = root.metadata().rdev();
        if control.all()?.iter().any(|s| is_root_of(rdev, s)) {
            return Ok(());
        }
        if !deadline.pause() {
            return Err(fail);
        }
    }
}

/// Returns whether a device is below a union and not its leaf: its root or one of its layers.
fn is_root_of(rdev: u64, union: &Status) -> bool {
    let at = |path| device_at(path).is_some_and(|found| found == rdev);
    let below = slave_numbers(Path::new(&format!("/sys/block/{PREFIX}{}", union.id)));
    at(&union.root) || (below.contains(&rdev) && !at(&union.leaf))
}

fn device_at(path: &[u8; abi::PATH_BYTES]) -> Option<u64> {
    let path = std::ffi::OsStr::from_bytes(abi::path(path)?);
    fs::metadata(path).ok().map(|m| m.rdev())
}

#[cfg(test)]
mod tests {
    use super::{refuse_leaf_as_root, Device, Role};
    use crate::commands::format::tests::superblock;
    use crate::device::Access;
    use ubcore::format::crc::block_crc;
    use ubcore::geometry::BLOCK_BYTES;

    #[test]
    fn a_root_that_begins_with_a_leaf_is_refused() {
        let path = std::env::temp_dir().join(format!("ubctl-leaf-{}", std::process::id()));
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let root = Device::open(&path, Role::Root, Access::Read).unwrap();
            refuse_leaf_as_root(&root).err().map(|fail| fail.message)
        };
        let mut leaf = vec![0; 65536];
        let mut block = [0; BLOCK_BYTES];
        superblock(7, 1).encode(&mut block);
        leaf[..BLOCK_BYTES].copy_from_slice(&block);
        assert!(refused(&leaf).unwrap().contains("of UUID 07070707-"));
        // A newer version, with a checksum that is right, and with one that is not.
        leaf[12] = 9;
        assert_eq!(refused(&leaf), None);
        let crc = block_crc(&leaf[..512], 8).unwrap();
        leaf[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(refused(&leaf)
            .unwrap()
            .contains("a leaf of a newer version"));
        assert_eq!(refused(&[0; 65536]), None);
        leaf[..8].copy_from_slice(b"UBSEALED");
        assert!(refused(&leaf).unwrap().contains("with --layer"));
        std::fs::remove_file(&path).unwrap();
    }
}
