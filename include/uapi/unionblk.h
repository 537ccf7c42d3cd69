/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The ioctl interface of unionblk, on /dev/unionblk-control.
 *
 * Rules that hold for every call:
 *
 *  - The caller must have CAP_SYS_ADMIN, else EPERM.
 *  - The caller sets @size to the size of the structure that it was compiled
 *    with; the driver does not change it. A structure grows only at its end,
 *    and the number of its call stays the same. If the caller's structure is
 *    shorter than the driver's, the driver takes the missing fields as zero and
 *    does not return them. If it is longer, the bytes that the driver does not
 *    know must be zero, else E2BIG, and the driver returns them as zero. The
 *    call fails with EINVAL if @size is below that of the first version
 *    (UNIONBLK_*_SIZE_VER0), and with E2BIG if it is above UNIONBLK_SIZE_MAX.
 *  - The caller need not set fields marked "out". The driver sets each of them,
 *    even if the call fails; a field that has no value is set to 0, or stays as
 *    it is if it is marked "in" as well. Only a call that fails by the rules
 *    above, with ENOTTY, or with EFAULT because the structure cannot be read or
 *    written, leaves the structure unchanged.
 *  - Reserved fields, and flags not defined here, must be zero, else EINVAL.
 *  - A path must not be empty and must end with a NUL byte within its field,
 *    else EINVAL.
 *  - The caller issues UNIONBLK_IOC_FEATURES first. A caller that does not know
 *    the returned abi_version must not issue any other call.
 *
 * Sizes and positions are in sectors of 512 bytes unless the name of a field
 * says otherwise.
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
#define UNIONBLK_MODE_WRITABLE			0
#define UNIONBLK_MODE_READ_ONLY			1	/* the map could not be committed */
#define UNIONBLK_MODE_READ_ONLY_REQUESTED	2	/* attached read-only, on request */

/* struct unionblk_create.flags: never write to the leaf, and refuse writes. */
#define UNIONBLK_CREATE_READ_ONLY	1
/* There is no root: @root is empty, and the bottom reads as zeroes. */
#define UNIONBLK_CREATE_NO_ROOT		2

/*
 * struct unionblk_freeze.flags: freeze the file systems on the disk and its
 * partitions before the last rounds of the merge, until requests continue. They
 * are consistent in the layer then.
 */
#define UNIONBLK_FREEZE_FILE_SYSTEMS	1

/* The largest number of layers between root and leaf. */
#define UNIONBLK_LAYERS_MAX	254

/* struct unionblk_status.discard: what a discarded slab reads as. */
#define UNIONBLK_DISCARD_ZERO	0	/* zeroes */
#define UNIONBLK_DISCARD_REVEAL	1	/* what lies below the leaf: layers, root */

/* struct unionblk_status.flags: return the union with the lowest id >= @id. */
#define UNIONBLK_STATUS_NEXT	1

/*
 * The reason fields of struct unionblk_create, _freeze, _reset and _limit:
 * why the call failed, in more detail than the errno. NONE if the call succeeds,
 * or fails before the attach, the freeze, the reset or the change of the limit
 * begins: with EINVAL for a field, EFAULT for the layers, EEXIST, EUSERS, ENOMEM,
 * ENODEV, ESTALE, EINPROGRESS, or EBUSY if the union is open or another call uses it.
 * struct unionblk_status.last_error has the same numbers. Below, a and b are
 * reason_detail[0] and [1].
 */
