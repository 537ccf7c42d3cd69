// SPDX-License-Identifier: GPL-2.0

//! The list of root and layers below a leaf: what format writes, what reads it back, and what
//! follows from damage; and the chain that the layers given to an attach must make.

use sim::disk::SimDisk;
use sim::inspect::{edit, edit_with_checksum, look};
use sim::oracle::{content, ROOT, ZERO};
use sim::sha256::Sha256;
use sim::union::{superblock, SimUnion};
use ubcore::check::{repair, FindingKind};
use ubcore::disk::{Disk, Order};
use ubcore::error::{Area, Error, Result};
use ubcore::format::below_list::{Listed, ListedLayer, ListedRoot, PathField, PATH_BYTES};
use ubcore::format::new_leaf::NewLeaf;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;
use ubcore::stack::chain::{self, ChainId, LayerId, Seal, StandIn};
use ubcore::stack::listed;

fn layer(n: u8) -> ListedLayer {
    let id = if n % 3 == 0 {
        LayerId::Sealed([n; 32])
    } else {
        LayerId::Frozen([n; 16], Seal([0xff - n; 16]))
    };
    let offset = u64::from(n) * 4096;
    let path = path(&format!("/srv/layers/{n}"));
    ListedLayer { id, offset, path }
}

fn path(text: &str) -> PathField {
    let mut path = [0; PATH_BYTES];
    path[..text.len()].copy_from_slice(text.as_bytes());
    path
}

const ROOT_PATH: &str = "/srv/gold.img";

fn layers(count: u32) -> Vec<ListedLayer> {
    (0..count).map(|n| layer(n as u8)).collect()
}

fn ids(layers: &[ListedLayer]) -> Vec<LayerId> {
    layers.iter().map(|l| l.id).collect()
}

fn chain(ids: &[LayerId]) -> ChainId {
    ids.iter()
        .fold(ChainId::BOTTOM, |c, id| c.with::<Sha256>(id))
}

/// Makes a leaf on these layers, and on a root of this many sectors.
fn leaf(root: u64, layers: &[ListedLayer]) -> (SimDisk, Superblock) {
    let g = Geometry::new(root, 6400, 8192, 128, 16).unwrap();
    let mut sb = superblock(g.over(layers.len() as u32).unwrap());
    sb.chain = chain(&ids(layers));
    sb.root_digest = [if root > 0 { 0x77 } else { 0 }; 32];
    let mut disk = SimDisk::new();
    let mut writes = Vec::new();
    let new = NewLeaf::new(&sb, &path(ROOT_PATH), layers).unwrap();
    new.write(|block, bytes| -> Result {
        writes.push(block.0);
        disk.block().copy_from_slice(bytes);
        disk.write(block, 1, Order::FlushFua)
    })
    .unwrap();
    // While the list is written, neither slot has a superblock.
    if root > 0 || !layers.is_empty() {
        assert_eq!(writes[..2], [1, 0]);
        assert_eq!(writes[writes.len() - 2..], [0, 1]);
    }
    (disk, sb)
}

fn read(disk: &SimDisk, sb: &Superblock) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    listed::read::<Sha256, _>(&mut disk.clone(), sb, |listed| {
        found.push(*listed);
        Ok(())
    })?;
    Ok(found)
}

/// Reads only the layers, as an attach does. Also returns how many blocks it read.
fn read_layers(disk: &SimDisk, sb: &Superblock) -> (Result<Vec<ListedLayer>>, u64) {
    let mut found = Vec::new();
    let before = disk.counts().reads;
    let read = listed::layers::<Sha256, _>(&mut disk.clone(), sb, |layer| {
        found.push(*layer);
        Ok(())
    });
    (read.map(|()| found), disk.counts().reads - before)
}

#[test]
fn a_list_comes_back_and_leaves_the_leaf_its_data() {
    // The number of layers, whether there is a root, and the blocks of the list.
    for (count, root, blocks) in [
        (0, 0, 0),
        (0, 6400, 1),
        (1, 0, 1),
        (12, 6400, 1),
        (13, 0, 1),
        (13, 6400, 2),
        (14, 0, 2),
        (254, 0, 20),
        (254, 6400, 20),
    ] {
        let layers = layers(count);
        let (disk, sb) = leaf(root, &layers);
        let g = sb.geometry;
        assert_eq!(u64::from(g.below_list_blocks()), blocks);
        let check = || {
            let mut found = read(&disk, &sb).unwrap().into_iter();
            if root > 0 {
                let Some(Listed::Root(listed)) = found.next() else {
                    panic!("no root");
                };
                assert_eq!(listed.path(), ROOT_PATH.as_bytes());
                assert_eq!(listed.digest, sb.root_digest);
            }
            assert!(found.eq(layers.iter().copied().map(Listed::Layer)));
            let reads = if count > 0 { blocks } else { 0 };
            assert_eq!(read_layers(&disk, &sb), (Ok(layers.clone()), reads));
        };
        check();
        if count > 0 {
            assert_eq!(layers[0].path(), b"/srv/layers/0");
        }
        let end = g.below_list_block(g.below_list_blocks());
        assert!(end.0 * 8 <= g.data_start());
        let mut u = SimUnion::attach_to(&disk, &g).unwrap();
        u.write(3, 500, 7, true).unwrap();
        u.detach().unwrap();
        check();
        let u = SimUnion::attach_to(&disk, &g).unwrap();
        let bottom = if root > 0 { ROOT } else { ZERO };
        assert!(u.read(400) == content(7, 400) && u.read(2) == content(bottom, 2));
    }
}

