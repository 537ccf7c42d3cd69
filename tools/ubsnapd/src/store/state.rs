// SPDX-License-Identifier: GPL-2.0

//! What the store holds, and how a change changes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Id, Leaf, Snapshot, SnapshotKind};

/// The version of the log.
pub const VERSION: u32 = 1;

/// A change. The changes of one line of the log happen together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The first change of a log.
    Begin {
        /// The version of the log.
        version: u32,
        /// The size of the file system that all snapshots have.
        bytes: u64,
        /// The lowest number that no leaf has had.
        next: u64,
        /// The leaves that were about to be made.
        making: BTreeSet<u64>,
    },
    /// A leaf of this number is about to be made.
    Make(u64),
    /// A snapshot is new or different. Its leaf is made.
    Put(Box<Snapshot>),
    /// A snapshot is gone.
    Forget(String),
    /// A leaf, and the union on it, are to be deleted.
    Discard(Leaf),
    /// A leaf is deleted.
    Deleted(u64),
}

/// All that the store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The size of the file system that all snapshots have.
    pub bytes: u64,
    /// The lowest number that no leaf has had.
    pub next: u64,
    /// The snapshots by their names.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// The leaves that were about to be made.
    pub making: BTreeSet<u64>,
    /// The leaves that are to be deleted.
    pub discarded: BTreeMap<u64, Id>,
}

impl State {
    /// Makes a change. If that fails, the change does not fit the state, and the state must be
    /// dropped, because it may be half changed.
    pub fn apply(&mut self, change: Change) -> Result<(), String> {
        match change {
            Change::Begin {
                version,
                bytes,
                next,
                making,
            } => self.begin(version, bytes, next, making),
            Change::Make(number) => {
                if number < self.next {
                    return Err(format!("leaf {number} is made twice"));
                }
                self.next = number.saturating_add(1);
                self.making.insert(number);
                Ok(())
            }
            Change::Put(snapshot) => self.put(*snapshot),
            Change::Forget(name) => match self.snapshots.remove(&name) {
                Some(_) if self.has_child(&name) => Err(format!("{name:?} has children")),
                Some(_) => Ok(()),
                None => Err(format!("there is no {name:?} to forget")),
            },
            Change::Discard(leaf) => {
                if self
                    .snapshots
                    .values()
                    .any(|s| s.leaf.number == leaf.number)
                {
                    return Err(format!("leaf {} is in use", leaf.number));
                }
                self.making.remove(&leaf.number);
                self.discarded.insert(leaf.number, leaf.uuid);
                Ok(())
            }
            Change::Deleted(number) => {
                let was = self.making.remove(&number);
                match self.discarded.remove(&number) {
                    None if !was => Err(format!("leaf {number} was not to be deleted")),
                    _ => Ok(()),
                }
            }
        }
    }

    fn begin(
        &mut self,
        version: u32,
        bytes: u64,
        next: u64,
        making: BTreeSet<u64>,
    ) -> Result<(), String> {
        if version != VERSION {
            return Err(format!(
                "it has version {version}, this ubsnapd knows {VERSION}: use the one that wrote it"
            ));
        }
        if *self != State::default() {
            return Err("it begins twice".to_owned());
        }
        (self.bytes, self.next, self.making) = (bytes, next, making);
        Ok(())
    }

    fn put(&mut self, snapshot: Snapshot) -> Result<(), String> {
        let name = &snapshot.name;
        let number = snapshot.leaf.number;
        let is_parent = |parent: &Snapshot| parent.kind == SnapshotKind::Committed;
        let parent = self.snapshots.get(&snapshot.parent);
        if !snapshot.parent.is_empty() && !parent.is_some_and(is_parent) {
            return Err(format!("{name:?} has no parent {:?}", snapshot.parent));
        }
        if (snapshot.kind == SnapshotKind::Committed) != snapshot.seal.is_some() {
            return Err(format!("{name:?} has the wrong seal"));
        }
        let old = self.snapshots.get(name);
        if old.is_some_and(|old| old.leaf != snapshot.leaf) {
            return Err(format!("{name:?} has another leaf already"));
        }
        let mut others = self.snapshots.values().filter(|s| s.name != *name);
        let is_gone = self.discarded.contains_key(&number);
        if number >= self.next || is_gone || others.any(|s| s.leaf.number == number) {
            return Err(format!("{name:?} has a leaf that is not its own"));
        }
        self.making.remove(&number);
        self.snapshots.insert(name.clone(), snapshot);
        Ok(())
    }

    /// Returns the snapshot whose commit, which has not ended, gives it this name.
    pub fn pending(&self, name: &str) -> Option<&Snapshot> {
        let is_it = |s: &&Snapshot| s.commit.as_ref().is_some_and(|c| c.name == name);
        self.snapshots.values().find(is_it)
    }

    /// Returns these names and, for each commit that has not ended and has one of them, both of its
    /// names.
    pub fn tied(&self, names: &[&str]) -> BTreeSet<String> {
        let mut tied: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        loop {
            let before = tied.len();
            for snapshot in self.snapshots.values() {
                let Some(commit) = &snapshot.commit else {
                    continue;
                };
                if tied.contains(&commit.name) || tied.contains(&snapshot.name) {
                    tied.extend([commit.name.clone(), snapshot.name.clone()]);
                }
            }
            if tied.len() == before {
                return tied;
            }
        }
    }

    /// Returns whether a union continues in this leaf after a commit that has not ended.
    pub fn is_next(&self, number: u64) -> bool {
        let mut commits = self.snapshots.values().filter_map(|s| s.commit.as_ref());
        commits.any(|commit| commit.next == Some(number))
    }

    /// Returns whether a snapshot lies on this one.
    pub fn has_child(&self, name: &str) -> bool {
        self.snapshots.values().any(|s| s.parent == name)
    }

    /// Returns the committed snapshots below a snapshot with this parent, the lowest first.
    pub fn chain(&self, parent: &str) -> Vec<&Snapshot> {
        let mut chain = Vec::new();
        let mut name = parent;
        // Each parent was there before its child, so there is no cycle.
        while let Some(snapshot) = self.snapshots.get(name) {
            chain.push(snapshot);
            name = &snapshot.parent;
        }
        chain.reverse();
        chain
    }

    /// Returns changes that lead from nothing to this state.
    pub fn changes(&self) -> Vec<Change> {
        let mut all = vec![Change::Begin {
            version: VERSION,
            bytes: self.bytes,
            next: self.next,
            making: self.making.clone(),
        }];
        let mut depth: Vec<(usize, &Snapshot)> = self
            .snapshots
            .values()
            .map(|s| (self.chain(&s.parent).len(), s))
            .collect();
        depth.sort_by_key(|(depth, _)| *depth);
        all.extend(
            depth
                .into_iter()
                .map(|(_, s)| Change::Put(Box::new(s.clone()))),
        );
        let discarded = self.discarded.iter();
        all.extend(discarded.map(|(&number, &uuid)| Change::Discard(Leaf { number, uuid })));
        all
    }
}
