// SPDX-License-Identifier: GPL-2.0

//! The nodes of a new union: checked before anything is changed, and waited for afterwards.

use std::fs;
use std::path::{Path, PathBuf};

use ubcore::abi::{Status, ID_ANY};

use crate::control::{union_number, Control, PREFIX};
use crate::error::{Fail, Result, FAILED};
use crate::node::{self, NodeState};
use crate::wait::{self, Deadline};
use crate::{interrupt, output};

/// Refuses a number if something else is at the place of one of its nodes, before anything is
/// changed. Without a number, checks the lowest free number, which another process may take first.
pub fn refuse_place(control: &Control, id: Option<u32>) -> Result {
    let deadline = Deadline::new();
    loop {
        // As a rule only the nodes of unions are there.
        let all = places();
        if all.is_empty() {
            return Ok(());
        }
        let unions: Vec<u32> = control.all()?.iter().map(|s| s.id).collect();
        let id = id.unwrap_or_else(|| lowest_free(&unions));
        // The driver refuses a number that is taken.
        let wrong = all
            .into_iter()
            .filter(|(n, _)| *n == id && !unions.contains(n))
            .find_map(|(_, path)| match node::state(&path, None) {
                NodeState::Empty => None,
                NodeState::Wrong(what) => Some((path, what, false)),
                NodeState::Right => Some((path, "the node of another device", true)),
            });
        match wrong {
            None => return Ok(()),
            // A node that a removed union left goes in a moment.
            Some((_, _, true)) if deadline.pause() => {}
            Some((path, what, _)) => return Err(wrong_node(&path, what)),
        }
    }
}

/// Returns what is in `/dev` under the name of a union or of a partition of one, with the union's
/// number.
fn places() -> Vec<(u32, PathBuf)> {
    let all = fs::read_dir("/dev").into_iter().flatten().flatten();
    all.filter_map(|e| Some((number_in(e.file_name().to_str()?)?, e.path())))
        .collect()
}

/// Returns the union's number in `unionblk3` and `unionblk3p1`.
fn number_in(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    let (disk, part) = rest.split_once('p').unwrap_or((rest, "0"));
    union_number(part).and(union_number(disk))
}

fn lowest_free(unions: &[u32]) -> u32 {
    let taken = unions.iter().zip(0..).take_while(|(id, n)| *id == n);
    u32::try_from(taken.count()).unwrap_or(ID_ANY)
}

fn wrong_node(path: &Path, what: &str) -> Fail {
    let path = path.display();
    let text = format!("{path} is {what}, where the union's node belongs: remove it and try again");
    Fail::new(FAILED, "no_node", text)
}

/// Waits for the nodes and links of a union, because a script that continues after our answer must
/// find them. A kernel thread makes the nodes, and udev then makes the links.
pub fn wait_for_nodes(status: &Status, since: u64) -> Result {
    let name = format!("{PREFIX}{}", status.id);
    let deadline = Deadline::new();
    let nodes = node::family(&name, rustix::fs::makedev(status.major, status.minor));
    for node in &nodes {
        let path = node.path.display();
        let mut state = node.state();
        deadline.until(|| {
            state = node.state();
            state != NodeState::Empty || interrupt::check().is_err()
        });
        interrupt::check()?;
        let fail = match state {
            NodeState::Right => continue,
            NodeState::Wrong(what) => wrong_node(&node.path, what),
            NodeState::Empty => {
                let (a, b) = (rustix::fs::major(node.dev), rustix::fs::minor(node.dev));
                let text = format!(
                    "{path} has no node: is devtmpfs mounted on /dev? With --no-wait the union stays, \
                     and mknod {path} b {a} {b} makes one"
                );
                if !wait::is_enabled() {
                    output::complain(&text);
                    continue;
                }
                Fail::new(FAILED, "no_node", text)
            }
        };
        return Err(fail);
    }
    if wait::is_enabled() && !wait::seen_to(&nodes, since, deadline) {
        let text = "udev is not done with it yet: its links may be missing for a moment";
        output::complain(&format!("/dev/{name}: {text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{lowest_free, number_in};

    #[test]
    fn a_node_tells_whose_it_is() {
        assert_eq!(number_in("unionblk12"), Some(12));
        assert_eq!(number_in("unionblk3p1"), Some(3));
        for other in [
            "unionblk",
            "unionblk-control",
            "unionblkp1",
            "unionblk3p",
            "unionblk3px",
            "sda1",
        ] {
            assert_eq!(number_in(other), None, "{other}");
        }
        assert_eq!(lowest_free(&[]), 0);
        assert_eq!(lowest_free(&[0, 1, 3]), 2);
    }
}
