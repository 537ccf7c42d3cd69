// SPDX-License-Identifier: GPL-2.0

//! The text of findings.

use std::collections::BTreeMap;

use ubcore::check::{FindingKind, Grade};
use ubcore::format::features::Features;
use ubcore::geometry::{Geometry, BITS_SECTORS, TABLE_ENTRIES};

use super::{CheckReport, FindingReport, WRONG_ROOT};
use crate::output::{self, counted, size};

/// Returns the word for a grade.
pub fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Note => "note",
        Grade::Minor => "minor",
        Grade::Damage => "damage",
    }
}

/// Returns the stable word for a kind of finding.
pub fn kind(kind: FindingKind) -> &'static str {
    use FindingKind::*;
    match kind {
        SlotEmpty => "slot_empty",
        SlotChecksum => "slot_checksum",
        SlotField => "slot_field",
        SlotUnreadable => "slot_unreadable",
        SlotStale => "slot_stale",
        SlotGap { .. } => "slot_gap",
        SlotsDisagree => "slots_disagree",
        UnknownFeatures { .. } => "unknown_features",
        LeafTruncated { .. } => "leaf_size",
        CleanFlag { .. } => "clean_flag",
        CleanButNewer { .. } => "clean_but_newer",
        NotDetached { .. } => "not_detached",
        Unreadable => "unreadable",
        Directory { .. } => "directory",
        // Scripts know the two inactive ones by these words.
        InactiveDirectory => "spare_directory",
        Page { .. } => "page",
        BelowList => "below_list",
        RootEntry => "root_entry",
        JournalHole => "journal_hole",
        JournalMisplaced { .. } => "journal_misplaced",
        JournalRecord => "journal_record",
        JournalUnfinished { .. } => "journal_unfinished",
        InactiveJournal => "spare_journal",
        PastUnion { .. } => "past_union",
        PastUnionBare { .. } => "past_union_bare",
        PastLeaf { .. } => "past_leaf",
        Moving { .. } => "moving",
        Shared { .. } => "shared",
        Leaked { .. } => "leaked",
        BitsPastUnion { .. } => "bits_past_union",
        BitsPastLeaf { .. } => "bits_past_leaf",
        Unowned { .. } => "unowned",
    }
}

/// Returns what a finding is, what it means, and what to do if a repair does not help.
pub fn meaning(kind: FindingKind, g: &Geometry) -> String {
    of_superblock(kind)
        .or_else(|| of_structure(kind, g))
        .or_else(|| of_journal(kind))
        .unwrap_or_else(|| of_map(kind, g))
}

/// Returns what `--repair` does about a finding that it can repair.
pub fn repair(kind: FindingKind) -> Option<&'static str> {
    use FindingKind::*;
    Some(match kind {
        SlotEmpty | SlotChecksum | SlotField => "--repair copies the other one here",
        SlotStale | SlotGap { .. } => "--repair renews this one",
        CleanFlag { .. } | NotDetached { .. } => "--repair does so now",
        InactiveDirectory | InactiveJournal => "--repair empties the block",
        RootEntry => "--repair writes it again, without the path",
        JournalUnfinished { .. } | PastUnionBare { .. } => "--repair removes it",
        Leaked { .. } => "--repair frees it",
        BitsPastUnion { .. } | BitsPastLeaf { .. } => "--repair clears their bits",
        _ => return None,
    })
}

const OTHER_ACTIVE: &str = "the other one is active";

