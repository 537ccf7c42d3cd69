// SPDX-License-Identifier: GPL-2.0

//! During a commit or a checkpoint, a write completes at each access to the map. The transaction
//! contains the write as a whole or not at all, and a write that it does not contain is not taken
//! for durable.

use sim::disk::{Random, SimDisk};
use sim::hooked::Scenario;
use sim::oracle::{content, ROOT};
use sim::union::SimUnion;
use ubcore::error::Error;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::pages::bits_page_of;
use ubcore::slot::Slot;

/// Two slabs, in two groups of the root. The second gets the leaf's second and last slab.
const FIRST: u64 = 128;
const SECOND: u64 = 128 * 40;
const THIRD: u64 = 128 * 45;

fn geometry() -> Geometry {
    Geometry::new(6400, 6400, 2048 + 2 * 128, 128, 16).unwrap()
}

fn recovered(disk: &SimDisk, seed: u64) -> SimUnion {
    disk.state.borrow_mut().crash(&mut Random(seed));
    SimUnion::attach_to(disk, &geometry()).unwrap()
}

/// The commit may contain a write that completes while it runs, or not. The next FLUSH covers the
/// write.
#[test]
fn a_flush_covers_what_completed_while_another_commit_ran() {
    for checkpoint in [false, true] {
        let writes: [fn(&Scenario); 3] = [
            |s| s.write(SECOND + 5, 3, 2).unwrap(),
            |s| s.write(FIRST + 100, 3, 2).unwrap(),
            |s| s.write(FIRST + 7, 9, 2).unwrap(),
        ];
        for (way, then) in writes.into_iter().enumerate() {
            let at = [SECOND + 5, FIRST + 100, FIRST + 13][way];
            let mut n = 0;
            loop {
                let s = Scenario::new(geometry());
                s.write(FIRST + 3, 8, 1).unwrap();
                if !s.interrupt(checkpoint, n, then) {
                    break;
                }
                // Then an overwrite: if the commit took the mark and not the count, the next commit
                // has nothing to record, but must flush anyway.
                s.write(FIRST + 3, 1, 4).unwrap();
                s.flush();
                let u = recovered(&s.disk, 2 * u64::from(n) + 3);
                let first = [(FIRST + 3, 4), (FIRST + 4, 1)];
                for (sector, tag) in
                    first
                        .into_iter()
                        .chain([(at, 2), (at + 2, 2), (FIRST + 50, ROOT)])
                {
                    let what = format!("write {way}, access {n}, sector {sector}");
                    assert!(u.read(sector) == content(tag, sector), "{what}");
                }
                n += 1;
            }
            assert!(n > 5, "{n}");
        }
    }
}

/// A slab that gets its leaf slab while a checkpoint runs leaves bits in the page but no entry in
/// the table. The slab that gets that leaf slab after the next attach must not find them, now or
/// after a replay.
#[test]
fn bits_of_an_assignment_that_was_lost_do_not_come_back() {
    let mut met = 0;
    let mut n = 0;
    loop {
        let s = Scenario::new(geometry());
        s.write(FIRST, 8, 1).unwrap();
        if !s.interrupt(true, n, |s| s.write(SECOND, 100, 2).unwrap()) {
            break;
        }
        n += 1;
        let mut u = recovered(&s.disk, 1);
        if u.map.entry(40).leaf_slab.is_some() {
            assert!(u.read(SECOND + 99) == content(2, SECOND + 99));
            assert_eq!(u.write(THIRD, 1, 3, true), Err(Error::Full.into()));
            continue;
        }
        // Attach clears the bits of free slabs in memory, so the test looks at the page on the
        // leaf.
        assert!(!u.map.is_mapped(LeafSlab(1)).unwrap());
        let page = bits_page_of(&u.map, LeafSlab(1));
        let stale = [Slot::A, Slot::B].into_iter().any(|slot| {
            let block = u.map.geometry().page_block(page, slot);
            s.disk.read_sector(block.0 * 8)[16..24] != [0; 8]
        });
        met += u32::from(stale);
        u.write(THIRD + 120, 1, 3, true).unwrap();
        let verify = |u: &SimUnion, when: &str| {
            for sector in THIRD..THIRD + 128 {
                let tag = if sector == THIRD + 120 { 3 } else { ROOT };
                let same = u.read(sector) == content(tag, sector);
                assert!(same, "{when}, access {n}, sector {sector}");
            }
        };
        verify(&u, "running");
        u.committer.commit(&u.map, &mut u.disk).unwrap();
        drop(u);
        let u = recovered(&s.disk, 2);
        verify(&u, "replayed");
        u.detach().unwrap();
        verify(&recovered(&s.disk, 3), "from pages");
    }
    assert!(met > 0, "no such bits in {n} tries");
}
