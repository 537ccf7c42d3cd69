// SPDX-License-Identifier: GPL-2.0

//! The first corpus: real leaves as they are, and prefixes for patched leaves. libFuzzer finds
//! everything else.

use std::fs;
use std::path::Path;

use crate::leaf::Leaf;
use crate::make;
use crate::real;
use crate::sealed;

fn put(folder: &Path, target: &str, name: &str, bytes: &[u8]) {
    let folder = folder.join(target);
    fs::create_dir_all(&folder).expect("a folder for seeds");
    fs::write(folder.join(name), bytes).expect("a seed");
}

/// Writes the corpus to DIR/TARGET/NAME and ends the program, if `FUZZ_SEEDS` names a directory.
pub fn make_if_asked() {
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        make(Path::new(&folder));
        std::process::exit(0);
    }
}

fn make(folder: &Path) {
    for n in 0..real::LEAVES {
        let leaf = real::leaf(n);
        let image = image_of(&leaf);
        let n = n as u8;
        leaves(folder, n, &image);
        superblocks_and_directories(folder, n, &image);
        journals(folder, n, &leaf);
    }
    for n in 0..32 {
        put(
            folder,
            "chain",
            &format!("links-{n}"),
            &[&[1], &fields(60, 29, n * 7)[..]].concat(),
        );
        put(
            folder,
            "chain",
            &format!("block-{n}"),
            &[&[2], &fields(9, 1, n)[..]].concat(),
        );
    }
    for n in 0..sealed::LAYERS {
        let image = sealed::layer(n).bytes();
        for how in [0, 2] {
            let bytes = [&[how], &image[..]].concat();
            put(folder, "sealed", &format!("image-{n}-{how}"), &bytes);
            let patched = format!("patched-{n}-{how}");
            put(folder, "sealed", &patched, &[how + 1, n as u8]);
        }
    }
}

/// Returns the blocks of a leaf, up to the last that was written.
fn image_of(leaf: &Leaf) -> Vec<u8> {
    let last = leaf.blocks.keys().next_back().copied().unwrap_or(0);
    let block = |at| leaf.block(at).unwrap_or(&[0; 4096]);
    (0..=last).flat_map(block).copied().collect()
}

/// Returns bytes from which a leaf is made field by field.
fn fields(count: u32, factor: u32, start: u32) -> Vec<u8> {
    (0..count).map(|i| (i * factor + start) as u8).collect()
}

/// Seeds for the targets that read a whole leaf.
fn leaves(folder: &Path, n: u8, image: &[u8]) {
    let fields = [&[3], &fields(400, 37, u32::from(n) * 11)[..]].concat();
    for target in ["attach", "check", "repair"] {
        for how in 0..2 {
            let bytes = [&[how], image].concat();
            put(folder, target, &format!("image-{n}-{how}"), &bytes);
            let patched = format!("patched-{n}-{how}");
            put(folder, target, &patched, &[2, n * 2 + how]);
        }
        put(folder, target, &format!("fields-{n}"), &fields);
    }
}

fn superblocks_and_directories(folder: &Path, n: u8, image: &[u8]) {
    let slots = [&image[..512], &image[4096..4096 + 512]].concat();
    let directory = &image[18 * 4096..19 * 4096];
    for how in 0..2 {
        let bytes = [&[how], &slots[..]].concat();
        put(folder, "superblock", &format!("slots-{n}-{how}"), &bytes);
        let bytes = [&[how, 0, 0], directory].concat();
        put(folder, "directory", &format!("block-{n}-{how}"), &bytes);
    }
    let name = format!("real-{n}");
    put(folder, "superblock", &name, &[2 + n * 8]);
    put(folder, "directory", &name, &[2 + n * 8, 0, 0]);
}

fn journals(folder: &Path, n: u8, leaf: &Leaf) {
    let fields = [&[3], &fields(300, 29, u32::from(n) * 7)[..]].concat();
    put(folder, "journal", &format!("fields-{n}"), &fields);
    let real = n * 8;
    put(folder, "journal", &format!("real-{n}"), &[real + 1]);
    let sb = make::superblock_of(leaf).expect("a real leaf");
    let ring = (0..4).map(|n| {
        let at = (sb.journal_tail + n) % sb.geometry.journal_blocks();
        leaf.block(sb.geometry.journal_block(at).0)
            .unwrap_or(&[0; 4096])
    });
    let ring: Vec<u8> = ring.flatten().copied().collect();
    for how in [0, 4] {
        let bytes = [&[real + how], &ring[..]].concat();
        put(folder, "journal", &format!("ring-{n}-{how}"), &bytes);
    }
}
