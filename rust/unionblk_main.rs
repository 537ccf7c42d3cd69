// SPDX-License-Identifier: GPL-2.0

//! Union block devices: a read-only root, a writable leaf, one disk.
//!
//! Rooms: `ubcore` knows what a union is and nothing of the kernel; `blk` wraps the kernel and
//! knows nothing of unions; the files beside this one join them, in safe code.

mod attributes;
mod blk;
mod control;
mod device;
mod error;
mod events;
mod host;
mod loss;
mod memory;
mod metadata;
mod queue;
mod stats;
pub mod ubcore;

use blk::control::ControlDevice;
use kernel::{
    prelude::*,
    sync::Arc, //
};

module! {
    type: UnionBlk,
    name: "unionblk",
    authors: ["The unionblk authors"],
    description: "Union block devices over a shared root and a private leaf",
    license: "GPL v2",
}

/// The module. Fields drop in this order: first nobody can call any more, then the unions go.
#[pin_data]
struct UnionBlk {
    #[pin]
    control: ControlDevice<control::Registry>,
    unions: control::Unions,
}

impl kernel::InPlaceModule for UnionBlk {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let registry: Arc<control::Registry> = control::Registry::new()?;
            let unions = control::Unions::new(registry.clone());
            Ok(try_pin_init!(Self {
                control <- ControlDevice::register(ubcore::abi::CONTROL_NAME, registry),
                unions,
            }? Error))
        })
    }
}
