// SPDX-License-Identifier: GPL-2.0

//! Tests that a look-up of the stack map finds for each sector what a walk of the layers finds.

use sim::disk::{Random, Sector, SimDisk};
use sim::layers::{random_leaf, run_workload, CountedStack, List};
use sim::oracle::{content, ROOT};
use sim::sealed::{seal_from, Image, OfDisk};
use ubcore::error::Error;
use ubcore::sealed::open::SealedExtents;
use ubcore::stack::build::{Builder, Refusal};
use ubcore::stack::extent::{Content, Extent};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::map::StackMap;
use ubcore::stack::source::{StackLookup, StackRange, StackSource, SOURCES_MAX};
use ubcore::stack::word::POSITION_END;

type Map = StackMap<CountedStack>;

fn builder(sectors: u64) -> Builder<CountedStack> {
    Builder::new(CountedStack::new(), sectors).unwrap()
}

fn add(b: Builder<CountedStack>, extents: &[Extent]) -> Builder<CountedStack> {
    b.add_layer(&mut List(extents)).unwrap()
}

fn finish(b: Builder<CountedStack>) -> Map {
    b.finish().unwrap()
}

fn extent(first: u64, sectors: u64, content: Content) -> Extent {
    Extent {
        first,
        sectors,
        content,
    }
}

fn data(first: u64, sectors: u64, at: u64) -> Extent {
    extent(first, sectors, Content::Data(at))
}

fn source_at(map: &Map, sector: u64) -> StackSource {
    map.look_up(sector, 1).unwrap().source
}

/// Returns the parts of a range, joined where one continues the other.
fn joined(map: &Map, sector: u64, sectors: u32) -> Vec<StackRange> {
    let mut all: Vec<StackRange> = Vec::new();
    let mut at = sector;
    let mut left = sectors;
    while left > 0 {
        let next = map.look_up(at, left).unwrap();
        assert!(next.sectors > 0 && next.sectors <= left);
        at += u64::from(next.sectors);
        left -= next.sectors;
        match all.last_mut() {
            Some(last) if last.source.skip(last.sectors) == next.source => {
                last.sectors += next.sectors;
            }
            _ => all.push(next),
        }
    }
    all
}

/// The slow oracle: the layers, from the bottom up, each with its place of each sector.
#[derive(Default)]
struct Walk(Vec<Vec<Option<StackSource>>>);

impl Walk {
    fn add(&mut self, sectors: u64, extents: &[Extent]) {
        let layer = self.0.len() as u8;
        let mut of = vec![None; sectors as usize];
        for e in extents {
            for n in 0..e.sectors {
                of[(e.first + n) as usize] = Some(match e.content {
                    Content::Zero => StackSource::Zero,
                    Content::Data(at) => StackSource::Layer(layer, at + n),
                });
            }
        }
        self.0.push(of);
    }

    fn source(&self, sector: u64) -> StackSource {
        let of = |layer: &Vec<Option<StackSource>>| layer.get(sector as usize).copied().flatten();
        self.0
            .iter()
            .rev()
            .find_map(of)
            .unwrap_or(StackSource::Bottom)
    }

    /// Returns what [`joined`] must return.
    fn joined(&self, sector: u64, sectors: u32) -> Vec<StackRange> {
        let mut all: Vec<StackRange> = Vec::new();
        for at in sector..sector + u64::from(sectors) {
            let source = self.source(at);
            match all.last_mut() {
                Some(last) if last.source.skip(last.sectors) == source => last.sectors += 1,
                _ => all.push(StackRange { source, sectors: 1 }),
            }
        }
        all
    }
}

/// Makes the extents of a layer of `sectors` sectors. Many of them begin and end where stack slabs
/// or blocks do.
fn random_extents(random: &mut Random, sectors: u64) -> Vec<Extent> {
    let mut all = Vec::new();
    let mut at = 0;
    let scale = 1 << random.below(10);
    let hole = 1 << random.below(12);
    loop {
        let mut snap = |n: u64| match random.below(4) {
            0 => (n / 128 * 128).max(at),
            1 => (n / 8 * 8).max(at),
            _ => n,
        };
        let first = snap(at);
        let end = snap(first + 1 + first % 7).max(first + 1);
        let first = first + random.below(hole);
        let end = (end.max(first) + random.below(scale))
            .max(first + 1)
            .min(sectors);
        if first >= end {
            return all;
        }
        let source = if random.chance(3) {
            Content::Zero
        } else if random.chance(4) {
            // It may continue what another layer has.
            Content::Data(1000 + first)
        } else {
            Content::Data(random.below(1 << 40))
        };
        all.push(extent(first, end - first, source));
        at = end;
    }
}