#[test]
fn every_bit_of_a_list_is_guarded() {
    for (count, blocks, what) in [
        (14, 2, FindingKind::BelowList),
        (0, 1, FindingKind::RootEntry),
    ] {
        let layers = layers(count);
        let (disk, sb) = leaf(6400, &layers);
        for n in 0..blocks {
            let block = sb.geometry.below_list_block(n);
            for at in (0..4096).step_by(13).chain(0..48) {
                edit(&disk, block, |b| b[at] ^= 4);
                let damaged = Error::Damaged(Area::BelowList, block);
                assert_eq!(read(&disk, &sb), Err(damaged), "{at}");
                // An attach needs the layers, and not where the root was.
                assert_eq!(read_layers(&disk, &sb).0.is_ok(), count == 0);
                let found = look(&disk).unwrap().findings;
                assert_eq!(found.len(), 1);
                assert_eq!((found[0].kind, found[0].block), (what, block));
                edit(&disk, block, |b| b[at] ^= 4);
            }
        }
        assert!(read(&disk, &sb).is_ok());
    }
}

/// The superblock has all of the root's entry but the path.
#[test]
fn the_entry_of_the_root_is_repaired_without_its_path() {
    let (disk, sb) = leaf(6400, &[]);
    let block = sb.geometry.below_list_block(0);
    edit(&disk, block, |b| b[300] ^= 1);
    let found = look(&disk).unwrap().findings;
    assert!(found.iter().all(|f| f.kind.is_repairable()));
    repair::repair_block(&mut disk.clone(), &sb, &found[0]).unwrap();
    assert!(look(&disk).unwrap().findings.is_empty());
    let (digest, path) = (sb.root_digest, [0; PATH_BYTES]);
    let root = Listed::Root(ListedRoot { digest, path });
    assert_eq!(read(&disk, &sb), Ok(vec![root]));
    // No attach needs the block, so a block that cannot be read has the same grade.
    disk.state.borrow_mut().unreadable.insert(block.0);
    let found = look(&disk).unwrap().findings;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].kind, found[0].block),
        (FindingKind::RootEntry, block)
    );
    // Of layers the superblock does not have enough.
    let (disk, sb) = leaf(6400, &layers(1));
    let refused = repair::repair_block(&mut disk.clone(), &sb, &found[0]);
    assert_eq!(refused, Err(Error::LayerCount(1, 0)));
}

#[test]
fn a_new_leaf_lists_as_many_layers_as_it_counts() {
    let (_, sb) = leaf(6400, &layers(3));
    for count in [0, 2, 4] {
        let found = NewLeaf::new(&sb, &path(ROOT_PATH), &layers(count)).err();
        assert_eq!(found, Some(Error::LayerCount(3, count.into())));
    }
}

#[test]
fn a_list_that_cannot_be_is_damage_whatever_its_checksum() {
    let layers = layers(14);
    let (disk, sb) = leaf(0, &layers);
    let first = sb.geometry.below_list_block(0).0;
    // The nonce, the number of the block, the number of layers, reserved bytes; of the first layer
    // the kind, reserved bytes, the offset, the identity, the path; a layer past the last.
    for (n, at) in [8, 16, 20, 24, 40, 41, 48, 60, 88 + 200, 40 + 312 - 1]
        .into_iter()
        .map(|at| (0, at))
        .chain([(1, 40 + 312)])
    {
        edit_with_checksum(&disk, LeafBlock(first + n), 4096, 4, |b| b[at] ^= 0x41);
        let read = read(&disk, &sb);
        assert!(
            matches!(read, Err(Error::Damaged(Area::BelowList, _))),
            "{n} {at}"
        );
        edit_with_checksum(&disk, LeafBlock(first + n), 4096, 4, |b| b[at] ^= 0x41);
    }
    // The offset of a layer may be any sector, and the path is a hint.
    edit_with_checksum(&disk, LeafBlock(first), 4096, 4, |b| b[49] ^= 2);
    edit_with_checksum(&disk, LeafBlock(first), 4096, 4, |b| b[90] = b'x');
    assert!(read(&disk, &sb).is_ok());
}

