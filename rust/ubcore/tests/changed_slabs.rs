// SPDX-License-Identifier: GPL-2.0

//! A leaf is merged into a stack map while its union writes to it. When the slabs that have changed
//! since are merged again, the map is that of the leaf as it is.

use std::cell::RefCell;

use sim::disk::{Random, SimDisk};
use sim::layers::{random_leaf, run_workload, CountedStack, List};
use sim::union::{format, SimUnion};
use ubcore::error::{Error, Result};
use ubcore::geometry::Geometry;
use ubcore::map::Base;
use ubcore::stack::build::{Builder, Refusal};
use ubcore::stack::changed_slabs::ChangedSlabs;
use ubcore::stack::extent::{Content, Extent, Extents};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::map::StackMap;
use ubcore::stack::source::{StackLookup, StackSource};

type Map = StackMap<CountedStack>;
type Changed = ChangedSlabs<Vec<u64>>;

fn no_pause() -> Result {
    Ok(())
}

fn empty_set(g: &Geometry) -> Changed {
    Changed::new(Changed::bitmap_words(g).map(|n| vec![0; n]))
}

fn builder_over(below: Option<&Map>, g: &Geometry) -> Builder<CountedStack> {
    let memory = CountedStack::new();
    match below {
        Some(below) => Builder::over(below, memory, g.union_sectors()).unwrap(),
        None => Builder::new(memory, g.union_sectors()).unwrap(),
    }
}

/// Returns the map of a stack with the leaf of a union on top.
fn with_leaf(below: Option<&Map>, u: &SimUnion) -> Map {
    let builder = builder_over(below, u.map.geometry());
    let mut extents = LeafExtents::new(&u.map, no_pause);
    builder.add_layer(&mut extents).unwrap().finish().unwrap()
}

/// A stack of some random leaves, or none.
fn random_stack(random: &mut Random) -> Option<Map> {
    let mut stack = None;
    for _ in 0..random.below(3) {
        let (_, mut u) = random_leaf(random, 6000);
        let steps = random.below(40);
        run_workload(&mut u, random, steps, 1);
        stack = Some(with_leaf(stack.as_ref(), &u));
    }
    stack
}

/// Changes a union: a write or an emptying, and often a commit, a checkpoint or both.
fn change(u: &mut SimUnion, random: &mut Random) {
    let g = *u.map.geometry();
    let at = random.below(g.union_sectors());
    if random.below(3) > 0 {
        let sectors = (1 + random.below(200)).min(g.union_sectors() - at);
        // A slab that was emptied a moment ago cannot be written yet.
        let _ = u.write(at, sectors, 1, true);
    } else {
        let first = g.slab_of(at);
        let end = (first + 1 + random.below(3) as u32).min(g.root_slabs());
        let base = [Base::Below, Base::Zero][random.below(2) as usize];
        u.empty(first..end, base).unwrap();
    }
    match random.below(4) {
        0 => u.flush().unwrap(),
        1 => u.checkpoint().unwrap(),
        _ => {}
    }
}

/// The extents of a leaf whose union changes between any two of them.
struct WhileItChanges<'a> {
    u: &'a mut SimUnion,
    random: &'a mut Random,
    at: u64,
}

impl Extents for WhileItChanges<'_> {
    fn next(&mut self) -> Result<Option<Extent>> {
        if self.random.chance(3) {
            change(self.u, self.random);
        }
        let next = LeafExtents::within(&self.u.map, self.at..u64::MAX, no_pause).next()?;
        if let Some(extent) = next {
            self.at = extent.first + extent.sectors;
        }
        Ok(next)
    }
}

fn assert_same(a: &Map, b: &Map, seed: u64) {
    assert_eq!((a.sectors(), a.layers()), (b.sectors(), b.layers()));
    for sector in 0..a.sectors() {
        let [a, b] = [a, b].map(|map| map.look_up(sector, 1).unwrap().source);
        assert_eq!(a, b, "seed {seed}, sector {sector}");
    }
}

