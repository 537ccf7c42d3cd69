// SPDX-License-Identifier: GPL-2.0

//! `ubctl freeze`, `seal`, `squash` and `format --layer`, cut at each of their writes, and again
//! when they are repeated; and with each write, and a sample of the reads, that fail: with `FULL=1`
//! each read. Also `ubctl publish`, if a read of the image that it wrote fails or returns other
//! bytes.
//!
//! The files that they read never change. A leaf is as before, or frozen with the same content. A
//! sealed layer gets its name when all of it is durable, is refused as long as a part is missing,
//! and has the same bytes however often the command was cut before. `CUTS` in the environment sets
//! how many power failures are tried at each write, beside those in which nothing and everything
//! lands.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use tool::cut::{after_power_failure, chances, lands, Cut, Cutter, Recorded};
use tool::leaf::MetadataUnion;
use tool::sim::disk::{DiskState, Random, SimDisk};
use tool::sim::memory::SimMemory;
use tool::sim::oracle::ROOT;
use tool::sim::parts;
use tool::sim::sealed::Image;
use tool::sim::sha256::Sha256;
use tool::{Folder, MIB};
use ubcore::attach::read_superblock;
use ubcore::error::Error;
use ubcore::format::superblock::Superblock;
use ubcore::map::Base;
use ubcore::plan::{self, Source};
use ubcore::sha256::Sha256 as _;
use ubcore::stack::listed;
use ubcore::stack::source::NoLayers;

type Files = BTreeMap<String, Vec<u8>>;

fn cuts() -> u64 {
    let given = std::env::var("CUTS").ok().and_then(|n| n.parse().ok());
    given.unwrap_or(4)
}

/// Returns whether each read of a command fails once, and not only a sample of about twice `CUTS`.
fn every_read() -> bool {
    std::env::var_os("FULL").is_some_and(|full| !full.is_empty())
}

/// Returns a disk that holds an image.
fn disk(bytes: &[u8]) -> SimDisk {
    let sectors = (0..).zip(bytes.chunks_exact(512));
    let written = sectors.filter(|(_, s)| s.iter().any(|&b| b != 0));
    let sectors = written.map(|(n, s)| (n, s.try_into().unwrap()));
    SimDisk::with(DiskState::restored(sectors.collect()))
}

fn superblock(bytes: &[u8]) -> Result<Superblock, Error> {
    read_superblock(&mut disk(bytes)).map(|probe| probe.superblock)
}

/// Returns a digest of what a leaf maps, with what waits in its journal.
fn content(bytes: &[u8]) -> [u8; 32] {
    let sb = superblock(bytes).unwrap();
    let g = sb.geometry;
    let (root, leaf) = (g.root_sectors(), g.leaf_sectors());
    let parts = parts::load(&mut disk(bytes), root, leaf, SimMemory::new).unwrap();
    let mut sum = Sha256::new();
    for run in plan::read(&parts.map, NoLayers, 0, g.union_sectors() as u32) {
        for n in 0..u64::from(run.sectors) {
            match run.source {
                Source::Leaf(at) => sum.update(&bytes[(at + n) as usize * 512..][..512]),
                Source::Zero => sum.update(&[0; 512]),
                _ => sum.update(&ROOT.to_le_bytes()),
            }
        }
    }
    sum.finish()
}

/// Writes to a leaf, and detaches it, or leaves something in its journal.
fn write(cutter: &Cutter<'_>, leaf: &str, seed: u64, detach: bool) {
    let mut u = MetadataUnion::attach(&cutter.path("root"), &cutter.path(leaf));
    u.committer.checkpoint(&u.map, &mut u.device).unwrap();
    let size = u.map.geometry().union_sectors();
    let mut random = Random(seed);
    // Slabs of the upper half are emptied and not written again, so nothing waits for them.
    let upper = size / 2;
    (0..6).for_each(|n| u.fill(upper + n * 300, 100));
    u.commit();
    for (n, base) in [(1, Base::Zero), (4, Base::Below), (30, Base::Zero)] {
        let slab = u.map.geometry().slab_of(upper + n * 64);
        u.allocator.empty(&u.map, slab..slab + 1, base).unwrap();
    }
    for n in 0..12 {
        u.fill(n * 300 + random.below(100), 1 + random.below(150) as u32);
        if n % 4 == 2 {
            u.allocator.begin_commit();
            u.commit();
        }
        if n == 5 {
            u.committer.checkpoint(&u.map, &mut u.device).unwrap();
        }
    }
    u.device.sync().unwrap();
    u.commit();
    if detach {
        u.detach();
    }
}

