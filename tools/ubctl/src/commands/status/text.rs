// SPDX-License-Identifier: GPL-2.0

//! The text of `ubctl status`: a table of its lines.

use ubcore::abi;
use ubcore::geometry::BLOCK_SECTORS;

use super::Shown;
use crate::control::path_text;
use crate::output::{self, counted, size};
use crate::sysfs::{BlockSizes, DeviceState};

/// A line of the text: its label, and its value if the union has one.
type Line = (&'static str, fn(&Shown) -> Option<String>);

/// The lines, in order. The fields in [`super::fields::FIELDS`] say which line shows them.
pub const LINES: &[Line] = &[
    ("device", |u| Some(device(u))),
    ("mode", |u| Some(mode(u))),
    ("lost", lost),
    ("uuid", |u| Some(output::uuid(&u.status.uuid))),
    ("name", |u| Some(u.leaf_name_text())),
    ("root", |u| {
        Some(with_size(u.root_text(), u.status.root_sectors))
    }),
    ("leaf", |u| {
        Some(with_size(u.leaf_text(), u.status.leaf_sectors))
    }),
    ("host", Shown::host_text),
    ("size", |u| {
        let sectors = u.sectors();
        Some(format!("{} ({sectors} sectors)", size(sectors)))
    }),
    ("blocks", blocks),
    ("slab", |u| Some(size(u.status.slab_sectors.into()))),
    ("used", |u| {
        let (used, all) = (u.status.slabs_used, u.status.slabs);
        let limit = match u.status.limit_slabs {
            limit if limit < all => format!(", limit {limit}"),
            _ => String::new(),
        };
        let space = match u.space() {
            "ok" => String::new(),
            word => format!(" ({word})"),
        };
        let used = format!("{}, {used} of {all} slabs", u.used());
        Some(used + &limit + &space)
    }),
    ("journal", |u| Some(journal(u))),
    ("dirty", |u| {
        let dirty = u.status.dirty != 0;
        Some(
            if dirty {
                "yes: a change of the map is not durable yet"
            } else {
                "no"
            }
            .to_owned(),
        )
    }),
    ("commits", |u| {
        let blocks = counted(u.status.journal_written, "journal block");
        Some(format!("{}, {blocks} written", u.status.commits))
    }),
    ("checkpoints", |u| Some(u.status.checkpoints.to_string())),
    ("first writes", |u| Some(u.status.first_writes.to_string())),
    ("I/O errors", |u| Some(u.status.io_errors.to_string())),
    ("discard", |u| Some(format!("shows {}", discard(u)))),
    ("map memory", |u| {
        Some(format!("{} bytes", u.status.map_bytes))
    }),
    ("layers", layers),
    ("openers", |u| Some(u.status.openers.to_string())),
    ("queues", |u| Some(u.status.queues.to_string())),
];

/// Returns the text of a union's status.
pub fn text(u: &Shown) -> String {
    let line = |(label, value): &Line| Some((*label, value(u)?));
    let list: Vec<(&str, String)> = LINES.iter().filter_map(line).collect();
    format!("{}\n{}", u.name, output::fields(&list))
}

fn device(u: &Shown) -> String {
    format!("{} ({}:{})", u.device(), u.status.major, u.status.minor)
}

fn with_size(device: String, sectors: u64) -> String {
    format!("{device} ({})", size(sectors))
}

fn discard(u: &Shown) -> &'static str {
    match abi::discard_word(u.status.discard) {
        "zero" => "zeroes",
        "reveal" => "what lies below again",
        _ => "unknown to this ubctl",
    }
}

/// Returns the block sizes of the union, the root and the leaf, if the union's are known.
fn blocks(u: &Shown) -> Option<String> {
    let pair = |role: &str, blocks: Option<BlockSizes>| match blocks {
        Some(b) => format!("{role} {} B, {} B", b.logical, b.physical),
        None => format!("{role} ?, ?"),
    };
    let own = u.blocks?;
    Some(format!(
        "{} B logical, {} B physical ({}; {})",
        own.logical,
        own.physical,
        pair("root", u.root.blocks),
        pair("leaf", u.leaf.blocks),
    ))
}

/// Returns the mode and the reason for it.
fn mode(u: &Shown) -> String {
    match (u.mode, u.last_error()) {
        ("read-only", Some(why)) => {
            format!("read-only: the map could not be committed ({why}), see the kernel's log")
        }
        ("read-only", None) => {
            "read-only: the map could not be committed, see the kernel's log".to_owned()
        }
        ("gone" | "failing", _) => format!("{}: {}", u.mode, trouble(u)),
        (other, _) => other.to_owned(),
    }
}

fn trouble(u: &Shown) -> String {
    let device = |role: &str, path: String, state: &DeviceState| {
        (*state != DeviceState::Present).then(|| format!("the {role}, {path}, {}", state.text()))
    };
    let devices = [
        device("root", path_text(&u.status.root), &u.root.state),
        device("leaf", path_text(&u.status.leaf), &u.leaf.state),
    ];
    let errors = (u.status.io_errors > 0).then(|| match u.status.io_errors {
        1 => "1 I/O error below since attach or the last freeze or reset, see the kernel's log"
            .to_owned(),
        n => format!(
            "{n} I/O errors below since attach or the last freeze or reset, see the kernel's log"
        ),
    });
    let all: Vec<String> = devices.into_iter().flatten().chain(errors).collect();
    all.join("; ")
}

/// Returns what is lost of a damaged leaf; none for a whole one.
fn lost(u: &Shown) -> Option<String> {
    let what = match u.status.lost_sectors {
        0 => "nothing".to_owned(),
        n => format!("{} ({n} sectors), which cannot be read", size(n)),
    };
    let blocks = u.status.damaged_blocks;
    (blocks > 0).then(|| format!("{what}: {}", counted(blocks, "damaged metadata block")))
}

/// Returns how many layers there are, and what their map costs; none without layers.
fn layers(u: &Shown) -> Option<String> {
    let s = &u.status;
    let unions = counted(s.stack_unions, "union");
    (s.layers > 0).then(|| {
        format!(
            "{}; their map takes {} bytes, for {unions} together",
            s.layers, s.stack_bytes
        )
    })
}

fn journal(u: &Shown) -> String {
    let size = |blocks: u32| size(u64::from(blocks) * BLOCK_SECTORS);
    let (used, all) = (u.status.journal_used, u.status.journal_blocks);
    format!("{} of {} in use", size(used), size(all))
}
