// SPDX-License-Identifier: GPL-2.0

//! A sealed layer as a stream: what `ubctl export` writes and `ubctl import` reads.
//!
//! One zstd frame, and in it, in this order: the magic number, the length of the head as 4 bytes
//! and the head as JSON, records, and the end. A record is the number of a block of the layer (8
//! bytes), the number of blocks (4 bytes), and the blocks. The end is [`END`] in the place of the
//! number of a block, and then the SHA-256 of everything before the digest. All numbers are
//! little-endian.
//!
//! The blocks come in the order in which a layer is written, which is not ascending. A block that
//! comes again takes the place of the first one, as block 0 does.

use std::io::{self, Read, Write};

use map_memory::sha256::Sha256;
use serde::{Deserialize, Serialize};
use ubcore::error::{Error, Role};
use ubcore::geometry::{Block, BLOCK_BYTES, BLOCK_SECTORS};
use ubcore::num::{u32_as_usize, usize_as_u64};
use ubcore::sealed;
use ubcore::sha256::Sha256 as _;
use zstd::stream::{read, write};

/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The first bytes inside of the zstd frame.
const MAGIC: &[u8; 8] = b"UBSTREAM";
/// The most bytes of a head.
const HEAD_MAX: u32 = 65536;
/// The most blocks of a record: 1 MiB.
const RECORD_MAX: u32 = 256;
/// In the place of a block's number: the end.
const END: u64 = u64::MAX;
/// The largest window that a reader keeps in memory: 8 MiB. A level up to 19 needs no larger one.
const WINDOW_LOG_MAX: u32 = 23;

/// What a stream says of itself, before the layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamHead {
    /// The version of the stream.
    pub version: u32,
    /// The blocks of the layer.
    pub blocks: u64,
    /// What it was made from, for people.
    pub from: String,
    /// What the leaf lies on. A sealed layer does not say.
    pub place: Option<LeafPlace>,
}

/// What a leaf lies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafPlace {
    /// The leaf's UUID, from which the samples of the root follow, in hexadecimal.
    pub uuid: String,
    /// The size of the root and the digest of its samples; none without a root.
    pub root: Option<RootPlace>,
    /// The number of layers.
    pub layers: u32,
    /// The chain of the layers.
    pub chain: String,
}

/// A root, as a leaf on it knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPlace {
    /// The size.
    pub sectors: u64,
    /// The digest of its samples.
    pub digest: String,
}

/// Why a stream was not read to its end.
#[derive(Debug)]
pub enum StreamFault {
    /// It is no stream of this kind.
    NotAStream,
    /// It is of a newer version.
    NewerVersion(u32),
    /// It ends too early.
    Cut,
    /// It contradicts itself.
    Damaged(String),
    /// It cannot be read.
    Io(io::Error),
}

impl StreamFault {
    /// Returns what an error of the decoder means.
    fn of_read(e: io::Error) -> StreamFault {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => StreamFault::Cut,
            // zstd reports what it cannot decode as an error without a number.
            _ if e.raw_os_error().is_none() && e.get_ref().is_some() => {
                StreamFault::Damaged(e.to_string())
            }
            _ => StreamFault::Io(e),
        }
    }
}

/// Writes a stream.
pub struct StreamWriter<W: Write> {
    to: write::Encoder<'static, W>,
    sum: Sha256,
    /// Why the last write failed.
    fail: Option<io::Error>,
}

impl<W: Write> StreamWriter<W> {
    /// Writes the head.
    pub fn begin(to: W, level: i32, head: &StreamHead) -> io::Result<StreamWriter<W>> {
        let mut to = write::Encoder::new(to, level)?;
        to.include_checksum(true)?;
        let mut writer = StreamWriter {
            to,
            sum: Sha256::new(),
            fail: None,
        };
        let head = serde_json::to_vec(head)?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
        writer.put(MAGIC)?;
        writer.put(&length.to_le_bytes())?;
        writer.put(&head)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.to.write_all(bytes)
    }

