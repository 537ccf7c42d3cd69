// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ubcore::abi::QUEUES_MAX;
use ubcore::format::name::{is_union_word, LeafName};
use ubcore::geometry::{
    BLOCK_BYTES, JOURNAL_BLOCKS_MAX, JOURNAL_BLOCKS_MIN, SLAB_SECTORS_DEFAULT, SLAB_SECTORS_MAX,
    SLAB_SECTORS_MIN,
};

const AFTER_HELP: &str = "\
Exit codes (check has its own, see its --help):
  0  done
  1  failed: I/O error, the kernel said no, the module is not loaded
  2  the command line is wrong
  3  refused: not formatted, wrong root, newer version, damaged, looks used,
     too small
  4  busy: mounted, attached, or in use by others, which the message names

A command waits for what the kernel and udev still do with its devices, at most
10 s, so that its answer holds; a process that has a device open gets as long to
close it. --no-wait leaves that out.

With --json the answer is JSON on standard output, an error too:
  {\"error\": \"what, where, what next\", \"reason\": \"wrong_root\", \"code\": 3}

Examples:
  ubctl create --root /dev/vda --leaf /dev/vdb --format   first use of a blank leaf
  ubctl create --root /dev/vda --leaf /dev/vdb            attach it again
  ubctl list
  ubctl status unionblk0 --json
  ubctl create --root gold --leaf vm1 --format --name vm1 --size 40G
  ubctl remove /dev/unionblk0 vm1
  ubctl dump /dev/vdb --map                               what the leaf holds
  ubctl check /dev/vdb --root /dev/vda                    whether it is whole";

const CHECK_HELP: &str = "\
Each finding has a grade:
  note    explained by a cut of power or the normal course of things
  minor   damage that has cost nothing yet, which --repair mends
  damage  to mend it would be to guess; keep a copy of the leaf. Where it can be
          told which sectors of the union are lost by it, the finding says so,
          and ubctl create --read-only reads the rest

Exit codes of check, those of fsck:
  0   whole: nothing but notes
  1   whole now: something was mended
  4   damage is left
  8   not done: I/O error, in use, not formatted, of a newer version
  16  the command line is wrong";

/// Shows a read-only root and a private leaf as one read-write disk, /dev/unionblkN
#[derive(Debug, Parser)]
#[command(name = "ubctl", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not wait for udev, nor for a device that is in use to come free
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a blank device or image the leaf of a root
    #[command(
        after_help = "A leaf with anything in its first or last MiB looks used, and is refused \
        without --force.\nSizes are in bytes, or with K, M, G or T: 64K is 65536."
    )]
    Format(FormatArgs),
    /// Attach a leaf to its root; prints the union's device
    #[command(
        after_help = "Example: ubctl create --root /dev/sda2 --leaf /dev/sdb1 --format\n\
        Images get loop devices, which go with the union.\n\
        A leaf with damaged metadata is refused (3). With --read-only, what is left of it can be\n\
        read, where that is safe: what is lost is named, and to read it fails. Then the exit code\n\
        is 0, and --json has damaged_blocks, lost_sectors and lost."
    )]
    Create(CreateArgs),
    /// Detach unions: what is dirty is committed, root and leaf are released
    Remove(RemoveArgs),
    /// One line for each union
    List,
    /// All that the driver tells of a union
    Status(StatusArgs),
    /// Show what a leaf holds; reads only, also images and damaged leaves
    #[command(
        after_help = "Exits with 3 if anything is damaged, after showing what is not.\n\
        On an attached leaf this is a look at a moving target."
    )]
    Dump(DumpArgs),
    /// Find all damage of a leaf, and mend what can be mended without a guess
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
}

/// Arguments of `format`.
#[derive(Debug, Args)]
pub struct FormatArgs {
    /// The root: a block device or an image; it is only read
    #[arg(long)]
    pub root: PathBuf,
    /// The leaf: a block device or an image
    pub leaf: PathBuf,
    #[command(flatten)]
    #[expect(missing_docs, reason = "it would show as help")]
    pub layout: LayoutArgs,
    /// Format even if the leaf looks used: what it holds is lost
    #[arg(long)]
    pub force: bool,
}

