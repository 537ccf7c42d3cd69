// SPDX-License-Identifier: GPL-2.0

//! Whether layers lie on each other as they are given, and what one layer in their place stands
//! for.

use map_memory::sha256::Sha256;
use ubcore::error::Error;
use ubcore::stack::chain::{self, ChainId, LayerId, Links, StandIn, LAYERS_MAX};

use crate::below;
use crate::error::{Fail, Result};
use crate::stack::Member;

/// What the check needs of a layer.
struct ListingLayer {
    name: String,
    id: LayerId,
    stand_in: Option<StandIn>,
    /// What a frozen leaf lists, the lowest first.
    listed: Option<Vec<LayerId>>,
    /// The sectors of the root of a frozen leaf.
    root: Option<u64>,
}

impl ListingLayer {
    fn of(member: &Member) -> Result<ListingLayer> {
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
        Ok(ListingLayer {
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
    let layers: Vec<ListingLayer> = members
        .iter()
        .map(ListingLayer::of)
        .collect::<Result<_>>()?;
    stand_in(&layers)
}

/// What the lists of the frozen leaves say.
struct FrozenLists<'a> {
    /// What the lowest layer lies on.
    below: &'a [LayerId],
    /// The number of the highest frozen leaf, and what it lists.
    highest: (usize, &'a [LayerId]),
}

/// Checks the lists of the frozen leaves. Returns `None` if no layer is a frozen leaf.
fn check_lists(layers: &[ListingLayer]) -> Result<Option<FrozenLists<'_>>> {
    let mut found: Option<FrozenLists<'_>> = None;
    let mut root = None;
    for (n, layer) in layers.iter().enumerate() {
        let Some(listed) = layer.listed.as_deref() else {
            continue;
        };
        let (given, _) = layers.split_at(n);
        let below = match &found {
            Some(found) => follow(listed, found.below, given).map(|()| found.below),
            // Only the first frozen leaf shows what the lowest layer lies on.
            None => (0..=listed.len())
                .filter_map(|n| listed.get(..n))
                .find(|below| follow(listed, below, given).is_ok())
                .ok_or(Error::LayerIdentity),
        };
        let below = below.map_err(|e| Fail::core(&layer.name, e))?;
        if let (Some(before), Some(now)) = (root, layer.root) {
            if before != now {
                return Err(Fail::core(&layer.name, Error::RootSize(now, before)));
            }
        }
        root = root.or(layer.root);
        let highest = (n, listed);
        found = Some(FrozenLists { below, highest });
    }
    Ok(found)
}

fn stand_in(layers: &[ListingLayer]) -> Result<StandIn> {
    // The chain of the layers below `first`, and how many of them do not lie below the lowest one.
    let (below, below_count, first, mut chain, mut count) = match check_lists(layers)? {
        Some(FrozenLists { below, highest }) => {
            let (first, listed) = highest;
            let chain = Links::chain_of::<Sha256>(listed);
            let count = listed.len() - below.len();
            let below_count = below.len();
            let below = Links::chain_of::<Sha256>(below);
            (below, below_count, first, chain, count)
        }
        None => {
            let lowest = layers.first().and_then(|layer| layer.stand_in);
            let below = lowest.map_or(ChainId::BOTTOM, |s| s.below);
            (below, 0, 0, below, 0)
        }
    };
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
        layers: u32::try_from(count).map_err(|_| Fail::core("squash", Error::Internal))?,
    })
}

/// Checks that the list of a frozen leaf is `below` and then `given`.
fn follow(listed: &[LayerId], below: &[LayerId], given: &[ListingLayer]) -> ubcore::error::Result {
    let below = below.iter().map(|id| (id, None));
    let given = given.iter().map(|l| (&l.id, l.stand_in.as_ref()));
    chain::follow::<Sha256>(listed, below.chain(given)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::{stand_in, ChainId, LayerId, Links, ListingLayer, Sha256, StandIn};
    use ubcore::stack::chain::Seal;

    fn id(n: u8) -> LayerId {
        LayerId::Frozen([n; 16], Seal([n; 16]))
    }

    fn frozen(n: u8, listed: &[u8]) -> ListingLayer {
        ListingLayer {
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
    fn sealed(n: u8, ids: &[u8], below: usize) -> ListingLayer {
        let ids: Vec<LayerId> = ids.iter().map(|&n| id(n)).collect();
        let stand_in = StandIn {
            below: chain(&ids[..below]),
            after: chain(&ids),
            layers: (ids.len() - below) as u32,
        };
        ListingLayer {
            name: format!("layer {n}"),
            id: LayerId::Sealed([n; 32]),
            stand_in: Some(stand_in).filter(|s| s.layers > 0),
            listed: None,
            root: None,
        }
    }

    #[track_caller]
    fn stands(layers: &[ListingLayer], below: &[u8], all: &[LayerId]) {
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
        let on = ListingLayer {
            listed: Some(vec![a, itself]),
            ..frozen(4, &[])
        };
        stands(&[plain(), on], &[1], &[a, itself, d]);
    }

    #[test]
    fn a_wrong_order_is_refused() {
        let refused = |layers: &[ListingLayer], reason, name: &str| {
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
        let root = ListingLayer {
            root: Some(9),
            ..frozen(2, &[1])
        };
        refused(&[frozen(1, &[]), root], "wrong_root", "layer 2");
    }
}