    /// Writes blocks of the layer.
    pub fn blocks(&mut self, block: u64, blocks: &[Block]) -> io::Result<()> {
        for (n, part) in (0..).zip(blocks.chunks(u32_as_usize(RECORD_MAX))) {
            let count = u32::try_from(part.len()).unwrap_or(RECORD_MAX);
            let first = block + n * u64::from(RECORD_MAX);
            self.put(&first.to_le_bytes())?;
            self.put(&count.to_le_bytes())?;
            self.put(part.as_flattened())?;
        }
        Ok(())
    }

    /// Writes the end.
    pub fn finish(mut self) -> io::Result<()> {
        self.put(&END.to_le_bytes())?;
        let sum = self.sum.finish();
        self.to.write_all(&sum)?;
        self.to.finish()?.flush()
    }

    /// Returns why the last write failed.
    pub fn take_fail(&mut self) -> Option<io::Error> {
        self.fail.take()
    }
}

impl<W: Write> sealed::Writer for StreamWriter<W> {
    fn write(&mut self, block: u64, blocks: &[Block]) -> ubcore::error::Result {
        self.blocks(block, blocks).map_err(|e| {
            self.fail = Some(e);
            Error::Io(Role::Leaf, block.saturating_mul(BLOCK_SECTORS))
        })
    }

    fn flush(&mut self) -> ubcore::error::Result {
        Ok(())
    }
}

/// Reads a stream.
pub struct StreamReader<R: Read> {
    from: read::Decoder<'static, io::BufReader<R>>,
    sum: Sha256,
    room: Vec<Block>,
    /// How many blocks may still come: those of the layer, and the ones that come twice.
    left: u64,
    blocks: u64,
}

impl<R: Read> StreamReader<R> {
    /// Reads the head.
    pub fn begin(from: R) -> Result<(StreamReader<R>, StreamHead), StreamFault> {
        let mut from = read::Decoder::new(from).map_err(StreamFault::of_read)?;
        from.window_log_max(WINDOW_LOG_MAX)
            .map_err(StreamFault::of_read)?;
        let mut reader = StreamReader {
            from,
            sum: Sha256::new(),
            room: Vec::new(),
            left: 0,
            blocks: 0,
        };
        let magic: [u8; 8] = reader.array().map_err(|fault| match fault {
            StreamFault::Damaged(_) => StreamFault::NotAStream,
            fault => fault,
        })?;
        if magic != *MAGIC {
            return Err(StreamFault::NotAStream);
        }
        let length = u32::from_le_bytes(reader.array()?);
        if length > HEAD_MAX {
            return Err(StreamFault::Damaged(format!("a head of {length} bytes")));
        }
        let mut bytes = vec![0; u32_as_usize(length)];
        reader.bytes(&mut bytes)?;
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |e: serde_json::Error| StreamFault::Damaged(format!("its head: {e}"));
        let Versioned { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(StreamFault::NewerVersion(version));
        }
        let head: StreamHead = serde_json::from_slice(&bytes).map_err(damaged)?;
        reader.blocks = head.blocks;
        // The writer sends the first two blocks twice.
        reader.left = head.blocks.saturating_add(2);
        Ok((reader, head))
    }

