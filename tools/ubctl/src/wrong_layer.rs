// SPDX-License-Identifier: GPL-2.0

//! Says which of the layers given is not the one that a leaf lists, for the message of a refusal.

use map_memory::sha256::Sha256;
use ubcore::format::below_list::ListedLayer;
use ubcore::stack::chain::{LayerId, Links, Seal};

use crate::below::{self, OpenLayer};
use crate::device::Device;
use crate::error::Fail;
use crate::layer_arg::LayerArg;
use crate::output;

/// The first place in which a list and the layers given differ.
#[derive(Debug, PartialEq, Eq)]
struct WrongLayer {
    /// The place in the list, from 0.
    listed: usize,
    /// The place among the layers given, from 0.
    given: usize,
}

/// Adds to a refusal which layer is wrong, which one was expected there, and which one was found:
/// of the leaf, or else of the lowest frozen leaf among the layers that was made on others.
pub fn explain(mut fail: Fail, leaf: &Device, given: &[OpenLayer]) -> Fail {
    if !["wrong_layer", "layer_count"].contains(&fail.reason) {
        return fail;
    }
    let frozen = given.iter().enumerate();
    let frozen = frozen.filter(|(_, layer)| matches!(layer.id, LayerId::Frozen(..)));
    let frozen = frozen.map(|(n, layer)| (&layer.device, given.get(..n).unwrap_or_default()));
    let mut all = [(leaf, given)].into_iter().chain(frozen);
    if let Some(text) = all.find_map(|(leaf, below)| text(leaf, below)) {
        fail.message += &text;
    }
    fail
}

/// Returns what is wrong with the layers below a leaf, if anything is.
fn text(leaf: &Device, given: &[OpenLayer]) -> Option<String> {
    // A list that cannot be read is another failure.
    let list = below::list_of(leaf).ok()?;
    let wrong = first(&list, given)?;
    let (listed, found) = (list.get(wrong.listed), given.get(wrong.given));
    // The UUID of a leaf and of its copy are the same.
    let seals = match (listed.map(|l| l.id), found.map(|l| l.id)) {
        (Some(LayerId::Frozen(a, _)), Some(LayerId::Frozen(b, _))) => a == b,
        _ => false,
    };
    let expected = match listed {
        Some(layer) => format!(
            "{}, which {} lists as layer {} of {}{}",
            identity(&layer.id, seals),
            leaf.name(),
            wrong.listed.saturating_add(1),
            list.len(),
            LayerArg::listed(layer).map_or(String::new(), |at| format!(" and was {}", at.name())),
        ),
        None => format!(
            "no layer above the {} that {} lists",
            list.len(),
            leaf.name()
        ),
    };
    let found = found.map_or("no layer".to_owned(), |layer| {
        format!("{}, {}", layer.device.name(), identity(&layer.id, seals))
    });
    Some(format!("; expected: {expected}; found: {found}"))
}

/// Returns the first place in which a list and the layers given differ, from the lowest on.
fn first(list: &[ListedLayer], given: &[OpenLayer]) -> Option<WrongLayer> {
    let ids: Vec<LayerId> = list.iter().map(|layer| layer.id).collect();
    let mut links = Links::new(&ids);
    let mut listed = 0usize;
    for (n, layer) in given.iter().enumerate() {
        let stand_in = layer.stand_in();
        if links.add::<Sha256>(&layer.id, stand_in).is_err() {
            return Some(WrongLayer { listed, given: n });
        }
        let is_itself = ids.get(listed) == Some(&layer.id);
        let count = stand_in.filter(|_| !is_itself).map_or(1, |s| s.layers);
        listed = listed.saturating_add(usize::try_from(count).ok()?);
    }
    (listed < ids.len()).then_some(WrongLayer {
        listed,
        given: given.len(),
    })
}

/// Returns the identity of a layer, with its seal if that tells it from another.
fn identity(id: &LayerId, seal: bool) -> String {
    match id {
        LayerId::Frozen(_, Seal(bytes)) if seal => {
            format!("{} with the seal {}", output::layer(id), output::hex(bytes))
        }
        _ => output::layer(id),
    }
}
