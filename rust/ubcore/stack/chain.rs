// SPDX-License-Identifier: GPL-2.0

//! The identities of layers, and of stacks of them.
//!
//! A leaf names the layers that it lies on. The identity of each layer changes if its content
//! can have changed. The *chain* is one number for the layers in their order, so two leaves with
//! the same chain can share a stack. The chain does not cover the root, because the superblock has
//! the root's digest.

use super::super::error::{Error, Result};
use super::super::num::{u32_as_usize, usize_as_u64};
use super::super::sha256::Sha256;

/// The largest number of layers in a stack. The number of a layer has 8 bits.
pub const LAYERS_MAX: u32 = 254;

/// A random number that is drawn when a leaf is frozen.
///
/// After a power failure, a freeze that was not durable may be repeated with the same generation. A
/// leaf above could have been made on the first freeze. The seal tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal(pub [u8; 16]);

/// The identity of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerId {
    /// A frozen leaf: the UUID of the leaf, and the seal of the freeze.
    Frozen([u8; 16], Seal),
    /// A sealed layer: the digest of its content.
    Sealed([u8; 32]),
}

impl LayerId {
    /// Returns the number of the kind, as it is on disk.
    pub const fn kind(&self) -> u8 {
        match self {
            LayerId::Frozen(..) => 1,
            LayerId::Sealed(_) => 2,
        }
    }

    /// Returns the 32 bytes that name the layer among those of its kind.
    pub fn bytes(&self) -> [u8; 32] {
        match self {
            LayerId::Sealed(digest) => *digest,
            LayerId::Frozen(uuid, Seal(seal)) => {
                let mut both = [0; 32];
                let (low, high) = both.split_at_mut(16);
                low.copy_from_slice(uuid);
                high.copy_from_slice(seal);
                both
            }
        }
    }

    /// Reverses [`LayerId::kind`] and [`LayerId::bytes`]. Returns `None` if there is no such kind.
    pub fn from_bytes(kind: u8, bytes: [u8; 32]) -> Option<Self> {
        match kind {
            1 => {
                let (uuid, seal) = bytes.split_first_chunk::<16>()?;
                Some(LayerId::Frozen(*uuid, Seal(*seal.first_chunk::<16>()?)))
            }
            2 => Some(LayerId::Sealed(bytes)),
            _ => None,
        }
    }
}

/// The identity of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub [u8; 32]);

impl ChainId {
    /// A stack without layers. The leaf above identifies the root itself.
    pub const BOTTOM: ChainId = ChainId([0; 32]);

    /// Returns the chain with one more layer on top: SHA-256 over the chain below, the kind of the
    /// layer and its 32 bytes.
    pub fn with<S: Sha256>(self, layer: &LayerId) -> ChainId {
        let mut digest = S::new();
        digest.update(&self.0);
        digest.update(&[layer.kind()]);
        digest.update(&layer.bytes());
        ChainId(digest.finish())
    }
}

/// What lets a sealed layer take the place of layers that it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// The chain that the layers lie on.
    pub below: ChainId,
    /// The chain with the layers.
    pub after: ChainId,
    /// The number of the layers, at least 1.
    pub layers: u32,
}

/// Follows the list of a leaf while its layers are found, the lowest first.
pub struct Links<'a> {
    listed: &'a [LayerId],
    chain: ChainId,
}

impl<'a> Links<'a> {
    /// Begins at the bottom of a leaf that lists these layers.
    pub fn new(listed: &'a [LayerId]) -> Self {
        Links {
            listed,
            chain: ChainId::BOTTOM,
        }
    }

    /// Returns the chain of layers.
    pub fn chain_of<S: Sha256>(layers: &[LayerId]) -> ChainId {
        layers.iter().fold(ChainId::BOTTOM, |c, id| c.with::<S>(id))
    }

    /// Returns the chain of the layers added so far.
    pub fn chain_so_far(&self) -> ChainId {
        self.chain
    }

    /// Adds the next layer. Fails with `LayerIdentity` if it is not the one that the leaf lists
    /// next, and does not stand in for that and the layers over it.
    pub fn add<S: Sha256>(&mut self, id: &LayerId, stand_in: Option<&StandIn>) -> Result {
        let layers = match (self.listed.first(), stand_in) {
            (Some(listed), _) if listed == id => 1,
            (_, Some(stand_in)) if stand_in.below == self.chain => stand_in.layers,
            _ => 0,
        };
        let split = self.listed.split_at_checked(u32_as_usize(layers));
        let (first, rest) = split
            .filter(|(first, _)| !first.is_empty())
            .ok_or(Error::LayerIdentity)?;
        let chain = first.iter().fold(self.chain, |c, id| c.with::<S>(id));
        let stands = stand_in.is_some_and(|s| s.layers == layers && s.after == chain);
        if first != [*id] && !stands {
            return Err(Error::LayerIdentity);
        }
        self.listed = rest;
        self.chain = chain;
        Ok(())
    }

    /// Ends with the highest layer, of `given` layers. Returns the chain of all of them. Fails with
    /// `LayerCount` if the leaf lists more.
    pub fn finish(self, given: u32) -> Result<ChainId> {
        match self.listed.len() {
            0 => Ok(self.chain),
            left => Err(Error::LayerCount(
                u64::from(given).saturating_add(usize_as_u64(left)),
                u64::from(given),
            )),
        }
    }
}

/// Follows the list of a leaf with all the layers below it, the lowest first: the identity of each,
/// and what it stands for. Returns their chain. Fails as [`Links`] does.
///
/// A layer below the leaf that is attached is followed with its own list. The two lists can differ:
/// one has a sealed layer, the other the layers that it stands for.
pub fn follow<'b, S: Sha256>(
    listed: &[LayerId],
    below: impl Iterator<Item = (&'b LayerId, Option<&'b StandIn>)>,
) -> Result<ChainId> {
    let mut links = Links::new(listed);
    let mut given = 0u32;
    for (id, stand_in) in below {
        links.add::<S>(id, stand_in)?;
        given = given.checked_add(1).ok_or(Error::Internal)?;
    }
    links.finish(given)
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_chain))]
mod tests {
    use super::{LayerId, Seal};

    #[test]
    fn identities_survive_their_bytes() {
        let mut both = [1; 32];
        both[16..].copy_from_slice(&[2; 16]);
        let frozen = LayerId::Frozen([1; 16], Seal([2; 16]));
        assert!(frozen.bytes() == both);
        for id in [frozen, LayerId::Sealed([7; 32])] {
            assert!(LayerId::from_bytes(id.kind(), id.bytes()) == Some(id));
        }
        assert!(LayerId::from_bytes(0, both).is_none());
        assert!(LayerId::from_bytes(3, both).is_none());
    }
}