#[test]
fn a_leaf_that_changes_while_it_is_merged() {
    let mut again = 0;
    for seed in 1..=300 {
        let mut random = Random(seed);
        let below = random_stack(&mut random);
        let (_, mut u) = random_leaf(&mut random, 6000);
        let g = *u.map.geometry();
        for _ in 0..random.below(60) {
            change(&mut u, &mut random);
        }
        // Changes before the merge need not be noted.
        assert!(u
            .committer
            .replace_noted_slabs(Some(empty_set(&g)))
            .is_none());
        let mut extents = WhileItChanges {
            u: &mut u,
            random: &mut random,
            at: 0,
        };
        let builder = builder_over(below.as_ref(), &g);
        let mut builder = builder.add_layer(&mut extents).unwrap();
        for round in 0..3 {
            let noted = (round < 2).then(|| empty_set(&g));
            let mut changed = u.committer.replace_noted_slabs(noted).unwrap();
            if round == 2 {
                // No request runs any more.
                changed.add_marked(&u.map).unwrap();
            }
            let merged = changed
                .merge(builder, below.as_ref(), &u.map, no_pause)
                .unwrap();
            again += merged.count;
            builder = if round == 1 {
                merged.builder.trim().unwrap()
            } else {
                merged.builder
            };
            for _ in 0..random.below(5) {
                if round < 2 {
                    change(&mut u, &mut random);
                }
            }
            // The set is empty.
            let builder_now = changed.merge(builder, below.as_ref(), &u.map, no_pause);
            let merged = builder_now.unwrap();
            assert_eq!((merged.count, merged.block_sectors), (0, 8));
            builder = merged.builder;
        }
        assert!(u.committer.replace_noted_slabs(None).is_none());
        let merged = builder.finish_at_once();
        assert_same(&merged, &with_leaf(below.as_ref(), &u), seed);
    }
    assert!(again > 2000, "{again} slabs were merged again");
}

fn large(slabs: u64) -> SimUnion {
    let size = slabs * 128;
    let g = Geometry::new(size, size, size + (1 << 18), 128, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    SimUnion::attach_to(&disk, &g).unwrap()
}

/// The work of a merge while requests wait depends on the changes, not on the size of the leaf.
#[test]
fn a_few_slabs_of_a_large_leaf() {
    let costs = [2_000u64, 20_000].map(|slabs| {
        let mut u = large(slabs);
        for slab in 0..slabs {
            // Mixed slabs, so that there are records.
            u.write(slab * 128 + 8, 40, 1, true).unwrap();
        }
        u.checkpoint().unwrap();
        let g = *u.map.geometry();
        u.committer.replace_noted_slabs(Some(empty_set(&g)));
        let mut extents = LeafExtents::new(&u.map, no_pause);
        let builder = builder_over(None, &g).add_layer(&mut extents).unwrap();
        let builder = builder.trim().unwrap();
        for slab in [0, 900, slabs - 1] {
            u.write(slab * 128 + 100, 1, 1, true).unwrap();
        }
        u.flush().unwrap();
        u.write(50 * 128, 1, 1, true).unwrap();
        let mut changed = u.committer.replace_noted_slabs(None).unwrap();
        changed.add_marked(&u.map).unwrap();
        let pauses = RefCell::new(0);
        let merged = changed
            .merge(builder, None::<&Map>, &u.map, || {
                *pauses.borrow_mut() += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!((merged.count, pauses.into_inner()), (4, 4));
        assert_eq!(merged.block_sectors, 1);
        let map = merged.builder.finish_at_once();
        // Only `trim` has copied the records.
        assert_eq!(map.memory().copies, 1);
        assert_same(&map, &with_leaf(None, &u), 0);
        // Four records of up to four runs more than the others, whose garbage stays.
        map.mixed_words() - with_leaf(None, &u).mixed_words()
    });
    assert!(costs.iter().all(|&words| words < 40), "{costs:?}");
}

/// Nothing but the range changes, whatever the extents say.
#[test]
fn extents_outside_of_the_range() {
    let extent = |first, sectors| Extent {
        first,
        sectors,
        content: Content::Data(first + 1000),
    };
    let builder = || {
        let b = Builder::new(CountedStack::new(), 1000).unwrap();
        b.add_layer(&mut List(&[extent(0, 1000)])).unwrap()
    };
    let replace = |extents: &[Extent]| {
        let done = builder().replace_top(&None::<&Map>, 128..384, &mut List(extents));
        done.map(|b| b.finish_at_once())
    };
    let (early, late) = (extent(127, 1), extent(383, 2));
    assert_eq!(replace(&[early]).err(), Some(Refusal::Order(early)));
    assert_eq!(replace(&[late]).err(), Some(Refusal::PastEnd(late)));
    let map = replace(&[extent(200, 8)]).unwrap();
    let expected = |sector: u64| match sector {
        128..200 | 208..384 => StackSource::Bottom,
        _ => StackSource::Layer(0, sector + 1000),
    };
    for sector in 0..1000 {
        let source = map.look_up(sector, 1).unwrap().source;
        assert_eq!(source, expected(sector), "{sector}");
    }
    // Without a layer there is none to replace.
    let none = Builder::new(CountedStack::new(), 1000).unwrap();
    let done = none.replace_top(&None::<&Map>, 0..128, &mut List(&[]));
    assert_eq!(done.err(), Some(Refusal::Failed(Error::Internal)));
    // A page of the table that neither has is not made.
    let sparse = Builder::new(CountedStack::new(), 1 << 30).unwrap();
    let sparse = sparse.add_layer(&mut List(&[extent(0, 128)])).unwrap();
    let done = sparse.replace_top(&None::<&Map>, 1 << 20..1 << 21, &mut List(&[]));
    assert_eq!(done.unwrap().finish_at_once().memory().pages(), 1);
}
