// SPDX-License-Identifier: GPL-2.0

//! `ubctl top`: what unions read and write, as rates.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use serde::Serialize;

use crate::attributes::UnionAttributes;
use crate::error::{Fail, Result, FAILED};
use crate::output::{self, size};
use crate::terminal;

/// The version of what `--json` shows.
const VERSION: u32 = 1;
/// A shorter interval would measure little but the reading of sysfs.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

const AFTER_HELP: &str = "\
R/S and W/S are requests per second, READ and WRITE bytes per second, FIRST the
writes per second that made a mapping, DISCARD the bytes per second that were
discarded; zeroed ones count as written. FLUSH is the flushes and COMMIT the commits
per second. BUSY is the share of the time in which requests were in flight. The union
that moves most comes first.

On a terminal the table is drawn anew at each interval, until Ctrl-C. Elsewhere the
tables follow each other, and with --json each is one line, an object. top needs no
rights: it reads /sys/block/unionblkN.

Examples:
  ubctl top
  ubctl top web-01 web-02 --interval 10s
  ubctl top --count 1 --json";

/// Arguments of `top`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TopArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID [default: all unions]
    pub unions: Vec<String>,
    /// The time of one measurement: 500ms, 10s, 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    pub interval: Duration,
    /// End after so many measurements
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let least = humantime::format_duration(INTERVAL_MIN);
    Some(time)
        .filter(|time| *time >= INTERVAL_MIN)
        .ok_or_else(|| format!("at least {least}"))
}

/// The counters of a union at one time.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    union: UnionAttributes,
    /// The numbers in `stat`, as `Documentation/block/stat.rst` of the kernel has them.
    stat: Vec<u64>,
}

/// The places in `stat`.
const READS: usize = 0;
const READ_SECTORS: usize = 2;
const WRITES: usize = 4;
const WRITE_SECTORS: usize = 6;
const BUSY_MS: usize = 9;
const DISCARD_SECTORS: usize = 13;
const FLUSHES: usize = 15;

impl Sample {
    fn all(block: &Path) -> Vec<Sample> {
        let of = |union: UnionAttributes| {
            let stat = fs::read_to_string(block.join(&union.name).join("stat")).ok()?;
            let numbers = stat.split_whitespace().map(|n| n.parse().unwrap_or(0));
            Some(Sample {
                at: Instant::now(),
                stat: numbers.collect(),
                union,
            })
        };
        UnionAttributes::all(block)
            .into_iter()
            .filter_map(of)
            .collect()
    }

    fn stat(&self, place: usize) -> u64 {
        self.stat.get(place).copied().unwrap_or(0)
    }
}

/// What a union did in one interval. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct Rates {
    union: String,
    leaf_name: Option<String>,
    reads_per_second: f64,
    read_bytes_per_second: f64,
    writes_per_second: f64,
    write_bytes_per_second: f64,
    first_writes_per_second: f64,
    discard_bytes_per_second: f64,
    flushes_per_second: f64,
    commits_per_second: f64,
    /// From 0 to 1.
    busy: f64,
    slab_bytes: u64,
    slabs: u64,
    slabs_used: u64,
    io_errors: u64,
    #[serde(skip)]
    used: String,
}

impl Rates {
    /// Compares two samples of one union.
    fn new(before: &Sample, now: &Sample) -> Rates {
        let seconds = now
            .at
            .saturating_duration_since(before.at)
            .as_secs_f64()
            .max(0.001);
        // A freeze or a reset begins new counters of the union, but not of the disk.
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let stat = |place| rate(before.stat(place), now.stat(place));
        let u = &now.union;
        Rates {
            union: u.name.clone(),
            leaf_name: u.leaf_name.clone(),
            reads_per_second: stat(READS),
            read_bytes_per_second: stat(READ_SECTORS) * 512.0,
            writes_per_second: stat(WRITES),
            write_bytes_per_second: stat(WRITE_SECTORS) * 512.0,
            first_writes_per_second: rate(before.union.first_writes, u.first_writes),
            discard_bytes_per_second: stat(DISCARD_SECTORS) * 512.0,
            flushes_per_second: stat(FLUSHES),
            commits_per_second: rate(before.union.commits, u.commits),
            busy: (stat(BUSY_MS) / 1000.0).min(1.0),
            slab_bytes: u.slab_bytes,
            slabs: u.slabs,
            slabs_used: u.slabs_used,
            io_errors: u.io_errors,
            used: u.used(),
        }
    }

    fn bytes(&self) -> f64 {
        self.read_bytes_per_second + self.write_bytes_per_second + self.discard_bytes_per_second
    }
}

/// One measurement.
#[derive(Debug, Serialize)]
struct TopReport {
    version: u32,
    time: String,
    unions: Vec<Rates>,
}

