// SPDX-License-Identifier: GPL-2.0

//! A word that names a union, or a leaf that is not attached.

use std::path::{Path, PathBuf};

use ubcore::abi::Status;

use crate::control::{self, Control};
use crate::error::{Fail, Result, FAILED};

/// What a word means.
pub enum Meant {
    /// A union.
    Union(Control, Box<Status>),
    /// A leaf, by its path.
    Leaf(PathBuf),
}

/// Finds out whether a word means a union or a leaf. Refuses a word that may mean both, because the
/// command would otherwise change one that the user did not mean.
pub fn find(word: &str) -> Result<Meant> {
    let path = Path::new(word);
    let is_there = std::fs::metadata(path).is_ok();
    let found = Control::open().and_then(|control| {
        let status = control.find(word)?;
        Ok((control, status))
    });
    match found {
        Ok((control, status)) if !is_there || is_node(path, &status) => {
            Ok(Meant::Union(control, Box::new(status)))
        }
        Ok((_, status)) => Err(Fail::new(
            FAILED,
            "ambiguous",
            format!(
                "{word} is ambiguous: it may mean {0}{1}, or the file of this name: use \
                 /dev/{0}{1}, or ./{word}",
                control::PREFIX,
                status.id
            ),
        )),
        // It may mean several unions, so the file is not all that it may mean.
        Err(fail) if fail.reason == "ambiguous" => Err(fail),
        Err(_) if is_there => Ok(Meant::Leaf(path.to_owned())),
        Err(fail) => Err(fail),
    }
}

/// Returns whether a path is the device of a union.
fn is_node(path: &Path, status: &Status) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let disk = rustix::fs::makedev(status.major, status.minor);
    let meta = std::fs::metadata(path);
    meta.is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == disk)
}
