// SPDX-License-Identifier: GPL-2.0

//! `ubctl freeze UNION --leaf NEW`: freezes the leaf of a union that stays in use.

use std::path::{Path, PathBuf};

use serde::Serialize;
use ubcore::abi::{self, Status};
use ubcore::error::Role;
use ubcore::format::below_list::ListedLayer;
use ubcore::format::name::LeafName;
use ubcore::format::superblock::Superblock;
use ubcore::stack::chain::{LayerId, Seal};

use super::super::format::{Discard, LayoutArgs, Plan};
use crate::below::{self, Opened};
use crate::blocksize;
use crate::control::{self, path_text, Control};
use crate::device::{Access, Device};
use crate::error::{Fail, Result};
use crate::in_use::{self, UsedLayer};
use crate::layer_arg::LayerArg;
use crate::loopdev::{self, Lower};
use crate::{interrupt, loaded, output, overlap, preflight, random, sysfs};

/// What to freeze, and how.
pub struct Live<'a> {
    /// The user's word for the union.
    pub union: &'a str,
    /// The new leaf.
    pub leaf: &'a Path,
    /// Format the new leaf even if it looks used.
    pub force: bool,
    /// The name of the new leaf, if it is not that of the old one.
    pub name: Option<LeafName>,
    /// Do not freeze the file systems on the union meanwhile.
    pub no_fsfreeze: bool,
}

/// The result. The field names are those of `--json`.
#[derive(Debug, Serialize)]
struct LiveFreezeReport {
    device: String,
    layer: String,
    uuid: String,
    seal: String,
    leaf: String,
    leaf_uuid: String,
    leaf_name: Option<String>,
    layers: u32,
    /// Whether all file systems on the union were frozen meanwhile, as far as is known. This is
    /// false if a device lies in between.
    fsfreeze: bool,
    /// The devices on the union. The driver does not reach the file systems on these.
    holders: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Live<'_>, json: bool) -> Result {
    let control = Control::open()?;
    let status = control.find(args.union)?;
    let old = PathBuf::from(path_text(&status.leaf));
    let mut open = Device::open(&old, Role::Layer, Access::Read)?;
    let sb = loaded::superblock(&mut open)?;
    let image = loopdev::image_of(&old);
    let layer = image.as_deref().unwrap_or(&old).to_owned();
    let seal = Seal(random::bytes()?);
    blocksize::refuse_tail(args.leaf)?;
    let leaf = Lower::open(args.leaf, Role::Leaf, true, sb.root_block_bytes)?;
    let below = below(&status, open, &sb, (&layer, seal))?;
    let name = args.name.unwrap_or(sb.name);
    let plan = plan(args, below, &status, (&sb, &leaf))?;
    plan.write()?;
    let handed = plan.hand_over();
    let mut holders = devices_above(&status);
    if let Err(fail) = switch(args, &control, &status, (&leaf, seal)) {
        return Err(match is_frozen(&old, seal) {
            // The new leaf lies on the frozen one, and is the only leaf that does.
            true => frozen_after_all(fail, &layer, args.leaf),
            false => handed.roll_back(fail),
        });
    }
    let leaf_uuid = output::uuid(&handed.uuid);
    drop(handed);
    loopdev::warn_short(&leaf);
    let given = leaf.given();
    leaf.release();
    // The leaf is frozen, so nothing may fail from here on but the report. A device that was set up
    // or removed meanwhile counts too.
    holders.extend(devices_above(&status));
    holders.sort();
    holders.dedup();
    let frozen = LiveFreezeReport {
        device: format!("/dev/{}{}", control::PREFIX, status.id),
        layer: layer.display().to_string(),
        uuid: output::uuid(&sb.uuid),
        seal: output::hex(&seal.0),
        leaf: given.display().to_string(),
        leaf_uuid,
        leaf_name: output::name(name),
        layers: status.layers.saturating_add(1),
        fsfreeze: !args.no_fsfreeze && holders.is_empty(),
        holders,
    };
    if loopdev::is_in_memory(&old) {
        output::complain(&format!(
            "the layer {0} is in memory: it goes with the last union on it, and a leaf on it cannot \
             be attached after that; ubctl squash {0} FILE makes a layer that stands in for it",
            layer.display()
        ));
    }
    report(&frozen, !args.no_fsfreeze, json)
}

/// Returns the devices on the union.
fn devices_above(status: &Status) -> Vec<String> {
    let name = format!("{}{}", control::PREFIX, status.id);
    sysfs::holders(&Path::new("/sys/block").join(name))
}

