// SPDX-License-Identifier: GPL-2.0

//! Full digests of roots and frozen leaves, and the digest files that hold them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use map_memory::sha256::Sha256;
use rustix::fs::{fadvise, Advice};
use ubcore::error::Role;
use ubcore::geometry::BLOCK_BYTES;
use ubcore::num::{u64_as_usize, usize_as_u64};
use ubcore::sealed::digests::DIGESTS_IN_BLOCK;
use ubcore::sealed::full_digest::{self, DigestFault, Head, Sum, CHUNK_BYTES, DIGEST_BLOCK};
use ubcore::sealed::{Digest, Reader};
use ubcore::sha256::Sha256 as _;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, FAILED, REFUSED};
use crate::progress::Progress;
use crate::sealed::DeviceReader;
use crate::{interrupt, output, probe};

/// What a digest file is called beside its image.
pub const SUFFIX: &str = ".ubdigest";
/// Blocks of digests whose chunks are computed before the next ones begin: about 1 GiB of a root.
const BATCH_BLOCKS: u64 = 8;

/// Returns where the digest file of an image is: beside the image itself, not beside a link to it.
/// A block device has none.
pub fn beside(path: &Path) -> Option<PathBuf> {
    let image = fs::canonicalize(path).ok()?;
    if !fs::metadata(&image).ok()?.is_file() {
        return None;
    }
    let mut name = image.file_name()?.to_owned();
    name.push(SUFFIX);
    Some(image.with_file_name(name))
}

/// A digest file, open and verified.
pub struct DigestFile {
    device: Device,
    head: Head,
}

impl DigestFile {
    /// Opens a digest file and verifies all of it. If a full digest is `wanted`, refuses a file
    /// with another one.
    pub fn open(path: &Path, wanted: Option<&Digest>) -> Result<DigestFile> {
        let device = Device::open(path, Role::Root, Access::Read)?;
        let mut reader = DeviceReader::new(&device);
        let read = full_digest::read::<_, Sha256>(&mut reader, device.bytes(), wanted);
        let head = read.map_err(|fault| failure(&mut reader, path, fault))?;
        Ok(DigestFile { device, head })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.device.path()
    }

    /// Returns what the header says.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the digests of the chunks of some blocks of digests.
    fn digests(&self, blocks: std::ops::Range<u64>) -> Result<Vec<Digest>> {
        let mut reader = DeviceReader::new(&self.device);
        let mut list = Vec::new();
        for number in blocks {
            let path = self.device.path();
            if let Err(e) = reader.read(DIGEST_BLOCK + number, 1) {
                return Err(failure(&mut reader, path, e.into()));
            }
            // The file may have changed since it was opened.
            match self.head.digests_in(&reader.buffer()[0], number) {
                Ok(digests) => list.extend_from_slice(digests),
                Err(fault) => return Err(failure(&mut reader, path, fault)),
            }
        }
        Ok(list)
    }

    /// Refuses a file that is of a root of another size.
    pub fn refuse_other_size(&self, root: &Device) -> Result {
        let (wanted, found) = (self.head.sectors(), root.sectors());
        if wanted == found {
            return Ok(());
        }
        let text = format!(
            "{}: it has {found} sectors, and {} is of {wanted} sectors: name the digest file of this \
             root, or use another copy of the root",
            root.name(),
            output::path(self.path())
        );
        Err(Fail::new(REFUSED, "wrong_root", text))
    }
}

fn failure(reader: &mut DeviceReader<'_>, path: &Path, fault: DigestFault) -> Fail {
    let reason = match fault {
        DigestFault::Failed(e) => return reader.failure(e.into()),
        DigestFault::NotDigests => "not_a_digest_file",
        DigestFault::NewerVersion(_) => "newer_version",
        DigestFault::UnknownFeatures(_) => "unknown_features",
        DigestFault::OtherDigest => "other_digest",
        DigestFault::Damaged { .. } | DigestFault::Length(..) | DigestFault::WrongSum => "damaged",
    };
    Fail::new(REFUSED, reason, format!("{}: {fault}", output::path(path)))
}

/// Refuses a leaf that may still change. The content of a frozen leaf does not.
pub fn refuse_leaf(device: &Device) -> Result {
    if probe::superblock(device).is_none_or(|sb| sb.frozen.is_some()) {
        return Ok(());
    }
    let name = device.name();
    let text = format!(
        "{name}: a leaf, which changes: only a root or a frozen leaf has a full digest; to check the \
         leaf: ubctl check {name}"
    );
    Err(Fail::new(REFUSED, "is_leaf", text))
}

