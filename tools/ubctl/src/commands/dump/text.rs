// SPDX-License-Identifier: GPL-2.0

//! The text of a dump for people.

use super::report::{
    DumpReport, GeometryReport, JournalReport, MapReport, SlabReport, TransactionReport,
};
use std::path::Path;

use crate::output::{self, counted, fields, name_text, size};
use ubcore::num::usize_as_u64;

/// Returns the text of the whole dump.
pub fn text(r: &DumpReport) -> String {
    let mut out = format!("{} ({}, {} sectors)\n", r.leaf, size(r.sectors), r.sectors);
    out.push_str(&superblocks(r));
    out.push_str(&r.geometry.as_ref().map_or_else(String::new, geometry));
    if r.geometry.is_some() {
        out.push_str(&below(r));
        out.push_str(&directory(r));
    }
    out.push_str(&r.journal.as_ref().map_or_else(String::new, journal));
    out.push_str(&r.map.as_ref().map_or_else(String::new, map));
    if !r.problems.is_empty() {
        out.push_str("problems\n");
        out.extend(r.problems.iter().map(|p| format!("  {p}\n")));
    }
    out
}

fn superblocks(r: &DumpReport) -> String {
    let mut out = String::new();
    for s in &r.slots {
        let active = if r.active == Some(s.slot) {
            ", active"
        } else {
            ""
        };
        out.push_str(&format!(
            "superblock {} (block {}): {}{active}\n",
            s.slot, s.block, s.state
        ));
        if let Some(sb) = &s.superblock {
            let clean = if sb.clean {
                "yes"
            } else {
                "no: the journal decides"
            };
            let mut list = vec![
                ("version", sb.version.to_string()),
                ("generation", sb.generation.to_string()),
                ("uuid", sb.uuid.clone()),
                ("name", name_text(sb.name.as_ref())),
                ("nonce", sb.nonce.clone()),
                ("clean", clean.to_owned()),
                (
                    "discard",
                    format!(
                        "{}{}",
                        if sb.reveal { "reveal" } else { "zero" },
                        if sb.preallocated {
                            ", all space stays allocated"
                        } else {
                            ""
                        }
                    ),
                ),
                ("root block", format!("{} bytes", sb.root_block_bytes)),
                ("root digest", sb.root_digest.clone()),
                (
                    "journal tail",
                    format!("{}, sequence {}", sb.journal_tail, sb.journal_sequence),
                ),
                ("features", sb.features.clone()),
            ];
            if sb.compat_bytes.bytes().any(|digit| digit != b'0') {
                list.push(("compat bytes", sb.compat_bytes.clone()));
            }
            if let Some(limit) = &sb.limit {
                list.push(("limit", limit.clone()));
            }
            if let Some(seal) = &sb.seal {
                list.push(("frozen", format!("seal {seal}")));
            }
            if let Some(chain) = &sb.chain {
                list.push(("chain", chain.clone()));
            }
            out.push_str(&fields(&list));
        }
    }
    out
}

fn geometry(g: &GeometryReport) -> String {
    let data = u64::from(g.leaf_slabs) * u64::from(g.slab_sectors);
    let list = fields(&[
        (
            "union",
            format!(
                "{} ({} sectors, {} slabs)",
                size(g.union_sectors),
                g.union_sectors,
                g.root_slabs
            ),
        ),
        (
            "root",
            format!("{} ({} sectors)", size(g.root_sectors), g.root_sectors),
        ),
        (
            "leaf",
            format!("{} ({} sectors)", size(g.leaf_sectors), g.leaf_sectors),
        ),
        (
            "slab",
            format!(
                "{} ({} sectors)",
                size(g.slab_sectors.into()),
                g.slab_sectors
            ),
        ),
        (
            "journal",
            format!("{} blocks from block {}", g.journal_blocks, g.journal_start),
        ),
        (
            "directory",
            format!(
                "2 x {} from block {}",
                counted(g.directory_blocks, "block"),
                g.directory_start
            ),
        ),
        (
            "map pages",
            format!(
                "2 x ({} table + {} bits) from block {}",
                g.table_pages, g.bits_pages, g.pages_start
            ),
        ),
        (
            "data",
            format!(
                "{}, {}, from sector {}",
                counted(g.leaf_slabs, "slab"),
                size(data),
                g.data_start_sectors
            ),
        ),
    ]);
    format!("geometry\n{list}")
}

