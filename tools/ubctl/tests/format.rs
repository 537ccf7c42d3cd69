// SPDX-License-Identifier: GPL-2.0

//! `ubctl format` on images.

use sha2::{Digest, Sha256};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use tool::leaf::MetadataUnion;
use tool::{get, put, ubctl, Folder, MIB};
use ubcore::format::superblock::{choose, Superblock};
use ubcore::root_samples::samples;
use ubcore::slot::Slot;

fn superblock(leaf: &Path) -> (Superblock, Slot) {
    choose(&get(leaf, 0, 512), &get(leaf, 4096, 512)).unwrap()
}

/// Checks that behind the superblocks a leaf has the list of the root, and nothing else.
fn only_the_list(leaf: &Path) {
    let g = superblock(leaf).0.geometry;
    let at = g.below_list_block(0).0 as usize * 4096;
    let mut bytes = fs::read(leaf).unwrap();
    assert_eq!(bytes[at..at + 4], *b"UBbl");
    bytes[at..at + 4096].fill(0);
    assert!(bytes[8192..].iter().all(|&b| b == 0));
}

#[test]
fn a_blank_leaf_gets_two_equal_superblocks_a_list_and_nothing_else() {
    let f = Folder::new("blank");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    let before = fs::read(&root).unwrap();
    let ran = ubctl("format --root {} {}", &[&root, &leaf]).done();
    assert!(ran.out.contains("room for data"), "{}", ran.out);

    let (sb, slot) = superblock(&leaf);
    assert_eq!(slot, Slot::A);
    assert_eq!(get(&leaf, 0, 4096), get(&leaf, 4096, 4096));
    assert_eq!(
        (sb.generation, sb.journal_tail, sb.journal_sequence),
        (1, 0, 1)
    );
    assert!(sb.clean && sb.nonce != 0);
    assert_eq!((sb.uuid[6] >> 4, sb.uuid[8] >> 6), (4, 2));
    assert_eq!(sb.geometry.root_sectors(), 8 * MIB / 512);
    assert_eq!(sb.geometry.union_sectors(), 8 * MIB / 512);
    assert_eq!(sb.geometry.leaf_sectors(), 6 * MIB / 512);
    assert_eq!(
        (sb.geometry.slab_sectors(), sb.geometry.journal_blocks()),
        (128, 16)
    );
    only_the_list(&leaf);
    assert_eq!(fs::read(&root).unwrap(), before);
}

#[test]
fn the_digest_is_that_of_the_samples() {
    let f = Folder::new("digest");
    let (root, leaf) = (f.root("root", 3 * MIB + 512 * 5), f.image("leaf", 6 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let (sb, _) = superblock(&leaf);
    let bytes = fs::read(&root).unwrap();
    let mut all = b"unionblk root samples 1\n".to_vec();
    all.extend((bytes.len() as u64 / 512).to_le_bytes());
    for (first, count) in samples(&sb.uuid, bytes.len() as u64 / 512) {
        let at = first as usize * 512;
        all.extend(first.to_le_bytes());
        all.extend(&bytes[at..at + count as usize * 512]);
    }
    assert_eq!(sb.root_digest, <[u8; 32]>::from(Sha256::digest(&all)));
}

#[test]
fn sizes_are_taken_and_reported() {
    let f = Folder::new("sizes");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 64 * MIB));
    let line = "format --json --slab-size 4M --journal-size 1M --root {} {}";
    let answer = ubctl(line, &[&root, &leaf]).done().json();
    let (sb, _) = superblock(&leaf);
    assert_eq!(answer["slab_sectors"], 8192);
    assert_eq!(answer["journal_blocks"], 256);
    assert_eq!(answer["slabs"], sb.geometry.leaf_slabs());
    assert_eq!(answer["data_start"], sb.geometry.data_start());
    assert_eq!(answer["uuid"].as_str().unwrap().len(), 36);
    assert_eq!(answer["leaf"], leaf.to_str().unwrap());
    assert_eq!(sb.geometry.journal_blocks(), 256);
}

