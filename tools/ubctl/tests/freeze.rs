// SPDX-License-Identifier: GPL-2.0

//! `ubctl freeze` on images.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{flock, FlockOperation};
use tool::leaf::{pair, MetadataUnion};
use tool::{get, put, ubctl, Folder, MIB};

#[test]
fn a_leaf_is_frozen_once() {
    let f = Folder::new("freeze");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let first = ubctl("--json freeze {}", &[&leaf]).done().json();
    assert_eq!(first["changed"], true);
    assert_eq!(first["layers"], 0);
    assert_eq!(first["sectors"], 8 * MIB / 512);
    // Each freeze draws another seal, and this leaf keeps its first one.
    let before = fs::read(&leaf).unwrap();
    let again = ubctl("--json freeze {}", &[&leaf]).done().json();
    assert_eq!(again["changed"], false);
    assert_eq!(again["seal"], first["seal"]);
    assert!(ubctl("freeze {}", &[&leaf]).done().out.contains("already"));
    assert!(fs::read(&leaf).unwrap() == before);
    let dump = ubctl("--json dump {}", &[&leaf]).done().json();
    for slot in [0, 1] {
        assert_eq!(dump["slots"][slot]["seal"], first["seal"]);
        assert_eq!(dump["slots"][slot]["features_ro_compat"], "0x1");
        assert_eq!(dump["slots"][slot]["clean"], true);
    }
    let other = f.image("other", 6 * MIB);
    ubctl("format --root {} {}", &[&root, &other]).done();
    let second = ubctl("--json freeze {}", &[&other]).done().json();
    assert!(first["seal"] != second["seal"]);
    assert_eq!(first["seal"].as_str().unwrap().len(), 32);
    assert_eq!(ubctl("check {}", &[&leaf]).code, 0);
}

#[test]
fn what_waits_in_the_journal_is_frozen_too() {
    let f = Folder::new("freeze-journal");
    let (root, leaf) = pair(&f);
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.write(100, 300);
    u.commit();
    drop(u);
    let map = |leaf: &Path| {
        let dump = ubctl("--json dump {} --map", &[leaf]).done().json();
        (dump["map"].clone(), dump["journal"]["finished"].clone())
    };
    let (before, waiting) = map(&leaf);
    assert!(waiting.as_u64() > Some(0));
    ubctl("freeze {}", &[&leaf]).done();
    let (after, waiting) = map(&leaf);
    assert_eq!(after, before);
    assert_eq!(waiting, 0);
}

#[test]
fn what_cannot_be_frozen_is_refused_and_unchanged() {
    let f = Folder::new("freeze-not");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("freeze {}", &[&leaf]).refused(3, &["not formatted", "leaf"]);
    ubctl("freeze {}", &[&f.path("none")]).refused(1, &["No such file"]);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let before = fs::read(&leaf).unwrap();
    // In use.
    let held = File::open(&leaf).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    ubctl("--no-wait freeze {}", &[&leaf]).refused(4, &["leaf", "in use"]);
    drop(held);
    // Damaged: the map of such a leaf is not known.
    put(&leaf, 0, &[0; 512]);
    put(&leaf, 4096 + 100, &[0xff; 4]);
    ubctl("freeze {}", &[&leaf]).refused(3, &["damaged", "copy the whole leaf"]);
    fs::write(&leaf, &before).unwrap();
    ubctl("freeze {}", &[&leaf]).done();
}

#[test]
fn nothing_of_the_tool_writes_to_a_frozen_leaf() {
    let f = Folder::new("freeze-then");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    ubctl("freeze {}", &[&leaf]).done();
    ubctl("format --root {} {}", &[&root, &leaf]).refused(3, &["formatted already"]);
    // One slot rots. The check says so, and does not repair it.
    put(&leaf, 4096 + 100, &[0xff; 4]);
    let before = fs::read(&leaf).unwrap();
    let ran = ubctl("check {} --repair", &[&leaf]);
    assert!(ran.code >= 4 && ran.err.contains("frozen"), "{}", ran.err);
    assert!(fs::read(&leaf).unwrap() == before);
    let again = ubctl("--json freeze {}", &[&leaf]).done().json();
    assert_eq!(again["changed"], false);
    assert_eq!(get(&leaf, 4096 + 100, 4), [0xff; 4]);
}
