// SPDX-License-Identifier: GPL-2.0

//! The oracle of a raw load. Knows all operations of `tests/vm/src/record.c`, and from the marks in
//! the log which of them was durable when. Sectors are those of `tests/vm/src/sector.h`.

use std::collections::{BTreeMap, BTreeSet};

use ubcore::plan::{self, Source};
use ubcore::stack::source::NoLayers;

use crate::log::LogEntry;
use crate::points::{Leaf, PointOracle};
use sim::disk::Sector;
use sim::union::SimUnion;

const MAGIC: u64 = 0x726f_7463_6573_6275;
/// Tags: zeroes, and the root's content.
const ZERO: u64 = 0;
const ROOT: u64 = 1;

struct LoggedOperation {
    start: u64,
    count: u64,
    /// The clock when the operation had completed; 0 if it had not.
    done: u64,
    tag: u32,
    fua: bool,
}

pub struct OperationLog {
    operations: Vec<LoggedOperation>,
    /// The operations that changed each sector, in order.
    of: Vec<Vec<u32>>,
    /// All operations that had completed by then are durable.
    level: u64,
    fua: BTreeSet<u32>,
    /// Takes completed operations for durable as soon as the first flush has completed. The
    /// campaign must notice this.
    pub believe: bool,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn mix(mut x: u64) -> u64 {
    x ^= x >> 31;
    x = x.wrapping_mul(0x7fb5_d329_728e_a185);
    x ^ (x >> 27)
}

/// Returns the tag of a sector; `None` for a mix, or another sector's data.
fn tag(data: &Sector, sector: u64) -> Option<u64> {
    if *data == [0; 512] {
        return Some(ZERO);
    }
    let tag = word(data, 8);
    if word(data, 0) != MAGIC || word(data, 16) != sector {
        return None;
    }
    let x = mix(tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(sector));
    let whole = (3..64).all(|n| {
        word(data, n * 8) == x.wrapping_add((n as u64).wrapping_mul(0x2545_f491_4f6c_dd1d))
    });
    whole.then_some(tag)
}

/// Keeps an older write of a sector from landing on a newer one.
///
/// dm-log-writes logs a plain write when a flush covers it, and a FUA write at once. So a write
/// that had completed before a FUA write of the same sector is logged after it. The tag shows the
/// true order: the tags of a sector grow, because only one writer writes it and waits for each
/// write.
pub fn reorder(entries: &mut [LogEntry]) {
    let mut newer = BTreeMap::<u64, Sector>::new();
    for entry in entries {
        let LogEntry::Write(at, data, fua) = entry else {
            continue;
        };
        for (leaf_sector, data) in (*at..).zip(data) {
            if word(data, 0) != MAGIC {
                continue;
            }
            if *fua {
                newer.insert(leaf_sector, *data);
            }
            let of = |n: &&Sector| word(*n, 16) == word(data, 16) && word(*n, 8) > word(data, 8);
            if let Some(n) = newer.get(&leaf_sector).filter(of) {
                *data = *n;
            }
        }
    }
}

impl OperationLog {
    pub fn read(file: &[u8]) -> Result<OperationLog, String> {
        if file.get(..8) != Some(b"UBOPLOG1") {
            return Err("no operations".into());
        }
        let [sectors, count] = [8, 32].map(|at| word(file, at) as usize);
        let mut operations = OperationLog {
            operations: Vec::new(),
            of: vec![Vec::new(); sectors],
            level: 0,
            fua: BTreeSet::new(),
            believe: false,
        };
        let records = file
            .get(40..40 + count * 40)
            .ok_or("operations end early")?;
        for (n, r) in (0u32..).zip(records.chunks(40)) {
            let operation = LoggedOperation {
                start: word(r, 0),
                count: word(r, 8),
                done: word(r, 16),
                tag: half(r, 28),
                fua: half(r, 32) != 0,
            };
            for s in operation.start..operation.start + operation.count {
                operations.of[s as usize].push(n);
            }
            operations.operations.push(operation);
        }
        Ok(operations)
    }

    fn is_durable(&self, d: &LoggedOperation) -> bool {
        let by_itself = d.fua && self.fua.contains(&d.tag);
        d.done != 0 && (by_itself || d.done <= self.level)
    }

    fn check_sector(&self, sector: u64, found: Option<u64>) -> Result<(), String> {
        for n in self.of[sector as usize].iter().rev() {
            let operation = &self.operations[*n as usize];
            if found == Some(u64::from(operation.tag)) {
                return Ok(());
            }
            if self.is_durable(operation) {
                return Err(format!(
                    "sector {sector} holds {found:?}; {} was durable (sectors {}+{})",
                    operation.tag, operation.start, operation.count
                ));
            }
        }
        match found {
            Some(ROOT) => Ok(()),
            _ => Err(format!(
                "sector {sector} holds {found:?}, nothing was durable"
            )),
        }
    }
}

impl PointOracle for OperationLog {
    fn mark(&mut self, text: &str) {
        let Some((kind, Ok(n))) = text.split_at_checked(1).map(|(k, n)| (k, n.parse::<u64>()))
        else {
            return;
        };
        match kind {
            "f" if self.believe => self.level = n + 20,
            "f" => self.level = self.level.max(n),
            "d" => drop(self.fua.insert(n as u32)),
            _ => (),
        }
    }

    fn check(&mut self, union: &SimUnion, leaf: &Leaf) -> Result<(), String> {
        let mut at = 0;
        for run in plan::read(&union.map, NoLayers, 0, self.of.len() as u32) {
            for n in 0..u64::from(run.sectors) {
                let found = match run.source {
                    Source::Root(_) => Some(ROOT),
                    Source::Zero => Some(ZERO),
                    Source::Layer(..) | Source::Lost | Source::Broken => None,
                    Source::Leaf(s) => tag(leaf.get(s + n), at),
                };
                self.check_sector(at, found)?;
                at += 1;
            }
        }
        Ok(())
    }

    fn stride(&self) -> usize {
        1
    }
}
