// SPDX-License-Identifier: GPL-2.0

//! Abstractions for the parts of the block layer that a stacking driver needs.
//!
//! They do not depend on what is stacked, or why: the driver implements [`Operations`] for the
//! queue data of its disks, gets the requests, and decides where each range of them goes.
//!
//! C headers: [`include/linux/blk-mq.h`](srctree/include/linux/blk-mq.h),
//! [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h),
//! [`include/linux/bio.h`](srctree/include/linux/bio.h)

pub(crate) mod attributes;
pub(crate) mod bdev;
mod bio;
pub(crate) mod bio_set;
mod claim;
mod disk_data;
mod ffi;
mod file_systems;
mod gen_disk;
pub(crate) mod limits;
pub(crate) mod list;
mod lower;
mod operations;
mod pdu;
mod pieces;
pub(crate) mod plug;
pub(crate) mod request;
mod tag_set;

pub(crate) use self::{
    bdev::{
        BlockDevice,
        IoBuffer,
        WriteOrder, //
    },
    claim::Claims,
    gen_disk::{
        ClosedDisk,
        GenDisk,
        GenDiskRef,
        LimitsBefore,
        NewDisk, //
    },
    limits::Limits,
    list::RequestList,
    lower::Sent,
    operations::Operations,
    pdu::SendAs,
    pieces::{
        Piece,
        PieceTarget, //
        Pieces,
    },
    request::{
        BlkStatus,
        ReqOp,
        Request,
        Started, //
    },
    tag_set::TagSet,
};
