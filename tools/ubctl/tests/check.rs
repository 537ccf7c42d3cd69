// SPDX-License-Identifier: GPL-2.0

//! Runs `ubctl check` on leaves that the core has written, whole and damaged. The core's tests
//! cover every kind of damage; these tests cover what a user sees and what happens to the leaf.

use serde_json::{json, Value};
use std::fs;
use std::path::{Path, PathBuf};
use tool::leaf::{geometry, pair, MetadataUnion};
use tool::{get, put, ubctl, Folder, Ran, MIB};
use ubcore::attach::read_superblock;
use ubcore::error::{Area, Error, Role};
use ubcore::geometry::MapPage;
use ubcore::journal::scan;
use ubcore::leaf_block::LeafBlock;
use ubcore::slot::Slot;
use ubctl::device::{Access, Device};

fn check(leaf: &Path, options: &str) -> Ran {
    ubctl(&format!("check {{}} {options}"), &[leaf])
}

/// Checks the exit code, and the kinds of findings with their grades and whether they were
/// repaired.
#[track_caller]
fn found(leaf: &Path, options: &str, code: i32, kinds: &[(&str, &str, bool)]) -> Value {
    let ran = check(leaf, &format!("--json {options}"));
    let value = ran.json();
    let list: Vec<(&str, &str, bool)> = value["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            let word = |name: &str| f[name].as_str().unwrap();
            (word("grade"), word("kind"), f["repaired"] == json!(true))
        })
        .collect();
    assert_eq!((ran.code, list.as_slice()), (code, kinds), "{value}");
    assert_eq!(value["code"], code);
    value
}

