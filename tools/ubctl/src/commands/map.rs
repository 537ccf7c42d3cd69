// SPDX-License-Identifier: GPL-2.0

//! `ubctl map`: draws which parts of a disk come from the root, which layer, the leaf, or are
//! zeroes.

mod grid;
mod sources;
mod svg;
mod text;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::io::Errno;
use ubcore::abi::Status;
use ubcore::error::Role;
use ubcore::stack::chain::LayerId;

use crate::below::{self, Below, RootArg};
use crate::control::{path_text, Control, PREFIX};
use crate::device::{refuse_union, Access, Device};
use crate::error::{Fail, Result, REFUSED, USAGE};
use crate::in_use::{self, UsedLayer};
use crate::layer_arg::LayerArg;
use crate::node;
use crate::search::Places;
use crate::stack::OpenStack;
use crate::target::{Target, Wanted};
use crate::wait::Deadline;
use crate::{interrupt, output, probe, sealed, terminal};

use sources::SourceMap;

/// How often the metadata of a leaf in use is read until no write comes between.
const ATTEMPTS: u32 = 5;

const AFTER_HELP: &str = "\
Each cell of the drawing stands for a part of the disk, and shows the highest
source that any sector of the part comes from: the leaf (#, or + if less than half
of the part comes from it), a layer (1 to 9, a to z, the lowest first; * for layer 36
and higher), zeroes (0), or the root (.). The table below it has the exact sums. The
drawing fits the terminal. --json has each range of sectors with its source.

ubctl flushes a union first, so that the driver commits the map. The driver may
change the map while ubctl reads it; the answer is of one moment.

ubctl reads only the metadata of leaf and layers, and does not write to them.

Examples:
  ubctl map vm1
  ubctl map unionblk0 --svg vm1.svg
  ubctl map step2.leaf --in layers/ --json";

/// Arguments of `map`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct MapArgs {
    /// A union, by its name, device, number, or its leaf's name or UUID; or a leaf that is not
    /// attached, or a layer: a block device or an image
    #[arg(value_name = "LEAF|UNION")]
    pub what: PathBuf,
    /// A layer below it; repeated, the lowest first [default: where the layers of the leaf were
    /// when it was formatted]
    #[arg(long = "layer", value_name = "LAYER", value_parser = LayerArg::parser())]
    #[arg(conflicts_with = "places")]
    pub layers: Vec<LayerArg>,
    /// Where to look for the layers that the leaf lists: a directory, device or image; repeated
    #[arg(long = "in", value_name = "PLACE")]
    pub places: Vec<PathBuf>,
    /// Also draw it into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Replace an existing FILE
    #[arg(long, requires = "svg")]
    pub force: bool,
    /// The columns of the drawing [default: those of the terminal, or 80]
    #[arg(long, value_name = "COLUMNS", value_parser = clap::value_parser!(u16).range(20..))]
    pub width: Option<u16>,
}

/// Runs the command.
pub fn run(args: &MapArgs, json: bool) -> Result {
    let map = match union(args)? {
        Some(status) => of_union(args, &status)?,
        None => of_leaf(args)?,
    };
    if let Some(path) = &args.svg {
        draw(&map, path, args.force)?;
    }
    if json {
        return output::json(&map.report(args.svg.as_deref()));
    }
    let width = args.width.map_or_else(terminal::columns, usize::from);
    let drawing = text::text(&map, width, terminal::has_colours());
    output::styled(&drawing).map(|_| ())
}

/// Returns the union that is meant. A path that leads to a file, or to a device that is no union,
/// means a leaf.
fn union(args: &MapArgs) -> Result<Option<Status>> {
    let path = &args.what;
    let found = fs::metadata(path);
    let is_path = match &found {
        Ok(meta) if meta.file_type().is_block_device() => {
            let device = Device::open(path, Role::Leaf, Access::Read)?;
            refuse_union(&device, Role::Leaf).is_ok()
        }
        Ok(_) => true,
        Err(_) => LayerArg::parsed(path.as_os_str()).path != *path,
    };
    if is_path {
        return Ok(None);
    }
    let word = path.to_string_lossy();
    match Control::open() {
        Ok(control) => control.find(&word).map(Some),
        // A word that is no name of a union is a path that leads to nothing.
        Err(fail) if word.contains('/') || word.contains('.') => {
            let e = found.err().unwrap_or_else(|| Errno::NOENT.into());
            Err(if fail.reason == "no_module" {
                Fail::io("open", path, &e)
            } else {
                fail
            })
        }
        Err(fail) => Err(fail),
    }
}

