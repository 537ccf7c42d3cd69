// SPDX-License-Identifier: GPL-2.0

//! Places that are not what a command takes: a sealed layer for a leaf, a file in use for an
//! output, layers that others have made up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use map_memory::sha256::Sha256;
use rustix::fs::{flock, FlockOperation};
use tool::leaf::{pair, MetadataUnion};
use tool::{get, put, ubctl, Folder, MIB};
use ubcore::format::crc::block_crc;
use ubcore::geometry::Block;
use ubcore::sealed::header::{self, Header};
use ubcore::sha256::Sha256 as _;

/// Makes a root, a leaf with data, and a sealed layer of that.
fn three(f: &Folder) -> (PathBuf, PathBuf, PathBuf) {
    let (root, leaf) = pair(f);
    let mut union = MetadataUnion::attach(&root, &leaf);
    union.fill(100, 300);
    union.detach();
    let sealed = f.path("sealed");
    ubctl("seal {} {}", &[&leaf, &sealed]).done();
    (root, leaf, sealed)
}

#[test]
fn a_sealed_layer_is_not_called_a_leaf_that_is_not_formatted() {
    let f = Folder::new("kinds");
    let (root, leaf, sealed) = three(&f);
    let before = fs::read(&sealed).unwrap();
    let words = ["sealed: a sealed layer, not a leaf", "ubctl verify"];
    for (code, line) in [
        (8, "check {}"),
        (8, "check --repair {}"),
        (3, "freeze {}"),
        (3, "seal {} /nowhere"),
        (3, "publish --root none /nowhere --leaf {}"),
    ] {
        ubctl(line, &[&sealed]).refused(code, &words);
    }
    let dump = ubctl("dump {}", &[&sealed]);
    assert_eq!(dump.code, 3);
    assert!(
        words.iter().all(|word| dump.err.contains(word)),
        "{}",
        dump.err
    );
    assert_eq!(
        ubctl("check --json {}", &[&sealed]).json()["reason"],
        "is_sealed"
    );
    let large = f.image("large", 8 * MIB);
    put(&large, 0, &before);
    ubctl("format --root {} {}", &[&root, &large]).refused(3, &["a sealed layer of unionblk"]);
    let new = f.image("new", 8 * MIB);
    let line = "format --root {} {}";
    ubctl(line, &[&sealed, &new]).refused(3, &["holds a sealed layer", "--layer"]);
    ubctl("verify {}", &[&leaf]).refused(3, &["a leaf, not a sealed layer", "ubctl check"]);
    ubctl("verify {}", &[&root]).refused(3, &["not a sealed layer: check that it is"]);
    ubctl("check {}", &[&root]).refused(8, &["the leaf is not formatted"]);
    assert!(fs::read(&sealed).unwrap() == before);
}

#[test]
fn a_file_in_use_is_not_replaced() {
    let f = Folder::new("kinds-in-use");
    let (root, leaf, _) = three(&f);
    let used = f.image("used", 8 * MIB);
    ubctl("format --root {} {}", &[&root, &used]).done();
    let union = MetadataUnion::attach(&root, &used);
    let before = fs::read(&used).unwrap();
    let line = "seal --force {} {}";
    ubctl(line, &[&leaf, &used]).refused(4, &["used is in use"]);
    let line = "publish --force --root {} --leaf {} {}";
    ubctl(line, &[&root, &leaf, &used]).refused(4, &["used is in use"]);
    assert!(fs::read(&used).unwrap() == before);
    drop(union);
    ubctl(line, &[&root, &leaf, &used]).done();
}

/// A layer that unions read is locked as by them.
#[test]
fn a_frozen_leaf_is_sealed_while_it_is_in_use() {
    let f = Folder::new("kinds-frozen");
    let (_, leaf, sealed) = three(&f);
    let held = fs::File::open(&leaf).unwrap();
    flock(&held, FlockOperation::NonBlockingLockShared).unwrap();
    let out = f.path("out");
    ubctl("seal {} {} --no-wait", &[&leaf, &out]).refused(4, &["in use"]);
    flock(&held, FlockOperation::Unlock).unwrap();
    ubctl("freeze {}", &[&leaf]).done();
    flock(&held, FlockOperation::NonBlockingLockShared).unwrap();
    ubctl("seal --stand-in {} {}", &[&leaf, &out]).done();
    assert_eq!(get(&out, 0, 4096), get(&sealed, 0, 4096));
}

#[test]
fn a_place_where_no_file_can_be_made_is_named() {
    let f = Folder::new("kinds-places");
    let (_, leaf, _) = three(&f);
    let seal = |out: &Path| ubctl("seal {} {}", &[&leaf, out]);
    seal(&f.path("no/out")).refused(1, &["cannot create", "no/out", "check the name"]);
    seal(&f.path("new/")).refused(3, &["is the name of a directory"]);
    let link = f.path("link");
    symlink("nothing", &link).unwrap();
    seal(&link).refused(3, &["is a dangling link"]);
    seal(Path::new("/proc/out")).refused(1, &["cannot create"]);
}