/// Makes a root, a frozen layer on it, and a leaf on both.
fn make(cutter: &Cutter<'_>, detach: bool) {
    fs::write(cutter.path("root"), vec![7; 4 * MIB as usize]).unwrap();
    for (leaf, layers, seed) in [("one", "", 1), ("two", "--layer @one", 2)] {
        fs::write(cutter.path(leaf), vec![0; 8 * MIB as usize]).unwrap();
        done(
            cutter,
            &format!("format --slab-size 16K --root @root {layers} @{leaf}"),
        );
        write(cutter, leaf, seed, leaf == "one" || detach);
        if leaf == "one" {
            done(cutter, "freeze @one");
        }
    }
}

fn done(cutter: &Cutter<'_>, line: &str) -> Recorded {
    let ran = cutter.run(line, Cut::None);
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    ran
}

/// A command that is cut, and which of the files it may change.
struct Case<'a> {
    line: &'a str,
    target: &'a str,
    /// It writes to another file, which takes the target's place.
    beside: bool,
    /// Checks what the target can be. `reported`: the command has ended well.
    check: &'a dyn Fn(Option<&Vec<u8>>, bool),
    /// Checks a file in which the command is writing, if it is not the target.
    check_beside: &'a dyn Fn(&[u8]),
}

impl Case<'_> {
    /// Checks the files after a cut. The target is that of `check`, and all others are as before.
    fn look(&self, cutter: &Cutter<'_>, before: &Files, reported: bool, killed: bool) {
        let now = cutter.files();
        (self.check)(now.get(self.target), reported);
        for (name, bytes) in &now {
            match before.get(name) {
                _ if name == self.target => {}
                Some(old) => assert!(old == bytes, "{}: {name} has changed", self.line),
                None => {
                    assert!(killed, "{}: {name} is left behind", self.line);
                    (self.check_beside)(bytes);
                }
            }
        }
        for name in before.keys() {
            assert!(now.contains_key(name), "{}: {name} is gone", self.line);
        }
    }

    /// Fails the power after each write. Returns the number of states.
    fn fail_power(&self, before: &Files, ran: &Recorded, random: &mut Random) -> u64 {
        let empty = Vec::new();
        let base = before.get(self.target).filter(|_| !self.beside);
        let base = base.unwrap_or(&empty);
        // A file that gets its name is followed by a flush of the directory.
        let folder = usize::from(self.beside);
        let (events, last) = ran.events.split_at(ran.events.len() - folder);
        let alone = events.iter().all(|(inode, _)| *inode == events[0].0);
        let other = last.iter().all(|(inode, _)| *inode != events[0].0);
        assert!(alone && other, "{}: it writes to other files", self.line);
        let mut states = 0;
        for n in 0..=events.len() {
            for mut chance in chances(random, cuts()) {
                let bytes = after_power_failure(base, &events[..n], lands(&mut chance));
                if self.beside {
                    (self.check_beside)(&bytes);
                } else {
                    (self.check)(Some(&bytes), n == events.len());
                }
                states += 1;
            }
        }
        if self.beside {
            let durable = after_power_failure(base, events, || false);
            (self.check)(Some(&durable), true);
        }
        states
    }

    fn run(&self, cutter: &Cutter<'_>) {
        let before = cutter.files();
        let mut random = Random(7);
        let ran = done(cutter, self.line);
        self.look(cutter, &before, true, false);
        let writes = ran.events.len() as u64;
        let states = self.fail_power(&before, &ran, &mut random);
        let count = ran.reads.len() as u64;
        let sample = if every_read() { count } else { 2 * cuts() };
        let each = (count / sample).max(1);
        let reads = (0..count).step_by(each as usize).map(Cut::ReadError);
        let failing = count.div_ceil(each);
        let all = (0..writes).flat_map(|n| [Cut::Kill(n), Cut::Torn(n), Cut::Error(n)]);
        for cut in all.chain(reads) {
            cutter.restore(&before);
            let first = cutter.run(self.line, cut);
            let killed = first.code.is_none();
            let errs = matches!(cut, Cut::Error(_) | Cut::ReadError(_));
            assert!(killed != errs, "{}: {cut:?}: {:?}", self.line, first.code);
            self.look(cutter, &before, first.code == Some(0), killed);
            if errs {
                continue;
            }
            // It is repeated, is killed again, and is repeated.
            let again = cutter.run(self.line, Cut::Kill(random.below(writes)));
            self.look(cutter, &before, again.code == Some(0), true);
            cutter.run(self.line, Cut::None);
            self.look(cutter, &before, true, true);
        }
        println!(
            "{}: {writes} writes, {failing} of {count} reads fail, states: {states}",
            self.line
        );
    }
}

