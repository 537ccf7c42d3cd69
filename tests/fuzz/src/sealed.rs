// SPDX-License-Identifier: GPL-2.0

//! A sealed layer.

use sim::disk::{Random, SECTOR};
use sim::layers::List;
use sim::sealed::{seal_from, Image, LayerContent, Loose};
use ubcore::error::{Area, Error, Result};
use ubcore::leaf_block::LeafBlock;
use ubcore::sealed::fault::Fault;
use ubcore::sealed::header::Header;
use ubcore::sealed::SourceData;
use ubcore::stack::extent::Extent;

use crate::source::Numbers;

/// The number of layers that are patched.
pub const LAYERS: u64 = 32;

/// Returns sealed layer `n`, from random content.
pub fn layer(n: u64) -> Image {
    let n = n % LAYERS;
    let mut random = Random(n);
    let union = 1 + random.below(40 + n * 20);
    let layer = LayerContent::random(&mut random, union);
    let loose = Loose::random(&layer, &mut random);
    let mut image = Image::default();
    let sealed = loose.seal(union, None, &mut image, [4, 4]);
    sealed.expect("a layer that can be sealed");
    image.log.clear();
    image
}

/// Bytes as they are, or a layer that is patched; its maker may compute all checksums.
fn image(data: &[u8]) -> Image {
    let mut source = Numbers(data);
    let how = source.byte();
    let mut image = if how & 1 == 0 {
        Image::of_bytes(source.take(data.len()))
    } else {
        let mut image = layer(source.byte().into());
        let end = image.end();
        while !source.is_empty() {
            // Header, index and digests are patched most.
            let back = source.byte();
            let block = match back & 3 {
                0 => 0,
                1 => u64::from(back >> 2) % end,
                _ => end.saturating_sub(1 + u64::from(back >> 2) % 3),
            };
            let at = usize::from(source.half());
            let at = if block == 0 { at % 512 } else { at % 4096 };
            image.edit(block)[at] ^= source.byte();
        }
        image
    };
    if how & 2 != 0 {
        image.forge();
    }
    image.window = 1 + usize::from(how >> 4);
    image
}

struct OfImage<'a>(&'a Image);

impl SourceData for OfImage<'_> {
    fn read(&mut self, position: u64, room: &mut [u8]) -> Result {
        for (n, room) in (position..).zip(room.chunks_mut(SECTOR)) {
            let at = (n % 8) as usize * SECTOR;
            room.copy_from_slice(&self.0.block(n / 8)[at..at + SECTOR]);
        }
        Ok(())
    }
}

/// Checks what must hold for any bytes. An open reads no block twice and none behind the end. If it
/// accepts them, and the data is as it must be, they are the canonical form of what they hold.
pub fn run(data: &[u8]) {
    let mut image = image(data);
    let end = image.end();
    let opened = image.open();
    assert!(image.reads <= end.max(1), "{} of {end}", image.reads);
    let header = match opened {
        Ok(sealed) => sealed.header,
        Err(Fault::Failed(e)) => panic!("{e}"),
        Err(Fault::Damaged { block, byte, .. }) => {
            return assert!(block < end && byte < 4096, "{block} {byte}");
        }
        Err(_) => return,
    };
    assert!(header.blocks() <= end);
    let extents = image.extents(&header).expect("the same index");
    let mapped: u64 = extents.iter().map(|e| e.sectors).sum();
    assert_eq!(mapped, header.data_sectors + header.zero_sectors);
    assert_eq!(extents.len() as u64, header.extents);
    if image.bad_chunk(&header, &extents).is_none() {
        is_canonical(&image, &header, &extents);
    }
    if header.index_blocks() > 0 {
        let last = header.digest_block() - 1;
        image.edit(last)[40] ^= 1;
        let again = image.extents(&header).map(drop);
        assert_eq!(again, Err(Error::Damaged(Area::Layer, LeafBlock(last))));
    }
}

fn is_canonical(image: &Image, header: &Header, extents: &[Extent]) {
    let mut again = Image::default();
    let source = || List(extents);
    let mut content = OfImage(image);
    let union = header.union_sectors;
    let made = seal_from(source, &mut content, union, None, &mut again, [8, 8]);
    let made = made.expect("a layer that was sealed");
    for block in 2..header.blocks() {
        assert!(again.block(block) == image.block(block), "block {block}");
    }
    // The size of logical blocks, and features, may be others than a leaf's with this content.
    let plain = image.block(0)[..52] == again.block(0)[..52];
    if plain && image.block(0)[136..160] == [0; 24] && image.block(0)[192..512] == [0; 320] {
        assert_eq!(made.digest, header.digest);
    }
}
