// SPDX-License-Identifier: GPL-2.0

//! A host for the core's protocol. Requests, works and lower I/O are threads of `crate::threads`:
//! the scheduler's threads in the models of races, the system's threads elsewhere.
//!
//! Each request keeps its parameters and when it was answered. The data of each read, and the leaf
//! after a power failure at any access to it, must be the result of some order of the requests.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc as StdArc, Mutex as StdMutex};

use ubcore::alloc::Allocator;
use ubcore::disk::Order;
use ubcore::error::{Error, Result};
use ubcore::format::directory::PageEntry;
use ubcore::geometry::{Geometry, LeafSlab};
use ubcore::map::{Map, Memory, Pages, TablePage};
use ubcore::plan::{self, Run, Source};
use ubcore::protocol::{
    discard, flush, io, Accepted, AttachMode, CommitterStep, Event, Host, HostCommitter,
    LeafDevice, Observer, Op, Requests, Shared, Waiting, WorkId, WorkItems, WriteMode,
};
use ubcore::stack::source::{NoLayers, StackLookup};
use ubcore::sync::{AtomicU64, Ordering};

use crate::disk::DiskState;
use crate::leaf::{found, locked, Leaf, SimLower};
use crate::memory::SimMemory;
use crate::oracle::{content, ROOT, ZERO};
use crate::parts::{self, Parts, SimCommitter};
use crate::request::{Inner, SimBio, AHEAD};
pub use crate::request::{Outcome, Rq};
use crate::threads::{self, quietly, silence, Condvar, JoinHandle, Mutex, ThreadId};
use crate::union::{format_as, superblock};

mod checker;
mod shortage;

use shortage::Shortage;

struct Metadata {
    committer: SimCommitter,
    leaf: Leaf,
}

#[derive(Clone, Copy, Default)]
struct Work {
    pending: bool,
    running: bool,
}

fn run(union: &Handle, work: WorkId) {
    match work {
        WorkId::Commit => flush::commit_work(union),
        WorkId::Timer => flush::timer_work(union),
        WorkId::Checkpoint => flush::checkpoint_work(union),
        WorkId::Discard => discard::discard_work(union),
        WorkId::Reclaim => discard::reclaim_work(union),
        WorkId::Memory => io::memory_work(union),
    }
}

/// What a leaf device has.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFeatures {
    pub fua: bool,
    pub cache: bool,
}

type OnDiscard = Box<dyn FnMut(&Handle) + Send>;

/// A union and the requests to it.
pub struct HostUnion {
    pub map: Map<SimMemory>,
    shared: Shared,
    allocator: Mutex<Allocator<Vec<u64>>>,
    metadata: Mutex<Metadata>,
    /// The thread that has the committer's lock.
    committer_holder: StdMutex<Option<ThreadId>>,
    lower: StdArc<SimLower>,
    /// The requests that wait for each of [`Waiting`].
    waiting: StdMutex<[Vec<Rq>; 4]>,
    /// If set, no request is sent at once, and none sends more than so many sectors at a time.
    narrow: StdMutex<Option<u64>>,
    /// What the leaf has: FUA, a volatile cache.
    device: StdMutex<DeviceFeatures>,
    /// Is called when leaf sectors have been discarded, in the reclaim work.
    on_discard: StdMutex<Option<OnDiscard>>,
    in_flight: StdMutex<Vec<Rq>>,
    /// The number of I/O errors that were noted.
    pub io_errors: StdMutex<u64>,
    pub no_space: StdMutex<u64>,
    /// The storage below the leaf has no space for zeroes.
    pub host_full: StdMutex<bool>,
    shortage: Shortage,
    /// The state of each of [`WorkId`].
    works: StdMutex<[Work; 6]>,
    threads: StdMutex<Vec<JoinHandle<()>>>,
}

/// A handle on a union.
#[derive(Clone)]
pub struct Handle(StdArc<HostUnion>);

impl std::ops::Deref for Handle {
    type Target = HostUnion;

    fn deref(&self) -> &HostUnion {
        &self.0
    }
}

