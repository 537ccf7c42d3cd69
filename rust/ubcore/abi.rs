// SPDX-License-Identifier: GPL-2.0

//! The ioctl structures of `include/uapi/unionblk.h`, which says what each field means.
//!
//! A test compares sizes, offsets and numbers with what a C compiler makes of that header.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};
use zerocopy_derive::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::error::Error;
use super::format::name::NAME_BYTES;
use super::num::index;

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
/// `UNIONBLK_MODE_ASKED`.
pub const MODE_ASKED: u32 = 2;
/// `UNIONBLK_CREATE_READ_ONLY`.
pub const CREATE_READ_ONLY: u32 = 1;
/// `UNIONBLK_DISCARD_ZERO`.
pub const DISCARD_ZERO: u32 = 0;
/// `UNIONBLK_DISCARD_REVEAL`.
pub const DISCARD_REVEAL: u32 = 1;

/// The word for a mode, for people and scripts.
pub const fn mode_word(mode: u32) -> &'static str {
    match mode {
        MODE_WRITABLE => "writable",
        MODE_READ_ONLY => "read-only",
        MODE_ASKED => "read-only-asked",
        _ => "unknown",
    }
}

/// The word for a discard policy.
pub const fn discard_word(discard: u32) -> &'static str {
    match discard {
        DISCARD_ZERO => "zero",
        DISCARD_REVEAL => "reveal",
        _ => "unknown",
    }
}

/// `UNIONBLK_STATUS_NEXT`.
pub const STATUS_NEXT: u32 = 1;
/// The node of the control device below `/dev`.
pub const CONTROL_NAME: &core::ffi::CStr = c"unionblk-control";

/// `struct unionblk_features`.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the C header says it")]
pub struct Features {
    pub size: u32,
    pub abi_version: u32,
    pub format_version: u32,
    pub unions: u32,
    pub features: u64,
    pub reserved: [u64; 5],
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
    pub reserved: [u64; 7],
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
    pub reserved: [u64; 4],
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
    pub reserved: [u64; 1],
}

/// What two of the structures say of a leaf's damage, where the rest can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// `damaged_blocks`
    pub blocks: u32,
    /// `lost_sectors`
    pub sectors: u64,
}

/// A structure of this interface: its first word is its own size.
pub trait Call: FromBytes + IntoBytes + Immutable + KnownLayout + Sized {
    /// Number of the call, the second argument of `_IOWR`.
    const NUMBER: u32;

    /// The ioctl command as `_IOWR(0xb5, NUMBER, Self)` makes it.
    const COMMAND: u32 = command(Self::NUMBER, size_of::<Self>());

    /// Whether flags and reserved fields of a request are as this version wants them.
    fn reserved_are_zero(&self) -> bool;

    /// The size that the caller stated.
    fn size(&self) -> u32;
}

const fn command(number: u32, bytes: usize) -> u32 {
    (3 << 30) | ((bytes as u32) << 16) | (0xb5 << 8) | number
}

macro_rules! call {
    ($type:ident, $number:literal, |$s:ident| $reserved:expr) => {
        impl Call for $type {
            const NUMBER: u32 = $number;

            fn reserved_are_zero(&self) -> bool {
                let $s = self;
                $reserved
            }

            fn size(&self) -> u32 {
                self.size
            }
        }

        impl $type {
            /// All zero, but for its size.
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

call!(Features, 0, |s| s.reserved == [0; 5]);
call!(Create, 1, |s| s.flags & !CREATE_READ_ONLY == 0
    && s.reserved == [0; 7]);
call!(Remove, 2, |s| s.flags == 0
    && s.reserved0 == 0
    && s.reserved == [0; 4]);
call!(Status, 3, |s| s.flags & !STATUS_NEXT == 0
    && s.reserved0 == 0
    && s.reserved == [0; 1]);

impl Create {
    /// Stores why the call failed.
    pub fn set_error(&mut self, e: Error) {
        let (reason, a, b) = e.to_wire();
        self.reason = reason;
        self.reason_detail = [a, b];
    }

    /// Why the call failed, if the driver said so.
    pub fn error(&self) -> Option<Error> {
        let [a, b] = self.reason_detail;
        Error::from_wire(self.reason, a, b)
    }
}

/// The bytes of a path field before its NUL; `None` if it is empty or has no end.
pub fn path(field: &[u8; PATH_BYTES]) -> Option<&[u8]> {
    let end = field.iter().position(|&b| b == 0)?;
    field.get(..end).filter(|p| !p.is_empty())
}

/// Fills a path field; `None` if the path is too long or holds a NUL.
pub fn set_path(field: &mut [u8; PATH_BYTES], path: &[u8]) -> Option<()> {
    if path.contains(&0) || path.len() >= PATH_BYTES {
        return None;
    }
    field.fill(0);
    field.get_mut(..path.len())?.copy_from_slice(path);
    Some(())
}

const _: () = assert!(index(u32::MAX) > PATH_BYTES);

#[cfg(any(test, kernel))]
#[cfg_attr(kernel, kernel::prelude::kunit_tests(unionblk_abi))]
mod tests {
    use super::super::error::{Error, Side};
    use super::{path, set_path, Call, Create, Features, Remove, Status};

    #[test]
    fn layout() {
        assert_eq!(size_of::<Features>(), 64);
        assert_eq!(size_of::<Create>(), 616);
        assert_eq!(size_of::<Remove>(), 48);
        assert_eq!(size_of::<Status>(), 720);
        assert_eq!(Features::COMMAND, 0xc040_b500);
        assert_eq!(Create::COMMAND, 0xc268_b501);
        assert_eq!(Remove::COMMAND, 0xc030_b502);
        assert_eq!(Status::COMMAND, 0xc2d0_b503);
    }

    #[test]
    fn paths_and_reasons() {
        let mut c = Create::new();
        assert!(c.reserved_are_zero());
        assert_eq!(c.size(), 616);
        assert!(path(&c.root).is_none());
        assert!(set_path(&mut c.root, b"/dev/vda").is_some());
        assert!(path(&c.root) == Some(b"/dev/vda".as_slice()));
        assert!(set_path(&mut c.root, &[b'x'; 256]).is_none());
        assert!(set_path(&mut c.root, b"a\0b").is_none());
        c.root = [b'x'; 256];
        assert!(path(&c.root).is_none());
        assert!(c.error().is_none());
        c.set_error(Error::Busy(Side::Leaf));
        assert!(c.error() == Some(Error::Busy(Side::Leaf)));
        c.reserved[6] = 1;
        assert!(!c.reserved_are_zero());
    }
}