/// Changes fields of a sealed layer, as a writer of such a layer could have set them.
fn forge(sealed: &Path, at: usize, field: &[u8]) {
    let mut block: Block = get(sealed, 0, 4096).try_into().unwrap();
    let header = Header::decode(&block).unwrap();
    block[at..at + field.len()].copy_from_slice(field);
    let sum = |from: u64, to: u64| {
        let mut sum = Sha256::new();
        sum.update(&get(sealed, from * 4096, ((to - from) * 4096) as usize));
        sum.finish()
    };
    let index = sum(header.index_block(), header.digest_block());
    let digests = sum(header.digest_block(), header.blocks());
    let digest = header::digest::<Sha256>(&header::covered(&block), &index, &digests);
    block[160..192].copy_from_slice(&digest);
    let crc = block_crc(&block[..512], 8).unwrap();
    block[8..12].copy_from_slice(&crc.to_le_bytes());
    put(sealed, 0, &block);
}

/// The tool keeps a list that grows with the size of the stack.
#[test]
fn a_layer_of_a_union_that_no_driver_takes_is_refused() {
    let f = Folder::new("kinds-huge");
    let (root, _, sealed) = three(&f);
    forge(&sealed, 40, &(1u64 << 46).to_le_bytes());
    ubctl("verify {}", &[&sealed]).done();
    ubctl("du {}", &[&sealed]).refused(3, &["sealed", "or than 64 TiB"]);
    let out = f.path("out");
    ubctl("squash {} {}", &[&sealed, &out]).refused(3, &["sealed", "or than 64 TiB"]);
    let line = "publish --root {} --layer {} {}";
    ubctl(line, &[&root, &sealed, &out]).refused(3, &["sealed", "or than 64 TiB"]);
    assert!(!out.exists());
    forge(&sealed, 40, &(1u64 << 37).to_le_bytes());
    ubctl("du {}", &[&sealed]).done();
}

/// A leaf on a sealed layer shows the blocks that its content was made for.
#[test]
fn the_blocks_of_a_sealed_layer_are_those_of_a_leaf_on_it() {
    let f = Folder::new("kinds-blocks");
    let (_, _, sealed) = three(&f);
    forge(&sealed, 48, &4096u32.to_le_bytes());
    let leaf = f.image("new", 8 * MIB);
    ubctl("format --root none --layer {} {}", &[&sealed, &leaf]).done();
    let dump = ubctl("dump --json {}", &[&leaf]).done().json();
    assert_eq!(dump["slots"][0]["root_block_bytes"], 4096);
}

#[test]
fn an_option_that_would_do_nothing_is_refused() {
    let f = Folder::new("kinds-diff");
    let (root, leaf, sealed) = three(&f);
    let line = "diff --root {} --layer {} {} {}";
    ubctl(line, &[&root, &sealed, &leaf, &leaf]).refused(2, &["--layer", "neither A nor B"]);
    // A leaf that is detached is claimed once.
    let same = ubctl("diff --root {} {} {} --json", &[&root, &leaf, &leaf]);
    assert_eq!(same.done().json()["sectors"], 0);
}

/// A leaf on as many layers as there can be, and one too many.
#[test]
fn a_leaf_on_all_layers_is_published() {
    let f = Folder::new("kinds-all");
    let (root, _, sealed) = three(&f);
    let leaf = f.image("new", 8 * MIB);
    let format = |layers: usize| {
        let line = format!("format --root {{}} {} {{}}", "--layer {} ".repeat(layers));
        let mut paths: Vec<&Path> = vec![&sealed; layers + 2];
        (paths[0], paths[layers + 1]) = (&root, &leaf);
        ubctl(&line, &paths)
    };
    format(255).refused(3, &["255 layers are too many", "254 at most"]);
    format(254).done();
    let out = f.path("out");
    ubctl("publish --root {} --leaf {} {}", &[&root, &leaf, &out]).done();
    assert_eq!(get(&out, 100 * 512, 512), [100; 512]);
    let du = |layers: usize| {
        let line = format!("du --json {}", "{} ".repeat(layers));
        ubctl(&line, &vec![&*sealed; layers])
    };
    du(255).done();
    assert_eq!(du(256).json()["reason"], "layer_count");
    let line = format!("squash {}", "{} ".repeat(256));
    let mut paths: Vec<&Path> = vec![&sealed; 256];
    let squashed = f.path("squashed");
    paths[255] = &squashed;
    ubctl(&line, &paths).refused(3, &["255 layers are too many"]);
}
