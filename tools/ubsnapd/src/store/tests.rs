// SPDX-License-Identifier: GPL-2.0

//! The store over crashes: cuts at each byte, damage, and logs that are written anew.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::state::{Change, State};
use super::{Store, LOG, NEW, SMALL};
use crate::snapshot::{Commit, Id, Labels, Leaf, Snapshot, SnapshotKind, Time};

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ubsnapd-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join(LOG)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(directory: &Path) -> Store {
    Store::open(directory).unwrap().unwrap()
}

fn snapshot(name: &str, parent: &str, kind: SnapshotKind, number: u64) -> Change {
    let time = Time {
        seconds: 7,
        nanos: 8,
    };
    let committed = kind == SnapshotKind::Committed;
    Change::Put(Box::new(Snapshot {
        name: name.into(),
        parent: parent.into(),
        kind,
        labels: Labels::from([("k\n\"".into(), "väl".into())]),
        created: time,
        updated: time,
        leaf: Leaf {
            number,
            uuid: Id([number as u8; 16]),
        },
        seal: committed.then_some(Id([9; 16])),
        used: 0,
        commit: (!committed).then(|| Commit {
            name: "later".into(),
            labels: Labels::new(),
            time,
            seal: Id([3; 16]),
            next: Some(12),
        }),
    }))
}

fn leaf(number: u64) -> Leaf {
    let uuid = Id([number as u8; 16]);
    Leaf { number, uuid }
}

/// Requests, as the daemon stores them.
fn requests() -> Vec<Vec<Change>> {
    let forget = |name: &str| Change::Forget(name.into());
    vec![
        vec![Change::Make(1)],
        vec![snapshot("a", "", SnapshotKind::Active, 1)],
        vec![
            forget("a"),
            snapshot("base", "", SnapshotKind::Committed, 1),
        ],
        vec![Change::Make(2)],
        vec![snapshot("b", "base", SnapshotKind::Active, 2)],
        vec![Change::Make(3)],
        vec![snapshot("v", "base", SnapshotKind::View, 3)],
        vec![forget("v"), Change::Discard(leaf(3))],
        vec![Change::Deleted(3)],
        vec![
            forget("b"),
            snapshot("mid", "base", SnapshotKind::Committed, 2),
        ],
        vec![Change::Make(4)],
        vec![Change::Deleted(4)],
        vec![Change::Make(5)],
        vec![snapshot("c", "mid", SnapshotKind::Active, 5)],
        vec![forget("c"), Change::Discard(leaf(5)), Change::Make(6)],
    ]
}

#[test]
fn a_cut_at_any_byte_leaves_the_requests_before_it() {
    let directory = Directory::new("cut");
    assert!(Store::open(&directory.0).unwrap().is_none());
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    let mut states = vec![(store.bytes, store.state.clone())];
    for request in requests() {
        store.change(&request).unwrap();
        states.push((store.bytes, store.state.clone()));
    }
    drop(store);
    let log = fs::read(directory.log()).unwrap();
    assert_eq!(states.last().unwrap().0, log.len() as u64);
    let first = states[0].0;
    for end in 0..=log.len() as u64 {
        fs::write(directory.log(), &log[..end as usize]).unwrap();
        if end < first {
            // The first line is durable before the log gets its name.
            assert!(Store::open(&directory.0).is_err(), "{end}");
            continue;
        }
        let mut store = open(&directory.0);
        let before = states.iter().rev().find(|(bytes, _)| *bytes <= end);
        let (bytes, state) = before.unwrap();
        assert_eq!(store.state(), state, "{end}");
        assert_eq!(fs::metadata(directory.log()).unwrap().len(), *bytes);
        // It goes where the torn line was.
        let number = state.next;
        store.change(&[Change::Make(number)]).unwrap();
        drop(store);
        let store = open(&directory.0);
        assert!(store.state().making.contains(&number), "{end}");
    }
}

#[test]
fn a_flipped_bit_is_never_taken_for_a_request() {
    let directory = Directory::new("flip");
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    for request in requests() {
        store.change(&request).unwrap();
    }
    let whole = store.state.clone();
    drop(store);
    let log = fs::read(directory.log()).unwrap();
    let last = log[..log.len() - 1]
        .iter()
        .rposition(|&b| b == b'\n')
        .unwrap();
    for at in 0..log.len() {
        let mut bad = log.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(directory.log(), &bad).unwrap();
        match Store::open(&directory.0) {
            // Only the last line may be missing, as after a crash.
            Ok(store) => assert!(at > last && *store.unwrap().state() != whole, "{at}"),
            Err(e) => assert!(
                at <= last && e.message.contains(": keep a copy"),
                "{at}: {e}"
            ),
        }
    }
}