/// Returns what the new leaf will lie on: what the old one lies on, and the old one.
fn below(
    status: &Status,
    leaf: Device,
    sb: &Superblock,
    (path, seal): (&Path, Seal),
) -> Result<Opened> {
    let root = control::root_text(status).map(|path| {
        let open = Device::open(Path::new(&path), Role::Root, Access::Read)?;
        let name = loopdev::behind(&path).unwrap_or(path);
        Ok(open.called(Path::new(&name)))
    });
    let mut list = below::list_of(&leaf)?;
    // A device may not answer, which must not delay the freeze without need. So only those are read
    // that are not known to be what the list says.
    let known: Vec<PathBuf> = [control::root_text(status), Some(path_text(&status.leaf))]
        .into_iter()
        .flatten()
        .map(PathBuf::from)
        .chain(list.iter().filter_map(frozen_path))
        .collect();
    let nodes = sysfs::slave_nodes(status.id).into_iter();
    let unknown: Vec<PathBuf> = nodes.filter(|node| !is_among(node, &known)).collect();
    note_moved(&mut list, &in_use::on_devices(&unknown));
    list.push(ListedLayer {
        id: LayerId::Frozen(sb.uuid, seal),
        offset: 0,
        path: below::remembered(path),
    });
    Ok(Opened {
        root: root.transpose()?,
        layers: Vec::new(),
        list,
        sectors: sb.geometry.union_sectors(),
    })
}

/// Returns where a frozen leaf is, if the list says so. It has all of its device.
fn frozen_path(layer: &ListedLayer) -> Option<PathBuf> {
    let is_frozen = matches!(layer.id, LayerId::Frozen(..));
    let listed = LayerArg::listed(layer).filter(|_| is_frozen);
    listed.map(|at| at.path)
}

/// Returns whether one of the paths leads to a device, or to the image that it shows. Reads nothing
/// from the device.
fn is_among(node: &Path, paths: &[PathBuf]) -> bool {
    let image = loopdev::behind(&node.display().to_string()).map(PathBuf::from);
    let shown = [Some(node.to_owned()), image];
    let shown = shown
        .into_iter()
        .flatten()
        .map(|path| LayerArg::at_start(&path));
    let shown: Vec<LayerArg> = shown.collect();
    let is_shown = |path: &PathBuf| shown.iter().any(|at| at.is_same(&LayerArg::at_start(path)));
    paths.iter().any(is_shown)
}

/// Writes into a list where the layers are, if they are not where it says. A path that leads to the
/// layer stays, because the user chose it. So does that of a layer for which another one stands.
fn note_moved(list: &mut [ListedLayer], open: &[UsedLayer]) {
    for layer in list {
        let Some(open) = open.iter().find(|open| open.id == layer.id) else {
            continue;
        };
        let is_there = LayerArg::listed(layer).is_some_and(|at| at.is_same(&open.at));
        if !is_there {
            layer.path = below::remembered(&open.at.path);
            layer.offset = open.at.offset;
        }
    }
}

/// Makes the checks of a format of the new leaf.
fn plan(
    args: &Live<'_>,
    below: Opened,
    status: &Status,
    (sb, leaf): (&Superblock, &Lower),
) -> Result<Plan> {
    let open = Device::open(&leaf.node, Role::Leaf, Access::Exclusive)?.called(&leaf.name);
    // An image of a file system on the union.
    let union = rustix::fs::makedev(status.major, status.minor);
    overlap::refuse_upon(&open, union)?;
    for device in below.devices() {
        overlap::refuse(device, &open)?;
    }
    // The leaf that it has now, and its layers.
    for path in sysfs::slave_nodes(status.id) {
        overlap::refuse(&Device::open(&path, Role::Layer, Access::Read)?, &open)?;
    }
    preflight::refuse_limits(&open, Role::Leaf)?;
    // The union stays as it is, so the new leaf has the slab size, the policy for discards, the
    // name and the limit of the old one. Its journal has the default size.
    let layout = LayoutArgs {
        slab_size: sb.geometry.slab_sectors(),
        journal_size: None,
        discard: if sb.reveal {
            Discard::Reveal
        } else {
            Discard::Zero
        },
        name: Some(args.name.unwrap_or(sb.name)),
        sector_size: None,
        preallocate: false,
        size: None,
        limit: sb.features.limit(),
        grow_to: None,
        union_sectors_max: sb.geometry.union_sectors_max(),
    };
    Plan::on(
        below,
        (open, leaf.to_allocate()),
        layout,
        args.force,
        sb.root_block_bytes,
    )
}

