// SPDX-License-Identifier: GPL-2.0

//! The layers that a union has open: what they are, and where.

use std::path::{Path, PathBuf};

use map_memory::sha256::Sha256;
use ubcore::error::Role;
use ubcore::sealed::open::Sealed;
use ubcore::stack::chain::{LayerId, Links, StandIn};

use crate::device::{Access, Device};
use crate::layer_arg::LayerArg;
use crate::{loopdev, probe, sealed, sysfs};

/// A layer on a device that a union has open.
pub struct UsedLayer {
    /// The device.
    pub node: PathBuf,
    /// The device, or the image that a loop device shows.
    pub at: LayerArg,
    /// What it is.
    pub id: LayerId,
    /// What a sealed layer stands for.
    pub stand_in: Option<StandIn>,
}

/// Returns the layers on the devices of a union, in any order. More than the union uses may lie one
/// behind another.
pub fn layers(union: u32) -> Vec<UsedLayer> {
    on_devices(&sysfs::slave_nodes(union))
}

/// Returns the layers on some devices, in any order.
pub fn on_devices(nodes: &[PathBuf]) -> Vec<UsedLayer> {
    nodes.iter().flat_map(|node| on_device(node)).collect()
}

fn on_device(node: &Path) -> Vec<UsedLayer> {
    let Ok(device) = Device::open(node, Role::Layer, Access::Read) else {
        return Vec::new();
    };
    // A layer in memory has no other path than its device.
    let image = loopdev::image_of(node);
    let path = image.as_deref().unwrap_or(node);
    if let Some(sb) = probe::superblock(&device) {
        let layer = |seal| UsedLayer {
            node: node.to_owned(),
            at: LayerArg::at_start(path),
            id: LayerId::Frozen(sb.uuid, seal),
            stand_in: None,
        };
        return sb.frozen.map(layer).into_iter().collect();
    }
    let (row, _, _) = sealed::row(device);
    let layer = |(offset, sealed): (u64, Sealed)| UsedLayer {
        node: node.to_owned(),
        at: LayerArg {
            path: path.to_owned(),
            offset,
        },
        id: LayerId::Sealed(sealed.header.digest),
        stand_in: sealed.stand_in,
    };
    row.into_iter().map(layer).collect()
}

/// Returns the layers of a union, the lowest first, as the list of its leaf says it. Returns `None`
/// if one is missing.
pub fn in_order<'a>(
    listed: &[LayerId],
    open: &'a [UsedLayer],
    layers: u32,
) -> Option<Vec<&'a UsedLayer>> {
    let mut links = Links::new(listed);
    let mut found = Vec::new();
    for _ in 0..layers {
        let listed = open
            .iter()
            .find(|l| links.add::<Sha256>(&l.id, None).is_ok());
        let next = listed.or_else(|| {
            let stands = |l: &&UsedLayer| links.add::<Sha256>(&l.id, l.stand_in.as_ref()).is_ok();
            open.iter().find(stands)
        });
        found.push(next?);
    }
    links.finish(layers).ok().map(|_| found)
}

#[cfg(test)]
mod tests {
    use super::{in_order, LayerArg, LayerId, Links, Path, Sha256, StandIn, UsedLayer};
    use ubcore::stack::chain::Seal;

    #[test]
    fn the_layers_in_use_are_in_the_order_of_the_list() {
        let ids = [1, 2, 3].map(|n| LayerId::Frozen([n; 16], Seal([n; 16])));
        let open = |name: &str, id, stand_in| UsedLayer {
            node: name.into(),
            at: LayerArg::at_start(Path::new(name)),
            id,
            stand_in,
        };
        let stand_in = StandIn {
            below: Links::chain_of::<Sha256>(&[]),
            after: Links::chain_of::<Sha256>(&ids[..2]),
            layers: 2,
        };
        let sealed = || open("sealed", LayerId::Sealed([9; 32]), Some(stand_in));
        let names = |open: &[UsedLayer], layers| {
            let found = in_order(&ids, open, layers)?;
            Some(found.iter().map(|l| l.at.name()).collect::<Vec<_>>())
        };
        let three = open("three", ids[2], None);
        // sysfs has them in any order.
        let all = [three, sealed()];
        let wanted = Some(vec!["sealed".to_owned(), "three".to_owned()]);
        assert_eq!(names(&all, 2), wanted);
        assert_eq!(names(&all, 1), None);
        assert_eq!(names(&all, 3), None);
        // Of a row of sealed layers, the union may use some.
        let two = open("two", ids[1], None);
        let one = open("one", ids[0], None);
        let three = open("three", ids[2], None);
        let wanted = ["one", "two", "three"].map(str::to_owned).to_vec();
        assert_eq!(names(&[sealed(), three, two, one], 3), Some(wanted));
    }
}
