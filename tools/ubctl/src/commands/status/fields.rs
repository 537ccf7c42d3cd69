// SPDX-License-Identifier: GPL-2.0

//! The table of the fields of a union's status.
//!
//! A row of the table is all that this tool has of a field. `--json` shows the rows in this order.
//! The text shows them in the lines of [`super::text`]. A test compares the table with the pages of
//! `Documentation` and with the device test of sysfs.

use serde_json::{json, Value};
use ubcore::abi;

use super::Shown;
use crate::control::{leaf_name, path_text};
use crate::output;

/// Where another interface has the value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// Nowhere.
    None,
    /// Under the same name; in sysfs also in the same words.
    Same,
    /// Under this name, in this form or another.
    As(&'static str),
}

impl Twin {
    /// Returns the other interface's name for the field called `name`.
    pub fn name(self, name: &'static str) -> Option<&'static str> {
        match self {
            Twin::None => None,
            Twin::Same => Some(name),
            Twin::As(other) => Some(other),
        }
    }
}

/// A field of the status.
pub struct Field {
    /// The name in `--json`. It is stable.
    pub name: &'static str,
    /// The unit or kind of the value.
    pub unit: &'static str,
    /// The label of the line of the text that shows the field; empty if none does.
    pub line: &'static str,
    /// The field of `struct unionblk_status`.
    pub abi: Twin,
    /// The file in `/sys/block/unionblkN/union/`.
    pub sysfs: Twin,
    /// The meaning, for the document.
    pub meaning: &'static str,
    /// Returns the value, as `--json` shows it.
    pub read: fn(&Shown) -> Value,
}

/// The files of sysfs whose values follow from other fields, or are those of UNIONBLK_IOC_LOST.
pub const SYSFS_ONLY: [&str; 2] = ["slabs_free", "lost_ranges"];

const NONE: Twin = Twin::None;
const SAME: Twin = Twin::Same;
const fn named(name: &'static str) -> Twin {
    Twin::As(name)
}

/// Makes the table. A row is: name, unit, line of the text, field of the ioctl, file in sysfs,
/// value, meaning.
macro_rules! fields {
    (|$u:ident| $($name:ident, $unit:literal, $line:literal, $abi:expr, $sysfs:expr,
        $value:expr, $meaning:literal;)*) => {
        &[$(Field {
            name: stringify!($name),
            unit: $unit,
            line: $line,
            abi: $abi,
            sysfs: $sysfs,
            meaning: $meaning,
            read: |$u| json!($value),
        }),*]
    };
}

/// The table, in the order of `--json`.
pub const FIELDS: &[Field] = fields! { |u|
    name, "text", "", NONE, NONE, u.name,
        "The name of the union's disk.";
    id, "number", "", SAME, NONE, u.status.id,
        "The number in that name.";
    device, "path", "device", NONE, NONE, u.device(),
        "The node of the disk.";
    mode, "word", "mode", SAME, SAME, u.mode,
        "writable; read-only: the map could not be committed; read-only-requested: with \
         --read-only; failing: writable, but requests have failed below since attach, the last \
         freeze or reset, or the root or the leaf is offline, has shrunk or is write-protected; gone: the \
         root or the leaf was removed. The driver does not report the last two.";
    uuid, "UUID", "uuid", SAME, SAME, output::uuid(&u.status.uuid),
        "The leaf's UUID.";
    leaf_name, "text", "name", named("name"), named("name"), leaf_name(&u.status),
        "The leaf's name; null if it has none.";
    root, "path", "root", SAME, SAME, u.root(),
        "The root's device, as given at create; null without a root. sysfs then has an empty line.";
    leaf, "path", "leaf", SAME, SAME, path_text(&u.status.leaf),
        "The leaf's device, as given at create or at the last freeze.";
    root_image, "path", "root", NONE, NONE, u.root_image,
        "The image that the root's loop device shows.";
    leaf_image, "path", "leaf", NONE, NONE, u.leaf_image,
        "The image that the leaf's loop device shows.";
    root_state, "word", "mode", NONE, NONE, u.root().map(|_| &u.root.state),
        "present; gone: it was removed; offline: it cannot do I/O; shrunk: it is smaller than the \
         union needs; write-protected; null without a root.";
    leaf_state, "word", "mode", NONE, NONE, u.leaf.state,
        "The same of the leaf.";
    leaf_host, "path", "host", NONE, NONE, u.host.as_ref().map(|h| h.mount.display().to_string()),
        "Where the file system is mounted that the leaf's image lies on.";
    leaf_host_free_bytes, "bytes", "host", NONE, NONE, u.host.as_ref().map(|h| h.free),
        "The space that is left there.";
    leaf_host_size_bytes, "bytes", "", NONE, NONE, u.host.as_ref().map(|h| h.size),
        "The size of that file system.";
    logical_block_bytes, "bytes", "blocks", NONE, NONE, u.blocks.map(|b| b.logical),
        "The union's logical block size.";
    physical_block_bytes, "bytes", "blocks", NONE, NONE, u.blocks.map(|b| b.physical),
        "The union's physical block size.";
    root_logical_block_bytes, "bytes", "blocks", NONE, NONE, u.root.blocks.map(|b| b.logical),
        "The root's logical block size.";
    root_physical_block_bytes, "bytes", "blocks", NONE, NONE, u.root.blocks.map(|b| b.physical),
        "The root's physical block size.";
    leaf_logical_block_bytes, "bytes", "blocks", NONE, NONE, u.leaf.blocks.map(|b| b.logical),
        "The leaf's logical block size.";
    leaf_physical_block_bytes, "bytes", "blocks", NONE, NONE, u.leaf.blocks.map(|b| b.physical),
        "The leaf's physical block size.";
    sectors, "sectors", "size", SAME, NONE, u.status.sectors,
        "The size of the union.";
    root_sectors, "sectors", "root", SAME, NONE, u.status.root_sectors,
        "The size of the root.";
    leaf_sectors, "sectors", "leaf", SAME, NONE, u.status.leaf_sectors,
        "The size of the leaf as formatted or grown.";
    slab_sectors, "sectors", "slab", SAME, named("slab_size"), u.status.slab_sectors,
        "The size of a slab. sysfs has it in bytes.";
    slabs, "slabs", "used", SAME, SAME, u.status.slabs,
        "Leaf slabs for data.";
    slabs_used, "slabs", "used", SAME, SAME, u.status.slabs_used,
        "Leaf slabs that are not free. sysfs has the free ones too, as slabs_free.";
    limit_slabs, "slabs", "used", SAME, NONE, u.status.limit_slabs,
        "How many slabs may be in use: the limit of the leaf, or all.";
    space, "word", "used", NONE, NONE, u.space(),
        "How much of the limit is in use: ok; used_80, used_95: so many per cent or more; full.";
    journal_blocks, "blocks", "journal", SAME, SAME, u.status.journal_blocks,
        "The size of the journal.";
    journal_used, "blocks", "journal", SAME, SAME, u.status.journal_used,
        "Journal blocks that the last checkpoint does not cover.";
    dirty, "boolean", "dirty", SAME, named("dirty"), u.status.dirty != 0,
        "Whether a change of the map is not durable yet. sysfs has 0 or 1.";
    commits, "count", "commits", SAME, SAME, u.status.commits,
        "Commits that wrote journal blocks.";
    checkpoints, "count", "checkpoints", SAME, SAME, u.status.checkpoints,
        "Checkpoints, the checkpoint of the attach included.";
    journal_written, "blocks", "commits", SAME, NONE, u.status.journal_written,
        "Journal blocks written.";
    first_writes, "count", "first writes", SAME, SAME, u.status.first_writes,
        "Writes that made a mapping.";
    io_errors, "count", "I/O errors", SAME, SAME, u.status.io_errors,
        "Requests that failed below, or touched lost sectors. Read-ahead does not count, nor do \
         requests for which the storage below the leaf had no space.";
    no_space, "count", "", SAME, NONE, u.status.no_space,
        "Requests that failed because the leaf, or the storage below it, had no space.";
    map_bytes, "bytes", "map memory", SAME, NONE, u.status.map_bytes,
        "The memory of the map, without the directory's entries.";
    discard, "word", "discard", SAME, SAME, abi::discard_word(u.status.discard),
        "What discarded slabs read as: zero; reveal: what lies below the leaf again.";
    last_error, "word", "mode", SAME, named("last_error"), u.last_error(),
        "The reason for which the map could not be committed. sysfs has a sentence.";
    damaged_blocks, "blocks", "lost", SAME, SAME, u.status.damaged_blocks,
        "Damaged metadata blocks of the leaf.";
    lost_sectors, "sectors", "lost", SAME, SAME, u.status.lost_sectors,
        "Sectors of the union that cannot be read because of them. sysfs has the number of \
         ranges too, as lost_ranges.";
    layers, "count", "layers", SAME, SAME, u.status.layers,
        "The layers between root and leaf.";
    stack_unions, "count", "layers", SAME, NONE, u.status.stack_unions,
        "The unions that share the map of these layers, this one included; 0 without layers.";
    stack_bytes, "bytes", "layers", SAME, NONE, u.status.stack_bytes,
        "The memory of that map.";
    openers, "count", "openers", SAME, NONE, u.status.openers,
        "How often the disk or a partition is open.";
    queues, "count", "queues", SAME, NONE, u.status.queues,
        "Hardware queues.";
    major, "number", "device", SAME, NONE, u.status.major,
        "The major number of the disk.";
    minor, "number", "device", SAME, NONE, u.status.minor,
        "The minor number of the disk.";
};
