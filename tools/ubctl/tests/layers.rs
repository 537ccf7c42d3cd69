// SPDX-License-Identifier: GPL-2.0

//! `ubctl format --layer` on images.

use std::fs;
use std::path::{Path, PathBuf};

use tool::leaf::MetadataUnion;
use tool::{get, put, ubctl, Folder, MIB};

/// Formats a leaf on what the words say.
fn format(f: &Folder, name: &str, words: &str, paths: &[&PathBuf]) -> PathBuf {
    let leaf = f.image(name, 8 * MIB);
    let mut all: Vec<_> = paths.iter().map(|p| p.as_path()).collect();
    all.push(&leaf);
    ubctl(&format!("format {words} {{}}"), &all).done();
    leaf
}

fn freeze(leaf: &Path) {
    ubctl("freeze {}", &[leaf]).done();
}

#[test]
fn a_leaf_lists_the_layers_that_it_lies_on() {
    let f = Folder::new("layers-listed");
    let root = f.root("root", 16 * MIB);
    let one = format(&f, "one", "--root {}", &[&root]);
    let mut u = MetadataUnion::attach(&root, &one);
    u.fill(100, 30);
    u.commit();
    u.detach();
    freeze(&one);
    let two = format(&f, "two", "--root {} --layer {}", &[&root, &one]);
    freeze(&two);
    // The layers below the first that is given are found where they were.
    for (name, words, paths) in [
        (
            "a",
            "--root {} --layer {} --layer {}",
            &[&root, &one, &two][..],
        ),
        ("b", "--root {} --layer {}", &[&root, &two]),
    ] {
        let leaf = format(&f, name, words, paths);
        let dump = ubctl("--json dump {}", &[&leaf]).done().json();
        let layers = dump["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for (layer, path) in layers.iter().zip([&one, &two]) {
            assert_eq!(layer["kind"], "frozen");
            assert_eq!(layer["path"], path.to_str().unwrap());
            let of = ubctl("--json dump {}", &[path]).done().json();
            assert_eq!(layer["uuid"], of["slots"][0]["uuid"]);
            assert_eq!(layer["seal"], of["slots"][0]["seal"]);
        }
        assert_eq!(dump["geometry"]["layers"], 2);
        assert_eq!(dump["slots"][0]["features_incompat"], "0x5");
        let text = ubctl("dump {}", &[&leaf]).done().out;
        assert!(
            text.contains("layers, the lowest first\n  1  frozen "),
            "{text}"
        );
        assert_eq!(ubctl("check {}", &[&leaf]).code, 0);
    }
}

#[test]
fn layers_that_do_not_fit_are_refused_before_the_first_write() {
    let f = Folder::new("layers-refused");
    let root = f.root("root", 16 * MIB);
    let one = format(&f, "one", "--root {}", &[&root]);
    let leaf = f.image("leaf", 8 * MIB);
    let blank = fs::read(&leaf).unwrap();
    let on = |root, layer| ubctl("format --root {} --layer {} {}", &[root, layer, &leaf]);
    let refused = |code, words: &[&str], root, layer| on(root, layer).refused(code, words);
    refused(
        3,
        &["layer ", "one", "not frozen", "ubctl freeze"],
        &root,
        &one,
    );
    freeze(&one);
    let two = format(&f, "two", "--root {} --layer {}", &[&root, &one]);
    freeze(&two);
    // Of two layers that were made on the same, neither lies on the other.
    let other = format(&f, "other", "--root {} --layer {}", &[&root, &one]);
    freeze(&other);
    let both = "format --root {} --layer {} --layer {} --layer {} {}";
    ubctl(both, &[&root, &one, &two, &other, &leaf]).refused(3, &["other", "made on 1 layer,"]);
    // Another root.
    let second = f.root("second", 16 * MIB);
    put(&second, 0, b"changed");
    refused(3, &["layer ", "one", "root"], &second, &one);
    let none = ubctl("format --root none --layer {} {}", &[&one, &leaf]);
    none.refused(3, &["layer ", "one", "root of 32768 sectors"]);
    // The leaf itself, the root as a layer, and nothing.
    ubctl("format --root {} --layer {} {}", &[&root, &one, &one]).refused(3, &["one"]);
    refused(3, &["not formatted"], &root, &root);
    let nothing = f.path("nothing");
    refused(1, &["No such file"], &root, &nothing);
    // A layer that moved. With its path it is found.
    let moved = f.path("moved");
    fs::rename(&one, &moved).unwrap();
    refused(1, &["one", "No such file"], &root, &two);
    ubctl(
        "format --root {} --layer {} --size 8M {}",
        &[&root, &moved, &leaf],
    )
    .refused(3, &["smaller than what lies below it"]);
    assert!(fs::read(&leaf).unwrap() == blank);
    ubctl("format --root {} --layer {} {}", &[&root, &moved, &leaf]).done();
}