/// Reads all of a device in parallel, and computes the digest of each chunk.
pub struct Chunks<'a> {
    device: &'a Device,
    head: Head,
    progress: Progress,
}

/// The digest of a chunk, or why the chunk cannot be read.
pub type ChunkDigest = Result<Digest>;

impl<'a> Chunks<'a> {
    /// Begins, with what of the device is in the page cache dropped, so that the bytes come from
    /// the disk.
    pub fn new(what: &'static str, device: &'a Device) -> Result<Chunks<'a>> {
        let head = Head::new(device.sectors(), [0; 32]);
        let head = head.ok_or_else(|| {
            let text = format!(
                "{}: it has {} sectors, and a root has 1 to 2^48: name a root",
                device.name(),
                device.sectors()
            );
            Fail::new(REFUSED, "too_small", text)
        })?;
        // This is advice. If the kernel keeps the pages, reads return what programs see.
        let _ = fadvise(device.file(), 0, None, Advice::DontNeed);
        Ok(Chunks {
            device,
            head,
            progress: Progress::new(what, device.sectors()),
        })
    }

    /// Returns the header for the digests, which still lacks the full digest.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Calls `each` for some blocks of digests after the other, with their numbers and the digests
    /// of their chunks in order. Keeps no more than these in memory.
    pub fn batches(
        &self,
        mut each: impl FnMut(std::ops::Range<u64>, Vec<ChunkDigest>) -> Result,
    ) -> Result {
        let blocks = self.head.digest_blocks();
        let mut from = 0;
        while from < blocks {
            let to = (from + BATCH_BLOCKS).min(blocks);
            let chunks = from * DIGESTS_IN_BLOCK..self.head.chunks().min(to * DIGESTS_IN_BLOCK);
            let digests = self.compute(chunks);
            interrupt::check()?;
            each(from..to, digests)?;
            from = to;
        }
        Ok(())
    }

    /// Computes the digests of some chunks, with as many threads as there are processors. After a
    /// signal some are missing.
    fn compute(&self, chunks: std::ops::Range<u64>) -> Vec<ChunkDigest> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicU64::new(chunks.start);
        let found = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let own = self.compute_as_one(&next, chunks.end, usize_as_u64(threads));
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.extend(own);
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(chunk, _)| *chunk);
        found.into_iter().map(|(_, digest)| digest).collect()
    }

    /// Computes digests as one of the threads, until there are no more.
    fn compute_as_one(&self, next: &AtomicU64, end: u64, threads: u64) -> Vec<(u64, ChunkDigest)> {
        let mut room = vec![0; CHUNK_BYTES as usize];
        let mut own = Vec::new();
        while interrupt::check().is_ok() {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            if chunk >= end {
                break;
            }
            // The disk reads what comes next while this thread computes.
            self.advise(chunk + threads, Advice::WillNeed);
            let (first, sectors) = self.head.sectors_of(chunk);
            let room = &mut room[..u64_as_usize(sectors * 512)];
            let read = self.device.read_at(first * 512, room);
            own.push((chunk, read.map(|()| digest_of(room))));
            // A root that is larger than the memory would take the place of all that is in use.
            self.advise(chunk, Advice::DontNeed);
            self.progress.add(sectors);
        }
        own
    }

    fn advise(&self, chunk: u64, advice: Advice) {
        let (first, sectors) = self.head.sectors_of(chunk);
        if let Some(bytes) = std::num::NonZeroU64::new(sectors * 512) {
            // Without it the reads are slower.
            let _ = fadvise(self.device.file(), first * 512, Some(bytes), advice);
        }
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut sum = Sha256::new();
    sum.update(bytes);
    sum.finish()
}

/// Why a part of a root is not as its digests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has another SHA-256.
    Differs,
    /// It cannot be read.
    Unreadable,
}

/// Chunks next to each other that are not as their digests say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRange {
    /// The first byte.
    pub byte: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Why.
    pub why: Why,
    /// The message of the first read that failed.
    pub message: Option<String>,
}

/// The result of a comparison.
pub struct Compared {
    /// What is not as it must be, in order.
    pub bad: Vec<BadRange>,
    /// The full digest of the device. `None` if a part of it could not be read.
    pub digest: Option<Digest>,
}

