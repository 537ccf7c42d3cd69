// SPDX-License-Identifier: GPL-2.0

//! Keys that requests hold, so that only requests for the same snapshot wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Who holds a key.
enum Holders {
    /// A request that may change what the key names.
    One,
    /// So many requests that need it as it is.
    Shared(usize),
}

/// The keys that are held. A request takes all of its keys at once, so no two requests can wait for
/// each other.
pub struct Held<K: Ord> {
    keys: Mutex<BTreeMap<K, Holders>>,
    released: Condvar,
}

/// What a request holds, until the drop.
pub struct Hold<'a, K: Ord> {
    held: &'a Held<K>,
    alone: BTreeSet<K>,
    shared: Option<K>,
}

impl<K: Ord> Default for Held<K> {
    fn default() -> Held<K> {
        Held {
            keys: Mutex::default(),
            released: Condvar::new(),
        }
    }
}

impl<K: Ord + Clone> Held<K> {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<K, Holders>> {
        // No code that can panic changes the map.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other request holds `alone`, and none holds `shared` alone.
    pub fn hold(&self, alone: BTreeSet<K>, shared: Option<K>) -> Hold<'_, K> {
        let shared = shared.filter(|key| !alone.contains(key));
        let keys = self.keys();
        let is_taken = |keys: &mut BTreeMap<K, Holders>| {
            alone.iter().any(|key| keys.contains_key(key))
                || shared
                    .as_ref()
                    .is_some_and(|key| matches!(keys.get(key), Some(Holders::One)))
        };
        let keys = self.released.wait_while(keys, is_taken);
        let mut keys = keys.unwrap_or_else(PoisonError::into_inner);
        for key in &alone {
            keys.insert(key.clone(), Holders::One);
        }
        if let Some(key) = &shared {
            let count = match keys.get(key) {
                Some(Holders::Shared(count)) => count.saturating_add(1),
                _ => 1,
            };
            keys.insert(key.clone(), Holders::Shared(count));
        }
        drop(keys);
        Hold {
            held: self,
            alone,
            shared,
        }
    }

    /// Holds a key alone, if no request holds it.
    pub fn try_hold(&self, key: K) -> Option<Hold<'_, K>> {
        let mut keys = self.keys();
        if keys.contains_key(&key) {
            return None;
        }
        keys.insert(key.clone(), Holders::One);
        drop(keys);
        Some(Hold {
            held: self,
            alone: BTreeSet::from([key]),
            shared: None,
        })
    }
}

impl<K: Ord> Drop for Hold<'_, K> {
    fn drop(&mut self) {
        let keys = self.held.keys.lock();
        let mut keys = keys.unwrap_or_else(PoisonError::into_inner);
        for key in &self.alone {
            keys.remove(key);
        }
        if let Some(key) = self.shared.take() {
            match keys.get(&key) {
                Some(&Holders::Shared(count)) if count > 1 => {
                    keys.insert(key, Holders::Shared(count - 1));
                }
                _ => {
                    keys.remove(&key);
                }
            }
        }
        drop(keys);
        self.held.released.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeSet, Held};
    use std::sync::mpsc::channel;
    use std::thread::scope;

    fn set(keys: &[u32]) -> BTreeSet<u32> {
        keys.iter().copied().collect()
    }

    #[test]
    fn others_share_and_one_is_alone() {
        let held = Held::default();
        let one = held.hold(set(&[1, 2]), Some(3));
        let two = held.hold(set(&[4]), Some(3));
        assert!(held.try_hold(1).is_none() && held.try_hold(3).is_none());
        drop(one);
        assert!(held.try_hold(1).is_some() && held.try_hold(3).is_none());
        drop(two);
        assert!(held.try_hold(3).is_some());
        // A key that is in both is held alone.
        let both = held.hold(set(&[5]), Some(5));
        assert!(held.try_hold(5).is_none());
        drop(both);
        assert!(held.keys().is_empty());
    }

    #[test]
    fn a_request_waits_for_all_of_its_keys() {
        let held = Held::default();
        let (tell, told) = channel();
        scope(|s| {
            let first = held.hold(set(&[1]), None);
            let second = held.hold(set(&[]), Some(2));
            s.spawn(|| {
                let _both = held.hold(set(&[1, 2]), None);
                tell.send("both").unwrap();
            });
            // While it waits, it holds none.
            drop(first);
            drop(held.hold(set(&[1]), None));
            tell.send("released").unwrap();
            drop(second);
        });
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["released", "both"]);
    }
}
