// SPDX-License-Identifier: GPL-2.0

//! `ubctl orphans` and `ubctl gc`, on images.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tool::leaf::{pair, MetadataUnion};
use tool::{ubctl, Folder};

/// Returns the reasons of each leaf among the files of a directory.
fn reasons(folder: &Path, below: &[&Path]) -> Vec<(String, Vec<String>)> {
    let line = format!("orphans {{}} {} --json", "--in {} ".repeat(below.len()));
    let paths = [&[folder], below].concat();
    let said = ubctl(&line, &paths).done().json();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let leaf = |leaf: &Value| {
        let name = word(&leaf["leaf"]).rsplit('/').next().unwrap().to_owned();
        let list = leaf["reasons"].as_array().unwrap();
        (name, list.iter().map(|r| word(&r["why"])).collect())
    };
    said["leaves"]
        .as_array()
        .unwrap()
        .iter()
        .map(leaf)
        .collect()
}

fn orphan(name: &str, reasons: &[&str]) -> (String, Vec<String>) {
    let reasons = reasons.iter().map(|&r| r.to_owned());
    (name.to_owned(), reasons.collect())
}

#[test]
fn a_leaf_is_an_orphan_without_its_detach_or_what_it_lies_on() {
    let f = Folder::new("orphans");
    let (root, leaf) = pair(&f);
    let folder = f.path("");
    assert_eq!(reasons(&folder, &[]), []);
    let mut union = MetadataUnion::attach(&root, &leaf);
    let checkpoint = union.committer.checkpoint(&union.map, &mut union.device);
    checkpoint.unwrap();
    union.write(100, 300);
    union.commit();
    // It is in use.
    assert_eq!(reasons(&folder, &[]), []);
    drop(union);
    assert_eq!(reasons(&folder, &[]), [orphan("leaf", &["not_clean"])]);
    MetadataUnion::attach(&root, &leaf).detach();

    // A layer, and a leaf on it.
    ubctl("freeze {}", &[&leaf]).done();
    let two = f.image("two", 8 << 20);
    ubctl("format --root {} --layer {} {}", &[&root, &leaf, &two]).done();
    assert_eq!(reasons(&folder, &[]), []);
    let moved = f.path("moved");
    fs::create_dir(&moved).unwrap();
    fs::rename(&root, moved.join("gold")).unwrap();
    let no_root = [orphan("leaf", &["no_root"]), orphan("two", &["no_root"])];
    assert_eq!(reasons(&folder, &[]), no_root);
    assert_eq!(reasons(&folder, &[&moved]), []);
    // A root that is there twice counts as found.
    fs::copy(moved.join("gold"), moved.join("copy")).unwrap();
    assert_eq!(reasons(&folder, &[&moved]), []);
    fs::rename(&leaf, moved.join("base")).unwrap();
    assert_eq!(
        reasons(&folder, &[]),
        [orphan("two", &["no_root", "no_layer"])]
    );
    assert_eq!(reasons(&folder, &[&moved]), []);
}