fn load(g: Geometry, mut leaf: Leaf) -> Result<HostUnion> {
    let Parts {
        map,
        allocator,
        committer,
    } = parts::load(
        &mut leaf,
        g.root_sectors(),
        g.leaf_sectors(),
        SimMemory::new,
    )?;
    let lower = StdArc::new(SimLower {
        state: leaf.state.clone(),
        bus: AtomicU64::new(0),
        history: StdMutex::default(),
        moments: StdMutex::default(),
        promises: StdMutex::default(),
    });
    leaf.union = Some(lower.clone());
    Ok(HostUnion {
        shared: Shared::new(
            committer.committed(),
            AttachMode {
                read_only: false,
                reveal: true,
            },
        ),
        map,
        allocator: Mutex::new(allocator),
        metadata: Mutex::new(Metadata { committer, leaf }),
        committer_holder: StdMutex::default(),
        lower,
        waiting: StdMutex::default(),
        narrow: StdMutex::default(),
        device: StdMutex::new(DeviceFeatures {
            fua: true,
            cache: true,
        }),
        on_discard: StdMutex::default(),
        in_flight: StdMutex::default(),
        io_errors: StdMutex::default(),
        no_space: StdMutex::default(),
        host_full: StdMutex::default(),
        shortage: Shortage::default(),
        works: StdMutex::default(),
        threads: StdMutex::default(),
    })
}

/// Formats and attaches a leaf; its data sectors hold bytes of no write. The map has all its pages.
pub fn fresh(g: Geometry) -> Handle {
    let union = fresh_without_pages(g);
    grow(&union.map);
    union
}

/// Does the same, but the map has no page yet.
pub fn fresh_without_pages(g: Geometry) -> Handle {
    let mut leaf = Leaf::alone(DiskState::default());
    format_as(&mut leaf, &superblock(g));
    let junk = vec![[0xee; 512]; (g.leaf_slabs() * g.slab_sectors()) as usize];
    leaf.with(|s| s.write(g.leaf_slab_start(LeafSlab(0)), &junk, Order::FlushFua))
        .expect("a new leaf");
    let union = quietly(|| load(g, leaf)).expect("a new leaf");
    locked(&union.lower.state).trail = Some(Vec::new());
    Handle(StdArc::new(union))
}

/// Makes the map's pages, and disables scheduling at entries of slabs that do not exist: the core
/// reads whole pages, and nothing changes those entries.
fn grow(map: &Map<SimMemory>) {
    let (g, memory) = (map.geometry(), map.memory());
    let all = [Pages::Table, Pages::Owners, Pages::Bits];
    let grown = all.map(|pages| memory.grow(pages, 0));
    grown.into_iter().for_each(|done| done.expect("memory"));
    let rest = |page: Option<&TablePage>, from: u32| {
        silence(&page.expect("it has grown")[from as usize..]);
    };
    rest(memory.table(0), g.root_slabs());
    rest(memory.owners(0), g.leaf_slabs());
}

impl HostUnion {
    fn tick(&self) -> u64 {
        locked(&self.lower.history).tick()
    }

    pub fn is_committed(&self) -> bool {
        self.shared.is_committed(&self.map)
    }
    /// Returns whether emptied slabs wait for a reclaim.
    pub fn any_emptied(&self) -> bool {
        let allocator = self.allocator.lock().expect("no thread has panicked");
        allocator.any_emptied(&self.map)
    }
    pub fn is_read_only(&self) -> bool {
        self.shared.write_mode() == WriteMode::TurnedReadOnly
    }
    /// Makes the leaf's `n`-th access from now on fail; `None`: none fails.
    pub fn fail_in(&self, n: Option<u64>) {
        locked(&self.lower.state).fail_in = n.map(|n| (n, false));
    }
}

impl Handle {
    fn spawn(&self, f: impl FnOnce(&Handle) + Send + 'static) {
        let me = self.clone();
        let thread = threads::spawn(move || f(&me));
        locked(&self.threads).push(thread);
    }