#[test]
fn a_leaf_needs_no_root() {
    let f = Folder::new("layers-no-root");
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root none {}", &[&leaf]).refused(3, &["--size"]);
    let base = format(&f, "base", "--root none --size 16M", &[]);
    let dump = ubctl("--json dump {}", &[&base]).done().json();
    assert_eq!(dump["slots"][0]["features_incompat"], "0x2");
    assert_eq!(dump["geometry"]["root_sectors"], 0);
    assert_eq!(dump["geometry"]["union_sectors"], 16 * MIB / 512);
    freeze(&base);
    ubctl("format --root none --layer {} {}", &[&base, &leaf]).done();
    let root = f.root("root", 16 * MIB);
    ubctl(
        "format --root {} --layer {} {} --force",
        &[&root, &base, &leaf],
    )
    .refused(3, &["root"]);
}

#[test]
fn what_a_used_leaf_held_is_wiped_but_for_the_list() {
    let f = Folder::new("layers-rollback");
    let root = f.root("root", 16 * MIB);
    let one = format(&f, "one", "--root {}", &[&root]);
    freeze(&one);
    // A used leaf without layers has data where one with layers has its list.
    let used = f.image("used", 8 * MIB);
    fs::write(&used, vec![0x5a; 8 * MIB as usize]).unwrap();
    ubctl("format --root {} --layer {} {}", &[&root, &one, &used]).refused(3, &["looks used"]);
    ubctl(
        "format --force --root {} --layer {} {}",
        &[&root, &one, &used],
    )
    .done();
    let dump = ubctl("--json dump {}", &[&used]).done().json();
    let start = dump["geometry"]["below_list_start"].as_u64().unwrap();
    assert_eq!(get(&used, start * 4096, 4), *b"UBbl");
    assert_eq!(get(&used, 3 * 4096, 4096), [0; 4096]);
    assert_eq!(get(&used, (start + 1) * 4096, 4096), [0; 4096]);
}

#[test]
fn a_sealed_layer_takes_the_place_of_the_leaf_that_it_was_made_from() {
    let f = Folder::new("layers-sealed");
    let root = f.root("root", 16 * MIB);
    let one = format(&f, "one", "--root {}", &[&root]);
    let mut u = MetadataUnion::attach(&root, &one);
    u.fill(100, 30);
    u.detach();
    let sealed = f.path("one.sealed");
    let refused = ubctl("seal --stand-in {} {}", &[&one, &sealed]);
    refused.refused(3, &["not frozen", "ubctl freeze"]);
    freeze(&one);
    let two = format(&f, "two", "--root {} --layer {}", &[&root, &one]);
    freeze(&two);
    // Without the record the layer has the content, and is no other layer's place.
    let plain = f.path("plain.sealed");
    ubctl("seal {} {}", &[&one, &plain]).done();
    ubctl("seal --stand-in {} {}", &[&one, &sealed]).done();
    assert_eq!(get(&plain, 0, 4096), get(&sealed, 0, 4096));
    let leaf = f.image("leaf", 8 * MIB);
    let on = |layer| {
        let words = "format --root {} --layer {} --layer {} {}";
        ubctl(words, &[&root, layer, &two, &leaf])
    };
    on(&plain).refused(3, &["two", "not the one that the leaf was made on"]);
    on(&sealed).done();
    let dump = ubctl("--json dump {}", &[&leaf]).done().json();
    assert_eq!(dump["layers"][0]["kind"], "sealed");
    assert_eq!(dump["layers"][1]["kind"], "frozen");
    // On a sealed layer alone.
    ubctl(
        "format --force --root {} --layer {} {}",
        &[&root, &plain, &leaf],
    )
    .done();
    let dump = ubctl("--json dump {}", &[&leaf]).done().json();
    let verified = ubctl("--json verify {}", &[&plain]).done().json();
    assert_eq!(dump["layers"][0]["digest"], verified["digest"]);
}

