// SPDX-License-Identifier: GPL-2.0

//! Damaged, hostile and half-written sealed layers are refused, with bounded work.

use std::collections::BTreeMap;

use sim::disk::{Random, Sector, SECTOR};
use sim::sealed::{filled, set_checksum, Image, LayerContent, Loose};
use ubcore::error::{Area, Error};
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::leaf_block::LeafBlock;
use ubcore::sealed::chunk;
use ubcore::sealed::fault::{Fault, LayerPart};
use ubcore::sealed::header::Header;
use ubcore::stack::chain::{ChainId, StandIn};
use ubcore::stack::extent::{Content, Extent};

const UNION: u64 = 4000;

/// Returns a layer with two blocks of extents and two chunks of data.
fn layer() -> LayerContent {
    let mut sectors: Vec<Option<Sector>> = (0..UNION).map(|n| Some(filled(n + 1))).collect();
    for n in 0..300 {
        sectors[n * 5 + 2] = None;
    }
    sectors[2400..2440].fill(Some([0; SECTOR]));
    LayerContent { sectors }
}

fn image(stand_in: Option<&StandIn>) -> (Image, Header) {
    let mut image = Image::default();
    let loose = Loose::random(&layer(), &mut Random(1));
    let header = loose.seal(UNION, stand_in, &mut image, [7, 7]).unwrap();
    assert_eq!((header.index_blocks(), header.chunks()), (2, 2));
    image.window = 3;
    (image, header)
}

fn part_of(n: u64, header: &Header) -> LayerPart {
    match n {
        0 => LayerPart::Header,
        1 => LayerPart::StandIn,
        n if n < header.index_block() => LayerPart::Data,
        n if n < header.digest_block() => LayerPart::Index,
        _ => LayerPart::Digests,
    }
}

/// Returns whether a bit is checked by more than the checksum. The checksum itself is not, nor are
/// the identities and the number in a stand-in record, because any of them may be right.
fn is_checked(n: u64, bit: usize, record: bool) -> bool {
    let byte = bit / 8;
    match n {
        0 => !(8..12).contains(&byte),
        1 => record && !(4..12).contains(&byte) && !(48..112).contains(&byte),
        _ => !(4..8).contains(&byte),
    }
}

/// Each flip of a bit outside the data is refused, also with a checksum that is right. Of index and
/// digests, three bits of each byte are flipped, because that takes long enough.
#[test]
fn each_bit_of_metadata_is_guarded() {
    let record = StandIn {
        below: ChainId([1; 32]),
        after: ChainId([2; 32]),
        layers: 7,
    };
    for record in [None, Some(&record)] {
        let (mut image, header) = image(record);
        let mut blocks = vec![1];
        if record.is_none() {
            blocks.push(0);
            blocks.extend(header.index_block()..header.blocks());
        }
        let mut sums = 0;
        for n in blocks {
            let good = image.block(n);
            for bit in (0..BLOCK_BYTES * 8).filter(|bit| n < 2 || (bit + bit / 8) % 3 == 0) {
                image.edit(n)[bit / 8] ^= 1 << (bit % 8);
                match image.open() {
                    Err(Fault::NotSealed) => assert!(n == 0 && bit < 64),
                    Err(Fault::Damaged { part, block, .. }) => {
                        assert_eq!((part, block), (part_of(n, &header), n), "bit {bit}");
                    }
                    other => panic!("block {n}, bit {bit}: {other:?}"),
                }
                if is_checked(n, bit, record.is_some()) {
                    set_checksum(n, image.edit(n));
                    let found = image.open();
                    assert!(found.is_err(), "block {n}, bit {bit}: {found:?}");
                    sums += usize::from(found == Err(Fault::WrongSum));
                }
                *image.edit(n) = good;
            }
        }
        assert!(record.is_some() || sums > 200, "{sums}");
        assert!(image.open().is_ok());
    }
}

#[test]
fn a_flip_in_the_data_is_found() {
    let (mut image, header) = image(None);
    let extents = image.extents(&header).unwrap();
    assert_eq!(image.bad_chunk(&header, &extents), None);
    let mut random = Random(2);
    for _ in 0..200 {
        let block = 2 + random.below(header.data_blocks);
        let bit = random.below(BLOCK_BYTES as u64 * 8) as usize;
        image.edit(block)[bit / 8] ^= 1 << (bit % 8);
        let bad = image.bad_chunk(&header, &extents);
        assert_eq!(bad, Some((block - 2) / 256));
        image.edit(block)[bit / 8] ^= 1 << (bit % 8);
    }
}

