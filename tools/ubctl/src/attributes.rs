// SPDX-License-Identifier: GPL-2.0

//! What sysfs shows of a union. This module asks the driver for nothing, so it needs no rights, and
//! it answers while a device below hangs.

use std::fs;
use std::path::{Path, PathBuf};

use ubcore::format::name::UNION_PREFIX;

use crate::output::size;
use crate::sysfs::number;

/// A union, as the files in `union/` show it. The value of a missing file is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnionAttributes {
    /// The name of the disk.
    pub name: String,
    /// The leaf's UUID.
    pub uuid: String,
    /// The leaf's name, if it has one.
    pub leaf_name: Option<String>,
    /// The mode that the driver reports.
    pub mode: String,
    /// The size of the union.
    pub sectors: u64,
    /// The bytes of a slab.
    pub slab_bytes: u64,
    /// Leaf slabs.
    pub slabs: u64,
    /// How many of them are not free.
    pub slabs_used: u64,
    /// Requests that failed.
    pub io_errors: u64,
    /// Writes that made a mapping.
    pub first_writes: u64,
    /// Commits that wrote to the journal.
    pub commits: u64,
}

impl UnionAttributes {
    /// Reads what is shown of a union; none if it is not there. `block` is `/sys/block`.
    pub fn read(block: &Path, name: &str) -> Option<UnionAttributes> {
        let union = block.join(name).join("union");
        let text = |file: &str| fs::read_to_string(union.join(file)).ok();
        let count = |file: &str| number(&union.join(file)).unwrap_or(0);
        let line = |file: &str| text(file).unwrap_or_default().trim_end().to_owned();
        Some(UnionAttributes {
            name: name.to_owned(),
            uuid: text("uuid")?.trim_end().to_owned(),
            leaf_name: Some(line("name")).filter(|name| !name.is_empty()),
            mode: line("mode"),
            sectors: number(&block.join(name).join("size")).unwrap_or(0),
            slab_bytes: count("slab_size"),
            slabs: count("slabs"),
            slabs_used: count("slabs_used"),
            io_errors: count("io_errors"),
            first_writes: count("first_writes"),
            commits: count("commits"),
        })
    }

    /// Returns all unions, in the order of their numbers.
    pub fn all(block: &Path) -> Vec<UnionAttributes> {
        let list = fs::read_dir(block).into_iter().flatten().flatten();
        let names = list.filter_map(|entry| entry.file_name().into_string().ok());
        let mut numbers: Vec<(u32, String)> = names
            .filter_map(|name| Some((union_number(&name)?, name)))
            .collect();
        numbers.sort();
        let of = |(_, name): &(u32, String)| UnionAttributes::read(block, name);
        numbers.iter().filter_map(of).collect()
    }

    /// Returns whether a word of the command line means this union.
    pub fn is_called(&self, word: &str) -> bool {
        let number = self.name.strip_prefix(UNION_PREFIX);
        word == self.name
            || Some(word) == number
            || word.strip_prefix("/dev/") == Some(&self.name)
            || word.eq_ignore_ascii_case(&self.uuid)
            || Some(word) == self.leaf_name.as_deref()
            || leads_to(word) == Some(self.name.clone())
    }

    /// Returns how much leaf space is in use, and of how much.
    pub fn used(&self) -> String {
        // The percentage is rounded up, as that of `ubctl status`.
        let percent = (self.slabs_used * 100).div_ceil(self.slabs.max(1));
        let bytes = |slabs: u64| size(slabs.saturating_mul(self.slab_bytes / 512));
        format!(
            "{} of {} ({percent}%)",
            bytes(self.slabs_used),
            bytes(self.slabs)
        )
    }
}

/// Returns the number in the name of a union's disk.
pub fn union_number(name: &str) -> Option<u32> {
    name.strip_prefix(UNION_PREFIX)?.parse().ok()
}

/// Returns the name of the device that a link leads to.
fn leads_to(word: &str) -> Option<String> {
    let path = PathBuf::from(word);
    let is_link = word.contains('/') && path.is_symlink();
    let node = is_link.then(|| fs::canonicalize(path).ok()).flatten()?;
    node.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::UnionAttributes;
    use std::fs;
    use std::path::Path;

    /// Makes the files of a union below a directory.
    pub fn union(block: &Path, name: &str, files: &[(&str, &str)]) {
        let folder = block.join(name).join("union");
        fs::create_dir_all(&folder).unwrap();
        for (file, text) in files {
            let path = match *file {
                "size" | "stat" => block.join(name).join(file),
                file => folder.join(file),
            };
            fs::write(path, format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn unions_are_read_in_order_and_found_by_each_name() {
        let block = std::env::temp_dir().join(format!("ubctl-attributes-{}", std::process::id()));
        let uuid = "f1d2df28-b4bc-4f70-ad6b-01932afc8bce";
        for name in ["unionblk10", "unionblk9"] {
            let files = [
                ("uuid", uuid),
                ("name", "web"),
                ("slabs", "8"),
                ("slabs_used", "1"),
            ];
            union(&block, name, &files);
        }
        union(&block, "unionblk3", &[("slabs", "1")]);
        union(&block, "sda", &[("uuid", uuid)]);
        let all = UnionAttributes::all(&block);
        let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
        // A disk whose union has no UUID any more is being removed.
        assert_eq!(names, ["unionblk9", "unionblk10"]);
        let one = UnionAttributes {
            slab_bytes: 65536,
            ..all[0].clone()
        };
        assert_eq!(one.used(), "64 KiB of 512 KiB (13%)");
        let upper = uuid.to_uppercase();
        for word in ["9", "unionblk9", "/dev/unionblk9", "web", uuid, &upper] {
            assert!(one.is_called(word), "{word}");
        }
        for word in ["10", "unionblk10", "we", "", "/dev/9"] {
            assert!(!one.is_called(word), "{word}");
        }
        fs::remove_dir_all(&block).unwrap();
    }
}
