// SPDX-License-Identifier: GPL-2.0

//! Runs `ubctl dump` on leaves that the core has written, whole and damaged.

use serde_json::{json, Value};
use std::path::Path;
use tool::leaf::{geometry, pair, MetadataUnion};
use tool::{get, put, ubctl, Folder, Ran, MIB};
use ubcore::geometry::MapPage;
use ubcore::slot::Slot;

fn dump(leaf: &Path) -> Value {
    ubctl("dump --json --map {}", &[leaf]).done().json()
}

/// Checks the dump of a damaged leaf: each of `words` must be in one of its problems.
#[track_caller]
fn damaged(leaf: &Path, words: &[&str]) -> Value {
    let ran = ubctl("dump --json --map {}", &[leaf]);
    let value = ran.json();
    assert_eq!(ran.code, 3, "{value}");
    assert_eq!(value["reason"], "damaged");
    assert_eq!(
        value["problems"].as_array().unwrap().len(),
        words.len(),
        "{}",
        value["problems"]
    );
    for word in words {
        assert!(
            value["problems"].to_string().contains(word),
            "no {word}: {}",
            value["problems"]
        );
    }
    let text = ubctl("dump {}", &[leaf]);
    assert_eq!(text.code, 3);
    assert!(text.out.contains("\nproblems\n"), "{}", text.out);
    assert!(text.err.contains("make a copy"), "{}", text.err);
    value
}