fn of_superblock(kind: FindingKind) -> Option<String> {
    use FindingKind::*;
    Some(match kind {
        SlotEmpty => format!(
            "this superblock slot holds no superblock, as if another program had overwritten it; \
             {OTHER_ACTIVE}"
        ),
        SlotChecksum => format!(
            "this superblock slot fails its checksum: rotten, or written by another program; \
             {OTHER_ACTIVE}"
        ),
        SlotField => format!(
            "this superblock slot has a field with an impossible value; {OTHER_ACTIVE}"
        ),
        SlotUnreadable => "this superblock slot cannot be read, and may hold a newer superblock than \
                           the other, even one that froze the leaf: copy the leaf to another \
                           device, or read it with ubctl create --read-only"
            .to_owned(),
        SlotStale => "this superblock slot is one generation behind the other, as after a power \
                      failure; the next attach renews it"
            .to_owned(),
        SlotGap { newer, older } => format!(
            "this superblock slot is of generation {older}, the other of {newer}: no power failure \
             leaves them so far apart; the newer one is active"
        ),
        SlotsDisagree => "the superblock slots are of two leaves, or differ in one generation: \
                          it is unknown which is right; attach would follow the other one"
            .to_owned(),
        UnknownFeatures { compat, ro_compat } => format!(
            "the leaf has features that this ubctl does not know ({}), and did not check: use a \
             newer ubctl",
            output::features(&Features {
                compat,
                ro_compat,
                ..Features::NONE
            })
        ),
        LeafTruncated { wanted, found } => format!(
            "the leaf has {wanted} sectors, its device {found}: the data past the device's end is \
             lost, and attach refuses the leaf; make the device as large as before"
        ),
        CleanFlag { blocks } => format!(
            "the superblock has the flag clean, but {} not replayed: the next attach replays the journal",
            are(blocks)
        ),
        CleanButNewer { sequence } => format!(
            "the superblock has the flag clean, but journal block {sequence} here is newer: attach \
             would ignore it, and the changes in it would be lost"
        ),
        NotDetached { blocks: 0 } => {
            "the union was not detached, and its journal is empty: the next attach and detach mark \
             the leaf as clean"
                .to_owned()
        }
        NotDetached { blocks } => format!(
            "the union was not detached: the next attach replays {}",
            counted(blocks, "journal block")
        ),
        _ => return None,
    })
}

fn of_structure(kind: FindingKind, g: &Geometry) -> Option<String> {
    Some(match kind {
        FindingKind::Unreadable => {
            "the block cannot be read, so its content is unknown: see the kernel's log, and copy \
             the leaf with ddrescue"
                .to_owned()
        }
        FindingKind::Directory { first, last } => format!(
            "the page directory is damaged, so map pages {first} to {last} are unknown: attach \
             refuses the leaf"
        ),
        FindingKind::BelowList => {
            "the list of root and layers is damaged, so it is unknown which layers the leaf was \
             made on"
                .to_owned()
        }
        FindingKind::RootEntry => {
            "the list of root and layers is damaged, so it is unknown where the root was: no data \
             depends on it, and ubctl create --root names the root"
                .to_owned()
        }
        FindingKind::InactiveDirectory => {
            "an inactive directory block is torn or rotten: no harm".to_owned()
        }
        FindingKind::Page { page } => format!(
            "map page {page} is damaged, so it is unknown {}: attach refuses the leaf",
            covers(page.0, g)
        ),
        _ => return None,
    })
}

fn of_journal(kind: FindingKind) -> Option<String> {
    use FindingKind::*;
    Some(match kind {
        JournalHole => format!(
            "this journal block is missing or damaged, and finished transactions follow it: \
             {UNREADABLE}"
        ),
        JournalMisplaced { sequence } => format!(
            "journal block {sequence} is not where the journal's tail leads, so the tail is wrong: \
             attach refuses the leaf, or ignores this block and the changes in it"
        ),
        JournalRecord => format!("a journal record has an impossible value: {UNREADABLE}"),
        JournalUnfinished { blocks } => format!(
            "a transaction begins here and has no end after {}, as a power failure leaves it: \
             attach does not apply it",
            counted(blocks, "block")
        ),
        InactiveJournal => {
            "a journal block that attach does not apply is torn or rotten: no harm, unless it was \
             the last one written and flushed"
                .to_owned()
        }
        _ => return None,
    })
}

/// What damage to the journal means: without the journal nothing is known of any sector.
const UNREADABLE: &str = "attach refuses the leaf, also with --read-only; restore it from a backup";