/// How a leaf is laid out.
#[derive(Clone, Copy, Debug, Args)]
pub struct LayoutArgs {
    /// Unit in which leaf space is handed out: a power of two, 16K to 4M
    #[arg(long, value_name = "SIZE", value_parser = slab_sectors, default_value = "64K")]
    pub slab_size: u32,
    /// Size of the journal, 64K to 256M [default: a 256th of the leaf, at most 8M]
    #[arg(long, value_name = "SIZE", value_parser = journal_blocks)]
    pub journal_size: Option<u32>,
    /// What discarded slabs read as: zeroes, or the root again
    #[arg(long, value_name = "AS", default_value = "zero")]
    pub discard: Discard,
    /// What to call the leaf, beside its UUID: up to 31 of A-Z a-z 0-9 . _ -
    #[arg(long, value_parser = leaf_name)]
    pub name: Option<LeafName>,
    /// Size of the union's blocks, 512 to 4096 [default: what the root's content was made for]
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// Allocate all of a leaf image's space, and give none back
    #[arg(long)]
    pub preallocate: bool,
    /// Size of the union; what lies beyond the root reads as zeroes [default: the root's]
    #[arg(long, value_name = "SIZE", value_parser = sectors)]
    pub size: Option<u64>,
}

/// What a discarded slab reads as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Discard {
    /// Zeroes
    #[default]
    Zero,
    /// The root again
    Reveal,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The root: a block device or an image; never written, shared by any number of unions
    #[arg(long)]
    pub root: PathBuf,
    /// The leaf: a block device or an image of this union's own
    #[arg(long)]
    pub leaf: PathBuf,
    /// Format the leaf first; it must be blank
    #[arg(long)]
    pub format: bool,
    /// With --format: slab size, a power of two, 16K to 4M [default: 64K]
    #[arg(long, value_name = "SIZE", value_parser = slab_sectors, requires = "format")]
    pub slab_size: Option<u32>,
    /// With --format: size of the journal
    #[arg(long, value_name = "SIZE", value_parser = journal_blocks, requires = "format")]
    pub journal_size: Option<u32>,
    /// With --format: what discarded slabs read as [default: zero]
    #[arg(long, value_name = "AS", requires = "format")]
    pub discard: Option<Discard>,
    /// With --format: what to call the leaf: up to 31 of A-Z a-z 0-9 . _ -
    #[arg(long, value_parser = leaf_name, requires = "format")]
    pub name: Option<LeafName>,
    /// With --format: allocate all of a leaf image's space, and give none back
    #[arg(long, requires = "format")]
    pub preallocate: bool,
    /// Size of the union's blocks, 512 to 4096 [default: what the root's content was made for]
    #[arg(long, value_name = "BYTES", value_parser = sector_size)]
    pub sector_size: Option<u32>,
    /// With --format: size of the union, zeroes beyond the root [default: the root's]
    #[arg(long, value_name = "SIZE", value_parser = sectors, requires = "format")]
    pub size: Option<u64>,
    /// With --format: even if the leaf looks used; what it holds is lost
    #[arg(long, requires = "format")]
    pub force: bool,
    /// Take no writes and write nothing to the leaf, which may be write-protected or damaged
    #[arg(long, conflicts_with = "format")]
    pub read_only: bool,
    /// N of /dev/unionblkN [default: the lowest that is free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..0xffff_ffff))]
    pub id: Option<u32>,
    /// Hardware queues; 0: one for each CPU, at most 8
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=i64::from(QUEUES_MAX)))]
    pub queues: u32,
}

impl CreateArgs {
    /// The layout for `--format`.
    pub fn layout(&self) -> LayoutArgs {
        LayoutArgs {
            slab_size: self.slab_size.unwrap_or(SLAB_SECTORS_DEFAULT),
            journal_size: self.journal_size,
            discard: self.discard.unwrap_or_default(),
            name: self.name,
            sector_size: self.sector_size,
            preallocate: self.preallocate,
            size: self.size,
        }
    }
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub unions: Vec<String>,
    /// All unions
    #[arg(long)]
    pub all: bool,
    /// Unmount first what is mounted from them, and what is mounted on that
    #[arg(long)]
    pub unmount: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID [default: all unions]
    pub union: Option<String>,
}

