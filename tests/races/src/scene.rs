// SPDX-License-Identifier: GPL-2.0

//! Requests at once, a cut of power among them, and the end of it all.

use std::sync::Arc;

use shuttle::rand::{thread_rng, Rng};
use shuttle::thread;
use ubcore::geometry::Geometry;
use ubcore::sync::quietly;

use crate::union::{fresh, Union};

/// A thread of a scene.
pub type Part = fn(&Union);

/// Three slabs of 32 sectors over so many on the leaf.
pub fn geometry(leaf_slabs: u64) -> Geometry {
    Geometry::new(96, 96, 2048 + leaf_slabs * 32, 32, 16).expect("sizes within bounds")
}

/// Does `before` alone; then all `parts` at once, with the power going at one moment among them;
/// then once more with all that they did flushed, or detached.
pub fn play(leaf_slabs: u64, before: Part, parts: &[Part]) {
    let union = Arc::new(fresh(geometry(leaf_slabs)));
    before(&union);
    let threads: Vec<_> = parts
        .iter()
        .map(|part| {
            let (union, part) = (union.clone(), *part);
            thread::spawn(move || part(&union))
        })
        .collect();
    let cut = {
        let union = union.clone();
        thread::spawn(move || union.moment())
    };
    for part in threads {
        part.join().expect("a part of the scene");
    }
    let cut = cut.join().expect("the cut");
    let mut random = thread_rng();
    let mode = random.gen_range(0..3);
    let worst = std::mem::take(&mut *union.worst.lock().expect("no thread has panicked"));
    for moment in worst {
        union.judge(moment, || mode == 1);
    }
    union.judge(cut, || match mode {
        0 => false,
        1 => true,
        _ => thread_rng().gen_range(0..2) == 0,
    });
    quietly(|| union.read(0..96));
    if mode == 0 {
        union.detach();
    } else {
        union.flush();
    }
    let end = union.moment();
    union.judge(end, || mode == 2);
}
