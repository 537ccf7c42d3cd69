// SPDX-License-Identifier: GPL-2.0

//! The core's errors as the kernel's: the errno that each reason has in `unionblk.h`.

use crate::ubcore::error::{
    Error,
    Side, //
};
use kernel::{
    error::code,
    prelude::Result, //
};

/// The errno of a core error.
pub(crate) fn errno(e: Error) -> kernel::error::Error {
    match e {
        Error::NotFormatted => code::ENODATA,
        Error::NewerVersion(_) | Error::UnknownFeatures(..) => code::EPROTONOSUPPORT,
        Error::Damaged(..) => code::EUCLEAN,
        Error::RootSize(..) | Error::RootContent => code::ESTALE,
        Error::LeafSize(..) | Error::LeafTooSmall(..) | Error::Full => code::ENOSPC,
        Error::SlabSize(_) | Error::SameDevice | Error::Limits(_) | Error::FineMap(_) => {
            code::EINVAL
        }
        Error::TooLarge(..) => code::EFBIG,
        Error::Io(..) | Error::Internal => code::EIO,
        Error::Busy(_) => code::EBUSY,
        Error::ReadOnlyLeaf => code::EROFS,
        Error::NoMemory => code::ENOMEM,
        Error::Emptied => code::EAGAIN,
        Error::Stacked(_) => code::ELOOP,
        Error::Open(_, n) | Error::Os(n) => i32::try_from(n)
            .map(|n| kernel::error::Error::from_errno(n.saturating_neg()))
            .unwrap_or(code::EIO),
    }
}

/// The positive number of a kernel error.
pub(crate) fn number(e: kernel::error::Error) -> u32 {
    e.to_errno().unsigned_abs()
}

/// The core error of a device that could not be opened.
pub(crate) fn open(side: Side, e: kernel::error::Error) -> Error {
    if e == code::EBUSY {
        Error::Busy(side)
    } else if side == Side::Leaf && (e == code::EROFS || e == code::EACCES) {
        Error::ReadOnlyLeaf
    } else {
        Error::Open(side, number(e))
    }
}

/// A kernel result as a core one.
pub(crate) fn os<T>(r: Result<T>) -> crate::ubcore::error::Result<T> {
    r.map_err(|e| {
        if e == code::ENOMEM {
            Error::NoMemory
        } else {
            Error::Os(number(e))
        }
    })
}