    fn bytes(&mut self, room: &mut [u8]) -> Result<(), StreamFault> {
        self.from.read_exact(room).map_err(StreamFault::of_read)?;
        self.sum.update(room);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StreamFault> {
        let mut room = [0; N];
        self.bytes(&mut room)?;
        Ok(room)
    }

    /// Returns the next blocks and the number of the first of them, which are within the layer. At
    /// the end, verifies the digest of the stream and returns none.
    pub fn record(&mut self) -> Result<Option<(u64, &[Block])>, StreamFault> {
        let block = u64::from_le_bytes(self.array()?);
        if block == END {
            self.end()?;
            return Ok(None);
        }
        let count = u32::from_le_bytes(self.array()?);
        let end = block.checked_add(count.into());
        let fits = end.is_some_and(|end| end <= self.blocks) && u64::from(count) <= self.left;
        if !fits || count == 0 || count > RECORD_MAX {
            let text = format!("{count} blocks from {block} on, of {}", self.blocks);
            return Err(StreamFault::Damaged(text));
        }
        self.left -= u64::from(count);
        let mut room = std::mem::take(&mut self.room);
        room.resize(u32_as_usize(count), [0; BLOCK_BYTES]);
        let read = self.bytes(room.as_flattened_mut());
        self.room = room;
        read?;
        Ok(Some((block, &self.room)))
    }

    fn end(&mut self) -> Result<(), StreamFault> {
        let sum = std::mem::replace(&mut self.sum, Sha256::new()).finish();
        let mut found = [0; 32];
        self.from
            .read_exact(&mut found)
            .map_err(StreamFault::of_read)?;
        if found != sum {
            return Err(StreamFault::Damaged("its SHA-256 is another".to_owned()));
        }
        // This also reads the checksum of the frame.
        match self.from.read(&mut [0]).map_err(StreamFault::of_read)? {
            0 => Ok(()),
            n => Err(StreamFault::Damaged(format!(
                "{} more bytes",
                usize_as_u64(n)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{StreamFault, StreamHead, StreamReader, StreamWriter, VERSION};
    use ubcore::geometry::{Block, BLOCK_BYTES};

    fn head(blocks: u64) -> StreamHead {
        StreamHead {
            version: VERSION,
            blocks,
            from: "x".to_owned(),
            place: None,
        }
    }

    fn stream(head: &StreamHead, list: &[(u64, Vec<Block>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::begin(&mut bytes, 1, head).unwrap();
        for (block, blocks) in list {
            writer.blocks(*block, blocks).unwrap();
        }
        writer.finish().unwrap();
        bytes
    }

    /// Returns the number of records.
    fn read(bytes: &[u8]) -> Result<usize, StreamFault> {
        let (mut reader, _) = StreamReader::begin(bytes)?;
        let mut count = 0;
        while reader.record()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn a_stream_is_read_to_its_end_or_refused() {
        let blocks = |n: usize| vec![[7; BLOCK_BYTES]; n];
        let list = [(2, blocks(300)), (0, blocks(2)), (0, blocks(2))];
        let whole = stream(&head(302), &list);
        assert_eq!(read(&whole).unwrap(), 4);
        for len in 0..whole.len() {
            assert!(
                matches!(read(&whole[..len]), Err(StreamFault::Cut)),
                "{len}"
            );
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 4;
            // Byte 5 is the size of zstd's window, which does not change the content.
            assert!(read(&other).is_err() || at == 5, "{at}");
        }
        let twice = [&whole[..], &whole].concat();
        assert!(matches!(read(&twice), Err(StreamFault::Damaged(_))));
    }

    #[test]
    fn what_is_not_within_the_layer_is_refused() {
        let one = vec![[7; BLOCK_BYTES]];
        let refused = |head: &StreamHead, list: &[(u64, Vec<Block>)]| {
            assert!(matches!(
                read(&stream(head, list)),
                Err(StreamFault::Damaged(_))
            ));
        };
        refused(&head(4), &[(4, one.clone())]);
        refused(&head(4), &[(u64::MAX - 1, one.clone())]);
        // More blocks than a layer of this size has.
        let many: Vec<_> = (0..7).map(|_| (3, one.clone())).collect();
        refused(&head(4), &many);
        assert_eq!(read(&stream(&head(4), &many[..6])).unwrap(), 6);
        let newer = StreamHead {
            version: 2,
            ..head(4)
        };
        assert!(matches!(
            read(&stream(&newer, &[])),
            Err(StreamFault::NewerVersion(2))
        ));
        let zstd = zstd::encode_all(&b"something else"[..], 1).unwrap();
        for other in [&zstd[..], b"nothing of the kind", &[0; 64]] {
            assert!(matches!(read(other), Err(StreamFault::NotAStream)));
        }
        assert!(matches!(read(b""), Err(StreamFault::Cut)));
    }
}