/// Runs the command.
pub fn run(args: &TopArgs, json: bool) -> Result {
    let block = Path::new("/sys/block");
    let wanted = |sample: &Sample| {
        args.unions.is_empty() || args.unions.iter().any(|word| sample.union.is_called(word))
    };
    let samples = || -> Vec<Sample> { Sample::all(block).into_iter().filter(wanted).collect() };
    let mut before = samples();
    let missing = |word: &&String| !before.iter().any(|sample| sample.union.is_called(word));
    if let Some(word) = args.unions.iter().find(missing) {
        let text = format!("there is no union {word}: see ubctl list");
        return Err(Fail::new(FAILED, "not_found", text));
    }
    let redraws = !json && terminal::is_drawn_anew();
    let mut count = 0;
    while args.count.is_none_or(|all| count < all) {
        sleep(args.interval);
        let now = samples();
        let report = report(&before, &now);
        let continues = if json {
            output::json_line(&report)?
        } else {
            let text = text(&report, redraws.then(terminal::columns));
            let between = if count > 0 { "\n" } else { "" };
            let start = if redraws { terminal::CLEAR } else { between };
            output::styled(start)? && output::more(&text)?
        };
        if !continues {
            break;
        }
        before = now;
        count += 1;
    }
    Ok(())
}

/// Compares two lists. A union that was not there before has no rates yet.
fn report(before: &[Sample], now: &[Sample]) -> TopReport {
    let same = |a: &Sample, b: &Sample| a.union.name == b.union.name;
    let rates = |now: &Sample| {
        let before = before.iter().find(|before| same(before, now))?;
        Some(Rates::new(before, now))
    };
    let mut unions: Vec<Rates> = now.iter().filter_map(rates).collect();
    // The sort is stable, so unions that do nothing stay in order.
    unions.sort_by(|a, b| b.bytes().total_cmp(&a.bytes()));
    TopReport {
        version: VERSION,
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        unions,
    }
}

fn text(report: &TopReport, columns: Option<usize>) -> String {
    let heading = [
        "NAME", "R/S", "READ", "W/S", "WRITE", "FIRST", "DISCARD", "FLUSH", "COMMIT", "BUSY",
        "USED", "ERRORS", "LEAFNAME",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let count = |rate: f64| format!("{rate:.0}");
    let bytes = |rate: f64| size((rate / 512.0) as u64);
    rows.extend(report.unions.iter().map(|u| {
        vec![
            u.union.clone(),
            count(u.reads_per_second),
            bytes(u.read_bytes_per_second),
            count(u.writes_per_second),
            bytes(u.write_bytes_per_second),
            count(u.first_writes_per_second),
            bytes(u.discard_bytes_per_second),
            count(u.flushes_per_second),
            count(u.commits_per_second),
            format!("{:.0}%", u.busy * 100.0),
            u.used.clone(),
            u.io_errors.to_string(),
            output::name_text(u.leaf_name.as_ref()),
        ]
    }));
    let text = format!(
        "{}  {}\n",
        report.time,
        output::counted(report.unions.len() as u64, "union")
    ) + &output::table(&rows);
    let Some(columns) = columns else {
        return text;
    };
    // A line that the terminal wraps would move the table.
    let cut = |line: &str| line.chars().take(columns).collect::<String>() + "\n";
    text.lines().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::{interval, report, text, Sample};
    use crate::attributes::tests::union;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn rates_are_of_the_time_between() {
        let block = std::env::temp_dir().join(format!("ubctl-top-{}", std::process::id()));
        let stat = |n: u64| {
            let numbers: Vec<String> = (1..=17).map(|place| (n * place).to_string()).collect();
            numbers.join(" ")
        };
        let write = |name: &str, n: u64, first: &str| {
            let files = [
                ("uuid", "a"),
                ("stat", &stat(n)),
                ("first_writes", first),
                ("slabs", "4"),
            ];
            union(&block, name, &files);
        };
        write("unionblk0", 1000, "10");
        write("unionblk1", 1000, "10");
        let mut before = Sample::all(&block);
        write("unionblk0", 1000, "10");
        write("unionblk1", 1200, "30");
        write("unionblk2", 7, "1");
        let now = Sample::all(&block);
        before[1].at = now[1].at - Duration::from_secs(2);
        let r = report(&before, &now);
        // The busy one is first, and a new one has no rates.
        assert_eq!(r.unions.len(), 2);
        let u = &r.unions[0];
        assert_eq!(u.union, "unionblk1");
        assert_eq!(
            (u.reads_per_second, u.read_bytes_per_second),
            (100.0, 300.0 * 512.0)
        );
        assert_eq!(
            (u.writes_per_second, u.write_bytes_per_second),
            (500.0, 700.0 * 512.0)
        );
        assert_eq!(
            (u.discard_bytes_per_second, u.flushes_per_second),
            (1400.0 * 512.0, 1600.0)
        );
        assert_eq!((u.first_writes_per_second, u.busy), (10.0, 1.0));
        assert_eq!(r.unions[1].bytes(), 0.0);
        let table = text(&r, None);
        assert!(
            table.contains("unionblk1  100  150 KiB  500  350 KiB"),
            "{table}"
        );
        let narrow = text(&r, Some(30));
        assert!(narrow.lines().all(|line| line.len() <= 30), "{narrow}");
        assert_eq!(narrow.lines().count(), table.lines().count());
        fs::remove_dir_all(&block).unwrap();
    }

    #[test]
    fn an_interval_is_a_time() {
        assert_eq!(interval("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(interval("99ms").unwrap_err().contains("100ms"));
        assert!(interval("soon").is_err());
    }
}
