// SPDX-License-Identifier: GPL-2.0

//! Requests over the model of leaves and unions, with an end of the daemon at each step.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

use tonic::Code;

use super::{Daemon, Labels, Mounted};
use crate::disks::model::{End, Model, WRITTEN};
use crate::filter::Filters;
use crate::labels::MAX_SIZE;
use crate::snapshot::SnapshotKind;
use crate::store::Store;

const SIZE: u64 = 1 << 30;

mod concurrent;

/// A directory, the model, and the daemon over them.
struct Host {
    directory: PathBuf,
    model: Model,
    daemon: Option<Daemon<Model>>,
}

impl Host {
    fn new(name: &str) -> Host {
        let name = format!("ubsnapd-daemon-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        Store::create(&directory, 1 << 35).unwrap();
        let mut host = Host {
            directory,
            model: Model::default(),
            daemon: None,
        };
        host.restart();
        host
    }

    fn restart(&mut self) {
        self.daemon = None;
        let store = Store::open(&self.directory).unwrap().unwrap();
        self.daemon = Some(Daemon::start(self.model.clone(), store, SIZE).unwrap());
    }

    fn daemon(&self) -> &Daemon<Model> {
        self.daemon.as_ref().unwrap()
    }

    fn list(&self) -> Vec<(String, String, SnapshotKind)> {
        let all = self.daemon().list(&Filters::parse(&[]).unwrap());
        let one = |s: crate::snapshot::Snapshot| (s.name, s.parent, s.kind);
        all.into_iter().map(one).collect()
    }

    /// Checks that there is no image and no union that no snapshot has, except in use.
    fn check(&self) {
        let (images, unions) = self.model.left();
        let state = self.daemon().read(Clone::clone);
        assert!(state.making.is_empty(), "{state:?}");
        assert!(state.snapshots.values().all(|s| s.commit.is_none()));
        let mut numbers: Vec<u64> = state.snapshots.values().map(|s| s.leaf.number).collect();
        numbers.sort();
        assert_eq!(images, numbers);
        for uuid in unions {
            let is_of = |kind| kind != SnapshotKind::Committed;
            let mut all = state.snapshots.values();
            let has = all.any(|s| s.leaf.uuid == uuid && is_of(s.kind));
            assert!(has || state.discarded.values().any(|&u| u == uuid));
        }
        for s in state.snapshots.values() {
            let seal = crate::disks::Disks::seal(&self.model, s.leaf.number).unwrap();
            assert_eq!(seal, s.seal, "{s:?}");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn code<T: std::fmt::Debug>(result: super::Result<T>) -> Code {
    result.unwrap_err().code
}

fn none() -> Labels {
    Labels::new()
}

type Request = fn(&Daemon<Model>, &Model) -> super::Result;

/// An image of two layers, of which one is committed while it is mounted, a container and a view.
const REQUESTS: &[Request] = &[
    |d, _| d.prepare("one", "", none(), SnapshotKind::Active).map(drop),
    |d, _| d.commit("base", "one", none()),
    |d, m| {
        let mounted = d.prepare("two", "base", none(), SnapshotKind::Active)?;
        m.mount(&mounted.device, true);
        Ok(())
    },
    |d, _| d.commit("top", "two", none()),
    |d, _| {
        d.prepare("box", "top", none(), SnapshotKind::Active)
            .map(drop)
    },
    |d, _| {
        d.prepare("look", "top", none(), SnapshotKind::View)
            .map(drop)
    },
    |d, _| d.mounts("box").map(drop),
    |d, _| d.remove("look"),
    |d, m| {
        m.mount(&d.mounts("box")?.device, true);
        Ok(())
    },
    |d, _| d.remove("box"),
    |d, _| d.remove("top"),
    |d, _| d.remove("base"),
];

#[test]
fn an_end_at_any_step_leaves_each_request_done_or_not() {
    let host = Host::new("whole");
    let mut states = vec![host.list()];
    host.model.end_at(None);
    for request in REQUESTS {
        request(host.daemon(), &host.model).unwrap();
        states.push(host.list());
        host.check();
    }
    let steps = host.model.end_at(None);
    assert!(steps > 40, "{steps}");
    for end in 1..=steps {
        for power in [false, true] {
            let mut host = Host::new("ends");
            host.model.end_at(Some(end));
            let mut done = 0;
            let ended = catch_unwind(AssertUnwindSafe(|| {
                for request in REQUESTS {
                    request(host.daemon(), &host.model).unwrap();
                    done += 1;
                }
            }));
            assert!(ended.unwrap_err().is::<End>(), "{end}");
            host.model.end_at(None);
            if power {
                host.model.power_failure();
            }
            host.restart();
            host.check();
            let list = host.list();
            let happened = list == states[done + 1];
            assert!(happened || list == states[done], "{end}: {list:?}");
            // Another end while it recovers changes nothing, and the rest can be done.
            host.restart();
            let rest = REQUESTS
                .iter()
                .enumerate()
                .skip(done + usize::from(happened));
            for (n, request) in rest {
                request(host.daemon(), &host.model).unwrap();
                assert_eq!(host.list(), states[n + 1], "{end}");
                host.check();
            }
        }
    }
}

#[test]
fn an_end_while_it_recovers_is_recovered_too() {
    for end in 1.. {
        let mut host = Host::new("again");
        let d = host.daemon();
        let mounted = d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
        host.model.mount(&mounted.device, true);
        // The commit ends after the freeze, before the store knows of it.
        host.model.end_at(Some(6));
        let ended = catch_unwind(AssertUnwindSafe(|| d.commit("b", "a", none())));
        assert!(ended.is_err());
        host.model.mount(&mounted.device, false);
        host.model.end_at(Some(end));
        let ended = catch_unwind(AssertUnwindSafe(|| host.restart()));
        host.model.end_at(None);
        host.restart();
        assert_eq!(
            host.list(),
            [("b".into(), String::new(), SnapshotKind::Committed)]
        );
        host.check();
        assert_eq!(host.model.left().1, []);
        if ended.is_ok() {
            assert!(end > 4, "{end}");
            break;
        }
    }
}

#[test]
fn each_refusal_has_its_code() {
    let host = Host::new("codes");
    let d = host.daemon();
    let prepare = |key: &str, parent: &str, kind| d.prepare(key, parent, none(), kind);
    prepare("a", "", SnapshotKind::Active).unwrap();
    assert_eq!(
        code(prepare("a", "", SnapshotKind::View)),
        Code::AlreadyExists
    );
    assert_eq!(
        code(prepare("b", "none", SnapshotKind::Active)),
        Code::NotFound
    );
    assert_eq!(
        code(prepare("b", "a", SnapshotKind::Active)),
        Code::InvalidArgument
    );
    assert_eq!(
        code(prepare("", "", SnapshotKind::Active)),
        Code::InvalidArgument
    );
    assert_eq!(code(d.commit("x", "none", none())), Code::NotFound);
    assert_eq!(code(d.commit("a", "a", none())), Code::AlreadyExists);
    assert_eq!(code(d.commit("", "a", none())), Code::InvalidArgument);
    d.commit("base", "a", none()).unwrap();
    assert_eq!(
        code(d.commit("x", "base", none())),
        Code::FailedPrecondition
    );
    assert_eq!(code(d.mounts("base")), Code::FailedPrecondition);
    assert_eq!(code(d.mounts("a")), Code::NotFound);
    prepare("v", "base", SnapshotKind::View).unwrap();
    assert_eq!(code(d.commit("x", "v", none())), Code::FailedPrecondition);
    let e = d.remove("base").unwrap_err();
    assert_eq!(e.code, Code::FailedPrecondition);
    assert!(e.message.contains("remove"), "{e}");
    assert_eq!(code(d.remove("none")), Code::NotFound);
    assert_eq!(code(d.stat("none")), Code::NotFound);
    assert_eq!(code(d.usage("none")), Code::NotFound);
    assert_eq!(code(d.update("none", &none(), &[])), Code::NotFound);
    let parent = ["parent".to_owned()];
    assert_eq!(code(d.update("v", &none(), &parent)), Code::InvalidArgument);
    host.check();
}

#[test]
fn labels_change_and_the_rest_stays() {
    let host = Host::new("labels");
    let d = host.daemon();
    let labels = |list: &[(&str, &str)]| -> Labels {
        let one = |&(k, v): &(&str, &str)| (k.to_owned(), v.to_owned());
        list.iter().map(one).collect()
    };
    d.prepare(
        "a",
        "",
        labels(&[("l1", "v1"), ("l2", "v2"), ("l3", "v3")]),
        SnapshotKind::Active,
    )
    .unwrap();
    let before = d.stat("a").unwrap();
    assert_eq!(before.created, before.updated);
    let paths = ["labels.l1".to_owned(), "labels.l2".to_owned()];
    let after = d
        .update("a", &labels(&[("l1", "new"), ("l4", "v4")]), &paths)
        .unwrap();
    assert_eq!(after.labels, labels(&[("l1", "new"), ("l3", "v3")]));
    assert_eq!((after.created, after.leaf), (before.created, before.leaf));
    assert_ne!(after.updated, before.updated);
    for paths in [&["labels".to_owned()][..], &[]] {
        let after = d.update("a", &labels(&[("l4", "v4")]), paths).unwrap();
        assert_eq!(after.labels, labels(&[("l4", "v4")]));
    }
    let device = d.mounts("a").unwrap().device;
    host.model.mount(&device, true);
    host.model.mount(&device, false);
    d.commit("b", "a", labels(&[("c", "1")])).unwrap();
    let committed = d.stat("b").unwrap();
    assert_eq!(committed.labels, labels(&[("c", "1")]));
    assert_eq!(
        (committed.created, committed.used),
        (committed.updated, WRITTEN)
    );
}

#[test]
fn a_union_is_attached_again_and_has_its_limit() {
    let mut host = Host::new("mounts");
    let limit = Labels::from([(MAX_SIZE.to_owned(), "33554432".to_owned())]);
    let d = host.daemon();
    d.prepare("one", "", none(), SnapshotKind::Active).unwrap();
    d.commit("base", "one", none()).unwrap();
    let mounted = d.prepare("a", "base", limit, SnapshotKind::Active).unwrap();
    assert_eq!(d.mounts("a").unwrap(), mounted);
    host.model.mount(&mounted.device, true);
    host.model.mount(&mounted.device, false);
    assert_eq!(d.usage("a").unwrap(), WRITTEN);
    let (layers, bytes) = host.model.leaf(d.stat("a").unwrap().leaf.number);
    assert_eq!((layers.len(), bytes), (1, 33_554_432));
    d.prepare("v", "base", none(), SnapshotKind::View).unwrap();
    host.model.power_failure();
    host.restart();
    let d = host.daemon();
    let used = (d.usage("a").unwrap(), d.usage("v").unwrap());
    assert_eq!(used, (2 * WRITTEN, 0));
    let again = d.mounts("v").unwrap();
    let expected = Mounted {
        device: mounted.device,
        read_only: true,
    };
    assert_eq!(again, expected);
    assert!(!d.mounts("a").unwrap().read_only);
    host.check();
}

/// Prepares a snapshot, which is mounted when the power fails.
fn lost_power(host: &mut Host, key: &str) {
    let mounted = host.daemon().prepare(key, "", none(), SnapshotKind::Active);
    host.model.mount(&mounted.unwrap().device, true);
    host.model.power_failure();
    host.restart();
}

#[test]
fn a_file_system_that_was_not_repaired_is_repaired_before_it_is_mounted() {
    let mut host = Host::new("repair");
    lost_power(&mut host, "a");
    host.model.fail_repairs(true);
    for _ in 0..2 {
        assert_eq!(code(host.daemon().mounts("a")), Code::Internal);
        assert_eq!(host.model.left().1, []);
    }
    host.model.fail_repairs(false);
    // The daemon ends after the attach, before the repair.
    host.model.end_at(Some(3));
    let d = host.daemon();
    let ended = catch_unwind(AssertUnwindSafe(|| d.mounts("a")));
    assert!(ended.is_err() && !host.model.left().1.is_empty());
    host.model.end_at(None);
    host.restart();
    let mounted = host.daemon().mounts("a").unwrap();
    host.model.mount(&mounted.device, true);
    assert_eq!(host.daemon().mounts("a").unwrap(), mounted);
}

#[test]
fn a_file_system_is_repaired_before_it_is_committed() {
    let mut host = Host::new("unclean");
    lost_power(&mut host, "a");
    host.model.fail_repairs(true);
    assert_eq!(code(host.daemon().commit("b", "a", none())), Code::Internal);
    host.model.fail_repairs(false);
    // The model refuses to freeze what was not repaired.
    host.daemon().commit("b", "a", none()).unwrap();
    host.check();
}

#[test]
fn the_name_of_a_commit_that_has_not_ended_is_taken() {
    let host = Host::new("pending");
    let d = host.daemon();
    let prepare = |key| d.prepare(key, "", none(), SnapshotKind::Active);
    prepare("a").unwrap();
    prepare("other").unwrap();
    let leaf = d.stat("a").unwrap().leaf;
    host.model.fail_reads(Some(leaf.number));
    assert_eq!(code(d.commit("b", "a", none())), Code::Internal);
    assert_eq!(code(prepare("b")), Code::Unavailable);
    assert_eq!(code(d.commit("b", "other", none())), Code::Unavailable);
    host.model.fail_reads(None);
    assert_eq!(code(prepare("b")), Code::AlreadyExists);
    assert_eq!(d.stat("b").unwrap().leaf, leaf);
    host.check();
}

#[test]
fn a_commit_that_cannot_end_does_not_stop_the_start() {
    let mut host = Host::new("stuck");
    let d = host.daemon();
    let mounted = d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
    host.model.mount(&mounted.device, true);
    host.model.fail_reads(Some(1));
    assert_eq!(code(d.commit("b", "a", none())), Code::Internal);
    host.restart();
    let d = host.daemon();
    d.prepare("other", "", none(), SnapshotKind::Active)
        .unwrap();
    assert_eq!(code(d.mounts("a")), Code::Internal);
    // The leaf in which the union continues is left alone too.
    assert_eq!(host.model.left().0, [1, 2, 3]);
    host.model.mount(&mounted.device, false);
    host.model.fail_reads(None);
    host.restart();
    assert_eq!(
        host.daemon().stat("b").unwrap().kind,
        SnapshotKind::Committed
    );
    host.check();
}

#[test]
fn a_snapshot_that_lost_writes_is_not_committed() {
    let host = Host::new("incomplete");
    let d = host.daemon();
    for failed in [(0, 1), (1, 0)] {
        let device = d
            .prepare("a", "", none(), SnapshotKind::Active)
            .unwrap()
            .device;
        host.model.write(&device, SIZE - 1, failed);
        let e = d.commit("b", "a", none()).unwrap_err();
        assert_eq!(e.code, Code::ResourceExhausted, "{e}");
        assert!(e.message.contains("larger limit"), "{e}");
        // One that fills its leaf exactly has lost nothing.
        host.model.write(&device, SIZE, (0, 0));
        d.commit("b", "a", none()).unwrap();
        d.remove("b").unwrap();
    }
}

#[test]
fn a_commit_of_a_mounted_snapshot_keeps_its_limit() {
    let host = Host::new("limit");
    let d = host.daemon();
    let limit = Labels::from([(MAX_SIZE.to_owned(), "33554432".to_owned())]);
    for (key, labels, room) in [("a", limit, 33_554_432), ("b", none(), SIZE)] {
        let device = d
            .prepare(key, "", labels, SnapshotKind::Active)
            .unwrap()
            .device;
        host.model.mount(&device, true);
        d.commit(&format!("{key} committed"), key, none()).unwrap();
        assert_eq!(host.model.room(&device), room);
    }
}

#[test]
fn a_freeze_that_reports_an_error_and_happened_counts() {
    let host = Host::new("liar");
    let d = host.daemon();
    for mount in [false, true] {
        let mounted = d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
        host.model.mount(&mounted.device, mount);
        host.model.lie(true);
        d.commit(&format!("b{mount}"), "a", none()).unwrap();
        host.model.lie(false);
        host.check();
    }
}

#[test]
fn a_leaf_with_data_stays_although_the_store_has_lost_its_snapshot() {
    for mounted in [true, false] {
        let mut host = Host::new("lost");
        let log = host.directory.join("snapshots.log");
        let made = host.daemon().prepare("a", "", none(), SnapshotKind::Active);
        let device = made.unwrap().device;
        host.model.mount(&device, true);
        host.model.mount(&device, mounted);
        // The disk loses the last line, which has the snapshot.
        let text = std::fs::read_to_string(&log).unwrap();
        let end = text.trim_end().rfind('\n').unwrap() + 1;
        std::fs::write(&log, &text[..end]).unwrap();
        for _ in 0..2 {
            host.restart();
            assert_eq!(host.list(), []);
            assert_eq!(host.model.left().0, [1]);
            assert_eq!(host.model.left().1.len(), usize::from(mounted));
        }
    }
}

#[test]
fn an_image_that_another_program_made_meanwhile_stays() {
    let mut host = Host::new("race");
    let d = host.daemon();
    let prepare = || d.prepare("a", "", none(), SnapshotKind::Active);
    host.model.race();
    assert_eq!(code(prepare()), Code::Aborted);
    let mounted = prepare().unwrap();
    host.model.mount(&mounted.device, true);
    host.model.race();
    assert_eq!(code(d.commit("b", "a", none())), Code::Aborted);
    d.commit("b", "a", none()).unwrap();
    host.restart();
    assert_eq!(host.model.left().0, [1, 2, 3]);
}

#[test]
fn an_image_that_the_store_does_not_know_stays() {
    let mut host = Host::new("unknown");
    host.model.add(2);
    host.restart();
    let d = host.daemon();
    for name in ["a", "b"] {
        d.prepare(name, "", none(), SnapshotKind::Active).unwrap();
    }
    assert_eq!(host.model.left().0, [1, 2, 3]);
    d.remove("a").unwrap();
    d.remove("b").unwrap();
    d.cleanup().unwrap();
    assert_eq!(host.model.left().0, [2]);
}

#[test]
fn a_stack_has_an_end() {
    let host = Host::new("stack");
    let d = host.daemon();
    let mut parent = String::new();
    for n in 0..super::LAYERS {
        d.prepare("a", &parent, none(), SnapshotKind::Active)
            .unwrap();
        parent = n.to_string();
        d.commit(&parent, "a", none()).unwrap();
    }
    d.prepare("a", &parent, none(), SnapshotKind::Active)
        .unwrap();
    d.commit("last", "a", none()).unwrap();
    assert_eq!(
        code(d.prepare("a", "last", none(), SnapshotKind::View)),
        Code::FailedPrecondition
    );
    host.check();
}

#[test]
fn a_snapshot_on_one_that_was_committed_while_mounted_is_repaired_first() {
    let host = Host::new("marked");
    let d = host.daemon();
    let device = d
        .prepare("a", "", none(), SnapshotKind::Active)
        .unwrap()
        .device;
    host.model.mount(&device, true);
    d.commit("live", "a", none()).unwrap();
    host.model.mount(&device, false);
    // The model mounts no file system that has the mark.
    let device = d
        .prepare("b", "live", none(), SnapshotKind::Active)
        .unwrap()
        .device;
    host.model.mount(&device, true);
    host.model.mount(&device, false);
    host.model.fail_repairs(true);
    let e = d
        .prepare("c", "live", none(), SnapshotKind::Active)
        .unwrap_err();
    assert_eq!(
        (e.code, code(d.stat("c"))),
        (Code::Internal, Code::NotFound)
    );
    d.prepare("v", "live", none(), SnapshotKind::View).unwrap();
    host.check();
}

#[test]
fn a_commit_whose_answer_was_lost_is_there_already() {
    let mut host = Host::new("repeated");
    let d = host.daemon();
    d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
    d.commit("b", "a", none()).unwrap();
    assert_eq!(code(d.commit("b", "a", none())), Code::AlreadyExists);
    assert_eq!(code(d.commit("c", "a", none())), Code::NotFound);
    // The key may have been used again.
    d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
    assert_eq!(code(d.commit("b", "a", none())), Code::AlreadyExists);
    d.remove("a").unwrap();
    host.restart();
    assert_eq!(
        code(host.daemon().commit("b", "a", none())),
        Code::AlreadyExists
    );
    host.check();
}
