// SPDX-License-Identifier: GPL-2.0

//! A live freeze in the order of the tool and the driver, on two disks that lose their power at
//! once. Each I/O is the last one, or fails, and so is each I/O of the recovery.
//!
//! The new leaf is void exactly if the old one was never frozen. Nothing writes to a frozen leaf.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sim::disk::{Random, Sector, SimDisk};
use sim::layers::CountedStack;
use sim::memory::SimMemory;
use sim::oracle::{content, ROOT};
use sim::parts::{load, Parts};
use sim::sha256::Sha256;
use sim::union::{format, superblock};
use ubcore::attach::read_superblock;
use ubcore::disk::{Buffer, Disk, Order};
use ubcore::error::{Error, Result};
use ubcore::format::below_list::{ListedLayer, PATH_BYTES};
use ubcore::format::new_leaf::NewLeaf;
use ubcore::geometry::Geometry;
use ubcore::leaf_block::LeafBlock;
use ubcore::map::Map;
use ubcore::plan::{self, Source};
use ubcore::stack::build::Builder;
use ubcore::stack::chain::{ChainId, LayerId, Links, Seal};
use ubcore::stack::leaf_extents::LeafExtents;
use ubcore::stack::listed;
use ubcore::stack::map::StackMap;
use ubcore::stack::source::NoLayers;

const SECTORS: u64 = 2048;
const SEAL: Seal = Seal([0x5e; 16]);

/// What a union holds: the tag of each sector.
type Tags = Vec<u64>;

fn geometry() -> Geometry {
    Geometry::new(SECTORS, SECTORS, 8192, 32, 16).unwrap()
}

/// One of two disks. Their I/Os are counted together, and their power fails together.
#[derive(Clone)]
struct Half {
    disk: SimDisk,
    other: SimDisk,
    left: Rc<Cell<Option<u64>>>,
}

impl Half {
    /// Counts an I/O. At the last one the power fails: of a write some sectors may land.
    fn tick(&self) {
        match self.left.get() {
            Some(0) => {
                self.disk.state.borrow_mut().power_fails_in = Some(0);
                self.other.state.borrow_mut().dead = true;
                self.left.set(None);
            }
            left => self.left.set(left.map(|n| n - 1)),
        }
    }
}

impl Disk for Half {
    fn buffer(&mut self) -> &mut Buffer {
        self.disk.buffer()
    }
    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.tick();
        self.disk.read(block, count)
    }
    fn write(&mut self, block: LeafBlock, count: usize, order: Order) -> Result {
        self.tick();
        self.disk.write(block, count, order)
    }
    fn flush(&mut self) -> Result {
        self.tick();
        self.disk.flush()
    }
}

struct Pair {
    old: Half,
    new: Half,
}

/// A leaf that is attached.
struct Union {
    parts: Parts<SimMemory>,
    half: Half,
}

impl Union {
    fn attach(half: &Half) -> Result<Union> {
        let mut half = half.clone();
        let parts = load(&mut half, SECTORS, 8192, SimMemory::new)?;
        Ok(Union { parts, half })
    }

    fn checkpoint(&mut self) -> Result {
        let Parts { map, committer, .. } = &mut self.parts;
        committer.checkpoint(map, &mut self.half)
    }

    fn write(&mut self, sector: u64, sectors: u32, tag: u64) -> Result {
        let Parts { map, allocator, .. } = &mut self.parts;
        let slabs: Vec<u32> = plan::unallocated(map, sector, sectors).collect();
        for slab in slabs {
            allocator.allocate(map, slab).expect("space");
        }
        let mut at = sector;
        for run in plan::write(map, sector, sectors) {
            let Source::Leaf(to) = run.source else {
                panic!("a write goes to the leaf");
            };
            let tags = at..at + u64::from(run.sectors);
            let data: Vec<Sector> = tags.map(|s| content(tag, s)).collect();
            self.half.tick();
            self.half.disk.write_sectors(to, &data)?;
            at += u64::from(run.sectors);
        }
        map.map_sectors(sector, sectors)?;
        Ok(())
    }

    fn commit(&mut self) -> Result {
        let Parts { map, committer, .. } = &mut self.parts;
        committer.commit(map, &mut self.half)
    }
}

fn seal_of(half: &Half) -> Option<Seal> {
    let found = read_superblock(&mut half.disk.clone());
    found.unwrap().superblock.frozen
}

