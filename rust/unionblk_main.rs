// SPDX-License-Identifier: GPL-2.0

//! Union block devices: a read-only root and a writable leaf appear as one disk.
//!
//! The module has three parts. `ubcore` implements the union and does not depend on the kernel.
//! `blk`, `sys` and `trace` wrap the kernel: they hold all `unsafe` code and do not depend on
//! `ubcore`. `union` and the files in this directory connect the two and contain only safe code.

mod blk;
mod control;
mod error;
mod memory;
mod resources;
mod sha256;
mod stack_memory;
mod sys;
mod trace;
pub mod ubcore;
mod union;

use kernel::{
    prelude::*,
    sync::Arc, //
};
use sys::control_device::ControlDevice;

module! {
    type: UnionBlk,
    name: "unionblk",
    authors: ["The unionblk authors"],
    description: "Union block devices over a shared root and a private leaf",
    license: "GPL v2",
}

/// The module.
///
/// The fields drop in this order: first the control device is deregistered, so that no ioctl can
/// begin, then all unions are detached. No ioctl is under way, because an open control device holds
/// a reference to the module.
#[pin_data]
struct UnionBlk {
    #[pin]
    control: ControlDevice<control::Registry>,
    detach_all: control::DetachAll,
}

impl kernel::InPlaceModule for UnionBlk {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let registry: Arc<control::Registry> = control::Registry::new()?;
            let detach_all = control::DetachAll::new(registry.clone());
            Ok(try_pin_init!(Self {
                control <- ControlDevice::register(ubcore::abi::CONTROL_NAME, registry),
                detach_all,
            }? Error))
        })
    }
}
