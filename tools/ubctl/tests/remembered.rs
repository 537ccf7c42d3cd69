// SPDX-License-Identifier: GPL-2.0

//! Where the root of a leaf was when the leaf was formatted: what `format` writes, what `create`
//! finds there, and what it says if that is not the root.

use std::fs;
use std::path::Path;

use tool::leaf::geometry;
use tool::{command, get, put, ran, ubctl, Folder, MIB};
use ubcore::error::Role;
use ubctl::below::listed_root;
use ubctl::device::{Access, Device};
use ubctl::error::Fail;
use ubctl::loaded;

/// Returns where a dump says that the root was.
fn root_path(leaf: &Path) -> serde_json::Value {
    ubctl("--json dump {}", &[leaf]).done().json()["root_path"].clone()
}

/// Returns the root as `create` without `--root` finds it.
fn found(leaf: &Path) -> Result<String, Fail> {
    let mut leaf = Device::open(leaf, Role::Leaf, Access::Read)?;
    let sb = loaded::superblock(&mut leaf)?;
    listed_root(&leaf, &sb).map(|path| path.display().to_string())
}

/// Checks that the leaf's root is refused, with each of these words.
#[track_caller]
fn refused(leaf: &Path, code: u8, reason: &str, words: &[&str]) {
    let fail = found(leaf).unwrap_err();
    assert_eq!((fail.code, fail.reason), (code, reason), "{fail}");
    let next = "name the root with --root, or with --in where to look for it";
    for word in words.iter().chain(&[leaf.to_str().unwrap(), next]) {
        assert!(fail.message.contains(word), "no '{word}' in: {fail}");
    }
}

#[test]
fn a_root_is_found_where_it_was() {
    let f = Folder::new("remembered");
    let root = f.root("root", 16 * MIB);
    let leaf = f.image("leaf", 8 * MIB);
    // A relative path is remembered as an absolute one, and a link as a link.
    std::os::unix::fs::symlink("root", f.path("link")).unwrap();
    for (given, wanted) in [("root", "root"), ("./link", "link")] {
        let mut format = command();
        format.args(["format", "--force", "--root", given, "leaf"]);
        let output = format.current_dir(f.path("")).output();
        ran(&output.unwrap()).done();
        let wanted = f.path(wanted).display().to_string();
        assert_eq!(root_path(&leaf), wanted.as_str());
        assert_eq!(found(&leaf).unwrap(), wanted);
        let text = ubctl("dump {}", &[&leaf]).done().out;
        assert!(text.contains(&format!("root: was {wanted}\n")), "{text}");
        assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
    }
    // A leaf on layers has the root before them.
    ubctl("freeze {}", &[&leaf]).done();
    let upper = f.image("upper", 8 * MIB);
    let words = "format --root {} --layer {} {}";
    ubctl(words, &[&root, &leaf, &upper]).done();
    assert_eq!(found(&upper).unwrap(), root.display().to_string());
    let dump = ubctl("--json dump {}", &[&upper]).done().json();
    assert_eq!(dump["layers"][0]["path"], leaf.to_str().unwrap());
    // Without a root there is no path.
    let none = f.image("none", 8 * MIB);
    ubctl("format --root none --size 16M {}", &[&none]).done();
    assert!(root_path(&none).is_null());
}

