// SPDX-License-Identifier: GPL-2.0

//! Sealed layers hold what they were made from, and the same content always gives the same bytes.

use std::cell::Cell;

use sim::disk::{Random, SimDisk, SECTOR};
use sim::layers::List;
use sim::sealed::{filled, seal_from, Data, Image, LayerContent, Loose, OfDisk};
use sim::union::{format, load, SimUnion};
use ubcore::error::{Error, Role};
use ubcore::geometry::Geometry;
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::sealed::fault::Fault;
use ubcore::sealed::packing::CUT;
use ubcore::stack::chain::{ChainId, StandIn};
use ubcore::stack::extent::{self, Extent};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::source::NoLayers;

fn seal(layer: &LayerContent, random: &mut Random) -> Image {
    let loose = Loose::random(layer, random);
    let mut image = Image {
        window: 1 + random.below(9) as usize,
        ..Image::default()
    };
    let rooms = [0; 2].map(|_| 1 + random.below(20) as usize);
    let union = layer.sectors.len() as u64;
    let header = loose.seal(union, None, &mut image, rooms).unwrap();
    assert_eq!(image.open().unwrap().header, header);
    image
}

#[test]
fn random_layers_are_read_back_and_have_one_form() {
    let mut random = Random(71);
    let (mut extents, mut chunks) = (0, 0);
    for round in 0..300 {
        let union = 1 + random.below(if round % 20 == 0 { 9000 } else { 500 });
        let layer = LayerContent::random(&mut random, union);
        let mut image = seal(&layer, &mut random);
        let header = image.open().unwrap().header;
        assert_eq!(image.layer().unwrap(), layer);
        let wanted = layer.canonical();
        assert_eq!(image.extents(&header).unwrap(), wanted);
        assert_eq!(header.blocks(), image.end());
        let bytes = image.bytes();
        for _ in 0..3 {
            assert!(seal(&layer, &mut random).bytes() == bytes, "round {round}");
        }
        extents = header.extents.max(extents);
        chunks = header.chunks().max(chunks);
    }
    assert!(extents > 300 && chunks > 1, "{extents}, {chunks}");
}

#[test]
fn a_layer_of_nothing() {
    let mut image = Image::default();
    let header = Loose::default().seal(77, None, &mut image, [1, 1]).unwrap();
    assert_eq!((header.blocks(), header.extents, image.end()), (2, 0, 2));
    assert!(image.layer().unwrap().sectors == vec![None; 77]);
}

/// Returns what of a union is mapped: slabs of zeroes, and sectors of numbers and of zeroes.
fn content_of_a_leaf(random: &mut Random, union: u64) -> LayerContent {
    let mut layer = LayerContent::random(random, union);
    for _ in 0..3 {
        let at = random.below(union) as usize / 1024 * 1024;
        let end = (at + 1024).min(union as usize);
        layer.sectors[at..end].fill(Some([0; SECTOR]));
    }
    layer
}

/// Makes a leaf with slabs of this size that maps a layer. Sectors are written in any order.
fn leaf(layer: &LayerContent, slab: u64, random: &mut Random) -> SimUnion {
    let union = layer.sectors.len() as u64;
    let slabs = union.div_ceil(slab) + 8;
    let g = Geometry::new(union / 2, union, 8192 + (slabs + 1) * slab, slab as u32, 32);
    let g = g.unwrap();
    let mut disk = SimDisk::new();
    format(&mut disk, g);
    let mut u = SimUnion::attach_to(&disk, &g).unwrap();
    for n in 0..g.root_slabs() {
        let range = g.slab_start(n)..g.slab_start(n + 1).min(union);
        let sectors = &layer.sectors[range.start as usize..range.end as usize];
        if sectors.iter().all(|s| *s == Some([0; SECTOR])) && random.below(3) > 0 {
            // One slab in two has had data before.
            if random.chance(2) {
                u.write(range.start, 1, 5, true).unwrap();
                u.flush().unwrap();
            }
            assert!(u.empty(n..n + 1, Base::Zero).unwrap());
            u.flush().unwrap();
        }
    }
    let mut order: Vec<u64> = (0..union).collect();
    for n in 0..order.len() {
        let other = random.below(order.len() as u64) as usize;
        order.swap(n, other);
    }
    for sector in order {
        let slab = g.slab_of(sector);
        let is_done = u.map.entry(slab).base == Base::Zero;
        let Some(bytes) = layer.sectors[sector as usize].filter(|_| !is_done) else {
            continue;
        };
        u.write(sector, 1, 9, true).unwrap();
        let run = plan::read(&u.map, NoLayers, sector, 1).next().unwrap();
        let Source::Leaf(to) = run.source else {
            panic!("{run:?}")
        };
        u.disk.write_sectors(to, &[bytes]).unwrap();
    }
    let disk = u.disk.clone();
    u.detach().unwrap();
    load(&disk, g.root_sectors(), g.leaf_sectors()).unwrap()
}

#[test]
fn leaves_with_the_same_content_give_the_same_bytes() {
    let mut random = Random(72);
    for round in 0..12 {
        let union = 3000 + random.below(3000);
        let layer = content_of_a_leaf(&mut random, union);
        let mut bytes: Option<Vec<u8>> = None;
        for slab in [32, 128, 1024, 128] {
            let u = leaf(&layer, slab, &mut random);
            let source = || LeafExtents::new(&u.map, || Ok(()));
            let mut image = Image::default();
            let mut content = OfDisk(&u.disk);
            seal_from(source, &mut content, union, None, &mut image, [16, 3]).unwrap();
            assert!(
                image.layer().unwrap() == layer,
                "round {round}, slab {slab}"
            );
            let first = bytes.get_or_insert_with(|| image.bytes());
            assert!(*first == image.bytes(), "round {round}, slab {slab}");
        }
    }
}

