// SPDX-License-Identifier: GPL-2.0

//! Digest files: what is written is read, and everything else is refused.

use sim::sha256::Sha256;
use ubcore::error::Result;
use ubcore::format::crc::crc32c;
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::sealed::digests::{complete, put, DIGESTS_IN_BLOCK};
use ubcore::sealed::full_digest::{read, DigestFault, Head, Sum, CHUNK_SECTORS};
use ubcore::sealed::{Digest, Reader};

/// 300 chunks, and a last one of 5 sectors.
const SECTORS: u64 = 300 * CHUNK_SECTORS + 5;

/// A file in memory. A read returns at most two blocks.
struct Bytes {
    file: Vec<Block>,
    room: Vec<Block>,
}

impl Reader for Bytes {
    fn read(&mut self, block: u64, most: u64) -> Result<usize> {
        let block = block as usize;
        let count = (most as usize).min(2);
        self.room = self.file[block..block + count].to_vec();
        Ok(count)
    }

    fn buffer(&self) -> &[Block] {
        &self.room
    }
}

fn digest(chunk: u64) -> Digest {
    let mut digest = [0x5a; 32];
    digest[..8].copy_from_slice(&chunk.to_le_bytes());
    digest
}

/// Returns the file of a root of so many sectors, with made-up digests.
fn file(sectors: u64) -> (Vec<Block>, Head) {
    let mut sum = Sum::<Sha256>::new(sectors);
    let chunks = sectors.div_ceil(CHUNK_SECTORS);
    (0..chunks).for_each(|chunk| sum.add(&digest(chunk)));
    let head = Head::new(sectors, sum.finish()).unwrap();
    let mut file = vec![[0; BLOCK_BYTES]; head.blocks() as usize];
    head.encode(&mut file[0]);
    for number in 0..head.digest_blocks() {
        let block = &mut file[number as usize + 1];
        let first = number * DIGESTS_IN_BLOCK;
        let count = (chunks - first).min(DIGESTS_IN_BLOCK);
        for n in 0..count {
            put(block, n as u32, &digest(first + n)).unwrap();
        }
        complete(block, number as u32, count as u32);
    }
    (file, head)
}

fn read_all(file: &[Block], wanted: Option<&Digest>) -> std::result::Result<Head, DigestFault> {
    read_bytes(file, file.len() * BLOCK_BYTES, wanted)
}

fn read_bytes(
    file: &[Block],
    bytes: usize,
    wanted: Option<&Digest>,
) -> std::result::Result<Head, DigestFault> {
    let mut reader = Bytes {
        file: file.to_vec(),
        room: Vec::new(),
    };
    read::<_, Sha256>(&mut reader, bytes as u64, wanted)
}

/// Makes the checksum at a byte of a block right again.
fn set_checksum(block: &mut Block, at: usize) {
    block[at..at + 4].fill(0);
    let crc = crc32c(0, block);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_file_is_read_and_compared_with_the_wanted_digest() {
    let (file, head) = file(SECTORS);
    assert_eq!(
        (head.chunks(), head.digest_blocks(), head.blocks()),
        (301, 3, 4)
    );
    assert_eq!(head.sectors_of(300), (300 * CHUNK_SECTORS, 5));
    assert_eq!(head.sectors_of(301).1, 0);
    assert_eq!(head.sectors_of(u64::MAX).1, 0);
    assert_eq!(read_all(&file, None), Ok(head));
    assert_eq!(read_all(&file, Some(head.digest())), Ok(head));
    let other = read_all(&file, Some(&[1; 32]));
    assert_eq!(other, Err(DigestFault::OtherDigest));
    for sectors in [0, (1 << 48) + 1, u64::MAX] {
        assert_eq!(Head::new(sectors, [0; 32]), None);
    }
}

#[test]
fn a_flip_of_any_bit_is_refused() {
    let (file, _) = file(SECTORS);
    for block in 0..file.len() {
        for byte in 0..BLOCK_BYTES {
            let mut bad = file.clone();
            bad[block][byte] ^= 1 << (byte % 8);
            let fault = read_all(&bad, None).unwrap_err();
            match fault {
                DigestFault::NotDigests => assert!(block == 0 && byte < 8),
                DigestFault::Damaged { block: at, .. } => assert_eq!(at, block as u64),
                other => panic!("{block} {byte}: {other}"),
            }
        }
    }
}

#[test]
fn an_impossible_field_is_refused_also_with_a_right_checksum() {
    let (file, _) = file(SECTORS);
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = file.clone();
        bad[0][at..at + bytes.len()].copy_from_slice(bytes);
        set_checksum(&mut bad[0], 8);
        read_all(&bad, None).unwrap_err()
    };
    let damaged = |byte| DigestFault::Damaged { block: 0, byte };
    assert_eq!(with(12, &[2]), DigestFault::NewerVersion(2));
    assert_eq!(with(12, &[0]), damaged(12));
    assert_eq!(with(16, &[4]), DigestFault::UnknownFeatures(4));
    assert_eq!(with(24, &[0; 8]), damaged(24));
    assert_eq!(with(24, &[255; 8]), damaged(24));
    assert_eq!(with(24, &(1u64 << 48).to_le_bytes()), damaged(40));
    assert_eq!(with(32, &[1]), damaged(32));
    assert_eq!(with(36, &[1]), damaged(36));
    assert_eq!(with(40, &[0]), damaged(40));
    assert_eq!(with(48, &[5]), damaged(48));
    assert_eq!(with(56, &[1]), damaged(56));
    assert_eq!(with(64, &[0, 1]), DigestFault::WrongSum);
    assert_eq!(with(4095, &[1]), damaged(96));
    // Of a root that has as many chunks, but is not that one.
    assert_eq!(
        with(24, &(SECTORS - 1).to_le_bytes()),
        DigestFault::WrongSum
    );
}

#[test]
fn digests_of_another_root_are_refused() {
    let (file, _) = file(SECTORS);
    let mut bad = file.clone();
    bad[2][40] ^= 1;
    set_checksum(&mut bad[2], 4);
    assert_eq!(read_all(&bad, None), Err(DigestFault::WrongSum));
    // More digests than the last block may have.
    let mut bad = file.clone();
    bad[3][4095] = 1;
    set_checksum(&mut bad[3], 4);
    let fault = DigestFault::Damaged { block: 3, byte: 32 };
    assert_eq!(read_all(&bad, None), Err(fault));
    let mut bad = file;
    bad.swap(1, 2);
    let fault = DigestFault::Damaged { block: 1, byte: 8 };
    assert_eq!(read_all(&bad, None), Err(fault));
}

#[test]
fn a_file_of_another_length_is_refused() {
    let (file, _) = file(SECTORS);
    let bytes = file.len() * BLOCK_BYTES;
    for found in [bytes - 1, bytes + 1, bytes - 4096, 4096] {
        let fault = DigestFault::Length(bytes as u64, found as u64);
        assert_eq!(read_bytes(&file, found, None), Err(fault));
    }
    for bytes in [0, 1, 4095] {
        assert_eq!(read_bytes(&file, bytes, None), Err(DigestFault::NotDigests));
    }
}
