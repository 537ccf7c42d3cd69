// SPDX-License-Identifier: GPL-2.0
/*
 * Prints what a C compiler makes of include/uapi/unionblk.h, a line for each
 * number; tools/ubctl/tests/abi.rs compares them with the Rust side.
 */
#include <stddef.h>
#include <stdio.h>

#include "../../include/uapi/unionblk.h"

#define NUMBER(name) printf("number %s %llu\n", #name, (unsigned long long)(name))
#define SIZE(type) printf("size %s %zu\n", #type, sizeof(struct unionblk_##type))
#define FIELD(type, field)                                              \
	printf("field %s.%s %zu %zu\n", #type, #field,                  \
	       offsetof(struct unionblk_##type, field),                 \
	       sizeof(((struct unionblk_##type *)0)->field))

static void structs(void)
{
	SIZE(features);
	FIELD(features, size);
	FIELD(features, abi_version);
	FIELD(features, format_version);
	FIELD(features, unions);
	FIELD(features, features);

	SIZE(create);
	FIELD(create, size);
	FIELD(create, flags);
	FIELD(create, id);
	FIELD(create, queues);
	FIELD(create, root);
	FIELD(create, leaf);
	FIELD(create, reason);
	FIELD(create, damaged_blocks);
	FIELD(create, reason_detail);
	FIELD(create, lost_sectors);
	FIELD(create, layers);
	FIELD(create, layers_count);
	FIELD(create, layer);

	SIZE(layer);
	FIELD(layer, path);
	FIELD(layer, offset);
	FIELD(layer, reserved);

	SIZE(remove);
	FIELD(remove, size);
	FIELD(remove, flags);
	FIELD(remove, id);
	FIELD(remove, reserved0);

	SIZE(lost);
	FIELD(lost, size);
	FIELD(lost, flags);
	FIELD(lost, id);
	FIELD(lost, reserved0);
	FIELD(lost, from);
	FIELD(lost, sector);
	FIELD(lost, sectors);
	FIELD(lost, unnamed);
}

static void freeze(void)
{
	SIZE(freeze);
	FIELD(freeze, size);
	FIELD(freeze, flags);
	FIELD(freeze, id);
	FIELD(freeze, reason);
	FIELD(freeze, leaf);
	FIELD(freeze, seal);
	FIELD(freeze, reason_detail);
}

static void reset(void)
{
	SIZE(reset);
	FIELD(reset, size);
	FIELD(reset, flags);
	FIELD(reset, id);
	FIELD(reset, reason);
	FIELD(reset, uuid);
	FIELD(reset, reason_detail);

	SIZE(limit);
	FIELD(limit, size);
	FIELD(limit, flags);
	FIELD(limit, id);
	FIELD(limit, reason);
	FIELD(limit, slabs);
	FIELD(limit, reserved0);
	FIELD(limit, uuid);
	FIELD(limit, reason_detail);
}

static void status(void)
{
	SIZE(status);
	FIELD(status, size);
	FIELD(status, flags);
	FIELD(status, id);
	FIELD(status, mode);
	FIELD(status, major);
	FIELD(status, minor);
	FIELD(status, openers);
	FIELD(status, queues);
	FIELD(status, root);
	FIELD(status, leaf);
	FIELD(status, uuid);
	FIELD(status, sectors);
	FIELD(status, root_sectors);
	FIELD(status, leaf_sectors);
	FIELD(status, slab_sectors);
	FIELD(status, slabs);
	FIELD(status, slabs_used);
	FIELD(status, journal_blocks);
	FIELD(status, journal_used);
	FIELD(status, dirty);
	FIELD(status, commits);
	FIELD(status, checkpoints);
	FIELD(status, journal_written);
	FIELD(status, first_writes);
	FIELD(status, io_errors);
	FIELD(status, map_bytes);
	FIELD(status, discard);
	FIELD(status, reserved0);
	FIELD(status, name);
	FIELD(status, last_error);
	FIELD(status, damaged_blocks);
	FIELD(status, lost_sectors);
	FIELD(status, stack_bytes);
	FIELD(status, layers);
	FIELD(status, stack_unions);
	FIELD(status, no_space);
	FIELD(status, limit_slabs);
	FIELD(status, reserved1);
}

static void numbers(void)
{
	NUMBER(UNIONBLK_ABI_VERSION);
	NUMBER(UNIONBLK_SIZE_MAX);
	NUMBER(UNIONBLK_FEATURES_SIZE_VER0);
	NUMBER(UNIONBLK_CREATE_SIZE_VER0);
	NUMBER(UNIONBLK_REMOVE_SIZE_VER0);
	NUMBER(UNIONBLK_STATUS_SIZE_VER0);
	NUMBER(UNIONBLK_LOST_SIZE_VER0);
	NUMBER(UNIONBLK_FREEZE_SIZE_VER0);
	NUMBER(UNIONBLK_RESET_SIZE_VER0);
	NUMBER(UNIONBLK_LIMIT_SIZE_VER0);
	NUMBER(UNIONBLK_PATH_BYTES);
	NUMBER(UNIONBLK_NAME_BYTES);
	NUMBER(UNIONBLK_ID_ANY);
	NUMBER(UNIONBLK_MODE_WRITABLE);
	NUMBER(UNIONBLK_MODE_READ_ONLY);
	NUMBER(UNIONBLK_MODE_READ_ONLY_REQUESTED);
	NUMBER(UNIONBLK_CREATE_READ_ONLY);
	NUMBER(UNIONBLK_CREATE_NO_ROOT);
	NUMBER(UNIONBLK_FREEZE_FILE_SYSTEMS);
	NUMBER(UNIONBLK_LAYERS_MAX);
	NUMBER(UNIONBLK_DISCARD_ZERO);
	NUMBER(UNIONBLK_DISCARD_REVEAL);
	NUMBER(UNIONBLK_STATUS_NEXT);
	NUMBER(UNIONBLK_IOC_TYPE);
	NUMBER(UNIONBLK_IOC_FEATURES);
	NUMBER(UNIONBLK_IOC_CREATE);
	NUMBER(UNIONBLK_IOC_REMOVE);
	NUMBER(UNIONBLK_IOC_STATUS);
	NUMBER(UNIONBLK_IOC_LOST);
	NUMBER(UNIONBLK_IOC_FREEZE);
	NUMBER(UNIONBLK_IOC_RESET);
	NUMBER(UNIONBLK_IOC_LIMIT);
}

static void reasons(void)
{
	NUMBER(UNIONBLK_REASON_NONE);
	NUMBER(UNIONBLK_REASON_NOT_FORMATTED);
	NUMBER(UNIONBLK_REASON_NEWER_VERSION);
	NUMBER(UNIONBLK_REASON_UNKNOWN_FEATURES);
	NUMBER(UNIONBLK_REASON_DAMAGED);
	NUMBER(UNIONBLK_REASON_ROOT_SIZE);
	NUMBER(UNIONBLK_REASON_ROOT_CONTENT);
	NUMBER(UNIONBLK_REASON_LEAF_SIZE);
	NUMBER(UNIONBLK_REASON_LEAF_TOO_SMALL);
	NUMBER(UNIONBLK_REASON_SLAB_SIZE);
	NUMBER(UNIONBLK_REASON_TOO_LARGE);
	NUMBER(UNIONBLK_REASON_IO);
	NUMBER(UNIONBLK_REASON_BUSY);
	NUMBER(UNIONBLK_REASON_OPEN);
	NUMBER(UNIONBLK_REASON_READ_ONLY_LEAF);
	NUMBER(UNIONBLK_REASON_SAME_DEVICE);
	NUMBER(UNIONBLK_REASON_LIMITS);
	NUMBER(UNIONBLK_REASON_NO_MEMORY);
	NUMBER(UNIONBLK_REASON_FULL);
	NUMBER(UNIONBLK_REASON_STACKED);
	NUMBER(UNIONBLK_REASON_OS);
	NUMBER(UNIONBLK_REASON_FINE_MAP);
	NUMBER(UNIONBLK_REASON_INTERNAL);
	NUMBER(UNIONBLK_REASON_FROZEN);
	NUMBER(UNIONBLK_REASON_NOT_FROZEN);
	NUMBER(UNIONBLK_REASON_LAYER_COUNT);
	NUMBER(UNIONBLK_REASON_LAYER_IDENTITY);
	NUMBER(UNIONBLK_REASON_UNION_SIZE);
	NUMBER(UNIONBLK_REASON_BLOCK_SIZE);
	NUMBER(UNIONBLK_REASON_READ_ONLY_UNION);
	NUMBER(UNIONBLK_REASON_REQUESTS_IN_FLIGHT);
	NUMBER(UNIONBLK_REASON_NO_ROOM);
	NUMBER(UNIONBLK_REASON_SHRINK);
}

int main(void)
{
	structs();
	freeze();
	reset();
	status();
	numbers();
	reasons();
	return 0;
}
