// SPDX-License-Identifier: GPL-2.0

//! The messages of containerd's service `containerd.services.snapshots.v1.Snapshots`, as bytes on
//! the wire. The numbers of the fields and their types are the protocol. The field `snapshotter` of
//! each request, number 1, is the name that containerd has for this daemon, and is not read.

use std::collections::HashMap;

/// The path of the service; a call's path has the name of the method behind it.
const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots/";

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Makes an active snapshot.
    Prepare,
    /// Makes a view.
    View,
    /// Returns how to mount a snapshot.
    Mounts,
    /// Makes an active snapshot a committed one.
    Commit,
    /// Removes a snapshot.
    Remove,
    /// Returns what a snapshot is.
    Stat,
    /// Changes labels.
    Update,
    /// Returns all snapshots, in parts.
    List,
    /// Returns what a snapshot takes.
    Usage,
    /// Deletes what could not be deleted before.
    Cleanup,
}

impl Method {
    /// Returns the method of a call's path.
    pub fn of(path: &str) -> Option<Method> {
        match path.strip_prefix(SERVICE)? {
            "Prepare" => Some(Method::Prepare),
            "View" => Some(Method::View),
            "Mounts" => Some(Method::Mounts),
            "Commit" => Some(Method::Commit),
            "Remove" => Some(Method::Remove),
            "Stat" => Some(Method::Stat),
            "Update" => Some(Method::Update),
            "List" => Some(Method::List),
            "Usage" => Some(Method::Usage),
            "Cleanup" => Some(Method::Cleanup),
            _ => None,
        }
    }
}

/// The request of `Prepare` and of `View`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareRequest {
    /// The name of the new snapshot.
    #[prost(string, tag = "2")]
    pub key: String,
    /// The committed snapshot that it begins with; empty: an empty file system.
    #[prost(string, tag = "3")]
    pub parent: String,
    /// Its labels.
    #[prost(map = "string, string", tag = "4")]
    pub labels: HashMap<String, String>,
}

/// The answer to `Prepare`, `View` and `Mounts`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MountsResponse {
    /// What to mount, one after the other.
    #[prost(message, repeated, tag = "1")]
    pub mounts: Vec<Mount>,
}

/// A call of mount(2).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// The type of the file system.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The device.
    #[prost(string, tag = "2")]
    pub source: String,
    /// The place below the mount point; empty: the mount point.
    #[prost(string, tag = "3")]
    pub target: String,
    /// The options.
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// The request of `Mounts`, `Remove`, `Stat` and `Usage`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyRequest {
    /// The name of the snapshot.
    #[prost(string, tag = "2")]
    pub key: String,
}

/// The request of `Commit`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitRequest {
    /// The name that the snapshot has afterwards.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The name that it has now.
    #[prost(string, tag = "3")]
    pub key: String,
    /// The labels that it has afterwards.
    #[prost(map = "string, string", tag = "4")]
    pub labels: HashMap<String, String>,
}

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Not known.
    Unknown = 0,
    /// A read-only snapshot, which is never committed.
    View = 1,
    /// A snapshot that can be written to.
    Active = 2,
    /// A snapshot that does not change and on which others lie.
    Committed = 3,
}

/// A time since 1970, as `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds beside them.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// What containerd knows of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Info {
    /// Its name or key.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The committed snapshot below it, or nothing.
    #[prost(string, tag = "2")]
    pub parent: String,
    /// What it is.
    #[prost(enumeration = "Kind", tag = "3")]
    pub kind: i32,
    /// When it was prepared or committed.
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    /// When its labels changed last.
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<Timestamp>,
    /// Its labels.
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
}

/// The answer to `Stat` and `Update`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// The snapshot.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// The names of fields, as `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FieldMask {
    /// The names.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

/// The request of `Update`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRequest {
    /// The name of the snapshot, and new values.
    #[prost(message, optional, tag = "2")]
    pub info: Option<Info>,
    /// Which values to take; none: all that may change.
    #[prost(message, optional, tag = "3")]
    pub update_mask: Option<FieldMask>,
}

/// The request of `List`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListRequest {
    /// A snapshot is listed if one of the filters matches, or if there is none.
    #[prost(string, repeated, tag = "2")]
    pub filters: Vec<String>,
}

/// A part of the answer to `List`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListResponse {
    /// Snapshots.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// The answer to `Usage`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UsageResponse {
    /// The bytes that the snapshot takes without its parents.
    #[prost(int64, tag = "1")]
    pub size: i64,
    /// The inodes that it takes; not counted.
    #[prost(int64, tag = "2")]
    pub inodes: i64,
}

/// The request of `Cleanup`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct CleanupRequest {}

/// An empty answer, as `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

#[cfg(test)]
mod tests {
    use super::{
        CommitRequest, Info, Kind, Method, Mount, MountsResponse, Timestamp, UpdateRequest,
    };
    use prost::Message;

    /// The names are those of containerd's definition of the service.
    #[test]
    fn the_methods_have_the_names_of_the_protocol() {
        for name in [
            "Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage",
            "Cleanup",
        ] {
            let method = Method::of(&format!(
                "/containerd.services.snapshots.v1.Snapshots/{name}"
            ));
            assert_eq!(method.map(|m| format!("{m:?}")).as_deref(), Some(name));
        }
        for path in [
            "/containerd.services.snapshots.v1.Snapshots/",
            "List",
            "/List",
            "",
        ] {
            assert_eq!(Method::of(path), None, "{path}");
        }
    }

    /// The bytes are written by hand, by the rules of the wire format and the numbers of
    /// containerd's definition.
    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let bytes = b"\x0a\x01u\x12\x01n\x1a\x01k\x22\x06\x0a\x01l\x12\x01v";
        let commit = CommitRequest::decode(&bytes[..]).unwrap();
        assert_eq!((commit.name.as_str(), commit.key.as_str()), ("n", "k"));
        assert_eq!(commit.labels.get("l").map(String::as_str), Some("v"));
        let mounts = MountsResponse {
            mounts: vec![Mount {
                kind: "ext4".into(),
                source: "/d".into(),
                options: vec!["ro".into()],
                ..Mount::default()
            }],
        };
        assert_eq!(
            mounts.encode_to_vec(),
            b"\x0a\x0e\x0a\x04ext4\x12\x02/d\x22\x02ro"
        );
        let info = Info {
            name: "n".into(),
            parent: "p".into(),
            kind: Kind::Committed.into(),
            created_at: Some(Timestamp {
                seconds: 1,
                nanos: 2,
            }),
            ..Info::default()
        };
        let bytes = b"\x0a\x01n\x12\x01p\x18\x03\x22\x04\x08\x01\x10\x02";
        assert_eq!(info.encode_to_vec(), bytes);
        let update = b"\x12\x03\x0a\x01n\x1a\x0b\x0a\x09labels.l2";
        let update = UpdateRequest::decode(&update[..]).unwrap();
        assert_eq!(update.info.unwrap().name, "n");
        assert_eq!(update.update_mask.unwrap().paths, ["labels.l2"]);
    }
}
