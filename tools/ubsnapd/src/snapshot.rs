// SPDX-License-Identifier: GPL-2.0

//! What the daemon knows of a snapshot.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// A read-only union, which is never committed.
    View,
    /// A union that can be written to.
    Active,
    /// A frozen leaf, on which others lie.
    Committed,
}

impl SnapshotKind {
    /// Returns its name in a filter.
    pub fn name(&self) -> &'static str {
        match self {
            SnapshotKind::View => "view",
            SnapshotKind::Active => "active",
            SnapshotKind::Committed => "committed",
        }
    }
}

/// A time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds beside them.
    pub nanos: i32,
}

impl Time {
    /// Returns the time now.
    pub fn now() -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 is wrong. The times are for people only.
        let since = since.unwrap_or_default();
        Time {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        }
    }
}

/// 16 bytes that name something: the UUID of a leaf, or the seal of a freeze. The store has them as
/// hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Id(pub [u8; 16]);

impl From<Id> for String {
    fn from(id: Id) -> String {
        format!("{:032x}", u128::from_be_bytes(id.0))
    }
}

impl TryFrom<String> for Id {
    type Error = String;

    fn try_from(text: String) -> Result<Id, String> {
        let bad = || format!("{text} is not 32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let number = u128::from_str_radix(&text, 16).map_err(|_| bad())?;
        Ok(Id(number.to_be_bytes()))
    }
}

/// A leaf of the daemon: an image in its directory, named after a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// The number.
    pub number: u64,
    /// Its UUID, by which the driver knows it.
    pub uuid: Id,
}

/// A commit that has begun. It has happened if the leaf has the seal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The name that the snapshot then has.
    pub name: String,
    /// The labels that it then has.
    pub labels: Labels,
    /// The time of the commit.
    pub time: Time,
    /// The seal that the leaf then has.
    pub seal: Id,
    /// The leaf in which the union continues, if the union was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The name or key.
    pub name: String,
    /// The committed snapshot below it; empty: the empty file system.
    pub parent: String,
    /// What it is.
    pub kind: SnapshotKind,
    /// Its labels.
    pub labels: Labels,
    /// When it was prepared or committed.
    pub created: Time,
    /// When its labels changed last.
    pub updated: Time,
    /// Its leaf.
    pub leaf: Leaf,
    /// The seal of a committed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Id>,
    /// The bytes that a committed one takes.
    #[serde(default)]
    pub used: u64,
    /// Its commit, if one has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
}

#[cfg(test)]
mod tests {
    use super::{Id, Time};

    #[test]
    fn an_id_is_its_digits() {
        let id = Id([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
        let text = String::from(id);
        assert_eq!(text, "000102030405060708090a0b0c0d0eff");
        assert_eq!(Id::try_from(text), Ok(id));
        for bad in ["", "+00102030405060708090a0b0c0d0eff", "00"] {
            assert!(Id::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(Time::now().seconds > 0);
    }
}
