// SPDX-License-Identifier: GPL-2.0

//! The result of a dump. The field names are those of `--json`.

use serde::Serialize;
use ubcore::error::Error;

/// A whole dump.
#[derive(Debug, Default, Serialize)]
pub struct DumpReport {
    pub leaf: String,
    pub sectors: u64,
    pub slots: Vec<SlotReport>,
    /// The active slot: A or B.
    pub active: Option<&'static str>,
    pub geometry: Option<GeometryReport>,
    /// Where the root was when the leaf was formatted; empty if that was not recorded. None without
    /// a root.
    pub root_path: Option<String>,
    /// The layers that the leaf was made on, the lowest first.
    pub layers: Vec<LayerReport>,
    pub journal: Option<JournalReport>,
    pub directory: Vec<DirectoryReport>,
    pub pages: PagesReport,
    pub map: Option<MapReport>,
    pub problems: Vec<String>,
    /// Why nothing behind the superblock could be read.
    #[serde(skip)]
    pub unreadable: Option<Error>,
}

/// One of the two superblock slots.
#[derive(Debug, Serialize)]
pub struct SlotReport {
    pub slot: &'static str,
    pub block: u64,
    /// `valid`, or why not.
    pub state: String,
    #[serde(flatten)]
    pub superblock: Option<SuperblockReport>,
}

/// A valid superblock without its geometry.
#[derive(Debug, Serialize)]
pub struct SuperblockReport {
    pub version: u32,
    pub generation: u64,
    pub uuid: String,
    pub name: Option<String>,
    pub nonce: String,
    pub clean: bool,
    pub reveal: bool,
    pub preallocated: bool,
    pub root_block_bytes: u32,
    pub root_digest: String,
    pub journal_tail: u32,
    pub journal_sequence: u64,
    /// How many slabs the union may use, if the leaf has a limit.
    pub limit_slabs: Option<u32>,
    #[serde(skip)]
    pub limit: Option<String>,
    #[serde(skip)]
    pub features: String,
    /// Bits, in hex, because JSON's numbers do not hold 64 of them.
    pub features_compat: String,
    pub features_ro_compat: String,
    pub features_incompat: String,
    /// The bytes of compatible features, in hex.
    pub compat_bytes: String,
    /// The identity of the layers below, in hex, if there are any.
    pub chain: Option<String>,
    /// The seal of a frozen leaf, in hex.
    pub seal: Option<String>,
}

/// A layer that the leaf was made on.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// `frozen` or `sealed`.
    pub kind: &'static str,
    /// The UUID of a frozen leaf.
    pub uuid: Option<String>,
    /// The seal of a frozen leaf, in hex.
    pub seal: Option<String>,
    /// The digest of a sealed layer, in hex.
    pub digest: Option<String>,
    /// Where the layer was when the leaf was formatted.
    pub path: String,
    /// The byte at which it began there.
    pub offset: u64,
}

/// Where everything lies; positions in blocks of 4096 bytes unless the name says sectors.
#[derive(Debug, Serialize)]
pub struct GeometryReport {
    pub union_sectors: u64,
    pub root_sectors: u64,
    pub leaf_sectors: u64,
    pub slab_sectors: u32,
    pub root_slabs: u32,
    pub leaf_slabs: u32,
    pub journal_start: u64,
    pub journal_blocks: u32,
    pub directory_start: u64,
    pub directory_blocks: u32,
    pub pages_start: u64,
    pub table_pages: u32,
    pub bits_pages: u32,
    /// How many of these pages are spare, for growth.
    pub spare_table_pages: u32,
    pub spare_bits_pages: u32,
    pub below_list_start: u64,
    pub layers: u32,
    pub data_start_sectors: u64,
}

/// The journal ring.
#[derive(Debug, Serialize)]
pub struct JournalReport {
    /// Blocks that attach would replay.
    pub finished: u32,
    /// Valid, consecutive blocks from the tail on, including a transaction without an end.
    pub chained: u32,
    /// The number that the next block would get.
    pub next_sequence: u64,
    /// Sound blocks of this leaf anywhere in the ring.
    pub blocks_of_leaf: u32,
    pub transactions: Vec<TransactionReport>,
}

/// One transaction of those blocks.
#[derive(Debug, Serialize)]
pub struct TransactionReport {
    pub sequence: u64,
    pub blocks: Vec<u64>,
    /// Whether the transaction is valid, which it is if its last block is there.
    pub finished: bool,
    pub records: u32,
    /// With `--map`: each record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list: Vec<String>,
}

/// One block of the page directory.
#[derive(Debug, Serialize)]
pub struct DirectoryReport {
    pub index: u32,
    /// The active slot: A, B or none.
    pub slot: &'static str,
    pub block: Option<u64>,
    pub pages_written: usize,
    pub sound: bool,
}

/// The map pages on the leaf.
#[derive(Debug, Default, Serialize)]
pub struct PagesReport {
    pub written: u32,
    pub sound: u32,
}

/// The map, with the journal replayed.
#[derive(Debug, Default, Serialize)]
pub struct MapReport {
    pub slabs_used: u32,
    pub slabs_zero: u32,
    pub sectors_mapped: u64,
    /// Runs of adjacent sectors, within slabs.
    pub runs: u64,
    /// With `--map`: each slab that does not read as its base.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slabs: Vec<SlabReport>,
}

/// A root slab that a write or a discard has changed.
#[derive(Debug, Serialize)]
pub struct SlabReport {
    pub slab: u32,
    pub union_sector: u64,
    pub leaf_slab: Option<u32>,
    pub leaf_sector: Option<u64>,
    /// What unmapped sectors read as: `below` or `zero`.
    pub base: &'static str,
    /// First sector within the slab, and count.
    pub runs: Vec<(u32, u32)>,
}
