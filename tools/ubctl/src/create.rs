// SPDX-License-Identifier: GPL-2.0

//! `ubctl create`: attaches a leaf to its root.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use ubcore::abi::{Create, Status, CREATE_READ_ONLY, ID_ANY};
use ubcore::error::Side;

use crate::cli::CreateArgs;
use crate::control::{self, union_number, Control, PREFIX};
use crate::device::{refuse_same, Access, Device};
use crate::format::{self, Plan};
use crate::image::{self, Lower};
use crate::lost::{self, Stretch};
use crate::refuse::{Fail, Result, BUSY, FAILED};
use crate::settle::{self, Bound, Place};
use crate::space::Backing;
use crate::{ahead, output, overlap, remove, sectors, udev};

/// The command.
pub fn run(args: &CreateArgs, json: bool) -> Result {
    // What can be refused is, before the first write.
    let control = Control::open()?;
    refuse_place(&control, args.id)?;
    refuse_same(&args.root, &args.leaf)?;
    sectors::refuse_tail(&args.root)?;
    if args.format {
        sectors::refuse_tail(&args.leaf)?;
    }
    let wanted = sectors::wanted(&args.root, &args.leaf, args.sector_size, args.format)?;
    let root = Lower::take(&args.root, Side::Root, false, wanted)?;
    let leaf = Lower::take(&args.leaf, Side::Leaf, !args.read_only, wanted)?;
    let mut request = Create::new();
    control::put_path(&mut request.root, &root.given())?;
    control::put_path(&mut request.leaf, &leaf.given())?;
    request.id = args.id.unwrap_or(ID_ANY);
    request.queues = args.queues;
    if args.read_only {
        request.flags |= CREATE_READ_ONLY;
    }
    let since = udev::now();
    let what = format!("root {}, leaf {}", root.name.display(), leaf.name.display());
    let id = if args.format {
        formatted(
            args,
            &control,
            (&root, &leaf),
            &mut request,
            (&what, wanted),
        )?
    } else {
        // Held until the driver holds them: what was looked at is what it gets.
        let pair = apart(&root, &leaf)?;
        let blocks = [pair[0].block_bytes()?, pair[1].block_bytes()?];
        sectors::refuse_other((&root.name, blocks[0]), (&leaf.name, blocks[1]), wanted)?;
        if !args.read_only {
            make_room(&leaf, &pair[1])?;
        }
        ahead::create(&control, &mut request, &what)?
    };
    image::warn_short(&leaf);
    root.release();
    leaf.release();
    let status = control.status(id)?;
    let name = format!("{PREFIX}{id}");
    wait_for_nodes(&control, &status, since)?;
    let lost = if status.lost_sectors > 0 {
        control.lost(id)?
    } else {
        Vec::new()
    };
    if status.damaged_blocks > 0 {
        output::complain(&warning(&args.leaf.display().to_string(), &status, &lost));
    }
    if !json {
        return output::text(&format!("/dev/{name}\n"));
    }
    output::json(&json!({
        "device": format!("/dev/{name}"),
        "name": name,
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
        "damaged_blocks": status.damaged_blocks,
        "lost_sectors": status.lost_sectors,
        "lost": lost,
    }))
}

/// Opens root and leaf to see that they are not one and the same.
fn apart(root: &Lower, leaf: &Lower) -> Result<[Device; 2]> {
    let open = |lower: &Lower, side| {
        Ok(Device::open(&lower.node, side, Access::Read)?.called(&lower.name))
    };
    let pair = [open(root, Side::Root)?, open(leaf, Side::Leaf)?];
    overlap::refuse(&pair[0], &pair[1])?;
    Ok(pair)
}

/// Formats the leaf and makes the union: both, or nothing.
fn formatted(
    args: &CreateArgs,
    control: &Control,
    (root, leaf): (&Lower, &Lower),
    request: &mut Create,
    (what, wanted): (&str, u32),
) -> Result<u32> {
    control.refuse_taken(args.id)?;
    let plan = Plan::new((root, leaf), args.layout(), args.force, wanted)?;
    ahead::refuse_held_root(control, &plan.root)?;
    plan.write()?;
    let handed = plan.hand_over();
    let id = ahead::create(control, request, what).map_err(|fail| handed.take_back(fail))?;
    if control.status(id)?.uuid == handed.uuid {
        return Ok(id);
    }
    // The path led elsewhere for a moment, or another formatted the leaf.
    let text = format!(
        "{what}: the union is of another leaf than the one that was formatted, which stays formatted: \
         see what changes the leaf's path, and try again"
    );
    let gone = remove::one(control, id, false, Bound::new());
    let left = gone.map_or_else(
        |e| format!(" ({PREFIX}{id} is left: {e})"),
        |()| String::new(),
    );
    Err(Fail::new(BUSY, "busy", text + &left))
}

