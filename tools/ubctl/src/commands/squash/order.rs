// SPDX-License-Identifier: GPL-2.0

//! Whether layers lie on each other as they are given, and what one layer in their place stands
//! for.

use map_memory::sha256::Sha256;
use ubcore::error::Error;
use ubcore::stack::chain::{ChainId, LayerId, Links, StandIn, LAYERS_MAX};

use crate::below;
use crate::error::{Fail, Result};
use crate::stack::Member;

/// What the check needs of a layer.
struct Layer {
    name: String,
    id: LayerId,
    stand_in: Option<StandIn>,
    /// What a frozen leaf lists, the lowest first.
    listed: Option<Vec<LayerId>>,
    /// The sectors of the root of a frozen leaf.
    root: Option<u64>,
}

impl Layer {
    fn of(member: &Member) -> Result<Layer> {
        let name = format!("layer {}", member.name());
        let id = member
            .id
            .ok_or_else(|| Fail::core(&name, Error::NotFrozen))?;
        let listed = match &member.superblock {
            None => None,
            Some(_) => {
                let list = below::list_of(&member.device)?;
                Some(list.iter().map(|layer| layer.id).collect())
            }
        };
        Ok(Layer {
            name,
            id,
            stand_in: member.stand_in,
            listed,
            root: member
                .superblock
                .as_ref()
                .map(|sb| sb.geometry.root_sectors()),
        })
    }
}

/// Checks the order of layers, the lowest first. Returns what a layer stands for that takes the
/// place of all of them.
pub fn check(members: &[Member]) -> Result<StandIn> {
    let layers: Vec<Layer> = members.iter().map(Layer::of).collect::<Result<_>>()?;
    stand_in(&layers)
}

fn stand_in(layers: &[Layer]) -> Result<StandIn> {
    let mut below: Option<&[LayerId]> = None;
    let mut root = None;
    // The layers that were looked at, and the chain with them.
    let mut reached = (0, None);
    for (n, layer) in layers.iter().enumerate() {
        let Some(listed) = &layer.listed else {
            continue;
        };
        let given = layers.get(..n).unwrap_or_default();
        let lowest = match below {
            Some(below) => follow(listed, below, given).map(|()| below),
            // What the lowest one lies on is known from the first frozen leaf only.
            None => (0..=listed.len())
                .filter_map(|n| listed.get(..n))
                .find(|below| follow(listed, below, given).is_ok())
                .ok_or(Error::LayerIdentity),
        };
        below = Some(lowest.map_err(|e| Fail::core(&layer.name, e))?);
        if let (Some(before), Some(now)) = (root, layer.root) {
            if before != now {
                return Err(Fail::core(&layer.name, Error::RootSize(now, before)));
            }
        }
        root = root.or(layer.root);
        reached = (n, Some(listed));
    }
    let below_count = below.map_or(0, <[LayerId]>::len);
    let below = below.map(Links::chain_of::<Sha256>);
    let (first, mut chain, mut count) = match reached {
        (n, Some(listed)) => (
            n,
            Links::chain_of::<Sha256>(listed),
            listed.len() - below_count,
        ),
        _ => (0, ChainId::BOTTOM, 0),
    };
    let below = below.unwrap_or_else(|| {
        let lowest = layers.first().and_then(|layer| layer.stand_in);
        lowest.map_or(ChainId::BOTTOM, |s| s.below)
    });
    if reached.1.is_none() {
        chain = below;
    }
    for layer in layers.iter().skip(first) {
        // A leaf above lists either the sealed layer or the layers that it stands for. The latter
        // existed first, so more leaves list them.
        match layer.stand_in.filter(|s| s.below == chain) {
            Some(s) => (chain, count) = (s.after, count + s.layers as usize),
            None => (chain, count) = (chain.with::<Sha256>(&layer.id), count + 1),
        }
    }
    let all = below_count + count;
    if all > LAYERS_MAX as usize {
        let e = Error::LayerCount(LAYERS_MAX.into(), all as u64);
        return Err(Fail::core("squash", e));
    }
    Ok(StandIn {
        below,
        after: chain,
        layers: u32::try_from(count).unwrap_or(u32::MAX),
    })
}