/// Returns the map of a leaf that no union writes to, or of a layer.
fn of_leaf(args: &MapArgs) -> Result<SourceMap> {
    let arg = LayerArg::parsed(args.what.as_os_str());
    let mut device = arg.open()?;
    if sealed::open_if_there(&device)?.is_some() {
        let layers = below::with_listed(&args.layers)?;
        if !args.places.is_empty() {
            let text = "a sealed layer does not list what it lies on: use --layer instead of --in";
            return Err(Fail::new(USAGE, "usage", text));
        }
        return stacked(device, &layers, None);
    }
    device = arg.open_leaf()?;
    let layers = layers_of(args, &device, None)?;
    stacked(device, &layers, None)
}

/// Returns the map of a union. The driver may write to the leaf, so a read that found it half
/// written is repeated.
fn of_union(args: &MapArgs, status: &Status) -> Result<SourceMap> {
    let name = format!("{PREFIX}{}", status.id);
    let disk = PathBuf::from(format!("/dev/{name}"));
    let leaf = PathBuf::from(path_text(&status.leaf));
    let deadline = Deadline::new();
    let mut attempt = 1;
    loop {
        // A flush commits the map. A union that cannot commit still has a map.
        let _ = node::peek(&disk).and_then(|disk| disk.sync_all());
        let device = Device::open(&leaf, Role::Leaf, Access::Read)?;
        let layers = layers_of(args, &device, Some(status))?;
        match stacked(device, &layers, Some((&name, &path_text(&status.root)))) {
            Err(fail) if fail.reason == "damaged" && attempt < ATTEMPTS && deadline.pause() => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Returns the layers that lie below a leaf: the given ones, the ones found in the places, the ones
/// of its union, or the listed ones.
fn layers_of(args: &MapArgs, leaf: &Device, union: Option<&Status>) -> Result<Vec<LayerArg>> {
    if !args.layers.is_empty() {
        return below::with_listed(&args.layers);
    }
    let list = below::list_of(leaf)?;
    if !args.places.is_empty() {
        return Places::new(&args.places)?.layers(&list);
    }
    // A layer of the union can stand in for several that the leaf lists.
    let ids: Vec<LayerId> = list.iter().map(|layer| layer.id).collect();
    let used = union.and_then(|status| {
        let open = in_use::layers(status.id);
        let layers = in_use::in_order(&ids, &open, status.layers)?;
        let at_node = |layer: &UsedLayer| LayerArg {
            path: layer.node.clone(),
            offset: layer.at.offset,
        };
        Some(layers.into_iter().map(at_node).collect())
    });
    used.map_or_else(|| below::listed_by(leaf, below::NAME_ALL_OR_LOOK), Ok)
}

/// Merges what the layers and the top map. `union` has the names of a union and of its root.
fn stacked(top: Device, layers: &[LayerArg], union: Option<(&str, &str)>) -> Result<SourceMap> {
    let what = top.name();
    let opened = Below::as_it_is(&RootArg(None), layers).open(None)?;
    let is_leaf = sealed::open_if_there(&top)?.is_none();
    if is_leaf {
        opened.refuse_other_layers(&top)?;
    }
    let root = match union {
        Some((_, root)) => Some(root.to_owned()).filter(|root| !root.is_empty()),
        None if is_leaf => below::root_of_list(&top)?,
        None => None,
    };
    let devices = opened.layers.into_iter().map(|layer| layer.device);
    let members = OpenStack::members(devices.chain([top]).collect())?;
    let stack = OpenStack::new(None, members)?;
    let name = union.map_or(what, |(name, _)| name.to_owned());
    SourceMap::new(name, union.is_some(), root, &stack).map_err(|e| Fail::core("the stack", e))
}

/// Writes the drawing to a file, which is there when it is whole.
fn draw(map: &SourceMap, path: &Path, force: bool) -> Result {
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let text = format!("{} is not a regular file: name a new file", path.display());
        return Err(Fail::new(REFUSED, "not_a_file", text));
    }
    // A slip must not replace a leaf by its drawing. Data of no known kind may be an old drawing.
    let old = Device::open(path, Role::Layer, Access::Read).ok();
    let used = old.as_ref().map(probe::probe).transpose()?.flatten();
    if let Some(used) = used.filter(|used| used.what != "data") {
        let text = format!("{} is {}: name a new file", path.display(), used.what);
        return Err(Fail::new(REFUSED, "looks_used", text));
    }
    drop(old);
    let wanted = Wanted {
        what: "drawing",
        force,
        append: false,
    };
    let bytes = svg::document(map).into_bytes();
    let target = Target::check(wanted, path, [])?;
    interrupt::watch()?;
    let mut writer = target.begin(bytes.len() as u64)?;
    let written = writer.put(0, &bytes).and_then(|()| writer.sync());
    let done = written.and_then(|()| writer.finish());
    done.map_err(|fail| writer.undo(fail))
}
