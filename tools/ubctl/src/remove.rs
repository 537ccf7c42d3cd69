// SPDX-License-Identifier: GPL-2.0

//! `ubctl remove`: detaches unions.

use std::path::PathBuf;

use serde_json::json;

use crate::busy::{self, Tried};
use crate::cli::RemoveArgs;
use crate::control::{path_text, Control, PREFIX};
use crate::refuse::{Fail, Result};
use crate::settle::{self, Bound, Leaving};
use crate::{output, udev};

/// The command. One union that cannot go does not keep the others.
pub fn run(args: &RemoveArgs, json: bool) -> Result {
    let control = Control::open()?;
    let mut ids = Vec::new();
    if args.all {
        ids.extend(control.all()?.iter().map(|s| s.id));
    }
    for name in &args.unions {
        let id = control.id_of(name)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let bound = Bound::new();
    let mut removed = Vec::new();
    let mut failed: Option<Fail> = None;
    for id in ids {
        match one(&control, id, args.unmount, bound) {
            Ok(()) => removed.push(format!("{PREFIX}{id}")),
            // Another took it away meanwhile.
            Err(fail) if args.all && fail.reason == "not_found" => {}
            Err(fail) => match &mut failed {
                // The first one says what kind of failure it was.
                Some(first) => first.message = format!("{}\n{fail}", first.message),
                None => failed = Some(fail),
            },
        }
    }
    let answer = json!({ "removed": removed });
    match failed {
        Some(fail) => Err(fail.with(answer)),
        None if json => output::json(&answer),
        None => Ok(()),
    }
}

/// Takes one union away, and waits until its nodes, its links and the loop devices that were made
/// for it are gone too.
pub fn one(control: &Control, id: u32, unmount: bool, bound: Bound) -> Result {
    let status = control.status(id)?;
    let name = format!("{PREFIX}{id}");
    let disk = rustix::fs::makedev(status.major, status.minor);
    if unmount {
        busy::unmount(&settle::family(&name, disk))?;
    }
    let lower = [&status.root, &status.leaf].map(|field| PathBuf::from(path_text(field)));
    let leaving = Leaving::of(&name, disk, &lower);
    let mut first = true;
    let attempt = || {
        // An attempt takes the union off the list for a moment: none that is bound to fail.
        if !first && control.status(id)?.openers > 0 && !bound.is_over() {
            return Ok(Tried::Busy);
        }
        first = false;
        control.remove(id)
    };
    let done = busy::patiently(bound, |all| busy::of_device(disk, all), attempt);
    let done = match done {
        Ok(Err(who)) => return Err(who.fail(&name)),
        Ok(Ok(())) => Ok(()),
        // Gone, but its last commit failed.
        Err(fail) if fail.reason == "io" => Err(fail),
        Err(fail) => return Err(fail),
    };
    let left = leaving.wait(udev::now(), bound);
    if settle::waits() && !left.is_empty() {
        let left = left.join(", ");
        output::complain(&format!("{name} is detached, but there is still {left}"));
    }
    done
}
