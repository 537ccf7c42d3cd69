// SPDX-License-Identifier: GPL-2.0

//! Abstractions for the parts of the block layer that a stacking driver needs.
//!
//! All `unsafe` code of the module is here. It does not depend on what is stacked, or why: a
//! [`disk::Driver`] gets the requests and decides where each range of them goes.
//!
//! C headers: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h),
//! [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h),
//! [`include/linux/bio.h`](srctree/include/linux/bio.h)

pub(crate) mod attributes;
pub(crate) mod bdev;
pub(crate) mod bios;
mod clone;
pub(crate) mod control;
pub(crate) mod digest;
pub(crate) mod disk;
mod ffi;
pub(crate) mod limits;
pub(crate) mod list;
mod lower;
pub(crate) mod mm;
mod pdu;
pub(crate) mod plug;
pub(crate) mod request;
pub(crate) mod slot;
mod tags;
pub(crate) mod task;
mod trace;
pub(crate) mod workqueue;

pub(crate) use self::{
    bdev::{
        BlockDevice,
        IoBuffer,
        Order, //
    },
    disk::{
        Disk,
        DiskRef,
        Driver, //
    },
    limits::Limits,
    list::RequestList,
    lower::{
        Piece,
        Pieces,
        Sent,
        Target,
        Way, //
    },
    request::{
        Op,
        Request,
        Status, //
    },
    tags::Tags,
};