fn of_map(kind: FindingKind, g: &Geometry) -> String {
    use FindingKind::*;
    match kind {
        PastUnion { slab, leaf_slab } => format!(
            "root slab {slab}, past the union's end, is in leaf slab {leaf_slab}: attach refuses \
             the leaf"
        ),
        PastUnionBare { slab } => {
            format!("root slab {slab}, past the union's end, has an entry: no harm")
        }
        PastLeaf { slab, leaf_slab } => format!(
            "root slab {slab} is in leaf slab {leaf_slab}, past the leaf's end, so the place of \
             its data is unknown: attach refuses the leaf"
        ),
        Moving { slab } => format!(
            "the entry of root slab {slab} has a value that no union writes: attach refuses the leaf"
        ),
        Shared {
            leaf_slab,
            first,
            second,
        } => format!(
            "root slabs {first} and {second} are both in leaf slab {leaf_slab}, so it is unknown \
             whose data it holds: attach refuses the leaf"
        ),
        Leaked { slab, leaf_slab } => format!(
            "root slab {slab} has leaf slab {leaf_slab}, but no sector of it is mapped: {} of leaf \
             space is unusable",
            size(g.slab_sectors().into())
        ),
        BitsPastUnion { slab, .. } => {
            format!("sectors of root slab {slab} past the union's end are mapped: no harm")
        }
        BitsPastLeaf { page } => {
            format!("map page {page} of the bits maps sectors past the leaf's last slab: no harm")
        }
        Unowned { first, count: 1 } => format!(
            "leaf slab {first} is mapped and has no owner: a discard left it, or its entry is lost"
        ),
        Unowned { first, count } => format!(
            "leaf slabs {first} to {} are mapped and have no owner: discards left them, or their \
             entries are lost",
            first.wrapping_add(count - 1)
        ),
        // The other kinds have their text above.
        other => format!("{other:?}"),
    }
}

/// Returns a number of journal blocks, and the verb.
fn are(blocks: u32) -> String {
    let verb = if blocks == 1 { "is" } else { "are" };
    format!("{} {verb}", counted(blocks, "journal block"))
}

/// Returns the part of the union that is lost with a map page.
fn covers(page: u32, g: &Geometry) -> String {
    match page.checked_sub(g.table_pages()) {
        None => {
            let first = page * TABLE_ENTRIES;
            let last = (first + TABLE_ENTRIES - 1).min(g.root_slabs() - 1);
            format!("where root slabs {first} to {last} are")
        }
        Some(n) => {
            let first = u64::from(n) * BITS_SECTORS;
            format!(
                "which of the leaf's data sectors {first} to {} are mapped",
                first + BITS_SECTORS - 1
            )
        }
    }
}

/// Returns what to do about findings that are left.
fn next_step(r: &CheckReport) -> String {
    let mut left = r.findings.iter().filter(|f| f.is_left());
    if left.clone().all(|f| f.repairable) {
        format!("run ubctl check --repair {}", r.leaf)
    } else if left.all(|f| f.kind == WRONG_ROOT) {
        "the leaf is whole, but this is not its root: name the root that it was made for".to_owned()
    } else {
        "make a copy of the leaf before anything else".to_owned()
    }
}

/// Returns the whole report for people: all notes of a kind in one line, unless `verbose`.
pub fn report(r: &CheckReport, verbose: bool) -> String {
    let mut out = r.leaf.clone();
    if let (Some(uuid), Some(generation)) = (&r.uuid, r.generation) {
        let name = r
            .name
            .as_ref()
            .map_or_else(String::new, |n| format!(" ({n})"));
        out += &format!(": leaf {uuid}{name}, generation {generation}");
    }
    out.push('\n');
    if verbose {
        out.extend(r.findings.iter().map(line));
    } else {
        out += &grouped(&r.findings);
    }
    let count = |wanted: fn(&&FindingReport) -> bool| {
        u64::try_from(r.findings.iter().filter(wanted).count()).unwrap_or(u64::MAX)
    };
    let left = count(|f| f.is_left());
    let repaired = count(|f| f.repaired);
    let problems = counted(left, "problem");
    out += &match (left, repaired) {
        (0, 0) => "whole".to_owned(),
        (0, n) => format!("whole now: {n} repaired"),
        (_, 0) => format!("{problems}: {}", next_step(r)),
        (_, n) => format!("{problems} left, {n} repaired: {}", next_step(r)),
    };
    if let Some(s) = &r.salvage {
        let rest = size(s.sectors - s.lost_sectors);
        out += &format!("; ubctl create --read-only reads what is left, {rest}");
    }
    // Without a superblock nothing was counted.
    if r.generation.is_some() {
        out += &format!(
            "; {} used, {} mapped, {} to replay",
            counted(r.slabs_used, "slab"),
            size(r.sectors_mapped),
            counted(r.journal_blocks_to_replay, "journal block")
        );
    }
    out.push('\n');
    out
}

