// SPDX-License-Identifier: GPL-2.0

//! Tests the ring against a model of what its records say.

use std::collections::BTreeMap;

use ubcore::error::{Area, Error};
use ubcore::format::record::Record;
use ubcore::format::ring;
use ubcore::geometry::Geometry;
use ubcore::journal;
use ubcore::map::{words_for, Base, Entry, Map};
use ubcore::pages::PageSet;
use ubcore::replay_limit;

use crate::leaf::{Blocks, Leaf};
use crate::make;
use crate::memory::Bounded;
use crate::source::Source;
use ubcore::format::directory::PageEntry;

/// Root slabs with their home and base; leaf slabs with their bits.
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
    /// Applies one block's words; returns `None` if they say something impossible.
    fn block(&mut self, g: &Geometry, base: u32, words: &[u64]) -> Option<()> {
        let len = g.slab_sectors().div_ceil(64) as usize;
        let mut leaf = base;
        let mut at = 0;
        while at < words.len() {
            let record = Record::decode(words[at], g.slab_sectors())?;
            at += 1;
            match record {
                Record::Place(to) => leaf = to,
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
                    let home = self.slabs.get(&slab)?.0?;
                    set(self.bits.get_mut(&home)?, run.first, run.count);
                }
                Record::Words { slab, words: n } => {
                    let home = self.slabs.get(&slab)?.0?;
                    let bits = self.bits.get_mut(&home)?;
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
                (entry.leaf, entry.base == Base::Zero),
                (leaf, zero),
                "{slab}"
            );
            assert!(entry == Entry::decode(entry.encode()) && !entry.is_of_memory());
        }
        for (leaf, bits) in &self.bits {
            for (at, word) in (0..).zip(bits) {
                assert_eq!(map.word(*leaf, at), *word, "leaf slab {leaf}");
            }
        }
    }
}

/// Replays what the bytes say.
pub fn run(data: &[u8]) {
    let mut source = Source(data);
    let Some(g) = make::geometry(&mut source) else {
        return;
    };
    if g.root_slabs() > 1 << 20 || make::is_too_large(&g, data) {
        return;
    }
    let sb = make::superblock(&mut source, g);
    let mut leaf = Leaf::new(Blocks::new(), g.leaf_sectors());
    make::ring(&mut source, &sb, &mut leaf);
    let map = Map::new(g, Bounded::new(&g, &leaf));
    let held = leaf.clone();
    let found = match journal::scan(&mut leaf, &sb) {
        Ok(found) => found,
        Err(e) => return assert!(matches!(e, Error::Damaged(Area::Journal, _)), "{e}"),
    };
    assert!(found.finished <= found.chained && found.chained <= g.journal_blocks());
    let entries = vec![PageEntry::EMPTY; g.pages() as usize];
    let mut changed = PageSet::new(vec![0; words_for(g.pages())]);
    let from = (&sb, &*entries);
    let done = journal::replay(&mut leaf, from, &found, &map, &mut changed, |_| false);
    assert!(leaf.writes == 0 && leaf.reads <= 3 * u64::from(g.journal_blocks()) + 1);

    let mut model = Model::default();
    let mut lawful = Some(());
    for n in 0..found.finished {
        let at = (sb.journal_tail + n) % g.journal_blocks();
        let block = held
            .block(g.journal_block(at))
            .expect("a block of the chain");
        let head = ring::open(block, sb.nonce).expect("a sound block");
        let words = (0..usize::from(head.count)).map(|n| ring::word(block, n));
        let words: Vec<u64> = words.map(|w| w.expect("a word")).collect();
        lawful = lawful.and_then(|()| model.block(&g, head.base, &words));
    }
    let filled = changed.len() > replay_limit::filled_max(&g);
    assert!(lawful.is_some() || done.is_err());
    assert!(done.is_ok() || lawful.is_none() || filled, "{done:?}");
    if done.is_ok() {
        model.compare(&map);
    }
}
