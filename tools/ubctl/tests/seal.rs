// SPDX-License-Identifier: GPL-2.0

//! `ubctl seal` and `ubctl verify`, on images.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tool::leaf::{pair, MetadataUnion};
use tool::{command, get, put, ubctl, Folder, Ran, MIB};
use ubcore::error::Role;
use ubcore::geometry::BLOCK_BYTES;
use ubcore::map::Base;
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::extent::{Content, Extent, Extents};
use ubctl::device::{Access, Device};
use ubctl::sealed::{self, DeviceReader};

/// Returns a root and a leaf with some data, and a slab of zeroes.
fn used(f: &Folder) -> (PathBuf, PathBuf) {
    let (root, leaf) = pair(f);
    fill(&root, &leaf);
    (root, leaf)
}

fn fill(root: &Path, leaf: &Path) {
    let mut union = MetadataUnion::attach(root, leaf);
    union.fill(3, 300);
    union.fill(20_000, 4000);
    let slabs = union.map.geometry().slab_of(1024);
    let slabs = slabs..slabs + 128 / union.map.geometry().slab_sectors().min(128);
    assert!(union
        .allocator
        .empty(&union.map, slabs, Base::Zero)
        .unwrap());
    union.commit();
    union.detach();
}

/// Returns the extents of a sealed layer.
fn extents(path: &Path) -> Vec<Extent> {
    let device = Device::open(path, Role::Root, Access::Read).unwrap();
    let header = sealed::open(&device, None).unwrap().header;
    let mut extents = SealedExtents::new(DeviceReader::new(&device), &header);
    std::iter::from_fn(|| extents.next().unwrap()).collect()
}

fn seal(leaf: &Path, out: &Path) -> Value {
    ubctl("seal {} {} --json", &[leaf, out]).done().json()
}

fn verify(sealed: &Path, options: &str) -> Ran {
    ubctl(&format!("verify {{}} {options}"), &[sealed])
}

/// Returns the names in a directory.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_leaf_is_sealed_and_verified() {
    let f = Folder::new("seal");
    let (_, leaf) = used(&f);
    let before = fs::read(&leaf).unwrap();
    let out = f.path("out");
    let said = seal(&leaf, &out);
    assert!(fs::read(&leaf).unwrap() == before);
    assert_eq!(names(out.parent().unwrap()), ["leaf", "out", "root"]);
    let bytes = fs::metadata(&out).unwrap().size();
    assert_eq!(said["bytes"], bytes);
    assert_eq!(
        (&said["extents"], &said["data_sectors"]),
        (&3.into(), &4300.into())
    );
    assert_eq!(
        (&said["zero_sectors"], &said["sectors"]),
        (&128.into(), &32768.into())
    );

    let mut mapped = 0;
    for e in extents(&out) {
        mapped += e.sectors;
        let Content::Data(position) = e.content else {
            assert_eq!((e.first, e.sectors), (1024, 128));
            continue;
        };
        for n in 0..e.sectors {
            // A fill writes the low byte of each sector's number.
            let wanted = [(e.first + n) as u8; 512];
            assert_eq!(
                get(&out, (position + n) * 512, 512),
                wanted,
                "{}",
                e.first + n
            );
        }
    }
    assert_eq!(mapped, 4428);

    let text = verify(&out, "").done().out;
    let digest = said["digest"].as_str().unwrap();
    for word in [
        "a sealed layer, whole",
        digest,
        "16 MiB",
        "64 KiB",
        &format!("{bytes} bytes"),
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let json = verify(&out, &format!("--json --digest {digest}"))
        .done()
        .json();
    for field in [
        "digest",
        "sectors",
        "block_bytes",
        "extents",
        "data_sectors",
        "bytes",
    ] {
        assert_eq!(json[field], said[field], "{field}");
    }
    assert_eq!(
        (&json["damaged"], &json["stand_in"]),
        (&Value::Array(vec![]), &Value::Null)
    );
    let text = ubctl("seal {} {} --force", &[&leaf, &out]).done().out;
    assert!(
        text.contains(digest) && text.contains("sealed layer of "),
        "{text}"
    );
}

