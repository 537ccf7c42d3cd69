// SPDX-License-Identifier: GPL-2.0

//! `ubctl grow` on images, and the room that `format` keeps.

use std::fs::{self, File};
use std::path::Path;

use rustix::fs::{flock, FlockOperation};
use tool::leaf::{geometry, pair, MetadataUnion};
use tool::{ubctl, Folder, MIB};

fn resize(path: &Path, bytes: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(bytes)
        .unwrap();
}

fn grow(leaf: &Path, options: &str) -> serde_json::Value {
    ubctl(&format!("--json grow {{}} {options}"), &[leaf])
        .done()
        .json()
}

#[test]
fn a_leaf_and_its_union_grow() {
    let f = Folder::new("grow");
    let (root, leaf) = pair(&f);
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.committer.checkpoint(&u.map, &mut u.device).unwrap();
    u.fill(100, 300);
    u.commit();
    drop(u);
    let before = fs::read(&leaf).unwrap();
    // The device is as before.
    let same = grow(&leaf, "");
    assert_eq!(
        (&same["changed"], &same["leaf_sectors"]),
        (&false.into(), &(16 * 1024).into())
    );
    assert!(fs::read(&leaf).unwrap() == before);
    assert!(ubctl("grow {}", &[&leaf]).done().out.contains("already"));

    resize(&leaf, 15 * MIB);
    let plan = grow(&leaf, "--size 32M --dry-run");
    assert_eq!(plan["changed"], false);
    assert_eq!(plan["leaf_sectors"], 30 * 1024);
    assert!(fs::read(&leaf).unwrap()[..8 << 20] == before);
    let done = grow(&leaf, "--size 32M");
    assert_eq!(done["changed"], true);
    assert_eq!(done["sectors_before"], 32 * 1024);
    assert_eq!(done["sectors"], 64 * 1024);
    assert_eq!(done["leaf_sectors_before"], 16 * 1024);
    assert_eq!(
        done["slabs"].as_u64().unwrap() - done["slabs_before"].as_u64().unwrap(),
        112
    );
    // Only the superblocks are written.
    let after = fs::read(&leaf).unwrap();
    assert!(after[8192..8 << 20] == before[8192..]);
    assert!(after[8 << 20..].iter().all(|&b| b == 0));
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);

    let mut u = MetadataUnion::attach(&root, &leaf);
    let g = *u.map.geometry();
    assert_eq!(
        (g.union_sectors(), g.leaf_sectors()),
        (64 * 1024, 30 * 1024)
    );
    u.fill(64 * 1024 - 5, 5);
    u.detach();
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
    // Not to the end of the image.
    resize(&leaf, 30 * MIB);
    let part = grow(&leaf, "--leaf-size 16M");
    assert_eq!(
        (&part["leaf_sectors"], &part["sectors"]),
        (&(32 * 1024).into(), &(64 * 1024).into())
    );
    assert!(ubctl("grow {}", &[&leaf]).done().out.contains("has grown"));
}

#[test]
fn what_cannot_grow_is_refused() {
    let f = Folder::new("grow-not");
    let (_, leaf) = pair(&f);
    let before = fs::read(&leaf).unwrap();
    let refused = |options: &str, words: &[&str]| {
        ubctl(&format!("grow {{}} {options}"), &[&leaf]).refused(3, words);
        assert!(fs::read(&leaf).unwrap()[..8 << 20] == before);
    };
    refused("--size 8M", &["32768 sectors", "cannot become smaller"]);
    refused(
        "--leaf-size 4M",
        &["16384 sectors", "cannot become smaller"],
    );
    refused(
        "--size 1T",
        &["room for the map of a union of", "--grow-to"],
    );
    refused("--leaf-size 9M", &["has only 8 MiB"]);
    refused("--size 20001280", &["a multiple of 4 KiB"]);
    ubctl("grow {} --size much", &[&leaf]).refused(2, &["unknown unit"]);
    resize(&leaf, 8 * MIB + 511);
    refused("", &["truncate"]);
    resize(&leaf, 200 * MIB);
    refused("", &["room for its own map", "--grow-to"]);
    let held = File::open(&leaf).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    ubctl("--no-wait grow {}", &[&leaf]).refused(4, &["in use"]);
    drop(held);
    resize(&leaf, 8 * MIB);
    ubctl("freeze {}", &[&leaf]).done();
    ubctl("grow {} --size 32M", &[&leaf]).refused(3, &["frozen"]);
    ubctl("grow {}", &[&f.image("blank", 8 * MIB)]).refused(3, &["not formatted"]);
}

#[test]
fn format_keeps_room_for_twice_the_sizes_or_as_told() {
    let f = Folder::new("grow-room");
    let (root, leaf) = (f.root("root", 160 * MIB), f.image("leaf", 64 * MIB));
    let room = |options: &str| {
        let line = format!("--json format --force --root {{}} {{}} {options}");
        let made = ubctl(&line, &[&root, &leaf]).done().json();
        let g = geometry(&leaf);
        assert_eq!(made["sectors_max"], g.union_sectors_max());
        assert_eq!(made["leaf_sectors_max"], g.leaf_sectors_max());
        (g.spare_pages().table, g.spare_pages().bits)
    };
    // Three pages of the table, and four of bits.
    assert_eq!(room(""), (3, 4));
    assert_eq!(room("--grow-to 512"), (0, 0));
    assert_eq!(room("--grow-to 1G"), (13, 60));
    let text = ubctl("format --force --root {} {} --grow-to 1G", &[&root, &leaf])
        .done()
        .out;
    assert!(text.contains("union 1 GiB, leaf 1 GiB"), "{text}");
    resize(&leaf, 1024 * MIB);
    let done = grow(&leaf, "--size 1G");
    assert_eq!(
        (&done["sectors"], &done["leaf_sectors"]),
        (&(1 << 21).into(), &(1 << 21).into())
    );
    assert_eq!(geometry(&leaf).spare_pages().bits, 0);
    ubctl("format --force --root {} {} --grow-to 64T", &[&root, &leaf]).refused(3, &["map pages"]);
    let small = f.image("small", 4 * MIB);
    ubctl("format --root {} {} --grow-to 1T", &[&root, &small]).refused(3, &["at least"]);
}