#[test]
fn a_leaf_has_a_name_and_a_union_its_own_size() {
    let f = Folder::new("names");
    let (root, leaf) = (f.root("root", 3 * MIB + 512), f.image("leaf", 6 * MIB));
    let line = "format --json --name web-01 --size 64M --root {} {}";
    let answer = ubctl(line, &[&root, &leaf]).done().json();
    assert_eq!(
        (&answer["name"], &answer["sectors"]),
        (&"web-01".into(), &131072.into())
    );
    let (sb, _) = superblock(&leaf);
    let slots = |leaf| ubctl("dump --json {}", &[leaf]).json()["slots"].clone();
    assert_eq!(slots(&leaf)[1]["name"], "web-01");
    let unnamed = f.image("unnamed", 6 * MIB);
    let answer = ubctl("format --json --root {} {}", &[&root, &unnamed]).done();
    assert!(answer.json()["name"].is_null());
    assert!(slots(&unnamed)[0]["name"].is_null());
    assert_eq!(sb.name.to_string(), "web-01");
    assert_eq!(sb.geometry.root_sectors(), 6145);
    assert_eq!(sb.geometry.union_sectors(), 131072);
    assert_eq!(
        get(&leaf, 160, 32),
        b"web-01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    let dump = ubctl("dump {}", &[&leaf]).done().out;
    assert!(
        dump.contains("  web-01\n") && dump.contains("64 MiB (131072 sectors"),
        "{dump}"
    );

    let (root, blank) = (f.root("other", 3 * MIB), f.image("blank", 6 * MIB));
    ubctl("format --size 2M --root {} {}", &[&root, &blank])
        .refused(3, &["smaller than its root", "3 MiB (3145728 bytes)"]);
    assert!(fs::read(&blank).unwrap().iter().all(|&b| b == 0));
    ubctl("format --size 3M --root {} {}", &[&root, &blank]).done();
    assert_eq!(superblock(&blank).0.name.to_string(), "");
}

#[test]
fn what_looks_used_is_refused_and_force_takes_its_marks_away() {
    let f = Folder::new("used");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    for (at, bytes, what) in [
        (1080, &b"\x53\xef"[..], "ext4"),
        (65600, b"_BHRfS_M", "btrfs"),
        (6 * MIB - 512, b"EFI PART", "backup GPT"),
        (5 * MIB + 9, b"?", "data at byte 5242889"),
    ] {
        put(&leaf, at, bytes);
        let before = fs::read(&leaf).unwrap();
        ubctl("format --root {} {}", &[&root, &leaf]).refused(3, &[what, "looks used", "--force"]);
        assert_eq!(fs::read(&leaf).unwrap(), before);
        ubctl("format --force --root {} {}", &[&root, &leaf]).done();
        only_the_list(&leaf);
        put(&leaf, 0, &[0; MIB as usize]);
    }
}

#[test]
fn a_dry_run_says_what_would_be_lost_and_writes_nothing() {
    let f = Folder::new("dry-format");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    let dry = |more: &str| {
        let before = fs::read(&leaf).unwrap();
        let ran = ubctl(
            &format!("format --dry-run {more} --root {{}} {{}}"),
            &[&root, &leaf],
        );
        assert!(fs::read(&leaf).unwrap() == before);
        assert!(fs::metadata(&leaf).unwrap().len() == 6 * MIB);
        ran
    };
    let blank = dry("--json").done().json();
    assert_eq!(blank["changed"], false);
    assert_eq!(blank["replaced"], "zeroes at both ends");
    assert_eq!(blank["uuid"], serde_json::Value::Null);
    assert!(blank["slabs"].as_u64() > Some(0));
    put(&leaf, 1080, b"\x53\xef");
    dry("").refused(3, &["ext4", "looks used", "--force"]);
    let lost = ": would be lost: an ext2, ext3 or ext4 file system\n";
    assert!(dry("--force").done().out.ends_with(lost));
    let done = ubctl("format --json --force --root {} {}", &[&root, &leaf]);
    let done = done.done().json();
    assert_eq!(done["changed"], true);
    assert_eq!(done["replaced"], "an ext2, ext3 or ext4 file system");
    let line = "format --force --name web-01 --root {} {}";
    ubctl(line, &[&root, &leaf]).done();
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.write(100, 300);
    union.commit();
    drop(union);
    let again = dry("--force").done().out;
    let lost = ": would be lost: a unionblk leaf, web-01, with 256 KiB in use\n";
    assert!(again.ends_with(lost), "{again}");
    // All other refusals are those of the format.
    dry("--size 1M").refused(3, &["smaller than its root"]);
}

#[test]
fn a_leaf_is_not_formatted_twice_unless_forced() {
    let f = Folder::new("twice");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    ubctl("format --root {} {}", &[&root, &leaf]).done();
    let (first, _) = superblock(&leaf);
    let ran = ubctl("format --root {} {}", &[&root, &leaf]);
    ran.refused(
        3,
        &["formatted already", "create without --format", "--force"],
    );
    let ran = ubctl("format --json --root {} {}", &[&root, &leaf]);
    let answer = ran.json();
    assert_eq!((ran.code, &answer["code"]), (3, &3.into()));
    assert_eq!(answer["reason"], "already_formatted");
    assert!(answer["error"]
        .as_str()
        .unwrap()
        .contains("formatted already"));
    assert_eq!(superblock(&leaf).0, first);
    ubctl("format --force --root {} {}", &[&root, &leaf]).done();
    let (second, _) = superblock(&leaf);
    assert!(second.uuid != first.uuid && second.nonce != first.nonce);
    assert_eq!(second.generation, 1);
}

#[test]
fn impossible_pairs_are_refused() {
    let f = Folder::new("pairs");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", MIB));
    let link = f.path("link");
    symlink(&root, &link).unwrap();
    let run = |root: &Path, leaf: &Path| ubctl("format --root {} {}", &[root, leaf]);
    run(&root, &root).refused(3, &["same device"]);
    run(&root, &link).refused(3, &["same device"]);
    run(&root, &leaf).refused(3, &["needs at least", "2048"]);
    run(&f.image("empty", 0), &leaf).refused(3, &["root"]);
    run(&f.path("nothing"), &leaf).refused(1, &["nothing", "No such file", "check the name"]);
    run(&root, &f.path("nothing")).refused(1, &["nothing", "No such file"]);
    run(&root, Path::new("/")).refused(3, &["neither a block device nor an image"]);
    assert!(fs::read(&leaf).unwrap().iter().all(|&b| b == 0));
    let ran = ubctl("format --json --root {} {}", &[&root, &leaf]);
    assert_eq!(ran.json()["reason"], "leaf_too_small");
}

/// Locks one byte of an image as QEMU does, by the open file.
fn lock_byte(file: &fs::File, byte: i64) {
    #[repr(C)]
    struct Flock {
        kind: i16,
        whence: i16,
        start: i64,
        len: i64,
        pid: i32,
    }
    const OFD_SETLK: i32 = 37;
    extern "C" {
        fn fcntl(fd: i32, command: i32, ...) -> i32;
    }
    let lock = Flock {
        kind: 0,
        whence: 0,
        start: byte,
        len: 1,
        pid: 0,
    };
    // SAFETY: `lock` is a `struct flock`, which the call reads.
    let done = unsafe { fcntl(file.as_raw_fd(), OFD_SETLK, &raw const lock) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_leaf_that_a_virtual_machine_uses_is_refused() {
    let f = Folder::new("vm");
    let (root, leaf) = (f.root("root", 8 * MIB), f.image("leaf", 6 * MIB));
    let machine = fs::File::open(&leaf).unwrap();
    lock_byte(&machine, 201);
    let format = || ubctl("format --root {} {} --no-wait", &[&root, &leaf]);
    let by = format!("(process {})", std::process::id());
    format().refused(4, &["leaf is in use: locked by ", &by]);
    assert!(fs::read(&leaf).unwrap().iter().all(|&b| b == 0));
    drop(machine);
    // A machine that only reads the root does not matter.
    let machine = fs::File::open(&root).unwrap();
    lock_byte(&machine, 100);
    format().done();
}
