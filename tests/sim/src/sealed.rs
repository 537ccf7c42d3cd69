// SPDX-License-Identifier: GPL-2.0

//! Sealed layers in memory: a device, layers of random content, and their canonical form.

use std::collections::BTreeMap;

use ubcore::error::{Error, Result, Role};
use ubcore::format::crc::crc32c;
use ubcore::geometry::{Block, BLOCK_BYTES};
use ubcore::sealed::digests::{self, blocks_of, locate_digest};
use ubcore::sealed::fault::Fault;
use ubcore::sealed::header::{self, Header};
use ubcore::sealed::open::{self, Sealed, SealedExtents};
use ubcore::sealed::packing::CUT;
use ubcore::sealed::{chunk, seal, Reader, Sha256, SourceData, Writer};
use ubcore::stack::chain::StandIn;
use ubcore::stack::extent::{self, Extent, Extents};

use crate::disk::{Random, Sector, SimDisk, SECTOR};
use crate::layers::List;
use crate::sha256::Sha256 as Sha;

/// A device of blocks, and the order in which they were written.
#[derive(Clone, Default)]
pub struct Image {
    pub blocks: BTreeMap<u64, Block>,
    /// The writes, and `None` for each flush.
    pub log: Vec<Option<(u64, Vec<Block>)>>,
    /// The most blocks that one read returns; 0 is 1.
    pub window: usize,
    pub reads: u64,
    /// What the last read returned.
    pub held: Vec<Block>,
}

impl Image {
    pub fn block(&self, n: u64) -> Block {
        self.blocks.get(&n).copied().unwrap_or([0; BLOCK_BYTES])
    }

    /// Returns the number of blocks up to the last that was written.
    pub fn end(&self) -> u64 {
        self.blocks.keys().next_back().map_or(0, |last| last + 1)
    }

    pub fn bytes(&self) -> Vec<u8> {
        (0..self.end()).flat_map(|n| self.block(n)).collect()
    }

    pub fn of_bytes(bytes: &[u8]) -> Image {
        let blocks = bytes.chunks(BLOCK_BYTES).map(|chunk| {
            let mut block = [0; BLOCK_BYTES];
            block[..chunk.len()].copy_from_slice(chunk);
            block
        });
        Image {
            blocks: (0..).zip(blocks).collect(),
            ..Image::default()
        }
    }

    pub fn edit(&mut self, n: u64) -> &mut Block {
        self.blocks.entry(n).or_insert([0; BLOCK_BYTES])
    }

    pub fn open(&mut self) -> std::result::Result<Sealed, Fault> {
        let end = self.end();
        open::open::<_, Sha>(self, end, None)
    }

    pub fn extents(&mut self, header: &Header) -> Result<Vec<Extent>> {
        let mut extents = SealedExtents::new(self, header);
        all(&mut extents)
    }

    /// Computes all checksums and digests anew, as the maker of a hostile layer can. Changes
    /// nothing else, and only the header if that does not say where the rest is.
    pub fn forge(&mut self) {
        set_checksum(0, self.edit(0));
        let Ok(header) = Header::decode(&self.block(0)) else {
            return;
        };
        if header.blocks() > self.end() {
            return;
        }
        for n in 0..header.chunks() {
            let (first, count) = blocks_of(n, &header);
            let mut sum = Sha::new();
            (first..first + count).for_each(|n| sum.update(&self.block(n)));
            let (at, place) = locate_digest(n);
            let block = self.edit(header.digest_block() + at);
            block[32 + place * 32..][..32].copy_from_slice(&sum.finish());
        }
        let [index, digests] = [
            header.index_block()..header.digest_block(),
            header.digest_block()..header.blocks(),
        ]
        .map(|blocks| {
            let mut sum = Sha::new();
            for n in blocks {
                set_checksum(n, self.edit(n));
                sum.update(&self.block(n));
            }
            sum.finish()
        });
        let covered = header::covered(&self.block(0));
        let digest = header::digest::<Sha>(&covered, &index, &digests);
        self.edit(0)[160..192].copy_from_slice(&digest);
        set_checksum(0, self.edit(0));
        if self.block(1) != [0; BLOCK_BYTES] {
            self.edit(1)[16..48].copy_from_slice(&digest);
            set_checksum(1, self.edit(1));
        }
    }