    /// Waits until no request and no work is left.
    pub fn quiesce(&self) {
        loop {
            let threads = std::mem::take(&mut *locked(&self.threads));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                thread.join().expect("no thread has panicked");
            }
        }
    }

    fn send(&self, op: Op, sectors: Range<u64>, tag: u64, fua: bool) -> Rq {
        self.send_merged(op, &[sectors], tag, fua)
    }

    /// Sends a request of adjacent bios.
    fn send_merged(&self, op: Op, bios: &[Range<u64>], tag: u64, fua: bool) -> Rq {
        let mut history = locked(&self.lower.history);
        let begun = history.tick();
        let bio = |sectors: &Range<u64>| {
            let changes = self.changes(op, sectors);
            let some = !changes.is_empty();
            SimBio {
                sectors: sectors.clone(),
                number: some.then(|| history.write_begins(changes, tag, fua)),
                failed: AtomicBool::new(false),
            }
        };
        let bios: Vec<SimBio> = bios.iter().map(bio).collect();
        drop(history);
        let [first, last] = [bios.first(), bios.last()].map(|b| b.expect("a bio"));
        let rq = Rq(StdArc::new(Inner {
            op,
            sectors: first.sectors.start..last.sectors.end,
            fua,
            tag,
            begun,
            bios,
            word: AtomicU64::new(0),
            progress: StdMutex::default(),
            seen: StdMutex::default(),
            outcome: Mutex::new(None),
            ended: Condvar::new(),
        }));
        locked(&self.in_flight).push(rq.clone());
        self.queue(rq.clone());
        rq
    }

    /// Returns the sectors that a request changes. A discard changes whole slabs only.
    fn changes(&self, op: Op, sectors: &Range<u64>) -> Range<u64> {
        let g = self.map.geometry();
        let whole = g.whole_slabs(sectors.start, (sectors.end - sectors.start) as u32);
        match op {
            Op::Write | Op::WriteZeroes => sectors.clone(),
            Op::Discard => g.slab_start(whole.start)..g.slab_start(whole.end.max(whole.start)),
            _ => 0..0,
        }
    }

    /// Does what the block layer does with a request, new or not.
    fn queue(&self, rq: Rq) {
        let mut rq = rq;
        while let Err(back) = io::queue(self, rq) {
            back.assert_unused();
            threads::yield_now();
            rq = back;
        }
    }

    /// From now on sends no request at once, and none with more than so many sectors.
    pub fn set_narrow(&self, sectors: u64) {
        *locked(&self.narrow) = Some(sectors);
    }

    /// Sets what the leaf has.
    pub fn set_device(&self, device: DeviceFeatures) {
        locked(&self.lower.state).writes_through = !device.cache;
        *locked(&self.device) = device;
    }

    /// Calls `f` each time that a reclaim has discarded leaf sectors.
    pub fn on_discard(&self, f: impl FnMut(&Handle) + Send + 'static) {
        *locked(&self.on_discard) = Some(Box::new(f));
    }

    pub fn read(&self, sectors: Range<u64>) -> Outcome {
        self.send(Op::Read, sectors, 0, false).wait()
    }

    pub fn write(&self, sectors: Range<u64>, tag: u64, fua: bool) -> Outcome {
        self.send(Op::Write, sectors, tag, fua).wait()
    }

    /// Writes adjacent ranges by one request. Returns which of them have not failed.
    pub fn write_merged(&self, ranges: &[Range<u64>], tag: u64) -> Vec<bool> {
        self.send_merged(Op::Write, ranges, tag, false).wait_each()
    }

    /// Sends a write and does not wait for it.
    pub fn write_later(&self, sectors: Range<u64>, tag: u64) -> Rq {
        self.send(Op::Write, sectors, tag, false)
    }

    pub fn read_ahead(&self, sectors: Range<u64>) -> Outcome {
        self.send(Op::Read, sectors, AHEAD, false).wait()
    }

    pub fn flush(&self) -> Outcome {
        self.send(Op::Flush, 0..0, 0, false).wait()
    }

    pub fn zero(&self, sectors: Range<u64>) -> Outcome {
        self.send(Op::WriteZeroes, sectors, ZERO, false).wait()
    }

    /// Discards, so that the root shows again.
    pub fn discard(&self, sectors: Range<u64>) -> Outcome {
        self.send(Op::Discard, sectors, ROOT, false).wait()
    }

    /// Makes a checkpoint that is not due.
    pub fn checkpoint(&self) {
        let before = self.with_committer(|committer, _| committer.counters().checkpoints);
        flush::checkpoint(self, before).expect("the leaf works");
    }

    /// Detaches; nothing else runs any more.
    pub fn detach(&self) {
        let begun = self.tick();
        flush::detach(self).expect("the leaf works");
        locked(&self.lower.history).flush_ends(begun);
    }

    fn run(&self, work: WorkId) {
        let n = work as usize;
        loop {
            locked(&self.works)[n].pending = false;
            run(self, work);
            let mut works = locked(&self.works);
            if !works[n].pending {
                works[n].running = false;
                return;
            }
        }
    }

    /// Handles the planned I/O on the lower device, as a separate thread.
    fn device(&self, rq: Rq, runs: Vec<Run>, order: Order) {
        let (mut sector, _) = ubcore::protocol::Request::sent(&rq).expect("whole counts");
        let mut outcome = Outcome::Ok;
        if rq.0.tag == AHEAD {
            return self.completed(rq, Outcome::IoError);
        }
        for run in runs {
            let end = sector + u64::from(run.sectors);
            if rq.0.op == Op::Read {
                for at in sector..end {
                    let tag = self.lower.access(|s| found(run.source, at - sector, at, s));
                    locked(&rq.0.seen).push((at, tag));
                }
            } else if let Source::Leaf(to) = run.source {
                let data: Vec<_> = (sector..end).map(|s| content(rq.0.tag, s)).collect();
                if self.lower.access(|s| s.write(to, &data, order)).is_err() {
                    outcome = Outcome::IoError;
                }
            }
            sector = end;
        }
        self.completed(rq, outcome);
    }

    fn completed(&self, rq: Rq, outcome: Outcome) {
        match io::complete(self, &rq, outcome) {
            Some(outcome) => self.end(rq, outcome),
            None => io::resume(self, rq),
        }
    }

    /// Checks an answer against the history.
    fn answered(&self, rq: &Rq, outcome: Outcome) {
        let mut history = locked(&self.lower.history);
        rq.0.bios
            .iter()
            .for_each(|bio| bio.answered(outcome, &mut history));
        if outcome == Outcome::Ok && rq.0.op == Op::Flush {
            history.flush_ends(rq.0.begun);
        }
        let time = rq.0.begun..history.tick();
        for (sector, tag) in locked(&rq.0.seen).drain(..) {
            let is_valid = tag.is_some_and(|t| history.may_read(sector, t, &time));
            assert!(
                is_valid,
                "read: sector {sector} holds {tag:x?}: {history:#?}"
            );
        }
        drop(history);
        if outcome == Outcome::Ok && (rq.0.op == Op::Flush || rq.0.fua) {
            self.lower.promised();
        }
    }
}

