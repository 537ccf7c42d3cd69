// SPDX-License-Identifier: GPL-2.0

//! Conversion between the core's errors and the kernel's. `unionblk.h` lists the errno of each
//! reason.

use crate::ubcore::error::{
    Error,
    Role, //
};
use kernel::{
    error::code,
    prelude::Result, //
};

/// Returns the errno of a core error.
pub(crate) fn errno(e: Error) -> kernel::error::Error {
    match e {
        Error::NotFormatted => code::ENODATA,
        Error::NewerVersion(_) | Error::UnknownFeatures(..) => code::EPROTONOSUPPORT,
        Error::Damaged(..) => code::EUCLEAN,
        Error::RootSize(..) | Error::RootContent | Error::LayerCount(..) | Error::LayerIdentity => {
            code::ESTALE
        }
        Error::LeafSize(..) | Error::LeafTooSmall(..) | Error::Full => code::ENOSPC,
        Error::SlabSize(_)
        | Error::Shrink(..)
        | Error::SameDevice
        | Error::Limits(_)
        | Error::FineMap(_)
        | Error::NotFrozen
        | Error::UnionSize(..)
        | Error::BlockSize(..) => code::EINVAL,
        Error::TooLarge(..) | Error::NoRoom(..) => code::EFBIG,
        Error::Io(..) | Error::Internal => code::EIO,
        Error::Busy(_) | Error::RequestsInFlight => code::EBUSY,
        Error::ReadOnlyLeaf | Error::ReadOnlyUnion | Error::Frozen => code::EROFS,
        Error::NoMemory => code::ENOMEM,
        Error::Stacked(_) => code::ELOOP,
        // `errno_number` made it from an errno. If it is none, the call below says so.
        Error::Open(_, n) | Error::Os(n) => {
            kernel::error::Error::from_errno(0i32.saturating_sub_unsigned(n))
        }
    }
}

/// Returns the errno of a kernel error as a positive number.
pub(crate) fn errno_number(e: kernel::error::Error) -> u32 {
    e.to_errno().unsigned_abs()
}

/// Returns the core error for a device that could not be opened.
pub(crate) fn open_error(role: Role, e: kernel::error::Error) -> Error {
    if e == code::EBUSY {
        Error::Busy(role)
    } else {
        Error::Open(role, errno_number(e))
    }
}

/// Converts a kernel result to a core result.
pub(crate) fn to_core<T>(r: Result<T>) -> crate::ubcore::error::Result<T> {
    r.map_err(|e| {
        if e == code::ENOMEM {
            Error::NoMemory
        } else {
            Error::Os(errno_number(e))
        }
    })
}
