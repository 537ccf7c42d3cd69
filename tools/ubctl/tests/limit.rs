// SPDX-License-Identifier: GPL-2.0

//! `ubctl limit` on images.

use std::fs;

use tool::leaf::pair;
use tool::{ubctl, Folder, MIB};

#[test]
fn a_limit_is_set_and_taken_away() {
    let f = Folder::new("limit");
    let (root, leaf) = pair(&f);
    let dump = || ubctl("--json dump {}", &[&leaf]).done().json();
    let slab = dump()["geometry"]["slab_sectors"].as_u64().unwrap() * 512;
    let before = fs::read(&leaf).unwrap();
    // Rounded down to slabs.
    let size = (3 * slab + slab / 2).to_string();
    let set = |size: &str| {
        ubctl(&format!("--json limit {{}} {size}"), &[&leaf])
            .done()
            .json()
    };
    let limited = set(&size);
    assert_eq!(limited["limit_slabs"], 3);
    assert_eq!(limited["limit_bytes"], 3 * slab);
    assert_eq!(limited["device"], serde_json::Value::Null);
    for slot in [0, 1] {
        assert_eq!(dump()["slots"][slot]["features_compat"], "0x1");
        assert_eq!(dump()["slots"][slot]["limit_slabs"], 3);
    }
    let limit = || {
        let text = ubctl("dump {}", &[&leaf]).done().out;
        let line = text.lines().find(|line| line.trim().starts_with("limit "));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(limit().as_deref(), Some("limit 3 slabs (192 KiB)"));
    // Only the superblocks are written.
    let after = fs::read(&leaf).unwrap();
    assert!(after[8192..] == before[8192..]);
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
    let none = set("none");
    assert_eq!(none["limit_slabs"], serde_json::Value::Null);
    assert_eq!(dump()["slots"][0]["features_compat"], "0x0");
    assert_eq!(dump()["slots"][0]["limit_slabs"], serde_json::Value::Null);
    assert_eq!(limit(), None);
    // More than the leaf has is kept, because the leaf can grow.
    let large = set("100G");
    assert_eq!(large["limit_bytes"].as_u64(), Some(100 << 30));
    assert!(large["slabs"].as_u64() < large["limit_slabs"].as_u64());
    assert!(ubctl("limit {} 1M", &[&leaf])
        .done()
        .out
        .contains("may use 1 MiB"));
}

#[test]
fn what_cannot_be_limited_is_refused() {
    let f = Folder::new("limit-not");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("limit {} 1M", &[&leaf]).refused(3, &["not formatted"]);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    ubctl("limit {} 1", &[&leaf]).refused(3, &["below one slab"]);
    ubctl("limit {} much", &[&leaf]).refused(2, &["unknown unit"]);
    ubctl("freeze {}", &[&leaf]).done();
    let frozen = fs::read(&leaf).unwrap();
    ubctl("limit {} 1M", &[&leaf]).refused(3, &["frozen"]);
    assert!(fs::read(&leaf).unwrap() == frozen);
}
