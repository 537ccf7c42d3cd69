/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of unionblk, on /dev/unionblk-control.
 *
 * Rules that hold for every call:
 *
 *  - The caller has CAP_SYS_ADMIN, else EPERM.
 *  - @size is the size of the structure as the caller knows it; the driver does
 *    not change it. Structures grow at their end, and the number of a call stays
 *    the same. Fields that the caller does not have are zero for the driver, and
 *    are left out of the answer. Bytes that the driver does not know are zero,
 *    else E2BIG, and are zero in the answer. EINVAL below the first version's
 *    size (UNIONBLK_*_SIZE_VER0), E2BIG above UNIONBLK_SIZE_MAX.
 *  - Fields marked "out" need not be set. The driver sets each of them, also when
 *    the call fails: to 0, where it has nothing to say. Only a call that fails
 *    by the rules above, or by ENOTTY or EFAULT, leaves the structure as it is.
 *  - Reserved fields and flags not named here are zero, else EINVAL.
 *  - Paths are not empty and end with a NUL byte within their field, else EINVAL.
 *  - UNIONBLK_IOC_FEATURES is called first: a caller that does not know the
 *    abi_version that it returns stops there.
 *
 * Sizes and positions are in sectors of 512 bytes unless a name says else.
 */
#ifndef _UAPI_UNIONBLK_H
#define _UAPI_UNIONBLK_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define UNIONBLK_ABI_VERSION	1
#define UNIONBLK_SIZE_MAX	4096
#define UNIONBLK_PATH_BYTES	256
#define UNIONBLK_NAME_BYTES	32
#define UNIONBLK_ID_ANY		0xffffffff

/* struct unionblk_status.mode */
#define UNIONBLK_MODE_WRITABLE	0
#define UNIONBLK_MODE_READ_ONLY	1	/* the map could not be committed */
#define UNIONBLK_MODE_ASKED	2	/* read-only from the start, on request */

/* struct unionblk_create.flags: never write to the leaf, nor take writes. */
#define UNIONBLK_CREATE_READ_ONLY	1

/* struct unionblk_status.discard: what a discarded slab reads as. */
#define UNIONBLK_DISCARD_ZERO	0
#define UNIONBLK_DISCARD_REVEAL	1	/* the root again */

/* struct unionblk_status.flags: the union with the lowest id >= @id. */
#define UNIONBLK_STATUS_NEXT	1

/*
 * struct unionblk_create.reason, when the call fails with an errno of its own:
 * why, more exactly than an errno can say. NONE in all other cases. a, b: reason_detail[0] and [1].
 */
enum unionblk_reason {
	UNIONBLK_REASON_NONE = 0,
	UNIONBLK_REASON_NOT_FORMATTED = 1,	/* ENODATA */
	UNIONBLK_REASON_NEWER_VERSION = 2,	/* EPROTONOSUPPORT; a: the leaf's */
	UNIONBLK_REASON_UNKNOWN_FEATURES = 3,	/* EPROTONOSUPPORT; a: bits; b: 1 incompat, 2 ro_compat */
	UNIONBLK_REASON_DAMAGED = 4,		/* EUCLEAN; a: area, b: block */
	UNIONBLK_REASON_ROOT_SIZE = 5,		/* ESTALE; a: wanted, b: found */
	UNIONBLK_REASON_ROOT_CONTENT = 6,	/* ESTALE */
	UNIONBLK_REASON_LEAF_SIZE = 7,		/* ENOSPC; a: wanted, b: found */
	UNIONBLK_REASON_LEAF_TOO_SMALL = 8,	/* ENOSPC; a: needed, b: found */
	UNIONBLK_REASON_SLAB_SIZE = 9,		/* EINVAL; a: sectors */
	UNIONBLK_REASON_TOO_LARGE = 10,		/* EFBIG; a: side, b: sectors */
	UNIONBLK_REASON_IO = 11,		/* EIO; a: side, b: sector */
	UNIONBLK_REASON_BUSY = 12,		/* EBUSY; a: side */
	UNIONBLK_REASON_OPEN = 13,		/* b as errno; a: side, b: errno */
	UNIONBLK_REASON_READ_ONLY_LEAF = 14,	/* EROFS */
	UNIONBLK_REASON_SAME_DEVICE = 15,	/* EINVAL */
	UNIONBLK_REASON_LIMITS = 16,		/* EINVAL; a: side */
	UNIONBLK_REASON_NO_MEMORY = 17,		/* ENOMEM */
	UNIONBLK_REASON_FULL = 18,		/* ENOSPC */
	UNIONBLK_REASON_STACKED = 19,		/* ELOOP; a: side */
	UNIONBLK_REASON_OS = 20,		/* a as errno */
	UNIONBLK_REASON_FINE_MAP = 21,		/* EINVAL; a: bytes */
	UNIONBLK_REASON_INTERNAL = 22,		/* EIO; a fault of the driver */
};

/* Sides, where a reason has one: 0 root, 1 leaf. */

/* What this driver is. */
struct unionblk_features {
	__u32 size;
	__u32 abi_version;	/* out: UNIONBLK_ABI_VERSION */
	__u32 format_version;	/* out: newest leaf format */
	__u32 unions;		/* out: unions that exist now */
	__u64 features;		/* out: none defined yet */
};

#define UNIONBLK_FEATURES_SIZE_VER0	24

