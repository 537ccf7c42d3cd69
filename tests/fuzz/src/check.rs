// SPDX-License-Identifier: GPL-2.0

//! Runs `ubctl check` on a whole leaf.

use ubcore::check::{self, Check, Finding, Grade, Totals};
use ubcore::error::Result;
use ubcore::format::directory::PageEntry;
use ubcore::format::superblock::Superblock;
use ubcore::geometry::MapPage;
use ubcore::map::{words_for, Map};
use ubcore::pages::PageSet;
use ubcore::slot::Slot;

use crate::attach;
use crate::leaf::Leaf;
use crate::make;
use crate::memory::bounded;

pub struct Look {
    pub sb: Superblock,
    pub slot: Slot,
    pub findings: Vec<Finding>,
    pub totals: Totals,
}

impl Look {
    pub fn is_damaged(&self) -> bool {
        self.findings
            .iter()
            .any(|f| f.kind.grade() == Grade::Damage)
    }
}

pub fn look(leaf: &mut Leaf) -> Result<Look> {
    let mut findings = Vec::new();
    let (sb, slot) = check::check_superblocks(leaf, &mut |f| findings.push(f))?;
    let g = sb.geometry;
    let map = Map::new(g, bounded(&g, leaf));
    let mut entries = vec![PageEntry::EMPTY; g.pages() as usize];
    let sets = [0; 2].map(|_| PageSet::new(vec![0; words_for(g.pages())]));
    let mut push = |f| findings.push(f);
    let sectors = leaf.sectors;
    let totals = Check::new(leaf, &sb, &map, &mut entries, sets, &mut push).run(sectors)?;
    for f in &findings {
        assert!(f.byte < 4096, "{f:?}");
        let pages = f.pages(&g);
        assert!(
            pages.end <= MapPage(g.pages()) && pages.start <= pages.end,
            "{f:?}"
        );
    }
    Ok(Look {
        sb,
        slot,
        findings,
        totals,
    })
}

/// Checks a leaf. If attach refuses it, check must find damage. If attach accepts it, both must
/// agree on it.
pub fn run(data: &[u8]) {
    let mut leaf = make::leaf(data);
    let Ok(Some(g)) = attach::geometry(&leaf, data) else {
        return;
    };
    let l = look(&mut leaf).expect("a superblock is valid");
    assert_eq!(leaf.writes, 0);
    match attach::load(&mut leaf, &g) {
        Err(e) => assert!(l.is_damaged(), "attach says {e}: {:?}", l.findings),
        Ok(found) if !l.is_damaged() => {
            assert_eq!(
                found.allocator.used(),
                l.totals.slabs_used,
                "{:?}",
                l.findings
            );
        }
        Ok(_) => {}
    }
}