/// Makes the driver freeze the leaf.
fn switch(
    args: &Live<'_>,
    control: &Control,
    status: &Status,
    (leaf, seal): (&Lower, Seal),
) -> Result {
    interrupt::check()?;
    let mut request = abi::Freeze::new();
    control::put_path(&mut request.leaf, &leaf.given())?;
    (request.id, request.seal) = (status.id, seal.0);
    if !args.no_fsfreeze {
        request.flags |= abi::FREEZE_FILE_SYSTEMS;
    }
    let name = format!("{}{}", control::PREFIX, status.id);
    let what = format!("freeze of {name}, new leaf {}", leaf.name.display());
    control.freeze(&mut request, &what)
}

/// Returns whether the old leaf has the seal. The freeze of a leaf that failed may have happened.
fn is_frozen(old: &Path, seal: Seal) -> bool {
    let open = Device::open(old, Role::Layer, Access::Read);
    let sb = open.and_then(|mut open| loaded::superblock(&mut open));
    sb.is_ok_and(|sb| sb.frozen == Some(seal))
}

fn frozen_after_all(mut fail: Fail, layer: &Path, leaf: &Path) -> Fail {
    fail.message += &format!(
        "; {} is frozen nevertheless, and the union is read-only: detach it, and attach {} in its \
         place",
        layer.display(),
        leaf.display()
    );
    fail
}

/// Returns what the freeze means for the file systems on the union. The driver freezes those on the
/// disk and its partitions, and no others.
fn file_systems(asked: bool, holders: &[String]) -> String {
    let frozen = "were frozen meanwhile, so they are consistent in the layer";
    match (asked, holders) {
        (false, _) => "not frozen, so they are as after a power failure".to_owned(),
        (true, []) => format!("those on the device and its partitions {frozen}"),
        (true, holders) => format!(
            "those directly on the device and its partitions {frozen}; those on {} were not, so \
             they are as after a power failure",
            holders.join(", ")
        ),
    }
}

/// Prints the result. `asked` says whether the driver was asked to freeze file systems.
fn report(frozen: &LiveFreezeReport, asked: bool, json: bool) -> Result {
    if json {
        return output::json(frozen);
    }
    output::text(&format!(
        "{}: frozen, and a layer of {} now\n{}",
        frozen.layer,
        frozen.device,
        output::fields(&[
            ("uuid", frozen.uuid.clone()),
            ("seal", frozen.seal.clone()),
            ("new leaf", frozen.leaf.clone()),
            ("name", output::name_text(frozen.leaf_name.as_ref())),
            ("layers", frozen.layers.to_string()),
            ("file systems", file_systems(asked, &frozen.holders)),
        ])
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        below, file_systems, note_moved, LayerArg, LayerId, ListedLayer, Path, Seal, UsedLayer,
    };

    #[test]
    fn file_systems_on_other_devices_were_not_frozen() {
        let text = file_systems(true, &[]);
        assert!(text.contains("were frozen meanwhile") && !text.contains("not"));
        let on = ["dm-0".to_owned(), "md1".to_owned()];
        let text = file_systems(true, &on);
        assert!(text.contains("those on dm-0, md1 were not"), "{text}");
        for on in [&[], &on[..]] {
            assert!(file_systems(false, on).starts_with("not frozen"));
        }
    }

    #[test]
    fn a_layer_is_listed_where_it_is() {
        let dir = std::env::temp_dir().join(format!("ubctl-moved-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["there", "moved", "old"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("there", dir.join("link")).unwrap();
        let id = |n| LayerId::Frozen([n; 16], Seal([n; 16]));
        let listed = |n, name: &str, offset| ListedLayer {
            id: id(n),
            offset,
            path: below::remembered(&dir.join(name)),
        };
        let open = |n, name: &str, offset| UsedLayer {
            node: "/dev/x".into(),
            at: LayerArg {
                path: dir.join(name),
                offset,
            },
            id: id(n),
            stand_in: None,
        };
        let mut list = [
            listed(1, "link", 0),
            listed(2, "old", 0),
            listed(3, "gone", 0),
            listed(4, "there", 0),
            listed(5, "gone", 0),
        ];
        let others = [
            open(9, "old", 0),
            open(4, "there", 4096),
            open(3, "moved", 0),
            open(2, "moved", 8192),
            open(1, "there", 0),
        ];
        note_moved(&mut list, &others);
        let wanted = [
            listed(1, "link", 0),
            listed(2, "moved", 8192),
            listed(3, "moved", 0),
            listed(4, "there", 4096),
            listed(5, "gone", 0),
        ];
        assert_eq!(list, wanted);
        assert!(!LayerArg::at_start(Path::new("/nowhere")).is_same(&others[0].at));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
