// SPDX-License-Identifier: GPL-2.0

//! Random numbers of the kernel.

use std::path::Path;

use rustix::rand::{getrandom, GetRandomFlags};

use crate::error::{Fail, Result};

/// Returns random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let n = getrandom(&mut bytes[filled..], GetRandomFlags::empty());
        filled += n.map_err(|e| {
            let what = Path::new("the kernel's random numbers");
            Fail::io("read from", what, &e.into())
        })?;
    }
    Ok(bytes)
}
