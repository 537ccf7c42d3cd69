// SPDX-License-Identifier: GPL-2.0

//! Requests at the same time.

use tonic::Code;

use super::super::LOOKS;
use super::{code, none, Daemon, Host};
use crate::disks::model::{Model, Stop};
use crate::error::Result;
use crate::held::WAITING;
use crate::snapshot::SnapshotKind;

/// Makes a request wait at an operation on a leaf, and does something else meanwhile.
fn meanwhile(
    host: &Host,
    (stop, number): (Stop, u64),
    request: impl FnOnce(&Daemon<Model>) + Send,
    other: impl FnOnce(&Daemon<Model>),
) {
    let d = host.daemon();
    host.model.stop_at(stop, number);
    std::thread::scope(|s| {
        s.spawn(|| request(d));
        host.model.stopped();
        other(d);
        host.model.let_continue();
    });
}

#[test]
fn a_request_that_waits_for_a_device_delays_no_other_snapshot() {
    let host = Host::new("waits");
    let prepare = |d: &Daemon<Model>, key, parent| {
        d.prepare(key, parent, none(), SnapshotKind::Active)
            .unwrap();
    };
    let others = |d: &Daemon<Model>| {
        prepare(d, "c", "base");
        d.mounts("c").unwrap();
        d.update("c", &none(), &[]).unwrap();
        d.commit("layer", "c", none()).unwrap();
        prepare(d, "d", "layer");
        d.remove("d").unwrap();
        d.remove("layer").unwrap();
    };
    prepare(host.daemon(), "one", "");
    host.daemon().commit("base", "one", none()).unwrap();
    prepare(host.daemon(), "a", "base");
    let number = |key| host.daemon().stat(key).unwrap().leaf.number;
    let remove = |d: &Daemon<Model>| d.remove("a").unwrap();
    meanwhile(&host, (Stop::Detach, number("a")), remove, |d| {
        others(d);
        // The name is free before the union is gone.
        prepare(d, "a", "base");
        d.cleanup().unwrap();
    });
    let commit = |d: &Daemon<Model>| d.commit("b", "a", none()).unwrap();
    meanwhile(&host, (Stop::Detach, number("a")), commit, others);
    host.check();
}

#[test]
fn a_request_waits_for_one_that_changes_its_snapshot() {
    let host = Host::new("order");
    let d = host.daemon();
    d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let number = d.stat("a").unwrap().leaf.number;
    host.model.stop_at(Stop::Detach, number);
    std::thread::scope(|s| {
        s.spawn(|| d.commit("b", "a", none()).unwrap());
        host.model.stopped();
        let (tell, again) = (tell.clone(), tell.clone());
        s.spawn(move || tell.send(d.mounts("a").unwrap_err().code).unwrap());
        s.spawn(move || {
            d.prepare("child", "b", none(), SnapshotKind::Active)
                .unwrap();
            again.send(Code::Ok).unwrap();
        });
        assert!(told.try_recv().is_err());
        host.model.let_continue();
    });
    let mut codes = [told.recv().unwrap(), told.recv().unwrap()];
    codes.sort_by_key(|&code| code as i32);
    assert_eq!(codes, [Code::Ok, Code::NotFound]);
    assert_eq!(code(d.remove("b")), Code::FailedPrecondition);
    host.check();
}

#[test]
fn requests_at_the_same_time_do_not_disturb_each_other() {
    let host = Host::new("many");
    let d = host.daemon();
    d.prepare("one", "", none(), SnapshotKind::Active).unwrap();
    d.commit("base", "one", none()).unwrap();
    std::thread::scope(|s| {
        for n in 0..4 {
            s.spawn(move || {
                for round in 0..5 {
                    let (key, name) = (format!("key {n}"), format!("{n} {round}"));
                    d.prepare(&key, "base", none(), SnapshotKind::Active)
                        .unwrap();
                    d.commit(&name, &key, none()).unwrap();
                    d.prepare(&key, &name, none(), SnapshotKind::View).unwrap();
                    // Some name that another thread may just make or remove.
                    let other = format!("{} {round}", (n + 1) % 4);
                    let seen =
                        d.prepare(&format!("child {n}"), &other, none(), SnapshotKind::Active);
                    d.usage(&name).unwrap();
                    d.remove(&key).unwrap();
                    match seen {
                        Ok(_) => d.remove(&format!("child {n}")).unwrap(),
                        Err(e) => assert_eq!(e.code, Code::NotFound, "{e}"),
                    }
                    if round % 2 == 0 {
                        // It fails if another thread has a child of it now.
                        let _ = d.remove(&name);
                    }
                }
            });
        }
    });
    host.check();
    let (images, unions) = host.model.left();
    assert!(unions.is_empty() && images.len() < 22, "{images:?}");
}

#[test]
fn the_usage_of_a_snapshot_that_changes_meanwhile_is_true() {
    let mut host = Host::new("usage");
    let d = host.daemon();
    let device = d
        .prepare("a", "", none(), SnapshotKind::Active)
        .unwrap()
        .device;
    host.model.write(&device, 100, (0, 0));
    d.prepare("b", "", none(), SnapshotKind::Active).unwrap();
    host.model.power_failure();
    host.restart();
    let usage_of = |key: &'static str, is_right: fn(Result<u64>) -> bool| {
        move |d: &Daemon<Model>| assert!(is_right(d.usage(key)))
    };
    let is_gone = |used: Result<u64>| used.unwrap_err().code == Code::NotFound;
    let remove = |d: &Daemon<Model>| d.remove("a").unwrap();
    meanwhile(&host, (Stop::Find, 1), usage_of("a", is_gone), remove);
    // Another snapshot has the name meanwhile.
    let again = |d: &Daemon<Model>| {
        d.remove("b").unwrap();
        let device = d
            .prepare("b", "", none(), SnapshotKind::Active)
            .unwrap()
            .device;
        host.model.write(&device, 300, (0, 0));
    };
    let is_new = |used: Result<u64>| used.unwrap() == 300;
    meanwhile(&host, (Stop::Find, 2), usage_of("b", is_new), again);
}

#[test]
fn a_name_that_hangs_takes_few_threads() {
    let host = Host::new("hangs");
    let d = host.daemon();
    d.prepare("a", "", none(), SnapshotKind::Active).unwrap();
    let number = d.stat("a").unwrap().leaf.number;
    host.model.stop_at(Stop::Detach, number);
    std::thread::scope(|s| {
        s.spawn(|| d.commit("b", "a", none()).unwrap());
        host.model.stopped();
        for _ in 0..WAITING {
            s.spawn(|| assert_eq!(code(d.mounts("a")), Code::NotFound));
        }
        while d.names.waiting(&"a".to_owned()) < WAITING {
            std::thread::yield_now();
        }
        assert_eq!(code(d.mounts("a")), Code::Unavailable);
        assert_eq!(code(d.remove("a")), Code::Unavailable);
        assert_eq!(code(d.commit("c", "a", none())), Code::Unavailable);
        d.prepare("c", "", none(), SnapshotKind::Active).unwrap();
        d.remove("c").unwrap();
        host.model.let_continue();
    });
    let look = |_| d.looks.try_share("b".to_owned(), LOOKS).unwrap();
    let looks: Vec<_> = (0..LOOKS).map(look).collect();
    d.prepare("a", "b", none(), SnapshotKind::Active).unwrap();
    assert_eq!(code(d.usage("b")), Code::Unavailable);
    d.usage("a").unwrap();
    drop(looks);
    d.usage("b").unwrap();
    host.check();
}
