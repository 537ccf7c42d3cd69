// SPDX-License-Identifier: GPL-2.0

//! Two superblock slots.

use ubcore::check;
use ubcore::error::Error;
use ubcore::format::superblock::{choose, sector_of, Superblock};
use ubcore::geometry::{LeafSlab, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::slot::Slot;

use crate::leaf::{Blocks, Leaf};
use crate::make;
use crate::real;
use crate::source::Numbers;

fn slots(data: &[u8]) -> [[u8; 512]; 2] {
    let mut source = Numbers(data);
    let how = source.byte();
    let mut slots = [[0; 512]; 2];
    match how & 3 {
        0 | 1 => {
            for slot in &mut slots {
                let bytes = source.take(512);
                slot[..bytes.len()].copy_from_slice(bytes);
            }
        }
        2 => {
            let leaf = real::leaf(usize::from(how >> 3));
            for (n, slot) in (0..).zip(&mut slots) {
                slot.copy_from_slice(&leaf.block(n).expect("a real leaf")[..512]);
            }
        }
        _ => {
            let Some(g) = make::geometry(&mut source) else {
                return slots;
            };
            let sb = make::superblock(&mut source, g);
            let mut block = [0; 4096];
            sb.encode(&mut block);
            slots = [*sector_of(&block); 2];
        }
    }
    if how & 3 != 0 {
        while how & 3 != 1 && !source.is_empty() {
            let at = source.below(1024) as usize;
            slots[at / 512][at % 512] ^= source.byte();
        }
        if how & 4 == 0 {
            slots.iter_mut().for_each(make::set_slot_checksum);
        }
    }
    slots
}

/// Checks what must hold for any two slots.
pub fn run(data: &[u8]) {
    let [a, b] = slots(data);
    for slot in [&a, &b] {
        match Superblock::decode(slot, LeafBlock(1)) {
            Ok(sb) => sound(&sb, slot),
            Err(Error::Damaged(_, at)) => {
                assert_eq!(at, LeafBlock(1));
                let valid_checksum = Superblock::has_valid_crc(slot);
                assert!(!valid_checksum || Superblock::bad_field(slot).is_some());
            }
            Err(Error::NotFormatted | Error::NewerVersion(_) | Error::UnknownFeatures(..)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    let mut leaf = Leaf::new(Blocks::new(), 16);
    leaf.edit(0)[..512].copy_from_slice(&a);
    leaf.edit(1)[..512].copy_from_slice(&b);
    let mut found = 0;
    let looked = check::check_superblocks(&mut leaf, &mut |_| found += 1);
    assert_eq!(looked, choose(&a, &b));
    assert!(found <= 3 && leaf.reads == 2 && leaf.writes == 0);
}

fn sound(sb: &Superblock, slot: &[u8; 512]) {
    assert_eq!(Superblock::bad_field(slot), None);
    let mut again = [0; 4096];
    sb.encode(&mut again);
    assert_eq!(Superblock::decode(&again, LeafBlock(0)).as_ref(), Ok(sb));
    // The areas lie one after another, within the leaf.
    let g = &sb.geometry;
    let (d, p) = (g.directory_blocks(), g.pages());
    assert!(d <= 992 && p > 0 && g.leaf_slabs() > 0);
    let places = [
        g.journal_block(0),
        g.journal_block(g.journal_blocks() - 1),
        g.directory_block(0, Slot::A),
        g.directory_block(d - 1, Slot::A),
        g.directory_block(0, Slot::B),
        g.directory_block(d - 1, Slot::B),
        g.page_block(MapPage(0), Slot::A),
        g.page_block(MapPage(p - 1), Slot::A),
        g.page_block(MapPage(0), Slot::B),
        g.page_block(MapPage(p - 1), Slot::B),
    ]
    .map(|block| block.0);
    assert_eq!(places[0], 2);
    for pair in places.windows(2) {
        assert!(pair[0] <= pair[1], "{places:?}");
    }
    assert!((places[9] + 1) * 8 <= g.data_start());
    let end = g.leaf_slab_start(LeafSlab(g.leaf_slabs() - 1)) + u64::from(g.slab_sectors());
    assert!(end <= g.leaf_sectors());
    assert!(g.slab_of(g.union_sectors() - 1) == g.root_slabs() - 1);
    assert!(sb.journal_tail < g.journal_blocks());
}
