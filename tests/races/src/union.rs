// SPDX-License-Identifier: GPL-2.0

//! The driver's steps over the core, with the scheduler's threads and locks.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc as StdArc, Mutex as StdMutex};

use shuttle::sync::{Condvar, Mutex, MutexGuard};
use ubcore::alloc::Allocator;
use ubcore::attach;
use ubcore::commit::Committer;
use ubcore::disk::{Disk, Order, BUFFER_BLOCKS};
use ubcore::error::{Error, Result};
use ubcore::format::directory::PageEntry;
use ubcore::geometry::{Geometry, BLOCK_BYTES};
use ubcore::map::{words_for, Base, Map, Memory, TablePage};
use ubcore::pages::PageSet;
use ubcore::plan::{self, Run, Source};
use ubcore::sync::{quietly, AtomicU64, Ordering};

use crate::history::History;
use crate::sim::disk::{Moment, Sector, State};
use crate::sim::memory::SimMemory;
use crate::sim::oracle::{content, tag, ROOT, ZERO};
use crate::sim::union::superblock;

/// A handle on the leaf; what it does, it does at once, and others may come before and after.
struct Leaf {
    state: StdArc<StdMutex<State>>,
    buffer: Vec<u8>,
}

impl Leaf {
    fn new(state: State) -> Leaf {
        Leaf {
            state: StdArc::new(StdMutex::new(state)),
            buffer: vec![0; BUFFER_BLOCKS * BLOCK_BYTES],
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock().expect("no thread has panicked"))
    }
}

impl Disk for Leaf {
    fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
    fn read(&mut self, block: u64, count: usize) -> Result {
        let sectors = block * 8..(block + count as u64) * 8;
        let found: Vec<Sector> = self.with(|s| sectors.map(|at| s.sector(at)).collect());
        for (room, data) in self.buffer.chunks_mut(512).zip(found) {
            room.copy_from_slice(&data);
        }
        Ok(())
    }
    fn write(&mut self, block: u64, count: usize, order: Order) -> Result {
        let bytes = self.buffer[..count * BLOCK_BYTES].chunks(512);
        let data: Vec<Sector> = bytes.map(|c| c.try_into().expect("512 bytes")).collect();
        self.with(|s| s.write(block * 8, &data, order))
    }
    fn flush(&mut self) -> Result {
        self.with(State::flush_now)
    }
}

/// Who uses the map's homes: a waiter waits for those that were there before it.
#[derive(Default)]
struct Grace {
    users: Mutex<(u64, BTreeSet<u64>)>,
    fewer: Condvar,
}

impl Grace {
    fn enter(&self) -> u64 {
        let mut users = self.users.lock().expect("no thread has panicked");
        users.0 += 1;
        let user = users.0;
        users.1.insert(user);
        user
    }

    fn exit(&self, user: u64) {
        let mut users = self.users.lock().expect("no thread has panicked");
        users.1.remove(&user);
        self.fewer.notify_all();
    }

    fn wait(&self) {
        let mut users = self.users.lock().expect("no thread has panicked");
        let before = users.0;
        while users.1.range(..=before).next().is_some() {
            users = self.fewer.wait(users).expect("no thread has panicked");
        }
    }
}

struct Metadata {
    committer: Committer<Vec<u64>, Vec<PageEntry>>,
    leaf: Leaf,
}

/// A union and what was asked of it.
pub struct Union {
    pub map: Map<SimMemory>,
    allocator: Mutex<Allocator<Vec<u64>>>,
    metadata: Mutex<Metadata>,
    releaser: Mutex<()>,
    durable: AtomicU64,
    grace: Grace,
    leaf: StdArc<StdMutex<State>>,
    /// Every access to the leaf touches it, so that others may come between.
    bus: AtomicU64,
    /// The moments at which a promise was made.
    pub(crate) worst: StdMutex<Vec<(Moment, u64)>>,
    pub history: StdMutex<History>,
}

fn load(g: Geometry, mut leaf: Leaf) -> Result<Union> {
    let probe = attach::probe(&mut leaf, g.root_sectors(), g.leaf_sectors())?;
    let map = Map::new(g, SimMemory::new(&g));
    let bitmaps = [0; 3].map(|_| vec![0; g.leaf_slabs() as usize / 64 + 1]);
    let mut allocator = Allocator::new(bitmaps, g.leaf_slabs());
    let entries = vec![PageEntry::EMPTY; g.pages() as usize];
    let changed = PageSet::new(vec![0; words_for(g.pages())]);
    let committer = attach::load(&mut leaf, probe, &map, &mut allocator, entries, changed)?;
    Ok(Union {
        durable: AtomicU64::new(committer.committed()),
        map,
        allocator: Mutex::new(allocator),
        releaser: Mutex::default(),
        grace: Grace::default(),
        leaf: leaf.state.clone(),
        metadata: Mutex::new(Metadata { committer, leaf }),
        bus: AtomicU64::new(0),
        worst: StdMutex::default(),
        history: StdMutex::default(),
    })
}