/// Zeroes that were written are zeroes. A unit of data that is all zero by chance too.
#[test]
fn the_same_content_gives_the_same_file() {
    let f = Folder::new("seal-same");
    let (root, leaf) = used(&f);
    let first = seal(&leaf, &f.path("first"));
    for slab in ["16K", "256K"] {
        let other = f.image("other", 12 * MIB);
        let line = format!("format --root {{}} {{}} --slab-size {slab} --force --name x");
        ubctl(&line, &[&root, &other]).done();
        let mut union = MetadataUnion::attach(&root, &other);
        union.fill(20_100, 3900);
        // These sectors are holes of the image.
        union.write(1024, 128);
        union.detach();
        let mut union = MetadataUnion::attach(&root, &other);
        union.fill(200, 103);
        union.fill(3, 197);
        union.fill(20_000, 100);
        union.detach();
        let second = seal(&other, &f.path("second"));
        assert_eq!(first["digest"], second["digest"]);
        let [a, b] = ["first", "second"].map(|name| fs::read(f.path(name)).unwrap());
        assert!(a == b, "{slab}");
        fs::remove_file(f.path("second")).unwrap();
    }
}

/// The same bytes behind blocks of another size are another disk, so they have another digest.
#[test]
fn the_block_size_is_part_of_the_content() {
    let f = Folder::new("seal-blocks");
    let root = f.root("root", 16 * MIB);
    let sealed = |options: &str, name: &str| {
        let leaf = f.image(&format!("{name}.leaf"), 12 * MIB);
        ubctl(
            &format!("format --root {{}} {{}} {options}"),
            &[&root, &leaf],
        )
        .done();
        let mut union = MetadataUnion::attach(&root, &leaf);
        union.fill(3, 300);
        union.detach();
        let out = f.path(name);
        (seal(&leaf, &out), fs::read(out).unwrap())
    };
    let small = sealed("", "small");
    let large = sealed("--sector-size 4096", "large");
    let same = sealed(
        "--sector-size 4096 --slab-size 16K --discard reveal",
        "same",
    );
    assert_eq!(
        [&small, &large, &same].map(|(said, _)| said["block_bytes"].as_u64().unwrap()),
        [512, 4096, 4096]
    );
    assert_ne!(small.0["digest"], large.0["digest"]);
    assert_eq!(large.0["digest"], same.0["digest"]);
    assert!(large.1 == same.1);
    // Only the header differs: checksum, block size and digest.
    let differs = |&n: &usize| small.1[n] != large.1[n];
    let fields = |n| matches!(n, 8..12 | 48..52 | 160..192);
    assert!((0..large.1.len()).filter(differs).all(fields));
    assert_eq!(small.1.len(), large.1.len());
}

#[test]
fn what_must_not_be_sealed_or_overwritten_is_refused() {
    let f = Folder::new("seal-refused");
    let (root, leaf) = used(&f);
    let out = f.path("out");
    fs::write(&out, "kept").unwrap();
    let refused = |leaf: &Path, out: &Path, options: &str, words: &[&str]| {
        let ran = ubctl(&format!("seal {{}} {{}} {options}"), &[leaf, out]);
        ran.refused(3, words);
    };
    refused(&leaf, &out, "", &["out exists already", "--force"]);
    refused(
        &leaf,
        &leaf,
        "--force",
        &["are one device or share sectors"],
    );
    let folder = f.path("");
    refused(
        &leaf,
        &folder,
        "--force",
        &["neither a block device nor a file"],
    );
    refused(&root, &out, "--force", &["is not formatted"]);
    assert_eq!(fs::read(&out).unwrap(), b"kept");
    ubctl("seal {} {}", &[&leaf, &f.path("no/out")])
        .refused(1, &["cannot create", "check the name"]);

    // A union that was not detached; a leaf that another process holds; damage.
    let mut union = MetadataUnion::attach(&root, &leaf);
    ubctl("seal {} {}", &[&leaf, &f.path("new")]).refused(4, &["in use"]);
    let (committer, map) = (&mut union.committer, &union.map);
    committer.checkpoint(map, &mut union.device).unwrap();
    drop(union);
    refused(
        &leaf,
        &f.path("new"),
        "",
        &["was not detached", "ubctl remove"],
    );
    MetadataUnion::attach(&root, &leaf).detach();
    for block in [0, 1] {
        put(&leaf, block * BLOCK_BYTES as u64 + 100, b"rot");
    }
    refused(&leaf, &f.path("new"), "", &["superblock is damaged"]);
    assert!(!f.path("new").exists());

    // The target of the link is replaced, not the link.
    let (_, leaf) = used(&f);
    let link = f.path("link");
    std::os::unix::fs::symlink("out", &link).unwrap();
    ubctl("seal {} {} --force", &[&leaf, &link]).done();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    verify(&out, "").done();
}

