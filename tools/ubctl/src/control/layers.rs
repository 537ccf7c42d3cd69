// SPDX-License-Identifier: GPL-2.0

//! Calls of the control device that are about layers, or that change a leaf.

use std::num::NonZeroU32;
use std::path::Path;

use rustix::io::Errno;
use ubcore::abi::{Create, Freeze, Layer, Limit, Reset, Status, MODE_WRITABLE};
use ubcore::error::Error;

use super::{not_there, path_text, Control, PREFIX};
use crate::error::{Fail, Result, FAILED};
use crate::holders::Tried;
use crate::{ioctl, layer_arg, loopdev};

impl Control {
    /// Freezes the leaf of a union. `what` names the new leaf.
    pub fn freeze(&self, request: &mut Freeze, what: &str) -> Result {
        let id = request.id;
        match ioctl::call(&self.0, request) {
            Ok(()) => Ok(()),
            Err(Errno::NODEV) => Err(not_there(id)),
            Err(e) => Err(match request.error() {
                Some(reason) => Fail::core(what, reason),
                None => self.failure(&format!("freeze the leaf of {PREFIX}{id}"), e),
            }),
        }
    }

    /// Makes the leaf of a union forget all its changes, unless the union is in use.
    /// `status` is what the union was when the caller chose it.
    pub fn reset(&self, status: &Status) -> Result<Tried<()>> {
        let id = status.id;
        let mut request = Reset::new();
        (request.id, request.uuid) = (id, status.uuid);
        let name = format!("{PREFIX}{id}");
        match (ioctl::call(&self.0, &mut request), request.error()) {
            (Ok(()), _) => Ok(Tried::Done(())),
            (Err(_), Some(reason)) => Err(Fail::core(&name, reason)),
            (Err(Errno::BUSY), None) => Ok(Tried::Busy),
            (Err(Errno::INPROGRESS), None) => Err(Fail::being_changed(&name)),
            (Err(Errno::NODEV), None) => Err(not_there(id)),
            (Err(Errno::STALE), None) => Err(another_leaf(&name)),
            (Err(e), None) => Err(self.failure(&format!("reset the leaf of {name}"), e)),
        }
    }

    /// Sets how many slabs a union may use. `None`: all. `status` is what the union was when the
    /// caller chose it.
    pub fn set_limit(&self, status: &Status, limit: Option<NonZeroU32>) -> Result {
        let id = status.id;
        let mut request = Limit::new();
        (request.id, request.uuid) = (id, status.uuid);
        request.slabs = limit.map_or(0, NonZeroU32::get);
        let name = format!("{PREFIX}{id}");
        match (ioctl::call(&self.0, &mut request), request.error()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(reason)) => Err(Fail::core(&name, reason)),
            (Err(Errno::INPROGRESS), None) => Err(Fail::being_changed(&name)),
            (Err(Errno::NODEV), None) => Err(not_there(id)),
            (Err(Errno::STALE), None) => Err(another_leaf(&name)),
            (Err(e), None) => Err(self.failure(&format!("set the limit of {name}"), e)),
        }
    }

    /// Returns the state of the union that is meant. Refuses another union that has its number by
    /// now, and the same union with another leaf. A union that was attached again with the same
    /// leaf may be taken for it.
    pub fn same_union(&self, meant: &Status) -> Result<Status> {
        let now = self.status(meant.id)?;
        if is_same(meant, &now) {
            return Ok(now);
        }
        Err(another_leaf(&format!("{PREFIX}{}", meant.id)))
    }

    /// Refuses what [`Control::reset`] would refuse of a union that is not open.
    pub fn check_reset(&self, status: &Status) -> Result {
        if status.mode == MODE_WRITABLE {
            return Ok(());
        }
        let name = format!("{PREFIX}{}", status.id);
        Err(Fail::core(&name, Error::ReadOnlyUnion))
    }
}

/// Returns whether a union is the one that was meant, as far as this can be seen.
fn is_same(meant: &Status, now: &Status) -> bool {
    let identity = |s: &Status| (s.uuid, s.major, s.minor);
    identity(meant) == identity(now)
}

/// Returns the failure of a call that named the union by its number and its leaf, because the leaf
/// of the number is another one by now.
fn another_leaf(name: &str) -> Fail {
    let text = format!(
        "{name} has another leaf now, because the union was removed or frozen meanwhile, and nothing \
         was changed: see ubctl list"
    );
    Fail::new(FAILED, "not_found", text)
}

/// Returns the layer that the reason of a failure is about, and its number.
pub(super) fn layer_of<'a>(request: &Create, layers: &'a [Layer]) -> Option<(u32, &'a Layer)> {
    let at = request.layer.checked_sub(1)?;
    Some((request.layer, layers.get(usize::try_from(at).ok()?)?))
}

/// Returns the name of what a failure is about: a layer, or `what`.
pub(super) fn named(request: &Create, layers: &[Layer], what: &str) -> String {
    match layer_of(request, layers) {
        Some((n, layer)) => {
            // The loop device of an image goes when the attach has failed.
            let node = path_text(&layer.path);
            let path = loopdev::behind(&node).unwrap_or(node);
            format!(
                "layer {n}, {}",
                layer_arg::name(Path::new(&path), layer.offset)
            )
        }
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_same, Status};

    #[test]
    fn another_union_of_the_number_is_another() {
        let mut meant = Status::new();
        meant.uuid = [7; 16];
        let mut now = meant.clone();
        now.openers = 3;
        assert!(is_same(&meant, &now));
        now.uuid = [8; 16];
        assert!(!is_same(&meant, &now));
    }
}