fn below(r: &DumpReport) -> String {
    let mut out = match r.root_path.as_deref() {
        None => String::new(),
        Some("") => "root: where it was is not recorded\n".to_owned(),
        Some(path) => format!("root: was {}\n", output::path(Path::new(path))),
    };
    if !r.layers.is_empty() {
        out.push_str("layers, the lowest first\n");
    }
    for (n, l) in (1..).zip(&r.layers) {
        let id = match (&l.uuid, &l.seal, &l.digest) {
            (Some(uuid), Some(seal), _) => format!("{uuid}, seal {seal}"),
            (_, _, digest) => digest.clone().unwrap_or_default(),
        };
        let at = match l.offset {
            0 => String::new(),
            offset => format!(", from byte {offset}"),
        };
        out.push_str(&format!(
            "  {n}  {} {id}, was {}{at}\n",
            l.kind,
            output::path(Path::new(&l.path))
        ));
    }
    out
}

fn directory(r: &DumpReport) -> String {
    let mut out = format!(
        "directory: {} of {} written map pages are sound\n",
        r.pages.sound, r.pages.written
    );
    for d in &r.directory {
        let state = match (d.block, d.sound) {
            (None, _) => "never written".to_owned(),
            (Some(block), true) => format!(
                "slot {} (block {block}): {} written",
                d.slot,
                counted(usize_as_u64(d.pages_written), "page")
            ),
            (Some(block), false) => format!("slot {} (block {block}): damaged", d.slot),
        };
        out.push_str(&format!("  {}  {state}\n", d.index));
    }
    out
}

fn journal(j: &JournalReport) -> String {
    let mut out = format!(
        "journal: {} to replay, {} consecutive, {} of this leaf in the ring, next sequence {}\n",
        counted(j.finished, "block"),
        j.chained,
        j.blocks_of_leaf,
        j.next_sequence
    );
    out.extend(j.transactions.iter().map(transaction));
    out
}

fn transaction(e: &TransactionReport) -> String {
    let first = e.blocks.first().copied().unwrap_or(0);
    let end = if e.finished {
        "finished"
    } else {
        "without end: it is not applied"
    };
    let mut out = format!(
        "  transaction from sequence {}: {} from block {first}, {}, {end}\n",
        e.sequence,
        counted(usize_as_u64(e.blocks.len()), "block"),
        counted(e.records, "record")
    );
    out.extend(e.list.iter().map(|record| format!("    {record}\n")));
    out
}

fn map(m: &MapReport) -> String {
    let mut out = format!(
        "map: {} in the leaf, {} over zeroes, {} ({}) mapped in {}\n",
        counted(m.slabs_used, "slab"),
        m.slabs_zero,
        counted(m.sectors_mapped, "sector"),
        size(m.sectors_mapped),
        counted(m.runs, "run")
    );
    out.extend(m.slabs.iter().map(slab));
    out
}

fn slab(s: &SlabReport) -> String {
    let place = match (s.leaf_slab, s.leaf_sector) {
        (Some(slab), Some(sector)) => format!("leaf slab {slab} (sector {sector})"),
        _ => "no leaf slab".to_owned(),
    };
    let runs: Vec<String> = s
        .runs
        .iter()
        .map(|(first, count)| format!("{first}+{count}"))
        .collect();
    let runs = if runs.is_empty() {
        "nothing".to_owned()
    } else {
        runs.join(" ")
    };
    format!(
        "  slab {} (sector {}): {place}, base {}, mapped {runs}\n",
        s.slab, s.union_sector, s.base
    )
}
