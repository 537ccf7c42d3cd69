// SPDX-License-Identifier: GPL-2.0

//! Abstractions for parts of the kernel outside the block layer: work queues, a control device,
//! tasks, memory scopes, digests, warnings, and a cell.

pub(crate) mod atomic;
pub(crate) mod bug;
pub(crate) mod control_device;
pub(crate) mod digest;
mod ffi;
pub(crate) mod mm;
pub(crate) mod once_box;
pub(crate) mod task;
pub(crate) mod workqueue;
