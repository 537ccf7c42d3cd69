// SPDX-License-Identifier: GPL-2.0

//! Reads of a leaf over a stack: the runs lead to the content that a walk of leaf and stack finds,
//! and end only where the source changes.

use sim::disk::{Random, Sector, SimDisk};
use sim::layers::{random_leaf, run_workload, CountedStack, List};
use sim::oracle::{content, ROOT};
use sim::union::{format, SimUnion};
use ubcore::geometry::{Geometry, LeafSlab, TABLE_ENTRIES};
use ubcore::map::{Base, Emptied, Entry};
use ubcore::plan::{self, Run, Source};
use ubcore::stack::build::Builder;
use ubcore::stack::extent::{Content, Extent};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::map::{StackMap, StackMemory, StackPages};
use ubcore::stack::source::{LayerSector, NoLayers, StackLookup};

type Map = StackMap<CountedStack>;

/// A leaf over layers, with the tags of what each of them maps. The leaf is the last.
struct Stack {
    union: SimUnion,
    map: Map,
    layers: Vec<(SimDisk, Vec<u64>)>,
}

impl Stack {
    fn random(random: &mut Random, layers: u64) -> Stack {
        let mut b = Builder::new(CountedStack::new(), 9000).unwrap();
        let mut all = Vec::new();
        for n in 0..layers {
            let (disk, mut u) = random_leaf(random, 9000);
            let steps = random.below(12);
            let tags = run_workload(&mut u, random, steps, 1 + 100 * n);
            b = b
                .add_layer(&mut LeafExtents::new(&u.map, || Ok(())))
                .unwrap();
            all.push((disk, tags));
        }
        let (disk, mut union) = random_leaf(random, 9000);
        let tags = run_workload(&mut union, random, 6, 1 + 100 * layers);
        all.push((disk, tags));
        Stack {
            union,
            map: b.finish().unwrap(),
            layers: all,
        }
    }

    fn size(&self) -> u64 {
        self.union.map.geometry().union_sectors()
    }

    /// Returns what a walk from the leaf down finds.
    fn walk(&self, sector: u64) -> Sector {
        let tag_in = |tags: &[u64]| tags.get(sector as usize).copied().unwrap_or(ROOT);
        let mut tags = self.layers.iter().rev().map(|(_, tags)| tag_in(tags));
        self.bottom(sector, tags.find(|&tag| tag != ROOT).unwrap_or(ROOT))
    }

    fn bottom(&self, sector: u64, tag: u64) -> Sector {
        if tag == ROOT && sector >= self.union.map.geometry().root_sectors() {
            return [0; 512];
        }
        content(tag, sector)
    }

    fn read(&self, source: Source, n: u64) -> Sector {
        let on = |layer: &(SimDisk, Vec<u64>), at| layer.0.read_sector(at + n);
        match source {
            Source::Root(at) => {
                assert!(at + n < self.union.map.geometry().root_sectors());
                content(ROOT, at + n)
            }
            Source::Layer(at) => on(&self.layers[usize::from(at.layer())], at.sector()),
            Source::Leaf(at) => on(self.layers.last().unwrap(), at),
            Source::Zero => [0; 512],
            Source::Lost | Source::Broken => panic!("nothing is lost"),
        }
    }

    fn runs(&self, sector: u64, sectors: u32) -> Vec<Run> {
        plan::read(&self.union.map, &self.map, sector, sectors).collect()
    }

    /// Checks the runs of a range, and returns how many there are.
    fn check(&self, sector: u64, sectors: u32) -> usize {
        let runs = self.runs(sector, sectors);
        let mut at = sector;
        for run in &runs {
            for n in 0..u64::from(run.sectors) {
                assert!(
                    self.read(run.source, n) == self.walk(at + n),
                    "sector {} as {:?} + {n}",
                    at + n,
                    run.source
                );
            }
            at += u64::from(run.sectors);
        }
        assert_eq!(at, sector + u64::from(sectors));
        for pair in runs.windows(2) {
            let end = behind(pair[0]);
            assert_ne!(end, pair[1].source, "a run is cut for nothing");
        }
        runs.len()
    }
}

/// Returns the source that continues a run.
fn behind(run: Run) -> Source {
    let n = u64::from(run.sectors);
    match run.source {
        Source::Root(at) => Source::Root(at + n),
        Source::Layer(at) => Source::Layer(at.skip(run.sectors)),
        Source::Leaf(at) => Source::Leaf(at + n),
        other => other,
    }
}

#[test]
fn runs_lead_to_what_a_walk_finds() {
    let mut random = Random(51);
    let mut at_once = [0u32; 2];
    let mut runs = 0;
    for round in 0..24 {
        let layers = 1 + random.below([2, 6, 25][round % 3]);
        let stack = Stack::random(&mut random, layers);
        let size = stack.size();
        runs += stack.check(0, size as u32);
        for _ in 0..200 {
            let at = random.below(size);
            let sectors = (1 + random.below(300)).min(size - at) as u32;
            stack.check(at, sectors);
            let at = at / 8 * 8;
            let sectors = 8.min(size - at) as u32;
            let runs = stack.runs(at, sectors);
            let whole = plan::read_at_once(&stack.union.map, &stack.map, at, sectors);
            let only = (runs.len() == 1).then(|| runs[0].source);
            assert!(whole.is_none() || whole == only, "{whole:?} {only:?}");
            // A range in one slab of the leaf and of the stack is found at once.
            if matches!(only, Some(Source::Layer(..))) {
                assert_eq!(whole, only, "{at} + {sectors}");
                at_once[0] += 1;
            }
            at_once[1] += u32::from(matches!(whole, Some(Source::Leaf(_) | Source::Root(_))));
        }
    }
    assert!(
        runs > 400 && at_once.iter().all(|&n| n > 500),
        "{runs} {at_once:?}"
    );
}

