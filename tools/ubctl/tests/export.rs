// SPDX-License-Identifier: GPL-2.0

//! `ubctl export` and `import`, on images.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use tool::leaf::MetadataUnion;
use tool::{command, put, ran, ubctl, Folder, Ran, MIB};

fn root_and_leaf(f: &Folder) -> (PathBuf, PathBuf) {
    let (root, leaf) = (f.root("root", 16 * MIB), f.image("leaf", 12 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let mut u = MetadataUnion::attach(&root, &leaf);
    u.fill(3, 5000);
    u.fill(20_000, 9);
    u.commit();
    u.detach();
    (root, leaf)
}

fn export(line: &str, what: &Path) -> Vec<u8> {
    let mut command = command();
    command
        .arg("export")
        .arg(what)
        .args(line.split_whitespace());
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{err}");
    output.stdout
}

/// Runs an import of a stream.
fn import(line: &str, paths: &[&Path], stream: &[u8], f: &Folder) -> Ran {
    let file = f.path("stream");
    fs::write(&file, stream).unwrap();
    let mut command = command();
    command.arg("import");
    let mut paths = paths.iter();
    for word in line.split_whitespace() {
        match word {
            "{}" => command.arg(paths.next().unwrap()),
            word => command.arg(word),
        };
    }
    command.stdin(File::open(&file).unwrap());
    ran(&command.output().unwrap())
}

fn names(f: &Folder) -> Vec<String> {
    let list = fs::read_dir(f.path("")).unwrap();
    let mut names: Vec<String> = list
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != "stream");
    names.sort();
    names
}

#[test]
fn what_is_imported_is_what_would_be_sealed() {
    let f = Folder::new("export");
    let (root, leaf) = root_and_leaf(&f);
    let (sealed, out) = (f.path("sealed"), f.path("out"));
    let before = fs::read(&leaf).unwrap();
    let stream = export("", &leaf);
    assert!(fs::read(&leaf).unwrap() == before);
    // 5000 sectors of a byte each.
    assert!(stream.len() < 64 * 1024, "{}", stream.len());
    let json = import("--root {} {} --json", &[&root, &out], &stream, &f)
        .done()
        .json();
    let want = ubctl("seal {} {} --json", &[&leaf, &sealed]).done().json();
    assert!(fs::read(&out).unwrap() == fs::read(&sealed).unwrap());
    for field in [
        "digest",
        "sectors",
        "extents",
        "data_sectors",
        "bytes",
        "offset",
    ] {
        assert_eq!(json[field], want[field], "{field}");
    }
    assert_eq!(
        (&json["checked"], &json["stands_for"]),
        (&true.into(), &0.into())
    );
    // The same again, from the layer.
    let again = export("--level 19 --json", &out);
    let line = "--root {} --force {}";
    let text = import(line, &[&root, &out], &again, &f).done().out;
    assert!(text.contains("a sealed layer does not say"), "{text}");
    assert!(fs::read(&out).unwrap() == fs::read(&sealed).unwrap());
    // It is appended, and has its offset.
    let line = "--root {} --append {} --json";
    let json = import(line, &[&root, &out], &stream, &f).done().json();
    assert_eq!(
        json["offset"].as_u64().unwrap(),
        fs::metadata(&sealed).unwrap().len()
    );
    // A leaf on it reads as the old one.
    let new = f.image("new", 12 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &out, &new]).done();
    let text = ubctl("diff --root {} {} {}", &[&root, &leaf, &new])
        .done()
        .out;
    assert!(text.starts_with("0 sectors"), "{text}");
}

#[test]
fn a_frozen_leaf_keeps_its_place() {
    let f = Folder::new("export-frozen");
    let (root, leaf) = root_and_leaf(&f);
    ubctl("freeze {}", &[&leaf]).done();
    let top = f.image("top", 12 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &leaf, &top]).done();
    ubctl("freeze {}", &[&top]).done();
    let (low, high) = (f.path("low"), f.path("high"));
    let json = import(
        "--root {} {} --json",
        &[&root, &low],
        &export("", &leaf),
        &f,
    )
    .done()
    .json();
    assert_eq!(json["stands_for"], 1);
    // On the leaf itself, and on what stands for it.
    let stream = export("", &top);
    for layer in [&leaf, &low] {
        let line = "--root {} --layer {} --force {} --json";
        let json = import(line, &[&root, layer, &high], &stream, &f)
            .done()
            .json();
        assert_eq!(json["checked"], true);
    }
    let last = f.image("last", 12 * MIB);
    let line = "format --root {} --layer {} --layer {} {}";
    ubctl(line, &[&root, &low, &high, &last]).done();
}

