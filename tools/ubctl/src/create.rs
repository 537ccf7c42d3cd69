// SPDX-License-Identifier: GPL-2.0

//! `ubctl create`: attaches a leaf to its root.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use ubcore::abi::{Create, Status, CREATE_READ_ONLY, ID_ANY};
use ubcore::error::Side;

use crate::cli::CreateArgs;
use crate::control::{self, Control, PREFIX};
use crate::device::refuse_same;
use crate::image::{self, Lower, NODE_POLL, NODE_WAIT};
use crate::refuse::Result;
use crate::{format, output};

/// The command.
pub fn run(args: &CreateArgs, json: bool) -> Result {
    // What can be refused is, before a leaf is formatted for nothing.
    let control = Control::open()?;
    refuse_same(&args.root, &args.leaf)?;
    let root = Lower::take(&args.root, Side::Root, false)?;
    let leaf = Lower::take(&args.leaf, Side::Leaf, !args.read_only)?;
    let mut request = Create::new();
    control::put_path(&mut request.root, &root.node)?;
    control::put_path(&mut request.leaf, &leaf.node)?;
    request.id = args.id.unwrap_or(ID_ANY);
    request.queues = args.queues;
    if args.read_only {
        request.flags |= CREATE_READ_ONLY;
    }
    if args.format {
        format::format(&root, &leaf, args.layout(), args.force)?;
    }
    let what = format!("root {}, leaf {}", root.name.display(), leaf.name.display());
    let id = control.create(&mut request, &what).map_err(|mut fail| {
        if args.format {
            fail.message.push_str(" (the leaf is formatted now)");
        }
        fail
    })?;
    root.release();
    leaf.release();
    let status = control.status(id)?;
    let device = format!("/dev/{PREFIX}{id}");
    wait_for_node(Path::new(&device), &status);
    if !json {
        return output::text(&format!("{device}\n"));
    }
    output::json(&json!({
        "device": device,
        "name": format!("{PREFIX}{id}"),
        "id": id,
        "uuid": output::uuid(&status.uuid),
        "leaf_name": control::leaf_name(&status),
        "root": control::path_text(&status.root),
        "leaf": control::path_text(&status.leaf),
        "root_image": image::behind(&control::path_text(&status.root)),
        "leaf_image": image::behind(&control::path_text(&status.leaf)),
        "sectors": status.sectors,
        "major": status.major,
        "minor": status.minor,
        "formatted": args.format,
    }))
}

/// The node is made by a thread of the kernel's, and udev comes after it: a script that goes on with
/// our answer shall find it.
fn wait_for_node(node: &Path, status: &Status) {
    let end = Instant::now() + NODE_WAIT;
    loop {
        match control::node_is_there(node, status.major, status.minor) {
            Ok(true) => return,
            Ok(false) if Instant::now() < end => std::thread::sleep(NODE_POLL),
            _ => break,
        }
    }
    output::complain(&format!(
        "{0} has no node yet: is devtmpfs mounted on /dev? (mknod {0} b {1} {2} makes one)",
        node.display(),
        status.major,
        status.minor
    ));
}