fn plain(sectors: u64, root: u64) -> SimUnion {
    let g = Geometry::new(root, sectors, 1 << 16, 32, 32).unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    SimUnion::attach_to(&disk, &g).unwrap()
}

fn layer(n: u8, sector: u64) -> Source {
    Source::Layer(LayerSector::new(n, sector))
}

fn stack_of(sectors: u64, layers: &[&[Extent]]) -> Map {
    let mut b = Builder::new(CountedStack::new(), sectors).unwrap();
    for layer in layers {
        b = b.add_layer(&mut List(layer)).unwrap();
    }
    b.finish().unwrap()
}

fn extent(first: u64, sectors: u64, content: Content) -> Extent {
    Extent {
        first,
        sectors,
        content,
    }
}

/// One run over many slabs of leaf and stack; a cut where another layer begins, although its data
/// is at the next sector, and where the bottom ends.
#[test]
fn runs_are_cut_where_the_source_changes() {
    let u = plain(10_000, 3000);
    let low = [extent(500, 700, Content::Data(8000))];
    let high = [
        extent(1200, 300, Content::Data(8700)),
        extent(1500, 100, Content::Zero),
    ];
    let map = stack_of(4000, &[&low, &high]);
    let run = |source, sectors| Run { source, sectors };
    let all = [
        run(Source::Root(0), 500),
        run(layer(0, 8000), 700),
        run(layer(1, 8700), 300),
        run(Source::Zero, 100),
        run(Source::Root(1600), 1400),
        run(Source::Zero, 7000),
    ];
    let found: Vec<Run> = plan::read(&u.map, &map, 0, 10_000).collect();
    assert_eq!(found, all);
    // Without a stack, and with none for now.
    let bottom = [run(Source::Root(0), 3000), run(Source::Zero, 7000)];
    let none: Option<&Map> = None;
    let found: Vec<Run> = plan::read(&u.map, none, 0, 10_000).collect();
    assert_eq!(found, bottom);
    let found: Vec<Run> = plan::read(&u.map, NoLayers, 0, 10_000).collect();
    assert_eq!(found, bottom);
    let some = Some(&map);
    let found: Vec<Run> = plan::read(&u.map, some, 0, 10_000).collect();
    assert_eq!(found, all);
}

/// A read of a stack map whose mixed record is missing, which no builder makes, fails, and does not
/// return the bottom.
#[test]
fn a_broken_stack_map_is_not_read_past() {
    struct NoRecords(CountedStack);
    impl StackMemory for NoRecords {
        fn page(&self, pages: StackPages, n: u32) -> Option<&ubcore::stack::map::StackPage> {
            (pages == StackPages::Table).then(|| self.0.page(pages, n))?
        }
        fn page_mut(
            &mut self,
            pages: StackPages,
            n: u32,
        ) -> Option<&mut ubcore::stack::map::StackPage> {
            self.0.page_mut(pages, n)
        }
        fn grow(&mut self, pages: StackPages, n: u32) -> ubcore::error::Result {
            self.0.grow(pages, n)
        }
        fn keep_copies(&mut self) {}
    }
    let u = plain(10_000, 10_000);
    let b = Builder::new(NoRecords(CountedStack::new()), 10_000).unwrap();
    let one = [extent(10, 5, Content::Zero)];
    let map = b.add_layer(&mut List(&one)).unwrap().finish().unwrap();
    assert!(map.look_up(0, 1).is_err());
    let first = plan::read(&u.map, &map, 0, 200).next();
    assert_eq!(first.map(|run| run.source), Some(Source::Broken));
    assert_eq!(plan::read_at_once(&u.map, &map, 0, 8), None);
    let whole = plan::read_at_once(&u.map, &map, 128, 8);
    assert_eq!(whole, Some(Source::Root(128)));
}

/// A lost entry of the leaf, and a zero one, do not ask the stack.
#[test]
fn the_leaf_decides_first() {
    let u = plain(u64::from(TABLE_ENTRIES) * 32, 0);
    let map = stack_of(4000, &[&[extent(0, 4000, Content::Data(0))]]);
    let zero = Entry::unallocated(Base::Zero, Emptied::No);
    u.map.set_entry(0, Entry::LOST).unwrap();
    u.map.set_entry(1, zero).unwrap();
    let entry = Entry::allocated(LeafSlab(0), Base::Below);
    u.map.set_bits(LeafSlab(0), 0, 8).unwrap();
    u.map.set_entry(2, entry).unwrap();
    let sources: Vec<Source> = plan::read(&u.map, &map, 0, 4100)
        .map(|run| run.source)
        .collect();
    let leaf = u.map.geometry().data_start();
    assert_eq!(
        sources,
        [
            Source::Lost,
            Source::Zero,
            Source::Leaf(leaf),
            layer(0, 72),
            Source::Zero
        ]
    );
    let before = map.memory().looks.get();
    assert_eq!(plan::read_at_once(&u.map, &map, 0, 8), None);
    assert_eq!(plan::read_at_once(&u.map, &map, 32, 8), None);
    assert!(plan::read_at_once(&u.map, &map, 64, 8).is_some());
    assert_eq!(map.memory().looks.get(), before);
}