#[test]
fn a_stream_of_another_root_or_layer_is_refused_first() {
    let f = Folder::new("export-other");
    let (root, leaf) = root_and_leaf(&f);
    let stream = export("", &leaf);
    let (out, other, small) = (
        f.path("out"),
        f.root("other", 16 * MIB),
        f.root("small", 8 * MIB),
    );
    put(&other, 0, b"another root");
    let before = names(&f);
    let refused = |line: &str, paths: &[&Path], words: &[&str]| {
        import(line, paths, &stream, &f).refused(3, words);
        assert_eq!(names(&f), before);
    };
    refused(
        "--root {} {}",
        &[&other, &out],
        &["content", "out was not made"],
    );
    refused("--root {} {}", &[&small, &out], &["was not made"]);
    refused("--root none {}", &[&out], &["was not made"]);
    let json = import("--root {} {} --json", &[&other, &out], &stream, &f).json();
    assert_eq!(json["reason"], "wrong_root");
    import("{}", &[&out], &stream, &f).refused(2, &["--root"]);
    import("--unchecked {}", &[&out], &stream, &f).done();
    fs::remove_file(&out).unwrap();
    // A layer too many, and another one.
    ubctl("freeze {}", &[&leaf]).done();
    let line = "--root {} --layer {} {}";
    import(line, &[&root, &leaf, &out], &stream, &f).refused(3, &["was not made"]);
    let (a, b) = (f.image("a", 12 * MIB), f.image("b", 12 * MIB));
    for leaf in [&a, &b] {
        ubctl("format --root {} {}", &[&root, leaf]).done();
        ubctl("freeze {}", &[leaf]).done();
    }
    let top = f.image("top", 12 * MIB);
    ubctl("format --root {} --layer {} {}", &[&root, &a, &top]).done();
    let json = import(
        "--root {} --layer {} {} --json",
        &[&root, &b, &out],
        &export("", &top),
        &f,
    );
    assert_eq!(json.json()["reason"], "wrong_layer");
}

#[test]
fn of_a_stream_that_is_cut_or_damaged_nothing_is_left() {
    let f = Folder::new("export-cut");
    let (root, leaf) = root_and_leaf(&f);
    let stream = export("--level 1", &leaf);
    let out = f.path("out");
    fs::write(&out, "the old file").unwrap();
    let before = names(&f);
    let line = "--root {} --force {}";
    let step = stream.len() / 40;
    for at in (0..stream.len()).step_by(step) {
        let ran = import(line, &[&root, &out], &stream[..at], &f);
        ran.refused(3, &["ends too early", "is as it was before"]);
        let mut other = stream.clone();
        other[at] ^= 0x10;
        import(line, &[&root, &out], &other, &f).refused(3, &["is as it was before"]);
        assert_eq!(names(&f), before);
        assert_eq!(fs::read(&out).unwrap(), b"the old file");
    }
    // To a file of layers, which gets its length back.
    ubctl("seal --force {} {}", &[&leaf, &out]).done();
    let whole = fs::read(&out).unwrap();
    let cut = &stream[..stream.len() - 9];
    import("--root {} --append {}", &[&root, &out], cut, &f).refused(3, &["as it was before"]);
    assert!(fs::read(&out).unwrap() == whole);
    import("--root {} {}", &[&root, &f.path("new")], &[7; 999], &f).refused(3, &["no stream"]);
}

/// The command waits for a stream that does not come.
#[test]
fn a_signal_ends_an_import_and_leaves_nothing() {
    let f = Folder::new("export-signal");
    let (root, leaf) = root_and_leaf(&f);
    let stream = export("", &leaf);
    let out = f.path("out");
    let before = names(&f);
    let mut import = command();
    import.arg("import").arg("--root").arg(&root).arg(&out);
    import
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let mut import = import.spawn().unwrap();
    let mut pipe = import.stdin.take().unwrap();
    pipe.write_all(&stream[..stream.len() / 2]).unwrap();
    // Until it has begun to write.
    let is_there = || names(&f).iter().any(|name| name.starts_with(".out.ubctl-"));
    while !is_there() {
        sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&import);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = import.wait_with_output().unwrap();
    drop(pipe);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(
        err.contains("interrupted by SIGINT (") && err.contains("out was not made"),
        "{err}"
    );
    assert_eq!(output.status.code(), None);
    assert_eq!(names(&f), before);
    super::export::import("--root {} {}", &[&root, &out], &stream, &f).done();
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let f = Folder::new("export-refused");
    let (root, leaf) = root_and_leaf(&f);
    ubctl("export {}", &[&root]).refused(3, &["not formatted"]);
    ubctl("export {} --level 20", &[&leaf]).refused(2, &["--level"]);
    // In use: another program holds the image.
    let holder = File::open(&leaf).unwrap();
    rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    ubctl("--no-wait export {}", &[&leaf]).refused(4, &["in use", "ubctl freeze UNION"]);
    drop(holder);
    // Standard output stays free of the error.
    let ran = ubctl("export {} --json", &[&root]);
    assert!(ran.out.is_empty(), "{}", ran.out);
    let json: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!(json["reason"], "not_formatted");
    let out = f.path("out");
    import("--unchecked --root none {}", &[&out], b"", &f).refused(2, &["--unchecked"]);
}
