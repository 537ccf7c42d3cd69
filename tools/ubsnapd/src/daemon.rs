// SPDX-License-Identifier: GPL-2.0

//! The requests of containerd, as changes of the store and steps on leaves and unions.
//!
//! The order makes each request safe against a crash at any point. The number of a leaf is in the
//! store before its image exists. A snapshot is in the store after its union exists. A snapshot
//! that is removed is gone from the store before anything is deleted. A commit is announced in the
//! store, with the seal, before the leaf is frozen; whether the leaf has that seal then decides
//! whether the commit happened. So the store knows of every image, and [`Daemon::recover`] ends
//! what was begun.
//!
//! Lock order: `names`, then `leaves`, then `store`. A request that changes a snapshot holds its
//! name from its beginning to its end, also while it waits for devices. So it delays no request for
//! another snapshot. A request that only reads holds no name. A leaf that is discarded is held by
//! its number, because its snapshot is gone. The log is written under the lock `store`.
//!
//! A device may never answer, and each request has one of a limited number of threads. So only some
//! requests wait for a name that is held, and only some look at one leaf at the same time. More
//! are refused with `Unavailable`, and other names have threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disks::{AttachedUnion, Disks, FrozenLayer};
use crate::error::{complain, Error, Result};
use crate::filter::Filters;
use crate::held::{Held, Hold};
use crate::labels;
use crate::snapshot::{Commit, Id, Labels, Leaf, Snapshot, SnapshotKind, Time};
use crate::store::state::{Change, State};
use crate::store::Store;

/// The most layers below a leaf.
const LAYERS: usize = ubcore::stack::chain::LAYERS_MAX as usize;

/// The most requests that look at the leaf of one snapshot.
const LOOKS: usize = 8;

/// The daemon.
pub struct Daemon<D> {
    disks: D,
    names: Held<String>,
    leaves: Held<u64>,
    /// The snapshots whose leaves requests look at without a hold of the name.
    looks: Held<String>,
    store: Mutex<Store>,
    /// The bytes that a container may write if its labels do not say.
    size: u64,
}