/// Checks that the list of a frozen leaf is `below` and then `given`.
fn follow(listed: &[LayerId], below: &[LayerId], given: &[Layer]) -> ubcore::error::Result {
    let mut links = Links::new(listed);
    for id in below {
        links.add::<Sha256>(id, None)?;
    }
    for layer in given {
        links.add::<Sha256>(&layer.id, layer.stand_in.as_ref())?;
    }
    let all = below.len() + given.len();
    links
        .finish(u32::try_from(all).unwrap_or(u32::MAX))
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{stand_in, ChainId, Layer, LayerId, Links, Sha256, StandIn};
    use ubcore::stack::chain::Seal;

    fn id(n: u8) -> LayerId {
        LayerId::Frozen([n; 16], Seal([n; 16]))
    }

    fn frozen(n: u8, listed: &[u8]) -> Layer {
        Layer {
            name: format!("layer {n}"),
            id: id(n),
            stand_in: None,
            listed: Some(listed.iter().map(|&n| id(n)).collect()),
            root: Some(8),
        }
    }

    fn chain(ids: &[LayerId]) -> ChainId {
        Links::chain_of::<Sha256>(ids)
    }

    /// Returns a sealed layer that stands for the layers after the first `below` of `ids`.
    fn sealed(n: u8, ids: &[u8], below: usize) -> Layer {
        let ids: Vec<LayerId> = ids.iter().map(|&n| id(n)).collect();
        let stand_in = StandIn {
            below: chain(&ids[..below]),
            after: chain(&ids),
            layers: (ids.len() - below) as u32,
        };
        Layer {
            name: format!("layer {n}"),
            id: LayerId::Sealed([n; 32]),
            stand_in: Some(stand_in).filter(|s| s.layers > 0),
            listed: None,
            root: None,
        }
    }

    #[track_caller]
    fn stands(layers: &[Layer], below: &[u8], all: &[LayerId]) {
        let below: Vec<LayerId> = below.iter().map(|&n| id(n)).collect();
        let wanted = StandIn {
            below: chain(&below),
            after: chain(all),
            layers: (all.len() - below.len()) as u32,
        };
        assert_eq!(stand_in(layers).unwrap(), wanted);
    }

    #[test]
    fn a_chain_of_layers_is_followed() {
        let [a, b, c, d] = [1, 2, 3, 4].map(id);
        stands(&[frozen(1, &[]), frozen(2, &[1])], &[], &[a, b]);
        stands(&[frozen(2, &[1]), frozen(3, &[1, 2])], &[1], &[a, b, c]);
        stands(&[frozen(3, &[1, 2])], &[1, 2], &[a, b, c]);
        // Layers 2 and 3 are one, below and above a frozen leaf.
        let merged = || sealed(9, &[1, 2, 3], 1);
        stands(&[merged(), frozen(4, &[1, 2, 3])], &[1], &[a, b, c, d]);
        stands(&[frozen(1, &[]), merged()], &[], &[a, b, c]);
        stands(&[merged()], &[1], &[a, b, c]);
        // A leaf that was made on the sealed layer itself.
        let itself = LayerId::Sealed([9; 32]);
        let plain = || sealed(9, &[], 0);
        stands(&[plain()], &[], &[itself]);
        stands(&[frozen(1, &[]), plain()], &[], &[a, itself]);
        let on = Layer {
            listed: Some(vec![a, itself]),
            ..frozen(4, &[])
        };
        stands(&[plain(), on], &[1], &[a, itself, d]);
    }

    #[test]
    fn a_wrong_order_is_refused() {
        let refused = |layers: &[Layer], reason, name: &str| {
            let fail = stand_in(layers).unwrap_err();
            assert_eq!(fail.reason, reason);
            assert!(fail.message.starts_with(name), "{fail}");
        };
        let wrong = "wrong_layer";
        refused(&[frozen(2, &[1]), frozen(1, &[])], wrong, "layer 1");
        // One is missing in the middle.
        let gap = [frozen(1, &[]), frozen(3, &[1, 2])];
        refused(&gap, "layer_count", "layer 3");
        refused(&[frozen(1, &[]), frozen(1, &[])], wrong, "layer 1");
        let other = [sealed(9, &[1, 7], 1), frozen(4, &[1, 2])];
        refused(&other, wrong, "layer 4");
        let root = Layer {
            root: Some(9),
            ..frozen(2, &[1])
        };
        refused(&[frozen(1, &[]), root], "wrong_root", "layer 2");
    }
}
