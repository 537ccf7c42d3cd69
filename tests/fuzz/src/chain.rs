// SPDX-License-Identifier: GPL-2.0

//! The list of root and layers below a leaf, and the chain that the layers given to an attach make.

use sim::sha256::Sha256;
use ubcore::error::Error;
use ubcore::format::below_list::{
    count_in, decode, BelowList, Listed, ListedLayer, ListedRoot, ENTRIES_PER_BLOCK, PATH_BYTES,
};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{Geometry, BLOCK_BYTES};
use ubcore::stack::chain::{follow, ChainId, LayerId, Seal, StandIn, LAYERS_MAX};

use crate::source::Numbers;

/// Checks what must hold for any bytes, see [`block`] and [`links`].
pub fn run(data: &[u8]) {
    let mut source = Numbers(data);
    match source.byte() {
        how if how & 1 == 0 => block(&mut source, how & 2 != 0),
        _ => links(&mut source),
    }
}

/// Returns a leaf on so many layers, with a root or without.
fn leaf(layers: u32, has_root: bool, nonce: u64) -> Superblock {
    let root = if has_root { 1 << 12 } else { 0 };
    let g = Geometry::new(root, 1 << 12, 1 << 13, 128, 16).and_then(|g| g.over(layers));
    Superblock::new([1; 16], nonce, g.expect("a layout"), 512, [5; 32])
}

/// A block of a list that decodes has as many entries as it must, the root first, and encodes to
/// the same bytes. `forge`: its maker has computed the checksum.
fn block(source: &mut Numbers<'_>, forge: bool) {
    let layers = u32::from(source.byte()) % (LAYERS_MAX + 1);
    let has_root = source.chance(2);
    let entries = layers + u32::from(has_root);
    let index = source.below(21);
    let nonce = source.long();
    let sb = leaf(layers, has_root, nonce);
    let mut block = [0; BLOCK_BYTES];
    if forge {
        block[..4].copy_from_slice(b"UBbl");
        block[8..16].copy_from_slice(&nonce.to_le_bytes());
        block[16..20].copy_from_slice(&index.to_le_bytes());
        block[20..24].copy_from_slice(&count_in(entries, index).to_le_bytes());
        let bytes = source.take(BLOCK_BYTES - 40);
        block[40..40 + bytes.len()].copy_from_slice(bytes);
        block[4..8].fill(0);
        let crc = ubcore::format::crc::crc32c(0, &block);
        block[4..8].copy_from_slice(&crc.to_le_bytes());
    } else {
        let bytes = source.take(BLOCK_BYTES);
        block[..bytes.len()].copy_from_slice(bytes);
    }
    let mut found = Vec::new();
    let decoded = decode(&block, index, &sb, |listed| found.push(listed));
    if let Err(at) = decoded {
        assert!(at < BLOCK_BYTES && found.is_empty());
        return;
    }
    assert_eq!(found.len(), count_in(entries, index) as usize);
    assert!(found.len() <= ENTRIES_PER_BLOCK as usize);
    let mut root = None;
    let mut all = Vec::new();
    for (n, listed) in found.iter().enumerate() {
        match listed {
            Listed::Root(listed) => {
                assert!(has_root && index == 0 && n == 0 && listed.digest == sb.root_digest);
                assert!(listed.path().len() < PATH_BYTES);
                root = Some(*listed);
            }
            Listed::Layer(layer) => {
                assert!(layer.offset % 512 == 0 && layer.path().len() < PATH_BYTES);
                all.push(*layer);
            }
        }
    }
    assert_eq!(root.is_some(), has_root && index == 0);
    let again = encode_as(index, (root, &all), has_root, nonce);
    assert!(again == block, "a list has two forms");
}

