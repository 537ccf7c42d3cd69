// SPDX-License-Identifier: GPL-2.0

//! Labels: the bounds that containerd sets, and the one label that has a meaning here.

use std::collections::HashMap;

use crate::error::{complain, Error, Result};
use crate::snapshot::Labels;

/// The bytes that a container may write, in decimal. containerd lets a snapshotter ignore it, and
/// so a value that cannot be used is ignored.
pub const MAX_SIZE: &str = "containerd.io/snapshot/max-size";

/// The largest size of a key and its value together.
const PAIR_BYTES: usize = 4096;
/// The largest size of all labels of a snapshot. containerd receives messages of up to 16 MiB, and
/// a list cannot show a larger snapshot.
const ALL_BYTES: usize = 1 << 20;

/// Returns the labels of a request. A label without a value does not exist.
pub fn checked(labels: HashMap<String, String>) -> Result<Labels> {
    for (key, value) in &labels {
        let bytes = key.len().saturating_add(value.len());
        if key.is_empty() || bytes > PAIR_BYTES {
            let key: String = key.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "label {key:?}: a key must not be empty, and key and value together may have \
                 {PAIR_BYTES} bytes, not {bytes}"
            )));
        }
    }
    let has_value = |(_, value): &(String, String)| !value.is_empty();
    let labels = labels.into_iter().filter(has_value).collect();
    bounded(&labels)?;
    Ok(labels)
}

/// Refuses labels that are too large together.
pub fn bounded(labels: &Labels) -> Result {
    let bytes: usize = labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > ALL_BYTES {
        return Err(Error::invalid(format!(
            "the labels of a snapshot may have {ALL_BYTES} bytes together, not {bytes}"
        )));
    }
    Ok(())
}

/// Returns the limit that the labels set, in bytes.
pub fn max_size(labels: &Labels) -> Option<u64> {
    let value = labels.get(MAX_SIZE)?;
    let bytes = value.parse().ok().filter(|&bytes: &u64| bytes > 0);
    if bytes.is_none() {
        complain(&format!(
            "label {MAX_SIZE}={value:?} is not a number of bytes: the limit of --size is used"
        ));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::{checked, max_size, Labels, MAX_SIZE, PAIR_BYTES};
    use std::collections::HashMap;

    #[test]
    fn a_limit_is_a_number_of_bytes() {
        let limit = |value: &str| max_size(&Labels::from([(MAX_SIZE.into(), value.into())]));
        assert_eq!(limit("33554432"), Some(33_554_432));
        assert_eq!(limit("1"), Some(1));
        for bad in ["", "0", "-1", "32M", "0x10", " 1", "18446744073709551616"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
        assert_eq!(max_size(&Labels::new()), None);
    }

    #[test]
    fn a_label_has_a_key_and_fits() {
        let one = |key: &str, value: String| checked(HashMap::from([(key.to_owned(), value)]));
        assert_eq!(one("k", "v".into()).unwrap().len(), 1);
        assert_eq!(one("k", String::new()).unwrap().len(), 0);
        assert_eq!(one("k", "v".repeat(PAIR_BYTES - 1)).unwrap().len(), 1);
        assert!(one("k", "v".repeat(PAIR_BYTES)).is_err());
        assert!(one("", "v".into()).is_err());
        let many = |n: usize| {
            checked(
                (0..n)
                    .map(|n| (format!("{n:03}"), "v".repeat(4093)))
                    .collect(),
            )
        };
        assert_eq!(many(256).unwrap().len(), 256);
        assert!(many(257).is_err());
    }
}