impl Pair {
    /// Makes an old leaf that is in use, with what its union holds, and a blank disk.
    fn new() -> (Pair, Union, Tags) {
        let (mut old, new) = (SimDisk::new(), SimDisk::new());
        format(&mut old, geometry());
        let left = Rc::new(Cell::new(None));
        let half = |disk: &SimDisk, other: &SimDisk| Half {
            disk: disk.clone(),
            other: other.clone(),
            left: left.clone(),
        };
        let pair = Pair {
            old: half(&old, &new),
            new: half(&new, &old),
        };
        let mut u = Union::attach(&pair.old).unwrap();
        u.checkpoint().unwrap();
        let mut tags = vec![ROOT; SECTORS as usize];
        for (n, (at, sectors)) in (1..).zip([(0, 40), (500, 3), (1000, 200), (30, 5)]) {
            u.write(at, sectors, n).unwrap();
            tags[at as usize..][..sectors as usize].fill(n);
        }
        u.commit().unwrap();
        (pair, u, tags)
    }

    fn power_returns(&self, random: &mut Random) {
        self.old.disk.state.borrow_mut().crash(random);
        self.new.disk.state.borrow_mut().crash(random);
        self.old.left.set(None);
    }

    /// Does what `ubctl` and the driver do: the new leaf is made and takes its first checkpoint,
    /// then the old leaf is frozen. Returns the union on the new leaf.
    fn freeze(&self, old: &mut Union) -> Result<Union> {
        self.format()?;
        let mut new = Union::attach(&self.new)?;
        new.checkpoint()?;
        old.checkpoint()?;
        // What completes until requests are stopped.
        old.write(1700, 20, 77)?;
        let Parts { map, committer, .. } = &mut old.parts;
        committer.freeze(map, &mut old.half, SEAL)?;
        Ok(new)
    }

    fn format(&self) -> Result {
        let id = LayerId::Frozen(*b"simulated leaf 0", SEAL);
        let layer = ListedLayer {
            id,
            offset: 0,
            path: [0; PATH_BYTES],
        };
        let mut sb = superblock(geometry().over(1).unwrap());
        (sb.uuid, sb.nonce) = (*b"the new leaf's  ", 9);
        sb.chain = ChainId::BOTTOM.with::<Sha256>(&id);
        let mut half = self.new.clone();
        let layers = [layer];
        let new = NewLeaf::new(&sb, &[0; PATH_BYTES], &layers).unwrap();
        new.write(|block, bytes| {
            half.block().copy_from_slice(bytes);
            half.write(block, 1, Order::Plain)?;
            half.flush()
        })
    }

    /// Returns the map of the old leaf, if the new leaf can be attached on it.
    fn link(&self) -> Result<StackMap<CountedStack>> {
        let mut disk = self.new.disk.clone();
        let sb = read_superblock(&mut disk)?.superblock;
        let mut ids = Vec::new();
        listed::layers::<Sha256, _>(&mut disk, &sb, |layer| {
            ids.push(layer.id);
            Ok(())
        })?;
        let below = read_superblock(&mut self.old.disk.clone())?.superblock;
        let seal = below.frozen.ok_or(Error::NotFrozen)?;
        let mut links = Links::new(&ids);
        links.add::<Sha256>(&LayerId::Frozen(below.uuid, seal), None)?;
        links.finish(1)?;
        let old = load(&mut self.old.disk.clone(), SECTORS, 8192, SimMemory::new)?;
        let extents = &mut LeafExtents::new(&old.map, || Ok(()));
        let b = Builder::new(CountedStack::new(), SECTORS).and_then(|b| b.add_layer(extents));
        b.and_then(Builder::finish).map_err(|_| Error::Internal)
    }

    /// Returns what the union reads as: on the new leaf if that can be attached, or on the old one.
    /// Checks that this depends on nothing but the seal.
    fn look(&self) -> Vec<Sector> {
        let linked = self.link();
        let frozen = seal_of(&self.old) == Some(SEAL);
        match (&linked, frozen) {
            (Ok(_), true) | (Err(Error::NotFrozen | Error::NotFormatted), false) => {}
            (linked, _) => panic!(
                "frozen: {frozen}, the new leaf: {:?}",
                linked.as_ref().err()
            ),
        }
        let read = |map: &Map<SimMemory>, leaf: &Half| -> Vec<Sector> {
            let sector = |s| {
                let source = match &linked {
                    Ok(below) => plan::read(map, below, s, 1).next().unwrap().source,
                    Err(_) => plan::read(map, NoLayers, s, 1).next().unwrap().source,
                };
                match source {
                    Source::Root(at) => content(ROOT, at),
                    Source::Leaf(at) => leaf.disk.read_sector(at),
                    Source::Layer(at) => self.old.disk.read_sector(at.sector()),
                    Source::Zero => [0; 512],
                    Source::Lost | Source::Broken => panic!("nothing is lost"),
                }
            };
            (0..SECTORS).map(sector).collect()
        };
        let leaf = if frozen { &self.new } else { &self.old };
        let parts = load(&mut leaf.disk.clone(), SECTORS, 8192, SimMemory::new).unwrap();
        read(&parts.map, leaf)
    }
}

