// SPDX-License-Identifier: GPL-2.0

//! Declarations of the C functions and constants that [`kernel::bindings`] lacks.
//!
//! C header: [`helpers.h`](helpers.h)

use kernel::{
    bindings,
    ffi::{
        c_char,
        c_int,
        c_uint,
        c_void, //
    },
};

// `helpers.c` checks these against the kernel's headers.
pub(super) const BLK_FEAT_WRITE_CACHE: u32 = 1 << 0;
pub(super) const BLK_FEAT_FUA: u32 = 1 << 1;
pub(super) const BLK_FEAT_IO_STAT: u32 = 1 << 4;
pub(super) const BLK_FEAT_ZONED: u32 = 1 << 10;
pub(super) const BLK_FLAG_MISALIGNED: u32 = 1 << 1;
pub(super) const BLK_STS_NOTSUPP: bindings::blk_status_t = 1;
pub(super) const BLK_STS_NOSPC: bindings::blk_status_t = 3;
pub(super) const BLK_STS_RESOURCE: bindings::blk_status_t = 9;
pub(super) const BLK_STS_IOERR: bindings::blk_status_t = 10;
pub(super) const REQ_OP_MASK: u32 = 0xff;
pub(super) const SECTOR_SHIFT: u32 = 9;
pub(super) const MINORBITS: u32 = 20;

pub(super) const RQF_DONTPREP: bindings::req_flags_t = 1 << bindings::rqf_flags___RQF_DONTPREP;
pub(super) const RQF_MIXED_MERGE: bindings::req_flags_t =
    1 << bindings::rqf_flags___RQF_MIXED_MERGE;

pub(super) const REQ_SYNC: u32 = 1 << bindings::req_flag_bits___REQ_SYNC;
pub(super) const REQ_META: u32 = 1 << bindings::req_flag_bits___REQ_META;
pub(super) const REQ_FUA: u32 = 1 << bindings::req_flag_bits___REQ_FUA;
pub(super) const REQ_PREFLUSH: u32 = 1 << bindings::req_flag_bits___REQ_PREFLUSH;
pub(super) const REQ_RAHEAD: u32 = 1 << bindings::req_flag_bits___REQ_RAHEAD;

/// Ends a lower I/O, whose first bio it gets.
pub(super) type EndIo = unsafe extern "C" fn(*mut bindings::bio);

/// A range of an upper request, from sector `skip` of the bio `src` on, and the lower sector that
/// it goes to.
#[repr(C)]
pub(super) struct RequestRange {
    pub(super) src: *mut bindings::bio,
    pub(super) bdev: *mut bindings::block_device,
    pub(super) sector: u64,
    pub(super) skip: u32,
    pub(super) sectors: u32,
    pub(super) set_opf: u32,
    /// Send all of the range, or nothing and return `E2BIG`.
    pub(super) whole: bool,
}

