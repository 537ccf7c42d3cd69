// SPDX-License-Identifier: GPL-2.0

//! A sparse leaf in memory that counts its requests.

use std::collections::BTreeMap;
use std::rc::Rc;

use ubcore::disk::{self, Buffer, Disk, Order};
use ubcore::error::{Error, Result, Role};
use ubcore::geometry::Block;
use ubcore::leaf_block::LeafBlock;

pub type Blocks = BTreeMap<u64, Rc<Block>>;

#[derive(Clone)]
pub struct Leaf {
    /// The blocks that it holds; all others read as zeroes.
    pub blocks: Blocks,
    /// The size of the device, in sectors.
    pub sectors: u64,
    pub reads: u64,
    pub writes: u64,
    buffer: Box<Buffer>,
}

impl Leaf {
    pub fn new(blocks: Blocks, sectors: u64) -> Leaf {
        Leaf {
            blocks,
            sectors,
            reads: 0,
            writes: 0,
            buffer: Box::new(disk::zeroes()),
        }
    }

    pub fn block(&self, at: u64) -> Option<&Block> {
        self.blocks.get(&at).map(|b| &**b)
    }

    pub fn edit(&mut self, at: u64) -> &mut Block {
        Rc::make_mut(self.blocks.entry(at).or_insert_with(|| Rc::new([0; 4096])))
    }

    fn check(&self, LeafBlock(block): LeafBlock, count: usize) -> Result {
        assert!((1..=8).contains(&count), "{count} blocks at once");
        let end = block.checked_add(count as u64);
        match end.and_then(|e| e.checked_mul(8)) {
            Some(end) if end <= self.sectors => Ok(()),
            _ => Err(Error::Io(Role::Leaf, block.saturating_mul(8))),
        }
    }
}

impl Disk for Leaf {
    fn buffer(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    fn read(&mut self, block: LeafBlock, count: usize) -> Result {
        self.reads += 1;
        self.check(block, count)?;
        for (n, room) in (0..count as u64).zip(&mut *self.buffer) {
            match self.blocks.get(&(block.0 + n)) {
                Some(bytes) => room.copy_from_slice(&**bytes),
                None => room.fill(0),
            }
        }
        Ok(())
    }

    fn write(&mut self, block: LeafBlock, count: usize, _: Order) -> Result {
        self.writes += 1;
        self.check(block, count)?;
        for n in 0..count {
            self.blocks
                .insert(block.0 + n as u64, Rc::new(self.buffer[n]));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result {
        Ok(())
    }
}
