// SPDX-License-Identifier: GPL-2.0

//! Sealed layers that lie one behind another in one file, and names with an offset.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tool::leaf::MetadataUnion;
use tool::{command, get, put, ubctl, Folder, MIB};

/// Makes a frozen leaf, on a layer or none.
fn frozen(f: &Folder, name: &str, root: &Path, below: Option<&Path>, sector: u64) -> PathBuf {
    let leaf = f.image(name, 8 * MIB);
    match below {
        None => ubctl("format --root {} {}", &[root, &leaf]).done(),
        Some(layer) => ubctl("format --root {} --layer {} {}", &[root, layer, &leaf]).done(),
    };
    let mut u = MetadataUnion::attach(root, &leaf);
    u.fill(sector, 300);
    u.detach();
    ubctl("freeze {}", &[&leaf]).done();
    leaf
}

fn at(path: &Path, offset: &Value) -> PathBuf {
    PathBuf::from(format!("{}@{offset}", path.display()))
}

/// Returns what a union reads as.
fn published(f: &Folder, line: &str, paths: &[&Path]) -> Vec<u8> {
    let out = f.path("published");
    let mut all = paths.to_vec();
    all.push(&out);
    ubctl(&format!("publish --force {line} {{}}"), &all).done();
    fs::read(out).unwrap()
}

#[test]
fn layers_lie_one_behind_another_in_a_file() {
    let f = Folder::new("append");
    let root = f.root("root", 16 * MIB);
    let one = frozen(&f, "one", &root, None, 100);
    let two = frozen(&f, "two", &root, Some(&one), 250);
    let all = f.path("all.sealed");
    let first = ubctl("seal --stand-in --append --json {} {}", &[&one, &all]);
    assert_eq!(first.done().json()["offset"], 0);
    let before = fs::read(&all).unwrap();
    let line = "squash --append --json {} {}";
    let offset = ubctl(line, &[&two, &all]).done().json()["offset"].clone();
    assert_eq!(offset, before.len());
    let text = ubctl("seal --append {} {}", &[&one, &all]).done().out;
    let whole = fs::read(&all).unwrap();
    assert!(whole.starts_with(&before));
    assert!(whole.ends_with(&before[8192..]));
    let third = whole.len() - before.len();
    assert!(
        text.contains(&format!("all.sealed@{third}: sealed layer of ")),
        "{text}"
    );

    // Each of them is whole, and knows its place.
    let second = at(&all, &offset);
    let said = ubctl("verify --json {}", &[&second]).done().json();
    assert_eq!(
        (&said["offset"], &said["stand_in"]["layers"]),
        (&offset, &1.into())
    );
    let text = ubctl("verify {}", &[&second]).done().out;
    assert!(
        text.contains(&format!("all.sealed@{offset}: a sealed layer, whole")),
        "{text}"
    );
    let rows = ubctl("du --json {} {}", &[&all, &second]).done().json();
    assert_eq!(rows["layers"][0]["visible_data_sectors"], 150);
    assert_eq!(rows["layers"][1]["layer"], second.to_str().unwrap());

    // They take the places of the frozen leaves.
    let leaf = f.image("leaf", 8 * MIB);
    let line = "format --root {} --layer {} --layer {} {}";
    ubctl(line, &[&root, &all, &second, &leaf]).done();
    let dump = ubctl("dump --json {}", &[&leaf]).done().json();
    let listed = &dump["layers"];
    assert_eq!(
        (&listed[0]["offset"], &listed[1]["offset"]),
        (&0.into(), &offset)
    );
    assert_eq!(listed[1]["path"], all.to_str().unwrap());
    let wanted = published(&f, "--root {} --layer {}", &[&root, &two]);
    assert!(published(&f, "--root {} --leaf {}", &[&root, &leaf]) == wanted);
    let line = "--root {} --layer {} --layer {}";
    assert!(published(&f, line, &[&root, &all, &second]) == wanted);

    // They are found where they moved, unless two are the same.
    let inside = f.path("inside");
    fs::create_dir(&inside).unwrap();
    let moved = inside.join("moved");
    fs::rename(&all, &moved).unwrap();
    let line = "diff --root {} --in {} {} {}";
    let differ = ubctl(line, &[&root, &inside, &leaf, &leaf]);
    differ.refused(
        3,
        &["layer 1, which was", "moved, ", &format!("moved@{third}")],
    );
    fs::write(&moved, &whole[..third]).unwrap();
    let said = ubctl(line, &[&root, &inside, &leaf, &leaf]).done().out;
    assert!(said.starts_with("0 sectors"), "{said}");
}

