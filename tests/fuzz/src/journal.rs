// SPDX-License-Identifier: GPL-2.0

//! Tests the ring against a model of what its records say: rings that were made record by record,
//! rings of real leaves with changed bytes, and raw bytes.

use std::collections::BTreeMap;

use ubcore::error::{Area, Error};
use ubcore::format::directory::{self, PageEntry};
use ubcore::format::record::Record;
use ubcore::format::ring;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, LeafSlab, MapPage};
use ubcore::journal;
use ubcore::map::{words_for, Base, Entry, Map};
use ubcore::pages::{self, PageSet};
use ubcore::replay_limit;

use crate::leaf::{Blocks, Leaf};
use crate::make;
use crate::memory::{bounded, Bounded};
use crate::real;
use crate::source::Numbers;

/// Root slabs with their leaf slab and base; leaf slabs with their bits.
#[derive(Default)]
struct Model {
    slabs: BTreeMap<u32, (Option<u32>, bool)>,
    bits: BTreeMap<u32, Vec<u64>>,
}

fn set(bits: &mut [u64], first: u32, count: u32) {
    for at in first..first + count {
        bits[at as usize / 64] |= 1 << (at % 64);
    }
}

impl Model {
    /// Returns the model of a small map.
    fn of(map: &Map<Bounded>) -> Model {
        let g = map.geometry();
        let entry = |slab| {
            let entry = map.entry(slab);
            (
                slab,
                (entry.leaf_slab.map(|leaf| leaf.0), entry.base == Base::Zero),
            )
        };
        let words = 0..g.slab_sectors().div_ceil(64);
        let bits = |leaf| {
            (
                leaf,
                words
                    .clone()
                    .map(|at| map.word(LeafSlab(leaf), at).unwrap_or(0))
                    .collect(),
            )
        };
        Model {
            slabs: (0..g.root_slabs()).map(entry).collect(),
            bits: (0..g.leaf_slabs()).map(bits).collect(),
        }
    }

    /// Applies one block's words; returns `None` if they say something impossible.
    fn block(&mut self, g: &Geometry, base: u32, words: &[u64]) -> Option<()> {
        let len = g.slab_sectors().div_ceil(64) as usize;
        let mut leaf = base;
        let mut at = 0;
        while at < words.len() {
            let record = Record::decode(words[at], g.slab_sectors())?;
            at += 1;
            match record {
                Record::Origin(to) => leaf = to.0,
                Record::New { slab, step, run } => {
                    leaf = leaf.wrapping_add(step);
                    if slab >= g.root_slabs() || leaf >= g.leaf_slabs() {
                        return None;
                    }
                    let entry = self.slabs.entry(slab).or_default();
                    if entry.0 != Some(leaf) {
                        entry.0 = Some(leaf);
                        self.bits.insert(leaf, vec![0; len]);
                    }
                    set(self.bits.get_mut(&leaf)?, run.first, run.count);
                }
                Record::More { slab, run } => {
                    let leaf_slab = self.slabs.get(&slab)?.0?;
                    set(self.bits.get_mut(&leaf_slab)?, run.first, run.count);
                }
                Record::Words { slab, words: n } => {
                    let leaf_slab = self.slabs.get(&slab)?.0?;
                    let bits = self.bits.get_mut(&leaf_slab)?;
                    for room in bits.iter_mut().take(n as usize) {
                        let mask = match g.slab_sectors() {
                            32 => 0xffff_ffff,
                            _ => u64::MAX,
                        };
                        *room |= words.get(at)? & mask;
                        at += 1;
                    }
                }
                Record::Zero { slab, count } => self.empty(g, slab, count, true)?,
                Record::Reset { slab, count } => self.empty(g, slab, count, false)?,
            }
        }
        Some(())
    }

    fn empty(&mut self, g: &Geometry, slab: u32, count: u32, zero: bool) -> Option<()> {
        if slab.checked_add(count)? > g.root_slabs() {
            return None;
        }
        for slab in slab..slab + count {
            if let Some((Some(leaf), _)) = self.slabs.insert(slab, (None, zero)) {
                self.bits
                    .insert(leaf, vec![0; g.slab_sectors().div_ceil(64) as usize]);
            }
        }
        Some(())
    }

    fn compare(&self, map: &Map<Bounded>) {
        let g = map.geometry();
        let last = self.slabs.keys().next_back().map_or(0, |s| s + 1);
        for slab in (0..last + 3).filter(|&s| s < g.root_slabs()) {
            let (leaf, zero) = self.slabs.get(&slab).copied().unwrap_or_default();
            let entry = map.entry(slab);
            assert_eq!(
                (entry.leaf_slab.map(|leaf| leaf.0), entry.base == Base::Zero),
                (leaf, zero),
                "{slab}"
            );
            assert!(entry == Entry::decode(entry.encode()) && !entry.is_in_memory_only());
        }
        for (leaf, bits) in &self.bits {
            for (at, word) in (0..).zip(bits) {
                assert_eq!(
                    map.word(LeafSlab(*leaf), at).unwrap_or(0),
                    *word,
                    "leaf slab {leaf}"
                );
            }
        }
    }
}

