// SPDX-License-Identifier: GPL-2.0

//! Why a request failed, in the kinds that containerd distinguishes.

use std::fmt;
use std::io::Write;
use std::path::Path;

use rustix::io::Errno;
use tonic::{Code, Status};
use ubctl::error::Fail;

/// The result of a request.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// A failure: its kind in the protocol, and a sentence.
#[derive(Debug)]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// What is wrong, where, and what to do next.
    pub message: String,
}

/// Writes a message to standard error, where systemd takes it from.
pub fn complain(message: &str) {
    // If this fails, nothing more can be done.
    let _ = writeln!(std::io::stderr(), "ubsnapd: {message}");
}

impl Error {
    fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }

    /// There is no such snapshot.
    pub fn not_found(name: &str) -> Error {
        Error::new(Code::NotFound, format!("snapshot {name:?} does not exist"))
    }

    /// The name is taken.
    pub fn exists(name: &str) -> Error {
        let text = format!("snapshot {name:?} exists already");
        Error::new(Code::AlreadyExists, text)
    }

    /// The request is wrong, whatever the state is.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Code::InvalidArgument, message)
    }

    /// The request does not fit the state.
    pub fn precondition(message: impl Into<String>) -> Error {
        Error::new(Code::FailedPrecondition, message)
    }

    /// A commit that has not ended may give the name to another snapshot.
    pub fn pending(name: &str, key: &str, e: &Error) -> Error {
        let text = format!(
            "{name:?} is the name that the commit of {key:?} gives, which has not ended: {e}: repair that \
             and try again"
        );
        Error::new(Code::Unavailable, text)
    }

    /// Other requests for a snapshot have not ended, and no more may wait for them.
    pub fn waits(name: &str) -> Error {
        let text = format!(
            "requests for {name:?} have not ended, and more wait for them: see whether the storage of \
             its leaf answers, and try again"
        );
        Error::new(Code::Unavailable, text)
    }

    /// A file that is not the daemon's has the place of a new image.
    pub fn foreign(path: &Path) -> Error {
        let text = format!(
            "{} was made by another program, and was kept: move it away",
            path.display()
        );
        Error::new(Code::Aborted, text)
    }

    /// Returns whether the place of a new image has a file that is not the daemon's.
    pub fn is_foreign(&self) -> bool {
        self.code == Code::Aborted
    }

    /// The daemon failed.
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Code::Internal, message)
    }

    /// The operating system failed while doing `what`.
    pub fn io(what: impl fmt::Display, e: &std::io::Error) -> Error {
        match Errno::from_io_error(e) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let text = format!("cannot {what}: {e}: make space there, and try again");
                Error::exhausted(text)
            }
            _ => Error::internal(format!("cannot {what}: {e}")),
        }
    }

    /// There is no space.
    pub fn exhausted(message: impl Into<String>) -> Error {
        Error::new(Code::ResourceExhausted, message)
    }
}

impl From<Fail> for Error {
    fn from(fail: Fail) -> Error {
        let code = match fail.reason {
            "no_space" => Code::ResourceExhausted,
            // Another attempt can succeed.
            "busy" | "requests_in_flight" => Code::Unavailable,
            // The snapshot lies on as many layers as a leaf can have.
            "layer_count" => Code::FailedPrecondition,
            _ => Code::Internal,
        };
        Error::new(code, fail.message)
    }
}

impl From<Error> for Status {
    fn from(e: Error) -> Status {
        Status::new(e.code, e.message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use ubctl::error::{Fail, REFUSED};

    use super::{Code, Errno, Error};

    #[test]
    fn a_refusal_of_the_tool_has_its_code() {
        for (reason, code) in [
            ("no_space", Code::ResourceExhausted),
            ("busy", Code::Unavailable),
            ("layer_count", Code::FailedPrecondition),
            ("damaged", Code::Internal),
        ] {
            assert_eq!(Error::from(Fail::new(REFUSED, reason, "")).code, code);
        }
    }

    #[test]
    fn no_space_has_its_code() {
        for (errno, code) in [
            (Errno::NOSPC, Code::ResourceExhausted),
            (Errno::DQUOT, Code::ResourceExhausted),
            (Errno::IO, Code::Internal),
        ] {
            assert_eq!(Error::io("write", &errno.into()).code, code);
        }
    }
}
