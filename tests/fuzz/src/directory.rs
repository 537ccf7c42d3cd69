// SPDX-License-Identifier: GPL-2.0

//! A directory block, and a map page.

use ubcore::format::crc::block_crc;
use ubcore::format::directory::{self, PageEntry};
use ubcore::geometry::{Geometry, MapPage};
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Map;
use ubcore::pages;

use crate::make;
use crate::real;
use crate::source::Numbers;
use sim::memory::SimMemory;

const NONCE: u64 = 0x5eed_5eed;

fn block(source: &mut Numbers<'_>, how: u8) -> [u8; 4096] {
    let mut block = [0; 4096];
    match how & 3 {
        0 | 1 => {
            let bytes = source.take(4096);
            block[..bytes.len()].copy_from_slice(bytes);
        }
        2 => {
            let leaf = real::leaf(usize::from(how >> 3));
            // Both slots of the only block lie behind the ring.
            block = leaf
                .block(18 + u64::from(how >> 7))
                .copied()
                .unwrap_or(block);
        }
        _ => {
            let list: Vec<PageEntry> = (0..source.below(509))
                .map(|_| match source.byte() % 3 {
                    0 => PageEntry::EMPTY,
                    n => PageEntry {
                        slot: ubcore::slot::Slot::from_bits(n).expect("a slot"),
                        crc: source.word(),
                    },
                })
                .collect();
            directory::encode(&mut block, source.word() % 4, 3, NONCE, &list).expect("below 509");
        }
    }
    while how & 2 != 0 && !source.is_empty() {
        let at = source.below(4096) as usize;
        block[at] ^= source.byte();
    }
    if how & 3 != 0 && how & 4 == 0 {
        let crc = block_crc(&block, 4).expect("a block");
        block[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    block
}

/// Checks what must hold for any block.
pub fn run(data: &[u8]) {
    let mut source = Numbers(data);
    let how = source.byte();
    let (at, named) = (u32::from(how >> 6), usize::from(source.half() % 509));
    let named = if how & 0x20 == 0 { 4 } else { named };
    let block = block(&mut source, how);
    let mut list = vec![PageEntry::EMPTY; named];
    let checked = directory::check(&block, at, 1000, NONCE, &mut list);
    let (valid_checksum, sound) = (
        directory::has_valid_crc(&block),
        directory::is_sound(&block, at, NONCE),
    );
    match checked {
        Ok(()) => {
            assert!(valid_checksum && sound);
            let mut again = [0; 4096];
            directory::encode(&mut again, at, 9, NONCE, &list).expect("below 509");
            let mut back = vec![PageEntry::EMPTY; named];
            let done = directory::decode(&again, at, 9, NONCE, LeafBlock(0), &mut back);
            assert!(done.is_ok() && back == list);
        }
        Err(byte) => assert!(byte < 4096),
    }
    assert!(!sound || valid_checksum);
    let _ = directory::was_of_leaf(&block, NONCE);
    page(&block);
}

/// Decodes the same bytes as a page of the table and as a page of bits.
fn page(block: &[u8; 4096]) {
    let g = Geometry::new(1 << 17, 1 << 17, 1 << 17, 32, 16).expect("a layout");
    let map = Map::new(g, SimMemory::new(&g));
    for page in [0, g.pages() - 1] {
        assert!(pages::load(&map, MapPage(page), block).is_ok());
        let mut again = [1; 4096];
        if pages::store(&map, MapPage(page), &mut again).is_ok() && page > 0 {
            assert!(again == *block);
        }
        assert_eq!(
            pages::kind_of(&map, MapPage(page)) == pages::PageKind::Table(0),
            page == 0
        );
    }
    for slab in 0..1024 {
        let entry = map.entry(slab);
        let at_rest = entry.at_rest().map(|e| e.encode());
        assert!(entry.is_in_memory_only() || at_rest == Some(entry.encode()));
    }
    assert!(!make::is_too_large(&g, &[]));
}
