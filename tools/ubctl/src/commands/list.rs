// SPDX-License-Identifier: GPL-2.0

//! `ubctl list`: one line for each union, or a tree.

mod tree;

use clap::Args;

use super::status::Shown;
use crate::control::Control;
use crate::error::Result;
use crate::output;

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Draw what each union lies on: root and layers, each once for all unions on it
    #[arg(long)]
    pub tree: bool,
}

/// Runs the command.
pub fn run(args: &ListArgs, json: bool) -> Result {
    let list: Vec<Shown> = Control::open()?.all()?.iter().map(Shown::new).collect();
    if args.tree {
        let tree = tree::of(&list);
        return if json {
            output::json(&tree)
        } else {
            output::text(&tree::text(&tree))
        };
    }
    if json {
        return output::json(&list);
    }
    output::text(&output::table(&rows(&list)))
}

fn rows(list: &[Shown]) -> Vec<Vec<String>> {
    let heading = [
        "NAME", "LEAFNAME", "SIZE", "USED", "ROOT", "LEAF", "HOST", "MODE",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(list.iter().map(|u| {
        vec![
            u.name.clone(),
            u.leaf_name_text(),
            output::size(u.sectors()),
            u.used(),
            u.root_text(),
            u.leaf_text(),
            u.host_text().unwrap_or_else(|| "-".to_owned()),
            u.mode.to_owned(),
        ]
    }));
    rows
}

#[cfg(test)]
mod tests {
    use super::{rows, Shown};
    use ubcore::abi::{set_path, Status};
    use ubcore::format::name::LeafName;

    #[test]
    fn a_line_for_people() {
        let mut s = Status::new();
        (s.id, s.sectors, s.slab_sectors, s.slabs, s.slabs_used) = (2, 1 << 21, 128, 4000, 40);
        s.name = LeafName::from_text("web").unwrap().field();
        set_path(&mut s.root, b"/dev/vda").unwrap();
        set_path(&mut s.leaf, b"/dev/vdb").unwrap();
        let text = crate::output::table(&rows(&[Shown::new(&s)]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "NAME LEAFNAME SIZE USED ROOT LEAF HOST MODE"
        );
        let line = lines[1].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            line,
            "unionblk2 web 1 GiB 2.5 MiB of 250 MiB (1%) /dev/vda /dev/vdb - writable"
        );
    }
}
