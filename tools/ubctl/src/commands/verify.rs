// SPDX-License-Identifier: GPL-2.0

//! `ubctl verify`: verifies all of a sealed layer, a root or a frozen leaf, with as many threads as
//! there are processors.

mod root;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Args;
use map_memory::sha256::Sha256;
use serde::Serialize;
use ubcore::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::num::u64_as_usize;
use ubcore::sealed::digests::{self, blocks_of, locate_digest, CHUNK_BLOCKS};
use ubcore::sealed::header::{Header, DATA_BLOCK};
use ubcore::sealed::open::{Sealed, SealedExtents};
use ubcore::sealed::{chunk, Digest, Reader};
use ubcore::stack::extent::{Content, Extent, Extents};

use super::squash::merged::Merged;
use crate::device::Device;
use crate::error::{Fail, Result, REFUSED};
use crate::layer_arg::LayerArg;
use crate::lost_sectors::{self, SectorRange};
use crate::progress::Progress;
use crate::sealed::{self, DeviceReader, HeaderReport};
use crate::value_parser::digest;
use crate::{interrupt, layer_arg, output};

/// Chunks that wait for a thread, for each thread.
const WAITING: usize = 2;

pub(super) use root::refuse_damage as refuse_root_damage;

const AFTER_HELP: &str = "\
A sealed layer has its digests in it. A root or a frozen leaf has them in a digest
file, which ubctl seal-root makes. It is looked for beside an image, as IMAGE.ubdigest.
With --digest and no such file, all of the root is compared with that digest.

Exits with 3 if anything is damaged, and names the first MiB of data that is,
and the sectors of the union that lie there. Of a root it names each part that is
damaged or cannot be read.

The stand-in record names the layers whose place a sealed layer takes. The digest
does not cover it. On a host that has these layers, --against verifies it.

Examples:
  ubctl verify web-01.sealed
  ubctl verify /dev/vdc@1G --digest 5f70bf18a086...
  ubctl verify gold.img
  ubctl verify /dev/vda --digest-file /srv/vda.ubdigest
  ubctl verify base-1.sealed --against base.leaf --against step1.leaf";

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct VerifyArgs {
    /// The sealed layer, root or frozen leaf: a file or a block device; it is only read
    #[arg(value_parser = LayerArg::parser(), value_name = "WHAT")]
    pub sealed: LayerArg,
    /// A layer to compare with: the sealed layer must have the content of all of them together,
    /// and, if it has a stand-in record, stand for them; repeated, the lowest first
    #[arg(long, value_name = "LAYER", value_parser = LayerArg::parser())]
    pub against: Vec<LayerArg>,
    /// The digest file of a root or a frozen leaf [default: IMAGE.ubdigest]
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// The digest that the layer or root must have, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = digest)]
    pub digest: Option<Digest>,
}

/// The result of a verification. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct VerifyReport {
    sealed: String,
    offset: u64,
    #[serde(flatten)]
    header: HeaderReport,
    stand_in: Option<StandInReport>,
    /// What --against has shown.
    against: Option<AgainstReport>,
    damaged: Vec<DamagedChunk>,
}

/// How the layer compares with others.
#[derive(Debug, Serialize)]
struct AgainstReport {
    layers: Vec<String>,
    /// The digest of one layer in their place.
    digest: String,
    same_content: bool,
    /// Whether the layer stands for just these layers; `null` if it stands for none.
    same_place: Option<bool>,
}

/// What the layer stands for.
#[derive(Debug, Serialize)]
struct StandInReport {
    below: String,
    after: String,
    layers: u32,
}

/// One MiB of data that is not as it must be.
#[derive(Debug, Serialize)]
struct DamagedChunk {
    mib: u64,
    /// From the start of the layer.
    block: u64,
    blocks: u64,
    why: String,
    /// The sectors of the union that lie there.
    lost: Vec<SectorRange>,
}

/// Runs the command.
pub fn run(args: &VerifyArgs, json: bool) -> Result {
    let device = args.sealed.open()?;
    if let Some(wanted) = root::wanted(args, &device)? {
        return root::run(&device, &wanted, json);
    }
    let sealed = sealed::open(&device, args.digest.as_ref()).map_err(with_seal_root)?;
    let damaged = verify_data(&device, &sealed.header)?;
    let against = match &args.against[..] {
        [] => None,
        layers => Some(against(&sealed, layers)?),
    };
    let report = report(args, &sealed, damaged, against);
    let fail = judge(&report, sealed.header.chunks());
    if !json {
        output::text(&text(&report))?;
        return fail.map_or(Ok(()), Err);
    }
    match fail {
        None => output::json(&report),
        Some(fail) => Err(fail.with(serde_json::to_value(&report).unwrap_or_default())),
    }
}

