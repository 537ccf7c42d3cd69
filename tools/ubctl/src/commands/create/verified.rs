// SPDX-License-Identifier: GPL-2.0

//! `create --verify`: verifies all of the root and the layers before anything is written.

use std::path::Path;

use super::super::verify;
use crate::below::Below;
use crate::error::Result;
use crate::sealed;

/// Refuses a root or a layer that is damaged, or that cannot be verified. The driver will open the
/// same devices, which `below` holds.
pub fn refuse_damage(below: &Below, digest_file: Option<&Path>) -> Result {
    let opened = below.open(None)?;
    if let Some(root) = &opened.root {
        verify::refuse_root_damage(root, digest_file)?;
    }
    for layer in &opened.layers {
        let device = &layer.device;
        match sealed::open_if_there(device)? {
            Some(sealed) => verify::refuse_damage(device, &sealed.header)?,
            None => verify::refuse_root_damage(device, None)?,
        }
    }
    Ok(())
}
