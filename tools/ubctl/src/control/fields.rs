// SPDX-License-Identifier: GPL-2.0

//! Names and paths in the structures of the control device.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ubcore::abi::{self, Status};
use ubcore::format::name::LeafName;

use crate::error::{Fail, Result, FAILED};
use crate::output;

/// Returns the name of a union's leaf, if it has one.
pub fn leaf_name(s: &Status) -> Option<String> {
    LeafName::from_field(s.name).and_then(output::name)
}

/// Returns the root's path; `None` for a union without a root.
pub fn root_text(s: &Status) -> Option<String> {
    Some(path_text(&s.root)).filter(|path| !path.is_empty())
}

/// Returns a path that the driver gave, for people.
pub fn path_text(field: &[u8; abi::PATH_BYTES]) -> String {
    String::from_utf8_lossy(abi::path(field).unwrap_or_default()).into_owned()
}

/// Puts a path into a field of the driver's structure.
pub fn put_path(field: &mut [u8; abi::PATH_BYTES], path: &Path) -> Result {
    abi::set_path(field, path.as_os_str().as_bytes()).ok_or_else(|| {
        Fail::new(
            FAILED,
            "path_too_long",
            format!(
                "{}: the path is longer than the {} bytes that the driver takes: use a shorter one",
                path.display(),
                abi::PATH_BYTES - 1
            ),
        )
    })
}