#[test]
fn a_refusal_names_the_layer_that_was_expected_and_the_one_found() {
    let f = Folder::new("layers-expected");
    let root = f.root("root", 16 * MIB);
    let one = format(&f, "one", "--root {}", &[&root]);
    let again = f.path("again");
    fs::copy(&one, &again).unwrap();
    freeze(&one);
    freeze(&again);
    let two = format(&f, "two", "--root {} --layer {}", &[&root, &one]);
    freeze(&two);
    let low = f.path("low.sealed");
    ubctl("squash {} {} {}", &[&one, &two, &low]).done();
    let three = format(&f, "three", "--root {} --layer {}", &[&root, &two]);
    let other = format(&f, "other", "--root {} --layer {}", &[&root, &two]);
    freeze(&three);
    freeze(&other);
    let four = format(&f, "four", "--root {} --layer {}", &[&root, &three]);
    freeze(&four);
    let on = |layers: &[&PathBuf], wanted: &[String]| {
        let leaf = f.image("leaf", 8 * MIB);
        let words = "format --root {}".to_owned() + &" --layer {}".repeat(layers.len()) + " {}";
        let mut all = vec![root.as_path()];
        all.extend(layers.iter().map(|layer| layer.as_path()));
        all.push(&leaf);
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        ubctl(&words, &all).refused(3, &wanted);
    };
    let slot = |path: &PathBuf, field: &str| {
        let dump = ubctl("--json dump {}", &[path]).done().json();
        dump["slots"][0][field].as_str().unwrap().to_owned()
    };
    let frozen = |path: &PathBuf| format!("frozen {}", slot(path, "uuid"));
    let at = |path: &PathBuf| path.display().to_string();
    let expected = |path, by, n, of| {
        let (id, by, was) = (frozen(path), at(by), at(path));
        format!("; expected: {id}, which {by} lists as layer {n} of {of} and was {was}; found: ")
    };
    let found = |path| format!("found: {}, {}", at(path), frozen(path));
    // Another leaf on the same layers, also above one that stands for two.
    let wanted = [expected(&three, &four, 3, 3), found(&other)];
    on(&[&one, &two, &other, &four], &wanted);
    on(&[&low, &other, &four], &wanted);
    // None, and one too many.
    let none = expected(&three, &four, 3, 3) + "no layer";
    on(&[&one, &two, &four], &[none]);
    let more = format!("no layer above the 1 that {} lists; ", at(&two)) + &found(&two);
    on(&[&one, &two, &two], &[more]);
    // A copy that was frozen by itself has another seal.
    let sealed = |path| format!("{} with the seal {}", frozen(path), slot(path, "seal"));
    let wanted = [
        format!("expected: {}, which ", sealed(&one)),
        format!("found: {}, {}", at(&again), sealed(&again)),
    ];
    on(&[&again, &two], &wanted);
}

/// Each block of such a list is sound by itself, and attach refuses the leaf.
#[test]
fn a_list_of_other_layers_than_those_of_the_chain_is_found_by_check() {
    let f = Folder::new("layers-chain");
    let root = f.root("root", 16 * MIB);
    let layer = format(&f, "layer", "--root {}", &[&root]);
    freeze(&layer);
    let leaf = format(&f, "leaf", "--root {} --layer {}", &[&root, &layer]);
    assert_eq!(ubctl("check {}", &[&leaf]).code, 0);
    let at = tool::leaf::geometry(&leaf).below_list_block(0).0 * 4096;
    let mut block = get(&leaf, at, 4096);
    // The identity of the layer, the second entry.
    block[40 + 312 + 16] ^= 1;
    block[4..8].fill(0);
    let crc = ubcore::format::crc::crc32c(0, &block);
    block[4..8].copy_from_slice(&crc.to_le_bytes());
    put(&leaf, at, &block);
    let check = ubctl("check {} --json", &[&leaf]);
    let finding = &check.json()["findings"][0];
    assert_eq!((check.code, &finding["kind"]), (4, &"below_list".into()));
    assert_eq!(finding["block"], at / 4096);
    assert_eq!(ubctl("check {} --repair", &[&leaf]).code, 4);
    assert!(get(&leaf, at, 4096) == block);
}
