// SPDX-License-Identifier: GPL-2.0

//! Crash campaigns on the host: recover the core from each state that a power failure can leave.

mod checker;
mod exhaustive;
mod files;
mod harness;
mod image;
mod leaves;
mod log;
mod op;
mod operation_log;
mod points;
mod random;
mod rot;
mod setup;
mod workload;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use checker::{CheckCounters, Checker, Depth};

const USAGE: &str = "\
usage: crash quick|full|soak [SEED]
       crash replay 'OPERATIONS'
       crash points LOG raw OPERATIONS VARIANTS SEED
       crash points LOG ext4|btrfs|xfs IMAGE VARIANTS SEED POINTS LEAVES

quick   all sequences of up to three operations on each setup, a slice of the
        longer ones by SEED, and random workloads
full    all sequences of up to four operations, and random workloads
soak    as quick, with workloads of 20 seeds from SEED on

A replay is what a failure prints: a setup (fresh, aged, full, small, pieces;
-reveal behind it), operations, power-failure:POINT:CHOICE, again:POINT:CHOICE.
";

/// Begins a report in KTAP, of one case; `tests/crash/report.py` reads it.
fn begins() {
    println!("KTAP version 1\n1..1");
}

/// Prints lines of a diagnostic. `NAME: NUMBER` is a count.
fn note(text: &str) {
    text.lines().for_each(|line| println!("# {line}"));
}

/// Prints the result of the case; returns the program's status.
fn ends(case: &str, passed: bool) -> ExitCode {
    let not = if passed { "" } else { "not " };
    println!("{not}ok 1 - {case}");
    ExitCode::from(u8::from(!passed))
}

/// All subsets of up to 12 sectors, and a sample above that.
const DEPTH: Depth = Depth {
    all: 4096,
    sample: 128,
    second_all: 4096,
    second_sample: 128,
    rots: 3,
};

/// A third of the rot, which makes up most of the states, and everything else.
const QUICK: Depth = Depth { rots: 1, ..DEPTH };

#[derive(Clone, Copy)]
struct Size {
    all_up_to: usize,
    one_in: u64,
    workloads: u32,
    rounds: u64,
    threads: usize,
    /// A quick campaign has to end on a slow machine too. It reports what it has left out.
    at_most: Option<Duration>,
}

fn size(name: &str) -> Option<Size> {
    let quick = Size {
        all_up_to: 3,
        one_in: 200,
        workloads: 40,
        rounds: 1,
        threads: 1,
        at_most: Some(Duration::from_secs(70)),
    };
    Some(match name {
        "quick" => quick,
        "full" => Size {
            all_up_to: 4,
            workloads: 300,
            rounds: 4,
            threads: 2,
            at_most: None,
            ..quick
        },
        "soak" => Size {
            workloads: 200,
            rounds: 20,
            threads: 2,
            at_most: None,
            ..quick
        },
        _ => return None,
    })
}

/// The state that all threads share.
struct Campaign {
    size: Size,
    seed: u64,
    began: Instant,
    next: AtomicUsize,
    stop: AtomicBool,
    out_of_time: AtomicBool,
    found: Mutex<(CheckCounters, Vec<String>)>,
}

impl Campaign {
    fn has_time(&self) -> bool {
        let late = self.size.at_most.is_some_and(|t| self.began.elapsed() > t);
        if late {
            self.out_of_time.store(true, Ordering::Relaxed);
        }
        !late && !self.stop.load(Ordering::Relaxed)
    }

    fn add(&self, counters: &CheckCounters, failure: Option<String>) {
        let mut found = self.found.lock().unwrap_or_else(|e| e.into_inner());
        found.0.add(counters);
        if let Some(failure) = failure {
            let replay = failure.lines().next().unwrap_or("");
            note(&format!(
                "{failure}\nonce more: make crash REPLAY='{replay}'"
            ));
            found.1.push(failure);
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Takes one job after another: first the sequences, then rounds of workloads.
    fn work(&self) {
        let jobs = exhaustive::jobs(self.size.all_up_to, self.size.one_in, self.seed);
        let has_time = || self.has_time();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let round = n.saturating_sub(jobs.len()) as u64;
            if !self.has_time() || (n >= jobs.len() && round >= self.size.rounds) {
                return;
            }
            let started = Instant::now();
            let (name, counters, failure) = match jobs.get(n) {
                Some(job) => {
                    let depth = if self.size.all_up_to < 4 {
                        QUICK
                    } else {
                        DEPTH
                    };
                    let (counters, done) = exhaustive::run(job, depth, &has_time);
                    let name = format!("{} {}", job.setup.word(job.reveal), job.places);
                    (name, counters, done.err())
                }
                None => {
                    let seed = self.seed.wrapping_add(round);
                    let (counters, done) = random::run(seed, self.size.workloads, &has_time);
                    (format!("workloads of seed {seed}"), counters, done.err())
                }
            };
            self.add(&counters, failure);
            note(&format!(
                "{name}: {} workloads, {} points, {} states ({} after a second power failure, {} with \
                 rot: {} named, {} of these salvaged, {} taken for torn), {} recoveries, {} of a frozen \
                 leaf, {:.1} s",
                counters.workloads,
                counters.points,
                counters.states,
                counters.second,
                counters.rotten,
                counters.named,
                counters.salvaged,
                counters.torn,
                counters.recoveries,
                counters.frozen,
                started.elapsed().as_secs_f64()
            ));
        }
    }
}

fn campaign(size: Size, seed: u64) -> ExitCode {
    begins();
    let campaign = Campaign {
        size,
        seed,
        began: Instant::now(),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        out_of_time: AtomicBool::new(false),
        found: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..size.threads {
            scope.spawn(|| campaign.work());
        }
    });
    if campaign.out_of_time.load(Ordering::Relaxed) {
        note("the time was over before the end: the rest was left out");
    }
    let (counters, failures) = campaign
        .found
        .into_inner()
        .unwrap_or_else(|e| e.into_inner());
    note(&format!("states: {}", counters.states));
    ends(&format!("states, seed {seed}"), failures.is_empty())
}

