// SPDX-License-Identifier: GPL-2.0

//! The ioctl structures of `include/uapi/unionblk.h`, which documents each field.
//!
//! A test compares sizes, offsets and numbers with what a C compiler makes of that header.
//! [`super::abi_copy`] takes these structures from callers of any version.

use core::mem::offset_of;
use core::ops::Range;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::error::Error;
use super::format::name::NAME_BYTES;

/// `UNIONBLK_ABI_VERSION`.
pub const ABI_VERSION: u32 = 1;
/// `UNIONBLK_PATH_BYTES`.
pub const PATH_BYTES: usize = 256;
/// `UNIONBLK_ID_ANY`.
pub const ID_ANY: u32 = u32::MAX;
/// `UNIONBLK_MODE_WRITABLE`.
pub const MODE_WRITABLE: u32 = 0;
/// `UNIONBLK_MODE_READ_ONLY`.
pub const MODE_READ_ONLY: u32 = 1;
/// `UNIONBLK_MODE_READ_ONLY_REQUESTED`.
pub const MODE_READ_ONLY_REQUESTED: u32 = 2;
/// `UNIONBLK_CREATE_READ_ONLY`.
pub const CREATE_READ_ONLY: u32 = 1;
/// `UNIONBLK_CREATE_NO_ROOT`.
pub const CREATE_NO_ROOT: u32 = 2;
/// `UNIONBLK_FREEZE_FILE_SYSTEMS`.
pub const FREEZE_FILE_SYSTEMS: u32 = 1;
/// `UNIONBLK_DISCARD_ZERO`.
pub const DISCARD_ZERO: u32 = 0;
/// `UNIONBLK_DISCARD_REVEAL`.
pub const DISCARD_REVEAL: u32 = 1;
/// `UNIONBLK_STATUS_NEXT`.
pub const STATUS_NEXT: u32 = 1;
/// The node of the control device below `/dev`.
pub const CONTROL_NAME: &core::ffi::CStr = c"unionblk-control";
/// The largest number of hardware queues of a union.
pub const QUEUES_MAX: u32 = 8;

/// Returns the word for a mode, for people and scripts.
pub const fn mode_word(mode: u32) -> &'static str {
    match mode {
        MODE_WRITABLE => "writable",
        MODE_READ_ONLY => "read-only",
        MODE_READ_ONLY_REQUESTED => "read-only-requested",
        _ => "unknown",
    }
}

/// Returns the word for a discard policy.
pub const fn discard_word(discard: u32) -> &'static str {
    match discard {
        DISCARD_ZERO => "zero",
        DISCARD_REVEAL => "reveal",
        _ => "unknown",
    }
}

/// `struct unionblk_features`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct FeaturesCall {
    pub size: u32,
    pub abi_version: u32,
    pub format_version: u32,
    pub unions: u32,
    pub features: u64,
}

/// `struct unionblk_layer`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Layer {
    pub path: [u8; PATH_BYTES],
    pub offset: u64,
    pub reserved: u64,
}

/// `struct unionblk_create`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Create {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub queues: u32,
    pub root: [u8; PATH_BYTES],
    pub leaf: [u8; PATH_BYTES],
    pub reason: u32,
    pub damaged_blocks: u32,
    pub reason_detail: [u64; 2],
    pub lost_sectors: u64,
    pub layers: u64,
    pub layers_count: u32,
    pub layer: u32,
}

/// `struct unionblk_remove`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Remove {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub reserved0: u32,
}

/// `struct unionblk_status`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Status {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub openers: u32,
    pub queues: u32,
    pub root: [u8; PATH_BYTES],
    pub leaf: [u8; PATH_BYTES],
    pub uuid: [u8; 16],
    pub sectors: u64,
    pub root_sectors: u64,
    pub leaf_sectors: u64,
    pub slab_sectors: u32,
    pub slabs: u32,
    pub slabs_used: u32,
    pub journal_blocks: u32,
    pub journal_used: u32,
    pub dirty: u32,
    pub commits: u64,
    pub checkpoints: u64,
    pub journal_written: u64,
    pub first_writes: u64,
    pub io_errors: u64,
    pub map_bytes: u64,
    pub discard: u32,
    pub reserved0: u32,
    pub name: [u8; NAME_BYTES],
    pub last_error: u32,
    pub damaged_blocks: u32,
    pub lost_sectors: u64,
    pub stack_bytes: u64,
    pub layers: u32,
    pub stack_unions: u32,
    pub no_space: u64,
    pub limit_slabs: u32,
    pub reserved1: u32,
}