#[test]
fn freeze() {
    for detach in [true, false] {
        let folder = Folder::new("cut-freeze");
        let cutter = Cutter::new(&folder);
        make(&cutter, detach);
        let before = cutter.files()["two"].clone();
        let data = superblock(&before).unwrap().geometry.data_start() as usize * 512;
        let wanted = content(&before);
        let check = |bytes: Option<&Vec<u8>>, reported: bool| {
            let bytes = bytes.unwrap();
            let sb = superblock(bytes).unwrap();
            assert!(
                sb.frozen.is_some() || !reported,
                "a reported freeze is gone"
            );
            assert!(content(bytes) == wanted);
            assert!(bytes[data..] == before[data..]);
        };
        let case = Case {
            line: "freeze @two",
            target: "two",
            beside: false,
            check: &check,
            check_beside: &|_| panic!("a freeze makes no file"),
        };
        case.run(&cutter);
    }
}

/// Seals and squashes are cut with no file of the name there, and with another.
fn sealed(name: &str, line: &str, old: Option<&[u8]>) {
    let folder = Folder::new(name);
    let cutter = Cutter::new(&folder);
    make(&cutter, true);
    done(&cutter, "freeze @two");
    done(&cutter, line);
    let whole = fs::read(cutter.path("out")).unwrap();
    match old {
        Some(bytes) => fs::write(cutter.path("out"), bytes).unwrap(),
        None => fs::remove_file(cutter.path("out")).unwrap(),
    }
    let line = match old {
        Some(_) => format!("{line} --force"),
        None => line.to_owned(),
    };
    let check = |bytes: Option<&Vec<u8>>, reported: bool| match bytes {
        Some(bytes) if *bytes == whole => {}
        bytes => {
            assert!(!reported, "the whole layer has a part missing");
            assert!(bytes.map(Vec::as_slice) == old);
        }
    };
    let check_beside = |bytes: &[u8]| {
        if bytes != whole {
            let opened = Image::of_bytes(bytes).open();
            assert!(opened.is_err(), "an incomplete layer is accepted");
        }
    };
    let case = Case {
        line: &line,
        target: "out",
        beside: true,
        check: &check,
        check_beside: &check_beside,
    };
    case.run(&cutter);
}

#[test]
fn seal() {
    sealed("cut-seal", "seal --stand-in @two @out", None);
    sealed("cut-seal", "seal @one @out", Some(&b"something else"[..]));
}

#[test]
fn squash() {
    sealed("cut-squash", "squash @one @two @out", None);
}

/// An image is read back before it gets its name. If one of these reads fails, or returns another
/// byte, there is no image.
#[test]
fn publish() {
    let folder = Folder::new("cut-publish");
    let cutter = Cutter::new(&folder);
    make(&cutter, true);
    let line = "publish --root @root --leaf @two @out";
    let before = cutter.files();
    let ran = done(&cutter, line);
    let out = fs::metadata(cutter.path("out")).unwrap();
    let back = (0..)
        .zip(&ran.reads)
        .filter(|(_, read)| read.inode == out.ino());
    let back: Vec<_> = back.collect();
    let bytes: u64 = back.iter().map(|(_, read)| read.len).sum();
    assert_eq!(bytes, out.len(), "all of the image is read back");
    for (n, _) in back {
        for (cut, words) in [
            (Cut::ReadError(n), "Input/output error"),
            (Cut::WrongRead(n), "does not read as it was written"),
        ] {
            cutter.restore(&before);
            let ran = cutter.run(line, cut);
            assert_eq!(ran.code, Some(1), "{cut:?}: {}", ran.err);
            assert!(ran.err.contains(words), "{cut:?}: {}", ran.err);
            assert!(cutter.files() == before, "{cut:?}: a file has changed");
        }
    }
}

/// The leaf in which a union is to continue is no leaf, or a whole one.
#[test]
fn format_on_layers() {
    let folder = Folder::new("cut-format");
    let cutter = Cutter::new(&folder);
    make(&cutter, true);
    done(&cutter, "freeze @two");
    fs::write(cutter.path("new"), vec![0; 8 * MIB as usize]).unwrap();
    let check = |bytes: Option<&Vec<u8>>, reported: bool| {
        let bytes = bytes.unwrap();
        match superblock(bytes) {
            Err(e) => assert!(e == Error::NotFormatted && !reported, "{e}"),
            Ok(sb) => {
                let mut count = 0;
                let list = listed::layers::<Sha256, _>(&mut disk(bytes), &sb, |_| {
                    count += 1;
                    Ok(())
                });
                assert!(list.is_ok() && count == 2, "{count}");
                let mut blank = Sha256::new();
                (0..sb.geometry.union_sectors()).for_each(|_| blank.update(&ROOT.to_le_bytes()));
                assert!(
                    content(bytes) == blank.finish(),
                    "a new leaf maps something"
                );
            }
        }
    };
    let case = Case {
        line: "format --force --root @root --layer @one --layer @two @new",
        target: "new",
        beside: false,
        check: &check,
        check_beside: &|_| panic!("a format makes no file"),
    };
    case.run(&cutter);
}
