// SPDX-License-Identifier: GPL-2.0

//! `ubctl export`: writes the changes of a leaf or layer to standard output, as one stream.

use std::io::{self, IsTerminal, Stdout};

use clap::Args;
use serde::Serialize;
use ubcore::error::Role;
use ubcore::format::superblock::Superblock;
use ubcore::num::u64_as_usize;
use ubcore::sealed::digests::CHUNK_BLOCKS;
use ubcore::sealed::header::Header;
use ubcore::stack::leaf_extents::LeafExtents;

use super::{seal, verify};
use crate::device::Device;
use crate::error::{Fail, Result, FAILED, USAGE};
use crate::layer_arg::LayerArg;
use crate::progress::Progress;
use crate::sealed::{self, HeaderReport};
use crate::sealing::Sealing;
use crate::stream::{LeafPlace, RootPlace, StreamHead, StreamWriter, VERSION};
use crate::{loaded, output};

const AFTER_HELP: &str = "\
The stream is the sealed form of what the leaf or layer maps, compressed with zstd,
and says what the leaf lies on. ubctl import makes a sealed layer of it. A leaf must
be detached, or frozen; a frozen leaf and a sealed layer may be in use. To export a
union in use, freeze it at a point: ubctl freeze UNION --leaf NEW, and then export
the old leaf, which is a layer now.

A leaf is read twice, and only read. A sealed layer is verified first. With --json
the answer is on standard error, because standard output has the stream.

Examples:
  ubctl export web-01.leaf > web-01.stream
  ubctl export step1.leaf | ssh HOST ubctl import --root gold.img step1.sealed
  ubctl export layers.sealed@1028K --level 19 > step2.stream";

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExportArgs {
    /// A leaf, detached or frozen, or a sealed layer: a block device or an image
    #[arg(value_name = "LEAF|LAYER", value_parser = LayerArg::parser())]
    pub what: LayerArg,
    /// How hard zstd compresses: 1 is fast, 19 is small
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..20))]
    pub level: i32,
}

/// The answer. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct ExportReport {
    version: u32,
    from: String,
    #[serde(flatten)]
    header: HeaderReport,
    stream: StreamHead,
}

/// Runs the command.
pub fn run(args: &ExportArgs, json: bool) -> Result {
    let (header, head) = export(args).map_err(Fail::on_stderr)?;
    if json {
        return output::json_on_stderr(&ExportReport {
            version: VERSION,
            from: args.what.name(),
            header: HeaderReport::new(&header),
            stream: head,
        });
    }
    Ok(())
}

fn export(args: &ExportArgs) -> Result<(Header, StreamHead)> {
    if io::stdout().is_terminal() {
        let text = "the stream is not for a terminal: add > FILE, or | ssh HOST ubctl import ...";
        return Err(Fail::new(USAGE, "usage", text));
    }
    let device = args.what.open()?;
    if let Some(sealed) = sealed::open_if_there(&device)? {
        return of_sealed(args, &device, sealed.header);
    }
    drop(device);
    let mut leaf = args.what.open_leaf().map_err(with_frozen_point)?;
    let loaded = loaded::load(&mut leaf)?;
    let (sb, map) = (loaded.committer.superblock(), &loaded.map);
    let what = leaf.name();
    let data_sectors = seal::data_sectors(map).map_err(|e| Fail::core(&what, e))?;
    let sealing = Sealing {
        what: &what,
        sizes: (sb.geometry.union_sectors(), sb.root_block_bytes),
        data_sectors,
        stand_in: seal::place_of(sb),
    };
    let mut head = StreamHead {
        version: VERSION,
        blocks: 0,
        from: what.clone(),
        place: Some(place(sb)),
    };
    let mut blocks_of = 0;
    let extents = || LeafExtents::new(map, || Ok(()));
    let (header, writer) = sealing.stream(
        extents,
        |at, room| leaf.read_at(at * 512, room),
        |blocks| {
            blocks_of = blocks;
            begin(
                args,
                &StreamHead {
                    blocks,
                    ..head.clone()
                },
            )
        },
        |writer, fail| writer.take_fail().map_or(fail, |e| failed(&e)),
    )?;
    writer.finish().map_err(|e| failed(&e))?;
    head.blocks = blocks_of;
    Ok((header, head))
}

/// Writes a sealed layer as it is.
fn of_sealed(args: &ExportArgs, device: &Device, header: Header) -> Result<(Header, StreamHead)> {
    let head = StreamHead {
        version: VERSION,
        blocks: header.blocks(),
        from: args.what.name(),
        place: None,
    };
    // A stream in an archive is verified when it is too late to make another one.
    verify::refuse_damage(device, &header)?;
    let progress = Progress::new("export", header.blocks() * 8);
    let mut writer = begin(args, &head)?;
    let mut room = vec![[0; 4096]; u64_as_usize(CHUNK_BLOCKS)];
    let mut at = 0;
    while at < header.blocks() {
        let count = CHUNK_BLOCKS.min(header.blocks() - at);
        let room = &mut room[..u64_as_usize(count)];
        device.read_at(at * 4096, room.as_flattened_mut())?;
        writer.blocks(at, room).map_err(|e| failed(&e))?;
        at += count;
        progress.add(count * 8);
    }
    writer.finish().map_err(|e| failed(&e))?;
    Ok((header, head))
}

fn begin(args: &ExportArgs, head: &StreamHead) -> Result<StreamWriter<Stdout>> {
    StreamWriter::begin(io::stdout(), args.level, head).map_err(|e| failed(&e))
}

/// Returns what a leaf lies on.
fn place(sb: &Superblock) -> LeafPlace {
    let root = RootPlace {
        sectors: sb.geometry.root_sectors(),
        digest: output::hex(&sb.root_digest),
    };
    LeafPlace {
        uuid: output::hex(&sb.uuid),
        root: sb.has_root().then_some(root),
        layers: sb.geometry.layers(),
        chain: output::hex(&sb.chain.0),
    }
}

/// Adds to a refusal of a union, or of a leaf in use, how it can be exported.
fn with_frozen_point(mut fail: Fail) -> Fail {
    let of_union = ubcore::error::Error::Stacked(Role::Leaf);
    if fail.reason == "busy" || fail.reason == crate::error::reason_of(of_union) {
        fail.message += "; to export a union in use: ubctl freeze UNION --leaf NEW, and then \
                         export the old leaf, which is a layer";
    }
    fail
}

fn failed(e: &io::Error) -> Fail {
    if e.kind() == io::ErrorKind::BrokenPipe {
        let text = "the reader of the stream has ended: see its message, and export again";
        return Fail::new(FAILED, "reader_gone", text);
    }
    Fail::io("write to", std::path::Path::new("standard output"), e)
}
