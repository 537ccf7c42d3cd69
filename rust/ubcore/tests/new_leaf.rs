// SPDX-License-Identifier: GPL-2.0

//! A format, with a power failure in or after each of its writes. The device then is the old leaf,
//! the new one, or no leaf, never a mix of two leaves.

use std::collections::BTreeMap;

use sim::disk::{Random, Sector, SimDisk, State};
use sim::oracle::{content, tag, Oracle, ROOT};
use sim::union::{format_as, superblock, try_format, SimUnion};
use ubcore::attach::read_superblock;
use ubcore::disk::Order;
use ubcore::error::Error;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;

type Image = BTreeMap<u64, Sector>;

/// The number of writes of a format.
const WRITES: u64 = 3;

fn geometry(slab_sectors: u32) -> Geometry {
    Geometry::new(1280, 1280, 4096, slab_sectors, 16).unwrap()
}

fn old() -> Superblock {
    superblock(geometry(32))
}

/// Returns the new leaf, which has another layout.
fn new() -> Superblock {
    Superblock::new(*b"simulated leaf 1", 77, geometry(64), 512, [0; 32])
}

/// Makes an older leaf on which the power failed at an I/O of a checkpoint. Returns `None` if the
/// checkpoint has fewer I/Os.
fn older(fails_at: u64) -> Option<(Image, Oracle)> {
    let mut disk = SimDisk::new();
    format_as(&mut disk, &old());
    let mut oracle = Oracle::default();
    let mut u = SimUnion::attach_to(&disk, &old().geometry).unwrap();
    for at in [0, 100, 700, 1200] {
        let tag = oracle.new_tag();
        u.write(at, 40, tag, true).unwrap();
        oracle.begun(at, 40, tag);
        u.flush().unwrap();
        oracle.flushed();
    }
    disk.state.borrow_mut().power_fails_in = Some(fails_at);
    let done = u.committer.checkpoint(&u.map, &mut u.disk);
    disk.state.borrow_mut().crash(&mut Random(fails_at));
    done.is_err().then(|| (disk.image(), oracle))
}

/// What a power failure left on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    NoLeaf,
    Old,
    New,
}

/// Attaches to the leaf, and compares every sector with what the leaf must hold.
fn found(image: &Image, oracle: &Oracle) -> Found {
    let mut oracle = oracle.clone();
    let disk = SimDisk::with(State::restored(image.clone()));
    let sb = match read_superblock(&mut disk.clone()) {
        Ok(chosen) => chosen.superblock,
        Err(Error::NotFormatted) => return Found::NoLeaf,
        Err(e) => panic!("{e}"),
    };
    let u = SimUnion::attach_to(&disk, &sb.geometry).unwrap();
    let is_old = sb.nonce == old().nonce;
    for s in 0..sb.geometry.union_sectors() {
        let data = u.read(s);
        if is_old {
            let is_right = tag(&data, s).is_some_and(|tag| oracle.after_power_failure(s, tag));
            assert!(is_right, "sector {s} of the old leaf");
        } else {
            assert!(data == content(ROOT, s), "sector {s} of the new leaf");
        }
    }
    if is_old {
        return Found::Old;
    }
    assert_eq!((sb.uuid, u.allocator.used()), (new().uuid, 0));
    Found::New
}

/// Returns the image without one of the superblock slots.
fn without(image: &Image, slot: u64) -> Image {
    let mut image = image.clone();
    image.retain(|at, _| at / 8 != slot);
    image
}

/// Formats a device that holds `image`, and fails the power at each write and after the last one.
/// Returns what each failure can leave.
fn format_over(image: &Image, oracle: &Oracle) -> Vec<Vec<Found>> {
    let each = |fails_at: u64| {
        let mut all = Vec::new();
        for seed in 0..16 {
            let mut disk = SimDisk::with(State::restored(image.clone()));
            disk.state.borrow_mut().random = Some(Random(!seed));
            disk.state.borrow_mut().power_fails_in = Some(fails_at);
            let done = try_format(&mut disk, &new());
            assert_eq!(done.is_ok(), fails_at == WRITES);
            disk.state.borrow_mut().crash(&mut Random(seed));
            let left = found(&disk.image(), oracle);
            // Once the new leaf is there, the old one does not return if a slot is lost.
            if left == Found::New {
                for slot in 0..2 {
                    let left = found(&without(&disk.image(), slot), oracle);
                    assert_ne!(left, Found::Old, "write {fails_at}, slot {slot} lost");
                }
            }
            if !all.contains(&left) {
                all.push(left);
            }
        }
        all.sort_by_key(|found| *found as u8);
        all
    };
    (0..=WRITES).map(each).collect()
}

#[test]
fn a_power_failure_in_a_format_of_a_blank_device_leaves_no_leaf_or_the_new_one() {
    use Found::{New, NoLeaf};
    let left = format_over(&Image::new(), &Oracle::default());
    let expected = [&[NoLeaf][..], &[NoLeaf, New], &[New], &[New]];
    assert_eq!(left, expected);
}

#[test]
fn a_power_failure_in_a_format_leaves_the_old_leaf_or_the_new_one() {
    use Found::{New, Old};
    let mut leaves = 0;
    for (image, oracle) in (0..).map_while(older) {
        assert_eq!(found(&image, &oracle), Old);
        let expected = [&[Old][..], &[Old, New], &[New], &[New]];
        assert_eq!(format_over(&image, &oracle), expected);
        leaves += 1;
    }
    assert!(leaves > 3, "{leaves} I/Os of a checkpoint");
}

/// The old leaf is lost with the first write if only its second slot was left.
#[test]
fn a_power_failure_in_a_format_of_half_a_leaf_leaves_no_mix() {
    use Found::{New, NoLeaf, Old};
    let (image, oracle) = older(0).unwrap();
    let left = format_over(&without(&image, 0), &oracle);
    let expected = [&[NoLeaf, Old][..], &[NoLeaf, New], &[New], &[New]];
    assert_eq!(left, expected);
    let left = format_over(&without(&image, 1), &oracle);
    let expected = [&[Old][..], &[Old, New], &[New], &[New]];
    assert_eq!(left, expected);
}

/// What the tests of power failures format is what the tool writes.
#[test]
fn a_format_is_three_durable_writes() {
    let mut disk = SimDisk::new();
    format_as(&mut disk, &new());
    let counts = disk.counts();
    assert_eq!(
        (counts.flush_fua_writes, counts.blocks_written),
        (WRITES, WRITES)
    );
    let slots = [0, 1].map(|slot| disk.read_sector(slot * 8));
    assert_eq!(slots[0], slots[1]);
    assert_eq!(Superblock::decode(&slots[0], LeafBlock(0)), Ok(new()));
    // Two writes, first slot first, would let the old leaf return.
    let (image, oracle) = older(0).unwrap();
    let disk = SimDisk::with(State::restored(image));
    let mut state = disk.state.borrow_mut();
    state.write(0, &slots[..1], Order::FlushFua).unwrap();
    drop(state);
    assert_eq!(found(&disk.image(), &oracle), Found::New);
    assert_eq!(found(&without(&disk.image(), 0), &oracle), Found::Old);
}