fn compare(map: &Map, walk: &Walk, sectors: u64, random: &mut Random) {
    let past = sectors + 300;
    assert_eq!(
        joined(map, 0, past as u32),
        walk.joined(0, past as u32),
        "{} layers",
        walk.0.len()
    );
    for _ in 0..30 {
        let at = random.below(past);
        let n = 1 + random.below(200) as u32;
        assert_eq!(joined(map, at, n), walk.joined(at, n), "{at} + {n}");
    }
}

/// Any stack of layers, small and large, few and many.
#[test]
fn as_a_walk_of_the_stack_finds_it() {
    let mut random = Random(41);
    let mut copies = 0;
    for round in 0..120 {
        let most = [3, 12, 60, 254][round % 4];
        let layers = 1 + random.below(most);
        let sizes: Vec<u64> = (0..layers).map(|_| 1 + random.below(6000)).collect();
        let sectors = sizes.iter().copied().max().unwrap();
        let mut b = builder(sectors);
        let mut walk = Walk::default();
        for size in sizes {
            let extents = random_extents(&mut random, size);
            walk.add(size, &extents);
            b = add(b, &extents);
            if random.chance(20) {
                // A stack that grows by a layer, as a freeze makes it.
                let old = finish(b);
                copies += old.memory().copies;
                b = Builder::over(&old, CountedStack::new(), 0).unwrap();
            }
        }
        let map = finish(b);
        assert_eq!(u64::from(map.layers()), layers);
        compare(&map, &walk, sectors, &mut random);
        copies += map.memory().copies;
    }
    assert!(copies > 150, "garbage was collected only {copies} times");
}

/// A layer: a frozen leaf, or that leaf sealed.
enum Layer {
    Leaf(SimDisk),
    Sealed(Image),
}

impl Layer {
    fn read(&self, sector: u64) -> Sector {
        match self {
            Layer::Leaf(disk) => disk.read_sector(sector),
            Layer::Sealed(image) => {
                let at = (sector % 8) as usize * 512;
                let block = image.block(sector / 8);
                block[at..at + 512].try_into().unwrap()
            }
        }
    }
}

/// The layers are leaves, with slabs of all sizes and with discards of both policies. Some are
/// sealed. They are merged all at once, or one on top of the others. Every sector of the stack
/// reads as in the topmost layer that maps it.
#[test]
fn layers_read_as_a_plain_overlay() {
    let mut random = Random(42);
    let (mut sealed, mut merged) = (0, 0);
    for round in 0..8 {
        let layers = 1 + random.below([4, 30][round % 2]);
        let mut all: Vec<(Layer, Vec<u64>)> = Vec::new();
        let mut b = builder(9000);
        for n in 0..layers {
            let (disk, mut u) = random_leaf(&mut random, 9000);
            let steps = random.below(25);
            let tags = run_workload(&mut u, &mut random, steps, 1 + 100 * n);
            let extents = || LeafExtents::new(&u.map, || Ok(()));
            let layer = if random.chance(3) {
                sealed += 1;
                let union = u.map.geometry().union_sectors();
                let mut image = Image::default();
                let data = &mut OfDisk(&disk);
                let header = seal_from(extents, data, union, None, &mut image, [8, 3]).unwrap();
                b = b
                    .add_layer(&mut SealedExtents::new(&mut image, &header))
                    .unwrap();
                Layer::Sealed(image)
            } else {
                b = b.add_layer(&mut extents()).unwrap();
                Layer::Leaf(disk.clone())
            };
            all.push((layer, tags));
            if random.chance(3) {
                merged += 1;
                b = Builder::over(&finish(b), CountedStack::new(), 9000).unwrap();
            }
        }
        let map = finish(b);
        for sector in 0..9000 {
            let tag_in = |tags: &[u64]| tags.get(sector as usize).copied().unwrap_or(ROOT);
            let mut tags = all.iter().rev().map(|(_, tags)| tag_in(tags));
            let tag = tags.find(|&tag| tag != ROOT).unwrap_or(ROOT);
            let found: Sector = match source_at(&map, sector) {
                StackSource::Bottom => content(ROOT, sector),
                StackSource::Zero => [0; 512],
                StackSource::Layer(layer, at) => all[usize::from(layer)].0.read(at),
            };
            assert!(found == content(tag, sector), "sector {sector}");
        }
    }
    assert!(sealed > 10 && merged > 10, "{sealed} {merged}");
}

