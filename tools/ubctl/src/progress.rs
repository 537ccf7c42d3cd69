// SPDX-License-Identifier: GPL-2.0

//! How far a long command is, on a line of the terminal. Nothing is shown if standard error is no
//! terminal, or if the command is short.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::output::size;

/// The time between two lines.
const INTERVAL: Duration = Duration::from_millis(500);

/// The progress of one command; threads may share it.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    start: Instant,
    /// When a line was last shown; `None` if none is to be shown.
    shown: Option<Mutex<Instant>>,
}

impl Progress {
    /// Begins, at nothing of `total` sectors.
    pub fn new(what: &'static str, total: u64) -> Progress {
        let now = Instant::now();
        Progress {
            what,
            total,
            done: AtomicU64::new(0),
            start: now,
            shown: io::stderr().is_terminal().then(|| Mutex::new(now)),
        }
    }

    /// Counts sectors that are done.
    pub fn add(&self, sectors: u64) {
        let done = self.done.fetch_add(sectors, Ordering::Relaxed) + sectors;
        // If another thread shows a line now, this one need not.
        let Some(Ok(mut shown)) = self.shown.as_ref().map(Mutex::try_lock) else {
            return;
        };
        if shown.elapsed() >= INTERVAL {
            *shown = Instant::now();
            let line = line(self.what, done, self.total, self.start.elapsed());
            // The command continues without the terminal.
            let _ = write!(io::stderr().lock(), "\r{line}\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64, time: Duration) -> String {
    let per_cent = (done * 100).checked_div(total).unwrap_or(100);
    let rate = done as f64 / time.as_secs_f64().max(0.001);
    let left = match done {
        0 => String::new(),
        _ => format!(
            ", {} left",
            seconds(total.saturating_sub(done) as f64 / rate)
        ),
    };
    format!(
        "{what}: {per_cent} %, {} of {}, {}/s{left}",
        size(done),
        size(total),
        size(rate as u64)
    )
}

/// Returns a time for people.
fn seconds(time: f64) -> String {
    let time = time.ceil() as u64;
    match time {
        0..100 => format!("{time} s"),
        100..6000 => format!("{} min", time.div_ceil(60)),
        _ => format!("{} h", time.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::{line, Progress};
    use std::time::Duration;

    #[test]
    fn a_line_has_share_rate_and_the_time_left() {
        let line = |done, total| line("verify", done, total, Duration::from_secs(2));
        assert_eq!(
            line(4096, 8192),
            "verify: 50 %, 2 MiB of 4 MiB, 1 MiB/s, 2 s left"
        );
        let half = line(4096, 1 << 20);
        assert!(half.ends_with("1 MiB/s, 9 min left"), "{half}");
        assert_eq!(line(0, 0), "verify: 100 %, 0 B of 0 B, 0 B/s");
        // Tests have no terminal.
        Progress::new("verify", 2).add(1);
    }
}