#[test]
fn what_is_not_there_for_an_append_is_refused() {
    let f = Folder::new("append-refused");
    let root = f.root("root", 16 * MIB);
    let one = frozen(&f, "one", &root, None, 100);
    let all = f.path("all.sealed");
    let append =
        |options: &str| ubctl(&format!("seal --append {options} {{}} {{}}"), &[&one, &all]);
    fs::write(&all, "something").unwrap();
    append("").refused(3, &["does not begin with a sealed layer"]);
    append("--force").refused(3, &["does not begin with a sealed layer"]);
    assert_eq!(fs::read(&all).unwrap(), b"something");
    fs::remove_file(&all).unwrap();
    append("").done();
    let before = fs::read(&all).unwrap();
    // Bytes that are not a layer follow.
    fs::write(&all, [&before[..], b"tail"].concat()).unwrap();
    append("").refused(3, &["looks used", &format!("at byte {}", before.len())]);
    append("--force").done();
    let double = fs::read(&all).unwrap();
    assert!(double == [&before[..], &before[..]].concat());
    // A damaged layer, and what follows it, stay.
    put(&all, before.len() as u64 + 100, b"rot");
    append("--force").refused(3, &[&format!("@{}", before.len()), "is damaged"]);
    // A layer of the file cannot be merged into the file.
    fs::write(&all, &before).unwrap();
    ubctl("squash --append {} {}", &[&all, &all]).refused(3, &["are one device or share sectors"]);
    assert!(fs::read(&all).unwrap() == before);
}

/// A signal ends the command, and the file is as it was.
#[test]
fn an_interrupted_append_leaves_the_other_layers() {
    let f = Folder::new("append-signal");
    let root = f.image("root", 512 * MIB);
    let one = f.image("one", 600 * MIB);
    ubctl("format --root {} {}", &[&root, &one]).done();
    let mut u = MetadataUnion::attach(&root, &one);
    u.fill(0, 2000);
    u.detach();
    let all = f.path("all.sealed");
    ubctl("seal {} {}", &[&one, &all]).done();
    let before = fs::read(&all).unwrap();
    let mut u = MetadataUnion::attach(&root, &one);
    u.write(0, 512 * 2048);
    u.detach();
    for _ in 0..20 {
        let mut child = command()
            .args(["seal", "--append"])
            .args([&one, &all])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let has_begun = || fs::metadata(&all).unwrap().len() > before.len() as u64;
        while !has_begun() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        let line = format!("kill -INT {}", child.id());
        let _ = Command::new("bash").args(["-c", &line]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            fs::write(&all, &before).unwrap();
            continue;
        }
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), None, "{said}");
        assert!(said.contains("all.sealed is as it was before"), "{said}");
        assert!(fs::read(&all).unwrap() == before);
        return;
    }
    panic!("each seal was done before its signal");
}

#[test]
fn a_name_may_have_an_at() {
    let f = Folder::new("append-at");
    let root = f.root("root", 16 * MIB);
    let one = frozen(&f, "one", &root, None, 100);
    let odd = f.path("layer@4096");
    ubctl("seal {} {}", &[&one, &odd]).done();
    ubctl("verify {}", &[&odd]).refused(1, &["layer", "No such file"]);
    ubctl("verify {}", &[&at(&odd, &0.into())]).done();
    assert_eq!(get(&odd, 0, 8), *b"UBSEALED");
}
