// SPDX-License-Identifier: GPL-2.0

//! `ubctl reset` on images.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{flock, FlockOperation};
use tool::leaf::{pair, MetadataUnion};
use tool::{get, put, ubctl, Folder, MIB};

/// Returns a root, and a leaf of it that was used and not detached.
fn used(f: &Folder) -> (std::path::PathBuf, std::path::PathBuf) {
    let (root, leaf) = pair(f);
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.write(100, 300);
    u.commit();
    drop(u);
    (root, leaf)
}

fn dump(leaf: &Path) -> serde_json::Value {
    ubctl("--json dump {} --map", &[leaf]).done().json()
}

#[test]
fn a_leaf_is_empty_after_a_reset_and_otherwise_the_same() {
    let f = Folder::new("reset");
    let (root, leaf) = used(&f);
    let before = dump(&leaf);
    assert!(before["journal"]["finished"].as_u64() > Some(0));
    let plan = ubctl("--json reset {} --dry-run", &[&leaf]).done().json();
    assert_eq!(plan["changed"], false);
    assert!(plan["slabs_used"].as_u64() > Some(0));
    assert_eq!(dump(&leaf), before);
    let done = ubctl("--json reset {}", &[&leaf]).done().json();
    assert_eq!(done["changed"], true);
    assert_eq!(done["device"], serde_json::Value::Null);
    let after = dump(&leaf);
    for same in [
        "uuid",
        "name",
        "nonce",
        "features_incompat",
        "union_sectors",
    ] {
        assert_eq!(after["slots"][0][same], before["slots"][0][same], "{same}");
    }
    for slot in [0, 1] {
        assert_eq!(after["slots"][slot]["clean"], true);
    }
    assert_eq!(after["journal"]["finished"], 0);
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
    let again = ubctl("--json reset {} --dry-run", &[&leaf]).done().json();
    assert_eq!(again["slabs_used"], 0);
    // It can be used again.
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.write(500, 10);
    u.commit();
    drop(u);
    assert!(ubctl("reset {}", &[&leaf])
        .done()
        .out
        .contains("has lost all"));
}

#[test]
fn only_the_superblocks_are_written() {
    let f = Folder::new("reset-writes");
    let (_, leaf) = used(&f);
    let mut before = fs::read(&leaf).unwrap();
    ubctl("reset {}", &[&leaf]).done();
    let after = fs::read(&leaf).unwrap();
    assert!(before[..8192] != after[..8192]);
    before[..8192].copy_from_slice(&after[..8192]);
    assert!(before == after);
}

#[test]
fn a_damaged_leaf_can_be_reset() {
    let f = Folder::new("reset-damaged");
    let (root, leaf) = used(&f);
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.write(900, 10);
    u.commit();
    drop(u);
    // The whole journal, and one superblock.
    put(&leaf, 8192, &[0xff; 8192]);
    put(&leaf, 4096 + 100, &[0xff; 4]);
    let plan = ubctl("--json reset {} --dry-run", &[&leaf]).done().json();
    assert_eq!(plan["changed"], false);
    ubctl("reset {}", &[&leaf]).done();
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
}

#[test]
fn what_cannot_be_reset_is_refused_and_unchanged() {
    let f = Folder::new("reset-not");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    for dry in ["", " --dry-run"] {
        let reset = format!("--no-wait reset {{}}{dry}");
        fs::write(&leaf, vec![0; 6 << 20]).unwrap();
        ubctl(&reset, &[&leaf]).refused(3, &["not formatted", "leaf"]);
        let none = ubctl(&reset, &[&f.path("none")]);
        assert_eq!(none.code, 1, "{}", none.err);
        ubctl("format --root {} {}", &[&root, &leaf]).done();
        let before = fs::read(&leaf).unwrap();
        let held = File::open(&leaf).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        ubctl(&reset, &[&leaf]).refused(4, &["leaf", "in use"]);
        drop(held);
        // Longer than what is left of it.
        File::options()
            .write(true)
            .open(&leaf)
            .unwrap()
            .set_len(3 << 20)
            .unwrap();
        ubctl(&reset, &[&leaf]).refused(3, &["the device has"]);
        fs::write(&leaf, &before).unwrap();
        ubctl("freeze {}", &[&leaf]).done();
        let frozen = fs::read(&leaf).unwrap();
        ubctl(&reset, &[&leaf]).refused(3, &["frozen"]);
        assert!(fs::read(&leaf).unwrap() == frozen);
        // Both superblocks.
        for at in [100, 4196] {
            put(&leaf, at, &[0xff; 4]);
        }
        ubctl(&reset, &[&leaf]).refused(3, &["damaged"]);
        assert_eq!(get(&leaf, 100, 4), [0xff; 4]);
    }
}