// Not `expect`, because these pointers are to an empty struct only if lockdep is off.
#[allow(improper_ctypes)]
extern "C" {
    pub(super) fn ub_bios_init() -> c_int;
    pub(super) fn ub_bios_exit();
    pub(super) fn ub_clone_send(
        rq: *mut bindings::request,
        own: *mut bindings::bio,
        range: *const RequestRange,
        end_io: EndIo,
    ) -> c_int;
    pub(super) fn ub_clone_whole(
        rq: *mut bindings::request,
        own: *mut bindings::bio,
        bdev: *mut bindings::block_device,
        to: u64,
        end_io: EndIo,
    ) -> c_int;
    pub(super) fn ub_request_fail_bios(
        rq: *mut bindings::request,
        sector: u64,
        sectors: u32,
        status: bindings::blk_status_t,
    ) -> bool;
    pub(super) fn ub_request_next_bio(rq: *mut bindings::request, sector: *mut u64) -> u32;
    pub(super) fn ub_bio_send(
        rq: *mut bindings::request,
        own: *mut bindings::bio,
        range: *const RequestRange,
        end_io: EndIo,
    ) -> c_int;
    pub(super) fn ub_bio_zero(bio: *mut bindings::bio, skip: u32, sectors: u32);

    pub(super) fn ub_bdev_open_claimed(path: *const c_char, write: bool) -> *mut bindings::file;
    pub(super) fn ub_bdev_open_plain(path: *const c_char) -> *mut bindings::file;
    pub(super) fn ub_bdev_rw(
        bdev: *mut bindings::block_device,
        sector: u64,
        buf: *mut c_void,
        len: u32,
        opf: u32,
    ) -> c_int;
    pub(super) fn ub_bdev_flush(bdev: *mut bindings::block_device) -> c_int;
    pub(super) fn ub_bdev_accepts_requests(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_accepts_clones(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_may_sleep(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_has_cache(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_has_fua(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_read_only(bdev: *mut bindings::block_device) -> bool;
    pub(super) fn ub_bdev_logical_block_size(bdev: *mut bindings::block_device) -> u32;
    pub(super) fn ub_bdev_features(bdev: *mut bindings::block_device) -> u32;
    pub(super) fn ub_bdev_name(
        bdev: *mut bindings::block_device,
        buf: *mut c_char,
        len: usize,
    ) -> c_int;

    pub(super) fn ub_tags_set_lock_class(
        set: *mut bindings::blk_mq_tag_set,
        key: *mut bindings::lock_class_key,
    );
    pub(super) fn ub_disk_forbid_open(disk: *mut bindings::gendisk, forbidden: *mut bool) -> c_int;
    pub(super) fn ub_disk_openers(disk: *mut bindings::gendisk) -> u32;
    pub(super) fn ub_disk_freeze(disk: *mut bindings::gendisk, memflags: *mut c_uint) -> c_int;
    pub(super) fn ub_disk_unfreeze(disk: *mut bindings::gendisk, memflags: c_uint);
    pub(super) fn ub_disk_permit_open(
        disk: *mut bindings::gendisk,
        forbidden: *mut bool,
        scan: bool,
    );
    pub(super) fn ub_disk_logical_block_size(disk: *mut bindings::gendisk) -> c_uint;
    pub(super) fn ub_disk_set_limits(
        disk: *mut bindings::gendisk,
        lim: *const bindings::queue_limits,
        before: *mut bindings::queue_limits,
    ) -> c_int;
    pub(super) fn ub_disk_restore_limits(
        disk: *mut bindings::gendisk,
        before: *const bindings::queue_limits,
    ) -> c_int;
    pub(super) fn ub_disk_bdevs(
        disk: *mut bindings::gendisk,
        list: *mut *mut bindings::block_device,
        most: c_uint,
    ) -> c_uint;
    pub(super) fn ub_bdev_put(bdev: *mut bindings::block_device);
    pub(super) fn ub_bdev_freeze(bdev: *mut bindings::block_device) -> c_int;
    pub(super) fn ub_bdev_thaw(bdev: *mut bindings::block_device) -> c_int;
    pub(super) fn ub_bdev_again_claimed(bdev: *mut bindings::block_device) -> *mut bindings::file;
    pub(super) fn ub_disk_link(
        disk: *mut bindings::gendisk,
        bdev: *mut bindings::block_device,
    ) -> c_int;
    pub(super) fn ub_disk_unlink(disk: *mut bindings::gendisk, bdev: *mut bindings::block_device);
    pub(super) fn ub_disk_setup(
        disk: *mut bindings::gendisk,
        key: *mut bindings::lock_class_key,
        no_merges: bool,
    );
    pub(super) fn ub_disk_get(disk: *mut bindings::gendisk);
    pub(super) fn ub_disk_event(disk: *mut bindings::gendisk, variable: *const c_char);
    pub(super) fn ub_disk_data(dev: *mut bindings::device) -> *mut c_void;

    pub(super) fn ub_bdev_discard(
        bdev: *mut bindings::block_device,
        sector: u64,
        sectors: u64,
    ) -> c_int;
    pub(super) fn ub_bdev_zero(
        bdev: *mut bindings::block_device,
        sector: u64,
        sectors: u64,
        keep: bool,
    ) -> c_int;
    pub(super) fn ub_bdev_owner(bdev: *mut bindings::block_device) -> *mut bindings::module;
}
