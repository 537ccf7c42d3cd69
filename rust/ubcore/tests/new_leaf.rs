// SPDX-License-Identifier: GPL-2.0

//! A format, with a power failure in or after each of its writes. The device then is the old leaf,
//! the new one, or no leaf, never a mix of two leaves.

use std::collections::BTreeMap;

use sim::disk::{DiskState, Random, Sector, SimDisk};
use sim::oracle::{content, tag, Oracle, ROOT, ZERO};
use sim::union::{format_as, superblock, try_format, SimUnion};
use ubcore::attach::read_superblock;
use ubcore::disk::Order;
use ubcore::error::Error;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;

type Image = BTreeMap<u64, Sector>;

/// What a new leaf lies on: a root of this many sectors, or nothing.
const BELOW: [u64; 2] = [1280, 0];

/// Returns the number of writes of a format. A leaf on a root has a list too, and before that is
/// written both slots are emptied.
fn writes(root: u64) -> u64 {
    if root > 0 {
        5
    } else {
        3
    }
}

fn geometry(root: u64, slab_sectors: u32) -> Geometry {
    Geometry::new(root, 1280, 4096, slab_sectors, 16).unwrap()
}

fn old() -> Superblock {
    superblock(geometry(1280, 32))
}

/// Returns the new leaf, which has another layout.
fn new(root: u64) -> Superblock {
    Superblock::new(*b"simulated leaf 1", 77, geometry(root, 64), 512, [0; 32])
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
    let disk = SimDisk::with(DiskState::restored(image.clone()));
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
            let bottom = if sb.has_root() { ROOT } else { ZERO };
            assert!(data == content(bottom, s), "sector {s} of the new leaf");
        }
    }
    if is_old {
        return Found::Old;
    }
    assert_eq!((sb.uuid, u.allocator.used()), (new(0).uuid, 0));
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
fn format_over(root: u64, image: &Image, oracle: &Oracle) -> Vec<Vec<Found>> {
    let each = |fails_at: u64| {
        let mut all = Vec::new();
        for seed in 0..16 {
            let mut disk = SimDisk::with(DiskState::restored(image.clone()));
            disk.state.borrow_mut().random = Some(Random(!seed));
            disk.state.borrow_mut().power_fails_in = Some(fails_at);
            let done = try_format(&mut disk, &new(root));
            assert_eq!(done.is_ok(), fails_at == writes(root));
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
    (0..=writes(root)).map(each).collect()
}

#[test]
fn a_power_failure_in_a_format_of_a_blank_device_leaves_no_leaf_or_the_new_one() {
    use Found::{New, NoLeaf};
    let left = BELOW.map(|root| format_over(root, &Image::new(), &Oracle::default()));
    let no = &[NoLeaf][..];
    assert_eq!(left[0], [no, no, no, &[NoLeaf, New], &[New], &[New]]);
    assert_eq!(left[1], [no, &[NoLeaf, New], &[New], &[New]]);
}

/// A new leaf that has a list replaces the old one in two steps, with no leaf between them.
#[test]
fn a_power_failure_in_a_format_leaves_no_mix() {
    use Found::{New, NoLeaf, Old};
    let mut leaves = 0;
    for (image, oracle) in (0..).map_while(older) {
        assert_eq!(found(&image, &oracle), Old);
        let left = BELOW.map(|root| format_over(root, &image, &oracle));
        let (old, no, new) = (&[Old][..], &[NoLeaf][..], &[New][..]);
        assert_eq!(left[0], [old, &[NoLeaf, Old], no, &[NoLeaf, New], new, new]);
        assert_eq!(left[1], [old, &[Old, New], new, new]);
        leaves += 1;
    }
    assert!(leaves > 3, "{leaves} I/Os of a checkpoint");
}

/// The old leaf is lost with the first write if only its second slot was left.
#[test]
fn a_power_failure_in_a_format_of_half_a_leaf_leaves_no_mix() {
    use Found::{New, NoLeaf, Old};
    let (image, oracle) = older(0).unwrap();
    let (no, new) = (&[NoLeaf][..], &[New][..]);
    let left = BELOW.map(|root| format_over(root, &without(&image, 0), &oracle));
    let (first, last) = (&[NoLeaf, Old][..], &[NoLeaf, New][..]);
    assert_eq!(left[0], [first, no, no, last, new, new]);
    assert_eq!(left[1], [first, last, new, new]);
    let left = BELOW.map(|root| format_over(root, &without(&image, 1), &oracle));
    assert_eq!(left[0], [&[Old], first, no, last, new, new]);
    assert_eq!(left[1], [&[Old][..], &[Old, New], new, new]);
}

/// The tests of power failures format a device by the same writes as the tool.
#[test]
fn a_format_is_a_few_durable_writes() {
    let mut slots = [[0; 512]; 2];
    for root in BELOW {
        let mut disk = SimDisk::new();
        format_as(&mut disk, &new(root));
        let counts = disk.counts();
        assert_eq!(counts.flush_fua_writes, writes(root));
        assert_eq!(counts.blocks_written, writes(root));
        slots = [0, 1].map(|slot| disk.read_sector(slot * 8));
        assert_eq!(slots[0], slots[1]);
        assert_eq!(Superblock::decode(&slots[0], LeafBlock(0)), Ok(new(root)));
    }
    // Two writes, first slot first, would let the old leaf return.
    let (image, oracle) = older(0).unwrap();
    let disk = SimDisk::with(DiskState::restored(image));
    let mut state = disk.state.borrow_mut();
    state.write(0, &slots[..1], Order::FlushFua).unwrap();
    drop(state);
    assert_eq!(found(&disk.image(), &oracle), Found::New);
    assert_eq!(found(&without(&disk.image(), 0), &oracle), Found::Old);
}
