// SPDX-License-Identifier: GPL-2.0
/*
 * What a disk needs to get another driver between two requests. ffi.rs declares
 * the same functions.
 */
#include <linux/blk-mq.h>
#include <linux/blkdev.h>

#include "helpers.h"

/* Waits until all requests have ended, and lets no new one begin. */
unsigned int ub_disk_freeze(struct gendisk *disk)
{
	return blk_mq_freeze_queue(disk->queue);
}

void ub_disk_unfreeze(struct gendisk *disk, unsigned int memflags)
{
	blk_mq_unfreeze_queue(disk->queue, memflags);
}

int ub_disk_stack_limits(struct gendisk *disk, struct block_device *bdev)
{
	struct queue_limits lim = queue_limits_start_update(disk->queue);
	unsigned int block = lim.logical_block_size;

	queue_limits_stack_bdev(&lim, bdev, 0, disk->disk_name);
	if (lim.logical_block_size != block) {
		queue_limits_cancel_update(disk->queue);
		return -EINVAL;
	}
	return queue_limits_commit_update_frozen(disk->queue, &lim);
}
