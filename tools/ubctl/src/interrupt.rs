// SPDX-License-Identifier: GPL-2.0

//! Signals that ask a command to end: Ctrl-C (SIGINT), SIGTERM and SIGHUP.
//!
//! A format, `seal`, `seal-root`, `squash`, `publish`, `import` and `map --svg` call [`watch`]
//! before their first write. `create` without a format calls it when the driver has attached the
//! leaf, because a signal can end the attach. From then on such a signal does not end the process.
//! The command calls [`check`] between its steps, and undoes what it has done. In the end the
//! process ends by that signal, as a shell expects. A second signal ends the process at once.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::error::{Fail, Result, FAILED};

const REASON: &str = "interrupted";

/// The number of the last of these signals, or 0.
static ASKED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on [`check`] reports the signals, and they do not end the process.
pub fn watch() -> Result {
    if ASKED.get().is_some() {
        return Ok(());
    }
    let asked = ASKED.get_or_init(Arc::default);
    let ignored = ignored();
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // nohup, or a shell for a command in the background, has the process ignore it.
        if (ignored >> (signal - 1)) & 1 == 1 {
            continue;
        }
        let value = usize::try_from(signal).unwrap_or(1);
        // In this order, so that the first signal does not yet find `again` set.
        flag::register_conditional_default(signal, again.clone())
            .and_then(|_| flag::register(signal, again.clone()))
            .and_then(|_| flag::register_usize(signal, asked.clone(), value))
            .map_err(|e| Fail::new(FAILED, "io", format!("cannot watch for signals: {e}")))?;
    }
    Ok(())
}

/// Returns the set of signals that the process ignores, signal 1 in the lowest bit.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap_or(0))
}

fn asked() -> Option<i32> {
    let signal = ASKED.get()?.load(Ordering::Relaxed);
    i32::try_from(signal).ok().filter(|&signal| signal != 0)
}

/// Fails if a signal has come.
pub fn check() -> Result {
    let Some(signal) = asked() else {
        return Ok(());
    };
    let name = low_level::signal_name(signal).unwrap_or("a signal");
    Err(Fail::new(FAILED, REASON, format!("interrupted by {name}")))
}

/// Ends the process by the signal, if `reason` is that of the failure that [`check`] returned. The
/// caller has reported the failure.
pub fn end_process(reason: &str) {
    if let Some(signal) = asked().filter(|_| reason == REASON) {
        // If this fails, the exit code says that the command has failed.
        let _ = low_level::emulate_default_handler(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::{check, end_process, ignored, low_level, watch, SIGHUP};

    #[test]
    fn a_signal_is_reported_and_does_not_end_the_process() {
        check().unwrap();
        watch().unwrap();
        check().unwrap();
        low_level::raise(SIGHUP).unwrap();
        let fail = check().unwrap_err();
        assert_eq!(fail.message, "interrupted by SIGHUP");
        end_process("another reason");
        // Rust ignores SIGPIPE.
        assert_eq!((ignored() >> 12) & 1, 1);
    }
}
