// SPDX-License-Identifier: GPL-2.0

//! `ubctl seal-root`, and `verify` of a root or a frozen leaf, on images.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tool::leaf::{pair, MetadataUnion};
use tool::{command, get, put, ubctl, Folder, Ran, MIB};

fn sha(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// Returns the full digest as the page `sealed-layer.rst` says.
fn full_digest(content: &[u8]) -> String {
    let mut all = b"unionblk full digest 1\n".to_vec();
    all.extend((content.len() as u64 / 512).to_le_bytes());
    all.extend((MIB as u32).to_le_bytes());
    content
        .chunks(MIB as usize)
        .for_each(|chunk| all.extend(sha(chunk)));
    let mut text = String::new();
    for byte in sha(&all) {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn names(folder: &Path) -> Vec<String> {
    let list = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = list
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn flip(path: &Path, at: u64) {
    let byte = get(path, at, 1)[0];
    put(path, at, &[byte ^ 1]);
}

/// Returns a root of 131 MiB and 3 sectors, which has two blocks of digests, and its digest file.
fn sealed_root(f: &Folder) -> (PathBuf, PathBuf) {
    let root = f.root("root", 131 * MIB + 3 * 512);
    ubctl("seal-root {}", &[&root]).done();
    let file = f.path("root.ubdigest");
    (root, file)
}

#[track_caller]
fn refused(ran: &Ran, code: i32, reason: &str) -> serde_json::Value {
    assert_eq!(ran.code, code, "{}{}", ran.out, ran.err);
    let said = ran.json();
    assert_eq!(said["reason"], reason, "{said}");
    said
}

#[test]
fn a_root_is_sealed_and_verified() {
    let f = Folder::new("seal-root");
    let root = f.root("root", 131 * MIB + 3 * 512);
    let said = ubctl("seal-root {} --json", &[&root]).done().json();
    let wanted = full_digest(&fs::read(&root).unwrap());
    assert_eq!(said["digest"], wanted);
    assert_eq!(
        (&said["chunks"], &said["sectors"]),
        (&132.into(), &(131 * 2048 + 3).into())
    );
    assert_eq!(names(root.parent().unwrap()), ["root", "root.ubdigest"]);
    assert_eq!(
        fs::metadata(f.path("root.ubdigest")).unwrap().len(),
        3 * 4096
    );
    let text = ubctl("verify {}", &[&root]).done().out;
    for word in [": whole", wanted.as_str(), "root.ubdigest"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let said = ubctl("verify {} --json", &[&root]).done().json();
    assert_eq!(said["damaged"].as_array().map(Vec::len), Some(0));
    // A link leads to the same file, and its digests are beside that.
    let link = f.path("link");
    symlink(&root, &link).unwrap();
    ubctl("verify {}", &[&link]).done();
    ubctl(&format!("verify {{}} --digest {wanted}"), &[&root]).done();
    // The tool replaces a file only with --force.
    let again = ubctl("seal-root {} --json", &[&root]);
    refused(&again, 3, "exists");
    ubctl("seal-root {} --force", &[&root]).done();
    let out = f.path("other");
    ubctl("seal-root {} --out {}", &[&root, &out]).done();
    assert_eq!(
        fs::read(out).unwrap(),
        fs::read(f.path("root.ubdigest")).unwrap()
    );
}

#[test]
fn each_part_that_differs_is_named() {
    let f = Folder::new("seal-root-flip");
    let (root, _) = sealed_root(&f);
    for at in [0, 5 * MIB - 1, 5 * MIB, 127 * MIB, 131 * MIB + 1000] {
        flip(&root, at);
    }
    let ran = ubctl("verify {} --json", &[&root]);
    let said = refused(&ran, 3, "damaged");
    let list = said["damaged"].as_array().unwrap().iter();
    let list: Vec<(u64, u64)> = list
        .map(|r| {
            assert_eq!(r["why"], "differs");
            (r["byte"].as_u64().unwrap(), r["bytes"].as_u64().unwrap())
        })
        .collect();
    let wanted = [
        (0, MIB),
        (4 * MIB, 2 * MIB),
        (127 * MIB, MIB),
        (131 * MIB, 3 * 512),
    ];
    assert_eq!(list, wanted);
    let text = ubctl("verify {}", &[&root]);
    text.refused_after(3, &["4.0 MiB of 131.0 MiB", "bytes 0 to 1048575 (1 MiB)"]);
    assert!(
        text.out.contains("bytes 4194304 to 6291455 (2 MiB)"),
        "{}",
        text.out
    );
}

#[test]
fn a_digest_alone_tells_whether_all_is_right() {
    let f = Folder::new("seal-root-digest");
    let root = f.root("root", 3 * MIB);
    let digest = full_digest(&fs::read(&root).unwrap());
    let verify = |digest: &str| ubctl(&format!("verify {{}} --json --digest {digest}"), &[&root]);
    let said = verify(&digest).done().json();
    assert_eq!(said["digest_file"], serde_json::Value::Null);
    refused(&verify(&"0".repeat(64)), 3, "damaged");
    // A file with other digests is refused before the root is read.
    ubctl("seal-root {}", &[&root]).done();
    refused(&verify(&"0".repeat(64)), 3, "other_digest");
    flip(&root, 2 * MIB);
    refused(&verify(&digest), 3, "damaged");
}

#[test]
fn a_wrong_or_damaged_digest_file_is_refused() {
    let f = Folder::new("seal-root-file");
    let (root, file) = sealed_root(&f);
    let verify = || ubctl("verify {} --json", &[&root]);
    let whole = fs::read(&file).unwrap();
    for (at, reason) in [(0, "not_a_digest_file"), (30, "damaged"), (9000, "damaged")] {
        flip(&file, at);
        refused(&verify(), 3, reason);
        fs::write(&file, &whole).unwrap();
    }
    fs::write(&file, &whole[..8192]).unwrap();
    refused(&verify(), 3, "damaged");
    fs::write(&file, b"").unwrap();
    refused(&verify(), 3, "not_a_digest_file");
    fs::write(&file, &whole).unwrap();
    let other = f.root("other", MIB);
    let ran = ubctl("verify {} --digest-file {} --json", &[&other, &file]);
    refused(&ran, 3, "wrong_root");
    // Neither a sealed layer nor a root with digests.
    let ran = ubctl("verify {}", &[&other]);
    ran.refused(3, &["not a sealed layer", "ubctl seal-root"]);
}

#[test]
fn what_may_change_has_no_full_digest() {
    let f = Folder::new("seal-root-leaf");
    let (_, leaf) = pair(&f);
    refused(&ubctl("seal-root {} --json", &[&leaf]), 3, "is_leaf");
    fs::write(f.path("leaf.ubdigest"), b"x").unwrap();
    refused(&ubctl("verify {} --json", &[&leaf]), 3, "is_leaf");
    fs::remove_file(f.path("leaf.ubdigest")).unwrap();
    assert_eq!(names(leaf.parent().unwrap()), ["leaf", "root"]);
    let mut union = MetadataUnion::attach(&f.path("root"), &leaf);
    union.fill(3, 300);
    union.detach();
    ubctl("freeze {}", &[&leaf]).done();
    ubctl("seal-root {}", &[&leaf]).done();
    ubctl("verify {}", &[&leaf]).done();
    flip(&leaf, 7 * MIB);
    refused(&ubctl("verify {} --json", &[&leaf]), 3, "damaged");
    let sealed = f.path("sealed");
    flip(&leaf, 7 * MIB);
    ubctl("seal {} {}", &[&leaf, &sealed]).done();
    refused(&ubctl("seal-root {} --json", &[&sealed]), 3, "is_sealed");
    let file = f.path("leaf.ubdigest");
    let ran = ubctl("verify {} --digest-file {} --json", &[&sealed, &file]);
    refused(&ran, 2, "usage");
}

#[test]
fn an_empty_root_and_a_wrong_place_are_refused() {
    let f = Folder::new("seal-root-empty");
    let empty = f.image("empty", 100);
    refused(&ubctl("seal-root {} --json", &[&empty]), 3, "too_small");
    let root = f.root("root", MIB);
    let folder = f.path("");
    let ran = ubctl("seal-root {} --out {} --json", &[&root, &folder]);
    refused(&ran, 3, "not_a_file");
    let ran = ubctl("seal-root {} --out {} --force --json", &[&root, &root]);
    refused(&ran, 3, "same_device");
    assert_eq!(names(&folder), ["empty", "root"]);
}

#[test]
fn a_dry_run_says_what_would_be_lost_and_writes_nothing() {
    let f = Folder::new("dry-run");
    let (root, leaf) = pair(&f);
    let (old, new) = (f.image("old", MIB), f.path("new"));
    put(&old, 100, b"x");
    let before = fs::read(&old).unwrap();
    for (line, from) in [
        ("seal {} {}", &leaf),
        ("publish --leaf {} {}", &leaf),
        ("seal-root {} --out {}", &root),
    ] {
        let run =
            |out: &Path, options: &str| ubctl(&format!("{line} --dry-run {options}"), &[from, out]);
        refused(&run(&old, "--json"), 3, "exists");
        let said = run(&old, "--force --json").done().json();
        assert_eq!(
            (&said["changed"], &said["replaced"]),
            (&false.into(), &"data".into())
        );
        let text = run(&new, "").done().out;
        assert!(
            text.ends_with("new: would be made, and nothing lost\n"),
            "{text}"
        );
    }
    assert_eq!(fs::read(&old).unwrap(), before);
    assert_eq!(names(root.parent().unwrap()), ["leaf", "old", "root"]);
}

/// Ctrl-C leaves nothing.
#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    let f = Folder::new("seal-root-signal");
    let root = f.image("root", 64 << 30);
    let mut command = command();
    command.arg("seal-root").arg(&root).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let is_there = || names(&f.path("")).len() == 2;
    while !is_there() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before the signal"
        );
        sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("interrupted by SIGINT (") && text.contains("was not made"),
        "{text}"
    );
    assert_eq!(names(&f.path("")), ["root"]);
}