/// Returns a leaf that was written to and detached.
fn used(f: &Folder) -> (PathBuf, PathBuf) {
    let (root, leaf) = pair(f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(128 * 3 + 8, 8);
    union.write(128 * 200, 300);
    union.detach();
    (root, leaf)
}

fn cut(root: &Path, leaf: &Path) {
    let mut union = MetadataUnion::attach(root, leaf);
    // An attach that may write begins with this commit; from then on the leaf is not clean.
    let (committer, map) = (&mut union.committer, &union.map);
    committer.checkpoint(map, &mut union.device).unwrap();
    for slab in [9, 10] {
        union.write(128 * slab, 8);
        union.commit();
    }
}

fn map_of(leaf: &Path) -> Value {
    ubctl("dump --json --map {}", &[leaf]).json()["map"].clone()
}

#[test]
fn a_whole_leaf_is_reported_as_whole_and_never_written_to() {
    let f = Folder::new("whole");
    let (root, leaf) = used(&f);
    for options in ["", "--repair", "--json", "--repair --json"] {
        let before = fs::read(&leaf).unwrap();
        let time = fs::metadata(&leaf).unwrap().modified().unwrap();
        let ran = check(&leaf, options).done();
        assert!(
            ran.out.contains("whole") || options.contains("json"),
            "{}",
            ran.out
        );
        assert!(fs::read(&leaf).unwrap() == before);
        assert_eq!(fs::metadata(&leaf).unwrap().modified().unwrap(), time);
    }
    let value = found(&leaf, "", 0, &[]);
    assert_eq!(
        (&value["slabs_used"], &value["sectors_mapped"]),
        (&json!(4), &json!(308))
    );
    assert_eq!(value["generation"], 2);
    ubctl("check {} --root {}", &[&leaf, &root]).done();
    let fresh = f.image("fresh", 8 * MIB);
    ubctl("format --name new --root {} {}", &[&root, &fresh]).done();
    let ran = check(&fresh, "").done();
    assert!(
        ran.out
            .contains(" (new), generation 1\nwhole; 0 slabs used"),
        "{}",
        ran.out
    );
}

#[test]
fn a_leaf_without_a_detach_is_brought_to_rest() {
    let f = Folder::new("rest");
    let (root, leaf) = used(&f);
    cut(&root, &leaf);
    let map = map_of(&leaf);
    let value = found(&leaf, "", 0, &[("note", "not_detached", false)]);
    assert_eq!(value["journal_blocks_to_replay"], 2);
    let value = found(&leaf, "--repair", 1, &[("note", "not_detached", true)]);
    assert_eq!(value["journal_blocks_to_replay"], 0);
    assert_eq!(map_of(&leaf), map);
    found(&leaf, "--repair", 0, &[]);
    MetadataUnion::attach(&root, &leaf).detach();
}

#[test]
fn a_rotten_superblock_slot_is_rewritten() {
    let f = Folder::new("slot");
    let (_, leaf) = used(&f);
    let good = get(&leaf, 0, 8192);
    for at in [0, 8, 100, 300, 4096 + 12, 4096 + 511] {
        put(&leaf, at, &[!good[at as usize]]);
        let kind = if at == 0 {
            "slot_empty"
        } else {
            "slot_checksum"
        };
        let value = found(&leaf, "", 4, &[("minor", kind, false)]);
        assert_eq!(value["findings"][0]["block"], at / 4096);
        assert_eq!(value["findings"][0]["byte"], at % 4096);
        let out = check(&leaf, "").out;
        let step = format!(
            "; --repair copies the other one here\n1 problem: run ubctl check --repair {}; ",
            leaf.display()
        );
        assert!(out.contains(&step), "{out}");
        let ran = check(&leaf, "--repair");
        assert_eq!(ran.code, 1, "{}", ran.out);
        assert!(
            ran.out.contains("[repaired]\nwhole now: 1 repaired"),
            "{}",
            ran.out
        );
        assert_eq!(get(&leaf, 0, 8192), good);
        check(&leaf, "").done();
    }
}

#[test]
fn what_cannot_be_repaired_stays_as_it_is() {
    let f = Folder::new("damage");
    let (_, leaf) = used(&f);
    let g = geometry(&leaf);
    let at = g.page_block(MapPage(0), Slot::A).0 * 4096 + 5;
    let byte = get(&leaf, at, 1)[0];
    put(&leaf, at, &[byte ^ 1]);
    put(&leaf, 300, b"x");
    let damage = ("damage", "page", false);
    found(&leaf, "", 4, &[("minor", "slot_checksum", false), damage]);
    let ran = check(&leaf, "");
    assert!(
        ran.out.contains("where root slabs 0 to 255 are"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("2 problems: make a copy of the leaf before anything else"),
        "{}",
        ran.out
    );
    let behind = get(&leaf, 8192, 1 << 20);
    let value = found(
        &leaf,
        "--repair",
        4,
        &[("minor", "slot_checksum", true), damage],
    );
    assert_eq!(
        value["findings"][1]["block"],
        g.page_block(MapPage(0), Slot::A).0
    );
    assert_eq!(get(&leaf, 8192, 1 << 20), behind);
    put(&leaf, at, &[byte]);
    found(&leaf, "", 0, &[]);
}

#[test]
fn what_is_lost_is_named() {
    let f = Folder::new("lost");
    let (root, leaf) = used(&f);
    let g = geometry(&leaf);
    let range = |sector: u64, sectors: u64| json!({ "sector": sector, "sectors": sectors });
    let page = ("damage", "page", false);
    let of_bits = g.bits_page(0).0;
    // The page of bits loses the slabs with leaf slabs, the page of the table loses all slabs.
    let bits = [range(384, 128), range(25600, 384)];
    for (pages, lost, sum) in [
        (&[of_bits][..], &bits[..], 512),
        (&[0], &[range(0, 32768)], 32768),
        (&[0, of_bits], &[range(0, 32768)], 32768),
    ] {
        let whole = get(&leaf, 0, 1 << 20);
        for &p in pages {
            put(
                &leaf,
                g.page_block(MapPage(p), Slot::A).0 * 4096 + 77,
                b"rot",
            );
        }
        let value = found(&leaf, "", 4, &vec![page; pages.len()]);
        assert_eq!(value["salvage"]["lost"], json!(lost));
        assert_eq!(value["salvage"]["lost_sectors"], sum);
        assert_eq!(value["findings"][0]["lost"], json!(lost));
        put(&leaf, 0, &whole);
    }
    assert_eq!(found(&leaf, "", 0, &[])["salvage"], Value::Null);

    put(
        &leaf,
        g.page_block(MapPage(of_bits), Slot::A).0 * 4096 + 77,
        b"rot",
    );
    let out = check(&leaf, "").out;
    for part in [
        "; lost by it: union sectors 384 to 511, 25600 to 25983 (256 KiB)\n",
        "; ubctl create --read-only reads what is left, 15.8 MiB; ",
    ] {
        assert!(out.contains(part), "{out}");
    }

    // With a hole in the journal, what is lost cannot be determined.
    ubctl("format --force --root {} {}", &[&root, &leaf]).done();
    cut(&root, &leaf);
    let tail =
        ubctl("dump --json {}", &[&leaf]).json()["journal"]["transactions"][0]["blocks"][0].clone();
    put(&leaf, tail.as_u64().unwrap() * 4096 + 40, b"rot");
    let value = found(
        &leaf,
        "",
        4,
        &[
            ("note", "spare_journal", false),
            ("damage", "journal_hole", false),
            ("note", "not_detached", false),
        ],
    );
    assert_eq!(value["salvage"], Value::Null);
    assert_eq!(value["findings"][1]["lost"], Value::Null);
    let out = check(&leaf, "").out;
    assert!(!out.contains("create --read-only"), "{out}");
    // Attach refuses the leaf, and names the same block.
    let refused = "transactions follow it: attach refuses the leaf, also with --read-only";
    assert!(out.contains(refused), "{out}");
    let mut device = Device::open(&leaf, Role::Leaf, Access::Claim).unwrap();
    let sb = read_superblock(&mut device).unwrap().superblock;
    assert_eq!(
        scan(&mut device, &sb),
        Err(Error::Damaged(
            Area::Journal,
            LeafBlock(tail.as_u64().unwrap())
        ))
    );
    assert_eq!(value["findings"][1]["block"], tail);
}

#[test]
fn the_root_is_judged_too() {
    let f = Folder::new("roots");
    let (root, leaf) = used(&f);
    let other = f.root("other", 17 * MIB);
    let judge = |root: &Path| ubctl("check {} --json --root {}", &[&leaf, root]);
    let ran = judge(&other);
    assert_eq!(
        (ran.code, &ran.json()["findings"][0]["kind"]),
        (4, &json!("wrong_root"))
    );
    let out = ubctl("check {} --root {}", &[&leaf, &other]).out;
    for part in [
        &format!("  damage  {}: the leaf was made for ", other.display()),
        "\n1 problem: the leaf is whole, but this is not its root: name the root that it was made for; ",
    ] {
        assert!(out.contains(part), "{out}");
    }
    put(&root, 1024, b"mounted");
    let ran = judge(&root);
    assert_eq!(
        (ran.code, &ran.json()["findings"][0]["kind"]),
        (4, &json!("wrong_root"))
    );
    assert_eq!(judge(&f.path("none")).code, 8);
    assert_eq!(judge(&leaf).code, 8);
}

#[test]
fn what_cannot_be_checked() {
    let f = Folder::new("operational");
    let (_, leaf) = used(&f);
    let refused = |path: &Path, reason: &str| {
        let ran = check(path, "--no-wait --json");
        let value = ran.json();
        assert_eq!((ran.code, &value["code"]), (8, &json!(8)), "{value}");
        assert_eq!(value["reason"], reason);
    };
    refused(&f.path("none"), "not_found");
    refused(&f.image("blank", 8 * MIB), "not_formatted");
    refused(&f.image("tiny", 4096), "leaf_too_small");
    let mut newer = get(&leaf, 0, 512);
    newer[12] = 9;
    let crc = ubcore::format::crc::block_crc(&newer, 8).unwrap();
    newer[8..12].copy_from_slice(&crc.to_le_bytes());
    put(&leaf, 0, &newer);
    refused(&leaf, "newer_version");

    let (root, leaf) = (f.path("root"), f.path("leaf"));
    ubctl("format --force --root {} {}", &[&root, &leaf]).done();
    let held = MetadataUnion::attach(&root, &leaf);
    refused(&leaf, "busy");
    let ran = check(&leaf, "--no-wait --repair");
    assert_eq!(ran.code, 8, "{}", ran.err);
    assert!(ran.err.contains("in use"), "{}", ran.err);
    drop(held);
    put(&leaf, 100, b"x");
    put(&leaf, 4096 + 100, b"x");
    found(&leaf, "--repair", 4, &[("damage", "superblock", false)]);
    let out = check(&leaf, "").out;
    for part in [
        "  damage  block 0: both superblock slots, blocks 0 and 1, are damaged",
        "restore it from a backup\n1 problem: make a copy of the leaf before anything else\n",
    ] {
        assert!(out.contains(part), "{out}");
    }
}

/// Changes 8 bytes of both superblock slots and corrects the checksums.
fn set(leaf: &Path, at: usize, value: u64) {
    for slot in [0, 4096] {
        let mut bytes = get(leaf, slot, 512);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let crc = ubcore::format::crc::block_crc(&bytes, 8).unwrap();
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        put(leaf, slot, &bytes);
    }
}

#[test]
fn features_of_a_later_version_are_reported_kept_and_not_written_over() {
    let f = Folder::new("features");
    let (root, leaf) = used(&f);
    set(&leaf, 24, 1 << 63);
    set(&leaf, 200, 0x0102_0304_0506_0708);
    cut(&root, &leaf);
    let note = ("note", "unknown_features", false);
    let rest = |repaired| ("note", "not_detached", repaired);
    found(&leaf, "", 0, &[note, rest(false)]);
    found(&leaf, "--repair", 1, &[note, rest(true)]);
    found(&leaf, "--repair", 0, &[note]);
    let bytes = "0".repeat(16) + "0807060504030201";
    let text = ubctl("dump {}", &[&leaf]).done().out;
    for line in [
        "  features      compat 0x8000000000000000, incompat 0x4\n".to_owned(),
        format!("  compat bytes  {bytes}\n"),
    ] {
        assert_eq!(text.matches(&line).count(), 2, "{line} in {text}");
    }
    let slot = &ubctl("dump --json {}", &[&leaf]).json()["slots"][1];
    assert_eq!(slot["features_compat"], "0x8000000000000000");
    assert_eq!(slot["compat_bytes"], *bytes);

    set(&leaf, 32, 4);
    put(&leaf, 4096, b"x");
    let before = fs::read(&leaf).unwrap();
    let ran = check(&leaf, "--repair --json");
    let value = ran.json();
    assert_eq!(
        (ran.code, &value["reason"]),
        (8, &json!("unknown_features"))
    );
    let text = value["error"].as_str().unwrap();
    assert!(text.contains("0x4 (read-only compatible)"), "{text}");
    found(&leaf, "", 4, &[note, ("minor", "slot_empty", false)]);
    assert!(fs::read(&leaf).unwrap() == before);
    set(&leaf, 40, 8);
    let ran = ubctl("dump {}", &[&leaf]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("0x8 (incompatible)"), "{}", ran.err);
}

#[test]
fn its_exit_codes_are_those_of_fsck() {
    let help = ubctl("check --help", &[]).done().out;
    for line in [
        "Usage: ubctl check [OPTIONS] <LEAF>",
        "\n  4   damage is left",
        "\n  16  the",
    ] {
        assert!(help.contains(line), "no {line} in {help}");
    }
    ubctl("check", &[]).refused(16, &["LEAF"]);
    ubctl("check a --frob", &[]).refused(16, &["--frob"]);
    let ran = ubctl("--json check", &[]);
    assert_eq!((ran.code, &ran.json()["code"]), (16, &json!(16)));
    ubctl("dump", &[]).refused(2, &["LEAF"]);
}
