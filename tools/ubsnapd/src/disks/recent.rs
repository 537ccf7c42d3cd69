// SPDX-License-Identifier: GPL-2.0

//! The layers of the union that was attached last, kept open, because the next union of the same
//! image needs them again.
//!
//! The lock is held for the list only. A layer whose device does not answer delays the attaches
//! that need it, and no others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ubctl::loopdev::Lower;

use crate::error::{Error, Result};
use crate::held::Held;

/// The most attaches that wait for one to open a layer. Many containers of one image may start at
/// the same time.
const OPENING: usize = 128;

/// Something open that is closed when the driver has it open too, or no one needs it.
pub trait Release {
    /// Closes it.
    fn release(self);
}

impl Release for Lower {
    fn release(self) {
        Lower::release(self);
    }
}

/// A layer that is open, until no attach uses it and it is not kept. Then it is released.
pub struct RecentLayer<L: Release>(Option<L>);

impl<L: Release> RecentLayer<L> {
    /// Returns what is open.
    pub fn get(&self) -> Option<&L> {
        self.0.as_ref()
    }
}

impl<L: Release> Drop for RecentLayer<L> {
    fn drop(&mut self) {
        if let Some(layer) = self.0.take() {
            layer.release();
        }
    }
}

/// The layers, by the numbers of their leaves.
pub struct Recent<L: Release> {
    layers: Mutex<HashMap<u64, Arc<RecentLayer<L>>>>,
    /// The layers that are being opened. Unions share a layer only on the same loop device, so an
    /// attach waits for one that opens a layer that it needs too.
    opening: Held<u64>,
}

impl<L: Release> Default for Recent<L> {
    fn default() -> Recent<L> {
        Recent {
            layers: Mutex::default(),
            opening: Held::new(OPENING),
        }
    }
}

impl<L: Release> Recent<L> {
    fn layers(&self) -> MutexGuard<'_, HashMap<u64, Arc<RecentLayer<L>>>> {
        // No code that can panic changes the map.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the layers of these numbers, and keeps them in the place of the layers that were
    /// kept. `open` opens the layers that are missing, in their order.
    pub fn of(
        &self,
        numbers: &[u64],
        open: impl FnOnce(&[u64]) -> Result<Vec<L>>,
    ) -> Result<Vec<Arc<RecentLayer<L>>>> {
        // Other layers are not kept open while this waits.
        let wanted = || {
            let mut all = self.layers().clone();
            all.retain(|number, _| numbers.contains(number));
            all
        };
        let mut all = wanted();
        let missing = |all: &HashMap<u64, Arc<RecentLayer<L>>>| -> Vec<u64> {
            let missing = numbers.iter().filter(|number| !all.contains_key(number));
            missing.copied().collect()
        };
        let alone = BTreeSet::from_iter(missing(&all));
        let hold = self.opening.hold(alone, None);
        let _hold = hold.map_err(|number| Error::waits(&format!("leaf {number}")))?;
        // Another attach may have opened them meanwhile.
        all.extend(wanted());
        let missing = missing(&all);
        let opened = open(&missing)?;
        let opened = opened.into_iter().map(|l| Arc::new(RecentLayer(Some(l))));
        all.extend(missing.into_iter().zip(opened));
        let in_use = numbers.iter().filter_map(|n| all.get(n).cloned()).collect();
        let before = std::mem::replace(&mut *self.layers(), all);
        // The lock is not held any more.
        drop(before);
        Ok(in_use)
    }

    /// Keeps a layer no longer.
    pub fn forget(&self, number: u64) {
        let layer = self.layers().remove(&number);
        drop(layer);
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Error, Recent, RecentLayer, Release};
    use std::sync::mpsc::{channel, Sender};
    use std::thread::scope;

    struct Layer(u64, Sender<u64>);

    impl Release for Layer {
        fn release(self) {
            let _ = self.1.send(self.0);
        }
    }

    #[test]
    fn the_layers_of_the_last_union_are_kept() {
        let (tell, released) = channel();
        let recent = Recent::default();
        let of = |numbers: &[u64], missing: &[u64]| -> Vec<Arc<RecentLayer<Layer>>> {
            let open = |which: &[u64]| {
                assert_eq!(which, missing);
                let layer = |&n: &u64| Layer(n, tell.clone());
                Ok(which.iter().map(layer).collect())
            };
            recent.of(numbers, open).unwrap()
        };
        let released = || {
            let mut all: Vec<u64> = released.try_iter().collect();
            all.sort_unstable();
            all
        };
        let first = of(&[1, 2], &[1, 2]);
        assert_eq!(
            first
                .iter()
                .filter_map(|l| Some(l.get()?.0))
                .collect::<Vec<_>>(),
            [1, 2]
        );
        let second = of(&[1, 3], &[3]);
        // The first attach still has it.
        assert!(released().is_empty());
        drop(first);
        assert_eq!(released(), [2]);
        drop(second);
        assert!(released().is_empty());
        drop(of(&[3], &[]));
        assert_eq!(released(), [1]);
        let failed = recent.of(&[3, 4], |_| Err(Error::internal("")));
        assert!(failed.is_err() && released().is_empty());
        recent.forget(3);
        recent.forget(4);
        assert_eq!(released(), [3]);
    }

    #[test]
    fn an_attach_does_not_wait_for_another() {
        let recent: Recent<Layer> = Recent::default();
        let (tell, _released) = channel();
        let layers = |which: &[u64]| which.iter().map(|&n| Layer(n, tell.clone())).collect();
        let (opens, opened) = channel();
        let (answer, answered) = channel::<()>();
        let (recent, layers) = (&recent, &layers);
        scope(|s| {
            s.spawn(move || {
                let open = |which: &[u64]| {
                    opens.send(()).unwrap();
                    answered.recv().unwrap();
                    Ok(layers(which))
                };
                let _first = recent.of(&[1], open).unwrap();
            });
            opened.recv().unwrap();
            // The device of layer 1 does not answer now.
            drop(recent.of(&[2], |which| Ok(layers(which))).unwrap());
            recent.forget(2);
            // An attach that needs layer 1 takes it from the first attach.
            let again = s.spawn(move || {
                let open = |which: &[u64]| {
                    assert_eq!(which, [3]);
                    Ok(layers(which))
                };
                recent.of(&[1, 3], open).unwrap().len()
            });
            while recent.opening.waiting(&1) < 1 {
                std::thread::yield_now();
            }
            answer.send(()).unwrap();
            assert_eq!(again.join().unwrap(), 2);
        });
    }
}
