// SPDX-License-Identifier: GPL-2.0

//! The methods of the protocol: from messages to the daemon and back.

use prost::Message;
use tonic::{Code, Status};

use crate::api::{
    self, CleanupRequest, CommitRequest, Empty, Info, InfoResponse, KeyRequest, ListRequest,
    ListResponse, Mount, MountsResponse, PrepareRequest, Timestamp, UpdateRequest, UsageResponse,
};
use crate::daemon::{Daemon, Mounted};
use crate::disks::Disks;
use crate::error::Error;
use crate::filter::Filters;
use crate::labels::checked;
use crate::snapshot::{Snapshot, SnapshotKind, Time};

type Answer<T> = Result<T, Status>;

/// The size at which a part of a list ends. A client may receive no message above 4 MiB, and one
/// snapshot has up to 1 MiB of labels.
const PART_BYTES: usize = 1 << 20;

fn mounts_of(mounted: Mounted) -> MountsResponse {
    // A read of a file must not write to the leaf. What is deleted gives its space back.
    let options = match mounted.read_only {
        true => vec!["ro".to_owned()],
        false => vec!["noatime".to_owned(), "discard".to_owned()],
    };
    MountsResponse {
        mounts: vec![Mount {
            kind: "ext4".to_owned(),
            source: mounted.device,
            target: String::new(),
            options,
        }],
    }
}

fn timestamp(time: Time) -> Timestamp {
    let (seconds, nanos) = (time.seconds, time.nanos);
    Timestamp { seconds, nanos }
}

fn info(snapshot: Snapshot) -> Info {
    let kind = match snapshot.kind {
        SnapshotKind::View => api::Kind::View,
        SnapshotKind::Active => api::Kind::Active,
        SnapshotKind::Committed => api::Kind::Committed,
    };
    Info {
        name: snapshot.name,
        parent: snapshot.parent,
        kind: kind.into(),
        created_at: Some(timestamp(snapshot.created)),
        updated_at: Some(timestamp(snapshot.updated)),
        labels: snapshot.labels.into_iter().collect(),
    }
}

fn made<D: Disks>(
    daemon: &Daemon<D>,
    r: PrepareRequest,
    kind: SnapshotKind,
) -> Answer<MountsResponse> {
    let labels = checked(r.labels)?;
    let mounted = daemon.prepare(&r.key, &r.parent, labels, kind)?;
    Ok(mounts_of(mounted))
}

/// Makes an active snapshot.
pub fn prepare<D: Disks>(daemon: &Daemon<D>, r: PrepareRequest) -> Answer<MountsResponse> {
    made(daemon, r, SnapshotKind::Active)
}

/// Makes a view.
pub fn view<D: Disks>(daemon: &Daemon<D>, r: PrepareRequest) -> Answer<MountsResponse> {
    made(daemon, r, SnapshotKind::View)
}

/// Returns how to mount a snapshot.
pub fn mounts<D: Disks>(daemon: &Daemon<D>, r: KeyRequest) -> Answer<MountsResponse> {
    Ok(mounts_of(daemon.mounts(&r.key)?))
}

/// Commits an active snapshot.
pub fn commit<D: Disks>(daemon: &Daemon<D>, r: CommitRequest) -> Answer<Empty> {
    daemon.commit(&r.name, &r.key, checked(r.labels)?)?;
    Ok(Empty {})
}

/// Removes a snapshot.
pub fn remove<D: Disks>(daemon: &Daemon<D>, r: KeyRequest) -> Answer<Empty> {
    daemon.remove(&r.key)?;
    Ok(Empty {})
}

/// Returns what a snapshot is.
pub fn stat<D: Disks>(daemon: &Daemon<D>, r: KeyRequest) -> Answer<InfoResponse> {
    let info = Some(info(daemon.stat(&r.key)?));
    Ok(InfoResponse { info })
}

/// Changes labels.
pub fn update<D: Disks>(daemon: &Daemon<D>, r: UpdateRequest) -> Answer<InfoResponse> {
    let new = r
        .info
        .ok_or_else(|| Error::invalid("an update of nothing"))?;
    let paths = r.update_mask.unwrap_or_default().paths;
    let updated = daemon.update(&new.name, &checked(new.labels)?, &paths)?;
    let info = Some(info(updated));
    Ok(InfoResponse { info })
}

/// Lists snapshots.
pub fn list<D: Disks>(daemon: &Daemon<D>, r: ListRequest) -> Answer<Vec<ListResponse>> {
    let found = daemon.list(&Filters::parse(&r.filters)?);
    Ok(parts(found.into_iter().map(info), PART_BYTES))
}

/// Cuts a list into parts, each of which ends as soon as it has so many bytes.
fn parts(list: impl Iterator<Item = Info>, bytes: usize) -> Vec<ListResponse> {
    let mut parts: Vec<ListResponse> = Vec::new();
    let mut last = usize::MAX;
    for info in list {
        let more = info.encoded_len();
        match parts.last_mut() {
            Some(part) if last < bytes => {
                part.info.push(info);
                last = last.saturating_add(more);
            }
            _ => {
                parts.push(ListResponse { info: vec![info] });
                last = more;
            }
        }
    }
    parts
}

/// Returns what a snapshot takes.
pub fn usage<D: Disks>(daemon: &Daemon<D>, r: KeyRequest) -> Answer<UsageResponse> {
    let bytes = daemon.usage(&r.key)?;
    let size = i64::try_from(bytes);
    let size = size.map_err(|_| Status::new(Code::Internal, "a size above 8 EiB"))?;
    Ok(UsageResponse { size, inodes: 0 })
}

/// Deletes what could not be deleted before.
pub fn cleanup<D: Disks>(daemon: &Daemon<D>, _: CleanupRequest) -> Answer<Empty> {
    daemon.cleanup()?;
    Ok(Empty {})
}

#[cfg(test)]
mod tests {
    use super::{parts, Info, Message};

    #[test]
    fn a_list_is_cut_by_its_bytes() {
        let infos = |sizes: &[usize]| -> Vec<Info> {
            let one = |&size: &usize| Info {
                name: "n".repeat(size),
                ..Info::default()
            };
            sizes.iter().map(one).collect()
        };
        let cut = |sizes: &[usize]| -> Vec<usize> {
            let parts = parts(infos(sizes).into_iter(), 1000);
            let names = parts
                .iter()
                .flat_map(|part| &part.info)
                .map(|i| i.name.len());
            assert_eq!(names.collect::<Vec<_>>(), sizes);
            for part in &parts {
                let last = part.info.last().unwrap().encoded_len();
                assert!(part.encoded_len() - last < 1000 + 3 * part.info.len());
            }
            parts.iter().map(|part| part.info.len()).collect()
        };
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[10; 100]), [84, 16]);
        assert_eq!(cut(&[5000, 10, 980, 10, 10]), [1, 3, 1]);
        // A part of many snapshots with many labels.
        assert_eq!(cut(&[400; 7]), [3, 3, 1]);
    }
}
