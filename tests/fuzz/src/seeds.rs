// SPDX-License-Identifier: GPL-2.0

//! The first corpus: real leaves as they are, and prefixes for patched leaves. libFuzzer finds
//! everything else.

use std::fs;
use std::path::Path;

use crate::make;
use crate::real;

fn put(folder: &Path, target: &str, name: &str, bytes: &[u8]) {
    let folder = folder.join(target);
    fs::create_dir_all(&folder).expect("a folder for seeds");
    fs::write(folder.join(name), bytes).expect("a seed");
}

/// Writes the corpus to FOLDER/TARGET/NAME and ends the program, if `FUZZ_SEEDS` names a directory.
pub fn make_if_asked() {
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        make(Path::new(&folder));
        std::process::exit(0);
    }
}

fn make(folder: &Path) {
    for n in 0..real::LEAVES {
        let leaf = real::leaf(n);
        let last = leaf.blocks.keys().next_back().copied().unwrap_or(0);
        let mut image = Vec::new();
        for at in 0..=last {
            image.extend_from_slice(leaf.block(at).unwrap_or(&[0; 4096]));
        }
        for target in ["attach", "check", "repair"] {
            for how in 0..2 {
                let bytes = [&[how], &image[..]].concat();
                put(folder, target, &format!("image-{n}-{how}"), &bytes);
                put(
                    folder,
                    target,
                    &format!("patched-{n}-{how}"),
                    &[2, n as u8 * 2 + how],
                );
            }
            let fields: Vec<u8> = (0..400u32)
                .map(|i| (i * 37 + n as u32 * 11) as u8)
                .collect();
            put(
                folder,
                target,
                &format!("fields-{n}"),
                &[&[3], &fields[..]].concat(),
            );
        }
        let slots = [&image[..512], &image[4096..4096 + 512]].concat();
        let directory = &image[18 * 4096..19 * 4096];
        for how in 0..2 {
            put(
                folder,
                "superblock",
                &format!("slots-{n}-{how}"),
                &[&[how], &slots[..]].concat(),
            );
            let bytes = [&[how, 0, 0], directory].concat();
            put(folder, "directory", &format!("block-{n}-{how}"), &bytes);
        }
        put(
            folder,
            "superblock",
            &format!("real-{n}"),
            &[2 + (n as u8 * 8)],
        );
        put(
            folder,
            "directory",
            &format!("real-{n}"),
            &[2 + (n as u8 * 8), 0, 0],
        );
        let fields: Vec<u8> = (0..300u32).map(|i| (i * 29 + n as u32 * 7) as u8).collect();
        put(
            folder,
            "journal",
            &format!("fields-{n}"),
            &[&[3], &fields[..]].concat(),
        );
        let real = n as u8 * 8;
        put(folder, "journal", &format!("real-{n}"), &[real + 1]);
        let sb = make::superblock_of(&leaf).expect("a real leaf");
        let ring = (0..4).map(|n| {
            let at = (sb.journal_tail + n) % sb.geometry.journal_blocks();
            leaf.block(sb.geometry.journal_block(at))
                .unwrap_or(&[0; 4096])
        });
        let ring: Vec<u8> = ring.flatten().copied().collect();
        for how in [0, 4] {
            let bytes = [&[real + how], &ring[..]].concat();
            put(folder, "journal", &format!("ring-{n}-{how}"), &bytes);
        }
    }
}