/// `struct unionblk_lost`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct LostCall {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub reserved0: u32,
    pub from: u64,
    pub sector: u64,
    pub sectors: u64,
    pub unnamed: u64,
}

/// `struct unionblk_freeze`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Freeze {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub reason: u32,
    pub leaf: [u8; PATH_BYTES],
    pub seal: [u8; 16],
    pub reason_detail: [u64; 2],
}

/// `struct unionblk_reset`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Reset {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub reason: u32,
    pub uuid: [u8; 16],
    pub reason_detail: [u64; 2],
}

/// `struct unionblk_limit`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Limit {
    pub size: u32,
    pub flags: u32,
    pub id: u32,
    pub reason: u32,
    pub slabs: u32,
    pub reserved0: u32,
    pub uuid: [u8; 16],
    pub reason_detail: [u64; 2],
}

/// What two of the structures report about a leaf's damage, if the rest can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossTotals {
    /// `damaged_blocks`
    pub blocks: u32,
    /// `lost_sectors`
    pub sectors: u64,
}

/// A structure of this interface. Its first word is its own size as the caller knows it.
pub trait Call: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Number of the call, the second argument of `_IO`.
    const NUMBER: u32;

    /// The ioctl command as `_IO(0xd9, NUMBER)` makes it. It stays the same however the structure
    /// grows.
    const COMMAND: u32 = (TYPE << 8) | Self::NUMBER;

    /// The size of its first version: the least that a caller may state.
    const SIZE_VER0: usize;

    /// The fields that the driver reads, by offset. The other fields are answers.
    const INPUTS: &'static [Range<usize>];

    /// Returns whether only flags that this version knows are set, and reserved fields are zero.
    fn is_well_formed(&self) -> bool;

    /// Returns the size that the caller stated.
    fn size(&self) -> u32;

    /// Sets the size that the caller stated.
    fn set_size(&mut self, size: u32);

    /// Makes every field zero that is only for answers.
    fn clear_answers(&mut self) {
        let bytes = self.as_mut_bytes().iter_mut().enumerate();
        for (at, byte) in bytes.skip(size_of::<u32>()) {
            if !Self::INPUTS.iter().any(|input| input.contains(&at)) {
                *byte = 0;
            }
        }
    }
}

/// `UNIONBLK_IOC_TYPE`.
pub const TYPE: u32 = 0xd9;

/// Returns the bytes of a field.
const fn field<S, F>(offset: usize, _: fn(&S) -> &F) -> Range<usize> {
    Range {
        start: offset,
        // Within the structure.
        end: offset.wrapping_add(size_of::<F>()),
    }
}

macro_rules! call {
    ($type:ident, $number:literal, $ver0:literal, in: [$($input:ident),*], |$s:ident| $ok:expr) => {
        impl Call for $type {
            const NUMBER: u32 = $number;
            const SIZE_VER0: usize = $ver0;
            const INPUTS: &'static [Range<usize>] =
                &[$(field(offset_of!($type, $input), |s: &$type| &s.$input)),*];

            fn is_well_formed(&self) -> bool {
                let $s = self;
                $ok
            }

            fn size(&self) -> u32 {
                self.size
            }

            fn set_size(&mut self, size: u32) {
                self.size = size;
            }
        }

        impl $type {
            /// Returns a structure that is all zero, except for its size.
            pub fn new() -> Self {
                let mut s = Self::new_zeroed();
                s.size = size_of::<Self>() as u32;
                s
            }
        }

        impl Default for $type {
            fn default() -> Self {
                Self::new()
            }
        }
    };
}

call!(FeaturesCall, 0, 24, in: [], |_s| true);
call!(Create, 1, 552, in: [flags, id, queues, root, leaf, layers, layers_count], |s| {
    s.flags & !(CREATE_READ_ONLY | CREATE_NO_ROOT) == 0
});
call!(Remove, 2, 16, in: [flags, id, reserved0], |s| {
    s.flags == 0 && s.reserved0 == 0
});
call!(Status, 3, 704, in: [flags, id, reserved0], |s| {
    s.flags & !STATUS_NEXT == 0 && s.reserved0 == 0
});
call!(LostCall, 4, 48, in: [flags, id, reserved0, from], |s| {
    s.flags == 0 && s.reserved0 == 0
});
call!(Freeze, 5, 304, in: [flags, id, leaf, seal], |s| {
    s.flags & !FREEZE_FILE_SYSTEMS == 0
});