/// A union and how to mount it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The union's device.
    pub device: String,
    /// Whether it is a view.
    pub read_only: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A request that panicked changed the store only in whole steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disks> Daemon<D> {
    /// Starts over the store, and ends what was begun when the last daemon ended.
    pub fn start(disks: D, store: Store, size: u64) -> Result<Daemon<D>> {
        let daemon = Daemon {
            disks,
            names: Held::default(),
            leaves: Held::default(),
            looks: Held::default(),
            store: Mutex::new(store),
            size,
        };
        daemon.recover()?;
        Ok(daemon)
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(lock(&self.store).state())
    }

    fn change(&self, changes: &[Change]) -> Result {
        lock(&self.store).change(changes)
    }

    /// Holds the names that a request changes, and with each the name that a commit which has not
    /// ended takes from it or gives to it. Holds the parent as it is.
    fn hold(&self, names: &[&str], parent: &str) -> Result<Hold<'_, String>> {
        loop {
            let tied = self.read(|state| state.tied(names));
            let parent = (!parent.is_empty()).then(|| parent.to_owned());
            let hold = self.names.hold(tied.clone(), parent);
            let hold = hold.map_err(|name| Error::waits(&name))?;
            // A commit may have begun and failed while this request waited.
            if self.read(|state| state.tied(names)).is_subset(&tied) {
                return Ok(hold);
            }
        }
    }

    fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let found = self.read(|state| state.snapshots.get(name).cloned());
        found.ok_or_else(|| Error::not_found(name))
    }

    /// Returns a snapshot, after the end of its commit if one was pending. The caller holds its
    /// name.
    fn settled(&self, name: &str) -> Result<Snapshot> {
        let snapshot = self.snapshot(name)?;
        match snapshot.commit {
            None => Ok(snapshot),
            // The commit has begun, and an error has kept it from its end.
            Some(_) => {
                self.settle(snapshot)?;
                self.snapshot(name)
            }
        }
    }

    /// Refuses a name that a snapshot has, or that a pending commit gives. The caller holds it.
    fn refuse_taken(&self, name: &str) -> Result {
        if let Some(pending) = self.read(|state| state.pending(name).cloned()) {
            let key = pending.name.clone();
            let settled = self.settle(pending);
            settled.map_err(|e| Error::pending(name, &key, &e))?;
        }
        match self.read(|state| state.snapshots.contains_key(name)) {
            true => Err(Error::exists(name)),
            false => Ok(()),
        }
    }

    fn layers(&self, parent: &str) -> Vec<FrozenLayer> {
        let layer = |snapshot: &&Snapshot| {
            let (leaf, seal) = (snapshot.leaf, snapshot.seal?);
            Some(FrozenLayer { leaf, seal })
        };
        self.read(|state| state.chain(parent).iter().filter_map(layer).collect())
    }

    /// Makes an active snapshot or a view.
    pub fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: Labels,
        kind: SnapshotKind,
    ) -> Result<Mounted> {
        let hold = self.hold(&[key], parent)?;
        if key.is_empty() {
            return Err(Error::invalid("a snapshot without a key"));
        }
        self.refuse_taken(key)?;
        self.read(|state| match state.snapshots.get(parent) {
            None if !parent.is_empty() => Err(Error::not_found(parent)),
            Some(found) if found.kind != SnapshotKind::Committed => Err(Error::invalid(format!(
                "parent {parent:?} is not a committed snapshot"
            ))),
            _ => Ok(()),
        })?;
        let layers = self.layers(parent);
        if layers.len() > LAYERS {
            return Err(Error::precondition(format!(
                "{parent:?} has {} snapshots below it, and a union lies on {LAYERS} at most: squash \
                 the image",
                layers.len() - 1
            )));
        }
        let bytes = labels::max_size(&labels).unwrap_or(self.size);
        let number = self.announce(|number| vec![Change::Make(number)])?;
        let made = self.make(number, &layers, (bytes, kind));
        let made = made.and_then(|(uuid, union)| {
            let now = Time::now();
            self.change(&[Change::Put(Box::new(Snapshot {
                name: key.to_owned(),
                parent: parent.to_owned(),
                kind,
                labels,
                created: now,
                updated: now,
                leaf: Leaf { number, uuid },
                seal: None,
                used: 0,
                commit: None,
            }))])?;
            Ok(union)
        });
        match &made {
            Err(e) if e.is_foreign() => self.change(&[Change::Deleted(number)])?,
            Err(_) => self.unmake(number),
            Ok(_) => {}
        }
        let union = made?;
        if kind == SnapshotKind::Active {
            // The parent may have been committed while it was mounted.
            let leaf = self.snapshot(key)?.leaf;
            if let Err(e) = self.disks.repair(leaf) {
                self.forget(key, leaf, hold)?;
                return Err(e);
            }
        }
        Ok(mounted(union, kind))
    }

    /// Makes changes that announce a leaf, and returns its number: one that no leaf has had, and no
    /// image that the store does not know has.
    fn announce(&self, changes: impl FnOnce(u64) -> Vec<Change>) -> Result<u64> {
        let mut store = lock(&self.store);
        let next = store.state().next;
        let mut free = (next..).filter(|&number| !self.disks.exists(number));
        let number = free.next().unwrap_or(next);
        store.change(&changes(number))?;
        Ok(number)
    }

    fn make(
        &self,
        number: u64,
        layers: &[FrozenLayer],
        (bytes, kind): (u64, SnapshotKind),
    ) -> Result<(Id, AttachedUnion)> {
        let uuid = self
            .disks
            .make(number, layers, bytes, kind == SnapshotKind::View)?;
        let union = self.disks.find(Leaf { number, uuid })?;
        let gone =
            || Error::internal("a union was gone as soon as it was made: see the kernel's log");
        Ok((uuid, union.ok_or_else(gone)?))
    }

    /// Deletes a leaf that was being made. If it holds data or is in use, it is kept, because the
    /// store must then have lost the snapshot that it belongs to.
    fn unmake(&self, number: u64) {
        let deleted = self.disks.uuid(number).and_then(|uuid| match uuid {
            // No union can be on it.
            None => {
                self.disks.delete(number)?;
                self.change(&[Change::Deleted(number)])
            }
            Some(uuid) => {
                let leaf = Leaf { number, uuid };
                self.refuse_data(leaf)?;
                self.change(&[Change::Discard(leaf)])?;
                self.discard(leaf);
                Ok(())
            }
        });
        if let Err(e) = deleted {
            // The next start tries again, and reports it again.
            complain(&format!("leaf {number} was not deleted: {e}"));
        }
    }

    /// Refuses a leaf to which something was written, or whose union is in use.
    fn refuse_data(&self, leaf: Leaf) -> Result {
        let holds = match self.disks.detach(leaf)? {
            false => "its union is in use".to_owned(),
            true => match self.disks.used(leaf.number, true)? {
                0 => return Ok(()),
                used => format!("it holds {used} bytes"),
            },
        };
        let text = format!("no snapshot has it, but {holds}: move the image away");
        Err(Error::precondition(text))
    }

    /// Returns how to mount a snapshot, and attaches it if it is not attached.
    pub fn mounts(&self, key: &str) -> Result<Mounted> {
        let _hold = self.hold(&[key], "")?;
        let snapshot = self.settled(key)?;
        if snapshot.kind == SnapshotKind::Committed {
            let text =
                format!("{key:?} is committed, and only views and active snapshots are mounted");
            return Err(Error::precondition(text));
        }
        let union = self.attached(&snapshot)?;
        Ok(mounted(union, snapshot.kind))
    }

    /// Returns the union of a view or an active snapshot, attached, and with a file system that can
    /// be mounted.
    fn attached(&self, snapshot: &Snapshot) -> Result<AttachedUnion> {
        let leaf = snapshot.leaf;
        let read_only = snapshot.kind == SnapshotKind::View;
        let union = match self.disks.find(leaf)? {
            Some(union) => union,
            None => {
                let layers = self.layers(&snapshot.parent);
                self.disks.attach(leaf, &layers, read_only)?
            }
        };
        // Also if it was attached before, because the daemon may have ended during the repair.
        if !read_only {
            if let Err(e) = self.disks.repair(leaf) {
                if let Err(e) = self.disks.detach(leaf) {
                    complain(&format!("{} was not detached: {e}", union.device));
                }
                return Err(e);
            }
        }
        Ok(union)
    }

    /// Makes an active snapshot a committed one of another name.
    pub fn commit(&self, name: &str, key: &str, labels: Labels) -> Result {
        let _hold = self.hold(&[key, name], "")?;
        if name.is_empty() {
            return Err(Error::invalid("a commit without a name"));
        }
        // This comes first, because the key of a commit that is repeated is gone. A client repeats
        // a commit whose answer was lost, and takes AlreadyExists for success.
        self.refuse_taken(name)?;
        let mut snapshot = self.settled(key)?;
        if snapshot.kind != SnapshotKind::Active {
            return Err(Error::precondition(format!(
                "{key:?} is not an active snapshot"
            )));
        }
        // After a power failure, this repairs the file system.
        let union = self.attached(&snapshot)?;
        refuse_incomplete(key, &union)?;
        let is_free = self.disks.detach(snapshot.leaf)?;
        let mut commit = Commit {
            name: name.to_owned(),
            labels,
            time: Time::now(),
            seal: self.disks.random()?,
            next: None,
        };
        let next = match is_free {
            true => {
                snapshot.commit = Some(commit);
                self.change(&[Change::Put(Box::new(snapshot.clone()))])?;
                None
            }
            false => Some(self.announce(|next| {
                commit.next = Some(next);
                snapshot.commit = Some(commit);
                vec![Change::Make(next), Change::Put(Box::new(snapshot.clone()))]
            })?),
        };
        let frozen = self.freeze(&snapshot);
        if let (Some(next), Err(e)) = (next, &frozen) {
            if e.is_foreign() {
                // `settle` then does not delete the file of the other program.
                self.change(&[Change::Deleted(next)])?;
            }
        }
        match (self.settle(snapshot), frozen) {
            // The freeze may have happened in spite of an error.
            (Ok(true), frozen) => {
                if let Err(e) = frozen {
                    complain(&format!("commit of {key:?}: the leaf is frozen, but: {e}"));
                }
                Ok(())
            }
            (_, Err(e)) | (Err(e), _) => Err(e),
            (Ok(false), Ok(())) => {
                let text = format!("{key:?}: the leaf is not frozen after its freeze");
                Err(Error::internal(text))
            }
        }
    }

    fn freeze(&self, snapshot: &Snapshot) -> Result {
        let Some(commit) = &snapshot.commit else {
            return Ok(());
        };
        match commit.next {
            None => self.disks.freeze(snapshot.leaf, commit.seal),
            Some(next) => {
                let layers = self.layers(&snapshot.parent);
                // The union keeps the limit that its leaf was made with.
                let bytes = labels::max_size(&snapshot.labels).unwrap_or(self.size);
                let next = (next, bytes);
                self.disks
                    .freeze_in_use(snapshot.leaf, commit.seal, &layers, next)
            }
        }
    }

    /// Ends a commit that has begun, by what the leaf says. Returns whether it happened.
    fn settle(&self, mut snapshot: Snapshot) -> Result<bool> {
        let Some(commit) = snapshot.commit.take() else {
            return Ok(false);
        };
        let number = snapshot.leaf.number;
        let happened = self.disks.seal(number)? == Some(commit.seal);
        let mut changes = Vec::new();
        let mut next = None;
        let is_ours = |number: &u64| self.read(|state| state.making.contains(number));
        if let Some(number) = commit.next.filter(is_ours) {
            match self.disks.uuid(number)? {
                Some(uuid) => {
                    next = Some(Leaf { number, uuid });
                    changes.push(Change::Discard(Leaf { number, uuid }));
                }
                None => {
                    self.disks.delete(number)?;
                    changes.push(Change::Deleted(number));
                }
            }
        }
        if happened {
            changes.push(Change::Forget(snapshot.name));
            snapshot = Snapshot {
                name: commit.name,
                kind: SnapshotKind::Committed,
                labels: commit.labels,
                created: commit.time,
                updated: commit.time,
                seal: Some(commit.seal),
                used: self.disks.used(number, true)?,
                ..snapshot
            };
        }
        changes.push(Change::Put(Box::new(snapshot)));
        self.change(&changes)?;
        if let Some(leaf) = next {
            self.discard(leaf);
        }
        Ok(happened)
    }

    /// Removes a snapshot on which none lies. Its name and its space are free afterwards, except
    /// for what a mount still uses.
    pub fn remove(&self, key: &str) -> Result {
        let hold = self.hold(&[key], "")?;
        let snapshot = self.settled(key)?;
        if self.read(|state| state.has_child(key)) {
            let text = format!("cannot remove {key:?}: other snapshots lie on it");
            return Err(Error::precondition(text));
        }
        self.forget(key, snapshot.leaf, hold)?;
        self.discard_all();
        Ok(())
    }

    /// Takes a snapshot out of the store, and deletes its leaf.
    fn forget(&self, key: &str, leaf: Leaf, hold: Hold<'_, String>) -> Result {
        self.change(&[Change::Forget(key.to_owned()), Change::Discard(leaf)])?;
        // The name is free now.
        drop(hold);
        self.discard(leaf);
        Ok(())
    }

    /// Returns a snapshot.
    pub fn stat(&self, key: &str) -> Result<Snapshot> {
        self.snapshot(key)
    }

    /// Changes labels of a snapshot: all, or the ones that the paths name.
    pub fn update(&self, name: &str, labels: &Labels, paths: &[String]) -> Result<Snapshot> {
        let _hold = self.hold(&[name], "")?;
        let mut snapshot = self.settled(name)?;
        if paths.is_empty() {
            snapshot.labels.clone_from(labels);
        }
        for path in paths {
            match (path.as_str(), path.strip_prefix("labels.")) {
                ("labels", _) => snapshot.labels.clone_from(labels),
                (_, Some(key)) => match labels.get(key) {
                    Some(value) => {
                        snapshot.labels.insert(key.to_owned(), value.clone());
                    }
                    None => {
                        snapshot.labels.remove(key);
                    }
                },
                _ => {
                    let text = format!("field {path:?} of {name:?} cannot be changed, only labels");
                    return Err(Error::invalid(text));
                }
            }
        }
        labels::bounded(&snapshot.labels)?;
        snapshot.updated = Time::now();
        self.change(&[Change::Put(Box::new(snapshot.clone()))])?;
        Ok(snapshot)
    }

    /// Returns the snapshots that the filters match.
    pub fn list(&self, filters: &Filters) -> Vec<Snapshot> {
        self.read(|state| {
            let all = state.snapshots.values();
            all.filter(|s| filters.match_one(s)).cloned().collect()
        })
    }

    /// Returns the bytes that a snapshot takes without its parents.
    pub fn usage(&self, key: &str) -> Result<u64> {
        let look = self.looks.try_share(key.to_owned(), LOOKS);
        let _look = look.ok_or_else(|| Error::waits(key))?;
        loop {
            let snapshot = self.snapshot(key)?;
            let used = match snapshot.kind {
                SnapshotKind::View => return Ok(0),
                SnapshotKind::Committed => return Ok(snapshot.used),
                SnapshotKind::Active => self.used_now(snapshot.leaf),
            };
            // This call holds no name, so the snapshot may have been committed or removed
            // meanwhile, and the value, or the error, may be that of another moment.
            let is_same = |s: &Snapshot| s.leaf == snapshot.leaf && s.kind == snapshot.kind;
            if self.read(|state| state.snapshots.get(key).is_some_and(is_same)) {
                return used;
            }
        }
    }

    fn used_now(&self, leaf: Leaf) -> Result<u64> {
        match self.disks.find(leaf)? {
            Some(union) => Ok(union.used),
            None => self.disks.used(leaf.number, false),
        }
    }
}

/// Refuses a snapshot if writes to it may have failed, because the daemon cannot
/// learn which files lack data.
fn refuse_incomplete(key: &str, union: &AttachedUnion) -> Result {
    let device = &union.device;
    let why = match (union.no_space, union.errors) {
        (0, 0) => return Ok(()),
        (0, errors) => format!("{errors} requests to {device} failed with I/O errors"),
        (full, _) => format!(
            "{full} requests to {device} failed because its limit was reached, or the host was full"
        ),
    };
    Err(Error::exhausted(format!(
        "cannot commit {key:?}: {why}, so files may lack what was written to them: remove it, and make \
         it again with a larger limit ({} or --size), or on a host with space and without errors",
        labels::MAX_SIZE
    )))
}

fn mounted(union: AttachedUnion, kind: SnapshotKind) -> Mounted {
    Mounted {
        device: union.device,
        read_only: kind == SnapshotKind::View,
    }
}

mod recover;
#[cfg(test)]
mod tests;