/// A right digest does not make up for data that the canonical form would not have.
#[test]
fn data_in_another_form_is_found() {
    let data = |first, sectors, position| Extent {
        first,
        sectors,
        content: Content::Data(position),
    };
    let extents = [data(3, 2, 19), data(14, 1, 22), data(32, 17, 24)];
    let mut blocks = [[0u8; BLOCK_BYTES]; 4];
    let fill = |blocks: &mut [Block], sector: usize, byte| {
        blocks.as_flattened_mut()[(sector - 16) * SECTOR + 9] = byte;
    };
    for n in [19, 20, 22].into_iter().chain(24..41) {
        fill(&mut blocks, n, 1);
    }
    assert_eq!(chunk::stray(2, &blocks, &extents), None);
    // Before, between and after the extents.
    for n in [16, 18, 21, 23, 41, 47] {
        fill(&mut blocks, n, 1);
        assert_eq!(chunk::stray(2, &blocks, &extents), Some(n as u64));
        fill(&mut blocks, n, 0);
    }
    // A unit of zeroes, but not a part of one.
    blocks[2].fill(0);
    assert_eq!(chunk::stray(2, &blocks, &extents), Some(32));
    assert_eq!(chunk::stray(4, &blocks[2..], &extents), Some(32));
    fill(&mut blocks, 39, 1);
    blocks[3].fill(0);
    assert_eq!(chunk::stray(2, &blocks, &extents), None);
}

