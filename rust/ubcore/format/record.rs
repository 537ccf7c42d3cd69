// SPDX-License-Identifier: GPL-2.0

//! A journal record: one change of the map, in 64 bits. (The bits of a [`Record::Words`] follow in
//! more words.)
//!
//! ```text
//! 63          32 31       19 18        6 5    0
//! | slab          | first     | count - 1 | tag |
//! ```
//!
//! A run that opens a new slab must name root slab *and* leaf slab. The tag has the distance of the
//! leaf slab from the leaf slab named before. Slabs are emitted in the order of the leaf, so the
//! distance is small and one run costs one record.

use super::super::geometry::{LeafSlab, TABLE_ENTRIES};

/// Tag of [`Record::Origin`].
const ORIGIN: u64 = 1;
/// Tag of [`Record::More`].
const MORE: u64 = 2;
/// Tag of [`Record::Words`].
const WORDS: u64 = 3;
/// Tag of [`Record::Zero`].
const ZERO: u64 = 4;
/// Tag of [`Record::Reset`].
const RESET: u64 = 5;
/// The tag of a [`Record::New`] is its step plus this.
const NEW_BASE: u64 = 7;
/// Largest step that a [`Record::New`] can hold. For a larger step a [`Record::Origin`] goes before
/// it.
pub const STEP_MAX: u32 = 56;

/// Most slabs of one [`Record::Zero`] or [`Record::Reset`]: those of one page of the slab table, so
/// that eight bytes of journal cost a reader one page.
pub const COUNT_MAX: u32 = TABLE_ENTRIES;

/// Sectors of one slab: `first` up to but not including `first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabRun {
    /// First sector within the slab, 0 to 8191.
    pub first: u32,
    /// Sectors, 1 to 8192.
    pub count: u32,
}

/// One entry of the journal. All are idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The leaf slab that the next `New`'s step counts from.
    Origin(LeafSlab),
    /// The root slab now has the leaf slab `step` after the last one named, and `run` is mapped.
    New {
        /// The root slab.
        slab: u32,
        /// Distance of its leaf slab from the one named before, 1 to [`STEP_MAX`].
        step: u32,
        /// What is mapped.
        run: SlabRun,
    },
    /// More sectors of a root slab that has a leaf slab are mapped.
    More {
        /// The root slab.
        slab: u32,
        /// What is mapped.
        run: SlabRun,
    },
    /// More sectors of a root slab that has a leaf slab are mapped. The next `words` 64-bit words
    /// of the same block are its bits, to be added.
    Words {
        /// The root slab.
        slab: u32,
        /// Words that follow, 1 to 128.
        words: u32,
    },
    /// Root slabs of one page of the slab table read as zeroes. The leaf slabs that they had are
    /// free.
    Zero {
        /// The first root slab.
        slab: u32,
        /// How many, 1 to [`COUNT_MAX`].
        count: u32,
    },
    /// Root slabs of one page of the slab table read as what lies below the leaf. The leaf slabs
    /// that they had are free.
    Reset {
        /// The first root slab.
        slab: u32,
        /// How many, 1 to [`COUNT_MAX`].
        count: u32,
    },
}

fn pack(slab: u32, first: u32, less: u32, tag: u64) -> u64 {
    (u64::from(slab) << 32)
        | (u64::from(first & 0x1fff) << 19)
        | (u64::from(less & 0x1fff) << 6)
        | tag
}

impl Record {
    /// Returns the record's 64 bits.
    pub fn encode(self) -> u64 {
        match self {
            Record::Origin(leaf_slab) => pack(leaf_slab.0, 0, 0, ORIGIN),
            Record::New { slab, step, run } => pack(
                slab,
                run.first,
                run.count.wrapping_sub(1),
                NEW_BASE.wrapping_add(u64::from(step)),
            ),
            Record::More { slab, run } => pack(slab, run.first, run.count.wrapping_sub(1), MORE),
            Record::Words { slab, words } => pack(slab, 0, words.wrapping_sub(1), WORDS),
            Record::Zero { slab, count } => pack(slab, 0, count.wrapping_sub(1), ZERO),
            Record::Reset { slab, count } => pack(slab, 0, count.wrapping_sub(1), RESET),
        }
    }