/// Computes the digest of each chunk of a device, and compares it with those of a file.
pub fn compare(device: &Device, file: Option<&DigestFile>) -> Result<Compared> {
    let chunks = Chunks::new("verify", device)?;
    let mut sum = Some(Sum::<Sha256>::new(device.sectors()));
    let mut bad: Vec<BadRange> = Vec::new();
    chunks.batches(|blocks, found| {
        let wanted = file.map(|file| file.digests(blocks.clone())).transpose()?;
        for (n, found) in found.into_iter().enumerate() {
            let chunk = blocks.start * DIGESTS_IN_BLOCK + usize_as_u64(n);
            let (first, sectors) = chunks.head().sectors_of(chunk);
            let range = |why, message| BadRange {
                byte: first * 512,
                bytes: sectors * 512,
                why,
                message,
            };
            let wanted = wanted.as_ref().and_then(|list| list.get(n));
            match found {
                Ok(digest) => {
                    if let Some(sum) = &mut sum {
                        sum.add(&digest);
                    }
                    if wanted.is_some_and(|wanted| *wanted != digest) {
                        note(&mut bad, range(Why::Differs, None));
                    }
                }
                Err(fail) => {
                    sum = None;
                    note(&mut bad, range(Why::Unreadable, Some(fail.message)));
                }
            }
        }
        Ok(())
    })?;
    let digest = sum.map(Sum::finish);
    Ok(Compared { bad, digest })
}

/// Adds a range to a list. One that continues the last range becomes part of it, so that a disk of
/// which all is bad needs little memory.
fn note(bad: &mut Vec<BadRange>, range: BadRange) {
    match bad.last_mut() {
        Some(last) if last.why == range.why && last.byte + last.bytes == range.byte => {
            last.bytes += range.bytes;
        }
        _ => bad.push(range),
    }
}

impl BadRange {
    /// Returns the range and what is wrong with it, for people.
    pub fn text(&self) -> String {
        let why = match self.why {
            Why::Differs => "its SHA-256 is not the one that was written for it".to_owned(),
            Why::Unreadable => match &self.message {
                Some(message) => format!("cannot be read: {message}"),
                None => "cannot be read".to_owned(),
            },
        };
        let last = self.byte + self.bytes - 1;
        let size = output::size(self.bytes / 512);
        format!("bytes {} to {last} ({size}): {why}", self.byte)
    }

    /// Returns the same in a word for scripts.
    pub fn word(&self) -> &'static str {
        match self.why {
            Why::Differs => "differs",
            Why::Unreadable => "unreadable",
        }
    }
}

/// Returns the failure for a root of which a part is not as its digests say.
pub fn damaged(device: &Device, bad: &[BadRange]) -> Option<Fail> {
    let first = bad.first()?;
    let bytes: u64 = bad.iter().map(|range| range.bytes).sum();
    let text = format!(
        "{}: {} of {} is not as it was when its digests were made, the first: {}; use another copy of it",
        device.name(),
        output::size(bytes / 512),
        output::size(device.sectors()),
        first.text()
    );
    Some(Fail::new(REFUSED, "damaged", text))
}

/// Refuses a digest of something that changed while it was computed. Only of an image does the
/// kernel say so.
pub fn refuse_changed(device: &Device) -> Result {
    let before = device.metadata();
    let now = device.file().metadata();
    let now = now.map_err(|e| Fail::io("look at", device.path(), &e))?;
    use std::os::unix::fs::MetadataExt;
    let state = |meta: &fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    if device.is_block() || state(before) == state(&now) {
        return Ok(());
    }
    let text = format!(
        "{}: it changed while it was read: nothing may write to it meanwhile; find what writes to it, \
         and try again",
        device.name()
    );
    Err(Fail::new(FAILED, "changed", text))
}

/// Bytes of a block of the file.
pub const BLOCK: u64 = BLOCK_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::{note, BadRange, Why};

    #[test]
    fn ranges_that_touch_are_one() {
        let range = |byte, why| BadRange {
            byte,
            bytes: 10,
            why,
            message: None,
        };
        let mut list = Vec::new();
        for (byte, why) in [
            (0, Why::Differs),
            (10, Why::Differs),
            (20, Why::Unreadable),
            (40, Why::Unreadable),
        ] {
            note(&mut list, range(byte, why));
        }
        let found: Vec<(u64, u64)> = list.iter().map(|r| (r.byte, r.bytes)).collect();
        assert_eq!(found, [(0, 20), (20, 10), (40, 10)]);
        assert!(
            list[0].text().starts_with("bytes 0 to 19 ("),
            "{}",
            list[0].text()
        );
        assert_eq!(list[1].word(), "unreadable");
    }
}