/// Fields of the header, with a checksum that is right. Nothing but the header is read if it
/// contradicts itself.
#[test]
fn extremes_in_the_header_cost_nothing() {
    let (mut image, _) = image(None);
    let good = image.block(0);
    for at in (12..136).step_by(4) {
        for value in [
            0,
            1,
            7,
            8,
            u32::MAX.into(),
            1 << 32,
            1 << 45,
            (1 << 48) - 1,
            1 << 48,
            1 << 63,
            u64::MAX - 7,
            u64::MAX,
        ] {
            let block = image.edit(0);
            block[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            let same = *block == good;
            set_checksum(0, block);
            image.reads = 0;
            let blocks = image.end();
            let found = image.open();
            let reads = image.reads;
            // The device may say that it has any size.
            let huge =
                ubcore::sealed::open::open::<_, sim::sha256::Sha256>(&mut image, u64::MAX, None);
            assert!(same || (found.is_err() && huge.is_err()), "{at} {value:x}");
            assert!(reads <= 2 + blocks && image.reads - reads <= 2 + blocks);
            *image.edit(0) = good;
        }
    }
}

/// A header that is consistent, and larger than any device.
#[test]
fn huge_layers_cost_what_is_there() {
    let (image, header) = image(None);
    for (union, extents, data, blocks) in [
        (1 << 48, 1 << 40, 1 << 43, 1 << 40),
        (1 << 40, 1 << 30, 1 << 33, 1 << 30),
        (1 << 48, 1, 8, 1),
        (1 << 48, 254 * u64::from(u32::MAX), 1 << 47, 1 << 44),
    ] {
        let hostile = Header {
            union_sectors: union,
            extents,
            data_sectors: data,
            zero_sectors: 0,
            data_blocks: blocks,
            ..header
        };
        let mut copy = image.clone();
        hostile.encode(copy.edit(0));
        match copy.open() {
            Err(Fault::TooShort(wanted, found)) => {
                assert!(wanted > found && found == copy.end());
            }
            other => assert!(other.is_err() && copy.reads < 6, "{other:?}"),
        }
        copy.reads = 0;
        let found = ubcore::sealed::open::open::<_, sim::sha256::Sha256>(&mut copy, u64::MAX, None);
        assert!(found.is_err() && copy.reads < 6, "{found:?}");
    }
}

/// Returns what the change of a layer leads to if its maker computes all checksums and digests.
fn forged(change: impl FnOnce(&mut Image, &Header)) -> Result<LayerContent, Fault> {
    let (mut image, header) = image(None);
    change(&mut image, &header);
    image.forge();
    image.layer()
}

/// The maker of a layer decides its checksums and its digest, but not its form.
#[test]
fn other_forms_are_refused() {
    assert_eq!(forged(|_, _| {}), Ok(layer()));
    let add = |at: usize, by: i64| {
        move |image: &mut Image, _: &Header| {
            let field = &mut image.edit(0)[at..at + 8];
            let value = u64::from_le_bytes((&*field).try_into().unwrap());
            field.copy_from_slice(&value.wrapping_add_signed(by).to_le_bytes());
        }
    };
    // Sums of the header.
    for (at, by) in [(56, 1), (56, -1), (64, 1), (64, -1), (72, 8), (72, -8)] {
        let found = forged(add(at, by));
        assert!(
            matches!(
                found,
                Err(Fault::Damaged {
                    part: LayerPart::Index,
                    ..
                })
            ),
            "{at} {found:?}"
        );
    }
    // Behind the last extent, behind the last digest, in what is reserved.
    for (part, at) in [
        (LayerPart::Index, 4095),
        (LayerPart::Index, 32 + 49 * 16),
        (LayerPart::Index, 16),
        (LayerPart::Digests, 96),
        (LayerPart::Digests, 4095),
        (LayerPart::Digests, 31),
    ] {
        let found = forged(|image, header| {
            let block = match part {
                LayerPart::Index => header.index_block() + 1,
                _ => header.digest_block(),
            };
            image.edit(block)[at] = 1;
        });
        assert!(
            matches!(found, Err(Fault::Damaged { part: p, .. }) if p == part),
            "{found:?}"
        );
    }
    let (image, header) = image(None);
    let sealed = |image: &mut Image| image.open().map(|sealed| sealed.header);
    // Data in a gap, and a block of zeroes in the middle of data.
    let extents = image.clone().extents(&header).unwrap();
    let is_data = |sector: u64| {
        extents.iter().any(|e| match e.content {
            Content::Data(at) => (at..at + e.sectors).contains(&sector),
            Content::Zero => false,
        })
    };
    let gaps: Vec<u64> = (16..header.index_block() * 8)
        .filter(|&s| !is_data(s))
        .collect();
    for sector in [gaps[0], gaps[gaps.len() - 1]] {
        let mut copy = image.clone();
        copy.edit(sector / 8)[(sector % 8) as usize * SECTOR + 511] = 1;
        copy.forge();
        assert!(sealed(&mut copy).is_ok());
        assert_eq!(
            copy.bad_chunk(&header, &extents),
            Some((sector - 16) / 2048)
        );
    }
    let mut copy = image.clone();
    *copy.edit(400) = [0; BLOCK_BYTES];
    copy.forge();
    assert!(sealed(&mut copy).is_ok());
    assert_eq!(copy.bad_chunk(&header, &extents), Some(1));
}

/// If a change of the index is accepted, sealing what the layer then holds gives the same bytes.
#[test]
fn each_accepted_form_is_the_canonical_one() {
    let union = 1600;
    let mut sectors = layer().sectors;
    sectors.truncate(union as usize);
    let mut random = Random(5);
    let loose = Loose::random(&LayerContent { sectors }, &mut random);
    let mut image = Image::default();
    let header = loose.seal(union, None, &mut image, [9, 9]).unwrap();
    let mut accepted = 0;
    for round in 0..700 {
        let mut copy = image.clone();
        for _ in 0..=random.below(3) {
            let block = header.index_block() + random.below(2);
            let at = random.below(if block > header.index_block() {
                780
            } else {
                4096
            });
            copy.edit(block)[at as usize] ^= 1 << random.below(8);
        }
        copy.forge();
        let Ok(sealed) = copy.open() else { continue };
        let extents = copy.extents(&sealed.header).unwrap();
        if copy.bad_chunk(&sealed.header, &extents).is_some() {
            continue;
        }
        accepted += 1;
        let found = copy.layer().unwrap();
        let mut again = Image::default();
        let loose = Loose::random(&found, &mut random);
        loose.seal(union, None, &mut again, [7, 7]).unwrap();
        assert!(again.bytes() == copy.bytes(), "round {round}");
    }
    assert!(accepted > 0, "{accepted}");
}

#[test]
fn another_layer_and_a_short_device_are_refused() {
    let (mut image, header) = image(None);
    let open = |image: &mut Image, blocks, wanted| {
        ubcore::sealed::open::open::<_, sim::sha256::Sha256>(image, blocks, wanted)
    };
    let end = header.blocks();
    assert!(open(&mut image, end, Some(&header.digest)).is_ok());
    let other = open(&mut image, end, Some(&[0; 32]));
    assert_eq!(other, Err(Fault::OtherLayer));
    let short = open(&mut image, end - 1, None);
    assert_eq!(short, Err(Fault::TooShort(end, end - 1)));
    assert_eq!(open(&mut image, 0, None), Err(Fault::NotSealed));
}

/// What the driver reports.
#[test]
fn faults_become_reasons() {
    let damaged = Fault::Damaged {
        part: LayerPart::Index,
        block: 9,
        byte: 40,
    };
    for (fault, error) in [
        (damaged, Error::Damaged(Area::Layer, LeafBlock(9))),
        (Fault::NotSealed, Error::Damaged(Area::Layer, LeafBlock(0))),
        (
            Fault::TooShort(9, 7),
            Error::Damaged(Area::Layer, LeafBlock(7)),
        ),
        (Fault::NewerVersion(2), Error::NewerVersion(2)),
        (Fault::Failed(Error::Os(4)), Error::Os(4)),
        (Fault::Changed, Error::Internal),
    ] {
        assert_eq!(Error::from(fault), error);
        assert!(!fault.to_string().is_empty());
    }
    assert!(damaged
        .to_string()
        .contains("index of the sealed layer is damaged at block 9, byte 40"));
}

/// Extents are checked again when they are read.
#[test]
fn an_index_that_changes_after_the_open_is_noticed() {
    let (mut image, header) = image(None);
    let index = header.index_block();
    let good = image.block(index + 1);
    for bit in (0..BLOCK_BYTES * 8).step_by(37) {
        image.edit(index + 1)[bit / 8] ^= 1 << (bit % 8);
        let found = image.extents(&header).map(|_| ());
        assert_eq!(
            found,
            Err(Error::Damaged(Area::Layer, LeafBlock(index + 1)))
        );
        *image.edit(index + 1) = good;
    }
}

/// Fails the power after `n` writes and flushes: what was flushed is durable, of the rest any
/// sector may be.
fn cut(before: &Image, log: &[Option<(u64, Vec<Block>)>], n: usize, random: &mut Random) -> Image {
    let mut durable: BTreeMap<u64, Block> = before.blocks.clone();
    let done = &log[..n];
    let flushed = done.iter().rposition(Option::is_none).unwrap_or(0);
    let lands_one_in = 1 + random.below(3);
    for (at, write) in done.iter().enumerate() {
        let Some((first, blocks)) = write else {
            continue;
        };
        for (n, block) in (*first..).zip(blocks) {
            let to = durable.entry(n).or_insert([0; BLOCK_BYTES]);
            for (to, from) in to.chunks_mut(SECTOR).zip(block.chunks(SECTOR)) {
                if at < flushed || random.chance(lands_one_in) {
                    to.copy_from_slice(from);
                }
            }
        }
    }
    Image {
        blocks: durable,
        ..Image::default()
    }
}

/// A power failure at any time leaves no sealed layer, or the whole new one, or the whole old one.
#[test]
fn a_power_failure_leaves_all_or_nothing() {
    let mut random = Random(4);
    let old = LayerContent::random(&mut random, 900);
    let mut before = Image::default();
    Loose::random(&old, &mut random)
        .seal(900, None, &mut before, [2, 2])
        .unwrap();
    let new = layer();
    for (before, old) in [(Image::default(), None), (before, Some(old))] {
        let mut image = Image {
            log: Vec::new(),
            ..before.clone()
        };
        let loose = Loose::random(&new, &mut random);
        loose.seal(UNION, None, &mut image, [5, 40]).unwrap();
        let log = &image.log;
        let (mut none, mut whole) = (0, 0);
        for n in 0..=log.len() {
            for _ in 0..8 {
                match cut(&before, log, n, &mut random).layer() {
                    Err(Fault::NotSealed) => none += 1,
                    Ok(found) if found == new => {
                        // Only after everything else was durable.
                        assert!(n + 2 > log.len(), "{n} of {}", log.len());
                        whole += 1;
                    }
                    // Until the first two blocks are durable.
                    Ok(found) => assert!(old.as_ref() == Some(&found) && n < 3, "{n}"),
                    Err(e) => panic!("{n} of {}: {e}", log.len()),
                }
            }
        }
        assert!(none > 50 && whole >= 8, "{none} {whole}");
    }
}
