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
//! Lock order: `work`, then `store`. A request that changes anything holds `work` from its
//! beginning to its end; the others wait for no device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disks::{AttachedUnion, Disks, FrozenLayer};
use crate::error::{complain, Error, Result};
use crate::filter::Filters;
use crate::labels;
use crate::snapshot::{Commit, Id, Kind, Labels, Leaf, Snapshot, Time};
use crate::store::state::{Change, State};
use crate::store::Store;

/// The most layers below a leaf.
const LAYERS: usize = ubcore::stack::chain::LAYERS_MAX as usize;

/// The daemon.
pub struct Daemon<D> {
    disks: D,
    work: Mutex<()>,
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
            work: Mutex::new(()),
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

    fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let found = self.read(|state| state.snapshots.get(name).cloned());
        found.ok_or_else(|| Error::not_found(name))
    }

    /// Returns a snapshot, after the end of its commit if one was pending. The caller holds `work`.
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

    /// Refuses a name that a snapshot has, or that a pending commit gives. The caller holds `work`.
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
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels, kind: Kind) -> Result<Mounted> {
        let _work = lock(&self.work);
        if key.is_empty() {
            return Err(Error::invalid("a snapshot without a key"));
        }
        self.refuse_taken(key)?;
        self.read(|state| match state.snapshots.get(parent) {
            None if !parent.is_empty() => Err(Error::not_found(parent)),
            Some(found) if found.kind != Kind::Committed => Err(Error::invalid(format!(
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
        let number = self.number();
        self.change(&[Change::Make(number)])?;
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
        Ok(mounted(made?, kind))
    }

    /// Returns a number that no leaf has had, and no image that the store does not know has.
    fn number(&self) -> u64 {
        let next = self.read(|state| state.next);
        let mut free = (next..).filter(|&number| !self.disks.exists(number));
        free.next().unwrap_or(next)
    }

    fn make(
        &self,
        number: u64,
        layers: &[FrozenLayer],
        (bytes, kind): (u64, Kind),
    ) -> Result<(Id, AttachedUnion)> {
        let uuid = self.disks.make(number, layers, bytes, kind == Kind::View)?;
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
        let _work = lock(&self.work);
        let snapshot = self.settled(key)?;
        if snapshot.kind == Kind::Committed {
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
        let read_only = snapshot.kind == Kind::View;
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
        let _work = lock(&self.work);
        let mut snapshot = self.settled(key)?;
        if name.is_empty() {
            return Err(Error::invalid("a commit without a name"));
        }
        self.refuse_taken(name)?;
        if snapshot.kind != Kind::Active {
            return Err(Error::precondition(format!(
                "{key:?} is not an active snapshot"
            )));
        }
        // After a power failure, this repairs the file system.
        let union = self.attached(&snapshot)?;
        refuse_incomplete(key, &union)?;
        let is_free = self.disks.detach(snapshot.leaf)?;
        let next = (!is_free).then(|| self.number());
        snapshot.commit = Some(Commit {
            name: name.to_owned(),
            labels,
            time: Time::now(),
            seal: self.disks.random()?,
            next,
        });
        let make = next.map(Change::Make);
        let put = Change::Put(Box::new(snapshot.clone()));
        let changes: Vec<Change> = make.into_iter().chain([put]).collect();
        self.change(&changes)?;
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
                kind: Kind::Committed,
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
        let _work = lock(&self.work);
        let snapshot = self.settled(key)?;
        if self.read(|state| state.has_child(key)) {
            let text = format!("cannot remove {key:?}: other snapshots lie on it");
            return Err(Error::precondition(text));
        }
        self.change(&[
            Change::Forget(key.to_owned()),
            Change::Discard(snapshot.leaf),
        ])?;
        self.discard(snapshot.leaf);
        self.discard_all();
        Ok(())
    }

    /// Deletes a leaf that no snapshot has. If its union is in use, only the image goes now.
    fn discard(&self, leaf: Leaf) {
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

    /// Tries again to delete what was in use.
    fn discard_all(&self) {
        let all = self.read(|state| state.discarded.clone());
        for (number, uuid) in all {
            self.discard(Leaf { number, uuid });
        }
    }

    /// Deletes what was in use when it was to be deleted, and is not any more.
    pub fn cleanup(&self) -> Result {
        let _work = lock(&self.work);
        self.discard_all();
        Ok(())
    }

    /// Returns a snapshot.
    pub fn stat(&self, key: &str) -> Result<Snapshot> {
        self.snapshot(key)
    }

    /// Changes labels of a snapshot: all, or the ones that the paths name.
    pub fn update(&self, name: &str, labels: &Labels, paths: &[String]) -> Result<Snapshot> {
        let _work = lock(&self.work);
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
        let snapshot = self.snapshot(key)?;
        match snapshot.kind {
            Kind::View => Ok(0),
            Kind::Committed => Ok(snapshot.used),
            Kind::Active => match self.disks.find(snapshot.leaf)? {
                Some(union) => Ok(union.used),
                None => self.disks.used(snapshot.leaf.number, false),
            },
        }
    }

    /// Ends the commits that the last daemon began, and removes the images that it left half made
    /// or discarded. Reports images that the store does not know, and keeps them.
    fn recover(&self) -> Result {
        let _work = lock(&self.work);
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

/// Refuses a snapshot if writes to it may have failed, because the daemon cannot
/// learn which files lack data.
fn refuse_incomplete(key: &str, union: &AttachedUnion) -> Result {
    let why = match (union.is_full, union.errors) {
        (true, _) => format!("it has reached its limit of {} bytes", union.used),
        (false, 0) => return Ok(()),
        (false, errors) => format!("{} had {errors} I/O errors", union.device),
    };
    Err(Error::exhausted(format!(
        "cannot commit {key:?}: {why}, so files may lack what was written to them: remove it, and make \
         it again with a larger limit ({} or --size) or on a host without errors",
        labels::MAX_SIZE
    )))
}

fn mounted(union: AttachedUnion, kind: Kind) -> Mounted {
    Mounted {
        device: union.device,
        read_only: kind == Kind::View,
    }
}

#[cfg(test)]
mod tests;
