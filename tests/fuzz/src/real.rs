// SPDX-License-Identifier: GPL-2.0

//! Real leaves: the core left them after workloads on the simulated disk, some of which ended in a
//! power failure.

use std::cell::OnceCell;
use std::rc::Rc;

use crate::leaf::{Blocks, Leaf};
use sim::disk::{Random, SimDisk};
use sim::inspect::workloads;

/// The number of real leaves.
pub const LEAVES: usize = 32;

thread_local! {
    static ALL: OnceCell<Vec<Leaf>> = const { OnceCell::new() };
}

fn blocks_of(disk: &SimDisk) -> Blocks {
    let mut blocks = Blocks::new();
    let data = workloads::geometry().data_start();
    for (sector, bytes) in disk.image().range(..data) {
        let block = blocks
            .entry(sector / 8)
            .or_insert_with(|| Rc::new([0; 4096]));
        let at = (sector % 8) as usize * 512;
        Rc::make_mut(block)[at..at + 512].copy_from_slice(bytes);
    }
    blocks
}

fn make(n: u64) -> Leaf {
    let mut random = Random(n);
    let disk = match n {
        0 => workloads::used().0,
        1 => workloads::committed().0,
        _ => workloads::workload(&mut random, (n % 3 > 0).then_some(n * 3)),
    };
    Leaf::new(blocks_of(&disk), workloads::LEAF)
}

/// Returns the metadata of real leaf `n`.
pub fn leaf(n: usize) -> Leaf {
    ALL.with(|all| {
        let all = all.get_or_init(|| (0..LEAVES as u64).map(make).collect());
        all[n % LEAVES].clone()
    })
}
