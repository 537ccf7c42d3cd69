// SPDX-License-Identifier: GPL-2.0

//! The failures of commands: a sentence, a word for scripts, an exit code.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::io::Errno;
use serde_json::{Map, Value};
use ubcore::error::Error;

use crate::{backing, output};

/// An I/O error, an error of the kernel, or no module.
pub const FAILED: u8 = 1;
/// The command line is wrong. This is clap's exit code too.
pub const USAGE: u8 = 2;
/// The devices are not as they must be, so another attempt cannot help.
pub const REFUSED: u8 = 3;
/// Another process holds what is needed.
pub const BUSY: u8 = 4;

/// The advice about a path that leads nowhere.
const CHECK_NAME: &str = ": check the name";

/// A command's failure.
#[derive(Debug)]
pub struct Fail {
    /// What is wrong, where, and what to do next.
    pub message: String,
    /// The same in one stable word.
    pub reason: &'static str,
    /// The exit code.
    pub code: u8,
    /// For `--json`: what was found or done in spite of the failure.
    object: Map<String, Value>,
    /// Standard output has something else, so `--json` shows the failure on standard error.
    is_on_stderr: bool,
}

/// The result of a command.
pub type Result<T = ()> = std::result::Result<T, Fail>;

impl Fail {
    /// Makes a failure that the tool found itself.
    pub fn new(code: u8, reason: &'static str, message: impl Into<String>) -> Fail {
        Fail {
            message: message.into(),
            reason,
            code,
            object: Map::new(),
            is_on_stderr: false,
        }
    }

    /// Makes a failure from an error of the core or the driver about `what`: the devices concerned.
    pub fn core(what: &str, e: Error) -> Fail {
        let more = match e {
            Error::Open(_, errno) => format!(": {}", strerror(errno)),
            Error::Os(errno) => format!(": {}; see the kernel's log", strerror(errno)),
            Error::Io(..) => ": see the kernel's log".to_owned(),
            _ => String::new(),
        };
        Fail::new(code_of(e), reason_of(e), format!("{what}: {e}{more}"))
    }

    /// Makes the failure for a union that cannot be removed or changed now, because its leaf is
    /// being frozen or reset, or another call sets its limit.
    pub fn being_changed(name: &str) -> Fail {
        let text = format!(
            "the leaf of {name} is being frozen or reset, or its limit is being set: wait until \
             that ends and try again"
        );
        Fail::new(BUSY, "busy", text)
    }

    /// Makes a failure from an operating system error while doing `what` to `path`.
    pub fn io(what: &str, path: &Path, e: &io::Error) -> Fail {
        if let Some(Errno::NOSPC | Errno::DQUOT) = Errno::from_io_error(e) {
            return backing::full(what, path);
        }
        let path = output::path(path);
        let text = plain(e);
        match Errno::from_io_error(e) {
            Some(Errno::BUSY) => Fail::new(
                BUSY,
                "busy",
                format!(
                    "{path} is in use by a union, a mount or another holder: release it and try again"
                ),
            ),
            Some(Errno::PERM | Errno::ACCESS) => Fail::new(
                FAILED,
                "permission",
                format!("cannot {what} {path}: {text}: run as root"),
            ),
            Some(Errno::ROFS) => Fail::core(&path.to_string(), Error::ReadOnlyLeaf),
            Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => Fail::new(
                FAILED,
                "not_found",
                format!("cannot {what} {path}: {text}{CHECK_NAME}"),
            ),
            Some(Errno::IO) => Fail::new(
                FAILED,
                "io",
                format!("cannot {what} {path}: {text}: see the kernel's log"),
            ),
            _ => Fail::new(FAILED, "io", format!("cannot {what} {path}: {text}")),
        }
    }

    /// Returns the message about a path that a leaf lists. No user gave it, so none can check it.
    pub fn of_listed_path(&self) -> &str {
        let short = self.message.strip_suffix(CHECK_NAME);
        short.unwrap_or(&self.message)
    }

    /// Adds what `--json` shows beside the error.
    pub fn with(mut self, object: Value) -> Fail {
        if let Value::Object(object) = object {
            self.object.extend(object);
        }
        self
    }

    /// Keeps standard output free of the failure.
    pub fn on_stderr(mut self) -> Fail {
        self.is_on_stderr = true;
        self
    }

