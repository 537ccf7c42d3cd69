// SPDX-License-Identifier: GPL-2.0

//! `ubctl seal-root`: computes the full digest of a root, and writes it to a digest file.

use std::path::{Path, PathBuf};

use clap::Args;
use map_memory::sha256::Sha256;
use serde::Serialize;
use ubcore::error::Role;
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::num::saturating_u32;
use ubcore::sealed::digests::{self, DIGESTS_IN_BLOCK};
use ubcore::sealed::full_digest::{Head, Sum, CHUNK_BYTES, DIGEST_BLOCK};
use ubcore::sealed::Digest;

use crate::device::{Access, Device};
use crate::error::{Fail, Result, FAILED, REFUSED, USAGE};
use crate::full_digest::{self, Chunks, BLOCK};
use crate::target::{Output, Target, Wanted};
use crate::{interrupt, loopdev, output, sealed};

const AFTER_HELP: &str = "\
The root is only read, with as many threads as there are processors. The digest file
has a SHA-256 for each MiB of it. It is written beside FILE and takes that name when
it is whole; after Ctrl-C nothing of it is there. A frozen leaf can be sealed so, too.

ubctl verify ROOT and ubctl create --verify compare the root with the file. Keep the
digest that is printed in a place that is trusted: with --digest, verify accepts no
other file.

Examples:
  ubctl seal-root gold.img                           writes gold.img.ubdigest
  ubctl seal-root /dev/vda --out /srv/vda.ubdigest
  ubctl verify gold.img";

/// Arguments of `seal-root`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct SealRootArgs {
    /// The root, or a frozen leaf: a block device or an image; it is only read
    pub root: PathBuf,
    /// The digest file [default: ROOT.ubdigest, for an image]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    pub force: bool,
    /// Only say what would be replaced, after all checks that need no reading
    #[arg(long)]
    pub dry_run: bool,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct SealRootReport {
    root: String,
    digest_file: String,
    digest: String,
    sectors: u64,
    chunk_bytes: u32,
    chunks: u64,
}

/// Runs the command.
pub fn run(args: &SealRootArgs, json: bool) -> Result {
    let root = Device::open(&args.root, Role::Root, Access::Read)?;
    loopdev::refuse_locked(&args.root, Role::Root)?;
    full_digest::refuse_leaf(&root)?;
    refuse_sealed(&root)?;
    let out = place(args)?;
    let wanted = Wanted {
        what: "digest file",
        force: args.force,
        append: false,
    };
    let target = Target::check(wanted, &out, [&root])?;
    if args.dry_run {
        return target.report_plan(&out, json);
    }
    interrupt::watch()?;
    let chunks = Chunks::new("seal-root", &root).map_err(|fail| target.untouched(fail))?;
    let mut writer = target.begin(chunks.head().blocks() * BLOCK)?;
    let done = write(&root, &chunks, &writer).and_then(|head| {
        full_digest::refuse_changed(&root)?;
        writer.finish().map(|()| head)
    });
    drop(chunks);
    let head = done.map_err(|fail| writer.undo(fail))?;
    report(&root, &out, &head, json)
}

fn refuse_sealed(root: &Device) -> Result {
    if !sealed::is_marked(root) {
        return Ok(());
    }
    let name = root.name();
    let text = format!(
        "{name}: a sealed layer, which has its digests in it: to verify it: ubctl verify {name}"
    );
    Err(Fail::new(REFUSED, "is_sealed", text))
}

/// Returns where the digest file is to be.
fn place(args: &SealRootArgs) -> Result<PathBuf> {
    let Some(out) = &args.out else {
        return full_digest::beside(&args.root).ok_or_else(|| {
            let text = format!(
                "{} is a block device, and no file can be beside it: name the digest file with --out",
                output::path(&args.root)
            );
            Fail::new(USAGE, "usage", text)
        });
    };
    let is_other = std::fs::metadata(out).is_ok_and(|meta| !meta.is_file());
    if is_other {
        let text = format!(
            "{} is no file: name a new file for the digests",
            output::path(out)
        );
        return Err(Fail::new(REFUSED, "not_a_file", text));
    }
    Ok(out.clone())
}

/// Writes the blocks of digests, and then the header. All is durable then.
fn write(root: &Device, chunks: &Chunks<'_>, writer: &Output) -> Result<Head> {
    let mut sum = Sum::<Sha256>::new(root.sectors());
    chunks.batches(|blocks, found| {
        let found = found.into_iter().collect::<Result<Vec<Digest>>>()?;
        for (number, digests) in blocks.zip(found.chunks(DIGESTS_IN_BLOCK as usize)) {
            digests.iter().for_each(|digest| sum.add(digest));
            let block = block_of(number, digests)?;
            writer.put((DIGEST_BLOCK + number) * BLOCK, &block)?;
        }
        Ok(())
    })?;
    writer.sync()?;
    let head = Head::new(root.sectors(), sum.finish());
    let head = head.ok_or_else(|| Fail::new(FAILED, "internal", "the root has no sectors"))?;
    let mut block = [0; BLOCK_BYTES];
    head.encode(&mut block);
    writer.put(0, &block)?;
    writer.sync()?;
    Ok(head)
}

fn block_of(number: u64, digests: &[Digest]) -> Result<Block> {
    let mut block = [0; BLOCK_BYTES];
    for (at, digest) in (0..).zip(digests) {
        digests::put(&mut block, at, digest).map_err(|e| Fail::core("a block of digests", e))?;
    }
    let count = saturating_u32(digests.len() as u64);
    digests::complete(&mut block, saturating_u32(number), count);
    Ok(block)
}

fn report(root: &Device, out: &Path, head: &Head, json: bool) -> Result {
    let report = SealRootReport {
        root: root.path().display().to_string(),
        digest_file: out.display().to_string(),
        digest: output::hex(head.digest()),
        sectors: head.sectors(),
        chunk_bytes: CHUNK_BYTES,
        chunks: head.chunks(),
    };
    if json {
        return output::json(&report);
    }
    output::text(&format!(
        "{}: digests of {}\n{}",
        output::path(out),
        root.name(),
        output::fields(&[
            ("digest", report.digest),
            ("size", output::size(head.sectors())),
            ("digests", report.chunks.to_string()),
        ])
    ))
}