#[test]
fn a_fresh_leaf() {
    let f = Folder::new("fresh");
    let (_, leaf) = pair(&f);
    let d = dump(&leaf);
    assert_eq!(d["active"], "A");
    assert_eq!(d["slots"][1]["state"], "valid");
    assert_eq!(d["slots"][0]["generation"], 1);
    assert_eq!(d["slots"][0]["clean"], true);
    assert_eq!(d["geometry"]["slab_sectors"], 128);
    assert_eq!(d["geometry"]["root_slabs"], 256);
    assert_eq!(d["journal"]["chained"], 0);
    assert_eq!(d["pages"], json!({ "written": 0, "sound": 0 }));
    assert_eq!(d["map"]["slabs_used"], 0);
    assert_eq!(d["problems"], json!([]));
    let text = ubctl("dump {}", &[&leaf]).done().out;
    for line in [
        "superblock A (block 0): valid, active\n",
        "superblock B (block 1): valid\n",
        "geometry\n",
        "map: 0 slabs in the leaf",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
}

#[test]
fn what_was_committed_is_shown_before_and_after_a_checkpoint() {
    let f = Folder::new("round");
    let (root, leaf) = pair(&f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(128 * 3 + 8, 8);
    union.write(128 * 3 + 64, 1);
    union.commit();
    union.write(128 * 4 - 4, 8);
    union.commit();
    // Placed and mapped, but not committed: the dump must show nothing of it.
    union.write(128 * 200, 128);

    let slab3 = json!([[8, 8], [64, 1], [124, 4]]);
    let check = |d: &Value| {
        assert_eq!(d["map"]["slabs_used"], 2);
        assert_eq!(d["map"]["sectors_mapped"], 17);
        assert_eq!(d["map"]["runs"], 4);
        let slabs = d["map"]["slabs"].as_array().unwrap();
        assert_eq!((&slabs[0]["slab"], &slabs[0]["runs"]), (&json!(3), &slab3));
        assert_eq!(
            (&slabs[1]["slab"], &slabs[1]["runs"]),
            (&json!(4), &json!([[0, 4]]))
        );
        let first = slabs[0]["leaf_sector"].as_u64().unwrap();
        assert_eq!(slabs[1]["leaf_sector"].as_u64().unwrap(), first + 128);
    };
    let d = dump(&leaf);
    check(&d);
    assert_eq!(
        (&d["journal"]["finished"], &d["journal"]["chained"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(d["journal"]["transactions"].as_array().unwrap().len(), 2);
    assert_eq!(d["journal"]["transactions"][0]["records"], 2);
    let record = d["journal"]["transactions"][0]["list"][0].as_str().unwrap();
    assert!(
        record.starts_with("new: root slab 3 in leaf slab ") && record.ends_with("mapped 8+8"),
        "{record}"
    );
    let text = ubctl("dump --map {}", &[&leaf]).done().out;
    assert!(text.contains("mapped 8+8 64+1 124+4\n"), "{text}");
    assert!(text.contains("records, finished\n"), "{text}");
    drop(union);

    // Attach from those bytes again and detach: the pages give the same map.
    let union = MetadataUnion::attach(&root, &leaf);
    assert_eq!(union.allocator.used(), 2);
    union.detach();
    let d = dump(&leaf);
    check(&d);
    assert_eq!(d["journal"]["chained"], 0);
    assert_eq!(d["slots"][0]["clean"], true);
    assert_eq!(d["slots"][0]["generation"], 2);
    assert_eq!(d["pages"]["written"], 2);
    assert_eq!(d["pages"]["sound"], 2);
}

#[test]
fn damaged_superblocks() {
    let f = Folder::new("superblocks");
    let (_, leaf) = pair(&f);
    let good = get(&leaf, 0, 512);
    put(&leaf, 100, b"x");
    let d = damaged(&leaf, &["superblock slot A at block 0: damaged"]);
    assert_eq!(
        (&d["active"], &d["geometry"]["slab_sectors"]),
        (&json!("B"), &json!(128))
    );
    put(&leaf, 4096 + 100, b"x");
    refused_after_output(&ubctl("dump {}", &[&leaf]), 3, "superblock is damaged");
    put(&leaf, 0, &[0; 8192]);
    refused_after_output(&ubctl("dump {}", &[&leaf]), 3, "not formatted");
    let d = ubctl("dump --json {}", &[&leaf]).json();
    assert_eq!(
        (&d["reason"], &d["code"]),
        (&json!("not_formatted"), &json!(3))
    );
    assert_eq!(d["slots"][0]["state"], "no superblock");

    // A newer version with a sound checksum.
    let mut newer = good;
    newer[12] = 9;
    let crc = ubcore::format::crc::block_crc(&newer, 8).unwrap();
    newer[8..12].copy_from_slice(&crc.to_le_bytes());
    put(&leaf, 0, &newer);
    refused_after_output(&ubctl("dump {}", &[&leaf]), 3, "version 9");
}

#[test]
fn damaged_pages_and_directory() {
    let f = Folder::new("pages");
    let (root, leaf) = pair(&f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(0, 256);
    union.detach();
    let g = geometry(&leaf);
    let d = dump(&leaf);
    assert_eq!(d["pages"]["written"], 2);
    let page = g.page_block(MapPage(0), Slot::A).0 * 4096;
    let byte = get(&leaf, page + 5, 1)[0];
    put(&leaf, page + 5, &[byte ^ 1]);
    let d = damaged(&leaf, &["map page is damaged at block"]);
    assert_eq!(d["pages"], json!({ "written": 2, "sound": 1 }));
    assert!(d["problems"][0]
        .as_str()
        .unwrap()
        .contains("where root slabs 0 to 255 are"));
    put(&leaf, page + 5, &[byte]);
    assert_eq!(dump(&leaf)["map"]["sectors_mapped"], 256);

    put(&leaf, g.directory_block(0, Slot::A).0 * 4096 + 40, b"\xff");
    let d = damaged(&leaf, &["page directory is damaged"]);
    assert_eq!(d["directory"][0]["sound"], false);
    assert_eq!(d["map"]["slabs_used"], 0);
}

#[test]
fn a_damaged_journal() {
    let f = Folder::new("journal");
    let (root, leaf) = pair(&f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    for n in 0..3 {
        union.write(128 * n, 8);
        union.commit();
    }
    drop(union);
    let g = geometry(&leaf);
    // The last transaction is torn, as after a power failure. That is no damage.
    let last = g.journal_block(2).0 * 4096;
    put(&leaf, last + 4000, b"x");
    let d = dump(&leaf);
    assert_eq!(
        (&d["journal"]["finished"], &d["map"]["slabs_used"]),
        (&json!(2), &json!(2))
    );
    put(&leaf, last + 4000, b"\0");
    assert_eq!(dump(&leaf)["journal"]["finished"], 3);
    // A torn block in the middle is damage, because no power failure explains it.
    put(&leaf, g.journal_block(1).0 * 4096 + 4000, b"x");
    let d = damaged(&leaf, &["journal is damaged at block 3"]);
    assert_eq!(
        (&d["journal"]["finished"], &d["map"]["slabs_used"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(d["journal"]["blocks_of_leaf"], 2);
}

#[test]
fn images_that_are_too_short() {
    let f = Folder::new("short");
    let (root, leaf) = pair(&f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(0, 8);
    union.detach();
    std::fs::File::options()
        .write(true)
        .open(&leaf)
        .unwrap()
        .set_len(4 * MIB)
        .unwrap();
    let d = damaged(&leaf, &["make the device as large as before"]);
    assert_eq!(d["map"]["sectors_mapped"], 8);
    let tiny = f.image("tiny", 4096);
    refused_after_output(&ubctl("dump {}", &[&tiny]), 3, "at least 16 sectors");
    ubctl("dump {}", &[&f.path("none")]).refused(1, &["No such file"]);
}

/// Checks an error that follows what could be shown.
#[track_caller]
fn refused_after_output(ran: &Ran, code: i32, word: &str) {
    assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
    assert!(ran.err.contains(word), "no '{word}' in: {}", ran.err);
    assert!(ran.out.contains("sectors)"), "{}", ran.out);
}
