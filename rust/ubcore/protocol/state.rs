// SPDX-License-Identifier: GPL-2.0

//! What the protocol stores with each request.

/// The state of a request. It is one word, so that reclaim reads it by one load while the request
/// is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u64);

/// When the data of the request is on the leaf, the request still needs a commit.
const NEEDS_COMMIT: u64 = 1;
/// The request uses leaf slabs that it found in the map, in the epoch of the upper half.
const USES_MAP: u64 = 2;
/// The parts of slabs of a zeroing have been zeroed.
const PARTS_ZEROED: u64 = 4;
/// Some bios of the request fail, see [`Request::fail_bios`](super::Request::fail_bios).
const HAS_FAILED_BIOS: u64 = 8;
const EPOCH_SHIFT: u32 = 32;
const USE: u64 = USES_MAP | (0xffff_ffff << EPOCH_SHIFT);

impl State {
    /// The state of a request that has just come.
    pub const NEW: State = State(0);

    /// Returns the state that a host stored as a word.
    pub const fn from_word(word: u64) -> Self {
        State(word)
    }

    /// Returns the word to store.
    pub const fn to_word(self) -> u64 {
        self.0
    }

    pub(super) fn needs_commit(self) -> bool {
        self.0 & NEEDS_COMMIT != 0
    }

    pub(super) fn with_commit(self) -> Self {
        State(self.0 | NEEDS_COMMIT)
    }

    pub(super) fn has_zeroed_parts(self) -> bool {
        self.0 & PARTS_ZEROED != 0
    }

    pub(super) fn with_zeroed_parts(self) -> Self {
        State(self.0 | PARTS_ZEROED)
    }

    pub(super) fn has_failed_bios(self) -> bool {
        self.0 & HAS_FAILED_BIOS != 0
    }

    pub(super) fn with_failed_bios(self) -> Self {
        State(self.0 | HAS_FAILED_BIOS)
    }

    /// Returns whether the request uses leaf slabs that it found in the map.
    pub fn uses_map(self) -> bool {
        self.0 & USES_MAP != 0
    }

    pub(super) fn with_use(self, epoch: u32) -> Self {
        let epoch = u64::from(epoch).wrapping_shl(EPOCH_SHIFT);
        State(self.without_use().0 | epoch | USES_MAP)
    }

    pub(super) fn without_use(self) -> Self {
        State(self.0 & !USE)
    }

    /// Returns whether the request has used the map since before epoch `now`.
    pub(super) fn is_older(self, now: u64) -> bool {
        self.uses_map() && self.0.wrapping_shr(EPOCH_SHIFT) != now
    }
}
