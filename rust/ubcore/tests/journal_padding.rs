// SPDX-License-Identifier: GPL-2.0

//! After its last word a block of the journal holds zeroes, whatever was in the buffer before.

use sim::disk::{Random, SimDisk};
use sim::union::{format, SimUnion};
use ubcore::disk::Disk;
use ubcore::geometry::Geometry;

const HEADER: usize = 32;

/// Looks at each block of the ring that has been written, and returns their number.
fn look(u: &SimUnion) -> u32 {
    let g = u.map.geometry();
    let mut disk = u.disk.clone();
    let mut found = 0;
    for at in 0..g.journal_blocks() {
        disk.read(g.journal_block(at), 1).unwrap();
        let block = disk.block();
        if !block.starts_with(b"UBjn") {
            continue;
        }
        found += 1;
        let words = usize::from(u16::from_le_bytes([block[28], block[29]]));
        assert!((1..=508).contains(&words));
        let rest = &block[HEADER + words * 8..];
        assert!(rest.iter().all(|&b| b == 0), "block {at}, {words} words");
    }
    found
}

#[test]
fn after_commits_long_and_short_and_checkpoints() {
    let g = Geometry::new(60_000, 60_000, 2048 + 60_000, 32, 64).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    let mut random = Random(7);
    let mut most = 0;
    for n in 0..160 {
        // One run, a few runs, or more runs than a block has room for.
        let runs = [1, 1, 1, 40, 700][random.below(5) as usize];
        for _ in 0..runs {
            let _ = u.write(random.below(59_000), 1, 1 + n, true);
        }
        u.flush().unwrap();
        if random.chance(9) {
            u.checkpoint().unwrap();
        }
        most = most.max(look(&u));
    }
    assert!(most > 32, "{most}");
}