#[test]
fn a_root_that_cannot_be_is_damage_whatever_its_checksum() {
    let (disk, sb) = leaf(6400, &[]);
    let block = sb.geometry.below_list_block(0);
    // The kind, reserved bytes, the offset, the digest, the path; a layer past the root.
    for at in [40, 41, 49, 60, 88 + 200, 40 + 312 - 1, 40 + 312] {
        edit_with_checksum(&disk, block, 4096, 4, |b| b[at] ^= 2);
        let damaged = Error::Damaged(Area::BelowList, block);
        assert_eq!(read(&disk, &sb), Err(damaged), "{at}");
        edit_with_checksum(&disk, block, 4096, 4, |b| b[at] ^= 2);
    }
    assert!(read(&disk, &sb).is_ok());
}

/// Returns the chain that layers make below a leaf that lists `listed`.
fn follow(listed: &[LayerId], given: &[(LayerId, Option<StandIn>)]) -> Result<ChainId> {
    let given = given.iter().map(|(id, stand_in)| (id, stand_in.as_ref()));
    chain::follow::<Sha256>(listed, given)
}

#[test]
fn missing_exchanged_and_reordered_layers_are_refused() {
    let all = ids(&layers(5));
    let plain = |ids: &[LayerId]| ids.iter().map(|id| (*id, None)).collect::<Vec<_>>();
    assert_eq!(follow(&all, &plain(&all)), Ok(chain(&all)));
    assert_eq!(follow(&[], &[]), Ok(ChainId::BOTTOM));
    assert_eq!(
        follow(&all, &plain(&all[..4])),
        Err(Error::LayerCount(5, 4))
    );
    assert_eq!(follow(&all, &plain(&all[1..])), Err(Error::LayerIdentity));
    assert_eq!(follow(&[], &plain(&all[..1])), Err(Error::LayerIdentity));
    for (a, b) in [(0, 1), (1, 3), (3, 4)] {
        let mut other = all.clone();
        other.swap(a, b);
        assert_eq!(follow(&all, &plain(&other)), Err(Error::LayerIdentity));
    }
    let mut longer = plain(&all);
    longer.push((LayerId::Sealed([9; 32]), None));
    assert_eq!(follow(&all, &longer), Err(Error::LayerIdentity));
}

#[test]
fn a_stand_in_takes_the_place_of_no_other_layers() {
    let all = ids(&layers(6));
    let id = LayerId::Sealed([0xee; 32]);
    for first in 0..6 {
        for end in first + 1..=6 {
            let stand_in = StandIn {
                below: chain(&all[..first]),
                after: chain(&all[..end]),
                layers: (end - first) as u32,
            };
            let given = |stand_in: StandIn| {
                let mut given: Vec<_> = all[..first].iter().map(|id| (*id, None)).collect();
                given.push((id, Some(stand_in)));
                given.extend(all[end..].iter().map(|id| (*id, None)));
                given
            };
            assert_eq!(follow(&all, &given(stand_in)), Ok(chain(&all)));
            for wrong in [
                StandIn {
                    below: ChainId([1; 32]),
                    ..stand_in
                },
                StandIn {
                    after: ChainId([1; 32]),
                    ..stand_in
                },
                StandIn {
                    layers: 0,
                    ..stand_in
                },
                StandIn {
                    layers: stand_in.layers + 1,
                    ..stand_in
                },
                StandIn {
                    layers: u32::MAX,
                    ..stand_in
                },
            ] {
                let refused = follow(&all, &given(wrong));
                assert_eq!(refused, Err(Error::LayerIdentity), "{first} {end}");
            }
            // In another stack it takes the place of no layers.
            let mut other = all.clone();
            other[first] = LayerId::Sealed([0x77; 32]);
            assert_eq!(follow(&other, &given(stand_in)), Err(Error::LayerIdentity));
        }
    }
}

/// A leaf lists a sealed layer, and a layer over that lists the layers for which it stands.
#[test]
fn each_layer_is_followed_with_its_own_list() {
    let all = ids(&layers(4));
    let sealed = LayerId::Sealed([0xee; 32]);
    let stand_in = |below: &[LayerId], of: &[LayerId]| StandIn {
        below: chain(below),
        after: chain(&[below, of].concat()),
        layers: of.len() as u32,
    };
    let low = (sealed, Some(stand_in(&[], &all[..2])));
    let third = (all[2], None);
    let listed = [sealed, all[2]];
    assert_eq!(follow(&listed, &[low, third]), Ok(chain(&listed)));
    assert_eq!(follow(&all[..2], &[low]), Ok(chain(&all[..2])));
    // A layer that was made on the sealed layer itself, with two more between.
    let made_on = [sealed, all[2], all[3]];
    let both = LayerId::Sealed([0xdd; 32]);
    let high = (both, Some(stand_in(&[sealed], &all[2..])));
    assert_eq!(follow(&made_on, &[low, high]), Ok(chain(&made_on)));
    let listed = [sealed, both];
    assert_eq!(follow(&listed, &[low, high]), Ok(chain(&listed)));
    // Layers that were made on other layers are refused.
    let other = [all[0], all[3]];
    assert_eq!(follow(&other, &[low]), Err(Error::LayerIdentity));
    assert_eq!(follow(&all[..1], &[low]), Err(Error::LayerIdentity));
    assert_eq!(follow(&all[..3], &[low]), Err(Error::LayerCount(2, 1)));
}
