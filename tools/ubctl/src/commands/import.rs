// SPDX-License-Identifier: GPL-2.0

//! `ubctl import`: makes a sealed layer from a stream of `ubctl export`, and verifies all of it.

use std::io::{self, IsTerminal, Read, Stdin};
use std::path::PathBuf;

use clap::Args;
use map_memory::sha256::Sha256;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use ubcore::error::Error;
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::sealed::header::Header;
use ubcore::sealed::open::Sealed;
use ubcore::sealed::Writer;
use ubcore::stack::chain::ChainId;

use super::verify;
use crate::below::{self, Below, Opened, RootArg};
use crate::error::{Fail, Result, FAILED, REFUSED, USAGE};
use crate::layer_arg::LayerArg;
use crate::progress::Progress;
use crate::sealed::{self, HeaderReport};
use crate::sealing::SEALED_LAYER;
use crate::stream::{LeafPlace, StreamFault, StreamHead, StreamReader, VERSION};
use crate::target::{Output, Target, Wanted};
use crate::{interrupt, layer_arg, output, root_samples};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How often a signal is looked for while no part of the stream comes.
const POLL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

const AFTER_HELP: &str = "\
The stream comes on standard input. If its leaf was made on another root or other
layers than those given, it is refused before anything is written. The digest of
the stream is verified, then the layer is read back, and its digest, its index and
each MiB of its data are verified as by ubctl verify. Only then OUT gets its name.

If Ctrl-C or an error ends the import, a file OUT is as it was before. The import
cannot be resumed: start it again. A device is left partly overwritten, and holds no
sealed layer.

To continue from the changes, make a leaf on the layer: ubctl format --layer OUT.
The layer of a frozen leaf also takes the place of that leaf below leaves on it.

Exits with 3 if the stream is cut or damaged, or of another root or other layers.

Examples:
  ubctl import --root gold.img web-01.sealed < web-01.stream
  ssh HOST ubctl export step2.leaf | ubctl import --root gold.img --layer step1.leaf step2.sealed
  ubctl import --unchecked archive.sealed < step2.stream";

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ImportArgs {
    /// The root that the layer is for: a block device or an image. The word none stands for no root
    #[arg(long, value_parser = RootArg::parse, required_unless_present = "unchecked")]
    pub root: Option<RootArg>,
    /// A layer that it lies on; repeated, the lowest first. ubctl adds the layers that the first
    /// one lists, from their recorded paths
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    pub layers: Vec<LayerArg>,
    /// Do not check what it lies on
    #[arg(long, conflicts_with_all = ["root", "layers"])]
    pub unchecked: bool,
    /// The sealed layer: a new file, or a block device
    pub out: PathBuf,
    /// Replace an existing file, or write to a device that looks used
    #[arg(long)]
    pub force: bool,
    /// Only say what would be replaced; the stream is not read
    #[arg(long)]
    pub dry_run: bool,
    /// Append to the sealed layers in OUT. The result has the offset
    #[arg(long)]
    pub append: bool,
}

/// The answer. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct ImportReport {
    version: u32,
    out: String,
    offset: u64,
    #[serde(flatten)]
    header: HeaderReport,
    /// What the leaf was called where it was exported.
    from: String,
    /// Whether root and layers are known to be those of the leaf.
    checked: bool,
    /// How many layers it can stand for.
    stands_for: u32,
}

/// Runs the command.
pub fn run(args: &ImportArgs, json: bool) -> Result {
    if !args.dry_run && io::stdin().is_terminal() {
        let text = "the stream comes on standard input: add < FILE, or ubctl export ... |";
        return Err(Fail::new(USAGE, "usage", text));
    }
    let below = below(args)?;
    let wanted = Wanted {
        what: SEALED_LAYER,
        force: args.force,
        append: args.append,
    };
    let devices = below.iter().flat_map(Opened::devices);
    let target = Target::check(wanted, &args.out, devices)?;
    if args.dry_run {
        return target.report_plan(&args.out, json);
    }
    let offset = target.start();
    // From here on a signal ends the work between two steps, and undoes it.
    interrupt::watch()?;
    let begun =
        StreamReader::begin(InterruptibleStdin(io::stdin())).map_err(|fault| failure(&fault));
    let (mut reader, head) = begun.map_err(|fail| target.untouched(fail))?;
    let checked = check(&head, below.as_ref()).map_err(|fail| target.untouched(fail))?;
    let mut writer = target.begin(head.blocks.saturating_mul(BLOCK))?;
    let done = write(&mut reader, &head, &mut writer)
        .and_then(|()| verify(&head, &writer))
        .and_then(|sealed| interrupt::check().map(|()| sealed))
        .and_then(|sealed| writer.finish().map(|()| sealed));
    let sealed = done.map_err(|fail| undo(writer, fail))?;
    report(args, offset, &head, (&sealed, checked), json)
}

