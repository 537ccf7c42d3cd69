// SPDX-License-Identifier: GPL-2.0

//! The digest by which a leaf knows its root.

use map_memory::sha256::Sha256;
use ubcore::root_samples::{samples, PREFIX};
use ubcore::sha256::Sha256 as _;

use crate::device::Device;
use crate::error::Result;

/// Returns the SHA-256 over the samples of a root that the leaf with this UUID uses.
pub fn digest(root: &Device, uuid: &[u8; 16]) -> Result<[u8; 32]> {
    let mut sum = Sha256::new();
    sum.update(PREFIX);
    sum.update(&root.sectors().to_le_bytes());
    for (first, count) in samples(uuid, root.sectors()) {
        let mut bytes = vec![0; usize::try_from(count * 512).unwrap_or(0)];
        root.read_at(first * 512, &mut bytes)?;
        sum.update(&first.to_le_bytes());
        sum.update(&bytes);
    }
    Ok(sum.finish())
}