enum unionblk_reason {
	UNIONBLK_REASON_NONE = 0,
	UNIONBLK_REASON_NOT_FORMATTED = 1,	/* ENODATA */
	UNIONBLK_REASON_NEWER_VERSION = 2,	/* EPROTONOSUPPORT; a: the leaf's */
	UNIONBLK_REASON_UNKNOWN_FEATURES = 3,	/* EPROTONOSUPPORT; a: bits, b: class */
	UNIONBLK_REASON_DAMAGED = 4,		/* EUCLEAN; a: area, b: block */
	UNIONBLK_REASON_ROOT_SIZE = 5,		/* ESTALE; a: wanted, b: found */
	UNIONBLK_REASON_ROOT_CONTENT = 6,	/* ESTALE */
	UNIONBLK_REASON_LEAF_SIZE = 7,		/* ENOSPC; a: wanted, b: found */
	UNIONBLK_REASON_LEAF_TOO_SMALL = 8,	/* ENOSPC; a: needed, b: found */
	UNIONBLK_REASON_SLAB_SIZE = 9,		/* EINVAL; a: sectors */
	UNIONBLK_REASON_TOO_LARGE = 10,		/* EFBIG; a: role, b: sectors */
	UNIONBLK_REASON_IO = 11,		/* EIO; a: role, b: sector */
	UNIONBLK_REASON_BUSY = 12,		/* EBUSY; a: role */
	UNIONBLK_REASON_OPEN = 13,		/* b as errno; a: role, b: errno */
	UNIONBLK_REASON_READ_ONLY_LEAF = 14,	/* EROFS */
	UNIONBLK_REASON_SAME_DEVICE = 15,	/* EINVAL */
	UNIONBLK_REASON_LIMITS = 16,		/* EINVAL; a: role */
	UNIONBLK_REASON_NO_MEMORY = 17,		/* ENOMEM */
	UNIONBLK_REASON_FULL = 18,		/* ENOSPC */
	UNIONBLK_REASON_STACKED = 19,		/* ELOOP; a: role */
	UNIONBLK_REASON_OS = 20,		/* a as errno */
	UNIONBLK_REASON_FINE_MAP = 21,		/* EINVAL; a: bytes */
	UNIONBLK_REASON_INTERNAL = 22,		/* EIO; a bug in the driver */
	UNIONBLK_REASON_FROZEN = 23,		/* EROFS */
	UNIONBLK_REASON_NOT_FROZEN = 24,	/* EINVAL */
	UNIONBLK_REASON_LAYER_COUNT = 25,	/* ESTALE; a: wanted, b: found */
	UNIONBLK_REASON_LAYER_IDENTITY = 26,	/* ESTALE */
	UNIONBLK_REASON_UNION_SIZE = 27,	/* EINVAL; a: wanted, b: found */
	UNIONBLK_REASON_BLOCK_SIZE = 28,	/* EINVAL; a: wanted, b: found */
	UNIONBLK_REASON_READ_ONLY_UNION = 29,	/* EROFS */
	UNIONBLK_REASON_REQUESTS_IN_FLIGHT = 30, /* EBUSY */
	UNIONBLK_REASON_NO_ROOM = 31,		/* EFBIG; a: role, b: largest size */
	UNIONBLK_REASON_SHRINK = 32,		/* EINVAL; a: role, b: size */
};

/*
 * The details of a reason. Role: 0 is the root, 1 is the leaf, 2 a layer.
 * Class: 1 is incompatible, 2 is read-only compatible. Area: 1 is the
 * superblock, 2 the page directory, 3 a map page, 4 the journal, 5 the map, if
 * its entries contradict each other, 6 the list of root and layers, 7 a sealed
 * layer. A block has 4096 bytes; for area 5 it is that of the map page's slot
 * A. Sectors and blocks of a layer count from the start of the layer. A failed
 * flush is reported with sector 0.
 */

/* Returns the versions and features of the driver. */
struct unionblk_features {
	__u32 size;
	__u32 abi_version;	/* out: UNIONBLK_ABI_VERSION */
	__u32 format_version;	/* out: newest known leaf format */
	__u32 unions;		/* out: unions, also those being attached or detached */
	__u64 features;		/* out: none defined yet */
};

#define UNIONBLK_FEATURES_SIZE_VER0	24

