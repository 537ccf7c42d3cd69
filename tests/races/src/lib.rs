// SPDX-License-Identifier: GPL-2.0

//! Runs the core's protocol with every thread, lock and atomic under a scheduler.
//!
//! The code that runs is that of the module: `ubcore::protocol` over a host that the scheduler
//! drives. Each scenario is a few requests at once. The data of each read, and the leaf after a
//! power failure at any access to it, must be the result of some order of the requests.

#![cfg(feature = "model")]

pub mod scenario;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// The core has one set of model switches for the process, so only one scenario runs at a time.
static ONE: Mutex<()> = Mutex::new(());

/// Schedules that are enough for every scenario. The full campaign has more for each.
const ENOUGH: usize = 8000;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|v| v.parse().ok());
    given.unwrap_or(otherwise)
}

/// Runs a scenario under `SCHEDULES` schedules (default 400), half of them chosen at random, half
/// with few changes of priority. The schedules depend only on `SEED`. Panics if a schedule fails,
/// and says how to run that schedule again.
pub fn explore(scenario: fn()) {
    explore_more(1, scenario);
}

/// Does the same under so many times as many schedules, up to `ENOUGH`, for a scenario that is
/// quick and rarely fails.
pub fn explore_more(times: usize, scenario: fn()) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = number("SCHEDULES", 400) as usize;
    let schedules = asked.max(ENOUGH.min(asked * times)) / 2;
    let seed = number("SEED", 1);
    let mut config = Config::new();
    config.silence_warnings = true;
    let ran = Arc::new(AtomicU64::new(0));
    let count = ran.clone();
    let counted = move || {
        count.fetch_add(1, Ordering::Relaxed);
        scenario();
    };
    let random = RandomScheduler::new_from_seed(seed, schedules);
    Runner::new(random, config.clone()).run(counted.clone());
    for changes in [3, 4] {
        let few = PctScheduler::new_from_seed(seed, changes, schedules / 2);
        Runner::new(few, config.clone()).run(counted.clone());
    }
    // The harness has begun a line.
    println!("\nschedules: {}", ran.load(Ordering::Relaxed));
}