fn zero(first: u64, sectors: u64) -> Extent {
    Extent {
        first,
        sectors,
        content: extent::Content::Zero,
    }
}

/// Extents of terabytes are cut, in the same places whatever form they had before.
#[test]
fn long_extents_are_cut() {
    let union = 5 * CUT + 3;
    let forms = [
        vec![zero(8, union - 8)],
        vec![zero(8, 5), zero(13, CUT), zero(CUT + 13, union - CUT - 13)],
    ];
    let images = forms.map(|extents| {
        let loose = Loose {
            extents,
            ..Loose::default()
        };
        let mut image = Image::default();
        let header = loose.seal(union, None, &mut image, [4, 4]).unwrap();
        let found = image.extents(&header).unwrap();
        let firsts: Vec<u64> = found.iter().map(|e| e.first).collect();
        // The last 3 sectors are no whole unit, so they are data.
        let cuts = [8, CUT, 2 * CUT, 3 * CUT, 4 * CUT, 5 * CUT];
        assert_eq!(firsts, cuts);
        assert_eq!((header.data_sectors, header.data_blocks), (3, 1));
        assert_eq!(header.zero_sectors, union - 11);
        image.bytes()
    });
    assert!(images[0] == images[1]);
}

/// Data across a cut is contiguous, and two extents.
#[test]
fn data_is_cut_too() {
    let data = (100..140).map(|n| (n, filled(n))).collect();
    let loose = Loose {
        extents: vec![Extent {
            first: CUT - 20,
            sectors: 40,
            content: extent::Content::Data(100),
        }],
        data,
    };
    let mut image = Image::default();
    let header = loose.seal(2 * CUT, None, &mut image, [8, 8]).unwrap();
    let found = image.extents(&header).unwrap();
    let wanted = [(CUT - 20, 20, 20), (CUT, 20, 40)];
    let wanted = wanted.map(|(first, sectors, position)| Extent {
        first,
        sectors,
        content: extent::Content::Data(position),
    });
    assert_eq!(found, wanted);
}

#[test]
fn a_stand_in_record_is_outside_the_digest() {
    let mut random = Random(73);
    let layer = LayerContent::random(&mut random, 200);
    let loose = Loose::random(&layer, &mut random);
    let record = StandIn {
        below: ChainId([1; 32]),
        after: ChainId([2; 32]),
        layers: 7,
    };
    let [mut plain, mut with] = [Image::default(), Image::default()];
    let a = loose.seal(200, None, &mut plain, [9, 9]).unwrap();
    let b = loose.seal(200, Some(&record), &mut with, [9, 9]).unwrap();
    assert_eq!(a, b);
    assert_eq!(plain.open().unwrap().stand_in, None);
    assert_eq!(with.open().unwrap().stand_in, Some(record));
    for n in (0..plain.end()).filter(|&n| n != 1) {
        assert_eq!(plain.block(n), with.block(n), "block {n}");
    }
    // The record of another layer is no stand-in of this one.
    let other = LayerContent::random(&mut random, 200);
    let mut image = Image::default();
    let other = Loose::random(&other, &mut random);
    other.seal(200, None, &mut image, [9, 9]).unwrap();
    *image.edit(1) = with.block(1);
    assert!(matches!(image.open(), Err(Fault::Damaged { block: 1, .. })));
}

/// A source that is not the same in the second pass never gets a header.
#[test]
fn a_change_of_size_between_the_passes_is_noticed() {
    let mut random = Random(74);
    let mut refused = 0;
    for _ in 0..200 {
        let layers = [0; 2].map(|_| LayerContent::random(&mut random, 400));
        let [a, b] = layers.clone().map(|l| Loose::random(&l, &mut random));
        let pass = Cell::new(0);
        let source = || {
            pass.set(pass.get() + 1);
            let loose = if pass.get() == 1 { &a } else { &b };
            List(&loose.extents)
        };
        let mut data = a.data.clone();
        data.extend(&b.data);
        for n in 0..3000 {
            data.entry(n).or_insert(filled(3));
        }
        let mut image = Image::default();
        let done = seal_from(source, &mut Data(&data), 400, None, &mut image, [4, 2]);
        match done {
            Err(Fault::Changed) => {
                refused += 1;
                assert_eq!(image.open(), Err(Fault::NotSealed));
            }
            Ok(header) => assert_eq!(image.open().unwrap().header, header),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 150, "{refused}");
}

/// Extents that no source may give, and data that cannot be read, end the work.
#[test]
fn wrong_sources_and_failed_reads_are_reported() {
    let data = |first, sectors| Extent {
        first,
        sectors,
        content: extent::Content::Data(0),
    };
    for extents in [
        vec![zero(0, 101)],
        vec![zero(0, 8), zero(7, 8)],
        vec![data(16, 8), data(0, 8)],
        vec![zero(u64::MAX, 8)],
    ] {
        let loose = Loose {
            data: (0..200).map(|n| (n, filled(n))).collect(),
            extents,
        };
        let done = loose.seal(100, None, &mut Image::default(), [4, 4]);
        assert_eq!(done, Err(Fault::Failed(Error::Internal)));
    }
    let loose = Loose {
        extents: vec![data(3, 50)],
        data: (0..20).map(|n| (n, filled(n))).collect(),
    };
    let done = loose.seal(100, None, &mut Image::default(), [1, 1]);
    assert_eq!(done, Err(Fault::Failed(Error::Io(Role::Leaf, 20))));
}
