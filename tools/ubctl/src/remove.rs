// SPDX-License-Identifier: GPL-2.0

//! `ubctl remove`: detaches unions.

use serde_json::json;

use crate::cli::RemoveArgs;
use crate::control::{Control, PREFIX};
use crate::output;
use crate::refuse::{Fail, Result};

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
    let mut removed = Vec::new();
    let mut failed: Option<Fail> = None;
    for id in ids {
        match control.remove(id) {
            Ok(()) => removed.push(format!("{PREFIX}{id}")),
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