/// The cost of a look-up does not depend on the number of layers.
#[test]
fn a_look_up_costs_the_same_with_any_number_of_layers() {
    let sectors = 128 * 600;
    let mut costs = Vec::new();
    for layers in [1, 8, 32, 128, 254] {
        let mut random = Random(43);
        let mut b = builder(sectors);
        // Every layer has a part of each slab, and each slab has a sector from each layer, if so
        // many fit. So each slab is mixed, and some have as many runs as a slab can have.
        for layer in 0..layers {
            let of_slab = |slab: u64| data(slab * 128 + layer % 127, 1, 7 * layer + 1000 * slab);
            let extents: Vec<_> = (0..600).map(of_slab).collect();
            b = add(b, &extents);
        }
        let map = finish(b);
        let before = map.memory().looks.get();
        let mut most = 0;
        for _ in 0..3000 {
            let before = map.memory().looks.get();
            map.look_up(random.below(sectors), 128).unwrap();
            most = most.max(map.memory().looks.get() - before);
        }
        costs.push((map.memory().looks.get() - before, most));
    }
    assert_eq!(costs, [(6000, 2); 5]);
}

/// A slab that comes from one place costs one look.
#[test]
fn a_whole_slab_costs_one_look() {
    let layer = [data(0, 256, 5000), extent(256, 128, Content::Zero)];
    let map = finish(add(builder(1 << 20), &layer));
    for (sector, source) in [
        (0, StackSource::Layer(0, 5000)),
        (127, StackSource::Layer(0, 5127)),
        (200, StackSource::Layer(0, 5200)),
        (300, StackSource::Zero),
        (400, StackSource::Bottom),
        (1 << 19, StackSource::Bottom),
        (u64::MAX, StackSource::Bottom),
    ] {
        let before = map.memory().looks.get();
        assert_eq!(source_at(&map, sector), source);
        assert_eq!(map.memory().looks.get() - before, 1);
    }
    assert_eq!(map.mixed_words(), 0);
    // If there is no page, one look covers all slabs of the page.
    let found = map.look_up(1 << 19, u32::MAX).unwrap();
    assert_eq!((found.source, found.sectors), (StackSource::Bottom, 65536));
}

/// If a later layer covers a mixed slab, or continues its runs, the slab has no record any more.
#[test]
fn a_slab_that_comes_from_one_place_again_has_no_record() {
    let parts = [
        data(0, 50, 1000),
        extent(150, 5, Content::Zero),
        data(300, 84, 300),
    ];
    let rest = [data(50, 78, 2000), data(128, 22, 128), data(155, 101, 155)];
    let all = [data(0, 512, 9000)];
    let two = add(add(builder(512), &parts), &rest);
    let map = finish(two);
    assert_eq!(map.mixed_words(), 2 + 3 + 2);
    let map = finish(add(add(add(builder(512), &parts), &rest), &all));
    assert_eq!(map.mixed_words(), 0);
    assert_eq!(joined(&map, 0, 512).len(), 1);
    // Two halves, each in its own extent, that continue each other on the layer or are zero.
    for content in [[Content::Data(70), Content::Data(73)], [Content::Zero; 2]] {
        let halves = [extent(0, 3, content[0]), extent(3, 125, content[1])];
        let map = finish(add(add(builder(128), &parts[..1]), &halves));
        assert_eq!(map.mixed_words(), 0);
        assert_eq!(joined(&map, 0, 128).len(), 1);
    }
}

/// An image of 2 GiB in 32 layers, like the reference. It has 14,330 slabs. 95 % of them come from
/// one source, and the others have 1,466 runs. ext4 fills its groups of 128 MiB from their start
/// on.
#[test]
fn the_map_of_a_real_image_is_small() {
    let sectors = 2048 * 2048;
    let group = 2048 * 128;
    let mut b = builder(sectors);
    // In the lowest layer 255 slabs of each group, then 20 in each layer, and 23 in some.
    let mut used = [0u64; 16];
    let mut slabs = 0;
    for layer in 0..32u64 {
        let mut extents = Vec::new();
        for (n, used) in (0..).zip(&mut used) {
            let first = n * group;
            // Each other layer also maps one block of a slab that the lowest layer maps.
            if layer > 0 {
                let source = first + 128 * (layer * 7) + 8 * (1 + layer % 14);
                extents.push(data(source, 8, 77 + 1000 * layer));
            }
            let more = if layer == 0 {
                255
            } else {
                20 + u64::from(layer % 4 == 0) * 3
            };
            extents.push(data(first + *used * 128, more * 128, *used * 128 + first));
            *used += more;
            slabs += more;
        }
        b = add(b, &extents);
    }
    let map = finish(b);
    assert!(slabs >= 14_330, "{slabs} slabs");
    assert!(map.mixed_words() >= 1_466, "{}", map.mixed_words());
    // A pointer for each page that the table could have, and one for each page of records.
    let bytes = |pages: usize| pages * 4096 + (64 + 16) * 8;
    let (bytes, most) = (bytes(map.memory().pages()), bytes(map.memory().most));
    eprintln!(
        "{slabs} slabs, {} runs: {bytes} bytes, at most {most}",
        map.mixed_words()
    );
    assert!(bytes <= 250 << 10, "{bytes} bytes");
    assert!(most <= 400 << 10, "{most} bytes while it was built");
}