#[test]
fn a_listed_path_is_printed_in_one_line_and_controls_no_terminal() {
    let f = Folder::new("remembered-controls");
    let name = "root\n\u{1b}[2Jubctl: all is well";
    let root = f.root(name, 16 * MIB);
    let [leaf, upper] = ["leaf", "upper\r\u{9b}2J"].map(|name| f.image(name, 8 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    ubctl("freeze {}", &[&leaf]).done();
    let layer = f.path("layer\n\u{1b}[2J");
    fs::rename(&leaf, &layer).unwrap();
    ubctl("format --root {} --layer {} {}", &[&root, &layer, &upper]).done();
    let text = ubctl("dump {}", &[&upper]).done().out;
    assert!(
        text.contains("/root\\n\\u{1b}[2Jubctl: all is well\n"),
        "{text}"
    );
    assert!(text.contains("/layer\\n\\u{1b}[2J\n"), "{text}");
    let json = ubctl("--json dump {}", &[&upper]).done().json();
    assert!(json["root_path"].as_str().unwrap().ends_with(name));
    fs::remove_file(&layer).unwrap();
    let out = f.path("out");
    let line = "publish --leaf {} {}";
    let without_layer = ubctl(line, &[&upper, &out]);
    fs::remove_file(&root).unwrap();
    let without_root = ubctl(line, &[&upper, &out]);
    for said in [without_layer, without_root] {
        assert_eq!(
            (said.code, said.err.lines().count()),
            (1, 1),
            "{}",
            said.err
        );
        let control = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!control(&said.err) && !control(&text), "{}{text}", said.err);
    }
}

#[test]
fn what_is_not_the_root_is_refused() {
    let f = Folder::new("remembered-refused");
    let root = f.root("root", 16 * MIB);
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let dump = ubctl("--json dump {}", &[&leaf]).done().json();
    let digest = dump["slots"][0]["root_digest"].as_str().unwrap();
    let path = root.to_str().unwrap();
    let wanted =
        format!("made on a root of 32768 sectors with the digest {digest}, which was {path}");
    // It moved.
    fs::rename(&root, f.path("moved")).unwrap();
    let gone = format!("{wanted}, but ");
    refused(&leaf, 1, "not_found", &[&gone, "No such file or directory"]);
    fs::create_dir(&root).unwrap();
    refused(&leaf, 3, "not_a_device", &[&gone]);
    fs::remove_dir(&root).unwrap();
    // Another root lies there: of another size, of other content, a leaf.
    f.root("root", 8 * MIB);
    let other = format!("{wanted}, where a device of 16384 sectors is now");
    refused(&leaf, 3, "wrong_root", &[&other]);
    f.root("root", 16 * MIB);
    put(&root, 0, b"mounted");
    let other = format!("{wanted}, which has the digest ");
    refused(&leaf, 3, "wrong_root", &[&other]);
    f.image("root", 16 * MIB);
    ubctl("format --root {} {}", &[&f.path("moved"), &root]).done();
    refused(&leaf, 3, "wrong_root", &[&other]);
    fs::rename(f.path("moved"), &root).unwrap();
    assert_eq!(found(&leaf).unwrap(), path);
}

#[test]
fn a_path_that_is_too_long_is_not_remembered() {
    let f = Folder::new("remembered-long");
    let long = f.path(&format!("{}/{}", "d".repeat(100), "e".repeat(200)));
    fs::create_dir_all(&long).unwrap();
    let root = long.join("root");
    fs::rename(f.root("root", 16 * MIB), &root).unwrap();
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    assert_eq!(root_path(&leaf), "");
    let text = ubctl("dump {}", &[&leaf]).done().out;
    assert!(
        text.contains("root: where it was is not recorded\n"),
        "{text}"
    );
    refused(&leaf, 2, "usage", &["and does not say where that was"]);
}

/// The path is lost with its block, and nothing else is.
#[test]
fn a_damaged_list_with_only_the_root_is_repaired_without_the_path() {
    let f = Folder::new("remembered-damage");
    let root = f.root("root", 16 * MIB);
    let leaf = f.image("leaf", 8 * MIB);
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let at = geometry(&leaf).below_list_block(0).0 * 4096;
    assert_eq!(get(&leaf, at, 4), *b"UBbl");
    put(&leaf, at + 200, b"rot");
    refused(&leaf, 3, "damaged", &["where that was is lost"]);
    let dump = ubctl("dump {}", &[&leaf]);
    dump.refused_after(3, &["list of root and layers", "where the root was"]);
    let check = ubctl("check {} --json --root {}", &[&leaf, &root]);
    let finding = &check.json()["findings"][0];
    assert_eq!((check.code, &finding["grade"]), (4, &"minor".into()));
    assert_eq!(finding["kind"], "root_entry");
    assert_eq!(finding["block"], at / 4096);
    let repair = ubctl("check {} --repair", &[&leaf]);
    assert_eq!(repair.code, 1, "{}", repair.out);
    assert_eq!(ubctl("check {} --root {}", &[&leaf, &root]).code, 0);
    assert_eq!(root_path(&leaf), "");
}

#[test]
fn a_layer_that_has_moved_is_named_with_its_leaf() {
    let f = Folder::new("remembered-layer");
    let root = f.root("root", 16 * MIB);
    let [low, high, leaf, new] = ["low", "high", "leaf", "new"].map(|n| f.image(n, 8 * MIB));
    ubctl("format --root {} {}", &[&root, &low]).done();
    ubctl("freeze {}", &[&low]).done();
    let words = "format --root {} --layer {} {}";
    ubctl(words, &[&root, &low, &high]).done();
    ubctl("freeze {}", &[&high]).done();
    ubctl(words, &[&root, &high, &leaf]).done();
    let uuid = ubctl("--json dump {}", &[&leaf]).done().json()["layers"][1].clone();
    assert_eq!(uuid["path"], high.to_str().unwrap());
    fs::rename(&high, f.path("moved")).unwrap();
    let out = f.path("out");
    let said = ubctl("publish --leaf {} {}", &[&leaf, &out]);
    let text = format!(
        "{} lies on layer 2 of 2, frozen {}, which was {}, but cannot open {}: No such file or \
         directory; name all layers with --layer, the lowest first, or with --in where to look",
        leaf.display(),
        uuid["uuid"].as_str().unwrap(),
        high.display(),
        high.display()
    );
    said.refused(1, &[&text]);
    // The root's message has no advice about the name either.
    fs::rename(f.path("moved"), &high).unwrap();
    fs::rename(&root, f.path("other")).unwrap();
    let said = ubctl("publish --leaf {} {}", &[&leaf, &out]);
    said.refused(1, &["No such file or directory; name the root with --root"]);
    // A format has no places to look.
    fs::rename(&low, f.path("moved")).unwrap();
    let said = ubctl(words, &[&f.path("other"), &high, &new]);
    assert!(!said.err.contains("--in"), "{}", said.err);
    said.refused(
        1,
        &[
            "high lies on layer 1 of 1, frozen ",
            "name all layers with --layer",
        ],
    );
}
