// SPDX-License-Identifier: GPL-2.0

//! `ubctl remove`: detaches unions.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use ubcore::abi::Status;

use crate::control::{leaf_name, path_text, Control, PREFIX};
use crate::error::{Fail, Result, BUSY};
use crate::holders::{self, Tried};
use crate::wait::{self, Deadline, Leaving};
use crate::{mounts, node, output, ubtab, udev};

/// Arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// unionblkN, /dev/unionblkN, N, the leaf's name or UUID
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub unions: Vec<String>,
    /// All unions
    #[arg(long)]
    pub all: bool,
    /// With --all: all but those of /etc/ubtab, which systemd removes
    #[arg(long, requires = "all", conflicts_with = "unions")]
    pub except_ubtab: bool,
    /// Unmount first what is mounted from them, and what is mounted on that
    #[arg(long)]
    pub unmount: bool,
}

/// Runs the command. A union that cannot be removed does not prevent the removal of the others.
pub fn run(args: &RemoveArgs, json: bool) -> Result {
    let control = Control::open()?;
    let mut meant: Vec<Status> = Vec::new();
    if args.all {
        meant = control.all()?;
    }
    if args.except_ubtab {
        let names = of_ubtab();
        meant.retain(|union| !leaf_name(union).is_some_and(|name| names.contains(&name)));
    }
    for name in &args.unions {
        let union = control.find(name)?;
        if !meant.iter().any(|s| s.id == union.id) {
            meant.push(union);
        }
    }
    let deadline = Deadline::new();
    let mut removed = Vec::new();
    let mut failed: Vec<Fail> = Vec::new();
    loop {
        let mut busy = Vec::new();
        let before = removed.len();
        for union in meant {
            match one(&control, &union, args.unmount, deadline) {
                Ok(()) => removed.push(format!("{PREFIX}{}", union.id)),
                // Another process removed it in the meantime.
                Err(fail) if args.all && fail.reason == "not_found" => {}
                Err(fail) if args.all && fail.code == BUSY => busy.push((union, fail)),
                Err(fail) => failed.push(fail),
            }
        }
        // A removed union may have been a holder of another, for example if its images lay on that
        // other union. Try the busy unions again.
        let again = removed.len() > before && !busy.is_empty();
        if !again {
            failed.extend(busy.into_iter().map(|(_, fail)| fail));
            break;
        }
        meant = busy.into_iter().map(|(union, _)| union).collect();
    }
    // The first failure sets the kind of failure.
    let failed = failed.into_iter().reduce(|mut first, fail| {
        first.message = format!("{}\n{fail}", first.message);
        first
    });
    let answer = json!({ "removed": removed });
    match failed {
        Some(fail) => Err(fail.with(answer)),
        None if json => output::json(&answer),
        None => Ok(()),
    }
}

/// Returns the names of the unions of ubtab. If it cannot be read, systemd has no units of it.
fn of_ubtab() -> Vec<String> {
    let tab = ubtab::read(Path::new(ubtab::PATH)).unwrap_or_else(|fail| {
        output::complain(&fail.message);
        None
    });
    let entries = tab.unwrap_or_default().entries.into_iter();
    entries.map(|entry| entry.name).collect()
}

/// Removes one union, and waits until its nodes, its links and the loop devices of its root and
/// its leaf are gone too. It does not wait for the loop devices of layers.
fn one(control: &Control, status: &Status, unmount: bool, deadline: Deadline) -> Result {
    let name = format!("{PREFIX}{}", status.id);
    let disk = rustix::fs::makedev(status.major, status.minor);
    control.same_union(status)?;
    if unmount {
        mounts::unmount(&node::family(&name, disk))?;
    }
    let lower = [&status.root, &status.leaf].map(|field| PathBuf::from(path_text(field)));
    let leaving = Leaving::of(&name, disk, &lower);
    detach(control, status, deadline)?;
    let left = leaving.wait(udev::now(), deadline);
    if wait::is_enabled() && !left.is_empty() {
        let left = left.join(", ");
        output::complain(&format!("{name} is detached, but there is still {left}"));
    }
    Ok(())
}

/// Removes one union, but not a new union that got its number in the meantime.
pub fn detach(control: &Control, meant: &Status, deadline: Deadline) -> Result {
    let disk = rustix::fs::makedev(meant.major, meant.minor);
    let mut first = true;
    let attempt = || {
        let now = control.same_union(meant)?;
        // An attempt takes the union off the list for a moment, so no attempt is made that must
        // fail.
        if !first && now.openers > 0 && !deadline.is_over() {
            return Ok(Tried::Busy);
        }
        first = false;
        control.remove(meant.id)
    };
    let done = holders::retry(deadline, |all| holders::of_device(disk, all), attempt)?;
    done.map_err(|who| who.fail(&format!("{PREFIX}{}", meant.id)))
}
