// SPDX-License-Identifier: GPL-2.0

//! The journal ring: its transactions, their records, and what attach makes of them.

use ubcore::error::Error;
use ubcore::format::directory::PageEntry;
use ubcore::format::record::Record;
use ubcore::format::ring::{self, RingHead};
use ubcore::format::superblock::Superblock;
use ubcore::geometry::{LeafSlab, BLOCK_BYTES};
use ubcore::journal::{replay, scan, ScanResult};
use ubcore::map::Map;
use ubcore::pages::PageSet;

use super::read::{one_block, short};
use super::report::{JournalReport, TransactionReport};
use crate::device::Device;
use crate::output::counted;
use map_memory::Heap;

/// Lists the ring and replays it into the map.
pub fn read(
    device: &mut Device,
    (sb, entries): (&Superblock, &[PageEntry]),
    map: &Map<Heap>,
    changed: &mut PageSet<Vec<u64>>,
    all: bool,
    problems: &mut Vec<String>,
) -> JournalReport {
    let mut walk = walk(device, sb, all, problems);
    match scan(device, sb) {
        Ok(found) => {
            walk.next_sequence = found.sequence;
            if let Err(e) = replay(device, (sb, entries), &found, map, changed, |_| false) {
                problems.push(format!("{}: replay ends there", short(e)));
            }
        }
        // The driver follows nothing behind a hole. The map below is made of the blocks before the
        // hole.
        Err(e) => {
            let missing = if matches!(e, Error::Damaged(..)) {
                "missing or damaged, and finished transactions follow it"
            } else {
                "the ring cannot be read"
            };
            problems.push(format!("{}: {missing}", short(e)));
            let found = ScanResult {
                finished: walk.finished,
                valid: walk.chained,
                sequence: 0,
            };
            if let Err(e) = replay(device, (sb, entries), &found, map, changed, |_| false) {
                problems.push(format!("{}: replay ends there", short(e)));
            }
        }
    }
    walk
}

/// Walks the valid, consecutive blocks from the tail on, then counts the other blocks in the ring.
fn walk(
    device: &mut Device,
    sb: &Superblock,
    all: bool,
    problems: &mut Vec<String>,
) -> JournalReport {
    let g = &sb.geometry;
    let blocks = g.journal_blocks();
    let mut report = JournalReport {
        finished: 0,
        chained: 0,
        next_sequence: sb.journal_sequence,
        blocks_of_leaf: 0,
        transactions: Vec::new(),
    };
    let mut bytes = [0; BLOCK_BYTES];
    let mut is_consecutive = true;
    let mut open: Option<TransactionReport> = None;
    for n in 0..blocks {
        let position = (u64::from(sb.journal_tail) + u64::from(n)) % u64::from(blocks);
        let block = g.journal_block(u32::try_from(position).unwrap_or(0));
        let head = match one_block(device, block, &mut bytes) {
            Ok(()) => ring::open(&bytes, sb.nonce),
            Err(e) => {
                problems.push(e.to_string());
                None
            }
        };
        report.blocks_of_leaf += u32::from(head.is_some());
        let next = head.filter(|h| is_consecutive && h.sequence == report.next_sequence);
        let Some(head) = next else {
            is_consecutive = false;
            continue;
        };
        report.chained += 1;
        report.next_sequence = head.sequence.saturating_add(1);
        let transaction = open.get_or_insert_with(|| TransactionReport {
            sequence: head.sequence,
            blocks: Vec::new(),
            finished: false,
            records: 0,
            list: Vec::new(),
        });
        transaction.blocks.push(block.0);
        records(&bytes, &head, g.slab_sectors(), all, transaction);
        if head.last {
            transaction.finished = true;
            report.finished = report.chained;
            report.transactions.extend(open.take());
        }
    }
    report.transactions.extend(open);
    report
}

fn records(
    bytes: &[u8],
    head: &RingHead,
    slab_sectors: u32,
    all: bool,
    transaction: &mut TransactionReport,
) {
    let mut leaf_slab = head.origin;
    let mut at = 0;
    while at < usize::from(head.count) {
        let word = ring::word(bytes, at).unwrap_or(0);
        at += 1;
        transaction.records += 1;
        let record = Record::decode(word, slab_sectors);
        if let Some(Record::Words { words, .. }) = record {
            at += ubcore::num::u32_as_usize(words);
        }
        if let Some(Record::Origin(l)) = record {
            leaf_slab = l;
        }
        if let Some(Record::New { step, .. }) = record {
            leaf_slab = leaf_slab.wrapping_add(step);
        }
        if all {
            transaction.list.push(describe(record, word, leaf_slab));
        }
    }
}

fn describe(record: Option<Record>, word: u64, leaf_slab: LeafSlab) -> String {
    match record {
        Some(Record::Origin(before)) => format!("origin: the next leaf slabs count from {before}"),
        Some(Record::New { slab, run, .. }) => {
            format!(
                "new: root slab {slab} in leaf slab {leaf_slab}, mapped {}+{}",
                run.first, run.count
            )
        }
        Some(Record::More { slab, run }) => {
            format!("more: root slab {slab}, mapped {}+{}", run.first, run.count)
        }
        Some(Record::Words { slab, words }) => {
            format!(
                "words: root slab {slab}, {} of bits",
                counted(words, "word")
            )
        }
        Some(Record::Zero { slab, count }) => {
            format!("zero: {} as zeroes", reading(slab, count))
        }
        Some(Record::Reset { slab, count }) => {
            format!("reset: {} as the stack below", reading(slab, count))
        }
        None => format!("unknown: {word:#018x}"),
    }
}

/// Returns which root slabs read in another way, and the verb.
fn reading(first: u32, count: u32) -> String {
    match first.checked_add(count.saturating_sub(1)) {
        Some(last) if last > first => format!("root slabs {first} to {last} read"),
        _ => format!("root slab {first} reads"),
    }
}

#[cfg(test)]
mod tests {
    use super::describe;
    use ubcore::format::record::{Record, SlabRun};
    use ubcore::geometry::LeafSlab;

    #[test]
    fn every_kind_of_record_has_words() {
        let run = SlabRun { first: 8, count: 4 };
        let text = |r| describe(Some(r), 0, LeafSlab(9));
        assert!(text(Record::Origin(LeafSlab(3))).starts_with("origin: "));
        let new = text(Record::New {
            slab: 7,
            step: 1,
            run,
        });
        assert_eq!(new, "new: root slab 7 in leaf slab 9, mapped 8+4");
        assert!(text(Record::More { slab: 7, run }).ends_with("mapped 8+4"));
        assert!(text(Record::Words { slab: 7, words: 2 }).starts_with("words: root slab 7"));
        assert!(text(Record::Zero { slab: 1, count: 2 }).starts_with("zero: "));
        assert!(text(Record::Reset { slab: 1, count: 2 }).starts_with("reset: "));
        assert_eq!(
            describe(None, 6, LeafSlab(0)),
            "unknown: 0x0000000000000006"
        );
    }
}
