// SPDX-License-Identifier: GPL-2.0

//! `ubctl check`: reports whether a leaf is whole, and with `--repair` repairs what can be repaired
//! without a guess.

mod repair;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use ubcore::attach;
use ubcore::check::{self, Check, Finding, FindingKind, Grade, Totals};
use ubcore::error::{Area, Error, Role};
use ubcore::format::directory::PageEntry;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{BLOCK_SECTORS, SUPERBLOCKS};
use ubcore::map::{words_for, Map};
use ubcore::num::u32_as_usize;
use ubcore::pages::PageSet;
use ubcore::slot::Slot;
use ubcore::stack::listed;

use crate::device::{refuse_same, Access, Device};
use crate::error::{Fail, Result};
use crate::lost_sectors::{self, SectorRange};
use crate::{output, overlap, root_samples, sealed};
use map_memory::sha256::Sha256;
use map_memory::Heap;

const AFTER_HELP: &str = "\
Each finding has a grade:
  note    explained by a power failure, or normal
  minor   damage that has cost nothing yet; --repair removes it
  damage  a repair would have to guess; keep a copy of the leaf. If check can
          determine which sectors of the union are lost, the finding says so,
          and ubctl create --read-only reads the rest

Exit codes of check, those of fsck:
  0   whole: nothing but notes
  1   whole now: something was repaired
  4   damage is left
  8   not done: I/O error, in use, not formatted, of a newer version
  16  the command line is wrong";

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CheckArgs {
    /// The leaf: a block device or an image, not attached
    pub leaf: PathBuf,
    /// Also check whether this is the leaf's root, by samples of its content
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Repair what can be repaired; a leaf with nothing to repair is not written to
    #[arg(long)]
    pub repair: bool,
    /// Print a line for each finding; without it, notes of one kind share a line
    #[arg(long)]
    pub verbose: bool,
}

/// Exit codes of `check`, as fsck defines them.
const WHOLE: u8 = 0;
const REPAIRED: u8 = 1;
const LEFT: u8 = 4;
const OPERATIONAL: u8 = 8;
/// The command line of `check` is wrong.
pub const USAGE: u8 = 16;

/// The result of a check. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct CheckReport {
    leaf: String,
    uuid: Option<String>,
    name: Option<String>,
    generation: Option<u64>,
    pages_written: u32,
    journal_blocks_to_replay: u32,
    slabs_used: u32,
    sectors_mapped: u64,
    /// What `create --read-only` would show of a damaged leaf; none if it would refuse the leaf
    /// too.
    salvage: Option<Salvage>,
    findings: Vec<FindingReport>,
    code: u8,
}

/// The lost sectors of a damaged leaf that can otherwise be read.
#[derive(Debug, Serialize)]
struct Salvage {
    sectors: u64,
    lost_sectors: u64,
    lost: Vec<SectorRange>,
}

/// One finding, for people and scripts.
#[derive(Debug, Serialize)]
struct FindingReport {
    grade: &'static str,
    kind: &'static str,
    block: Option<u64>,
    byte: Option<u32>,
    text: String,
    /// The ranges of the union that are unknown because of the finding, where they can be
    /// determined.
    lost: Option<Vec<SectorRange>>,
    repaired: bool,
    /// `--repair` would repair it.
    #[serde(skip)]
    repairable: bool,
}

impl FindingReport {
    /// Returns whether it is damage that is still there.
    fn is_left(&self) -> bool {
        self.grade != text::grade(Grade::Note) && !self.repaired
    }
}

/// The kind of the finding that the root is not the leaf's own.
const WRONG_ROOT: &str = "wrong_root";

/// The result of one look at the leaf.
struct Look {
    sb: Superblock,
    slot: Slot,
    totals: Totals,
    findings: Vec<Finding>,
    map: Map<Heap>,
    /// The sectors that would be lost, if the rest can be read.
    lost: Option<Vec<SectorRange>>,
}

impl Look {
    fn worst(&self) -> Option<Grade> {
        self.findings.iter().map(|f| f.kind.grade()).max()
    }

    /// Returns whether a repair of the leaf would repair a finding.
    fn would_repair(&self, kind: FindingKind) -> bool {
        let alone = self.worst() != Some(Grade::Damage) || check::repair::is_of_slot(kind);
        kind.is_repairable() && alone && self.sb.features.writable().is_ok()
    }