#[test]
fn a_log_that_grows_is_written_anew_and_holds_the_same() {
    let directory = Directory::new("anew");
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    for request in requests() {
        store.change(&request).unwrap();
    }
    let mut renewed = 0;
    for n in 0..20_000 {
        let before = store.bytes;
        let kind = if n % 2 == 0 {
            SnapshotKind::Active
        } else {
            SnapshotKind::View
        };
        let (Change::Put(mut change), number) = (snapshot("x", "mid", kind, 7), 7) else {
            unreachable!()
        };
        change.used = n;
        let make = (n == 0).then_some(Change::Make(number));
        let changes: Vec<_> = make.into_iter().chain([Change::Put(change)]).collect();
        store.change(&changes).unwrap();
        renewed += u32::from(store.bytes < before);
    }
    assert!(renewed > 2 && store.bytes < 2 * SMALL, "{renewed}");
    let state = store.state.clone();
    drop(store);
    assert_eq!(*open(&directory.0).state(), state);
    // A crash before the rename leaves a part of a new one.
    fs::write(directory.0.join(NEW), b"0000").unwrap();
    let mut store = open(&directory.0);
    assert_eq!(*store.state(), state);
    store.renew();
    store.change(&[Change::Make(8)]).unwrap();
    drop(store);
    assert!(open(&directory.0).state().making.contains(&8));
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let directory = Directory::new("refused");
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    for request in requests() {
        store.change(&request).unwrap();
    }
    let (state, bytes) = (store.state.clone(), store.bytes);
    let put = |parent: &str, kind, number| vec![snapshot("x", parent, kind, number)];
    let forget = |name: &str| vec![Change::Forget(name.into())];
    for wrong in [
        forget("none"),
        forget("base"),
        vec![Change::Make(6)],
        vec![Change::Deleted(99)],
        vec![Change::Discard(leaf(1))],
        put("none", SnapshotKind::Active, 6),
        put("base", SnapshotKind::Active, 2),
        put("base", SnapshotKind::Active, 5),
        put("base", SnapshotKind::Active, 7),
        vec![snapshot("mid", "base", SnapshotKind::Committed, 6)],
        state.changes(),
        vec![Change::Make(9), Change::Forget("none".into())],
    ] {
        assert!(store.change(&wrong).is_err(), "{wrong:?}");
        assert_eq!((&store.state, store.bytes), (&state, bytes));
    }
    let chain: Vec<_> = state.chain("mid").iter().map(|s| s.name.clone()).collect();
    assert_eq!(chain, ["base", "mid"]);
    assert!(state.has_child("base") && !state.has_child("mid"));
    let mut again = State::default();
    state
        .changes()
        .into_iter()
        .for_each(|c| again.apply(c).unwrap());
    assert_eq!(again, state);
}

#[test]
fn another_version_is_refused() {
    let directory = Directory::new("version");
    drop(Store::create(&directory.0, 1 << 30).unwrap());
    let log = fs::read_to_string(directory.log()).unwrap();
    let (_, body) = log.trim_end().split_once(' ').unwrap();
    let (_, changes) = body.split_once(' ').unwrap();
    let newer = changes.replace("\"version\":1", "\"version\":2");
    assert_ne!(newer, changes);
    fs::write(directory.log(), super::line::encode(0, &newer)).unwrap();
    let e = Store::open(&directory.0).map(|_| ()).unwrap_err();
    assert!(e.message.contains("version 2, this ubsnapd knows 1"), "{e}");
}

#[test]
fn a_full_host_has_its_code() {
    let directory = Directory::new("full");
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    store.file = fs::File::options().append(true).open("/dev/full").unwrap();
    // This device allocates no space.
    store.allocated = u64::MAX;
    let e = store.change(&[Change::Make(1)]).unwrap_err();
    assert_eq!(e.code, tonic::Code::ResourceExhausted, "{e}");
    assert_eq!(*store.state(), *open(&directory.0).state());
}

#[test]
fn a_full_host_can_still_free_space() {
    let directory = Directory::new("reserve");
    let mut store = Store::create(&directory.0, 1 << 30).unwrap();
    store.change(&[Change::Make(1)]).unwrap();
    let meta = fs::metadata(directory.log()).unwrap();
    let reserved = meta.blocks() * 512 - meta.len();
    assert!(reserved >= super::RESERVE, "{reserved}");
    store.is_full = true;
    let large = |n: u64| {
        let mut put = snapshot(&n.to_string(), "", SnapshotKind::Active, n);
        if let Change::Put(snapshot) = &mut put {
            snapshot.labels.insert("k".into(), "v".repeat(8192));
        }
        vec![Change::Make(n), put]
    };
    // Changes that take space are refused while there is enough for changes that free it.
    let mut last = 2;
    let e = loop {
        match store.change(&large(last)) {
            Ok(()) => assert!(last < 100),
            Err(e) => break e,
        }
        last += 1;
    };
    assert_eq!(e.code, tonic::Code::ResourceExhausted, "{e}");
    assert!(last > 20 && store.bytes + super::RESERVE <= store.allocated);
    for n in 2..last {
        let Change::Put(snapshot) = large(n).remove(1) else {
            unreachable!();
        };
        let name = snapshot.name.clone();
        let discard = Change::Discard(snapshot.leaf);
        store.change(&[Change::Forget(name), discard]).unwrap();
        store.change(&[Change::Deleted(n)]).unwrap();
    }
    assert!(store.bytes <= store.allocated);
    let state = store.state().clone();
    drop(store);
    assert_eq!(*open(&directory.0).state(), state);
}

#[test]
fn what_is_cut_off_is_said() {
    let line = super::line::encode(7, "[{\"make\":9}]");
    let torn = [&line.as_bytes()[..line.len() - 2], &[0; 50]].concat();
    let said = super::dropped(&torn);
    assert!(said.contains(&format!("{} bytes", torn.len())), "{said}");
    assert!(said.contains("make") && said.ends_with(":9}\""), "{said}");
    assert!(super::dropped(&[b'x'; 1 << 20]).len() < 4096);
}