/// A layer costs what it maps, however large the stack is and however many layers there are.
#[test]
fn a_layer_costs_what_it_maps() {
    let sectors = 1 << 33;
    let mut random = Random(44);
    let mut b = builder(sectors);
    // The superblock and the bitmaps, which every layer has, and another place.
    for layer in 0..254u64 {
        let mut extents: Vec<_> = (0..64)
            .map(|n| data((n << 27) + layer % 100, 3, 5))
            .collect();
        let first = (1 << 26) + (random.below(60) << 27);
        extents.push(data(first, 128 * 20, 9000));
        extents.sort_by_key(|e| e.first);
        b = add(b, &extents);
    }
    let map = finish(b);
    let looks = map.memory().looks.get();
    let each = looks / (254 * (64 + 20));
    assert!(
        each < 600,
        "{each} looks at a page for each slab that a layer maps"
    );
    assert!(map.memory().copies > 1);
    let pages = map.memory().pages();
    assert!(
        map.memory().most < 4 * pages,
        "{} {pages}",
        map.memory().most
    );
}

fn refused(sectors: u64, extents: &[Extent]) -> Refusal {
    let b = builder(sectors);
    b.add_layer(&mut List(extents))
        .err()
        .expect("it is refused")
}

#[test]
fn the_extents_of_a_layer_are_checked() {
    let good = data(10, 20, 5);
    for bad in [data(29, 1, 0), data(0, 1, 0), extent(10, 1, Content::Zero)] {
        assert_eq!(refused(100, &[good, bad]), Refusal::Order(bad));
    }
    let bad = data(30, 0, 0);
    assert_eq!(refused(100, &[good, bad]), Refusal::Empty(bad));
    for bad in [
        data(90, 11, 0),
        data(100, 1, 0),
        data(50, u64::MAX, 0),
        data(u64::MAX, 1, 0),
    ] {
        let found = refused(100, &[good, bad]);
        assert!(
            matches!(found, Refusal::PastEnd(_) | Refusal::Position(_)),
            "{found}"
        );
    }
    let bad = extent(50, u64::MAX, Content::Zero);
    assert_eq!(refused(100, &[good, bad]), Refusal::PastEnd(bad));
    for bad in [
        data(50, 2, POSITION_END - 1),
        data(50, 2, u64::MAX - 1),
        data(50, 1, u64::MAX),
    ] {
        assert_eq!(refused(100, &[good, bad]), Refusal::Position(bad));
    }
    let last = data(50, 2, POSITION_END - 2);
    let map = finish(add(builder(100), &[good, last]));
    assert_eq!(source_at(&map, 51), StackSource::Layer(0, POSITION_END - 1));

    let large = Builder::new(CountedStack::new(), POSITION_END + 1).err();
    assert_eq!(large, Some(Refusal::StackSize(POSITION_END + 1)));
    let map = finish(add(builder(POSITION_END), &[data(POSITION_END - 1, 1, 3)]));
    assert_eq!(source_at(&map, POSITION_END - 1), StackSource::Layer(0, 3));

    let mut b = builder(100);
    for _ in 0..SOURCES_MAX {
        b = add(b, &[good]);
    }
    let more = b.add_layer(&mut List(&[])).err();
    assert_eq!(more, Some(Refusal::Layers));
    assert!(format!("{}", Refusal::Order(good)).contains("20 sectors at sector 10"));
}

/// If memory runs out, at any page, the builder fails with `NoMemory`.
#[test]
fn memory_that_runs_out() {
    let mut random = Random(45);
    let layers: Vec<_> = (0..4)
        .map(|_| random_extents(&mut random, 70_000))
        .collect();
    let build = |free: u32| {
        let mut memory = CountedStack::new();
        memory.free = free;
        let mut b = Builder::new(memory, 70_000)?;
        for extents in &layers {
            b = b.add_layer(&mut List(extents))?;
        }
        b.finish()
    };
    let enough = (0..).find(|&free| match build(free) {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e, Refusal::Failed(Error::NoMemory));
            false
        }
    });
    assert!(enough.is_some_and(|n| n > 8), "{enough:?} pages");
}

/// The builder lets other tasks run at each page of the table, wherever in the page its work is,
/// and a signal ends it.
#[test]
fn the_builder_gives_way() {
    let page = 512 * 128;
    let layer: Vec<_> = (0..50).map(|n| data(n * page + 200, 3, 0)).collect();
    let map = finish(add(builder(50 * page), &layer));
    assert!((50..=100).contains(&map.memory().pauses));
    for signal_at in [0, 1, 49] {
        let mut memory = CountedStack::new();
        memory.signal_at = signal_at;
        let b = Builder::new(memory, 50 * page).unwrap();
        let ended = b.add_layer(&mut List(&layer)).err();
        assert_eq!(ended, Some(Refusal::Failed(Error::Os(4))));
    }
}