    /// Verifies the data; returns the first chunk that is damaged.
    pub fn bad_chunk(&self, header: &Header, extents: &[Extent]) -> Option<u64> {
        (0..header.chunks()).find(|&n| {
            let (first, count) = blocks_of(n, header);
            let (at, place) = locate_digest(n);
            let block = self.block(header.digest_block() + at);
            let digest = digests::decode(&block, at, header).unwrap()[place];
            let blocks: Vec<Block> = (first..first + count).map(|n| self.block(n)).collect();
            !chunk::has_digest::<Sha>(&blocks, &digest)
                || chunk::stray(first, &blocks, extents).is_some()
        })
    }

    /// Opens and verifies a layer as a whole, and returns its content.
    pub fn layer(&mut self) -> std::result::Result<LayerContent, Fault> {
        let sealed = self.open()?;
        let extents = self.extents(&sealed.header)?;
        if let Some(n) = self.bad_chunk(&sealed.header, &extents) {
            panic!("chunk {n} is damaged");
        }
        Ok(LayerContent::read(
            sealed.header.union_sectors,
            &extents,
            |sector| {
                let at = (sector % 8) as usize * SECTOR;
                self.block(sector / 8)[at..at + SECTOR].try_into().unwrap()
            },
        ))
    }
}

impl Reader for Image {
    fn read(&mut self, block: u64, most: u64) -> Result<usize> {
        assert!(most > 0);
        self.reads += 1;
        let count = most.min(self.window.max(1) as u64);
        self.held = (block..block + count).map(|n| self.block(n)).collect();
        Ok(self.held.len())
    }
    fn buffer(&self) -> &[Block] {
        &self.held
    }
}

impl Reader for &mut Image {
    fn read(&mut self, block: u64, most: u64) -> Result<usize> {
        (**self).read(block, most)
    }
    fn buffer(&self) -> &[Block] {
        (**self).buffer()
    }
}

impl Writer for Image {
    fn write(&mut self, block: u64, blocks: &[Block]) -> Result {
        assert!(!blocks.is_empty());
        self.blocks.extend((block..).zip(blocks.iter().copied()));
        self.log.push(Some((block, blocks.to_vec())));
        Ok(())
    }
    fn flush(&mut self) -> Result {
        self.log.push(None);
        Ok(())
    }
}