/// Arguments of `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The leaf: a block device or an image
    pub leaf: PathBuf,
    /// Also each journal record, each slab and its runs
    #[arg(long)]
    pub map: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The leaf: a block device or an image, not attached
    pub leaf: PathBuf,
    /// Also see whether this is the leaf's root, at the places that are sampled
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Mend what can be mended; a leaf without damage is not written to
    #[arg(long)]
    pub repair: bool,
    /// A line for each finding; without it, notes of one kind share one
    #[arg(long)]
    pub verbose: bool,
}

/// Bytes from `65536`, `64K`, `64KiB`.
fn bytes(s: &str) -> Result<u64, String> {
    let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match s
        .get(digits.len()..)
        .unwrap_or("")
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        other => return Err(format!("unknown unit '{other}': K, M, G or T")),
    };
    let n: u64 = digits
        .parse()
        .map_err(|_| "not a size: a number of bytes, or with K, M, G or T")?;
    n.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

fn slab_sectors(s: &str) -> Result<u32, String> {
    let sectors = bytes(s)? / 512;
    let wanted = |n: &u32| n.is_power_of_two() && (SLAB_SECTORS_MIN..=SLAB_SECTORS_MAX).contains(n);
    u32::try_from(sectors)
        .ok()
        .filter(wanted)
        .filter(|_| bytes(s).is_ok_and(|b| b % 512 == 0))
        .ok_or_else(|| "a slab is a power of two from 16K to 4M".to_owned())
}

fn journal_blocks(s: &str) -> Result<u32, String> {
    let bytes = bytes(s)?;
    let block = BLOCK_BYTES as u64;
    u32::try_from(bytes / block)
        .ok()
        .filter(|n| bytes % block == 0 && (JOURNAL_BLOCKS_MIN..=JOURNAL_BLOCKS_MAX).contains(n))
        .ok_or_else(|| "a journal is a multiple of 4K from 64K to 256M".to_owned())
}

fn sectors(s: &str) -> Result<u64, String> {
    let bytes = bytes(s)?;
    if bytes == 0 || bytes % 512 != 0 {
        return Err("a size is a multiple of 512 bytes".to_owned());
    }
    Ok(bytes / 512)
}

fn sector_size(s: &str) -> Result<u32, String> {
    let wanted = |n: &u32| n.is_power_of_two() && (512..=4096).contains(n);
    let bytes = u32::try_from(bytes(s)?).ok().filter(wanted);
    bytes.ok_or_else(|| "blocks are of a power of two from 512 to 4096 bytes".to_owned())
}

fn leaf_name(s: &str) -> Result<LeafName, String> {
    if is_union_word(s) {
        return Err(
            "a union's number is no name for a leaf: remove would not know which".to_owned(),
        );
    }
    LeafName::from_text(s)
        .filter(|_| !s.is_empty())
        .ok_or_else(|| {
            "a name is 1 to 31 of A-Z a-z 0-9 . _ - and does not start with a dot".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::{bytes, journal_blocks, leaf_name, sectors, slab_sectors, Cli};
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("65536"), Ok(65536));
        assert_eq!(bytes("64k"), Ok(65536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("2T"), Ok(2 << 40));
        for bad in [
            "",
            "K",
            "-1",
            "1X",
            "1.5M",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(slab_sectors("16K"), Ok(32));
        assert_eq!(slab_sectors("4M"), Ok(8192));
        for bad in ["8K", "8M", "48K", "65537", "0"] {
            assert!(slab_sectors(bad).is_err(), "{bad}");
        }
        assert_eq!(sectors("1K"), Ok(2));
        for bad in ["0", "513", "1000"] {
            assert!(sectors(bad).is_err(), "{bad}");
        }
        assert_eq!(journal_blocks("64K"), Ok(16));
        assert_eq!(journal_blocks("256M"), Ok(65536));
        for bad in ["60K", "65K", "257M", "0"] {
            assert!(journal_blocks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_leaves() {
        assert_eq!(leaf_name("web-01").unwrap().text(), "web-01");
        assert!(leaf_name("unionblk0p1").is_ok());
        for bad in [
            "",
            ".x",
            "a/b",
            "7",
            "007",
            "99999999999",
            "unionblk7",
            "x".repeat(32).as_str(),
        ] {
            assert!(leaf_name(bad).is_err(), "{bad}");
        }
    }
}
