// SPDX-License-Identifier: GPL-2.0

//! Parses the values of options: sizes, and the names of leaves.

use ubcore::format::name::{is_partition_word, is_union_word, LeafName};
use ubcore::geometry::{is_journal_size, BLOCK_BYTES, SLAB_SECTORS_MAX, SLAB_SECTORS_MIN};

/// Bytes from `65536`, `64K`, `64KiB`.
fn bytes(s: &str) -> Result<u64, String> {
    let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let given = s.get(digits.len()..).unwrap_or("");
    let unit: u64 = match given.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(format!("unknown unit '{given}': use K, M, G or T")),
    };
    let n: u64 = digits
        .parse()
        .map_err(|_| "not a size: a number of bytes, or with K, M, G or T")?;
    n.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

/// Returns the sectors of a slab size.
pub fn slab_sectors(s: &str) -> Result<u32, String> {
    let sectors = bytes(s)? / 512;
    let wanted = |n: &u32| n.is_power_of_two() && (SLAB_SECTORS_MIN..=SLAB_SECTORS_MAX).contains(n);
    u32::try_from(sectors)
        .ok()
        .filter(wanted)
        .filter(|_| bytes(s).is_ok_and(|b| b % 512 == 0))
        .ok_or_else(|| "a slab is a power of two from 16K to 4M".to_owned())
}

/// Returns the blocks of a journal size.
pub fn journal_blocks(s: &str) -> Result<u32, String> {
    let bytes = bytes(s)?;
    let block = BLOCK_BYTES as u64;
    u32::try_from(bytes / block)
        .ok()
        .filter(|n| bytes % block == 0 && is_journal_size(*n))
        .ok_or_else(|| "a journal is a multiple of 4K from 64K to 256M".to_owned())
}

/// Returns the sectors of a union's size.
pub fn union_size(s: &str) -> Result<u64, String> {
    let bytes = bytes(s)?;
    if bytes == 0 || bytes % 512 != 0 {
        return Err("a size is a multiple of 512 bytes".to_owned());
    }
    Ok(bytes / 512)
}

/// The limit of a leaf, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitArg(pub Option<u64>);

/// Returns the limit of a leaf. `none`: there is none.
pub fn limit(s: &str) -> Result<LimitArg, String> {
    match s {
        "none" => Ok(LimitArg(None)),
        size => bytes(size).map(|n| LimitArg(Some(n))),
    }
}

/// Returns the byte at which a sealed layer begins.
pub fn layer_offset(s: &str) -> Result<u64, String> {
    let offset = bytes(s)?;
    if offset % BLOCK_BYTES as u64 != 0 {
        return Err("a sealed layer begins at a multiple of 4K".to_owned());
    }
    Ok(offset)
}

/// Returns a SHA-256 from 64 hexadecimal digits.
pub fn digest(s: &str) -> Result<[u8; 32], String> {
    let bad = || "a digest has 64 hexadecimal digits".to_owned();
    if s.len() != 64 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&s[n * 2..n * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(digest)
}

/// Returns the bytes of a union's block.
pub fn sector_size(s: &str) -> Result<u32, String> {
    let wanted = |n: &u32| n.is_power_of_two() && (512..=4096).contains(n);
    let bytes = u32::try_from(bytes(s)?).ok().filter(wanted);
    bytes.ok_or_else(|| "blocks are of a power of two from 512 to 4096 bytes".to_owned())
}

/// Returns the name of a leaf; refuses a name that a command would take for a union's number, or
/// that udev's links would give to two devices.
pub fn leaf_name(s: &str) -> Result<LeafName, String> {
    if is_union_word(s) {
        return Err(
            "a leaf cannot have a union's number as its name, because ubctl remove could not \
             tell them apart"
                .to_owned(),
        );
    }
    if is_partition_word(s) {
        return Err(
            "a name cannot end in -partN, because the link of a partition of another union does"
                .to_owned(),
        );
    }
    LeafName::from_text(s)
        .filter(|_| !s.is_empty())
        .ok_or_else(|| {
            "a name is 1 to 31 of A-Z a-z 0-9 . _ - and does not start with a dot".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use super::{bytes, digest, journal_blocks, layer_offset, leaf_name, slab_sectors, union_size};

    #[test]
    fn sizes() {
        assert_eq!(bytes("65536"), Ok(65536));
        assert_eq!(bytes("64k"), Ok(65536));
        assert_eq!(bytes("1MiB"), Ok(1 << 20));
        assert_eq!(bytes("2T"), Ok(2 << 40));
        for bad in [
            "",
            "K",
            "-1",
            "1X",
            "1.5M",
            "99999999999999999999",
            "18446744073709551615G",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(slab_sectors("16K"), Ok(32));
        assert_eq!(slab_sectors("4M"), Ok(8192));
        for bad in ["8K", "8M", "48K", "65537", "0"] {
            assert!(slab_sectors(bad).is_err(), "{bad}");
        }
        assert_eq!(union_size("1K"), Ok(2));
        for bad in ["0", "513", "1000"] {
            assert!(union_size(bad).is_err(), "{bad}");
        }
        assert_eq!(journal_blocks("64K"), Ok(16));
        assert_eq!(journal_blocks("256M"), Ok(65536));
        for bad in ["60K", "65K", "257M", "0"] {
            assert!(journal_blocks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_and_digests_of_layers() {
        assert_eq!(layer_offset("8K"), Ok(8192));
        assert!(layer_offset("1K").is_err());
        let digits = "0F".repeat(32);
        assert_eq!(digest(&digits), Ok([15; 32]));
        for bad in ["", &digits[1..], &format!("{digits}0"), &"0g".repeat(32)] {
            assert!(digest(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_leaves() {
        assert_eq!(leaf_name("web-01").unwrap().to_string(), "web-01");
        assert!(leaf_name("unionblk0p1").is_ok());
        for bad in [
            "",
            ".x",
            "a/b",
            "web-part1",
            "7",
            "007",
            "99999999999",
            "unionblk7",
            "x".repeat(32).as_str(),
        ] {
            assert!(leaf_name(bad).is_err(), "{bad}");
        }
    }
}