/*
 * Attaches a formatted leaf to its root and shows both as /dev/unionblk<id>.
 *
 * With UNIONBLK_CREATE_READ_ONLY the leaf is opened for reading only, may be
 * write-protected, and is never written, not even to put right what a cut of
 * power left: that is done in memory.
 *
 * Nothing is written to the leaf before the pair has been found sound; when
 * the call fails, both devices are as they were. EEXIST if @id is taken.
 *
 * Where metadata is damaged and reading is still safe, @damaged_blocks is how
 * many of its blocks are of no use, and @lost_sectors of how many sectors of
 * the union nobody can say what they hold: reading one of those fails with EIO.
 * Without UNIONBLK_CREATE_READ_ONLY the call fails then (DAMAGED or IO), with
 * it it succeeds. 0 for a whole leaf, and where nothing can be said.
 */
struct unionblk_create {
	__u32 size;
	__u32 flags;		/* in: UNIONBLK_CREATE_* */
	__u32 id;		/* in: wanted or UNIONBLK_ID_ANY, out: given */
	__u32 queues;		/* in: hardware queues; 0: one for each CPU, at most 8 */
	char root[UNIONBLK_PATH_BYTES];
	char leaf[UNIONBLK_PATH_BYTES];
	__u32 reason;		/* out: enum unionblk_reason */
	__u32 damaged_blocks;	/* out: see above */
	__u64 reason_detail[2];	/* out */
	__u64 lost_sectors;	/* out: see above */
};

#define UNIONBLK_CREATE_SIZE_VER0	552	/* up to @reason_detail */

/*
 * Detaches a union: what is dirty is committed, the devices are released.
 *
 * EBUSY while it is open or mounted, ENODEV if there is none of this id. EIO
 * if the last commit failed: the union is gone all the same, and the leaf
 * holds what the last successful commit covered.
 */
struct unionblk_remove {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reserved0;
};

#define UNIONBLK_REMOVE_SIZE_VER0	16

/*
 * The state of one union. ENODEV if there is none of this id, or none after it.
 * All fields without a mark are "out".
 */
struct unionblk_status {
	__u32 size;
	__u32 flags;		/* in: UNIONBLK_STATUS_NEXT */
	__u32 id;		/* in: wanted, out: found */
	__u32 mode;		/* out: UNIONBLK_MODE_* */
	__u32 major;		/* of the union's own device */
	__u32 minor;
	__u32 openers;
	__u32 queues;
	char root[UNIONBLK_PATH_BYTES];	/* as given at create */
	char leaf[UNIONBLK_PATH_BYTES];
	__u8 uuid[16];		/* the leaf's */
	__u64 sectors;
	__u64 root_sectors;
	__u64 leaf_sectors;
	__u32 slab_sectors;
	__u32 slabs;		/* on the leaf, for data */
	__u32 slabs_used;
	__u32 journal_blocks;
	__u32 journal_used;
	__u32 dirty;		/* 1: a mapping is not durable yet */
	__u64 commits;		/* since attach, as all below */
	__u64 checkpoints;
	__u64 journal_written;	/* blocks */
	__u64 first_writes;	/* writes that made a mapping */
	__u64 io_errors;	/* of lower bios */
	__u64 map_bytes;	/* memory of the map */
	__u32 discard;		/* UNIONBLK_DISCARD_* */
	__u32 reserved0;
	char name[UNIONBLK_NAME_BYTES];	/* the leaf's, or empty */
	__u32 last_error;	/* enum unionblk_reason: why no commit works */
	__u32 damaged_blocks;	/* of metadata: as at create */
	__u64 lost_sectors;	/* that cannot be read for it */
};

#define UNIONBLK_STATUS_SIZE_VER0	704	/* up to @damaged_blocks */

/*
 * Which sectors of a union are lost: the first stretch of them that ends behind
 * @from. To list all, begin with 0 and continue with @sector + @sectors. ENODEV
 * if there is no union of this id.
 *
 * The driver names the first stretches only: @unnamed is how many there are
 * behind them. "ubctl check", with the union detached, names all.
 */
struct unionblk_lost {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reserved0;
	__u64 from;		/* in: a sector */
	__u64 sector;		/* out: the first of the stretch */
	__u64 sectors;		/* out: its length; 0: there is none */
	__u64 unnamed;		/* out: see above */
};

#define UNIONBLK_LOST_SIZE_VER0	48

/*
 * 0xd9 00-1f. No size is part of a number: it is in the structure, and grows.
 */
#define UNIONBLK_IOC_TYPE	0xd9
#define UNIONBLK_IOC_FEATURES	_IO(UNIONBLK_IOC_TYPE, 0x00)	/* struct unionblk_features */
#define UNIONBLK_IOC_CREATE	_IO(UNIONBLK_IOC_TYPE, 0x01)	/* struct unionblk_create */
#define UNIONBLK_IOC_REMOVE	_IO(UNIONBLK_IOC_TYPE, 0x02)	/* struct unionblk_remove */
#define UNIONBLK_IOC_STATUS	_IO(UNIONBLK_IOC_TYPE, 0x03)	/* struct unionblk_status */
#define UNIONBLK_IOC_LOST	_IO(UNIONBLK_IOC_TYPE, 0x04)	/* struct unionblk_lost */

#endif /* _UAPI_UNIONBLK_H */