    /// Reports the failure to the user and returns the exit code.
    pub fn report(mut self, json: bool) -> ExitCode {
        if json {
            self.object
                .insert("error".into(), self.message.clone().into());
            self.object.insert("reason".into(), self.reason.into());
            self.object.insert("code".into(), self.code.into());
            // If this fails too, nothing more can be done.
            let value = Value::Object(self.object);
            let _ = if self.is_on_stderr {
                output::json_on_stderr(&value)
            } else {
                output::json(&value)
            };
        } else {
            output::complain(&self.message);
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Returns the system's text for an errno.
pub fn strerror(errno: u32) -> String {
    plain(&io::Error::from_raw_os_error(
        i32::try_from(errno).unwrap_or(0),
    ))
}

/// Returns the text without the "(os error 2)" that Rust appends.
fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Returns the exit code for an error.
pub fn code_of(e: Error) -> u8 {
    let busy = |errno: u32| {
        let held = [Errno::BUSY, Errno::EXIST];
        held.iter()
            .any(|e| e.raw_os_error().unsigned_abs() == errno)
    };
    match e {
        Error::Busy(_) | Error::RequestsInFlight => BUSY,
        Error::Open(_, errno) | Error::Os(errno) if busy(errno) => BUSY,
        e if e.is_refusal() => REFUSED,
        _ => FAILED,
    }
}

/// Returns the stable word for an error.
pub fn reason_of(e: Error) -> &'static str {
    match e {
        Error::NotFormatted => "not_formatted",
        Error::NewerVersion(_) => "newer_version",
        Error::UnknownFeatures(..) => "unknown_features",
        Error::Damaged(..) => "damaged",
        Error::RootSize(..) | Error::RootContent => "wrong_root",
        Error::LeafSize(..) => "leaf_size",
        Error::LeafTooSmall(..) => "leaf_too_small",
        Error::SlabSize(_) => "slab_size",
        Error::TooLarge(..) => "too_large",
        Error::Io(..) => "io",
        Error::Busy(_) => "busy",
        Error::Open(..) => "open",
        Error::ReadOnlyLeaf => "read_only_leaf",
        Error::SameDevice => "same_device",
        Error::Limits(_) => "limits",
        Error::FineMap(_) => "fine_map",
        Error::Internal => "internal",
        Error::Frozen => "frozen",
        Error::NotFrozen => "not_frozen",
        Error::LayerCount(..) => "layer_count",
        Error::LayerIdentity => "wrong_layer",
        Error::UnionSize(..) => "union_size",
        Error::BlockSize(..) => "block_size",
        Error::ReadOnlyUnion => "read_only_union",
        Error::RequestsInFlight => "requests_in_flight",
        Error::NoRoom(..) => "no_room",
        Error::Shrink(..) => "shrink",
        Error::NoMemory => "no_memory",
        Error::Full => "full",
        Error::Stacked(_) => "stacked",
        Error::Os(errno) if errno == Errno::NOSPC.raw_os_error().unsigned_abs() => "no_space",
        Error::Os(_) => "os",
    }
}

#[cfg(test)]
mod tests {
    use super::{code_of, reason_of, Error, Fail, BUSY, FAILED, REFUSED};
    use ubcore::error::Role;

    #[test]
    fn every_reason_of_the_driver_has_a_code_and_a_word() {
        let mut words = std::collections::BTreeSet::new();
        for reason in 1..=32 {
            let e = Error::from_wire(reason, 1, 1).unwrap();
            assert!([FAILED, REFUSED, BUSY].contains(&code_of(e)));
            words.insert(reason_of(e));
        }
        // The two kinds of wrong root share one word.
        assert_eq!(words.len(), 31);
        assert_eq!(code_of(Error::RootContent), REFUSED);
        assert_eq!(code_of(Error::Open(Role::Leaf, 16)), BUSY);
        assert_eq!(code_of(Error::Open(Role::Leaf, 2)), FAILED);
    }

    #[test]
    fn an_errno_is_shown_in_words() {
        let fail = Fail::core("leaf /dev/x", Error::Open(Role::Leaf, 2));
        assert!(fail.message.starts_with("leaf /dev/x: "), "{fail}");
        assert!(
            fail.message.ends_with("No such file or directory"),
            "{fail}"
        );
    }
}