/* A layer of struct unionblk_create. */
struct unionblk_layer {
	char path[UNIONBLK_PATH_BYTES];
	__u64 offset;		/* byte at which it begins; a multiple of 4096 */
	__u64 reserved;		/* zero */
};

/*
 * Attaches a formatted leaf to its root and adds the union as
 * /dev/unionblk<id>.
 *
 * @layers is the address of @layers_count layers, the lowest first: the ones
 * that the leaf was made on; EFAULT if they cannot be read. If a layer caused the
 * failure, @layer is its number from 1, and @reason has the meaning for that layer
 * that it otherwise has for the leaf.
 *
 * With UNIONBLK_CREATE_READ_ONLY the driver opens the leaf for reading only, so
 * the leaf may be write-protected. The driver never writes to it: after a power
 * failure, it replays the journal in memory only.
 *
 * The driver writes to the leaf only after it has checked all devices. Its
 * first write is a checkpoint. If the call fails before, all devices are
 * unchanged. If it fails later, the content of the union is unchanged, except
 * for data that a program wrote after the disk was added. EEXIST if @id is in
 * use. EUSERS if there are 2048 unions.
 *
 * If metadata is damaged and the union can still be read safely,
 * @damaged_blocks is the number of metadata blocks that cannot be used, and
 * @lost_sectors is the number of sectors of the union whose content is unknown.
 * A read of such a sector fails with EIO. In this case the call succeeds with
 * UNIONBLK_CREATE_READ_ONLY, and fails without it (DAMAGED or IO). Both fields
 * are 0 if the leaf is not damaged, and if the damage cannot be determined.
 */
struct unionblk_create {
	__u32 size;
	__u32 flags;		/* in: UNIONBLK_CREATE_* */
	__u32 id;		/* in: wanted id or UNIONBLK_ID_ANY, out: assigned id */
	__u32 queues;		/* in: hardware queues; 0: one for each CPU, at most 8 */
	char root[UNIONBLK_PATH_BYTES];
	char leaf[UNIONBLK_PATH_BYTES];
	__u32 reason;		/* out: enum unionblk_reason */
	__u32 damaged_blocks;	/* out: see above */
	__u64 reason_detail[2];	/* out */
	__u64 lost_sectors;	/* out: see above */
	__u64 layers;		/* in: see above */
	__u32 layers_count;	/* in */
	__u32 layer;		/* out: see above; 0: none */
};

#define UNIONBLK_CREATE_SIZE_VER0	552	/* up to @reason_detail */

/*
 * Detaches a union: commits its dirty mappings and releases its devices.
 *
 * EBUSY while the union is open or mounted, or while another call attaches or
 * detaches it. EINPROGRESS while its leaf is being frozen or reset, or another
 * call sets its limit. ENODEV if no union has this id. EIO if the last commit
 * failed, or ENOSPC if it failed because the storage below the leaf is full; the
 * union is detached even then, and the leaf holds what the last successful commit
 * covered.
 */
struct unionblk_remove {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reserved0;
};

#define UNIONBLK_REMOVE_SIZE_VER0	16

/*
 * Returns the state of one union. ENODEV if no union has this id or, with
 * UNIONBLK_STATUS_NEXT, this id or a higher one. EBUSY while another call
 * attaches or detaches the union; UNIONBLK_STATUS_NEXT skips such a union. During
 * a reset or a change of the limit the call answers. During a freeze it answers
 * too, for the old leaf until the new one has taken its place. All fields without a
 * mark are "out", except for @size.
 */
