// SPDX-License-Identifier: GPL-2.0

//! `ubctl watch`: follows the events of unions.

mod watcher;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use crate::error::{Fail, Result, FAILED};
use crate::output;
use crate::uevents::{Received, Uevents};

use watcher::{WatchEvent, Watcher};

/// How often the counters are read of which the driver sends no uevent.
const TICK: Duration = Duration::from_secs(1);

const AFTER_HELP: &str = "\
Events:
  present    a union that is there when watch begins
  added      a union was attached
  removed    a union was detached
  low_space  fewer than a tenth of the leaf's slabs, or of its limit, are free
  used_80    80 per cent of the slabs, or of the limit, are in use; used_95: 95 per cent
  full       a write needed more slabs than were free, and failed with ENOSPC
  read_only  the map could not be committed, so the union takes no writes any more
  frozen     the leaf was frozen, and the union continues in a new one
  reset      the leaf was reset, and the union reads as what lies below it
  resized    the union has another size
  io_errors  requests have failed below since the last look, once a second
  missed     the kernel dropped uevents; all unions are looked at again
A later driver may send others; they are shown by the driver's word.

With --json each event is one line, an object. watch needs no rights, and continues
until Ctrl-C, or until its output is closed. With --count and --for it exits with 1
if the time ends before the events came.

Examples:
  ubctl watch
  ubctl watch web-01 --event low_space --event full --json
  ubctl watch unionblk0 --event frozen --count 1 --for 30s";

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct WatchArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID; it need not be there yet [default:
    /// all unions]
    pub unions: Vec<String>,
    /// Show only events of this kind; repeated
    #[arg(long = "event", value_name = "EVENT")]
    pub events: Vec<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: 500ms, 30s, 5m
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
}

/// Runs the command.
pub fn run(args: &WatchArgs, json: bool) -> Result {
    // The socket comes first, so that no union is missed between the list and the uevents.
    let uevents = Uevents::open()?;
    let mut watcher = Watcher::new(Path::new("/sys/block"));
    let end = args.time.and_then(|time| Instant::now().checked_add(time));
    let mut shown = 0;
    let mut events = watcher.start();
    let mut tick = Instant::now() + TICK;
    loop {
        for event in events.iter().filter(|event| is_wanted(args, event)) {
            if !show(event, json)? {
                return Ok(());
            }
            shown += 1;
            if args.count == Some(shown) {
                return Ok(());
            }
        }
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            return timed_out(args, shown);
        }
        if now >= tick {
            tick = now + TICK;
            events = watcher.tick();
            continue;
        }
        let until = end.map_or(tick, |end| end.min(tick));
        if !wait(&uevents, until - now)? {
            return Ok(());
        }
        events = match uevents.next()? {
            Received::Uevent(uevent) => watcher.uevent(&uevent),
            Received::Missed => watcher.missed(),
            Received::Nothing => Vec::new(),
        };
    }
}

fn is_wanted(args: &WatchArgs, event: &WatchEvent) -> bool {
    let kind = args.events.is_empty() || args.events.iter().any(|kind| kind == event.kind());
    // Any union may have had the events that were missed.
    let is_meant = |word: &String| event.is_about(word);
    kind && (args.unions.is_empty() || args.unions.iter().any(is_meant))
}

/// Returns false if the reader of the output is gone.
fn show(event: &WatchEvent, json: bool) -> Result<bool> {
    if json {
        output::json_line(event)
    } else {
        output::more(&event.text())
    }
}

fn timed_out(args: &WatchArgs, shown: u64) -> Result {
    let Some(count) = args.count else {
        return Ok(());
    };
    let time = humantime::format_duration(args.time.unwrap_or_default());
    let text = format!("{shown} of {count} events have come in {time}");
    Err(Fail::new(FAILED, "timeout", text))
}

/// Waits for a uevent. Returns false if the reader of the output is gone.
fn wait(uevents: &Uevents, time: Duration) -> Result<bool> {
    let stdout = io::stdout();
    let mut fds = [
        PollFd::new(uevents, PollFlags::IN),
        // An error or a hang-up is reported without being asked for.
        PollFd::new(&stdout, PollFlags::empty()),
    ];
    let time = Timespec::try_from(time).ok();
    match poll(&mut fds, time.as_ref()) {
        Ok(_) => Ok(!fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP)),
        Err(Errno::INTR) => Ok(true),
        Err(e) => Err(Fail::io("wait for", Path::new("uevents"), &e.into())),
    }
}
