// SPDX-License-Identifier: GPL-2.0

//! How the daemon deletes leaves that no snapshot has, and ends what the last daemon began.

use std::collections::BTreeSet;

use super::Daemon;
use crate::disks::Disks;
use crate::error::{complain, Result};
use crate::held::Hold;
use crate::snapshot::Leaf;
use crate::store::state::{Change, State};

impl<D: Disks> Daemon<D> {
    /// Deletes a leaf that no snapshot has. If its union is in use, only the image goes now.
    pub(super) fn discard(&self, leaf: Leaf) {
        // If too many requests wait, one of them does it.
        if let Ok(hold) = self.leaves.hold(BTreeSet::from([leaf.number]), None) {
            self.discard_held(leaf, &hold);
        }
    }

    fn discard_held(&self, leaf: Leaf, _hold: &Hold<'_, u64>) {
        // Another request may have done it.
        if !self.read(|state| state.discarded.contains_key(&leaf.number)) {
            return;
        }
        let done = self.disks.detach(leaf).and_then(|detached| {
            self.disks.delete(leaf.number)?;
            match detached {
                true => self.change(&[Change::Deleted(leaf.number)]),
                false => Ok(()),
            }
        });
        if let Err(e) = done {
            complain(&format!("leaf {} was not deleted: {e}", leaf.number));
        }
    }

    /// Tries again to delete the leaves that were in use.
    pub(super) fn discard_all(&self) {
        let all = self.read(|state| state.discarded.clone());
        for (number, uuid) in all {
            // If another request has the leaf, that one does all that can be done now.
            if let Some(hold) = self.leaves.try_hold(number) {
                self.discard_held(Leaf { number, uuid }, &hold);
            }
        }
    }

    /// Deletes the leaves of removed snapshots that were in use, and are not any more.
    pub fn cleanup(&self) -> Result {
        self.discard_all();
        Ok(())
    }

    /// Ends the commits that the last daemon began, and removes the images that it left half made
    /// or discarded. Reports images that the store does not know, and keeps them.
    pub(super) fn recover(&self) -> Result {
        let (snapshots, making) = self.read(|state| {
            let begun = state.snapshots.values().filter(|s| s.commit.is_some());
            (begun.cloned().collect::<Vec<_>>(), state.making.clone())
        });
        for snapshot in snapshots {
            let name = snapshot.name.clone();
            let end = match self.settle(snapshot) {
                Ok(true) => "the commit is complete".to_owned(),
                Ok(false) => "the commit had no effect".to_owned(),
                // The next request for the snapshot tries again. The others do not need it.
                Err(e) => format!("the commit is pending: {e}"),
            };
            complain(&format!(
                "ubsnapd was stopped during the commit of {name:?}: {end}"
            ));
        }
        for number in making {
            let is_left = |state: &State| state.making.contains(&number) && !state.is_next(number);
            if self.read(is_left) {
                self.unmake(number);
            }
        }
        self.discard_all();
        let known: Vec<u64> = self.read(|state| {
            let discarded = state.discarded.keys().chain(&state.making);
            let leaves = state.snapshots.values().map(|s| s.leaf.number);
            leaves.chain(discarded.copied()).collect()
        });
        for number in self.disks.all()? {
            if !known.contains(&number) {
                complain(&format!(
                    "the image of leaf {number} is not in the store, and was kept: move it away"
                ));
            }
        }
        Ok(())
    }
}