impl Requests for Handle {
    type Request = Rq;
    type Status = Outcome;

    fn submit(&self, rq: Rq, whole: Option<Source>, fua: bool) -> Accepted<Self> {
        let (sector, mut sectors) = ubcore::protocol::Request::rest(&rq).expect("whole counts");
        if let Some(most) = *locked(&self.narrow) {
            if rq.progress().refuse() {
                return Err(rq);
            }
            sectors = sectors.min(most as u32);
        }
        rq.progress().send(sectors);
        let runs: Vec<Run> = match rq.0.op {
            _ if whole.is_some() && locked(&self.narrow).is_none() => {
                let run = whole.map(|source| Run { source, sectors });
                run.into_iter().collect()
            }
            Op::Read => plan::read(&self.map, NoLayers, sector, sectors).collect(),
            _ => plan::write(&self.map, sector, sectors).collect(),
        };
        let order = if fua { Order::Fua } else { Order::Plain };
        self.spawn(move |me| me.device(rq, runs, order));
        Ok(())
    }
    fn requeue(&self, rq: Rq) {
        self.spawn(move |me| me.queue(rq));
    }
    fn end(&self, rq: Rq, status: Outcome) {
        self.answered(&rq, status);
        locked(&self.in_flight).retain(|other| !StdArc::ptr_eq(&other.0, &rq.0));
        *rq.0.outcome.lock().expect("no thread has panicked") = Some(status);
        rq.0.ended.notify_all();
    }
    fn any_in_flight(&self, f: fn(u64, u64) -> bool, with: u64) -> bool {
        let all = locked(&self.in_flight).clone();
        all.iter()
            .any(|rq| f(rq.0.word.load(Ordering::Acquire), with))
    }
    fn pause(&self, _: u32) {
        threads::yield_now();
    }
}

