// SPDX-License-Identifier: GPL-2.0

//! The 64 bits of the stack map: an entry of the table, or a run of a mixed record.
//!
//! ```text
//! 63     57 56  55 54      47 46                   0
//! | first  | kind | source   | position            |   a run, or the entry of a whole slab
//! | 0      | 3    | runs     | record's position   |   the entry of a mixed slab
//! ```
//!
//! Kind 0 is the bottom as it is, 1 zeroes, 2 a layer, and 3 mixed. An entry of zero, which an
//! absent page stands for, is thus the bottom. The run of a slab that has only one is its entry.

use super::super::error::{Broken, Checked};
use super::super::num::saturating_u32;
use super::source::StackSource;

/// The sectors of a stack slab: 64 KiB.
pub const SLAB_SECTORS: u32 = 128;
/// One more than the highest position of a sector in a layer, or of a sector in a stack.
pub const POSITION_END: u64 = 1 << 47;

const SOURCE_SHIFT: u32 = 47;
const KIND_SHIFT: u32 = 55;
const FIRST_SHIFT: u32 = 57;

const BOTTOM: u64 = 0;
const ZERO: u64 = 1;
const LAYER: u64 = 2;
const MIXED: u64 = 3;

/// The mixed record of a slab: where it lies, and how many runs it has, 2 to [`SLAB_SECTORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixedRecord {
    /// Its first word among those of all mixed records, below [`POSITION_END`].
    pub at: u64,
    /// The number of its runs, which is that of its words.
    pub runs: u32,
}

/// An entry or a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(pub u64);

impl Word {
    /// Returns a run from sector `first` of its slab on. With `first` 0 it is the entry of a slab
    /// that has one source. `first` is below [`SLAB_SECTORS`], a position below
    /// [`POSITION_END`].
    #[inline]
    pub fn run(first: u32, source: StackSource) -> Word {
        let (kind, source, position) = match source {
            StackSource::Bottom => (BOTTOM, 0, 0),
            StackSource::Zero => (ZERO, 0, 0),
            StackSource::Layer(layer, at) => (LAYER, u64::from(layer), at),
        };
        Word(pack(first, kind, source, position))
    }

    /// Returns the entry of a mixed slab.
    #[inline]
    pub fn mixed(record: MixedRecord) -> Word {
        Word(pack(0, MIXED, u64::from(record.runs), record.at))
    }

    /// Returns the first sector of a run in its slab.
    #[inline]
    pub fn first(self) -> u32 {
        saturating_u32(self.0.wrapping_shr(FIRST_SHIFT))
    }

    /// Returns where a run or a whole slab comes from. Fails for the entry of a mixed slab.
    #[inline]
    pub fn source(self) -> Checked<StackSource> {
        match self.kind() {
            BOTTOM => Ok(StackSource::Bottom),
            ZERO => Ok(StackSource::Zero),
            LAYER => Ok(StackSource::Layer(self.source_field(), self.position())),
            _ => Err(Broken),
        }
    }

    /// Returns the mixed record of a slab. Returns `None` if all of the slab is one run.
    #[inline]
    pub fn mixed_record(self) -> Option<MixedRecord> {
        (self.kind() == MIXED).then_some(MixedRecord {
            at: self.position(),
            runs: u32::from(self.source_field()),
        })
    }

    #[inline]
    fn kind(self) -> u64 {
        self.0.wrapping_shr(KIND_SHIFT) & 3
    }

    #[inline]
    fn source_field(self) -> u8 {
        let [source, ..] = self.0.wrapping_shr(SOURCE_SHIFT).to_le_bytes();
        source
    }

    #[inline]
    fn position(self) -> u64 {
        self.0 & POSITION_END.wrapping_sub(1)
    }
}

#[inline]
fn pack(first: u32, kind: u64, source: u64, position: u64) -> u64 {
    u64::from(first).wrapping_shl(FIRST_SHIFT)
        | kind.wrapping_shl(KIND_SHIFT)
        | source.wrapping_shl(SOURCE_SHIFT)
        | position
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_stack_word))]
mod tests {
    use super::{Broken, MixedRecord, StackSource, Word, POSITION_END, SLAB_SECTORS};

    #[test]
    fn every_field_keeps_its_extremes() {
        for first in [0, 1, SLAB_SECTORS - 1] {
            for source in [
                StackSource::Bottom,
                StackSource::Zero,
                StackSource::Layer(0, 0),
                StackSource::Layer(253, 0),
                StackSource::Layer(0, POSITION_END - 1),
                StackSource::Layer(253, POSITION_END - 1),
            ] {
                let word = Word::run(first, source);
                assert!(word.first() == first && word.source() == Ok(source));
                assert!(word.mixed_record().is_none());
            }
        }
        for at in [0, POSITION_END - 1] {
            for runs in [2, SLAB_SECTORS] {
                let record = MixedRecord { at, runs };
                let entry = Word::mixed(record);
                assert!(entry.mixed_record() == Some(record) && entry.source() == Err(Broken));
            }
        }
        assert!(Word(0).source() == Ok(StackSource::Bottom) && Word(0).mixed_record().is_none());
    }
}
