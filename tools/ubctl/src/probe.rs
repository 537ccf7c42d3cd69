// SPDX-License-Identifier: GPL-2.0

//! Probes a device for its content: whether it looks used, and by what; a leaf's superblock.
//!
//! File systems, partition tables, RAID and volume managers have their signatures in the first and
//! the last MiB. Any byte there that is not zero counts, whether the signature is known or not,
//! because a user cannot get the content back.

use ubcore::format::superblock::{choose, Superblock, MAGIC};
use ubcore::geometry::BLOCK_BYTES;
use ubcore::sealed::header;

use crate::device::Device;
use crate::error::Result;

const MIB: u64 = 1 << 20;

/// Bytes that identify an owner, and where they lie.
struct Signature {
    what: &'static str,
    at: u64,
    bytes: &'static [u8],
}

const fn signature(what: &'static str, at: u64, bytes: &'static [u8]) -> Signature {
    Signature { what, at, bytes }
}

/// The signatures. The more specific come first, because a boot sector often stands before another
/// signature.
const SIGNATURES: &[Signature] = &[
    signature("a unionblk leaf", 0, &MAGIC),
    signature("a unionblk leaf", 4096, &MAGIC),
    signature("a sealed layer of unionblk", 0, &header::MAGIC),
    signature("a LUKS container", 0, b"LUKS\xba\xbe"),
    signature("an LVM physical volume", 0, b"LABELONE"),
    signature("an LVM physical volume", 512, b"LABELONE"),
    signature("an LVM physical volume", 1024, b"LABELONE"),
    signature("an LVM physical volume", 1536, b"LABELONE"),
    signature("a member of an md array", 0, b"\xfc\x4e\x2b\xa9"),
    signature("a member of an md array", 4096, b"\xfc\x4e\x2b\xa9"),
    signature("an ext2, ext3 or ext4 file system", 1080, b"\x53\xef"),
    signature("an XFS file system", 0, b"XFSB"),
    signature("a btrfs file system", 65600, b"_BHRfS_M"),
    signature("an F2FS file system", 1024, b"\x10\x20\xf5\xf2"),
    signature("an EROFS file system", 1024, b"\xe2\xe1\xf5\xe0"),
    signature("a squashfs file system", 0, b"hsqs"),
    signature("an ISO 9660 file system", 32769, b"CD001"),
    signature("an NTFS file system", 3, b"NTFS    "),
    signature("an exFAT file system", 3, b"EXFAT   "),
    signature("a FAT file system", 82, b"FAT32   "),
    signature("a FAT file system", 54, b"FAT1"),
    signature("swap space", 4086, b"SWAPSPACE2"),
    signature("a dm-snapshot store", 0, b"SnAp"),
    signature("thin-pool metadata", 32, b"\xba\x52\x9c\x01\0\0\0\0"),
    signature("a qcow2 image", 0, b"QFI\xfb"),
    signature("a GPT partition table", 512, b"EFI PART"),
    signature("a GPT partition table", 4096, b"EFI PART"),
];

/// Signatures whose place is counted from the end.
const END_SIGNATURES: &[Signature] = &[
    signature("a backup GPT partition table", 512, b"EFI PART"),
    signature("a backup GPT partition table", 4096, b"EFI PART"),
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// For people: `an XFS file system`, `data`.
    pub what: String,
    /// The place, in bytes.
    pub at: u64,
    /// Whether it is a leaf already.
    pub is_leaf: bool,
}

impl Used {
    fn new(what: &str, at: u64) -> Used {
        Used {
            what: what.to_owned(),
            at,
            is_leaf: what == "a unionblk leaf",
        }
    }
}

/// Reads a leaf's superblock. The driver reports what is wrong with one.
pub fn superblock(leaf: &Device) -> Option<Superblock> {
    let mut slots = [vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]];
    for (slot, at) in slots.iter_mut().zip([0, BLOCK_BYTES as u64]) {
        let _ = leaf.read_at(at, slot);
    }
    choose(&slots[0], &slots[1]).ok().map(|(sb, _)| sb)
}

/// Looks at both ends of a device; returns `None` if both are blank.
pub fn probe(device: &Device) -> Result<Option<Used>> {
    let len = device.bytes();
    let head = read(device, 0, len.min(MIB))?;
    let tail_at = len.saturating_sub(MIB).max(wide(&head));
    let tail = read(device, tail_at, len - tail_at)?;
    Ok(judge(&head, &tail, len))
}