/// A copy of a leaf may have holes where the metadata was zero, and share its blocks with another.
fn make_room(leaf: &Lower, device: &Device) -> Result {
    let Some(backing) = Backing::of(&leaf.node, true) else {
        return Ok(());
    };
    match sectors::recorded(device) {
        Some(sb) => backing.allocate(format::to_allocate(&sb, device)),
        // The driver says what is wrong.
        None => Ok(()),
    }
}

/// What a damaged leaf has lost. The driver names the first stretches only.
fn warning(leaf: &str, status: &Status, lost: &[Stretch]) -> String {
    let blocks = status.damaged_blocks;
    let start = format!("{leaf} is damaged: {blocks} metadata blocks are of no use");
    if status.lost_sectors == 0 {
        return format!("{start}, but no sector is lost by it");
    }
    let named = if lost::sum(lost) == status.lost_sectors {
        lost::text(lost)
    } else {
        let all = output::size(status.lost_sectors);
        format!("{all} of the union, among it {}", lost::text(lost))
    };
    format!(
        "{start}; lost: {named}; to read them fails, all other sectors are as they were; ubctl check \
         says more"
    )
}

/// Refuses a number in whose node's place something else is, before anything is done. Of none in
/// particular: the lowest that is free, which another may get first.
fn refuse_place(control: &Control, id: Option<u32>) -> Result {
    // As a rule nothing is: then one look at /dev is all.
    let all = fs::read_dir("/dev").into_iter().flatten().flatten();
    let other = |e: &fs::DirEntry| e.file_type().is_ok_and(|kind| !kind.is_block_device());
    let number = |e: fs::DirEntry| union_number(e.file_name().to_str()?.strip_prefix(PREFIX)?);
    let wrong: Vec<u32> = all.filter(other).filter_map(number).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let id = match id {
        Some(id) => id,
        None => {
            let unions = control.all()?;
            let taken = unions.iter().zip(0..).take_while(|(s, n)| s.id == *n);
            u32::try_from(taken.count()).unwrap_or(ID_ANY)
        }
    };
    let path = PathBuf::from(format!("/dev/{PREFIX}{id}"));
    match settle::place(&path, None) {
        Place::Wrong(what) if wrong.contains(&id) => Err(wrong_node(&path, what)),
        // A link may lead to the node.
        _ => Ok(()),
    }
}

fn wrong_node(path: &Path, what: &str) -> Fail {
    let path = path.display();
    let text = format!("{path} is {what}, where the union's node belongs: remove it and try again");
    Fail::new(FAILED, "no_node", text)
}

/// The nodes are made by a thread of the kernel's, and udev comes after it: a script that continues
/// with our answer shall find them, and the links. A union without its node goes again.
fn wait_for_nodes(control: &Control, status: &Status, since: u64) -> Result {
    let name = format!("{PREFIX}{}", status.id);
    let bound = Bound::new();
    let nodes = settle::family(&name, rustix::fs::makedev(status.major, status.minor));
    for node in &nodes {
        let path = node.path.display();
        let mut place = node.place();
        bound.until(|| {
            place = node.place();
            place != Place::Empty
        });
        let fail = match place {
            Place::Right => continue,
            Place::Wrong(what) => wrong_node(&node.path, what),
            Place::Empty => {
                let (a, b) = (rustix::fs::major(node.dev), rustix::fs::minor(node.dev));
                let text = format!(
                    "{path} has no node: is devtmpfs mounted on /dev? With --no-wait the union stays, \
                     and mknod {path} b {a} {b} makes one"
                );
                if !settle::waits() {
                    output::complain(&text);
                    continue;
                }
                Fail::new(FAILED, "no_node", text)
            }
        };
        return Err(undone(control, status.id, fail));
    }
    if settle::waits() && !settle::seen_to(&nodes, since, bound) {
        let text = "udev is not done with it yet: its links may be missing for a moment";
        output::complain(&format!("/dev/{name}: {text}"));
    }
    Ok(())
}

/// Takes a union away again that cannot be used.
fn undone(control: &Control, id: u32, mut fail: Fail) -> Fail {
    let what = match remove::one(control, id, false, Bound::new()) {
        Ok(()) => format!("; {PREFIX}{id} was detached again"),
        Err(e) => format!("; {PREFIX}{id} is attached: {e}"),
    };
    fail.message += &what;
    fail
}

#[cfg(test)]
mod tests {
    use super::{warning, Status, Stretch};

    #[test]
    fn a_warning_says_what_is_lost() {
        let mut s = Status::new();
        s.damaged_blocks = 1;
        assert!(warning("x", &s, &[]).ends_with("no sector is lost by it"));
        s.lost_sectors = 64;
        let list = [Stretch {
            sector: 32,
            sectors: 32,
        }];
        let text = warning("x", &s, &list);
        assert!(
            text.contains("lost: 32 KiB of the union, among it union sectors 32 to 63 (16 KiB);"),
            "{text}"
        );
        s.lost_sectors = 32;
        let text = warning("x", &s, &list);
        assert!(
            text.contains("lost: union sectors 32 to 63 (16 KiB); to read them fails"),
            "{text}"
        );
    }
}
