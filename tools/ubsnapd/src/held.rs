// SPDX-License-Identifier: GPL-2.0

//! Keys that requests hold, so that only requests for the same snapshot wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The requests that hold a key.
enum KeyHolders {
    /// A request that may change what the key names.
    One,
    /// So many requests that need it as it is.
    Shared(usize),
}

/// The most requests that wait for one key, by default. Each has a thread, so if the holder never
/// ends, more would leave none for other keys. A client that has given up waiting does not end its
/// request. A burst of containers on one image waits for the same name only for a moment.
pub const WAITING: usize = 32;

/// The keys that are held. A request takes all of its keys at once, so no two requests can wait for
/// each other.
pub struct Held<K: Ord> {
    keys: Mutex<Keys<K>>,
    released: Condvar,
    /// The most requests that wait for one key.
    waiting: usize,
}

struct Keys<K: Ord> {
    holders: BTreeMap<K, KeyHolders>,
    /// How many requests wait that found a key held.
    waiting: BTreeMap<K, usize>,
}

impl<K: Ord + Clone> Keys<K> {
    /// Returns those keys for which a request would have to wait.
    fn taken(&self, alone: &BTreeSet<K>, shared: Option<&K>) -> Vec<K> {
        let is_alone = |key: &&K| matches!(self.holders.get(*key), Some(KeyHolders::One));
        let alone = alone.iter().filter(|key| self.holders.contains_key(key));
        alone.chain(shared.filter(is_alone)).cloned().collect()
    }

    fn wait_less(&mut self, key: &K) {
        match self.waiting.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.waiting.remove(key);
            }
        }
    }

    fn hold_shared(&mut self, key: &K) {
        let count = match self.holders.get(key) {
            Some(KeyHolders::Shared(count)) => count.saturating_add(1),
            _ => 1,
        };
        self.holders.insert(key.clone(), KeyHolders::Shared(count));
    }
}

/// What a request holds, until the drop.
pub struct Hold<'a, K: Ord> {
    held: &'a Held<K>,
    alone: BTreeSet<K>,
    shared: Option<K>,
}

impl<K: Ord> Default for Held<K> {
    fn default() -> Held<K> {
        Held::new(WAITING)
    }
}

impl<K: Ord> Held<K> {
    /// Returns one whose keys so many requests wait for.
    pub fn new(waiting: usize) -> Held<K> {
        Held {
            waiting,
            keys: Mutex::new(Keys {
                holders: BTreeMap::new(),
                waiting: BTreeMap::new(),
            }),
            released: Condvar::new(),
        }
    }
}

impl<K: Ord + Clone> Held<K> {
    fn keys(&self) -> MutexGuard<'_, Keys<K>> {
        // No code that can panic changes the maps.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other request holds `alone`, and none holds `shared` alone. Fails with the
    /// key if too many requests wait for one of them already.
    pub fn hold(
        &self,
        alone: BTreeSet<K>,
        shared: Option<K>,
    ) -> std::result::Result<Hold<'_, K>, K> {
        let shared = shared.filter(|key| !alone.contains(key));
        let mut keys = self.keys();
        let taken = keys.taken(&alone, shared.as_ref());
        let is_full = |key: &&K| keys.waiting.get(*key).is_some_and(|&n| n >= self.waiting);
        if let Some(key) = taken.iter().find(is_full) {
            return Err(key.clone());
        }
        for key in &taken {
            *keys.waiting.entry(key.clone()).or_default() += 1;
        }
        let is_taken = |keys: &mut Keys<K>| !keys.taken(&alone, shared.as_ref()).is_empty();
        let keys = self.released.wait_while(keys, is_taken);
        let mut keys = keys.unwrap_or_else(PoisonError::into_inner);
        for key in &taken {
            keys.wait_less(key);
        }
        for key in &alone {
            keys.holders.insert(key.clone(), KeyHolders::One);
        }
        if let Some(key) = &shared {
            keys.hold_shared(key);
        }
        drop(keys);
        Ok(Hold {
            held: self,
            alone,
            shared,
        })
    }

    /// Holds a key alone, if no request holds it.
    pub fn try_hold(&self, key: K) -> Option<Hold<'_, K>> {
        let mut keys = self.keys();
        if keys.holders.contains_key(&key) {
            return None;
        }
        keys.holders.insert(key.clone(), KeyHolders::One);
        drop(keys);
        Some(Hold {
            held: self,
            alone: BTreeSet::from([key]),
            shared: None,
        })
    }

    /// Shares a key with other requests, if fewer than `most` have it. Does not wait.
    pub fn try_share(&self, key: K, most: usize) -> Option<Hold<'_, K>> {
        let mut keys = self.keys();
        match keys.holders.get(&key) {
            Some(KeyHolders::One) => return None,
            Some(KeyHolders::Shared(count)) if *count >= most => return None,
            _ => keys.hold_shared(&key),
        }
        drop(keys);
        Some(Hold {
            held: self,
            alone: BTreeSet::new(),
            shared: Some(key),
        })
    }

    /// Returns how many requests wait for a key.
    #[cfg(test)]
    pub fn waiting(&self, key: &K) -> usize {
        self.keys().waiting.get(key).copied().unwrap_or(0)
    }
}