fn read(device: &Device, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    device.read_at(at, &mut bytes)?;
    Ok(bytes)
}

fn wide(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

fn judge(head: &[u8], tail: &[u8], len: u64) -> Option<Used> {
    let tail_at = len - wide(tail);
    let holds = |at: u64, bytes: &[u8]| {
        let (part, at) = if at >= tail_at && !tail.is_empty() {
            (tail, at - tail_at)
        } else {
            (head, at)
        };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        part.get(at..).is_some_and(|p| p.starts_with(bytes))
    };
    let nonzero = |part: &[u8]| part.iter().position(|&b| b != 0).map(|at| at as u64);
    let first = nonzero(head).or_else(|| nonzero(tail).map(|at| tail_at + at))?;
    for m in SIGNATURES {
        if holds(m.at, m.bytes) {
            return Some(Used::new(m.what, m.at));
        }
    }
    for m in END_SIGNATURES {
        if let Some(at) = len.checked_sub(m.at).filter(|&at| holds(at, m.bytes)) {
            return Some(Used::new(m.what, at));
        }
    }
    // md 0.90 and 1.0 lie at the end, at a place that depends on how they round the size.
    let sectors = len / 512;
    let md = [
        (sectors & !127).checked_sub(128),
        sectors.checked_sub(16).map(|s| s & !7),
    ];
    for at in md.into_iter().flatten() {
        if holds(at * 512, b"\xfc\x4e\x2b\xa9") {
            return Some(Used::new("a member of an md array", at * 512));
        }
    }
    let partitions = head
        .get(446..510)
        .is_some_and(|p| p.iter().any(|&b| b != 0));
    if partitions && holds(510, b"\x55\xaa") {
        return Some(Used::new("an MBR partition table or boot sector", 510));
    }
    Some(Used::new("data", first))
}

#[cfg(test)]
mod tests {
    use super::{judge, Signature, END_SIGNATURES, MIB, SIGNATURES};

    const LEN: u64 = 8 * MIB;

    fn blank() -> (Vec<u8>, Vec<u8>) {
        (vec![0; MIB as usize], vec![0; MIB as usize])
    }

    fn put(part: &mut [u8], at: u64, m: &Signature) {
        let at = at as usize;
        part[at..at + m.bytes.len()].copy_from_slice(m.bytes);
    }

    #[test]
    fn every_mark_is_found_where_it_belongs() {
        let (head, tail) = blank();
        assert_eq!(judge(&head, &tail, LEN), None);
        for m in SIGNATURES {
            let mut head = head.clone();
            put(&mut head, m.at, m);
            let used = judge(&head, &tail, LEN).unwrap();
            assert_eq!((used.what.as_str(), used.at), (m.what, m.at));
            assert_eq!(used.is_leaf, m.bytes == b"UNIONBLK");
        }
        for m in END_SIGNATURES {
            let mut tail = tail.clone();
            put(&mut tail, MIB - m.at, m);
            let used = judge(&head, &tail, LEN).unwrap();
            assert_eq!((used.what.as_str(), used.at), (m.what, LEN - m.at));
        }
    }

    #[test]
    fn what_has_no_name_is_found_too() {
        let (mut head, mut tail) = blank();
        tail[7] = 1;
        let used = judge(&head, &tail, LEN).unwrap();
        assert_eq!((used.what.as_str(), used.at), ("data", 7 * MIB + 7));
        head[MIB as usize - 1] = 1;
        assert_eq!(judge(&head, &tail, LEN).unwrap().at, MIB - 1);
        assert!(judge(&[0; 4096], &[], 4096).is_none());
        assert!(judge(&[], &[], 0).is_none());
    }

    #[test]
    fn raid_members_and_boot_sectors() {
        for at in [LEN - 65536, LEN - 8192] {
            let (head, mut tail) = blank();
            let start = (at - 7 * MIB) as usize;
            tail[start..start + 4].copy_from_slice(b"\xfc\x4e\x2b\xa9");
            let used = judge(&head, &tail, LEN).unwrap();
            assert_eq!(
                (used.what.as_str(), used.at),
                ("a member of an md array", at)
            );
        }
        let (mut head, tail) = blank();
        head[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(judge(&head, &tail, LEN).unwrap().what, "data");
        head[450] = 0x83;
        assert!(judge(&head, &tail, LEN).unwrap().what.starts_with("an MBR"));
    }
}