struct unionblk_status {
	__u32 size;
	__u32 flags;		/* in: UNIONBLK_STATUS_NEXT, out: 0 */
	__u32 id;		/* in: wanted id, out: found id */
	__u32 mode;		/* out: UNIONBLK_MODE_* */
	__u32 major;		/* of the union's disk */
	__u32 minor;
	__u32 openers;
	__u32 queues;
	char root[UNIONBLK_PATH_BYTES];	/* as given in CREATE */
	char leaf[UNIONBLK_PATH_BYTES];
	__u8 uuid[16];		/* of the leaf */
	__u64 sectors;
	__u64 root_sectors;
	__u64 leaf_sectors;
	__u32 slab_sectors;
	__u32 slabs;		/* data slabs of the leaf */
	__u32 slabs_used;
	__u32 journal_blocks;
	__u32 journal_used;
	__u32 dirty;		/* 1: a change of the map is not durable yet */
	__u64 commits;		/* since attach, or the last freeze or reset, as all counters */
	__u64 checkpoints;
	__u64 journal_written;	/* blocks */
	__u64 first_writes;	/* writes that made a mapping */
	__u64 io_errors;	/* failed below, or touched lost sectors; see ioctl.rst */
	__u64 map_bytes;	/* memory of the map */
	__u32 discard;		/* UNIONBLK_DISCARD_* */
	__u32 reserved0;	/* in: zero */
	char name[UNIONBLK_NAME_BYTES];	/* of the leaf, or empty */
	__u32 last_error;	/* enum unionblk_reason: why commits fail */
	__u32 damaged_blocks;	/* as in struct unionblk_create */
	__u64 lost_sectors;	/* as in struct unionblk_create */
	__u64 stack_bytes;	/* memory of the stack map, which @stack_unions share */
	__u32 layers;		/* between root and leaf, as given in CREATE */
	__u32 stack_unions;	/* unions on the same layers; 0 without layers */
	__u64 no_space;		/* failed because the leaf or the storage below it was full */
	__u32 limit_slabs;	/* how many slabs may be in use, see UNIONBLK_IOC_LIMIT */
	__u32 reserved1;	/* out: zero */
};

#define UNIONBLK_STATUS_SIZE_VER0	704	/* up to @damaged_blocks */

/*
 * Returns the first range of lost sectors of a union that ends after @from.
 * To list all ranges, start with 0 and continue with @sector + @sectors.
 * ENODEV if no union has this id, EBUSY while another call attaches or detaches
 * it. During a freeze, a reset or a change of the limit the call answers.
 *
 * The driver keeps a limited number of ranges, the first ones; @unnamed is
 * the number of ranges after them. "ubctl check" lists all of them while the
 * union is detached.
 */
struct unionblk_lost {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reserved0;
	__u64 from;		/* in: a sector */
	__u64 sector;		/* out: first sector of the range */
	__u64 sectors;		/* out: its length; 0: no range found */
	__u64 unnamed;		/* out: see above */
};

#define UNIONBLK_LOST_SIZE_VER0	48

/*
 * Makes the leaf of a union a layer, and continues in a new leaf. The disk stays
 * as it is, with its openers and mounts; its requests wait for a moment.
 *
 * @leaf was formatted for the same root and the same layers, with one more layer
 * on top: a frozen leaf with the UUID of the present leaf, and @seal. The call
 * makes checkpoints of the present leaf. The last of them has @seal, and freezes
 * the leaf. If the call fails before the last one, the union continues in its
 * present leaf, and no union can use @leaf. If the last one fails, the union is
 * read-only afterwards, as if a commit had failed.
 *
 * ENODEV if no union has this id. EBUSY while another call attaches, detaches,
 * freezes or resets it, or sets its limit, and with the reason REQUESTS_IN_FLIGHT
 * if its requests do not end within 30 s. EROFS with the reason READ_ONLY_UNION if
 * the union is read-only.
 */
struct unionblk_freeze {
	__u32 size;
	__u32 flags;		/* UNIONBLK_FREEZE_* */
	__u32 id;
	__u32 reason;		/* out: enum unionblk_reason */
	char leaf[UNIONBLK_PATH_BYTES];
	__u8 seal[16];
	__u64 reason_detail[2];	/* out */
};

#define UNIONBLK_FREEZE_SIZE_VER0	304