    /// Returns the sectors that one finding makes lost. The map includes the journal only if replay
    /// refused nothing.
    fn lost_by(&self, f: &Finding) -> Option<Vec<SectorRange>> {
        let pages = f.pages(&self.sb.geometry);
        let said = self.lost.is_some() && !pages.is_empty();
        said.then(|| lost_sectors::of_map(&self.map, |page| pages.contains(&page)))
    }
}

/// Runs the command. Its exit codes are fsck's, not those of the other commands.
pub fn run(args: &CheckArgs, json: bool) -> ExitCode {
    let done = report(args).and_then(|report| {
        if json {
            output::json(&report)?;
        } else {
            output::text(&text::report(&report, args.verbose))?;
        }
        Ok(report.code)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(mut fail) => {
            fail.code = OPERATIONAL;
            fail.report(json)
        }
    }
}

fn report(args: &CheckArgs) -> Result<CheckReport> {
    let access = if args.repair {
        Access::Exclusive
    } else {
        Access::Claim
    };
    if let Some(root) = &args.root {
        refuse_same(root, &args.leaf)?;
    }
    let mut leaf = Device::open(&args.leaf, Role::Leaf, access)?;
    let root = args.root.as_deref().map(|path| {
        let root = Device::open(path, Role::Root, Access::Read)?;
        overlap::refuse(&root, &leaf).map(|()| root)
    });
    let root = root.transpose()?;
    let name = args.leaf.display().to_string();
    let first = match look(&mut leaf) {
        Ok(first) => first,
        Err(Error::Damaged(Area::Superblock, block)) => return Ok(no_superblock(name, block.0)),
        Err(e) => return Err(sealed::no_leaf(&leaf, e)),
    };
    let last = if args.repair {
        Some(repair::repair(&mut leaf, &first)?)
    } else {
        None
    };
    let mut findings = list(&first, last.as_ref());
    let last = last.unwrap_or(first);
    if let Some(root) = &root {
        findings.extend(judge_root(root, &last.sb)?);
    }
    Ok(CheckReport {
        leaf: name,
        uuid: Some(output::uuid(&last.sb.uuid)),
        name: output::name(last.sb.name),
        generation: Some(last.sb.generation),
        pages_written: last.totals.pages,
        journal_blocks_to_replay: last.totals.to_replay,
        slabs_used: last.totals.slabs_used,
        sectors_mapped: last.totals.sectors_mapped,
        salvage: last.lost.as_ref().map(|lost| Salvage {
            sectors: last.sb.geometry.union_sectors(),
            lost_sectors: lost_sectors::sum(lost),
            lost: lost.clone(),
        }),
        code: code_of(&findings),
        findings,
    })
}

/// Reports that both slots are damaged. Nothing else is checked, because only a superblock says
/// where the rest is.
fn no_superblock(leaf: String, block: u64) -> CheckReport {
    let findings = vec![FindingReport {
        grade: text::grade(Grade::Damage),
        kind: "superblock",
        block: Some(block),
        byte: None,
        text:
            "both superblock slots, blocks 0 and 1, are damaged, and only they say where the map \
               and the journal are: attach refuses the leaf, also with --read-only, and --repair \
               cannot help; restore it from a backup"
                .to_owned(),
        lost: None,
        repaired: false,
        repairable: false,
    }];
    CheckReport {
        leaf,
        uuid: None,
        name: None,
        generation: None,
        pages_written: 0,
        journal_blocks_to_replay: 0,
        slabs_used: 0,
        sectors_mapped: 0,
        salvage: None,
        code: LEFT,
        findings,
    }
}

/// Lists all findings of the first look, and what a repair made of each.
fn list(first: &Look, last: Option<&Look>) -> Vec<FindingReport> {
    let left = |f: &Finding| last.is_none_or(|last| last.findings.contains(f));
    let mut reports: Vec<FindingReport> = first
        .findings
        .iter()
        .map(|f| describe(f, first, !left(f)))
        .collect();
    // A repair must not cause new findings. If it does, the list shows them.
    if let Some(last) = last {
        let new = last.findings.iter().filter(|f| !first.findings.contains(f));
        reports.extend(new.map(|f| describe(f, last, false)));
    }
    reports
}

fn describe(f: &Finding, look: &Look, repaired: bool) -> FindingReport {
    let lost = look.lost_by(f);
    let repairable = !repaired && look.would_repair(f.kind);
    let mut text = text::meaning(f.kind, &look.sb.geometry);
    if let Some(step) = text::repair(f.kind).filter(|_| repairable) {
        text += &format!("; {step}");
    }
    if let Some(lost) = &lost {
        text += &format!("; lost by it: {}", lost_sectors::text(lost));
    }
    FindingReport {
        grade: text::grade(f.kind.grade()),
        kind: text::kind(f.kind),
        block: Some(f.block.0),
        byte: Some(f.byte),
        text,
        lost,
        repaired,
        repairable,
    }
}

fn code_of(findings: &[FindingReport]) -> u8 {
    if findings.iter().any(FindingReport::is_left) {
        LEFT
    } else if findings.iter().any(|f| f.repaired) {
        REPAIRED
    } else {
        WHOLE
    }
}

/// Checks whether the root is the one that the leaf was made for.
fn judge_root(root: &Device, sb: &Superblock) -> Result<Option<FindingReport>> {
    let wanted = sb.geometry.root_sectors();
    let e = if root.sectors() != wanted {
        Error::RootSize(wanted, root.sectors())
    } else if root_samples::digest(root, &sb.uuid)? != sb.root_digest {
        Error::RootContent
    } else {
        return Ok(None);
    };
    Ok(Some(FindingReport {
        grade: text::grade(Grade::Damage),
        kind: WRONG_ROOT,
        block: None,
        byte: None,
        text: format!("{}: {e}", root.path().display()),
        lost: None,
        repaired: false,
        repairable: false,
    }))
}

/// Looks at the whole leaf; reads only.
fn look(leaf: &mut Device) -> std::result::Result<Look, Error> {
    let least = SUPERBLOCKS * BLOCK_SECTORS;
    if leaf.sectors() < least {
        return Err(Error::LeafTooSmall(least, leaf.sectors()));
    }
    let mut findings: Vec<Finding> = Vec::new();
    let (sb, slot) = check::check_superblocks(leaf, &mut |f| findings.push(f))?;
    let g = sb.geometry;
    let map = Map::new(g, Heap::to_read(&g));
    let mut entries = vec![PageEntry::EMPTY; u32_as_usize(g.pages())];
    let sets = [0; 2].map(|_| PageSet::new(vec![0u64; words_for(g.pages())]));
    let sectors = leaf.sectors();
    let mut push = |f| findings.push(f);
    let totals = Check::new(leaf, &sb, &map, &mut entries, sets, &mut push).run(sectors)?;
    check_chain(leaf, &sb, &mut findings);
    let damaged = findings.iter().any(|f| f.kind.grade() == Grade::Damage);
    Ok(Look {
        lost: if damaged {
            lost_sectors::of_leaf(leaf, &sb)
        } else {
            None
        },
        sb,
        slot,
        totals,
        findings,
        map,
    })
}

/// Adds a finding if the leaf lists other layers than those of its chain. Each block of the list
/// may be sound by itself then, and attach refuses the leaf.
fn check_chain(leaf: &mut Device, sb: &Superblock, findings: &mut Vec<Finding>) {
    let kind = FindingKind::BelowList;
    let is_known = findings.iter().any(|f| f.kind == kind);
    let read = listed::layers::<Sha256, _>(leaf, sb, |_| Ok(()));
    // The core has found what cannot be read.
    if let (false, Err(Error::Damaged(Area::BelowList, block))) = (is_known, read) {
        let byte = 0;
        findings.push(Finding { kind, block, byte });
    }
}

/// Returns the failure for a core error during a repair.
fn broke(leaf: &Device, e: Error) -> Fail {
    let mut fail = Fail::core(&leaf.path().display().to_string(), e);
    fail.message = format!("the repair was not finished: {}", fail.message);
    fail
}

/// Runs the probe of attach on the active superblock.
fn probe(leaf: &mut Device, sb: &Superblock) -> std::result::Result<attach::Probe, Error> {
    let sectors = leaf.sectors();
    attach::probe(leaf, sb.geometry.root_sectors(), sectors)
}

fn is_worse_than_minor(look: &Look) -> bool {
    look.worst() == Some(Grade::Damage)
}

fn is_repaired_by_checkpoint(kind: FindingKind) -> bool {
    kind.is_repairable() && !check::repair::is_of_slot(kind) && !check::repair::is_of_block(kind)
}