impl<K: Ord> Drop for Hold<'_, K> {
    fn drop(&mut self) {
        let keys = self.held.keys.lock();
        let mut keys = keys.unwrap_or_else(PoisonError::into_inner);
        for key in &self.alone {
            keys.holders.remove(key);
        }
        if let Some(key) = self.shared.take() {
            match keys.holders.get(&key) {
                Some(&KeyHolders::Shared(count)) if count > 1 => {
                    keys.holders.insert(key, KeyHolders::Shared(count - 1));
                }
                _ => {
                    keys.holders.remove(&key);
                }
            }
        }
        drop(keys);
        self.held.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeSet, Held, WAITING};
    use std::sync::mpsc::channel;
    use std::thread::scope;

    fn set(keys: &[u32]) -> BTreeSet<u32> {
        keys.iter().copied().collect()
    }

    #[test]
    fn others_share_and_one_is_alone() {
        let held = Held::default();
        let one = held.hold(set(&[1, 2]), Some(3)).unwrap();
        let two = held.hold(set(&[4]), Some(3)).unwrap();
        assert!(held.try_hold(1).is_none() && held.try_hold(3).is_none());
        drop(one);
        assert!(held.try_hold(1).is_some() && held.try_hold(3).is_none());
        drop(two);
        assert!(held.try_hold(3).is_some());
        // A key that is in both is held alone.
        let both = held.hold(set(&[5]), Some(5)).unwrap();
        assert!(held.try_hold(5).is_none());
        drop(both);
        assert!(held.keys().holders.is_empty());
    }

    #[test]
    fn a_request_waits_for_all_of_its_keys() {
        let held = Held::default();
        let (tell, told) = channel();
        scope(|s| {
            let first = held.hold(set(&[1]), None).unwrap();
            let second = held.hold(set(&[]), Some(2)).unwrap();
            s.spawn(|| {
                let _both = held.hold(set(&[1, 2]), None).unwrap();
                tell.send("both").unwrap();
            });
            // While it waits, it holds none.
            drop(first);
            drop(held.hold(set(&[1]), None).unwrap());
            tell.send("released").unwrap();
            drop(second);
        });
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["released", "both"]);
    }

    #[test]
    fn only_so_many_wait_for_one_key() {
        let held = Held::default();
        scope(|s| {
            let first = held.hold(set(&[1]), Some(2)).unwrap();
            for n in 0..WAITING {
                let held = &held;
                s.spawn(move || match n % 2 {
                    0 => drop(held.hold(set(&[1]), None).unwrap()),
                    _ => drop(held.hold(set(&[]), Some(1)).unwrap()),
                });
            }
            while held.waiting(&1) < WAITING {
                std::thread::yield_now();
            }
            assert_eq!(held.hold(set(&[1, 3]), None).err(), Some(1));
            assert_eq!(held.hold(set(&[3]), Some(1)).err(), Some(1));
            // Other keys are free, and a shared one is.
            drop(held.hold(set(&[3]), Some(2)).unwrap());
            drop(first);
        });
        assert_eq!(held.waiting(&1), 0);
        drop(held.hold(set(&[1]), None).unwrap());
    }

    #[test]
    fn only_so_many_share_a_key_without_a_wait() {
        let held = Held::default();
        let one = held.try_share(1, 2).unwrap();
        let two = held.try_share(1, 2).unwrap();
        assert!(held.try_share(1, 2).is_none() && held.try_share(2, 2).is_some());
        drop(one);
        assert!(held.try_share(1, 2).is_some());
        drop(two);
        assert!(held.keys().holders.is_empty());
    }
}