/// Computes the checksum of block `n` anew, which is not one of data.
pub fn set_checksum(n: u64, block: &mut Block) {
    let (at, len) = if n == 0 { (8, 512) } else { (4, BLOCK_BYTES) };
    block[at..at + 4].fill(0);
    let crc = crc32c(0, &block[..len]);
    block[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

pub fn all(extents: &mut impl Extents) -> Result<Vec<Extent>> {
    let mut list = Vec::new();
    while let Some(e) = extents.next()? {
        list.push(e);
    }
    Ok(list)
}

/// What a layer maps: for each sector of the union nothing, or its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerContent {
    pub sectors: Vec<Option<Sector>>,
}

impl LayerContent {
    pub fn read(union: u64, extents: &[Extent], read: impl Fn(u64) -> Sector) -> LayerContent {
        let mut sectors = vec![None; union as usize];
        for e in extents {
            for n in 0..e.sectors {
                let bytes = match e.content {
                    extent::Content::Zero => [0; SECTOR],
                    extent::Content::Data(at) => read(at + n),
                };
                let before = sectors[(e.first + n) as usize].replace(bytes);
                assert!(before.is_none());
            }
        }
        LayerContent { sectors }
    }

    /// Makes a layer of ranges that are not mapped, or zero, or full of numbers.
    pub fn random(random: &mut Random, union: u64) -> LayerContent {
        let longest = 1 + random.below(40);
        let mut sectors = Vec::new();
        while (sectors.len() as u64) < union {
            let kind = random.below(3);
            for _ in 0..=random.below(longest) {
                let n = sectors.len() as u64;
                sectors.push((kind > 0).then(|| filled(if kind == 1 { 0 } else { 1 + n })));
            }
        }
        sectors.truncate(union as usize);
        LayerContent { sectors }
    }

    /// Returns the extents that the canonical form has, computed sector by sector.
    pub fn canonical(&self) -> Vec<Extent> {
        let is_zero = |n: usize| {
            let unit = self.sectors.get(n & !7..(n & !7) + 8);
            unit.is_some_and(|unit| unit.iter().all(|s| *s == Some([0; SECTOR])))
        };
        let mut list: Vec<Extent> = Vec::new();
        let mut position = 16;
        for n in (0..self.sectors.len()).filter(|&n| self.sectors[n].is_some()) {
            let first = n as u64;
            let zero = is_zero(n);
            if let Some(last) = list.last_mut() {
                let same = zero == (last.content == extent::Content::Zero);
                if same && last.first + last.sectors == first && first % CUT != 0 {
                    last.sectors += 1;
                    position += u64::from(!zero);
                    continue;
                }
            }
            let mut content = extent::Content::Zero;
            if !zero {
                while position % 8 != first % 8 {
                    position += 1;
                }
                content = extent::Content::Data(position);
                position += 1;
            }
            list.push(Extent {
                first,
                sectors: 1,
                content,
            });
        }
        list
    }
}

/// Returns a sector full of a number.
pub fn filled(number: u64) -> Sector {
    let mut sector = [0; SECTOR];
    for word in sector.chunks_mut(8) {
        word.copy_from_slice(&number.to_le_bytes());
    }
    sector
}

/// A layer that is not sealed: extents cut anywhere, and their data anywhere.
#[derive(Clone, Default)]
pub struct Loose {
    pub extents: Vec<Extent>,
    pub data: BTreeMap<u64, Sector>,
}

impl Loose {
    /// Stores a layer: zeroes as data or not, extents cut at random.
    pub fn random(layer: &LayerContent, random: &mut Random) -> Loose {
        let mut loose = Loose::default();
        let one_in = 1 + random.below(30);
        let mut position = random.below(1000);
        for (first, sector) in (0..).zip(&layer.sectors) {
            let Some(bytes) = sector else { continue };
            let zero = *bytes == [0; SECTOR] && random.below(4) > 0;
            let last = loose.extents.last_mut().filter(|last| {
                last.first + last.sectors == first
                    && zero == (last.content == extent::Content::Zero)
                    && !random.chance(one_in)
            });
            match last {
                Some(last) => last.sectors += 1,
                None => {
                    position += random.below(9);
                    let content = if zero {
                        extent::Content::Zero
                    } else {
                        extent::Content::Data(position)
                    };
                    loose.extents.push(Extent {
                        first,
                        sectors: 1,
                        content,
                    });
                }
            }
            if !zero {
                loose.data.insert(position, *bytes);
                position += 1;
            }
        }
        loose
    }

    /// Seals the layer, with reads and writes of at most so many blocks.
    pub fn seal(
        &self,
        union_sectors: u64,
        stand_in: Option<&StandIn>,
        image: &mut Image,
        [read, write]: [usize; 2],
    ) -> std::result::Result<Header, Fault> {
        let source = || List(&self.extents);
        seal_from(
            source,
            &mut Data(&self.data),
            union_sectors,
            stand_in,
            image,
            [read, write],
        )
    }
}

/// Seals a layer in both passes.
pub fn seal_from<E: Extents>(
    source: impl Fn() -> E,
    content: &mut impl SourceData,
    union_sectors: u64,
    stand_in: Option<&StandIn>,
    image: &mut impl Writer,
    [read, write]: [usize; 2],
) -> std::result::Result<Header, Fault> {
    let mut room = vec![[0xa5; BLOCK_BYTES]; read];
    let mut output = vec![[0x5a; BLOCK_BYTES]; write];
    let header = seal::measure(&mut source(), content, (union_sectors, 512), &mut room)?;
    let from = (&mut source(), content);
    seal::write::<_, _, _, Sha>(from, &header, stand_in, image, (&mut room, &mut output))
}

/// The data of a [`Loose`] layer.
pub struct Data<'a>(pub &'a BTreeMap<u64, Sector>);

impl SourceData for Data<'_> {
    fn read(&mut self, position: u64, room: &mut [u8]) -> Result {
        for (n, sector) in (position..).zip(room.chunks_mut(SECTOR)) {
            let bytes = self.0.get(&n).ok_or(Error::Io(Role::Leaf, n))?;
            sector.copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// The data of a leaf.
pub struct OfDisk<'a>(pub &'a SimDisk);

impl SourceData for OfDisk<'_> {
    fn read(&mut self, position: u64, room: &mut [u8]) -> Result {
        for (n, sector) in (position..).zip(room.chunks_mut(SECTOR)) {
            sector.copy_from_slice(&self.0.read_sector(n));
        }
        Ok(())
    }
}