/// Opens what the layer is to lie on, and checks that it fits together.
fn below(args: &ImportArgs) -> Result<Option<Opened>> {
    let Some(root) = &args.root else {
        return Ok(None);
    };
    let layers = below::with_listed(&args.layers)?;
    let opened = Below::as_it_is(root, &layers).open(None)?;
    opened.refuse_other_below()?;
    Ok(Some(opened))
}

/// Refuses a stream whose leaf lies on something else. Returns whether that is known.
fn check(head: &StreamHead, below: Option<&Opened>) -> Result<bool> {
    let (Some(place), Some(below)) = (&head.place, below) else {
        return Ok(false);
    };
    let from = output::path(std::path::Path::new(&head.from));
    let refused = |e| Err(Fail::core(&format!("the stream of {from}"), e));
    let found = below.list.len() as u64;
    if !below
        .chains()
        .iter()
        .any(|chain| output::hex(&chain.0) == place.chain)
    {
        return refused(if u64::from(place.layers) == found {
            Error::LayerIdentity
        } else {
            Error::LayerCount(place.layers.into(), found)
        });
    }
    match (&place.root, &below.root) {
        (None, None) => Ok(true),
        (None, Some(root)) => refused(Error::RootSize(0, root.sectors())),
        (Some(root), None) => refused(Error::RootSize(root.sectors, 0)),
        (Some(want), Some(root)) if want.sectors != root.sectors() => {
            refused(Error::RootSize(want.sectors, root.sectors()))
        }
        (Some(want), Some(root)) => {
            let digest = root_samples::digest(root, &uuid(place)?)?;
            if output::hex(&digest) != want.digest {
                return refused(Error::RootContent);
            }
            Ok(true)
        }
    }
}

fn uuid(place: &LeafPlace) -> Result<[u8; 16]> {
    let number = u128::from_str_radix(&place.uuid, 16).ok();
    let number = number.filter(|_| place.uuid.len() == 32);
    let damaged = || failure(&StreamFault::Damaged("its head: the UUID".to_owned()));
    number.map(u128::to_be_bytes).ok_or_else(damaged)
}

/// Writes the layer: first all but the first two blocks, and these when the stream was whole.
fn write(
    reader: &mut StreamReader<InterruptibleStdin>,
    head: &StreamHead,
    writer: &mut Output,
) -> Result {
    let progress = Progress::new("import", head.blocks.saturating_mul(8));
    let mut first: [Block; 2] = [[0; BLOCK_BYTES]; 2];
    // A header or a leaf that was there must not stay beside data that is overwritten.
    writer.put(0, first.as_flattened())?;
    writer.sync()?;
    while let Some((block, blocks)) = reader.record().map_err(|fault| failure(&fault))? {
        interrupt::check()?;
        for (at, content) in (block..).zip(blocks) {
            if let Some(room) = usize::try_from(at).ok().and_then(|at| first.get_mut(at)) {
                *room = *content;
            }
        }
        let skipped = blocks
            .len()
            .min(2usize.saturating_sub(usize::try_from(block).unwrap_or(2)));
        if let Some(rest) = blocks.get(skipped..).filter(|rest| !rest.is_empty()) {
            writer.put((block + skipped as u64) * BLOCK, rest.as_flattened())?;
        }
        progress.add(blocks.len() as u64 * 8);
    }
    let [header, stand_in] = first;
    let done = writer.write(1, &[stand_in]);
    let done = done.and_then(|()| writer.flush());
    let done = done.and_then(|()| writer.write(0, &[header]));
    done.and_then(|()| writer.flush()).map_err(|e| {
        writer
            .take_fail()
            .unwrap_or_else(|| Fail::core("the sealed layer", e))
    })
}

