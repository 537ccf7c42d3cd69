// SPDX-License-Identifier: GPL-2.0

//! Tests one rotten sector in the metadata: recovery detects and names it, or uses the other slot.
//! If recovery names it, a salvage may still read the leaf except for what is lost; everything else
//! must be valid then.
//!
//! In one case recovery cannot know: the journal's last write, rotten, looks like the same write
//! torn by a power failure. Then recovery finds the state before that commit, which is counted.

use std::collections::BTreeMap;

use ubcore::error::{Area, Error};
use ubcore::geometry::{Geometry, MapPage, BLOCK_BYTES};
use ubcore::slot::Slot;

use crate::checker::{check_content, Checker};
use crate::harness::Point;
use crate::image::{digest_of, image_digest};
use sim::disk::{Random, Sector};
use sim::oracle::Oracle;

/// The damage to a sector.
#[derive(Clone, Copy, Debug)]
enum Rot {
    /// One of its bits is flipped.
    Bit,
    /// The sector was lost and holds zeroes.
    Lost,
    /// The whole sector is noise.
    Noise,
}

/// The quick kinds come first.
const ROTS: [Rot; 3] = [Rot::Bit, Rot::Lost, Rot::Noise];

impl Rot {
    fn befall(self, data: &mut Sector, sector: u64) {
        match self {
            Rot::Bit => data[(digest_of(&sector) % 512) as usize] ^= 0x20,
            Rot::Lost => *data = [0; 512],
            Rot::Noise => {
                let mut random = Random(sector);
                data.fill_with(|| random.draw() as u8);
            }
        }
    }
}

/// Rots each metadata sector in use, of the image in which everything landed, and of the one in
/// which nothing did.
pub fn all(checker: &mut Checker, point: &Point, before: &Oracle) -> Result<(), String> {
    let scope = checker.scope(&point.moment);
    let newest: Vec<u8> = scope
        .doubts
        .iter()
        .map(|d| d.versions.len() as u8 - 1)
        .collect();
    let mut choices = vec![newest];
    if choices[0].iter().any(|&n| n > 0) {
        choices.push(vec![0; choices[0].len()]);
    }
    for choice in choices {
        let image = scope.image(&choice);
        for sector in image.keys().copied().collect::<Vec<_>>() {
            if image[&sector] == [0; 512] {
                continue;
            }
            for rot in &ROTS[..checker.depth.rots] {
                let oracles = [&*point.oracle, before];
                one(checker, &scope.data, &image, (sector, *rot), oracles).map_err(|e| {
                    format!("rot\n  with sector {sector} of the leaf rotten ({rot:?}): {e}")
                })?;
            }
        }
    }
    Ok(())
}

fn one(
    checker: &mut Checker,
    data: &BTreeMap<u64, Vec<Sector>>,
    image: &BTreeMap<u64, Sector>,
    (sector, rot): (u64, Rot),
    [now, before]: [&Oracle; 2],
) -> Result<(), String> {
    let mut rotten = image.clone();
    rotten
        .entry(sector)
        .and_modify(|data| rot.befall(data, sector));
    if !checker.is_new(image_digest(&rotten), digest_of(&(data, now, before))) {
        return Ok(());
    }
    checker.counters.rotten += 1;
    let found = checker.recover(rotten.clone(), false).0;
    match found {
        Err(e) if names(e, sector, &checker.geometry) => {
            checker.counters.named += 1;
            let Ok(runs) = checker.salvage(rotten) else {
                return unsalvaged(sector, &checker.geometry);
            };
            checker.counters.salvaged += 1;
            check_content(&runs, data, &[now]).map_err(|e| format!("salvaged: {e}"))
        }
        Err(e) => Err(format!("attach: {e}")),
        Ok(runs) => check_content(&runs, data, &[now]).or_else(|e| {
            if area(sector, &checker.geometry) != Area::Journal {
                return Err(e);
            }
            checker.counters.torn += 1;
            check_content(&runs, data, &[now, before])
        }),
    }
}

/// Allows a failed salvage unless only map pages or their directory are damaged, which may be lost
/// in part.
fn unsalvaged(sector: u64, g: &Geometry) -> Result<(), String> {
    match area(sector, g) {
        Area::Superblock | Area::Journal | Area::BelowList | Area::Layer => Ok(()),
        area => Err(format!("refused because of damage to a {}", area.name())),
    }
}

/// Returns whether an error names what is rotten.
fn names(e: Error, sector: u64, g: &Geometry) -> bool {
    let block = sector * 512 / BLOCK_BYTES as u64;
    match e {
        Error::Damaged(Area::Superblock, _) => block < 2,
        Error::Damaged(found, at) => found == area(sector, g) && at.0 == block,
        _ => false,
    }
}

fn area(sector: u64, g: &Geometry) -> Area {
    let block = sector * 512 / BLOCK_BYTES as u64;
    let first = g.journal_block(0).0;
    let journal = first..first + u64::from(g.journal_blocks());
    if block < 2 {
        Area::Superblock
    } else if journal.contains(&block) {
        Area::Journal
    } else if block < g.page_block(MapPage(0), Slot::A).0 {
        Area::Directory
    } else {
        Area::Page
    }
}