/// Returns the lines of all findings. The first note of a kind stands for the others.
fn grouped(findings: &[FindingReport]) -> String {
    let mut notes: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    let is_note = |f: &&FindingReport| f.grade == grade(Grade::Note);
    for f in findings.iter().filter(is_note) {
        *notes.entry((f.kind, f.repaired)).or_default() += 1;
    }
    let mut out = String::new();
    for f in findings {
        let more = if is_note(&f) {
            // The first note of a kind removes the count, so the others print nothing.
            match notes.remove(&(f.kind, f.repaired)) {
                Some(count) => count.saturating_sub(1),
                None => continue,
            }
        } else {
            0
        };
        out += line(f).trim_end_matches('\n');
        if more > 0 {
            out += &format!(" (and {more} more of this kind: --verbose shows each)");
        }
        out.push('\n');
    }
    out
}

fn line(f: &FindingReport) -> String {
    let place = match (f.block, f.byte) {
        (Some(block), Some(byte)) => format!("block {block}, byte {byte}: "),
        (Some(block), None) => format!("block {block}: "),
        _ => String::new(),
    };
    let repaired = if f.repaired { " [repaired]" } else { "" };
    format!("  {:6}  {place}{}{repaired}\n", f.grade, f.text)
}

#[cfg(test)]
mod tests {
    use super::{grouped, kind, meaning, FindingKind, FindingReport};
    use std::collections::BTreeSet;
    use ubcore::geometry::{Geometry, LeafSlab, MapPage};

    #[test]
    fn notes_of_a_kind_share_a_line() {
        let finding = |grade, kind, block, repaired| FindingReport {
            grade,
            kind,
            block: Some(block),
            byte: Some(0),
            text: format!("{kind} it is"),
            lost: None,
            repaired,
            repairable: false,
        };
        let list: Vec<FindingReport> = (0..697)
            .map(|n| finding("note", "unowned", n, false))
            .chain([
                finding("damage", "page", 9, false),
                finding("damage", "page", 10, false),
                finding("note", "not_detached", 3, true),
                finding("note", "unowned", 900, true),
            ])
            .collect();
        let text = grouped(&list);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "  note    block 0, byte 0: unowned it is (and 696 more of this kind: --verbose shows each)",
                "  damage  block 9, byte 0: page it is",
                "  damage  block 10, byte 0: page it is",
                "  note    block 3, byte 0: not_detached it is [repaired]",
                "  note    block 900, byte 0: unowned it is [repaired]",
            ]
        );
    }

    #[test]
    fn every_kind_of_finding_has_a_word_and_a_sentence() {
        use FindingKind::*;
        let (slab, leaf_slab, first, second) = (1, LeafSlab(2), 3, 4);
        let (wanted, found, newer, older) = (10, 9, 8, 1);
        let (blocks, sequence, page, map_page, count) = (2, 77, 0, MapPage(0), 2);
        let (compat, ro_compat) = (1, 2);
        let all = [
            SlotEmpty,
            SlotChecksum,
            SlotField,
            SlotUnreadable,
            SlotStale,
            SlotGap { newer, older },
            SlotsDisagree,
            UnknownFeatures { compat, ro_compat },
            LeafTruncated { wanted, found },
            CleanFlag { blocks },
            CleanButNewer { sequence },
            NotDetached { blocks },
            Unreadable,
            Directory {
                first: map_page,
                last: MapPage(5),
            },
            InactiveDirectory,
            Page { page: map_page },
            BelowList,
            RootEntry,
            JournalHole,
            JournalMisplaced { sequence },
            JournalRecord,
            JournalUnfinished { blocks },
            InactiveJournal,
            PastUnion { slab, leaf_slab },
            PastUnionBare { slab },
            PastLeaf { slab, leaf_slab },
            Moving { slab },
            Shared {
                leaf_slab,
                first,
                second,
            },
            Leaked { slab, leaf_slab },
            BitsPastUnion { slab, leaf_slab },
            BitsPastLeaf { page },
            Unowned {
                first: leaf_slab,
                count,
            },
        ];
        let g = Geometry::new(65536, 65536, 32768, 128, 16).unwrap();
        let texts: BTreeSet<String> = all.iter().map(|&w| meaning(w, &g)).collect();
        let kinds: BTreeSet<&str> = all.iter().map(|&w| kind(w)).collect();
        assert_eq!((texts.len(), kinds.len()), (all.len(), all.len()));
        for kind in all {
            let text = meaning(kind, &g);
            assert!(text.contains(' ') && !text.contains('{'), "{text}");
        }
    }
}