/// Encodes the entries of one block, with any entries before them.
fn encode_as(
    index: u32,
    (root, layers): (Option<ListedRoot>, &[ListedLayer]),
    has_root: bool,
    nonce: u64,
) -> [u8; BLOCK_BYTES] {
    let path = [0; PATH_BYTES];
    let any = ListedLayer {
        id: LayerId::Sealed([0; 32]),
        offset: 0,
        path,
    };
    let digest = [5; 32];
    let root = root.or(has_root.then_some(ListedRoot { digest, path }));
    let before = (index * ENTRIES_PER_BLOCK).saturating_sub(has_root.into());
    let mut all = vec![any; before as usize];
    all.extend(layers);
    let list = BelowList { root, layers: &all };
    let mut block = [0xff; BLOCK_BYTES];
    list.encode(&mut block, index, nonce);
    block
}

/// A layer that is given, and what it stands for: layers in order, not digests of them.
struct Given {
    id: LayerId,
    stand_in: Option<(Vec<LayerId>, Vec<LayerId>, u32)>,
}

/// Returns one of few identities, so that they often meet.
fn id(source: &mut Numbers<'_>) -> LayerId {
    let n = source.below(6) as u8;
    match n % 2 {
        0 => LayerId::Frozen([n; 16], Seal([source.byte() % 2; 16])),
        _ => LayerId::Sealed([n; 32]),
    }
}

fn ids(source: &mut Numbers<'_>, most: u32) -> Vec<LayerId> {
    let count = source.below(most);
    (0..count).map(|_| id(source)).collect()
}

/// Returns the start of a list, or any layers.
fn near(source: &mut Numbers<'_>, listed: &[LayerId]) -> Vec<LayerId> {
    if source.chance(5) {
        return ids(source, 5);
    }
    let end = source.below(listed.len() as u32 + 1) as usize;
    listed[..end].to_vec()
}

fn given(source: &mut Numbers<'_>, listed: &[LayerId]) -> Given {
    let id = match source.below(4) {
        0 => id(source),
        _ => {
            let at = source.below(listed.len() as u32) as usize;
            listed.get(at).copied().unwrap_or_else(|| id(source))
        }
    };
    let stand_in = source.chance(2).then(|| {
        let (below, after) = (near(source, listed), near(source, listed));
        let layers = after.len().saturating_sub(below.len()) as u32;
        let layers = source.near(&[layers.into()]) as u32;
        (below, after, layers)
    });
    Given { id, stand_in }
}

/// The model: each layer is the one that is listed next, or stands for it and those over it. The
/// list begins at the bottom, so the layers that were reached are a start of it.
fn model(listed: &[LayerId], given: &[Given]) -> Result<Vec<LayerId>, Error> {
    let mut reached = 0;
    for layer in given {
        if listed.get(reached) == Some(&layer.id) {
            reached += 1;
            continue;
        }
        let (below, after, layers) = layer.stand_in.as_ref().ok_or(Error::LayerIdentity)?;
        let end = reached + *layers as usize;
        if *layers == 0
            || end > listed.len()
            || **below != listed[..reached]
            || **after != listed[..end]
        {
            return Err(Error::LayerIdentity);
        }
        reached = end;
    }
    if reached < listed.len() {
        let left = (listed.len() - reached) as u64;
        let count = given.len() as u64;
        return Err(Error::LayerCount(count + left, count));
    }
    Ok(listed.to_vec())
}

/// The chain of the layers that are given is that of the model, or both refuse them.
fn links(source: &mut Numbers<'_>) {
    let listed = ids(source, 12);
    let mut all = Vec::new();
    while !source.is_empty() && all.len() < 16 {
        all.push(given(source, &listed));
    }
    let chain = |ids: &[LayerId]| {
        ids.iter()
            .fold(ChainId::BOTTOM, |c, id| c.with::<Sha256>(id))
    };
    let stand_in = |layer: &Given| {
        let (below, after, layers) = layer.stand_in.as_ref()?;
        Some(StandIn {
            below: chain(below),
            after: chain(after),
            layers: *layers,
        })
    };
    let stand_ins: Vec<_> = all.iter().map(stand_in).collect();
    let below = all.iter().zip(&stand_ins);
    let found = follow::<Sha256>(&listed, below.map(|(l, s)| (&l.id, s.as_ref())));
    assert_eq!(found, model(&listed, &all).map(|ids| chain(&ids)));
}