fn replay(text: &str) -> ExitCode {
    begins();
    let checker_of = |g: &setup::Setup| Checker::new(g.devices(false).geometry, DEPTH, 0);
    match workload::replay(text, checker_of) {
        Ok(checker) => {
            note(&format!("{:?}", checker.counters));
            ends("replay", true)
        }
        Err(e) => {
            note(&e);
            ends("replay", false)
        }
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|e| format!("{word}: {e}"))
}

/// Makes the oracle of a file system, at so many points, and the leaves that it keeps: some of
/// `each` points at an entry.
fn file_system(
    entries: &[log::LogEntry],
    kind: &str,
    image: std::path::PathBuf,
    each: u64,
    rest: &[&str],
) -> Result<files::Files, String> {
    let [most, leaves] = rest else {
        return Err(USAGE.into());
    };
    let kind_of = files::FsKind::of(kind).ok_or(USAGE)?;
    let stride = (entries.len() as u64 * each / number(most)?.max(1)).max(1);
    // Counts the points with a file system, so that the leaves are spread over all of these.
    let made = |e: &log::LogEntry| matches!(e, log::LogEntry::Mark(text) if text == "made");
    let with_files = entries.iter().skip_while(|e| !made(e)).count() as u64 / stride * each;
    let mut every = (with_files / number(leaves)?.max(1)).max(1);
    // Otherwise all leaves would be of one kind of moment.
    if every > 1 && every % each == 0 {
        every -= 1;
    }
    let sectors = points::geometry(entries)?.leaf_sectors();
    let leaves = leaves::Leaves::new(&image, every, sectors)?;
    Ok(files::Files::new(kind_of, image, leaves, stride as usize))
}

/// Checks the points of one recording; returns their number.
fn points(words: &[&str]) -> Result<u64, String> {
    let [log, kind, file, variants, seed, rest @ ..] = words else {
        return Err(USAGE.into());
    };
    let read = |path: &str| std::fs::read(path).map_err(|e| format!("{path}: {e}"));
    let file_of = std::fs::File::open(log).map_err(|e| format!("{log}: {e}"))?;
    let mut from = std::io::BufReader::new(file_of);
    let mut entries = log::read(&mut from).map_err(|e| format!("{log}: {e}"))?;
    if *kind == "raw" {
        operation_log::reorder(&mut entries);
    }
    let (variants, seed) = (number(variants)? as u32, number(seed)?);
    let print_counts = |points: u64, second: u64| {
        note(&format!(
            "{kind}: {} entries, {points} points, {second} with a second power failure",
            entries.len()
        ));
        points
    };
    if *kind == "raw" {
        let operations = operation_log::OperationLog::read(&read(file)?)?;
        let mut campaign = points::PointCampaign::new(&entries, variants, seed, operations)?;
        campaign.oracle.believe = rest.first() == Some(&"believe");
        let done = campaign.run();
        print_counts(campaign.points, campaign.second);
        return done.map(|()| campaign.points);
    }
    let files = file_system(&entries, kind, file.into(), u64::from(1 + variants), rest)?;
    let mut campaign = points::PointCampaign::new(&entries, variants, seed, files)?;
    let done = campaign.run();
    print_counts(campaign.points, campaign.second);
    done.map(|()| campaign.points)
}

fn check_points(words: &[&str]) -> ExitCode {
    begins();
    let done = points(words);
    match &done {
        Ok(n) => note(&format!("points: {n}")),
        Err(e) => note(e),
    }
    ends(
        &format!("points {}", words.get(1).unwrap_or(&"")),
        done.is_ok(),
    )
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let seed = |w: &str| w.parse::<u64>().ok();
    match words[..] {
        ["replay", text] => replay(text),
        ["points", ref words @ ..] => check_points(words),
        [name] if size(name).is_some() => campaign(size(name).expect("a size"), 1),
        [name, s] if size(name).is_some() && seed(s).is_some() => {
            campaign(size(name).expect("a size"), seed(s).expect("a number"))
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