/// Adds to the failure for what is no sealed layer how a root is verified.
fn with_seal_root(mut fail: Fail) -> Fail {
    if fail.reason == "not_sealed" {
        fail.message += "; a root needs a digest file (--digest-file), which ubctl seal-root makes";
    }
    fail
}

/// Compares a sealed layer with layers, the lowest first, that are on this host. The same content
/// gives the same digest.
fn against(sealed: &Sealed, layers: &[LayerArg]) -> Result<AgainstReport> {
    let devices = layers.iter().map(LayerArg::open).collect::<Result<_>>()?;
    let merged = Merged::new(devices)?;
    let digest = merged.header()?.digest;
    Ok(AgainstReport {
        layers: layers.iter().map(LayerArg::name).collect(),
        digest: output::hex(&digest),
        same_content: digest == sealed.header.digest,
        same_place: sealed.stand_in.map(|s| s == merged.stand_in),
    })
}

/// Refuses a sealed layer whose data is damaged. `device` begins with it.
pub(super) fn refuse_damage(device: &Device, header: &Header) -> Result {
    let damaged = verify_data(device, header)?;
    let Some(first) = damaged.first() else {
        return Ok(());
    };
    let text = format!(
        "{}: {} of {} MiB of data are damaged, the first: MiB {} at block {}: {}: see ubctl verify",
        device.name(),
        damaged.len(),
        header.chunks(),
        first.mib,
        first.block,
        first.why
    );
    Err(Fail::new(REFUSED, "damaged", text))
}

fn report(
    args: &VerifyArgs,
    sealed: &Sealed,
    damaged: Vec<DamagedChunk>,
    against: Option<AgainstReport>,
) -> VerifyReport {
    VerifyReport {
        sealed: args.sealed.path.display().to_string(),
        offset: args.sealed.offset,
        header: HeaderReport::new(&sealed.header),
        stand_in: sealed.stand_in.map(|s| StandInReport {
            below: output::hex(&s.below.0),
            after: output::hex(&s.after.0),
            layers: s.layers,
        }),
        against,
        damaged,
    }
}

impl VerifyReport {
    fn name(&self) -> String {
        layer_arg::name(Path::new(&self.sealed), self.offset)
    }
}

fn text(report: &VerifyReport) -> String {
    let mut fields = report.header.fields();
    if let Some(s) = &report.stand_in {
        let layers = output::counted(s.layers, "layer");
        let same = report.against.as_ref().and_then(|a| a.same_place);
        let proof = match same {
            None => "not verified: use --against",
            Some(true) => "verified with --against",
            Some(false) => "not those of --against",
        };
        fields.push(("stands for", format!("{layers}, {proof}")));
        fields.push(("chain below", s.below.clone()));
        fields.push(("chain with it", s.after.clone()));
    }
    if let Some(a) = &report.against {
        let layers = a.layers.join(", ");
        let content = match a.same_content {
            true => format!("the content of {layers}"),
            false => format!("not the content of {layers}, which is {}", a.digest),
        };
        fields.push(("against", content));
    }
    let state = if report.damaged.is_empty() {
        "whole"
    } else {
        "damaged"
    };
    let head = format!("{}: a sealed layer, {state}\n", report.name());
    head + &output::fields(&fields)
}

/// Returns the failure that sets the exit code if something is not as it must be.
fn judge(report: &VerifyReport, chunks: u64) -> Option<Fail> {
    let name = report.name();
    if let Some(first) = report.damaged.first() {
        let text = format!(
            "{name}: {} of {chunks} MiB of data are damaged, the first: MiB {} at block {}: {}; {}; use \
             another copy of it",
            report.damaged.len(),
            first.mib,
            first.block,
            first.why,
            lost_sectors::text(&first.lost)
        );
        return Some(Fail::new(REFUSED, "damaged", text));
    }
    let against = report.against.as_ref()?;
    let layers = against.layers.join(", ");
    if !against.same_content {
        let text = format!(
            "{name}: it does not have the content of {layers}: do not use it in their place"
        );
        return Some(Fail::new(REFUSED, "other_content", text));
    }
    let text = format!(
        "{name}: it has the content of {layers}, and says that it stands for other layers: do not use \
         it in their place; ubctl squash makes another"
    );
    (against.same_place == Some(false)).then(|| Fail::new(REFUSED, "other_place", text))
}

/// A chunk to verify, and the extents that have data in it.
struct ChunkWork {
    chunk: u64,
    digest: Digest,
    extents: Vec<Extent>,
}

