// SPDX-License-Identifier: GPL-2.0

//! Runs `ubctl check --repair` on a whole leaf.

use ubcore::check::{repair, FindingKind};
use ubcore::error::Result;
use ubcore::geometry::Geometry;
use ubcore::map::{words_for, Map};
use ubcore::pages::PageSet;
use ubcore::salvage::NoLoss;

use crate::attach;
use crate::check::{look, Look};
use crate::leaf::Leaf;
use crate::make;
use crate::memory::bounded;

fn by_checkpoint(kind: FindingKind) -> bool {
    kind.is_repairable() && !repair::is_of_slot(kind) && !repair::is_of_block(kind)
}

/// Repairs in the order that `repair` requires.
fn repair(leaf: &mut Leaf, first: &Look, g: &Geometry) -> Result {
    if first.findings.iter().any(|f| repair::is_of_slot(f.kind)) {
        repair::repair_slot(leaf, &first.sb, first.slot)?;
    }
    if !first.is_damaged() && first.findings.iter().any(|f| by_checkpoint(f.kind)) {
        let names = Map::new(*g, bounded(g, leaf));
        let mut changed = PageSet::new(vec![0; words_for(g.pages())]);
        for f in &first.findings {
            repair::add_changed_pages(&names, f.kind, &mut changed)?;
        }
        let mut found = attach::read(leaf, g, Some(changed), &mut NoLoss)?;
        for f in &first.findings {
            repair::repair_map(&found.map, f.kind)?;
        }
        found.committer.detach(&found.map, leaf)?;
    }
    let second = look(leaf)?;
    if second.is_damaged() {
        return Ok(());
    }
    for f in second
        .findings
        .iter()
        .filter(|f| repair::is_of_block(f.kind))
    {
        repair::repair_block(leaf, &second.sb, f)?;
    }
    Ok(())
}

/// Repairs a leaf. Damage is left alone, everything else is repaired, and no sector reads
/// differently.
pub fn run(data: &[u8]) {
    let mut leaf = make::leaf(data);
    let Ok(Some(g)) = attach::geometry(&leaf, data) else {
        return;
    };
    let first = look(&mut leaf).expect("a superblock is valid");
    let before = attach::load(&mut leaf, &g);
    assert_eq!(leaf.writes, 0);
    if let Err(e) = first.sb.features.writable() {
        // `ubctl` checks this before it begins.
        assert_eq!(
            repair::repair_slot(&mut leaf, &first.sb, first.slot),
            Err(e)
        );
        assert_eq!(leaf.writes, 0);
        return;
    }
    let done = repair(&mut leaf, &first, &g);
    if first.is_damaged() {
        let slots = first
            .findings
            .iter()
            .filter(|f| repair::is_of_slot(f.kind))
            .count() as u64;
        assert!(
            leaf.writes <= slots,
            "written over damage: {:?}",
            first.findings
        );
        return;
    }
    assert_eq!(done, Ok(()), "{:?}", first.findings);
    let last = look(&mut leaf).expect("a superblock is valid");
    let left: Vec<_> = last
        .findings
        .iter()
        .filter(|f| f.kind.is_repairable())
        .collect();
    assert!(
        left.is_empty() && !last.is_damaged(),
        "left of {:?}: {left:?}",
        first.findings
    );
    let (before, after) = (before, attach::load(&mut leaf, &g));
    match (before, after) {
        (Ok(a), Ok(b)) => attach::same(&a.map, &b.map),
        (a, b) => panic!("{:?}, then {:?}", a.err(), b.err()),
    }
}