#[test]
fn damage_is_named() {
    let f = Folder::new("seal-damage");
    let (_, leaf) = used(&f);
    let out = f.path("out");
    let digest = seal(&leaf, &out)["digest"].as_str().unwrap().to_owned();
    let good = fs::read(&out).unwrap();

    // The data has 2 MiB and a little.
    put(&out, (256 + 2 + 3) * 4096 + 7, b"rot");
    let ran = verify(&out, "");
    assert_eq!(ran.code, 3, "{}", ran.err);
    for word in [
        "1 of 3 MiB of data are damaged, the first: MiB 1 at block 258",
        "union sectors 21744 to 23791 (1 MiB)",
        "use another copy",
    ] {
        assert!(ran.err.contains(word), "no {word} in {}", ran.err);
    }
    assert!(ran.out.contains("a sealed layer, damaged"), "{}", ran.out);
    put(&out, 2 * 4096 + 1600, b"rot");
    let json = verify(&out, "--json").json();
    assert_eq!(
        (&json["reason"], &json["code"]),
        (&"damaged".into(), &3.into())
    );
    let list = json["damaged"].as_array().unwrap();
    let mibs: Vec<u64> = list.iter().map(|d| d["mib"].as_u64().unwrap()).collect();
    assert_eq!(mibs, [0, 1]);
    assert_eq!(list[0]["lost"][0]["sector"], 3);
    let sum = |n: usize| -> u64 {
        let lost = list[n]["lost"].as_array().unwrap();
        lost.iter().map(|s| s["sectors"].as_u64().unwrap()).sum()
    };
    // All of a MiB but the gaps.
    assert_eq!((sum(0), sum(1)), (2048 - 3 - 1, 2048));

    for (at, words) in [
        (0, "not a sealed layer"),
        (
            100,
            "header of the sealed layer is damaged at block 0, byte 8",
        ),
        (
            4096,
            "stand-in record of the sealed layer is damaged at block 1",
        ),
        (good.len() - 8192, "index of the sealed layer is damaged"),
        (
            good.len() - 4096,
            "list of digests of the sealed layer is damaged",
        ),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&out, bad).unwrap();
        verify(&out, "").refused(3, &[words]);
    }
    fs::write(&out, &good[..good.len() - 1]).unwrap();
    verify(&out, "").refused(3, &["whole copy"]);
    fs::write(&out, [&[0; 8192], &good[..]].concat()).unwrap();
    verify(&out, "").refused(3, &["not a sealed layer", "offset"]);
    let at = |offset: &str| PathBuf::from(format!("{}@{offset}", out.display()));
    verify(&at("8K"), "").done();
    verify(&at("8K"), &format!("--digest {digest}")).done();
    let other = "0".repeat(64);
    let ran = verify(&at("8K"), &format!("--digest {other}"));
    ran.refused(3, &["another sealed layer"]);
    verify(&at("1G"), "").refused(3, &["out@1073741824: no layer begins there"]);
    verify(&at("100"), "").refused(2, &["multiple of 4K", "add @0"]);
    verify(&out, "--digest 12").refused(2, &["64 hexadecimal digits"]);
    verify(&f.path("none"), "").refused(1, &["check the name"]);
}

/// A signal ends the command, which keeps the old file and prints that.
#[test]
fn an_interrupted_seal_leaves_nothing() {
    let f = Folder::new("seal-signal");
    let (root, leaf) = (f.image("root", 512 * MIB), f.image("leaf", 600 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(0, 512 * 2048);
    union.detach();
    let out = f.path("out");
    fs::write(&out, "kept").unwrap();
    // The seal may be done before the signal comes.
    for _ in 0..20 {
        let mut child = command()
            .args(["seal", "--force"])
            .args([&leaf, &out])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let beside = f.path(&format!(".out.ubctl-{}", child.id()));
        while !beside.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        let line = format!("kill -INT {}", child.id());
        let _ = Command::new("bash").args(["-c", &line]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(!beside.exists());
        if output.status.success() {
            fs::write(&out, "kept").unwrap();
            continue;
        }
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), None, "{said}");
        assert!(
            said.contains("interrupted by SIGINT") && said.contains("is as it was before"),
            "{said}"
        );
        assert_eq!(fs::read(&out).unwrap(), b"kept");
        assert_eq!(names(out.parent().unwrap()), ["leaf", "out", "root"]);
        return;
    }
    panic!("each seal was done before its signal");
}