/// Formatted and attached; data sectors hold nobody's bytes.
pub fn fresh(g: Geometry) -> Union {
    let mut leaf = Leaf::new(State::default());
    superblock(g).encode(&mut leaf.buffer()[..BLOCK_BYTES]);
    for slot in 0..2 {
        leaf.write(slot, 1, Order::FlushFua).expect("a new leaf");
    }
    let junk = vec![[0xee; 512]; (g.leaf_slabs() * g.slab_sectors()) as usize];
    leaf.with(|s| s.write(g.leaf_slab_start(0), &junk, Order::FlushFua))
        .expect("a new leaf");
    let union = quietly(|| load(g, leaf)).expect("a new leaf");
    silence(&union.map);
    union
}

/// Makes the map's pages, and silences the entries of slabs that there are not: the core looks
/// through whole pages, and nobody ever changes those.
fn silence(map: &Map<SimMemory>) {
    let (g, memory) = (map.geometry(), map.memory());
    let grown = [
        memory.grow_table(0),
        memory.grow_owners(0),
        memory.grow_bits(0),
    ];
    grown.into_iter().for_each(|done| done.expect("memory"));
    let rest = |page: Option<&TablePage>, from: u32| {
        let entries = page.expect("it has grown").iter();
        entries.skip(from as usize).for_each(|e| e.silence());
    };
    rest(memory.table(0), g.root_slabs());
    rest(memory.owners(0), g.leaf_slabs());
}

/// What the tag of the found bytes is; `None`: they are nobody's.
fn found(source: Source, at: u64, sector: u64, state: &State) -> Option<u64> {
    match source {
        Source::Root(_) => Some(ROOT),
        Source::Zero => Some(ZERO),
        Source::Lost => None,
        Source::Leaf(from) => tag(&state.sector(from + at), sector),
    }
}

impl Union {
    fn history<R>(&self, f: impl FnOnce(&mut History) -> R) -> R {
        f(&mut self.history.lock().expect("no thread has panicked"))
    }

    /// An access to the leaf.
    fn access<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        self.bus.load(Ordering::SeqCst);
        f(&mut self.leaf.lock().expect("no thread has panicked"))
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator<Vec<u64>>> {
        self.allocator.lock().expect("no thread has panicked")
    }