call!(Reset, 6, 48, in: [flags, id, uuid], |s| s.flags == 0);
call!(Limit, 7, 56, in: [flags, id, slabs, reserved0, uuid], |s| {
    s.flags == 0 && s.reserved0 == 0
});

/// The reason why a call failed, in the structures that have fields for it.
macro_rules! reason {
    ($type:ident) => {
        impl $type {
            /// Stores why the call failed.
            pub fn set_error(&mut self, e: Error) {
                let (reason, a, b) = e.to_wire();
                self.reason = reason;
                self.reason_detail = [a, b];
            }

            /// Returns why the call failed, if the driver stored a reason.
            pub fn error(&self) -> Option<Error> {
                let [a, b] = self.reason_detail;
                Error::from_wire(self.reason, a, b)
            }
        }
    };
}

reason!(Create);
reason!(Freeze);
reason!(Reset);
reason!(Limit);

impl Create {
    /// Stores what a leaf has lost.
    pub fn set_totals(&mut self, totals: LossTotals) {
        self.damaged_blocks = totals.blocks;
        self.lost_sectors = totals.sectors;
    }
}

/// Returns the bytes of a path field before its NUL, or `None` if it is empty or has no NUL.
pub fn path(field: &[u8; PATH_BYTES]) -> Option<&[u8]> {
    let end = field.iter().position(|&b| b == 0)?;
    field.get(..end).filter(|p| !p.is_empty())
}

/// Fills a path field. Returns `None` if the path is too long or holds a NUL.
pub fn set_path(field: &mut [u8; PATH_BYTES], path: &[u8]) -> Option<()> {
    if path.contains(&0) || path.len() >= PATH_BYTES {
        return None;
    }
    field.fill(0);
    field.get_mut(..path.len())?.copy_from_slice(path);
    Some(())
}

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_abi))]
mod tests {
    use super::super::error::{Error, Role};
    use super::{
        path, set_path, Call, Create, FeaturesCall, Freeze, Layer, Limit, LostCall, Remove, Reset,
        Status,
    };

    #[test]
    fn layout() {
        assert_eq!(size_of::<FeaturesCall>(), 24);
        assert_eq!(size_of::<Create>(), 576);
        assert_eq!(size_of::<Layer>(), 272);
        assert_eq!(size_of::<Remove>(), 16);
        assert_eq!(size_of::<Status>(), 744);
        assert_eq!(size_of::<LostCall>(), 48);
        assert_eq!(size_of::<Freeze>(), 304);
        assert_eq!(size_of::<Reset>(), 48);
        assert_eq!(size_of::<Limit>(), 56);
        assert_eq!(FeaturesCall::COMMAND, 0xd900);
        assert_eq!(Create::COMMAND, 0xd901);
        assert_eq!(Remove::COMMAND, 0xd902);
        assert_eq!(Status::COMMAND, 0xd903);
        assert_eq!(LostCall::COMMAND, 0xd904);
        assert_eq!(Freeze::COMMAND, 0xd905);
        assert_eq!(Reset::COMMAND, 0xd906);
        assert_eq!(Limit::COMMAND, 0xd907);
    }

    #[test]
    fn paths_and_reasons() {
        let mut c = Create::new();
        assert!(c.is_well_formed());
        assert_eq!(c.size(), 576);
        assert!(path(&c.root).is_none());
        assert!(set_path(&mut c.root, b"/dev/vda").is_some());
        assert!(path(&c.root) == Some(b"/dev/vda".as_slice()));
        assert!(set_path(&mut c.root, &[b'x'; 256]).is_none());
        assert!(set_path(&mut c.root, b"a\0b").is_none());
        c.root = [b'x'; 256];
        assert!(path(&c.root).is_none());
        assert!(c.error().is_none());
        c.set_error(Error::Busy(Role::Leaf));
        assert!(c.error() == Some(Error::Busy(Role::Leaf)));
        c.flags = 1 << 31;
        assert!(!c.is_well_formed());
    }
}