impl WorkItems for Handle {
    fn schedule(&self, work: WorkId) {
        self.lower.bus.load(Ordering::SeqCst);
        let mut works = locked(&self.works);
        let state = &mut works[work as usize];
        let idle = !state.pending && !state.running;
        *state = Work {
            pending: true,
            running: true,
        };
        drop(works);
        if idle {
            self.spawn(move |me| me.run(work));
        }
    }
    fn add(&self, rq: Rq, waiting: Waiting) {
        self.lower.bus.load(Ordering::SeqCst);
        locked(&self.waiting)[waiting as usize].push(rq);
    }
    fn take_waiting(&self, waiting: Waiting) -> impl Iterator<Item = Rq> {
        self.lower.bus.load(Ordering::SeqCst);
        std::mem::take(&mut locked(&self.waiting)[waiting as usize]).into_iter()
    }
}

impl LeafDevice for Handle {
    fn has_fua(&self) -> bool {
        locked(&self.device).fua
    }
    fn has_cache(&self) -> bool {
        locked(&self.device).cache
    }
    fn zero(&self, sector: u64, sectors: u64) -> Result {
        if *locked(&self.host_full) {
            return Err(Error::Os(28));
        }
        let zeroes = vec![[0; 512]; sectors as usize];
        self.lower
            .access(|s| s.write(sector, &zeroes, Order::Plain))
    }
    /// Discarded sectors read as anything. A power failure must not bring them back.
    fn discard(&self, sector: u64, sectors: u64) {
        let g = *self.map.geometry();
        let durable = locked(&self.lower.state).moment().durable;
        let after = quietly(|| load(g, Leaf::alone(DiskState::restored(durable)))).expect("attach");
        for slab in 0..g.root_slabs() {
            let start = quietly(|| after.map.entry(slab).leaf_slab).map(|l| g.leaf_slab_start(l));
            let named = start.is_some_and(|at| (sector..sector + sectors).contains(&at));
            assert!(!named, "a leaf slab is discarded before that is durable");
        }
        let junk = vec![[0xdd; 512]; sectors as usize];
        let _ = self.lower.access(|s| s.write(sector, &junk, Order::Plain));
        if let Some(f) = &mut *locked(&self.on_discard) {
            f(self);
        }
    }
}

impl Observer for Handle {
    fn note(&self, event: Event) {
        match event {
            Event::ReadOnly(_, e) => {
                let known = matches!(e, Error::Io(..)) || self.map.check() == Err(e);
                assert!(known, "read-only because of {e}");
            }
            Event::IoError => *locked(&self.io_errors) += 1,
            Event::Full | Event::NoSpaceBelow => *locked(&self.no_space) += 1,
            _ => {}
        }
    }
}

impl Host for Handle {
    type Memory = SimMemory;
    type Slabs = Vec<u64>;
    type PageSet = Vec<u64>;
    type Entries = Vec<PageEntry>;
    type Disk<'d> = Leaf;

    fn map(&self) -> &Map<SimMemory> {
        &self.map
    }
    fn below(&self) -> impl StackLookup {
        NoLayers
    }
    fn shared(&self) -> &Shared {
        &self.shared
    }
    fn with_allocator<R>(&self, f: impl FnOnce(&mut Allocator<Vec<u64>>) -> R) -> R {
        let mut allocator = self.allocator.lock().expect("no thread has panicked");
        let used = allocator.used();
        let done = f(&mut allocator);
        if allocator.used() < used {
            // A running commit may have the slab on its list.
            let holder = *locked(&self.committer_holder);
            let alone = holder.is_none_or(|h| h == threads::current().id());
            assert!(alone, "a leaf slab becomes free while a commit runs");
            quietly(|| self.assert_free_is_blank(&allocator));
        }
        done
    }
    fn with_committer<R>(&self, f: impl FnOnce(&mut HostCommitter<Self>, &mut Leaf) -> R) -> R {
        let mut metadata = self.metadata.lock().expect("no thread has panicked");
        *locked(&self.committer_holder) = Some(threads::current().id());
        let Metadata { committer, leaf } = &mut *metadata;
        let done = f(committer, leaf);
        *locked(&self.committer_holder) = None;
        done
    }
    fn note_step(&self, _: CommitterStep, committer: &HostCommitter<Self>, done: Result) {
        assert!(done.is_err() || committer.committed() >= self.shared.durable());
    }
    fn wait_for_memory(&self) -> Result {
        self.shortage.wait();
        self.map.memory().set_free(1);
        Ok(())
    }
    fn give_way(&self) {}
}