    fn metadata(&self) -> MutexGuard<'_, Metadata> {
        self.metadata.lock().expect("no thread has panicked")
    }

    fn is_clean(&self) -> bool {
        self.durable.load(Ordering::Acquire) == self.map.changes()
    }

    /// Reads, and holds what it finds against the history.
    pub fn read(&self, sectors: Range<u64>) {
        let begun = self.history(History::tick);
        let user = self.grace.enter();
        let mut at = sectors.start;
        let mut seen = Vec::new();
        let count = (sectors.end - sectors.start) as u32;
        for run in plan::read(&self.map, sectors.start, count) {
            for n in 0..u64::from(run.sectors) {
                seen.push((at + n, self.access(|s| found(run.source, n, at + n, s))));
            }
            at += u64::from(run.sectors);
        }
        self.grace.exit(user);
        self.history(|h| {
            let time = begun..h.tick();
            for (sector, tag) in seen {
                let lawful = tag.is_some_and(|t| h.may_read(sector, t, &time));
                assert!(lawful, "read: sector {sector} holds {tag:x?}: {h:#?}");
            }
        });
    }

    pub fn write(&self, sectors: Range<u64>, tag: u64, fua: bool) {
        let number = self.history(|h| h.write_begins(sectors.clone(), tag, fua));
        let (at, count) = (sectors.start, (sectors.end - sectors.start) as u32);
        let user = loop {
            let user = self.grace.enter();
            let settled = self.settle(at, count);
            if settled.is_ok() {
                break user;
            }
            self.grace.exit(user);
            match settled {
                Err(Error::Emptied) => self.stalled(),
                _ => return self.history(|h| h.write_refused(number)),
            }
        };
        let mapped = plan::read(&self.map, at, count).all(|r| matches!(r.source, Source::Leaf(_)));
        let alone = fua && mapped && self.is_clean();
        self.send(at, count, tag, alone);
        self.map.mark(at, count);
        self.grace.exit(user);
        if fua && !alone {
            self.commit();
        }
        self.history(|h| h.write_ends(number));
        if fua {
            self.promised();
        }
    }

    fn settle(&self, at: u64, count: u32) -> Result {
        if plan::homeless(&self.map, at, count).next().is_none() {
            return Ok(());
        }
        self.allocator().settle(&self.map, at, count)
    }

    fn send(&self, at: u64, count: u32, tag: u64, fua: bool) {
        let order = if fua { Order::Fua } else { Order::Plain };
        let mut sector = at;
        for run in plan::write(&self.map, at, count) {
            let end = sector + u64::from(run.sectors);
            if let Source::Leaf(to) = run.source {
                let data: Vec<_> = (sector..end).map(|s| content(tag, s)).collect();
                self.access(|s| s.write(to, &data, order))
                    .expect("the leaf works");
            }
            sector = end;
        }
    }

    pub fn flush(&self) {
        let begun = self.history(History::tick);
        if self.is_clean() {
            self.access(State::flush_now).expect("the leaf works");
        } else {
            self.commit();
        }
        self.history(|h| h.flush_ends(begun));
        self.promised();
    }

    /// Something durable was promised: the worst moment for the power to go.
    fn promised(&self) {
        let moment = self.leaf.lock().expect("no thread has panicked").moment();
        let when = self.history(History::tick);
        let mut worst = self.worst.lock().expect("no thread has panicked");
        worst.push((moment, when));
    }

    /// Empties whole slabs.
    pub fn empty(&self, slabs: Range<u32>, base: Base) {
        let g = self.map.geometry();
        let sectors = g.slab_start(slabs.start)..g.slab_start(slabs.end);
        let tag = if base == Base::Zero { ZERO } else { ROOT };
        let number = self.history(|h| h.write_begins(sectors, tag, false));
        self.allocator()
            .empty(&self.map, slabs, base)
            .expect("memory");
        self.history(|h| h.write_ends(number));
    }

    pub fn commit(&self) {
        let mut guard = self.metadata();
        let Metadata { committer, leaf } = &mut *guard;
        self.allocator().begin_commit();
        committer.commit(&self.map, leaf).expect("the leaf works");
        self.durable.store(committer.committed(), Ordering::Release);
    }

    pub fn checkpoint(&self) {
        let mut guard = self.metadata();
        let Metadata { committer, leaf } = &mut *guard;
        committer
            .checkpoint(&self.map, leaf)
            .expect("the leaf works");
        self.durable.store(committer.committed(), Ordering::Release);
    }

    /// Nobody else is there any more.
    pub fn detach(&self) {
        let begun = self.history(History::tick);
        let mut guard = self.metadata();
        let Metadata { committer, leaf } = &mut *guard;
        committer.detach(&self.map, leaf).expect("the leaf works");
        self.durable.store(committer.committed(), Ordering::Release);
        self.history(|h| h.flush_ends(begun));
    }

    /// The one work that releases, for somebody who waits for that.
    fn stalled(&self) {
        let _one = self.releaser.lock().expect("no thread has panicked");
        self.commit();
        self.release_all();
    }

    /// The same work, for nobody.
    pub fn release(&self) {
        let _one = self.releaser.lock().expect("no thread has panicked");
        self.release_all();
    }

    fn release_all(&self) {
        while self.begin_release() {
            self.grace.wait();
            self.discard_leaving();
            self.allocator().forget_leaving(&self.map);
            let _between_commits = self.metadata();
            self.allocator().end_release(&self.map);
        }
    }

    fn begin_release(&self) -> bool {
        let metadata = self.metadata();
        let clean = metadata.committer.is_clean(&self.map);
        self.allocator().begin_release(&self.map, clean)
    }

    /// What is discarded reads as anything.
    fn discard_leaving(&self) {
        let g = self.map.geometry();
        let mut from = 0;
        loop {
            let range = self.allocator().leaving(from);
            let Some(range) = range else {
                return;
            };
            from = range.end;
            for leaf in range {
                let junk = vec![[0xdd; 512]; g.slab_sectors() as usize];
                let at = g.leaf_slab_start(leaf);
                self.access(|s| s.write(at, &junk, Order::Plain))
                    .expect("the leaf works");
            }
        }
    }

    /// What the leaf holds now, and the time.
    pub(crate) fn moment(&self) -> (Moment, u64) {
        let moment = self.access(|s| s.moment());
        (moment, self.history(History::tick))
    }

    /// The power went at a moment; `land` picks what landed. Every sector must be lawful.
    pub(crate) fn judge(&self, (moment, when): (Moment, u64), mut land: impl FnMut() -> bool) {
        let g = *self.map.geometry();
        let mut image = moment.durable;
        for (sector, data) in moment.cache {
            if land() {
                image.insert(sector, data);
            }
        }
        let loaded = quietly(|| {
            let after = load(g, Leaf::new(State::restored(image)))?;
            let runs: Vec<Run> = plan::read(&after.map, 0, g.union_sectors() as u32).collect();
            Ok::<_, Error>((after, runs))
        });
        let (after, runs) = match loaded {
            Ok(loaded) => loaded,
            Err(e) => panic!("attach: {e}"),
        };
        let state = after.leaf.lock().expect("no thread has panicked");
        let mut sector = 0;
        for run in runs {
            for n in 0..u64::from(run.sectors) {
                let tag = found(run.source, n, sector + n, &state);
                self.history(|h| {
                    let lawful = tag.is_some_and(|t| h.may_survive(sector + n, t, when));
                    assert!(
                        lawful,
                        "cut at {when}: sector {} holds {tag:x?}: {h:#?}",
                        sector + n
                    );
                });
            }
            sector += u64::from(run.sectors);
        }
    }
}