/// Reads the layer back, and verifies all of it.
fn verify(head: &StreamHead, writer: &Output) -> Result<Sealed> {
    writer.forget();
    let device = writer.device()?;
    let sealed = sealed::open(&device, None)?;
    if sealed.header.blocks() != head.blocks {
        return Err(failure(&StreamFault::Damaged(
            "the size of the layer".to_owned(),
        )));
    }
    // The digest of the layer does not cover the record, so it is compared with the head.
    if let (Some(stand_in), Some(place)) = (&sealed.stand_in, &head.place) {
        if output::hex(&stand_in.below.0) != place.chain {
            return Err(failure(&StreamFault::Damaged(
                "the chain of the layer".to_owned(),
            )));
        }
    }
    verify::refuse_damage(&device, &sealed.header)?;
    Ok(sealed)
}

/// Undoes the write to the output.
fn undo(writer: Output, fail: Fail) -> Fail {
    // On a device, the header may be there by now.
    writer.erase_header();
    writer.undo(fail)
}

fn report(
    args: &ImportArgs,
    offset: u64,
    head: &StreamHead,
    (sealed, checked): (&Sealed, bool),
    json: bool,
) -> Result {
    let header: &Header = &sealed.header;
    let report = ImportReport {
        version: VERSION,
        out: args.out.display().to_string(),
        offset,
        header: HeaderReport::new(header),
        from: head.from.clone(),
        checked,
        stands_for: sealed.stand_in.map_or(0, |s| s.layers),
    };
    if json {
        return output::json(&report);
    }
    let lies_on = match (checked, &head.place) {
        (true, _) => "the root and the layers given",
        (false, Some(_)) => "not checked",
        (false, None) => "not known: a sealed layer does not say",
    };
    let mut fields = report.header.fields();
    fields.push(("lies on", lies_on.to_owned()));
    output::text(&format!(
        "{}: sealed layer of {}, verified\n{}",
        layer_arg::name(&args.out, offset),
        output::path(std::path::Path::new(&report.from)),
        output::fields(&fields)
    ))
}

/// Returns the failure for a stream.
fn failure(fault: &StreamFault) -> Fail {
    let again = "export it again";
    let (code, reason, text) = match fault {
        StreamFault::NotAStream => {
            let text = "this is no stream of ubctl export: check what writes to the pipe";
            (REFUSED, "not_a_stream", text.to_owned())
        }
        StreamFault::NewerVersion(n) => {
            let text = format!("the stream is of version {n}: use a newer ubctl");
            (REFUSED, "newer_version", text)
        }
        StreamFault::Cut => {
            let text =
                format!("the stream ends too early: see the message of its writer, and {again}");
            (REFUSED, "cut", text)
        }
        StreamFault::Damaged(what) => {
            let text = format!("the stream is damaged ({what}): {again}");
            (REFUSED, "damaged", text)
        }
        StreamFault::Io(e) => {
            if let Err(fail) = interrupt::check() {
                return fail;
            }
            (FAILED, "io", format!("cannot read standard input: {e}"))
        }
    };
    Fail::new(code, reason, text)
}

/// Standard input. A signal ends the wait for it.
struct InterruptibleStdin(Stdin);

impl Read for InterruptibleStdin {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            if interrupt::check().is_err() {
                // Not of the kind that a caller of `read` repeats.
                return Err(Errno::CANCELED.into());
            }
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&POLL)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return self.0.read(room),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Opened {
    /// Returns the chains that the layers can be for: a layer that stands for others has two.
    fn chains(&self) -> Vec<ChainId> {
        let mut chains = vec![ChainId::BOTTOM];
        for layer in &self.layers {
            let mut next: Vec<ChainId> =
                chains.iter().map(|c| c.with::<Sha256>(&layer.id)).collect();
            next.extend(layer.stands_on(&chains));
            chains = next;
        }
        chains
    }
}
