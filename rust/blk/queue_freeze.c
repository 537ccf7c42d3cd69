// SPDX-License-Identifier: GPL-2.0
/*
 * Stops the requests of a disk, changes its limits, freezes the file systems
 * on it, and lets it be opened again, for a change of the queue data. See helpers.h.
 */
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/percpu-refcount.h>
#include <linux/sched/mm.h>

#include "helpers.h"

/* How long requests may take to end before the attempt is given up. */
#define UB_FREEZE_WAIT	(30 * HZ)

/*
 * percpu_ref_switch_to_atomic_sync() waits for an RCU grace period, some ticks.
 * If the counter is still per CPU, the freeze of the queue waits for one too,
 * while new requests wait. So switch it before the freeze, as
 * blk_pre_runtime_suspend() does.
 *
 * The counter belongs to the block layer. A freeze without the switch is correct
 * too, but I/O waits for the grace period. 7.3 exports nothing else that avoids
 * this wait:
 *
 * - Every function that freezes a queue begins with blk_freeze_queue_start(),
 *   which kills the counter in the mode that it has.
 * - blk_mq_quiesce_queue() also holds back requests for a grace period. And it
 *   does not end all requests. One that queue_rq() gave back, or that was
 *   requeued, keeps what the old driver found in its map, and
 *   blk_mq_tagset_busy_iter() does not visit it.
 * - A private counter and a private gate would be a second percpu_ref, because
 *   each request and the closing gate need a full barrier, or a grace period
 *   before, to see each other. They would not hold back bios that are being split by
 *   the old limits, so a change of the limits would need the freeze anyway.
 *
 * An exported blk_mq_freeze_queue_prepare() that switches the counter could
 * replace this, if blk_mq_unfreeze_queue() switched it back. Until there is one,
 * this code relies on the reference counter, which permits a switch at any time,
 * also beside a freeze by the block layer (percpu_ref_switch_lock). The other user
 * of the switch is runtime power management, which these queues do not have.
 */
static void ub_queue_ref_to_atomic(struct request_queue *q)
{
	percpu_ref_switch_to_atomic_sync(&q->q_usage_counter);
}

static void ub_queue_ref_to_percpu(struct request_queue *q)
{
	percpu_ref_switch_to_percpu(&q->q_usage_counter);
}

/*
 * Waits until all requests have ended, and lets no new one begin. Returns -EBUSY
 * if requests do not end, for example because a lower device hangs. The queue is
 * as before then.
 */
int ub_disk_freeze(struct gendisk *disk, unsigned int *memflags)
{
	ub_queue_ref_to_atomic(disk->queue);
	*memflags = memalloc_noio_save();
	blk_freeze_queue_start(disk->queue);
	if (blk_mq_freeze_queue_wait_timeout(disk->queue, UB_FREEZE_WAIT) > 0)
		return 0;
	ub_disk_unfreeze(disk, *memflags);
	return -EBUSY;
}

void ub_disk_unfreeze(struct gendisk *disk, unsigned int memflags)
{
	blk_mq_unfreeze_queue(disk->queue, memflags);
	ub_queue_ref_to_percpu(disk->queue);
}

/*
 * Ends what ub_disk_forbid_open() has begun. With @scan reads the partition table
 * before that; if it cannot be read, the disk has no partitions. No one has the
 * disk open, so no last close would drop what the scan has read.
 */
void ub_disk_permit_open(struct gendisk *disk, bool *forbidden, bool scan)
{
	mutex_lock(&disk->open_mutex);
	if (scan) {
		bdev_disk_changed(disk, false);
		invalidate_bdev(disk->part0);
	}
	*forbidden = false;
	mutex_unlock(&disk->open_mutex);
}

unsigned int ub_disk_logical_block_size(struct gendisk *disk)
{
	return queue_logical_block_size(disk->queue);
}

/*
 * Commits an update of the limits. If requests do not end, gives up, because new
 * ones wait meanwhile.
 */
static int ub_disk_commit_limits(struct gendisk *disk, struct queue_limits *lim)
{
	unsigned int memflags;
	int err;

	err = ub_disk_freeze(disk, &memflags);
	if (err) {
		queue_limits_cancel_update(disk->queue);
		return err;
	}
	err = queue_limits_commit_update(disk->queue, lim);
	ub_disk_unfreeze(disk, memflags);
	return err;
}

/*
 * Copies to @lim the settings of @now that do not depend on the devices below.
 * The block layer set NOWAIT when it allocated the queue. A user sets the others
 * in sysfs.
 */
static void ub_keep_settings(struct queue_limits *lim, const struct queue_limits *now)
{
	const blk_features_t features = BLK_FEAT_NOWAIT | BLK_FEAT_POLL |
					BLK_FEAT_IO_STAT | BLK_FEAT_ADD_RANDOM;
	const blk_flags_t flags = BLK_FLAG_WRITE_CACHE_DISABLED |
				  BLK_FLAG_IOSTATS_PASSTHROUGH;

	lim->features = (lim->features & ~features) | (now->features & features);
	lim->flags = (lim->flags & ~flags) | (now->flags & flags);
	lim->max_user_sectors = now->max_user_sectors;
	lim->max_user_discard_sectors = now->max_user_discard_sectors;
	lim->max_user_wzeroes_unmap_sectors = now->max_user_wzeroes_unmap_sectors;
}

/*
 * Sets the limits, and stores the old ones in @before. Keeps the settings of
 * ub_keep_settings(). Returns -EBUSY as ub_disk_freeze() does.
 */
int ub_disk_set_limits(struct gendisk *disk, const struct queue_limits *lim,
		       struct queue_limits *before)
{
	struct queue_limits new = *lim;

	*before = queue_limits_start_update(disk->queue);
	ub_keep_settings(&new, before);
	return ub_disk_commit_limits(disk, &new);
}

/* Restores @before. Keeps the settings that a user has made since. */
int ub_disk_restore_limits(struct gendisk *disk, const struct queue_limits *before)
{
	struct queue_limits lim = *before;
	struct queue_limits now = queue_limits_start_update(disk->queue);

	ub_keep_settings(&lim, &now);
	return ub_disk_commit_limits(disk, &lim);
}

/*
 * Stores the disk and its partitions in @list, each with a reference, at most
 * @most of them. Returns how many.
 */
unsigned int ub_disk_bdevs(struct gendisk *disk, struct block_device **list,
			   unsigned int most)
{
	struct block_device *bdev;
	unsigned int n = 0;
	unsigned long idx;

	rcu_read_lock();
	xa_for_each(&disk->part_tbl, idx, bdev) {
		if (n < most && kobject_get_unless_zero(&bdev->bd_device.kobj))
			list[n++] = bdev;
	}
	rcu_read_unlock();
	return n;
}

void ub_bdev_put(struct block_device *bdev)
{
	put_device(&bdev->bd_device);
}

/* Freezes the file system on a device, or writes back its page cache. */
int ub_bdev_freeze(struct block_device *bdev)
{
	return bdev_freeze(bdev);
}

int ub_bdev_thaw(struct block_device *bdev)
{
	return bdev_thaw(bdev);
}