/*
 * Makes the leaf of a union forget all its changes. The union then reads as what
 * lies below the leaf. The disk stays as it is; UUID, name and all choices of the
 * format stay too. The driver writes the leaf's superblock, and nothing else,
 * whatever the leaf holds. After a power failure the leaf is as before or empty.
 *
 * While the call runs, opens of the disk fail with ENXIO. Its page cache is empty
 * afterwards, and its partition table is read again.
 *
 * ENODEV if no union has this id. ESTALE if its leaf is not the one of @uuid, as
 * after a remove and a create, or a freeze. EBUSY while the union is open or mounted,
 * while another call attaches or detaches it, and with the reason REQUESTS_IN_FLIGHT
 * if its requests do not end within 30 s. EINPROGRESS while its leaf is being frozen
 * or reset, or another call sets its limit. EROFS with the reason READ_ONLY_UNION if
 * the union is read-only. In all of these cases nothing has changed. If the write
 * fails, the union is read-only afterwards, as if a commit had failed, and the leaf
 * is as before or empty.
 */
struct unionblk_reset {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reason;		/* out: enum unionblk_reason */
	__u8 uuid[16];		/* in: of the leaf; all zero: of any leaf */
	__u64 reason_detail[2];	/* out */
};

#define UNIONBLK_RESET_SIZE_VER0	48

/*
 * Sets how many slabs of its leaf a union may use. The limit is stored in the leaf
 * before it holds. At the limit, writes that need new space fail with ENOSPC, as on
 * a full leaf. The limit may be below the number of slabs in use. A limit above the
 * number of slabs of the leaf is kept, and holds no write back.
 *
 * ENODEV if no union has this id. ESTALE if its leaf is not the one of @uuid. EBUSY
 * while another call attaches or detaches it. EINPROGRESS while its leaf is being
 * frozen or reset, or another call sets its limit. EROFS with the reason
 * READ_ONLY_UNION if the union is read-only. If the write fails, the union is
 * read-only afterwards, as if a commit had failed.
 */
struct unionblk_limit {
	__u32 size;
	__u32 flags;		/* none defined */
	__u32 id;
	__u32 reason;		/* out: enum unionblk_reason */
	__u32 slabs;		/* in: the limit; 0: none */
	__u32 reserved0;
	__u8 uuid[16];		/* in: of the leaf; all zero: of any leaf */
	__u64 reason_detail[2];	/* out */
};

#define UNIONBLK_LIMIT_SIZE_VER0	56

/*
 * Type 0xd9, numbers 00-1f. The numbers do not encode the size of a structure,
 * because structures grow; @size does.
 */
#define UNIONBLK_IOC_TYPE	0xd9
#define UNIONBLK_IOC_FEATURES	_IO(UNIONBLK_IOC_TYPE, 0x00)	/* struct unionblk_features */
#define UNIONBLK_IOC_CREATE	_IO(UNIONBLK_IOC_TYPE, 0x01)	/* struct unionblk_create */
#define UNIONBLK_IOC_REMOVE	_IO(UNIONBLK_IOC_TYPE, 0x02)	/* struct unionblk_remove */
#define UNIONBLK_IOC_STATUS	_IO(UNIONBLK_IOC_TYPE, 0x03)	/* struct unionblk_status */
#define UNIONBLK_IOC_LOST	_IO(UNIONBLK_IOC_TYPE, 0x04)	/* struct unionblk_lost */
#define UNIONBLK_IOC_FREEZE	_IO(UNIONBLK_IOC_TYPE, 0x05)	/* struct unionblk_freeze */
#define UNIONBLK_IOC_RESET	_IO(UNIONBLK_IOC_TYPE, 0x06)	/* struct unionblk_reset */
#define UNIONBLK_IOC_LIMIT	_IO(UNIONBLK_IOC_TYPE, 0x07)	/* struct unionblk_limit */

#endif /* _UAPI_UNIONBLK_H */
