// SPDX-License-Identifier: GPL-2.0

//! The identity of a disk that the host may reach on more than one path. Without multipath, the
//! kernel has a separate disk for each path to a LUN.

use std::fs;
use std::path::Path;

/// Returns the identity that a disk reports, from its directory in sysfs: the file of NVMe, or of
/// SCSI. It includes the size, because disks that differ in size are not one disk.
pub fn of_disk(directory: &Path) -> Option<String> {
    let read = |file: &str| {
        let text = fs::read_to_string(directory.join(file)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let wwid = read("wwid").or_else(|| read("device/wwid"))?;
    Some(format!("{wwid} {}", read("size")?))
}

#[cfg(test)]
mod tests {
    use super::{fs, of_disk};

    #[test]
    fn a_disk_says_what_it_is() {
        let at = std::env::temp_dir().join(format!("ubctl-wwid-{}", std::process::id()));
        fs::create_dir_all(at.join("device")).unwrap();
        let put = |file: &str, text: &str| fs::write(at.join(file), text).unwrap();
        put("size", "100\n");
        assert_eq!(of_disk(&at), None);
        put("device/wwid", "\n");
        assert_eq!(of_disk(&at), None);
        put("device/wwid", "naa.6001405abc\n");
        assert_eq!(of_disk(&at).as_deref(), Some("naa.6001405abc 100"));
        put("wwid", "eui.0025385\n");
        assert_eq!(of_disk(&at).as_deref(), Some("eui.0025385 100"));
        fs::remove_dir_all(at).unwrap();
    }
}