    /// Decodes a record and checks its bounds. Returns `None` for what this format does not define.
    pub fn decode(bits: u64, slab_sectors: u32) -> Option<Record> {
        let slab = u32::try_from(bits >> 32).ok()?;
        let first = u32::try_from((bits >> 19) & 0x1fff).ok()?;
        let count = u32::try_from((bits >> 6) & 0x1fff).ok()?.checked_add(1)?;
        let tag = bits & 0x3f;
        let bare = first == 0 && count == 1;
        let run = SlabRun { first, count };
        let in_page = (slab % TABLE_ENTRIES).checked_add(count)? <= COUNT_MAX && first == 0;
        let run_fits = first.checked_add(count)? <= slab_sectors;
        match tag {
            ORIGIN if bare => Some(Record::Origin(LeafSlab(slab))),
            MORE if run_fits => Some(Record::More { slab, run }),
            WORDS if first == 0 && count == slab_sectors.div_ceil(64) => {
                Some(Record::Words { slab, words: count })
            }
            ZERO if in_page => Some(Record::Zero { slab, count }),
            RESET if in_page => Some(Record::Reset { slab, count }),
            _ if tag > NEW_BASE && run_fits => {
                let step = u32::try_from(tag.checked_sub(NEW_BASE)?).ok()?;
                Some(Record::New { slab, step, run })
            }
            _ => None,
        }
    }
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_record))]
mod tests {
    use super::super::super::geometry::LeafSlab;
    use super::{Record, SlabRun, COUNT_MAX, STEP_MAX};

    #[test]
    fn round_trip() {
        let run = SlabRun {
            first: 8191,
            count: 1,
        };
        let whole = SlabRun {
            first: 0,
            count: 8192,
        };
        for r in [
            Record::Origin(LeafSlab(u32::MAX)),
            Record::New {
                slab: 7,
                step: 1,
                run,
            },
            Record::New {
                slab: u32::MAX,
                step: STEP_MAX,
                run: whole,
            },
            Record::More {
                slab: 0,
                run: whole,
            },
            Record::Words {
                slab: 3,
                words: 128,
            },
            Record::Zero { slab: 9, count: 1 },
            Record::Zero {
                slab: 0,
                count: COUNT_MAX,
            },
            Record::Reset {
                slab: 2049,
                count: COUNT_MAX - 1,
            },
        ] {
            assert!(Record::decode(r.encode(), 8192) == Some(r));
        }
    }

    #[test]
    fn what_is_not_defined_is_refused() {
        assert!(Record::decode(0, 128).is_none());
        assert!(Record::decode(6, 128).is_none());
        assert!(Record::decode(7, 128).is_none());
        let past = Record::More {
            slab: 1,
            run: SlabRun {
                first: 100,
                count: 29,
            },
        };
        assert!(Record::decode(past.encode(), 128).is_none());
        let dirty = Record::Origin(LeafSlab(1)).encode() | (1 << 6);
        assert!(Record::decode(dirty, 128).is_none());
        let short = Record::Words { slab: 1, words: 1 };
        assert!(Record::decode(short.encode(), 128).is_none());
        assert!(Record::decode(short.encode(), 32).is_some());
        // Two pages of the slab table, more than one holds, and bits that mean nothing.
        for (slab, count) in [(1023, 2), (1, COUNT_MAX), (0, COUNT_MAX + 1), (0, 8192)] {
            for r in [Record::Zero { slab, count }, Record::Reset { slab, count }] {
                assert!(Record::decode(r.encode(), 8192).is_none());
            }
        }
        let whole = Record::Zero {
            slab: 1024,
            count: COUNT_MAX,
        };
        assert!(Record::decode(whole.encode(), 8192) == Some(whole));
        assert!(Record::decode(whole.encode() | (1 << 19), 8192).is_none());
    }
}