/// Verifies the data. Returns the chunks that are damaged, in order.
fn verify_data(device: &Device, header: &Header) -> Result<Vec<DamagedChunk>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (sender, receiver) = mpsc::sync_channel(threads * WAITING);
    let receiver = Mutex::new(receiver);
    let found = Mutex::new(BTreeMap::new());
    let progress = Progress::new("verify", header.data_blocks * BLOCK_SECTORS);
    let handed_out = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| verify_chunks(device, header, &receiver, &found, &progress));
        }
        hand_out(device, header, sender)
    });
    handed_out?;
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(found.into_values().collect())
}

/// Verifies chunks, as one of the threads, until there are no more.
fn verify_chunks(
    device: &Device,
    header: &Header,
    receiver: &Mutex<Receiver<ChunkWork>>,
    found: &Mutex<BTreeMap<u64, DamagedChunk>>,
    progress: &Progress,
) {
    let mut room = vec![[0; BLOCK_BYTES]; u64_as_usize(CHUNK_BLOCKS)];
    let next = || {
        let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.recv()
    };
    while let Ok(work) = next() {
        let (block, blocks) = blocks_of(work.chunk, header);
        let room = &mut room[..u64_as_usize(blocks)];
        if let Some(why) = judge_chunk(device, block, room, &work) {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            let damaged = DamagedChunk {
                mib: work.chunk,
                block,
                blocks,
                why,
                lost: lost(block, blocks, &work.extents),
            };
            found.insert(work.chunk, damaged);
        }
        progress.add(blocks * BLOCK_SECTORS);
    }
}

/// Returns what is wrong with a chunk.
fn judge_chunk(
    device: &Device,
    block: u64,
    room: &mut [Block],
    work: &ChunkWork,
) -> Option<String> {
    let at = block * BLOCK_BYTES as u64;
    if let Err(fail) = device.read_at(at, room.as_flattened_mut()) {
        return Some(fail.message);
    }
    if !chunk::has_digest::<Sha256>(room, &work.digest) {
        return Some("its SHA-256 is not the one that was written for it".to_owned());
    }
    let sector = chunk::stray(block, room, &work.extents)?;
    Some(format!(
        "sector {sector} of the layer is not as the canonical form has it"
    ))
}

/// Returns what of the union lies in some blocks.
fn lost(block: u64, blocks: u64, extents: &[Extent]) -> Vec<SectorRange> {
    let (start, end) = (block * BLOCK_SECTORS, (block + blocks) * BLOCK_SECTORS);
    let of = |e: &Extent| {
        let Content::Data(position) = e.content else {
            return None;
        };
        let (from, to) = (position.max(start), (position + e.sectors).min(end));
        Some(SectorRange {
            sector: e.first + (from - position),
            sectors: to.checked_sub(from).filter(|&n| n > 0)?,
        })
    };
    extents.iter().filter_map(of).collect()
}

/// Sends each chunk to the threads, in order.
fn hand_out(device: &Device, header: &Header, sender: SyncSender<ChunkWork>) -> Result {
    let mut extents = SealedExtents::new(DeviceReader::new(device), header);
    let mut list = DeviceReader::new(device);
    let failed = |e| Fail::core("the index was read again", e);
    // The extents with data in the chunk that comes next.
    let mut here: Vec<Extent> = Vec::new();
    for chunk in 0..header.chunks() {
        interrupt::check()?;
        let (block, blocks) = blocks_of(chunk, header);
        let end = (block + blocks) * BLOCK_SECTORS;
        while here.last().is_none_or(|last| end_of(last) < end) {
            match extents.next().map_err(failed)? {
                Some(e) if e.content == Content::Zero => {}
                Some(e) => here.push(e),
                None => break,
            }
        }
        let digest = digest_of(&mut list, header, chunk)?;
        // The last one may begin in a later chunk.
        let work = ChunkWork {
            chunk,
            digest,
            extents: here.clone(),
        };
        if sender.send(work).is_err() {
            break;
        }
        here.retain(|e| end_of(e) > end);
    }
    Ok(())
}

/// Returns the sector of the layer at which the data of an extent ends.
fn end_of(extent: &Extent) -> u64 {
    match extent.content {
        Content::Data(position) => position + extent.sectors,
        Content::Zero => DATA_BLOCK * BLOCK_SECTORS,
    }
}

/// Returns the digest of a chunk. Reads a block of digests if the chunk is the first one in it.
fn digest_of(list: &mut DeviceReader, header: &Header, chunk: u64) -> Result<Digest> {
    let (number, at) = locate_digest(chunk);
    if at == 0 {
        let read = list.read(header.digest_block() + number, 1);
        read.map_err(|e| list.failure(e.into()))?;
    }
    match digests::decode(&list.buffer()[0], number, header) {
        Ok(digests) => Ok(digests[at]),
        Err(fault) => Err(list.failure(fault)),
    }
}
