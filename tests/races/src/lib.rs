// SPDX-License-Identifier: GPL-2.0

//! The core's protocol, with every thread, lock and atomic in a scheduler's hand.
//!
//! The lines that run are those of the module: `ubcore::protocol` over a host that the scheduler
//! drives. Each scene is a handful of requests at once. Whatever they see while they run, and
//! whatever a power failure at any access to the leaf leaves, must be what some order of them
//! explains.

#![cfg(feature = "model")]

#[path = "../../../rust/ubcore/tests/sim/history.rs"]
pub mod history;
#[path = "../../../rust/ubcore/tests/sim/host.rs"]
pub mod host;
#[path = "../../../rust/ubcore/tests/sim/leaf.rs"]
mod leaf;
#[path = "../../../rust/ubcore/tests/sim/request.rs"]
mod request;
pub mod scene;
#[path = "../../../rust/ubcore/tests/sim/mod.rs"]
mod sim;

/// The threads that a host runs on.
mod threads {
    pub use shuttle::sync::{Condvar, Mutex};
    pub use shuttle::thread::{current, spawn, yield_now, JoinHandle, ThreadId};
    pub use ubcore::sync::quietly;
    use ubcore::sync::AtomicU32;

    /// To look at these is no point of interest.
    pub fn silence(entries: &[AtomicU32]) {
        entries.iter().for_each(AtomicU32::silence);
    }
}

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// The core's switches of a model are one set for the process: one scene at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Schedules that were run in this process.
static SCHEDULES: AtomicU64 = AtomicU64::new(0);

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|v| v.parse().ok());
    given.unwrap_or(otherwise)
}

/// Runs a scene under `SCHEDULES` schedules (default 400), half of them chosen at random, half with
/// few changes of priority; `SEED` is all that they depend on. Panics where it fails, and says how
/// that schedule is run again.
pub fn explore(scene: fn()) {
    explore_more(1, scene);
}

/// The same under so many times as many schedules, for a scene that is quick and rarely goes wrong.
pub fn explore_more(times: usize, scene: fn()) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let schedules = number("SCHEDULES", 400) as usize / 2 * times;
    let seed = number("SEED", 1);
    let mut config = Config::new();
    config.silence_warnings = true;
    let counted = move || {
        SCHEDULES.fetch_add(1, Ordering::Relaxed);
        scene();
    };
    let random = RandomScheduler::new_from_seed(seed, schedules);
    Runner::new(random, config.clone()).run(counted);
    for changes in [3, 4] {
        let few = PctScheduler::new_from_seed(seed, changes, schedules / 2);
        Runner::new(few, config.clone()).run(counted);
    }
    println!("schedules={}", SCHEDULES.load(Ordering::Relaxed));
}