/// Checks what a union reads as. Sectors of `late` may be as before.
fn check(found: &[Sector], tags: &Tags, late: &BTreeMap<u64, u64>) {
    for (s, data) in (0..).zip(found) {
        let now = late.get(&s).is_some_and(|&tag| *data == content(tag, s));
        assert!(*data == content(tags[s as usize], s) || now, "sector {s}");
    }
}

/// The writes that no flush has covered before the freeze, and those to the new leaf.
fn late() -> BTreeMap<u64, u64> {
    let before = (1700..1720).map(|s| (s, 77));
    before.chain((20..60).map(|s| (s, 88))).collect()
}

/// Freezes and continues until an I/O fails. Returns how far it came: 1 the freeze was reported, 2
/// also a flush behind it.
fn live(pair: &Pair, old: &mut Union) -> u32 {
    let Ok(mut new) = pair.freeze(old) else {
        return 0;
    };
    let done = new.write(20, 40, 88).and_then(|()| new.commit());
    1 + u32::from(done.is_ok())
}

/// Checks both leaves after the power has returned, or an I/O has failed, and recovers. The power
/// fails at each I/O of the recovery, too.
fn recover(pair: &Pair, tags: &Tags, reached: u32, random: &mut Random) {
    let frozen = seal_of(&pair.old).is_some();
    assert!(frozen || reached == 0, "a reported freeze is gone");
    let mut tags = tags.clone();
    if frozen {
        // The freeze flushes what has completed before it.
        (1700..1720).for_each(|s| tags[s] = 77);
    }
    if reached == 2 {
        (20..60).for_each(|s| tags[s] = 88);
    }
    let layer = pair.old.disk.image();
    let found = pair.look();
    check(&found, &tags, &late());
    for at in 0.. {
        pair.old.left.set(Some(at));
        let leaf = if frozen { &pair.new } else { &pair.old };
        let done = Union::attach(leaf).and_then(|mut u| u.checkpoint());
        pair.power_returns(random);
        assert!(
            pair.look() == found,
            "the recovery changes something at I/O {at}"
        );
        if done.is_ok() {
            break;
        }
    }
    if frozen {
        assert!(Union::attach(&pair.old).unwrap().checkpoint() == Err(Error::Frozen));
        assert!(
            pair.old.disk.image() == layer,
            "something has written to the layer"
        );
    } else {
        // It can be frozen again, in the place of what is left of the new leaf.
        let mut old = Union::attach(&pair.old).unwrap();
        old.checkpoint().unwrap();
        assert!(live(pair, &mut old) == 2);
        pair.power_returns(random);
        (1700..1720).for_each(|s| tags[s] = 77);
        (20..60).for_each(|s| tags[s] = 88);
        check(&pair.look(), &tags, &BTreeMap::new());
    }
}

#[test]
fn a_power_failure_leaves_one_leaf_to_write_to() {
    let mut ends = [0; 2];
    for seed in 0..6 {
        for at in 0.. {
            let (pair, mut old, tags) = Pair::new();
            let mut random = Random(seed * 1000 + at);
            for half in [&pair.old, &pair.new] {
                half.disk.state.borrow_mut().random = Some(random.clone());
            }
            pair.old.left.set(Some(at));
            let reached = live(&pair, &mut old);
            pair.power_returns(&mut random);
            ends[usize::from(seal_of(&pair.old).is_some())] += 1;
            recover(&pair, &tags, reached, &mut random);
            if reached == 2 {
                break;
            }
        }
    }
    assert!(ends.iter().all(|&n| n > 20), "{ends:?}");
}

#[test]
fn an_io_that_fails_leaves_one_leaf_to_write_to() {
    let mut random = Random(1);
    let mut ends = [0; 2];
    for is_new in [false, true] {
        for landed in [false, true] {
            for at in 0.. {
                let (pair, mut old, tags) = Pair::new();
                let half = if is_new { &pair.new } else { &pair.old };
                half.disk.state.borrow_mut().fail_in = Some((at, landed));
                let reached = live(&pair, &mut old);
                let failed = half.disk.state.borrow_mut().fail_in.take().is_none();
                // A power failure follows.
                pair.power_returns(&mut random);
                ends[usize::from(seal_of(&pair.old).is_some())] += 1;
                recover(&pair, &tags, reached, &mut random);
                if !failed {
                    assert!(reached == 2 && at > 3, "{at}");
                    break;
                }
            }
        }
    }
    assert!(ends.iter().all(|&n| n > 8), "{ends:?}");
}