/// A leaf with a ring, the map before the replay, and the pages that the leaf stores.
struct Start {
    sb: Superblock,
    leaf: Leaf,
    map: Map<Bounded>,
    entries: Vec<PageEntry>,
    model: Model,
}

/// Makes a ring record by record, on a leaf that is empty but for it.
fn structured(source: &mut Numbers<'_>, data: &[u8]) -> Option<Start> {
    let g = make::geometry(source)?;
    if g.root_slabs() > 1 << 20 || make::is_too_large(&g, data) {
        return None;
    }
    let sb = make::superblock(source, g);
    let mut leaf = Leaf::new(Blocks::new(), g.leaf_sectors());
    make::ring(source, &sb, &mut leaf);
    let map = Map::new(g, bounded(&g, &leaf));
    Some(Start {
        sb,
        leaf,
        map,
        entries: vec![PageEntry::EMPTY; g.pages() as usize],
        model: Model::default(),
    })
}

/// Takes a real leaf and writes the bytes over its ring (`how & 3 == 0`), or changes single bytes
/// of the ring.
fn of_real(source: &mut Numbers<'_>, how: u8) -> Option<Start> {
    let mut leaf = real::leaf(usize::from(how >> 3));
    let sb = make::superblock_of(&leaf)?;
    let (first, blocks) = (sb.geometry.journal_block(0).0, sb.geometry.journal_blocks());
    if how & 3 == 0 {
        for (n, bytes) in (0..blocks).zip(source.0.chunks(4096)) {
            let at = (sb.journal_tail + n) % blocks;
            leaf.edit(first + u64::from(at))[..bytes.len()].copy_from_slice(bytes);
        }
    }
    while how & 3 != 0 && !source.is_empty() {
        let at = first + u64::from(source.below(blocks));
        let byte = source.below(4096) as usize;
        leaf.edit(at)[byte] ^= source.byte();
    }
    if how & 4 == 0 {
        make::set_checksums(&mut leaf);
    }
    let (map, entries) = stored(&leaf, &sb);
    let model = Model::of(&map);
    Some(Start {
        sb,
        leaf,
        map,
        entries,
        model,
    })
}

/// Returns the map that the pages of a real leaf hold.
fn stored(leaf: &Leaf, sb: &Superblock) -> (Map<Bounded>, Vec<PageEntry>) {
    let g = &sb.geometry;
    let map = Map::new(*g, bounded(g, leaf));
    let mut entries = vec![PageEntry::EMPTY; g.pages() as usize];
    for at in 0..g.directory_blocks() {
        let slot = sb.directory_slot(at).expect("a real leaf");
        let Some(block) = slot.map(|slot| g.directory_block(at, slot)) else {
            continue;
        };
        let bytes = leaf.block(block.0).expect("a real leaf");
        let list = &mut entries[directory::indices_of(at, g.pages())];
        directory::decode(bytes, at, sb.generation, sb.nonce, block, list).expect("a real leaf");
    }
    for (page, entry) in (0..).zip(&entries) {
        if let Some(slot) = entry.slot {
            let bytes = leaf
                .block(g.page_block(MapPage(page), slot).0)
                .unwrap_or(&[0; 4096]);
            pages::load(&map, MapPage(page), bytes).expect("a real leaf");
        }
    }
    (map, entries)
}

/// Replays what the bytes say.
pub fn run(data: &[u8]) {
    let mut source = Numbers(data);
    let how = source.byte();
    let start = match how & 3 {
        3 => structured(&mut source, data),
        _ => of_real(&mut source, how),
    };
    let Some(Start {
        sb,
        mut leaf,
        map,
        entries,
        mut model,
    }) = start
    else {
        return;
    };
    let g = sb.geometry;
    let held = leaf.clone();
    let found = match journal::scan(&mut leaf, &sb) {
        Ok(found) => found,
        Err(e) => return assert!(matches!(e, Error::Damaged(Area::Journal, _)), "{e}"),
    };
    assert!(found.finished <= found.valid && found.valid <= g.journal_blocks());
    let mut changed = PageSet::new(vec![0; words_for(g.pages())]);
    let from = (&sb, &*entries);
    let done = journal::replay(&mut leaf, from, &found, &map, &mut changed, |_| false);
    assert!(leaf.writes == 0 && leaf.reads <= 3 * u64::from(g.journal_blocks()) + 1);

    let mut valid = Some(());
    for n in 0..found.finished {
        let at = (sb.journal_tail + n) % g.journal_blocks();
        let block = held
            .block(g.journal_block(at).0)
            .expect("a block of the chain");
        let head = ring::open(block, sb.nonce).expect("a sound block");
        let words = (0..usize::from(head.count)).map(|n| ring::word(block, n));
        let words: Vec<u64> = words.map(|w| w.expect("a word")).collect();
        valid = valid.and_then(|()| model.block(&g, head.origin.0, &words));
    }
    let filled = changed.len() > replay_limit::filled_max(&g);
    assert!(valid.is_some() || done.is_err());
    assert!(done.is_ok() || valid.is_none() || filled, "{done:?}");
    if done.is_ok() {
        model.compare(&map);
    }
}
